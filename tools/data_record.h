// SPDX-License-Identifier: Apache-2.0
// Training records in the one form that the box keeps: a line of JSON each, read back by the formats "messages" and
// "text"; what became of them, as JSON. Main thread.
#ifndef HEARTH_TOOLS_DATA_RECORD_H
#define HEARTH_TOOLS_DATA_RECORD_H
#include <jansson.h>

#include "engine/learn.h"

// The record as an object; *raw: it is a plain text. NULL: out of memory.
json_t *data_record_json(const struct hearth_data_record *record, bool *raw);
// {"reason": count}, counts of 0 left out; n reasons why records were skipped or, with `fixes`, changed.
json_t *data_reasons_json(const uint64_t *counts, int n, bool fixes);

#endif
