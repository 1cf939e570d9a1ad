// SPDX-License-Identifier: Apache-2.0
// Scan, arena and packing of frames (see wire.h). Stateless.
#include "firmware/wire.h"

#include <stdlib.h>
#include <string.h>

#include "firmware/limits.h"

// ---- arena

struct hd_arena_block {
    struct hd_arena_block *next;
    size_t size_bytes, used_bytes;
    _Alignas(16) uint8_t data[];
};
enum { BLOCK_BYTES = 8 << 10 };

void hd_arena_init(struct hd_arena *arena, size_t budget_bytes)
{
    *arena = (struct hd_arena){.budget_bytes = budget_bytes};
}

void *hd_arena_alloc(struct hd_arena *arena, size_t size_bytes)
{
    if (size_bytes > arena->budget_bytes - arena->used_bytes)
        return NULL;
    size_t need = (size_bytes + 15) & ~(size_t)15;
    if (need > arena->budget_bytes - arena->used_bytes)
        return NULL;
    struct hd_arena_block *block = arena->blocks;
    if (!block || block->size_bytes - block->used_bytes < need) {
        size_t size = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        block = malloc(sizeof *block + size);
        if (!block)
            return NULL;
        block->next = arena->blocks;
        block->size_bytes = size;
        block->used_bytes = 0;
        arena->blocks = block;
    }
    void *p = block->data + block->used_bytes;
    block->used_bytes += need;
    arena->used_bytes += need;
    return p;
}

void hd_arena_release(struct hd_arena *arena)
{
    for (struct hd_arena_block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        hd_wipe_free(block, sizeof *block + block->size_bytes);
    }
    arena->blocks = NULL;
    arena->used_bytes = 0;
}

static void *arena_alloc(void *user, size_t size_bytes)
{
    return hd_arena_alloc(user, size_bytes);
}

static void arena_free(void *user, void *p) // everything goes at once
{
    (void)user;
    (void)p;
}

// ---- scan

struct scan {
    const ProtobufCMessageDescriptor *type;
    unsigned depth;
    unsigned *n_fields; // of the whole message
};

static bool read_varint(const uint8_t **p, const uint8_t *end, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 70 && *p < end; shift += 7) {
        uint8_t byte = *(*p)++;
        if (shift == 63 && byte > 1)
            return false;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static unsigned wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return 5;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return 1;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return 2;
    default: return 0;
    }
}

// Steps over one value; for lengths, *body and *body_len tell where it lies.
static bool skip_value(unsigned wire_type, const uint8_t **p, const uint8_t *end, const uint8_t **body,
                       size_t *body_len)
{
    uint64_t value;
    size_t fixed = wire_type == 1 ? 8 : 4;
    switch (wire_type) {
    case 0: return read_varint(p, end, &value);
    case 1:
    case 5:
        if ((size_t)(end - *p) < fixed)
            return false;
        *p += fixed;
        return true;
    case 2:
        if (!read_varint(p, end, &value) || value > (uint64_t)(end - *p))
            return false;
        *body = *p;
        *body_len = (size_t)value;
        *p += value;
        return true;
    default: // groups are not part of the schema
        return false;
    }
}

static enum hearth_status scan_message(const struct scan *scan, const uint8_t *p, const uint8_t *end,
                                       struct hearth_error *err);

static enum hearth_status scan_field(const struct scan *scan, const ProtobufCFieldDescriptor *field,
                                     unsigned wire_type, const uint8_t *body, size_t body_len,
                                     struct hearth_error *err)
{
    bool packed =
        field->label == PROTOBUF_C_LABEL_REPEATED && wire_type == 2 && wire_type_of(field->type) != 2;
    if (packed)
        return hd_fail(err, HEARTH_FORMAT, "field %s has the wrong wire type",
                       field->name); // none in the schema
    if (wire_type != wire_type_of(field->type))
        return hd_fail(err, HEARTH_FORMAT, "field %s has the wrong wire type", field->name);
    if (field->type == PROTOBUF_C_TYPE_STRING && !hd_utf8_valid((const char *)body, body_len))
        return hd_fail(err, HEARTH_FORMAT, "field %s is not UTF-8 or holds NUL", field->name);
    if (field->type != PROTOBUF_C_TYPE_MESSAGE)
        return HEARTH_OK;
    if (scan->depth + 1 > HD_MAX_WIRE_DEPTH)
        return hd_fail(err, HEARTH_LIMIT, "field %s is nested too deeply", field->name);
    struct scan below = {field->descriptor, scan->depth + 1, scan->n_fields};
    return scan_message(&below, body, body + body_len, err);
}

static enum hearth_status scan_message(const struct scan *scan, const uint8_t *p, const uint8_t *end,
                                       struct hearth_error *err)
{
    uint64_t seen = 0; // field numbers of this schema are below 64
    unsigned n_oneof = 0;
    while (p < end) {
        uint64_t tag;
        const uint8_t *body = NULL;
        size_t body_len = 0;
        if (++*scan->n_fields > HD_MAX_WIRE_FIELDS)
            return hd_fail(err, HEARTH_LIMIT, "more than %d fields in a message", HD_MAX_WIRE_FIELDS);
        if (!read_varint(&p, end, &tag) || tag >> 3 == 0 || tag >> 3 > 536870911)
            return hd_fail(err, HEARTH_FORMAT, "malformed tag");
        unsigned wire_type = tag & 7;
        if (!skip_value(wire_type, &p, end, &body, &body_len))
            return hd_fail(err, HEARTH_FORMAT, "a value ends outside its message");
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(scan->type, (unsigned)(tag >> 3));
        if (!field)
            continue; // unknown fields are ignored
        if (field->label != PROTOBUF_C_LABEL_REPEATED) {
            if (field->id < 64 && seen & UINT64_C(1) << field->id)
                return hd_fail(err, HEARTH_FORMAT, "field %s comes twice", field->name);
            seen |= field->id < 64 ? UINT64_C(1) << field->id : 0;
        }
        if (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && ++n_oneof > 1)
            return hd_fail(err, HEARTH_FORMAT, "more than one body");
        enum hearth_status status = scan_field(scan, field, wire_type, body, body_len, err);
        if (status != HEARTH_OK)
            return status;
    }
    return HEARTH_OK;
}

enum hearth_status hd_wire_scan(const ProtobufCMessageDescriptor *type, const uint8_t *data, size_t len_bytes,
                                struct hearth_error *err)
{
    unsigned n_fields = 0;
    struct scan scan = {type, 1, &n_fields};
    return scan_message(&scan, data, data + len_bytes, err);
}

// ---- in

enum hearth_status hd_wire_decode(struct hd_message *message, const uint8_t *data, size_t len_bytes,
                                  struct hearth_error *err)
{
    message->frame = NULL;
    hd_arena_init(&message->arena, HD_MAX_ARENA_BYTES);
    enum hearth_status status = hd_wire_scan(&hearth__v1__client_frame__descriptor, data, len_bytes, err);
    if (status != HEARTH_OK)
        return status;
    ProtobufCAllocator allocator = {arena_alloc, arena_free, &message->arena};
    message->frame = hearth__v1__client_frame__unpack(&allocator, len_bytes, data);
    if (!message->frame)
        return hd_fail(err, HEARTH_LIMIT, "the message does not unpack within %d bytes", HD_MAX_ARENA_BYTES);
    return HEARTH_OK;
}

void hd_wire_release(struct hd_message *message)
{
    hd_arena_release(&message->arena);
    message->frame = NULL;
}

// ---- out

struct hd_blob *hd_blob_ref(struct hd_blob *blob)
{
    blob->refs++;
    return blob;
}

void hd_blob_unref(struct hd_blob *blob)
{
    if (blob && --blob->refs == 0)
        hd_wipe_free(blob, sizeof *blob + blob->len_bytes);
}

static struct hd_blob *blob_new(size_t len_bytes)
{
    struct hd_blob *blob = len_bytes <= HD_MAX_FRAME_BYTES ? malloc(sizeof *blob + len_bytes) : NULL;
    if (blob) {
        blob->refs = 1;
        blob->len_bytes = len_bytes;
    }
    return blob;
}

struct hd_blob *hd_wire_frame(const Hearth__V1__ServerFrame *frame)
{
    struct hd_blob *blob = blob_new(hearth__v1__server_frame__get_packed_size(frame));
    if (blob)
        hearth__v1__server_frame__pack(frame, blob->data);
    return blob;
}

struct hd_blob *hd_wire_event(const Hearth__V1__Event *event)
{
    Hearth__V1__ServerFrame frame =
        HEARTH__V1__SERVER_FRAME__INIT; // without a request id it is the event field alone
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_EVENT;
    frame.event = (Hearth__V1__Event *)event;
    size_t size = hearth__v1__server_frame__get_packed_size(&frame);
    return size + HD_WIRE_PREFIX_BYTES <= HD_MAX_FRAME_BYTES ? hd_wire_frame(&frame) : NULL;
}

void hd_wire_prefix(uint8_t out[HD_WIRE_PREFIX_BYTES], const struct hd_id *request)
{
    out[0] = 1 << 3 | 2; // ServerFrame.request_id
    out[1] = HD_ID_BYTES;
    memcpy(out + 2, request->b, HD_ID_BYTES);
}

ProtobufCBinaryData hd_wire_bytes(const void *data, size_t len_bytes)
{
    return (ProtobufCBinaryData){.len = len_bytes, .data = (uint8_t *)data};
}
