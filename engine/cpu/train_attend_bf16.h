// SPDX-License-Identifier: Apache-2.0
// Attention of training in contract B: all products on the kernels of train_bf16.h, 32 keys by 32 queries at a time,
// keys as rows and queries as lanes, so that what belongs to a query lies in a lane. Blocks are counted from a
// segment's first row. A thread has a head of a segment to itself. Team threads, inside a submit.
#ifndef HT_CPU_TRAIN_ATTEND_BF16_H
#define HT_CPU_TRAIN_ATTEND_BF16_H
#include "engine/cpu/train_attend.h"
#include "engine/cpu/train_bf16.h"

struct ht_ab { // one head of one segment
    const struct ht_attend *p;
    const struct ht_run *run;
    const struct ht_bf16_kernels *kernels;
    const struct ht_train_kernels *lanes;
    uint32_t head, kv, from, rows, blocks; // rows [from, from + rows), blocks of 32 of them
    float *turned;                         // (dim, 32): a block turned around
};
struct ht_ab_view { // heads of `dim` values
    const struct ht_ref *ref;
    uint32_t stride, head, dim;
};

struct ht_ab ht_ab_make(const struct ht_attend *p, const struct ht_run *run);
void ht_ab_head(struct ht_ab *a, uint32_t head, uint32_t from, uint32_t to);
uint32_t ht_ab_up(uint32_t n); // blocks, or steps, of n
uint32_t ht_ab_rows_of(const struct ht_ab *a, uint32_t block);

// A block of x in each form that products want it in. Rows that are not there: zeros.
// (32 rows, dim) as x: two tiles of all steps of dim.
void ht_ab_rows(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to);
// Turned around, as x: tiles of 16 of dim with a step for each block.
void ht_ab_turned_rows(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to);
// As a panel: the rows are lanes; all steps of dim.
void ht_ab_lanes(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to);
// As panels whose rows are summed: 32 of dim are lanes; for them the panels of all blocks, then for the next 32.
void ht_ab_summed(const struct ht_ab *a, const struct ht_ab_view *x, uint32_t block, uint16_t *to);

// The first block of keys that the queries of a block see; the end of the blocks of queries that see a block of keys.
uint32_t ht_ab_first_key(const struct ht_ab *a, uint32_t query);
uint32_t ht_ab_end_query(const struct ht_ab *a, uint32_t key);
struct ht_bf16_pairs ht_ab_pairs(const struct ht_ab *a, uint32_t query, uint32_t key);

// Parts of a thread's scratch, one after the other; base NULL: only counted.
struct ht_ab_carver {
    unsigned char *base;
    size_t used;
};
void *ht_ab_take(struct ht_ab_carver *c, size_t bytes);
size_t ht_ab_x_bytes(uint32_t blocks, uint32_t dim);     // of ht_ab_rows for all blocks; ht_ab_lanes, ht_ab_summed too
size_t ht_ab_turned_bytes(uint32_t blocks, uint32_t dim); // of ht_ab_turned_rows

#endif
