// SPDX-License-Identifier: Apache-2.0
// What recording an op needs: a call added to the plan, notes of the memory it touches, its barrier, its scratch.
// Engine thread.
#ifndef HT_CPU_RECORD_H
#define HT_CPU_RECORD_H
#include "engine/cpu/cpu.h"

struct ht_notes { // of the call being recorded
    struct ht_plan *plan;
    struct ht_access list[16];
    unsigned n;
};
struct ht_call *ht_plan_call(struct ht_plan *plan, ht_call_fn *run, struct hearth_error *err); // NULL fills err
// The plan's table for this op's angles, made if there is none.
enum hearth_status ht_plan_rope(struct ht_plan *plan, const struct ht_rope *p, uint32_t *table,
                                struct hearth_error *err);
void ht_want_scratch(struct ht_plan *plan, size_t thread_bytes, size_t shared_bytes);
// (rows, width) shared out in another way, or in none; as columns; as items of `dim`; n floats in a row; the
// team's scratch.
void ht_note_all(struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows, uint32_t stride,
                 uint32_t width, bool write);
void ht_note_columns(struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows, uint32_t stride,
                     uint32_t width, bool write);
void ht_note_items(struct ht_notes *notes, const struct ht_ref *ref, enum ht_rows rows, uint32_t stride,
                   uint32_t items, uint32_t dim, bool write);
void ht_note_flat(struct ht_notes *notes, const struct ht_ref *ref, size_t n, bool write);
void ht_note_shared(struct ht_notes *notes);
// Sets the call's barrier from the notes, and keeps them for the calls that follow.
void ht_settle(struct ht_call *call, const struct ht_notes *notes);

#endif
