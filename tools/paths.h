// SPDX-License-Identifier: Apache-2.0
// Where things live: the XDG folders, by the rule flag > environment > default. Main thread.
#ifndef HEARTH_TOOLS_PATHS_H
#define HEARTH_TOOLS_PATHS_H
#include <stdbool.h>
#include <stddef.h>

enum { PATHS_MAX = 4096 };

enum paths_base { PATHS_CACHE, PATHS_CONFIG, PATHS_DATA, PATHS_STATE, PATHS_RUNTIME };

// "<base folder>/hearth/<name>"; name "" gives the folder itself. False with a line on stderr if it is too
// long or no home folder is known.
bool paths_get(char path[PATHS_MAX], enum paths_base base, const char *name);
// Makes the folder that holds `path`, with its parents, mode 0700. False with a line on stderr.
bool paths_make_parent(const char *path);
// dir + "/" + name into path; false (no message) if it does not fit.
bool paths_join(char path[PATHS_MAX], const char *dir, const char *name);

bool paths_is_file(const char *path);
bool paths_is_dir(const char *path);
bool paths_same(const char *a, const char *b); // both are there, and are one file

// A small text file as one allocated string (NUL-terminated), NULL with errno if it cannot be read or is larger than
// max.
char *paths_read(const char *path, size_t max_bytes);
// Writes a small file with the mode: temporary file beside it, fsync, rename. False with errno set.
bool paths_replace(const char *path, const void *data, size_t len_bytes, unsigned mode);

#endif
