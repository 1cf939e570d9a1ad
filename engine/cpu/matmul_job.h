// SPDX-License-Identifier: Apache-2.0
// What run_matmul.c and run_many.c share: one thread's view of a product. Team threads, inside a submit.
#ifndef HT_CPU_MATMUL_JOB_H
#define HT_CPU_MATMUL_JOB_H
#include "engine/cpu/cpu.h"

// Who reads x, and in which form (run_matmul.c).
enum ht_path { HT_PATH_FLOAT, HT_PATH_PLAIN, HT_PATH_MATVEC, HT_PATH_FEW, HT_PATH_PANELS, HT_PATH_TALL };
static inline bool ht_path_is_many(enum ht_path path)
{
    return path >= HT_PATH_FEW;
}

struct ht_job {
    const struct ht_run *run;
    const struct ht_matmul *p;
    const float *x; // rows, x_stride apart
    uint32_t x_stride, rows;
    unsigned thread;
    unsigned char *scratch; // this thread's, beyond normalised and quantised rows
    unsigned char *xrows;   // x quantised, as rows (ht_xrow_at) ...
    unsigned char *xmany;   // ... or in the form that a path of many rows reads; NULL: not yet
    // With a GLU that follows: its numbers, and where it leaves its y, in the form that the next product reads.
    const struct ht_glu *glu;
    const struct ht_matmul *after_glu;
    unsigned char *ymany;
    unsigned deal;       // which of the team's two deals its units are in
    bool lora, keep_glu; // adapters add to the outputs; one of the next product wants to see the GLU's y
};

size_t ht_xrow_bytes(uint32_t k);
struct ht_xrow ht_xrow_at(unsigned char *at, uint32_t k);
bool ht_part_is_float(const struct ht_device *device, const struct ht_weight *w);
enum ht_path ht_path_of(const struct ht_run *run, const struct ht_matmul *p, uint32_t rows);
void ht_put(const struct ht_job *job, const struct ht_matmul_part *part, uint32_t row, uint32_t first, uint32_t n,
            const float *value);

// run_many.c
size_t ht_many_shared_bytes(const struct ht_device *device, uint32_t k, uint32_t rows); // x in the largest form
size_t ht_many_thread_bytes(uint32_t k, uint32_t rows);
// This thread's share of x.
void ht_many_quantise(const struct ht_job *job, enum ht_path path, unsigned char *form);
void ht_many_deal(const struct ht_job *job); // this thread's units, before a barrier of the team
void ht_many_run(const struct ht_job *job, enum ht_path path); // all quantised parts, after it

#endif
