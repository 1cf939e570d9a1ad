// SPDX-License-Identifier: Apache-2.0
// The CPU's training ops: contracts F and B of engine/ops/train.h. Parts of an op are shared out so that each value
// is computed by one thread in full. Team threads, inside a submit; recording: engine thread.
#ifndef HT_CPU_TRAIN_H
#define HT_CPU_TRAIN_H
#include "engine/cpu/record.h"
#include "engine/cpu/train_kernels.h"

#define HT_TRAIN_RUN(name) ht_call_fn ht_run_##name;
HT_TRAIN_OPS_MAP(HT_TRAIN_RUN)
#undef HT_TRAIN_RUN

// Scratch of a thread, and of the team.
size_t ht_linear_thread_bytes(const struct ht_plan *plan, const struct ht_linear *p);
size_t ht_bf16_thread_bytes(const struct ht_plan *plan, const struct ht_matmul *p);
size_t ht_bf16_shared_bytes(const struct ht_plan *plan, const struct ht_matmul *p, bool transposed, uint32_t count);
size_t ht_linear_t_thread_bytes(void);
size_t ht_dense_thread_bytes(const struct ht_dense *p);
size_t ht_attend_thread_bytes(const struct ht_plan *plan);
size_t ht_attend_shared_bytes(const struct ht_plan *plan, const struct ht_attend *p);
size_t ht_attend_back_thread_bytes(const struct ht_attend_back *p);
size_t ht_attend_back_shared_bytes(const struct ht_plan *plan, const struct ht_attend_back *p);
size_t ht_sumsq_shared_bytes(const struct ht_sumsq *p);

// linear and linear_t in contract B: train_bf16.c.
void ht_bf16_run_linear(const struct ht_linear *p, const struct ht_run *run, unsigned thread);
void ht_bf16_run_linear_t(const struct ht_linear_t *p, const struct ht_run *run, unsigned thread);
// Attention in contract B: train_attend_bf16*.c.
size_t ht_attend_bf16_thread_bytes(const struct ht_plan *plan, const struct ht_attend *p);
size_t ht_attend_bf16_back_thread_bytes(const struct ht_plan *plan, const struct ht_attend_back *p);
size_t ht_attend_bf16_back_shared_bytes(const struct ht_plan *plan, const struct ht_attend_back *p);
void ht_bf16_run_attend(const struct ht_attend *p, const struct ht_run *run, unsigned thread);
void ht_bf16_run_attend_back(const struct ht_attend_back *p, const struct ht_run *run, unsigned thread);

static inline float ht_fold16f(float p[16]) // 8, 4, 2, 1 apart
{
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++)
            p[i] += p[i + step];
    return p[0];
}

// log x of a positive normal double, in double: x = m 2^e, log m = 2 atanh((m - 1) / (m + 1)) by its series to 1e-16.
// The same bits everywhere, which libm's are not. 0, negative, NaN and infinity: NaN, but infinity stays.
double ht_log(double x);

#endif
