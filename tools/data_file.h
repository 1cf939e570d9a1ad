// SPDX-License-Identifier: Apache-2.0
// "FILE[:FORMAT][:WEIGHT]", as commands take files of training data. Main thread.
#ifndef HEARTH_TOOLS_DATA_FILE_H
#define HEARTH_TOOLS_DATA_FILE_H
#include "engine/learn.h"

// Cuts `spec` where the path ends; file->path lies in it.
void data_file_parse(char *spec, struct hearth_data_file *file);
// The style's numbers, or a message that lists them and an exit code.
struct cli;
int data_file_style(const struct cli *cli, const char *name, struct hearth_data_style *style);

#endif
