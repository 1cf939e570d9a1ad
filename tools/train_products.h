// SPDX-License-Identifier: Apache-2.0
// hearth bench --train-products: training's products with frozen weights, beside what the multipliers can do at best.
// Main thread.
#ifndef HEARTH_TOOLS_TRAIN_PRODUCTS_H
#define HEARTH_TOOLS_TRAIN_PRODUCTS_H
#include <stdbool.h>

int train_products_measure(unsigned n_threads, const char *cpu_isa, bool as_json); // an exit code; NULL = the best

#endif
