// SPDX-License-Identifier: Apache-2.0
// "FILE[:FORMAT][:WEIGHT]", as commands take files of training data. Main thread.
#ifndef HEARTH_TOOLS_DATA_FILE_H
#define HEARTH_TOOLS_DATA_FILE_H
#include "engine/learn.h"

struct cli;
// Cuts `spec` where the path ends; file->path lies in it. CLI_OK, or an exit code after a message: there is such a
// file, but what follows its name is neither a format nor a weight.
int data_file_parse(const struct cli *cli, char *spec, struct hearth_data_file *file);
// A line on stderr for each reason why records of the file were left out.
void data_file_note_skips(const char *path, const struct hearth_data_counts *counts);
// The style's numbers, or a message that lists them and an exit code.
int data_file_style(const struct cli *cli, const char *name, struct hearth_data_style *style);

#endif
