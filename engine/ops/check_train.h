// SPDX-License-Identifier: Apache-2.0
// Arguments of recorded training ops and of the training block, checked once for every back end. Pure functions of
// their arguments, any thread.
#ifndef HT_CHECK_TRAIN_H
#define HT_CHECK_TRAIN_H
#include "engine/ops/check.h"

#define HT_CHECK_TRAIN_DECLARE(name)                                                                         \
    HT_MUST_USE enum hearth_status ht_check_##name(                                                          \
        const struct ht_plan *plan, const struct ht_##name *params, struct hearth_error *err);
HT_TRAIN_OPS_MAP(HT_CHECK_TRAIN_DECLARE)
#undef HT_CHECK_TRAIN_DECLARE

// What the block says against the step that goes with it (checked before); n_vocab: of the plan's loss, 0 = none.
HT_MUST_USE enum hearth_status ht_check_train_step(const struct ht_train_step *train, const struct ht_step *step,
                                                   uint32_t n_vocab, struct hearth_error *err);

#endif
