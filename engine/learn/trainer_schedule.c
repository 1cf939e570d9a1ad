// SPDX-License-Identifier: Apache-2.0
// The learning rate. In double, by formula: nothing is carried from step to step. Pure; any thread.
#include <math.h>

#include "engine/learn/trainer.h"

// Step t of T (from 1), W = ceil(warmup T):   t <= W: lr t / W.   Else with p = (t - 1 - W) / (T - W):
// cosine lr (1 + cos(pi p)) / 2, linear lr (1 - p), constant lr.
double ht_train_rate(const struct hearth_train_params *params, uint64_t step, uint64_t n_steps)
{
    double t = (double)step, all = (double)n_steps;
    double warm = ceil(params->warmup * all - 1e-9); // 0.07 of 100 is 7.000000000000001
    if (t <= warm)
        return params->lr * t / warm;
    double p = (t - 1 - warm) / (all - warm);
    switch (params->schedule) {
    case HEARTH_TRAIN_COSINE: return params->lr * 0.5 * (1 + cos(3.141592653589793 * p));
    case HEARTH_TRAIN_LINEAR: return params->lr * (1 - p);
    case HEARTH_TRAIN_CONSTANT: break;
    }
    return params->lr;
}
