// SPDX-License-Identifier: Apache-2.0
// Touches everything that an accepted file offers, so that sanitizers see every byte that a reader could be
// led to.
#ifndef CHECK_EXERCISE_H
#define CHECK_EXERCISE_H
#include "engine/base/error.h"

// Opens, walks keys, arrays, strings, tensors and data, closes. The status of the opening.
enum hearth_status exercise_gguf(const char *path, struct hearth_error *err);

#endif
