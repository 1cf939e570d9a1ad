// SPDX-License-Identifier: Apache-2.0
// Arguments of recorded ops, checked once for every back end: shapes fit together and stay inside their
// buffers. A back end's ht_buf, ht_weight, ht_kv and ht_plan begin with the heads below; that is all the
// checks look at.
#ifndef HT_CHECK_H
#define HT_CHECK_H
#include "engine/ops/backend.h"

struct ht_buf_head {
    size_t size_bytes;
};
struct ht_weight_head {
    struct ht_weight_params params;
};
struct ht_kv_head {
    struct ht_kv_params params;
};
struct ht_bank_head {
    struct ht_bank_params params;
};
struct ht_plan_head {
    struct ht_step_shape shape;
};

// INVALID names the op and what is wrong.
#define HT_CHECK_DECLARE(name)                                                                               \
    HT_MUST_USE enum hearth_status ht_check_##name(                                                          \
        const struct ht_plan *plan, const struct ht_##name *params, struct hearth_error *err);
HT_OPS_MAP(HT_CHECK_DECLARE)
#undef HT_CHECK_DECLARE

// (rows, width) floats at ref, `stride` apart, inside the buffer? INVALID begins with `what`.
HT_MUST_USE enum hearth_status ht_check_view(const char *what, const struct ht_ref *ref, uint64_t rows,
                                             uint64_t stride, uint64_t width, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_check_weight_params(const struct ht_weight_params *params,
                                                      struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_check_kv_params(const struct ht_kv_params *params,
                                                  struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_check_bank_params(const struct ht_bank_params *params, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_check_bank_pieces(const struct ht_bank *bank, uint32_t slot,
                                                    const struct ht_bank_piece *pieces, size_t n_pieces,
                                                    struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_check_step_shape(const struct ht_step_shape *shape,
                                                   struct hearth_error *err);
// What a step says against the shape of the plan and what its ops index: 0 where none does.
struct ht_step_bounds {
    uint32_t n_pages, n_ids; // KV pages of the pool, rows of the embedding
    uint32_t n_slots;        // of the LoRA bank
};
HT_MUST_USE enum hearth_status ht_check_step(const struct ht_plan *plan, const struct ht_step *step,
                                             const struct ht_step_bounds *bounds, struct hearth_error *err);

#endif
