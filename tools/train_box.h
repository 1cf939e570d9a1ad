// SPDX-License-Identifier: Apache-2.0
// hearth train start, stop and status: a training in the running box. Main thread.
#ifndef HEARTH_TOOLS_TRAIN_BOX_H
#define HEARTH_TOOLS_TRAIN_BOX_H
#include "tools/cli.h"

// options: those of `hearth train`, each with its `given`. An exit code.
int train_box(const struct cli *cli, const struct cli_option *options, size_t n_options);

#endif
