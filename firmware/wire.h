// SPDX-License-Identifier: Apache-2.0
// Frames of hearth.v1 ↔ the generated structs. No sockets here. Any thread, one message at a time.
//
// A frame from outside is scanned before it is unpacked: known fields have their wire type, lengths end
// inside their parent, no singular field comes twice, strings are UTF-8, fields and depth are bounded. Then
// it is unpacked into an arena with a byte budget, because a 2-byte empty sub-message becomes a struct of
// many times that.
#ifndef HD_WIRE_H
#define HD_WIRE_H
#include "firmware/util.h"
#include "hearth/v1/hearth.pb-c.h"

// ---- arena

struct hd_arena_block;
struct hd_arena {
    struct hd_arena_block *blocks;
    size_t used_bytes, budget_bytes;
};
void hd_arena_init(struct hd_arena *arena, size_t budget_bytes);
void *hd_arena_alloc(struct hd_arena *arena, size_t size_bytes); // 16-byte aligned; NULL beyond the budget
void hd_arena_release(struct hd_arena *arena);                   // wipes and frees everything

// ---- in

struct hd_message {
    struct hd_arena arena;
    Hearth__V1__ClientFrame *frame; // lives in the arena
};
// FORMAT: malformed; LIMIT: too many fields, too deep or too large unpacked. Release in every case.
enum hearth_status hd_wire_decode(struct hd_message *message, const uint8_t *data, size_t len_bytes,
                                  struct hearth_error *err);
void hd_wire_release(struct hd_message *message);
// The scan alone, for any message of the schema.
enum hearth_status hd_wire_scan(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len_bytes,
                                struct hearth_error *err);

// ---- out

// Encoded bytes that several send queues may share. Loop thread only.
struct hd_blob {
    unsigned refs;
    size_t len_bytes;
    uint8_t data[];
};
struct hd_blob *hd_blob_ref(struct hd_blob *blob);
void hd_blob_unref(struct hd_blob *blob); // NULL allowed; wipes the last

// A whole ServerFrame. NULL when out of memory or larger than HD_MAX_FRAME_BYTES.
struct hd_blob *hd_wire_frame(const Hearth__V1__ServerFrame *frame);
// The event field of a ServerFrame: put hd_wire_prefix before it and it is a frame. NULL as above.
struct hd_blob *hd_wire_event(const Hearth__V1__Event *event);
enum { HD_WIRE_PREFIX_BYTES = 2 + HD_ID_BYTES };
void hd_wire_prefix(uint8_t out[HD_WIRE_PREFIX_BYTES], const struct hd_id *request);

ProtobufCBinaryData hd_wire_bytes(const void *data, size_t len_bytes);

#endif
