// SPDX-License-Identifier: Apache-2.0
// float32 rows into the weight formats of quant.h: what merging, converting and quantizing write with. Pure functions,
// any thread; the same bytes on every machine (plain f32 arithmetic, each operation rounded on its own).
//
// What is minimised is the sum of squares of (value - what the block says), over scales that the file can hold:
//   f16, bf16    round to nearest, ties to even; beyond f16's range its largest number
//   q8_0         d = f16(amax / 127), or amax / c if that makes every value whole; code = rint(x / d)
//   q4_0 q5_0 iq4_nl   one scale a block: candidates top / c, top = the value farthest from 0, c around the ends of the
//                codes; of each also the least-squares scale for the codes that it gives; the best as f16
//   q4_1 q5_1    scale and offset likewise: candidates from the range, then least squares for both
//   q2_k … q6_k  a fit as above for each group; d (and dmin) so that the largest group scale has the largest code;
//                then each group's codes of scale and min are tried one up and down, and d, dmin refitted by least
//                squares, twice
// A row that is exactly what a block can say (dequantised before) is looked for first.
#ifndef HT_QUANTIZE_H
#define HT_QUANTIZE_H
#include <stdbool.h>

#include "engine/gguf/quant.h"

// x (n_values) -> blocks (whole blocks of the type). False, and nothing of use in blocks: a value is not finite (above
// 1e12 for types with scales), or the type is not one of ht_type_info. n_values is whole blocks.
bool ht_quantize_row(enum ht_type type, const float *x, size_t n_values, void *blocks);
// "q4_1" in any case; false if no such type is computed with.
bool ht_quantize_find(const char *name, enum ht_type *type);
// The type itself, or for rows that are not whole blocks of it the next better one of blocks of 32 (q2_k, q3_k: iq4_nl,
// q4_k: q5_0, q5_k: q5_1, q6_k: q8_0), or f16.
enum ht_type ht_quantize_fits(enum ht_type type, uint64_t row_values);
// What general.file_type says of a model that is mostly of this type.
uint32_t ht_quantize_file_type(enum ht_type type);

// ---- inside

// A best fit of codes [lo, hi] to x (n, a multiple of 8): value = d · code. Returns the sum of squares. `half`: d is
// one that f16 holds.
float ht_fit_scale(const float *x, unsigned n, int lo, int hi, bool half, float *d);
// The scale top / c, c from hi down, with which every value is a whole code; top / hi if there is none. As f16.
float ht_fit_whole(const float *x, unsigned n, int hi, float top);
// value = d · code + m, codes [0, hi]; d >= 0. `half`: both are f16. Without it m <= 0.
float ht_fit_affine(const float *x, unsigned n, int hi, bool half, float *d, float *m);
// With given scales: the sum of squares; codes (n) may be NULL.
float ht_code_scale(const float *x, unsigned n, int lo, int hi, float d, int8_t *codes);
float ht_code_affine(const float *x, unsigned n, int hi, float d, float m, int8_t *codes);
float ht_round_half(float x); // to f16 and back, within its finite range

void ht_quantize_k(enum ht_type type, const float *x, void *block); // 256 values of a K type

#endif
