// SPDX-License-Identifier: Apache-2.0
// A file from an https URL: resumable, bounded redirects, SHA-256 verified. Main thread.
#ifndef HEARTH_TOOLS_FETCH_H
#define HEARTH_TOOLS_FETCH_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/hash.h"

struct fetch {
    const char *url;
    const char *path;    // the bytes gather in path + ".part"; complete and verified they are renamed to path
    const char *ca_file; // NULL = the system's
    const char *sha256;  // expected; "" = what the server states
    const char *token;   // bearer token for the first origin only; NULL = none
    unsigned idle_timeout_s;
    bool keep_part; // stop before the rename, so that the caller can look at path + ".part"

    // Filled.
    char hex[HASH_HEX];
    bool verified; // against `sha256` or the server's statement
    uint64_t size_bytes;
};

// CLI_OK, or an exit code after one line on stderr. What came so far stays in path + ".part" for the next
// try, unless it is known to be wrong.
int fetch_file(struct fetch *fetch);

#endif
