// SPDX-License-Identifier: Apache-2.0
// The contract of every training op: formula, shapes, aliasing, rounding. A sibling of ops.h: the same plans, views and
// rules, and forward ops of ops.h (embed, rmsnorm, rope, glu, gather, softcap) are recorded into the same plan. A back
// end that trains gives `struct ht_train_ops` (ht_device_ops.train); one that does not has NULL there.
// Oracle: engine/cpu/train_ref.h. Error bounds: derived in tests/ops/train_*.c.
//
// Rows of a micro-batch lie side by side: R rows, cut into segments (texts) that see nothing of each other. What
// changes per step stands in the step block and in a second block of training's own (struct ht_train_step): serving's
// does not grow. Loss and head work on the output rows (step.out_row, O of them): a tile of the rows whose weight is
// not 0.
//
// Contract F: all in f32, each sum one chain of fused multiply-adds in the stated order; nothing depends on the number
// of threads. Contract B (bf16 inputs, f32 accumulation) differs from variant to variant in the order of its sums, so
// the variant is what a plan names and what a checkpoint's numerics id holds. Only products with frozen weights and
// attention know B.
#ifndef HT_TRAIN_H
#define HT_TRAIN_H
#include "engine/ops/ops.h"

enum ht_train_precision {
    HT_TRAIN_F = 0,
    HT_TRAIN_B_AVX512BF16 = 1, // pairs, as vdpbf16ps sums them
    HT_TRAIN_B_AMX = 2,        // steps of 16 pairs, as tdpbf16ps sums them
};

// ---------------------------------------------------------------- the training block

struct ht_train_values { // of the optimizer step
    uint64_t seed, step; // Philox: every draw is decided by (seed, step, stream, row_id, column)
    float lr;            // learning rate
    float correction1;   // 1 - beta1^t
    float correction2;   // sqrt(1 - beta2^t)
    uint32_t unused;
};

// One contiguous block beside struct ht_step; row count and output rows are the step's.
struct ht_train_step {
    unsigned char *base;
    size_t size_bytes;
    uint32_t rows;                  // capacity
    struct ht_train_values *values; // [1]
    uint32_t *seg_from;             // [rows] first row of the row's segment; segments are runs of rows
    int32_t *target;                // [rows] the id that should follow; read for output rows only
    float *weight;                  // [rows] what the row's loss counts, normalisation included
    uint32_t *row_id;               // [rows] the row's number within the optimizer step, for draws
};
// Sets the pointers for `rows` into base; returns the size needed (base NULL: only that). 0 on overflow.
size_t ht_train_step_layout(struct ht_train_step *step, uint32_t rows, void *base);

// ---------------------------------------------------------------- products

// linear:   y_i (rows, n_i) = [y_i +] t, t = chain over ascending k of W_i[n][k] * x[k]; then t + bias
// Frozen W, as it is packed; F or B whatever the precision of the device. Fields as in ops.h. No y overlaps x.
// With `count` (one part only): of W the rows [first, first + count) alone, y (rows, count); first is a multiple of 16;
// bias stays that of the whole W. So a large vocabulary is gone through in pieces, each short enough for a slice.
// 0 = the whole W.
struct ht_linear {
    struct ht_matmul m;
    enum ht_train_precision precision;
    uint32_t first, count;
};

// linear_t: dx (rows, k) = one chain over the parts in order, ascending n: dy_i[r][n] * W_i[n][k]; in F it begins with
// dx if `add`, else with 0. m.x is dx (written), m.part[i].y is dy_i (read); bias and the parts' `add` are not used.
// first, count: as above, dy (rows, count).
struct ht_linear_t {
    struct ht_matmul m;
    bool add;
    enum ht_train_precision precision;
    uint32_t first, count;
};

// Contract B of both, exactly (spelt out in engine/cpu/train_bf16_plain.c, which every kernel equals bit for bit):
//   operands  x or dy, and W dequantised to f32 as contract F has it, are rounded to bf16: to nearest, ties to even; a
//             subnormal f32 becomes a zero of its sign, a NaN quiet.
//   terms     the index that is summed (k; in linear_t each part's n on its own, from `first` on), padded with zeros
//             to a multiple of 32, ascending: pairs 2i, 2i + 1.
//   fma, +    f32, to nearest, ties to even; a subnormal result becomes a zero of its sign.
//   AVX512BF16  t = 0; each pair: t = fma(x[2i+1], w[2i+1], t); t = fma(x[2i], w[2i], t).
//   AMX         t = 0; each 16 pairs: e = o = 0; each pair: e = fma(x[2i], w[2i], e), o = fma(x[2i+1], w[2i+1], o);
//               then t = t + (e + o).
// y as in F; dx = add ? dx + t : t, parts being one chain t. Neither rows nor threads change a value.

// Over plain f32; t = a chain from 0 in ascending order of the index that is summed, then
// y = add ? fma(scale, t, y) : scale * t.                                    a (rows, k) in all three
//   NT  y (rows, n) = a bᵀ, b (n, k)      chain over k
//   NN  y (rows, n) = a b,  b (k, n)      chain over k
//   TN  y (k, n)    = aᵀ b, b (rows, n)   chain over the rows
// With `chain` (TN alone) t begins with y, and y = t; scale is 1 and add false: sums over the rows of several submits
// are those of all rows at once. a, b and y may begin at any column of a wider matrix: their offsets need be no
// multiples of 16. rows: of a and of what else has rows.
enum ht_dense_kind { HT_DENSE_NT = 0, HT_DENSE_NN = 1, HT_DENSE_TN = 2 };
struct ht_dense {
    enum ht_dense_kind kind;
    struct ht_ref a, b, y;
    uint32_t a_stride, b_stride, y_stride, n, k;
    float scale;
    bool add, chain;
    enum ht_rows rows;
};

// ---------------------------------------------------------------- backward of row ops

// Of ht_rmsnorm, y = x * s * w, s = 1 / sqrtf(mean(x²) + eps) as there. With u = w * dy (rounded), g = sum of u * x in
// 16 chains as there, c = g * s * s / dim:   t = s * fma(-c, x, u);  dx = add ? dx + t : t.    dx may be dy.
struct ht_rmsnorm_back {
    struct ht_ref x, w, dy, dx;
    uint32_t x_stride, dy_stride, dx_stride, groups, dim;
    float eps;
    bool add;
    enum ht_rows rows;
};

// Rows of `dim` values: mean = sum of x / dim, s = 1 / sqrtf(sum of (x - mean)² / dim + eps), sums in 16 chains as in
// ht_rmsnorm;  h = (x - mean) * s;  y = b ? fma(h, w, b) : h * w.  y may be x.
struct ht_layernorm {
    struct ht_ref x, y, w, b; // b.buf NULL: none
    uint32_t x_stride, y_stride, dim;
    float eps;
    enum ht_rows rows;
};

// Of it, h again from x. With u = w * dy (rounded), a = sum of u / dim, c = sum of u * h / dim (16 chains each):
// t = s * fma(-c, h, u - a);  dx = add ? dx + t : t.  dx may be dy.
struct ht_layernorm_back {
    struct ht_ref x, w, dy, dx;
    uint32_t x_stride, dy_stride, dx_stride, dim;
    float eps;
    bool add;
    enum ht_rows rows;
};

// The transposed rotation of ht_rope with the same fields: (a, b) → (fma(a, c, b*s), fma(a, -s, b*c)), in place.
struct ht_rope_back {
    struct ht_rope rope; // x holds the gradient
};

// Of y = act(gate) * up: dup = dy * act(gate), dgate = (dy * up) * act'(gate).              (R, dim)
// SILU: q = 1 / (1 + ht_exp(-g)), act = g * q, act' = q * fma(g, 1 - q, 1). GELU_TANH: t = tanh(u) as in ht_glu,
// act' = fma(0.5 g (1 - t²), u', 0.5 (1 + t)), u' = √(2/π) fma(3 · 0.044715, g², 1).
// dgate may be gate or dy, dup may be up or dy (not both the same).
struct ht_glu_back {
    struct ht_ref gate, up, dy, dgate, dup;
    uint32_t gate_stride, up_stride, dy_stride, dgate_stride, dup_stride, dim;
    enum ht_act act;
};

// Of y = c * tanh(x / c), from y: t = y / c; dx = dy * fma(-t, t, 1).  dx may be dy.         (rows, dim)
struct ht_softcap_back {
    struct ht_ref y, dy, dx;
    uint32_t y_stride, dy_stride, dx_stride, dim;
    float cap;
    enum ht_rows rows;
};

// dx[out_row[o]] = [dx +] dy[o]. Output rows differ from each other.            dy (O, dim) → dx (R, dim)
struct ht_scatter {
    struct ht_ref dy, dx;
    uint32_t dy_stride, dx_stride, dim;
    bool add;
};

// ---------------------------------------------------------------- attention over the rows themselves

// Row r sees rows j of [lo, r], lo = max(seg_from[r], window ? r - window + 1 : 0); its kv head as in ht_attention.
//   s_j as in ht_attention (scale, soft-cap, ALiBi); m = max; e_j = ht_exp(s_j - m); l = sum of e_j in 16 partial
//   sums by (j - seg_from) mod 16, ascending, folded 8 4 2 1;  y_d = (chain over j ascending of e_j * v_jd) * (1 / l)
//   lse = m + (float)log(l)
// q (R, heads, k_dim), k (R, kv_heads, k_dim), v (R, kv_heads, v_dim) → y (R, heads, v_dim), lse (R, heads)
struct ht_attend {
    struct ht_ref q, k, v, y, lse;
    uint32_t q_stride, k_stride, v_stride, y_stride, lse_stride;
    uint32_t heads, kv_heads, k_dim, v_dim;
    float scale, softcap;
    uint32_t window;      // 0 = all
    float alibi_max_bias; // 0 = none
    enum ht_train_precision precision;
};

// Recomputes s_j; p_j = ht_exp(s_j - lse); dp_j = chain over d of dy_d * v_jd; D = sum of dy_d * y_d in 16 chains by
// d mod 16, folded 8 4 2 1; ds_j = p_j * (dp_j - D); soft-cap: t = c tanh(…) / c as before ALiBi,
// ds_j = ds_j * fma(-t, t, 1); then ds_j = ds_j * scale.
//   dq_r = chain over j ascending of ds_j * k_j
//   dk_j, dv_j = chain over the heads of the kv head, then over r ascending, of ds * q_r and of p * dy_r
// dq, dk, dv are overwritten; they overlap nothing.
struct ht_attend_back {
    struct ht_attend f; // as the forward op had it: q, k, v, y, lse are read
    struct ht_ref dy, dq, dk, dv;
    uint32_t dy_stride, dq_stride, dk_stride, dv_stride;
};

// Contract B of both: every sum over d, j or r of the above goes as in linear: operands rounded to bf16 (among them
// e_j, p_j and ds_j; not what D, l, lse and m are made of), steps of 32 counted from the segment's first row, 0 for
// what a row does not see, ascending; 1 / l multiplies y at the end. l is one chain over j ascending. dk and dv are
// sums of each head over r on their own, added in the order of the heads.

// ---------------------------------------------------------------- the loss

// logits (O, n_vocab) become the gradient; loss[r] (R) = -log p(target[r]) for r = out_row[o], not weighted.
//   z = softcap > 0 ? c * tanh(x / c) : x; m = max z; e = ht_exp(z - m); l = sum of e in 16 chains (j mod 16), folded
//   loss = (float)log(l) + (m - z_target);  d_j = (e_j * (1 / l) - [j == target]) * weight; soft-cap: t = z / c,
//   d_j = d_j * fma(-t, t, 1). A NaN or infinity among the logits makes loss and row NaN or infinite, never silent.
struct ht_cross_entropy {
    struct ht_ref logits, loss;
    uint32_t stride, n_vocab;
    float softcap; // 0 = none
};

// ---------------------------------------------------------------- flat vectors of n floats, draws

// x = value
struct ht_fill {
    struct ht_ref x;
    uint32_t n;
    float value;
};

// sum[0] = Σ x². Squares and sums in double: blocks of 4096 values, value i into chain i mod 16 of its block (a chain
// is acc + x * x, the square is exact), folded 8 4 2 1; blocks added in order; rounded once to f32.
struct ht_sumsq {
    struct ht_ref x, sum;
    uint32_t n;
};

// x = x * f; f = factor, or with `sum` (a buffer): norm = sqrtf(sum[0]), f = norm > max_norm ?
// max_norm / (norm + 1e-6) : 1. A norm that is not finite leaves f = NaN.
struct ht_scale {
    struct ht_ref x, sum; // sum.buf NULL: factor alone
    uint32_t n;
    float factor, max_norm;
};

// One step of AdamW over p, with gradient g and moments m, v (n each). lr and corrections: ht_train_values; a = lr *
// lr_factor (LoRA+).   m = fma(beta1, m, (1 - beta1) * g);  v = fma(beta2, v, (1 - beta2) * g * g)
// p = fma(-(a / correction1), m / (sqrtf(v) / correction2 + eps), p * (1 - a * decay))
struct ht_adamw {
    struct ht_ref p, g, m, v;
    uint32_t n;
    float lr_factor, beta1, beta2, eps, decay;
};

// The same with moments of one byte, HT_MOMENT_BLOCK values under one scale (Dettmers et al., "8-bit Optimizers via
// Block-wise Quantization", ICLR 2022, has the blocks), codes spaced like squares, rounded up or down by chance so that
// the mean stays true. scales: [blocks][2] f32, of |m| and of √v; m: n int8, v: n uint8, zeros at first.
//   m = (scale[0] * (1 / 127²)) * (c * |c|), √v = (scale[1] * (1 / 255²)) * (c * c), v = √v * √v; then as above;
//   scale[0] = max |m|, scale[1] = max sqrtf(v) of the block, 0 if below 2^-120. Code of t = |m| * (1 / scale[0]) *
//   127², likewise of sqrtf(v) with 255²: a = floor(min(sqrtf(t), 127)), 1 more if a < 127 and u * (2 a + 1) < t - a²;
//   0 for a scale of 0 and for NaN; of v at least 1 where sqrtf(v) * (1 / scale[1]) > 0; of m with its sign.
// u = 16 bits / 2^16, for m the upper and for v the lower half of ht_philox(seed, i / 4, step << 24 | stream).v[i % 4],
// i = first + the value's place; first is a multiple of HT_MOMENT_BLOCK.
enum { HT_MOMENT_BLOCK = 256 };
struct ht_adamw8 {
    struct ht_ref p, g, m, v, scales;
    uint32_t n, first, stream;
    float lr_factor, beta1, beta2, eps, decay;
};

// y = [y +] (word >= rate * 2^32 ? x * (1 / (1 - rate)) : 0). The word: ht_philox(seed, row_id << 32 | column / 4,
// step << 24 | stream).v[column % 4]. The backward op is the same op over dy.  y may be x.  An output row o has the
// row_id of row out_row[o].                                                                     (R or O, dim)
struct ht_dropout {
    struct ht_ref x, y;
    uint32_t x_stride, y_stride, dim, stream; // stream < 2^24: layer and target
    float rate;                               // [0, 1)
    bool add;
    enum ht_rows rows;
};

// NEFTune: x = fma(u, alpha / sqrtf(length * dim), x), u = 2 * ht_unit_f32(word) - 1, word as above, length = rows of
// the row's segment.                                                                         (R, dim)
struct ht_noise {
    struct ht_ref x;
    uint32_t stride, dim, stream;
    float alpha;
};

// ---------------------------------------------------------------- the table

#define HT_TRAIN_OPS_MAP(X)                                                                                  \
    X(linear) X(linear_t) X(dense) X(rmsnorm_back) X(layernorm) X(layernorm_back) X(rope_back) X(glu_back)   \
        X(softcap_back) X(scatter) X(attend) X(attend_back) X(cross_entropy) X(fill) X(sumsq) X(scale)       \
            X(adamw) X(adamw8) X(dropout) X(noise)

struct ht_device;
struct ht_train_ops {
    bool (*supports)(const struct ht_device *device, enum ht_train_precision precision);
    // How many times longer than on two cores of a server with AVX-512 ops are thought to take: what is cut into pieces
    // is cut that much finer. 1 in B, where cutting a product decides its bits.
    double (*slowness)(const struct ht_device *device, enum ht_train_precision precision);
    // submit for a plan that has ops of this table; both blocks are read until `wait` returns.
    enum hearth_status (*submit)(struct ht_plan *plan, const struct ht_step *step,
                                 const struct ht_train_step *train, struct hearth_error *err);
#define HT_TRAIN_OP_MEMBER(name)                                                                             \
    enum hearth_status (*name)(struct ht_plan * plan, const struct ht_##name *params,                        \
                               struct hearth_error *err);
    HT_TRAIN_OPS_MAP(HT_TRAIN_OP_MEMBER)
#undef HT_TRAIN_OP_MEMBER
};

#endif
