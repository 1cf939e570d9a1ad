// SPDX-License-Identifier: Apache-2.0
// What attention of training and its backward share. Team threads, inside a submit.
#ifndef HT_CPU_TRAIN_ATTEND_H
#define HT_CPU_TRAIN_ATTEND_H
#include "engine/cpu/train.h"

enum { HT_KEYS = 64 };

static inline float *ht_head_at(const struct ht_ref *ref, uint32_t row, uint32_t stride, uint32_t head, uint32_t dim)
{
    return ht_ref_floats(ref) + (size_t)row * stride + (size_t)head * dim;
}

// The first key that row r sees.
uint32_t ht_attend_first(const struct ht_attend *p, const struct ht_run *run, uint32_t r);
// The end of the rows from r on that lie in its segment, at most `most`.
uint32_t ht_attend_block(const struct ht_run *run, uint32_t r, uint32_t most);
// Which of the keys [from, to) rows [r, r + n) of a segment see, counted from `from`; NULL: each sees all of them.
const struct ht_span *ht_attend_spans(const struct ht_attend *p, const struct ht_run *run, uint32_t r, uint32_t n,
                                      uint32_t from, uint32_t to, struct ht_span *spans);
float ht_attend_slope(const struct ht_attend *p, uint32_t head);

// k (rows, heads, dim) transposed, head after head: HT_KEYS keys at a time (dim, HT_KEYS).
size_t ht_keys_floats(uint32_t rows, uint32_t dim); // of one head
void ht_keys_fill(const struct ht_run *run, unsigned thread, const struct ht_ref *x, uint32_t stride, uint32_t heads,
                  uint32_t dim, float *keys); // this thread's share
const float *ht_keys_at(const float *keys, uint32_t dim, uint32_t j); // key j of a head, HT_KEYS floats from d to d

#endif
