// SPDX-License-Identifier: Apache-2.0
// The control groups of this process as folders with limits in them. Any thread; reads a few small system files.
#ifndef HT_CGROUP_H
#define HT_CGROUP_H
#include <stddef.h>

// Calls fn with the folder of the controller's group ("cpu", "memory") and of all groups above it, of both versions of
// the interface. `self`: what /proc/self/cgroup says; root: "/sys/fs/cgroup". In a container the group's path may not
// exist below the mount; its ancestors then still do.
typedef void ht_cgroup_fn(void *arg, const char *folder);
void ht_cgroup_visit(const char *self, const char *root, const char *controller, ht_cgroup_fn *fn, void *arg);
// The file's first bytes as a string; false if it cannot be read.
_Bool ht_cgroup_text(const char *folder, const char *name, char *text, size_t capacity);

#endif
