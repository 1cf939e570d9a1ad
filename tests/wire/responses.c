// SPDX-License-Identifier: Apache-2.0
// Response logs: seq, followers, missed events, trimming and the snapshot that replaces what was trimmed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "firmware/limits.h"
#include "firmware/responses.h"

enum { MAX_SEEN = 4096 };

// What one socket was sent.
struct seen {
    uint64_t seqs[MAX_SEEN];
    size_t n, n_snapshots;
    char text[1 << 20];
    size_t text_len;
    bool finished;
    struct hd_id request;
};

static struct seen one, two;
static struct hd_responses *responses;
static struct hearth_error err;
static const struct hd_id request = {{9}}, person = {{7}};

static void send(void *user, void *socket, const struct hd_id *id, struct hd_blob *event)
{
    struct seen *seen = socket;
    assert_ptr_equal(user, &one);
    seen->request = *id;
    Hearth__V1__ServerFrame *frame = hearth__v1__server_frame__unpack(NULL, event->len_bytes, event->data);
    assert_non_null(frame);
    assert_true(seen->n < MAX_SEEN);
    seen->seqs[seen->n++] = frame->event->seq;
    if (frame->event->event_case == HEARTH__V1__EVENT__EVENT_RESPONSE_SNAPSHOT) {
        seen->n_snapshots++;
        seen->finished = frame->event->response_snapshot->finished;
        seen->text_len = 0;
    }
    const char *text = frame->event->event_case == HEARTH__V1__EVENT__EVENT_RESPONSE_SNAPSHOT
                           ? frame->event->response_snapshot->text
                       : frame->event->event_case == HEARTH__V1__EVENT__EVENT_OUTPUT_TEXT_DELTA
                           ? frame->event->output_text_delta->delta
                           : "";
    size_t len = strlen(text);
    memcpy(seen->text + seen->text_len, text, len + 1);
    seen->text_len += len;
    hearth__v1__server_frame__free_unpacked(frame, NULL);
}

static struct hd_response *open_response(uint8_t number)
{
    struct hd_accepted ids = {.response = {{number}},
                              .conversation = {{number, 1}},
                              .user_turn = {{number, 2}},
                              .assistant_turn = {{number, 3}}};
    return hd_response_open(responses, &ids, &person);
}

static void append(struct hd_response *response, const char *text)
{
    assert_int_equal(hd_response_append(responses, response, text, strlen(text), &err), HEARTH_OK);
}

static void follow(struct hd_response *response, struct seen *seen, uint64_t after)
{
    assert_int_equal(hd_response_follow(responses, response, seen, &request, after, &err), HEARTH_OK);
}

static int setup(void **state)
{
    (void)state;
    memset(&one, 0, sizeof one);
    memset(&two, 0, sizeof two);
    responses = hd_responses_new(4, 1000, send, &one);
    return responses ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    hd_responses_free(&responses);
    return 0;
}

static void followers_get_what_they_missed_and_what_comes(void **state)
{
    (void)state;
    struct hd_response *response = open_response(1);
    follow(response, &one, 0);
    append(response, "a");
    append(response, "b");
    append(response, "c");
    follow(response, &two, 1);
    append(response, "d");
    assert_string_equal(one.text, "abcd");
    assert_string_equal(two.text, "bcd");
    assert_int_equal(one.n, 4);
    for (size_t i = 0; i < one.n; i++)
        assert_int_equal(one.seqs[i], i + 1);
    assert_int_equal(two.seqs[0], 2);
    assert_memory_equal(&two.request, &request, sizeof request);
    hd_responses_drop_socket(responses, &one);
    append(response, "e");
    assert_string_equal(one.text, "abcd");
    assert_string_equal(two.text, "bcde");
    const struct hd_id later = {{10}}; // a second time on the same socket: nothing comes twice
    assert_int_equal(hd_response_follow(responses, response, &two, &later, 5, &err), HEARTH_OK);
    append(response, "f");
    assert_string_equal(two.text, "bcdef");
    assert_memory_equal(&two.request, &later, sizeof later);
    follow(response, &one, 99); // a seq that is not yet: only what comes
    append(response, "g");
    assert_string_equal(one.text, "abcdg");
}

static void a_trimmed_log_is_told_by_a_snapshot(void **state)
{
    (void)state;
    struct hd_response *response = open_response(1);
    char whole[2001] = "", piece[16];
    for (int i = 0; i < 200; i++) {
        snprintf(piece, sizeof piece, "<%08u>", (unsigned)i % 1000);
        memcpy(whole + 10 * i, piece, 11);
        append(response, piece);
    }
    follow(response, &one, 0);
    assert_int_equal(one.n, 1);
    assert_int_equal(one.n_snapshots, 1);
    assert_int_equal(one.seqs[0], 200);
    assert_string_equal(one.text, whole);
    assert_false(one.finished);
    append(response, "live");
    assert_int_equal(one.seqs[1], 201);
    follow(response, &two, 199); // recent enough: events, no snapshot
    assert_int_equal(two.n_snapshots, 0);
    assert_int_equal(two.n, 2);
    size_t len;
    assert_int_equal(strlen(hd_response_text(response, &len)), 2004);
    assert_int_equal(len, 2004);
}

// What could not be told is not left out: the log begins anew, and who missed it gets the whole.
static void an_event_that_cannot_be_made_leaves_no_gap(void **state)
{
    (void)state;
    struct hd_response *response = open_response(1);
    Hearth__V1__OutputTextDelta delta = HEARTH__V1__OUTPUT_TEXT_DELTA__INIT;
    Hearth__V1__Event event = HEARTH__V1__EVENT__INIT;
    append(response, "a");
    delta.delta = malloc(HD_MAX_FRAME_BYTES + 1);
    memset(delta.delta, 'x', HD_MAX_FRAME_BYTES);
    delta.delta[HD_MAX_FRAME_BYTES] = 0;
    event.event_case = HEARTH__V1__EVENT__EVENT_OUTPUT_TEXT_DELTA;
    event.output_text_delta = &delta;
    assert_false(hd_response_event(responses, response, &event));
    free(delta.delta);
    append(response, "b");
    follow(response, &one, 0);
    assert_int_equal(one.n_snapshots, 1);
    assert_string_equal(one.text, "ab");
}

static void an_ended_answer_is_told_for_ten_minutes(void **state)
{
    (void)state;
    struct hd_response *response = open_response(1), *other = open_response(2);
    const struct hd_id first = {{1}}, conversation = {{1, 1}}, turn = {{1, 3}};
    follow(response, &one, 0);
    append(response, "all");
    assert_ptr_equal(hd_response_running(responses, &conversation), response);
    hd_response_end(responses, response, 1000);
    assert_null(hd_response_running(responses, &conversation));
    assert_int_equal(hd_responses_count_running(responses), 1);
    assert_ptr_equal(hd_response_by_turn(responses, &turn), response);
    follow(response, &two, 0);
    assert_string_equal(two.text, "all");
    hd_responses_prune(responses, 1000 + HD_RESPONSE_KEEP_MS - 1);
    assert_ptr_equal(hd_response_find(responses, &first), response);
    hd_responses_prune(responses, 1000 + HD_RESPONSE_KEEP_MS);
    assert_null(hd_response_find(responses, &first));
    const struct hd_id second = {{2}};
    assert_ptr_equal(hd_response_find(responses, &second), other); // a running one is never pruned
}

static void memory_is_bounded(void **state)
{
    (void)state;
    for (uint8_t i = 1; i <= 4; i++)
        assert_non_null(open_response(i));
    assert_null(open_response(5)); // all four run
    const struct hd_id second = {{2}}, fifth = {{5}};
    struct hd_response *response = hd_response_find(responses, &second);
    hd_response_end(responses, response, 1);
    assert_non_null(open_response(5)); // the ended one gave way
    assert_null(hd_response_find(responses, &second));
    response = hd_response_find(responses, &fifth);
    static char big[HD_MAX_RESPONSE_TEXT_BYTES + 2];
    memset(big, 'x', sizeof big - 1);
    assert_int_equal(hd_response_append(responses, response, big, HD_MAX_RESPONSE_TEXT_BYTES + 1, &err),
                     HEARTH_LIMIT);
    assert_int_equal(hd_response_append(responses, response, big, HD_MAX_RESPONSE_TEXT_BYTES, &err),
                     HEARTH_OK);
    assert_int_equal(hd_response_append(responses, response, "y", 1, &err), HEARTH_LIMIT);
    follow(response, &one, 0); // its one event is larger than the log: a snapshot that fits in a frame
    assert_int_equal(one.n_snapshots, 1);
    assert_int_equal(one.text_len, HD_MAX_RESPONSE_TEXT_BYTES);
}

static struct hd_responses *leaving;
static unsigned n_sent;

static void send_and_leave(void *user, void *socket, const struct hd_id *id, struct hd_blob *event)
{
    (void)user;
    (void)id;
    (void)event;
    n_sent++;
    hd_responses_drop_socket(leaving, socket);
}

// Memory was out, say: a socket ends while an event is told to all.
static void a_socket_may_end_while_it_is_told(void **state)
{
    (void)state;
    struct hd_accepted ids = {.response = {{1}}};
    leaving = hd_responses_new(2, 1024, send_and_leave, NULL);
    struct hd_response *response = hd_response_open(leaving, &ids, &person);
    n_sent = 0;
    assert_int_equal(hd_response_follow(leaving, response, &one, &request, 0, &err), HEARTH_OK);
    assert_int_equal(hd_response_follow(leaving, response, &two, &request, 0, &err), HEARTH_OK);
    assert_int_equal(hd_response_append(leaving, response, "a", 1, &err), HEARTH_OK);
    assert_int_equal(hd_response_append(leaving, response, "b", 1, &err), HEARTH_OK);
    assert_int_equal(n_sent, 2);
    hd_responses_free(&leaving);
}

static void a_forgotten_answer_is_gone(void **state)
{
    (void)state;
    const struct hd_id first = {{1}};
    struct hd_response *response = open_response(1);
    follow(response, &one, 0);
    append(response, "secret");
    hd_response_forget(responses, response);
    assert_null(hd_response_find(responses, &first));
    assert_null(hd_response_at(responses, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(followers_get_what_they_missed_and_what_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_trimmed_log_is_told_by_a_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(an_event_that_cannot_be_made_leaves_no_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(an_ended_answer_is_told_for_ten_minutes, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(a_forgotten_answer_is_gone, setup, teardown),
        cmocka_unit_test(a_socket_may_end_while_it_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
