// SPDX-License-Identifier: Apache-2.0
// The file of paired boxes. Main thread.
#ifndef HEARTH_TOOLS_BOX_STORE_H
#define HEARTH_TOOLS_BOX_STORE_H
#include "tools/box.h"

// Each returns CLI_OK, or an exit code after one line on stderr. A file that cannot be read, or is damaged, stays as it
// is.

// Finds a box by identity (fp) or by host; either may be NULL. Fills what is known; *found = false if there is none.
int box_store_find(struct box *box, const char *fp, const char *host, bool *found);
int box_store_save(const struct box *box); // adds or replaces
int box_store_forget_token(const struct box *box);

#endif
