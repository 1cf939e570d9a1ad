// SPDX-License-Identifier: Apache-2.0
// The contract of every op: formula, shapes, aliasing, rounding. The CPU reference (engine/cpu/ref*.c) is the
// oracle; each back end fills one `struct ht_ops`. A NULL entry means "not implemented" and is found at load.
//
// Ops record. Between plan_begin and plan_end each call below adds itself to the plan; its parameter struct is
// copied and holds only what is constant for the plan. What changes per step (ids, positions, pages, live
// rows) is in the step block (struct ht_step), written once a step, read by the ops when submit replays.
//
// Activations are f32, row-major, `stride` floats from row to row. R = live rows of the step, O = rows whose
// logits are wanted. An op touches live rows only. Unless said, outputs must not overlap inputs.
//
// Three numeric contracts (docs/design.md §3). All f32 sums are chains of fused multiply-adds from 0 in the
// stated order, rounded to nearest even; subnormals are kept. So every CPU path gives the same bits.
//   Q  fast inference: matmul quantises x in blocks of 32 (see ht_matmul). All other ops are the same in Q and F.
//   F  exact: matmul is one f32 fma chain per output, ascending k, over the dequantised weight.
//   B  bf16, training only: products with frozen weights and attention (engine/ops/train.h names its variants).
#ifndef HT_OPS_H
#define HT_OPS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/limits.h"
#include "engine/gguf/quant.h"

struct ht_buf;    // memory of a device, f32 unless said
struct ht_weight; // one packed matrix W (n, k) of a device: n outputs, k inputs
struct ht_kv;     // the KV pool of a device
struct ht_bank;   // LoRA adapters of a device, in slots
struct ht_plan;   // recorded ops

struct ht_ref { // where a tensor lies
    struct ht_buf *buf;
    size_t offset; // in floats, a multiple of 16
};

enum ht_precision { HT_PRECISION_Q = 0, HT_PRECISION_F = 1 };
enum ht_rows { HT_ROWS_ALL = 0, HT_ROWS_OUT = 1 }; // an op's row count: step n_rows (R) or n_outs (O)

// ---------------------------------------------------------------- the step block

struct ht_step_shape { // capacities, constant for a plan
    uint32_t rows;     // tokens in a step
    uint32_t outs;     // rows with logits
    uint32_t seqs;     // sessions
    uint32_t pages;    // KV pages of one session, at most
    uint32_t vocab;    // ids that a mask covers; 0 = no masks
};

// How one output row is sampled. `history` counts back from the newest token of the session.
struct ht_sampler {
    uint64_t seed, position; // Philox key and counter: (seed, position) decides the draw
    float temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    uint32_t top_k, n_history, n_bias;
    uint32_t active; // 0: this row's token is not drawn (evaluation)
    uint32_t masked; // 1: only ids whose bit of `mask` is set may be drawn (grammar)
};

// One contiguous block (`base`, `size_bytes`), laid out by ht_step_layout; a GPU back end copies it whole.
struct ht_step {
    unsigned char *base;
    size_t size_bytes;
    struct ht_step_shape shape;
    uint32_t *counts;           // [4]: n_rows R, n_outs O, n_seqs, 0
    int32_t *ids;               // [rows] token ids
    int32_t *pos;               // [rows] positions in the session, ascending within a session
    int32_t *seq;               // [rows] row → session slot; rows of a session are consecutive
    int32_t *adapter;           // [rows] row → adapter slot, -1 = none
    int32_t *out_row;           // [outs] output row → row
    uint32_t *page;             // [seqs][pages] physical page of each 32 positions of a session
    struct ht_sampler *sampler; // [outs]
    int32_t *history;           // [outs][HT_MAX_PENALTY_WINDOW] ids, newest first
    int32_t *bias_token;        // [outs][HT_MAX_LOGIT_BIAS]
    float *bias_value;          // [outs][HT_MAX_LOGIT_BIAS]
    uint32_t *mask;             // [outs][ht_mask_words(vocab)] bit id % 32 of word id / 32: id may be drawn
};
static inline uint32_t ht_mask_words(uint32_t vocab)
{
    return vocab / 32 + (vocab % 32 != 0);
}
// Sets the pointers for `shape` into base; returns the size needed (base NULL: only that). 0 on overflow.
size_t ht_step_layout(struct ht_step *step, const struct ht_step_shape *shape, void *base);

// ---------------------------------------------------------------- op parameters

// y[r] = scale * dequant(W[ids[r]])                                        y (R, k)
struct ht_embed {
    const struct ht_weight *w;
    struct ht_ref y;
    uint32_t stride;
    float scale;
};

// Per row and group g of `dim` values: y = x * (1 / sqrtf(mean + eps)) * w, mean = sum(x²) / dim.
// The sum runs in 16 partial chains (value i into chain i mod 16, fma), folded 8, 4, 2, 1 apart (p[i] += p[i+8] …).
// With `add`: y = y + that (post-norms of the residual stream).
// x, y (rows, groups, dim); group stride = dim. y may be x. w (dim), shared by the groups. dim % 16 may be anything.
struct ht_rmsnorm {
    struct ht_ref x, y, w;
    uint32_t x_stride, y_stride, groups, dim;
    float eps;
    bool add;
    enum ht_rows rows;
};

// y = x Wᵀ for up to 3 weights that share x (q k v; gate up).               x (rows, k) → y (rows, n)
// t = dot(W[i], x[r]); if bias: t = t + bias[i]; if add: y = y + t, else y = t.
//
// Contract Q, block-quantised weights. Activations: blocks b of 32, amax = max|x|, dx = amax / 127,
// q = rint(x * (127 / amax)) half-even, q = 0 and dx = 0 where amax is below 2^-120, 0 included (127 / amax would
// overflow); a NaN or infinity in a block makes its q 0 and dx NaN, so that the outputs are NaN and not silently
// wrong. isum_b, the sum of weight code times q, is exact in int32. Over blocks in ascending k, one chain:
//   Q4_0 Q5_0 Q8_0 IQ4_NL   acc = fma((float)isum_b, d_w * dx, acc)            codes signed (IQ4_NL: its table)
//   Q4_1 Q5_1               the same with unsigned codes, then acc = fma(m_w, dx * (float)sum(q), acc)
//   Q2_K Q4_K Q5_K          isum_b = Σ_s scale_s * Σ codes*q, msum_b = Σ_s min_s * Σ q (s: the sub-blocks of the 32):
//                           acc = fma((float)isum_b, d * dx, acc); acc = fma(-(float)msum_b, dmin * dx, acc)
//   Q3_K Q6_K               isum_b = Σ_s scale_s * Σ codes*q: acc = fma((float)isum_b, d * dx, acc)
// (d, m, dmin are f16 read as f32; the products d_w * dx and dx * sum are rounded f32.) F32, F16 and BF16 weights
// take contract F in both. Every output row i is computed by one thread in full: the result depends on neither
// the thread count nor the number of rows. Error bounds: tests/ops/matmul.c.
//
// LoRA: with a bank, each row whose adapter slot holds the part's linear, A (rank, k) and B (n, rank) with the scale in
// it, both f32 (several adapters of one slot are stacked), goes on after the product, in both contracts alike:
//   u_j = sum of A[j][i] * x[i] in 16 partial chains (value i into chain i mod 16, fma), folded 8, 4, 2, 1 apart
//   y[i] = y[i] + (fma chain over ascending j of B[i][j] * u_j)
// x is the f32 row, not the quantised one. Rows without an adapter, or whose adapter lacks the linear, keep their bits.
// A row's result depends on its own adapter alone. Error bound: tests/ops/lora.c.
struct ht_matmul_part {
    const struct ht_weight *w;
    struct ht_ref y;
    struct ht_ref bias; // buf NULL = none
    uint32_t y_stride;
    uint32_t linear; // of the bank
    bool add;
};
struct ht_matmul {
    struct ht_ref x;
    uint32_t x_stride, k, n_parts;
    struct ht_matmul_part part[3];
    enum ht_rows rows;
    struct ht_bank *bank; // NULL = no adapters; one bank for a plan
};

// Rotates the first n_rot values of each head in place.                     x (R, heads, dim)
// angle_i = (float)pos * freq[i] (f32 product), c = cosf(angle) * mscale, s = sinf(angle) * mscale;
// NORM pairs (2i, 2i+1), NEOX pairs (i, i + n_rot/2): (a, b) → (fma(a, c, -(b*s)), fma(a, s, b*c)).
// freq (n_rot/2) f32 is made by the model (base, scaling, rope_freqs) and read when a submit begins: no op of the plan
// writes it. cos and sin: ht_sincos in engine/cpu/math.h (within 0.51 ulp).
enum ht_rope_kind { HT_ROPE_NORM = 0, HT_ROPE_NEOX = 1 };
struct ht_rope {
    struct ht_ref x, freq;
    uint32_t stride, heads, dim, n_rot;
    enum ht_rope_kind kind;
    float mscale;
};

// Writes k and v of each row to position pos[r] of its session's pages.     k (R, kv_heads, k_dim), v (…, v_dim)
struct ht_kv_store {
    struct ht_kv *kv;
    uint32_t layer;
    struct ht_ref k, v;
    uint32_t k_stride, v_stride;
};

// Causal attention over the paged cache.                                    q (R, heads, k_dim) → y (R, heads, v_dim)
// For head h, kv head h / (heads / kv_heads), positions j in [lo, p], p = pos[r], lo = window ? max(0, p-window+1) : 0:
//   s_j = (fma chain over d ascending of q_d * k_jd) * scale; softcap c > 0: s_j = c * tanh(s_j / c);
//   slope (ALiBi) s_j = fma(slope_h, (float)(j - p), s_j)
//   m = max s_j;  e_j = ht_exp(s_j - m);  l = sum of e_j in 16 partial sums by j mod 16, ascending j, folded 8 4 2 1
//   y_d = (fma chain over j ascending of e_j * v_jd) / l
// k and v are the stored values read as f32 (f16: exact; q8: d * q rounded to f32).
struct ht_attention {
    struct ht_kv *kv;
    uint32_t layer;
    struct ht_ref q, y;
    uint32_t q_stride, y_stride, heads;
    float scale, softcap;
    uint32_t window;      // 0 = all
    float alibi_max_bias; // 0 = none
};

// y = act(gate) * up, element by element; y may be gate or up.              (R, dim)
// SILU g / (1 + ht_exp(-g)); GELU_TANH 0.5 g (1 + tanh(√(2/π) (g + 0.044715 g³))); tanh u = 1 - 2 / (ht_exp(2u) + 1).
enum ht_act { HT_ACT_SILU = 0, HT_ACT_GELU_TANH = 1 };
struct ht_glu {
    struct ht_ref gate, up, y;
    uint32_t gate_stride, up_stride, y_stride, dim;
    enum ht_act act;
};

// y[o] = x[out_row[o]]                                                       (O, dim)
struct ht_gather {
    struct ht_ref x, y;
    uint32_t x_stride, y_stride, dim;
};

// x = c * tanh(x / c), in place                                              (rows, dim)
struct ht_softcap {
    struct ht_ref x;
    uint32_t stride, dim;
    float cap;
    enum ht_rows rows;
};

// Draws token[o] (int32) from logits[o] (n_vocab) for each active output row, by sampler[o]:
// bias; repeat penalty (logit > 0: / p, else * p, once per id in the window), presence and frequency penalties
// (- presence - frequency * count); temperature 0: the lowest id with the largest logit. Else: keep the top_k
// largest (ties: lower id first), probabilities p = softmax(logit / temperature) in f32, keep the shortest prefix
// (descending) whose sum reaches top_p, keep p >= min_p * p_max, draw by u = Philox(seed, position) in [0, 1):
// the first id whose running sum exceeds u * total. Logits are not changed. With `masked`, ids whose bit is not set
// leave before all this, so that top-k and the sums see only the others. Ids whose logit is not finite (after bias
// and penalties) are never drawn; if there is no other, token -1. Order of every operation: engine/cpu/sample.c.
struct ht_sample {
    struct ht_ref logits, token;
    uint32_t stride, n_vocab;
};

// ---------------------------------------------------------------- the table

#define HT_OPS_MAP(X)                                                                                        \
    X(embed) X(rmsnorm) X(matmul) X(rope) X(kv_store) X(attention) X(glu) X(gather) X(softcap) X(sample)

struct ht_ops {
#define HT_OP_MEMBER(name)                                                                                   \
    enum hearth_status (*name)(struct ht_plan * plan, const struct ht_##name *params,                        \
                               struct hearth_error *err);
    HT_OPS_MAP(HT_OP_MEMBER)
#undef HT_OP_MEMBER
};

#endif
