// SPDX-License-Identifier: Apache-2.0
// hearth data import, list and rm: the data sets of the running box. Main thread.
#ifndef HEARTH_TOOLS_DATA_BOX_H
#define HEARTH_TOOLS_DATA_BOX_H
#include "tools/cli.h"

struct data_box_words {
    bool conversations; // one's own, of `person`
    const char *person;
};
bool data_box_is_verb(const char *verb);
int data_box(const struct cli *cli, const struct data_box_words *words);

#endif
