// SPDX-License-Identifier: Apache-2.0
// The scan before unpacking, the arena's budget, and frames that were packed: no socket, no store.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "firmware/limits.h"
#include "firmware/wire.h"

static struct hearth_error err;
static const struct hd_id id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};

static uint8_t *pack(const Hearth__V1__ClientFrame *frame, size_t *len)
{
    *len = hearth__v1__client_frame__get_packed_size(frame);
    uint8_t *data = malloc(*len + 1);
    hearth__v1__client_frame__pack(frame, data);
    return data;
}

static uint8_t *chat_frame(size_t *len)
{
    static Hearth__V1__OptionalDouble temperature = HEARTH__V1__OPTIONAL_DOUBLE__INIT;
    static Hearth__V1__Sampling sampling = HEARTH__V1__SAMPLING__INIT;
    static Hearth__V1__LogitBias bias = HEARTH__V1__LOGIT_BIAS__INIT, *biases[] = {&bias, &bias};
    static char *stops[] = {"one", "two"};
    Hearth__V1__Chat chat = HEARTH__V1__CHAT__INIT;
    Hearth__V1__ClientFrame frame = HEARTH__V1__CLIENT_FRAME__INIT;
    temperature.value = 0.5;
    bias.token = 7;
    bias.bias = -1;
    sampling.temperature = &temperature;
    sampling.logit_bias = biases;
    sampling.n_logit_bias = 2;
    sampling.stop = stops;
    sampling.n_stop = 2;
    chat.text = "grüß dich";
    chat.sampling = &sampling;
    frame.request_id = hd_wire_bytes(id.b, HD_ID_BYTES);
    frame.body_case = HEARTH__V1__CLIENT_FRAME__BODY_CHAT;
    frame.chat = &chat;
    return pack(&frame, len);
}

static void a_frame_comes_through(void **state)
{
    (void)state;
    size_t len;
    struct hd_message message;
    uint8_t *data = chat_frame(&len);
    assert_int_equal(hd_wire_decode(&message, data, len, &err), HEARTH_OK);
    assert_int_equal(message.frame->body_case, HEARTH__V1__CLIENT_FRAME__BODY_CHAT);
    assert_string_equal(message.frame->chat->text, "grüß dich");
    assert_int_equal(message.frame->chat->sampling->n_logit_bias, 2);
    assert_int_equal(message.frame->chat->sampling->logit_bias[1]->token, 7);
    assert_true(message.frame->chat->sampling->temperature->value == 0.5);
    assert_string_equal(message.frame->chat->sampling->stop[1], "two");
    hd_wire_release(&message);
    assert_null(message.frame);
    free(data);
}

// Every prefix and every flipped bit: an answer, never a crash (the sanitizers watch), and all memory given
// back.
static void damage_is_survived(void **state)
{
    (void)state;
    size_t len, refused = 0;
    struct hd_message message;
    uint8_t *data = chat_frame(&len);
    for (size_t n = 0; n <= len; n++) {
        uint8_t *exact = malloc(n ? n : 1); // so that reading beyond it is seen
        memcpy(exact, data, n);
        refused += hd_wire_decode(&message, exact, n, &err) != HEARTH_OK;
        hd_wire_release(&message);
        free(exact);
    }
    assert_true(refused > len / 2);
    for (size_t bit = 0; bit < len * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        hd_wire_decode(&message, data, len, &err);
        hd_wire_release(&message);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(data);
}

static enum hearth_status decode(const void *data, size_t len)
{
    struct hd_message message;
    enum hearth_status status = hd_wire_decode(&message, data, len, &err);
    assert_true((status == HEARTH_OK) == (message.frame != NULL));
    hd_wire_release(&message);
    return status;
}

#define DECODE(bytes) decode(bytes, sizeof(bytes) - 1)

static void malformed_frames_are_refused(void **state)
{
    (void)state;
    assert_int_equal(DECODE(""), HEARTH_OK);
    assert_int_equal(DECODE("\x0a\x02xy"), HEARTH_OK);           // a short id is the caller's to judge
    assert_int_equal(DECODE("\x7a\x00"), HEARTH_OK);             // an empty ping
    assert_int_equal(DECODE("\xfa\x06\x02xy"), HEARTH_OK);       // an unknown field
    assert_int_equal(DECODE("\x7a\x00\x7a\x00"), HEARTH_FORMAT); // a singular field twice
    assert_int_equal(DECODE("\x0a\x00\x0a\x00"), HEARTH_FORMAT);
    assert_int_equal(DECODE("\x7a\x00\x72\x00"), HEARTH_FORMAT); // two bodies
    assert_int_equal(DECODE("\x7a\x02x"), HEARTH_FORMAT);        // beyond the end
    assert_int_equal(DECODE("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), HEARTH_FORMAT);
    assert_int_equal(DECODE("\x78\x01"), HEARTH_FORMAT);  // wrong wire type
    assert_int_equal(DECODE("\x7b\x7c"), HEARTH_FORMAT);  // a group
    assert_int_equal(DECODE("\x7e\x01"), HEARTH_FORMAT);  // wire type 6
    assert_int_equal(DECODE("\x02\x01x"), HEARTH_FORMAT); // field 0
    assert_int_equal(DECODE("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), HEARTH_FORMAT);
    assert_int_equal(DECODE("\xf8\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), HEARTH_FORMAT); // 65 bits
    assert_int_equal(DECODE("\xf9\x06\x01\x02\x03"), HEARTH_FORMAT); // a cut fixed64
}

static void strings_must_be_utf8(void **state)
{
    (void)state;
    assert_int_equal(DECODE("\x22\x04\x12\x02\xc3\xa4"), HEARTH_OK);     // ä
    assert_int_equal(DECODE("\x22\x04\x12\x02\xc3\x28"), HEARTH_FORMAT); // a broken pair
    assert_int_equal(DECODE("\x22\x03\x12\x01\x80"), HEARTH_FORMAT);
    assert_int_equal(DECODE("\x22\x04\x12\x02\xc0\x80"), HEARTH_FORMAT);     // overlong
    assert_int_equal(DECODE("\x22\x05\x12\x03\xed\xa0\x80"), HEARTH_FORMAT); // a surrogate
    assert_int_equal(DECODE("\x22\x03\x12\x01\x00"), HEARTH_FORMAT);         // NUL
}

static void fields_and_depth_are_bounded(void **state)
{
    (void)state;
    enum { N = HD_MAX_WIRE_FIELDS };
    static uint8_t fields[3 * (N + 1)];
    for (size_t i = 0; i <= N; i++)
        memcpy(fields + 3 * i, "\x80\x7d\x01", 3); // field 2000, a varint: unknown
    assert_int_equal(decode(fields, 3 * N), HEARTH_OK);
    assert_int_equal(decode(fields, 3 * (N + 1)), HEARTH_LIMIT);
    // the deepest legal place is ClientFrame.chat.sampling.temperature.value
    assert_int_equal(DECODE("\x22\x04\x22\x02\x0a\x00"), HEARTH_OK);
}

// What the scan lets pass must still fit the budget: the arena says no before memory does.
static void the_arena_keeps_its_budget(void **state)
{
    (void)state;
    struct hd_arena arena;
    hd_arena_init(&arena, 1000);
    uint8_t *a = hd_arena_alloc(&arena, 1), *b = hd_arena_alloc(&arena, 17);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal((uintptr_t)a % 16, 0);
    assert_int_equal((uintptr_t)b % 16, 0);
    assert_true(b >= a + 16);
    assert_int_equal(arena.used_bytes, 48);
    assert_null(hd_arena_alloc(&arena, 1000));
    assert_null(hd_arena_alloc(&arena, SIZE_MAX));
    assert_null(hd_arena_alloc(&arena, SIZE_MAX - 15));
    assert_non_null(hd_arena_alloc(&arena, 900));
    assert_null(hd_arena_alloc(&arena, 100));
    hd_arena_release(&arena);
    assert_int_equal(arena.used_bytes, 0);
    hd_arena_init(&arena, 100 << 10);
    for (size_t i = 0; i < 6; i++)
        assert_non_null(hd_arena_alloc(&arena, 16 << 10)); // larger than a block
    assert_null(hd_arena_alloc(&arena, 16 << 10));
    hd_arena_release(&arena);
    hd_arena_init(&arena, 40);
    assert_null(hd_arena_alloc(&arena, 33)); // 48 with what is added
    hd_arena_release(&arena);
}

static void an_event_with_its_prefix_is_a_frame(void **state)
{
    (void)state;
    uint8_t frame[256];
    Hearth__V1__OutputTextDelta delta = HEARTH__V1__OUTPUT_TEXT_DELTA__INIT;
    Hearth__V1__Event event = HEARTH__V1__EVENT__INIT;
    delta.delta = "hello";
    event.seq = 300;
    event.event_case = HEARTH__V1__EVENT__EVENT_OUTPUT_TEXT_DELTA;
    event.output_text_delta = &delta;
    struct hd_blob *blob = hd_wire_event(&event);
    assert_non_null(blob);
    hd_wire_prefix(frame, &id);
    memcpy(frame + HD_WIRE_PREFIX_BYTES, blob->data, blob->len_bytes);
    Hearth__V1__ServerFrame *read =
        hearth__v1__server_frame__unpack(NULL, HD_WIRE_PREFIX_BYTES + blob->len_bytes, frame);
    assert_non_null(read);
    assert_int_equal(read->request_id.len, HD_ID_BYTES);
    assert_memory_equal(read->request_id.data, id.b, HD_ID_BYTES);
    assert_int_equal(read->event->seq, 300);
    assert_string_equal(read->event->output_text_delta->delta, "hello");
    hearth__v1__server_frame__free_unpacked(read, NULL);
    assert_int_equal(hd_wire_scan(&hearth__v1__server_frame__descriptor, blob->data, blob->len_bytes, &err),
                     HEARTH_OK);
    hd_blob_unref(hd_blob_ref(blob));
    hd_blob_unref(blob);
}

static void a_frame_that_is_too_large_is_not_made(void **state)
{
    (void)state;
    char *text = malloc(HD_MAX_FRAME_BYTES + 1);
    Hearth__V1__ResponseSnapshot snapshot = HEARTH__V1__RESPONSE_SNAPSHOT__INIT;
    Hearth__V1__Event event = HEARTH__V1__EVENT__INIT;
    memset(text, 'x', HD_MAX_FRAME_BYTES);
    text[HD_MAX_FRAME_BYTES] = 0;
    snapshot.text = text;
    event.event_case = HEARTH__V1__EVENT__EVENT_RESPONSE_SNAPSHOT;
    event.response_snapshot = &snapshot;
    assert_null(hd_wire_event(&event));
    size_t longest = 0;
    for (size_t len = HD_MAX_FRAME_BYTES - 100; len < HD_MAX_FRAME_BYTES; len++) {
        text[len] = 0;
        struct hd_blob *blob = hd_wire_event(&event);
        text[len] = 'x';
        longest = blob ? blob->len_bytes : longest;
        hd_blob_unref(blob);
    }
    assert_int_equal(longest + HD_WIRE_PREFIX_BYTES, HD_MAX_FRAME_BYTES);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_comes_through),
        cmocka_unit_test(damage_is_survived),
        cmocka_unit_test(malformed_frames_are_refused),
        cmocka_unit_test(strings_must_be_utf8),
        cmocka_unit_test(fields_and_depth_are_bounded),
        cmocka_unit_test(the_arena_keeps_its_budget),
        cmocka_unit_test(an_event_with_its_prefix_is_a_frame),
        cmocka_unit_test(a_frame_that_is_too_large_is_not_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
