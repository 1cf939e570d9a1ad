// SPDX-License-Identifier: Apache-2.0
// hearth chat: a conversation through hearthd's WebSocket, like a phone's. Main thread.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/ask.h"
#include "tools/box.h"
#include "tools/cli.h"
#include "tools/hearth.h"
#include "tools/json_line.h"

enum { RECEIVE_MS = 1000, MAX_RECONNECTS = 10, ID_BYTES = 16 };

struct talk {
    const struct cli *cli;
    struct box box;
    struct wsclient *client;
    uint8_t conversation[ID_BYTES];
    bool has_conversation;
    bool typed;
    double temp;
    uint64_t seed, max_tokens;
    bool temp_given, seed_given;

    // The question that is being answered.
    const char *question;
    uint8_t request[ID_BYTES], response[ID_BYTES];
    bool accepted, cancelled, over;
    uint64_t seq; // of the last event taken
    char *answer;
    size_t answer_len, answer_capacity;
    int code;
    json_t *usage;
};

static bool keep(struct talk *talk, const char *text, size_t len)
{
    if (talk->answer_len + len > talk->answer_capacity) {
        size_t capacity = 2 * (talk->answer_len + len) + 1024;
        char *larger = realloc(talk->answer, capacity);
        if (!larger)
            return false;
        talk->answer = larger;
        talk->answer_capacity = capacity;
    }
    memcpy(talk->answer + talk->answer_len, text, len);
    talk->answer_len += len;
    return true;
}

static void end_with(struct talk *talk, int code)
{
    talk->over = true;
    talk->code = code;
}

static void show(struct talk *talk, const char *text, size_t len)
{
    if (!keep(talk, text, len))
        end_with(talk, cli_fail(CLI_OSERR, "out of memory"));
    else if (!talk->cli->json && !ask_print(text, len))
        end_with(talk, cli_finish(CLI_OK));
}

// The whole text so far: what is not shown yet is shown.
static void on_snapshot(struct talk *talk, const Hearth__V1__ResponseSnapshot *snapshot)
{
    size_t len = strlen(snapshot->text);
    if (len >= talk->answer_len &&
        (!talk->answer_len || !memcmp(snapshot->text, talk->answer, talk->answer_len)))
        show(talk, snapshot->text + talk->answer_len, len - talk->answer_len);
    if (snapshot->finished)
        end_with(talk, CLI_OK);
}

static void keep_usage(struct talk *talk, const Hearth__V1__Usage *usage)
{
    if (!usage)
        return;
    json_decref(talk->usage);
    talk->usage = json_pack("{s:i, s:i, s:i, s:f, s:f, s:f, s:o, s:s, s:s}", "prompt_tokens",
                            (int)usage->prompt_tokens, "cached_tokens", (int)usage->cached_tokens,
                            "completion_tokens", (int)usage->completion_tokens, "prompt_ms", usage->prompt_ms,
                            "first_token_ms", usage->first_token_ms, "completion_ms", usage->completion_ms,
                            "seed", json_sprintf("%llu", (unsigned long long)usage->seed), "numerics_id",
                            usage->numerics_id, "stop_reason", usage->stop_reason);
}

static void on_event(struct talk *talk, const Hearth__V1__Event *event)
{
    if (!talk->accepted || event->response_id.len != ID_BYTES ||
        memcmp(event->response_id.data, talk->response, ID_BYTES) || event->seq <= talk->seq)
        return;
    talk->seq = event->seq;
    switch (event->event_case) {
    case HEARTH__V1__EVENT__EVENT_OUTPUT_TEXT_DELTA:
        show(talk, event->output_text_delta->delta, strlen(event->output_text_delta->delta));
        break;
    case HEARTH__V1__EVENT__EVENT_RESPONSE_SNAPSHOT: on_snapshot(talk, event->response_snapshot); break;
    case HEARTH__V1__EVENT__EVENT_RESPONSE_COMPLETED:
        keep_usage(talk, event->response_completed->usage);
        end_with(talk, CLI_OK);
        break;
    case HEARTH__V1__EVENT__EVENT_RESPONSE_INCOMPLETE:
        keep_usage(talk, event->response_incomplete->usage);
        if (event->response_incomplete->reason ==
            HEARTH__V1__RESPONSE_INCOMPLETE__REASON__REASON_CONTEXT_FULL)
            cli_note("the context is full, the answer ends here");
        end_with(talk, CLI_OK);
        break;
    case HEARTH__V1__EVENT__EVENT_RESPONSE_FAILED:
        end_with(talk, cli_fail(CLI_FAILED, "the answer failed: %s",
                                event->response_failed->error ? event->response_failed->error->message
                                                              : "no details"));
        break;
    default: break;
    }
}

static int code_of(Hearth__V1__Error__Code code)
{
    switch (code) {
    case HEARTH__V1__ERROR__CODE__CODE_UNAUTHENTICATED:
    case HEARTH__V1__ERROR__CODE__CODE_FORBIDDEN: return CLI_NOPERM;
    case HEARTH__V1__ERROR__CODE__CODE_INVALID:
    case HEARTH__V1__ERROR__CODE__CODE_LIMIT:
    case HEARTH__V1__ERROR__CODE__CODE_CONTEXT: return CLI_DATAERR;
    case HEARTH__V1__ERROR__CODE__CODE_BUSY: return CLI_TEMPFAIL;
    case HEARTH__V1__ERROR__CODE__CODE_UNAVAILABLE:
    case HEARTH__V1__ERROR__CODE__CODE_UNIMPLEMENTED: return CLI_UNAVAILABLE;
    case HEARTH__V1__ERROR__CODE__CODE_STORAGE: return CLI_IOERR;
    default: return CLI_FAILED;
    }
}

static void on_frame(struct talk *talk, const Hearth__V1__ServerFrame *frame)
{
    bool ours = frame->request_id.len == ID_BYTES && !memcmp(frame->request_id.data, talk->request, ID_BYTES);
    switch (frame->body_case) {
    case HEARTH__V1__SERVER_FRAME__BODY_ERROR:
        if (ours)
            end_with(talk, cli_fail(code_of(frame->error->code), "%s", frame->error->message));
        break;
    case HEARTH__V1__SERVER_FRAME__BODY_ACCEPTED:
        if (!ours || frame->accepted->response_id.len != ID_BYTES ||
            frame->accepted->conversation_id.len != ID_BYTES)
            break;
        memcpy(talk->response, frame->accepted->response_id.data, ID_BYTES);
        memcpy(talk->conversation, frame->accepted->conversation_id.data, ID_BYTES);
        talk->accepted = talk->has_conversation = true;
        break;
    case HEARTH__V1__SERVER_FRAME__BODY_EVENT: on_event(talk, frame->event); break;
    default: break;
    }
}

static bool send_chat(struct talk *talk)
{
    Hearth__V1__ClientFrame frame = HEARTH__V1__CLIENT_FRAME__INIT;
    Hearth__V1__Chat chat = HEARTH__V1__CHAT__INIT;
    if (talk->has_conversation)
        chat.conversation_id = (ProtobufCBinaryData){ID_BYTES, talk->conversation};
    chat.text = (char *)talk->question;
    Hearth__V1__Sampling sampling = HEARTH__V1__SAMPLING__INIT;
    Hearth__V1__OptionalDouble temp = HEARTH__V1__OPTIONAL_DOUBLE__INIT;
    Hearth__V1__OptionalUint64 seed = HEARTH__V1__OPTIONAL_UINT64__INIT;
    Hearth__V1__OptionalUint32 max_tokens = HEARTH__V1__OPTIONAL_UINT32__INIT;
    temp.value = talk->temp;
    seed.value = talk->seed;
    max_tokens.value = (uint32_t)talk->max_tokens;
    sampling.temperature = talk->temp_given ? &temp : NULL;
    sampling.seed = talk->seed_given ? &seed : NULL;
    sampling.max_tokens = talk->max_tokens ? &max_tokens : NULL;
    chat.sampling = &sampling;
    frame.request_id = (ProtobufCBinaryData){ID_BYTES, talk->request};
    frame.body_case = HEARTH__V1__CLIENT_FRAME__BODY_CHAT;
    frame.chat = &chat;
    return wsclient_send(talk->client, &frame);
}

// Cancel, or Resume after a lost connection.
static bool send_about_response(struct talk *talk, bool resume)
{
    Hearth__V1__ClientFrame frame = HEARTH__V1__CLIENT_FRAME__INIT;
    Hearth__V1__Cancel cancel = HEARTH__V1__CANCEL__INIT;
    Hearth__V1__Resume again = HEARTH__V1__RESUME__INIT;
    uint8_t id[ID_BYTES];
    if (!wsclient_random_id(id))
        return false;
    frame.request_id = (ProtobufCBinaryData){ID_BYTES, id};
    if (resume) {
        again.response_id = (ProtobufCBinaryData){ID_BYTES, talk->response};
        again.after_seq = talk->seq;
        frame.body_case = HEARTH__V1__CLIENT_FRAME__BODY_RESUME;
        frame.resume = &again;
        memcpy(talk->request, id, ID_BYTES); // an error about it ends the wait
    } else {
        cancel.response_id = (ProtobufCBinaryData){ID_BYTES, talk->response};
        frame.body_case = HEARTH__V1__CLIENT_FRAME__BODY_CANCEL;
        frame.cancel = &cancel;
    }
    return wsclient_send(talk->client, &frame);
}

// After a loss: connects again with growing pauses, then asks for what was missed. The same request id makes
// the question count once.
static int reconnect(struct talk *talk)
{
    unsigned pause_ms = 250;
    wsclient_destroy(&talk->client);
    for (int i = 0; i < MAX_RECONNECTS; i++) {
        int code = box_connect(&talk->box, &talk->client, true);
        if (!code)
            return (talk->accepted ? send_about_response(talk, true) : send_chat(talk)) ? CLI_OK
                                                                                        : CLI_TEMPFAIL;
        if (code != CLI_TEMPFAIL)
            return code;
        for (unsigned slept = 0; slept < pause_ms && !ask_interrupted(); slept += 50)
            usleep(50000);
        if (ask_interrupted())
            return CLI_INTERRUPTED;
        pause_ms = pause_ms < 8000 ? 2 * pause_ms : 8000;
    }
    return cli_fail(CLI_UNAVAILABLE, "%s: the box cannot be reached any more", talk->box.host);
}

// Ctrl-C: the first one cancels the answer, the next one leaves.
static void on_interrupt(struct talk *talk)
{
    if (talk->cancelled) {
        end_with(talk, CLI_INTERRUPTED);
        return;
    }
    if (!talk->accepted)
        return; // seen again when there is something to cancel
    talk->cancelled = true;
    send_about_response(talk, false);
    ask_watch_interrupt();
}

static void wait_for_answer(struct talk *talk)
{
    while (!talk->over) {
        Hearth__V1__ServerFrame *frame = wsclient_receive(talk->client, RECEIVE_MS);
        if (frame)
            on_frame(talk, frame);
        wsclient_frame_free(&frame);
        if (!talk->over && ask_interrupted())
            on_interrupt(talk);
        if (!talk->over && wsclient_get_state(talk->client) != WSCLIENT_OPEN) {
            int code = reconnect(talk);
            if (code && code != CLI_TEMPFAIL)
                end_with(talk, code);
        }
    }
}

static int print_json(const struct talk *talk)
{
    json_t *object = json_pack("{s:s%, s:O?}", "text", talk->answer ? talk->answer : "", talk->answer_len,
                               "usage", talk->usage);
    return json_line(object, 0);
}

static int answer(void *user, const char *text, size_t len_bytes)
{
    struct talk *talk = user;
    talk->question = text;
    talk->accepted = talk->cancelled = talk->over = false;
    talk->seq = 0;
    talk->answer_len = 0;
    talk->code = CLI_OK;
    if (strlen(text) != len_bytes)
        return cli_fail(CLI_DATAERR, "a question cannot hold NUL bytes");
    if (!wsclient_random_id(talk->request))
        return cli_fail(CLI_OSERR, "no random numbers");
    if (talk->client && wsclient_get_state(talk->client) == WSCLIENT_OPEN)
        send_chat(talk);
    else
        talk->code = reconnect(talk);
    if (talk->code && talk->code != CLI_TEMPFAIL)
        return talk->code;
    wait_for_answer(talk);
    bool interrupted = talk->cancelled || talk->code == CLI_INTERRUPTED;
    if (talk->cli->json && !talk->code)
        talk->code = print_json(talk);
    else if (!talk->cli->json &&
             (talk->answer_len ? talk->answer[talk->answer_len - 1] != '\n' : !talk->code))
        fputc('\n', stdout);
    int code = cli_finish(talk->code);
    if (talk->typed && (code == CLI_DATAERR || code == CLI_FAILED))
        return CLI_OK;
    return code ? code : interrupted ? CLI_INTERRUPTED : CLI_OK;
}

static void reset(void *user)
{
    struct talk *talk = user;
    talk->has_conversation = false;
    puts("A new conversation.");
}

static int run(struct talk *talk, const char *host)
{
    char welcome[400];
    ask_watch_interrupt();
    int code = box_find(&talk->box, host);
    if (!code)
        code = box_connect(&talk->box, &talk->client, false);
    snprintf(welcome, sizeof welcome, "Connected with %s. /help lists commands, Ctrl-D leaves.",
             talk->box.local ? "this box" : talk->box.host);
    struct ask ask = {.welcome = welcome, .answer = answer, .reset = reset, .user = talk};
    if (!code)
        code = ask_loop(&ask);
    wsclient_destroy(&talk->client);
    json_decref(talk->usage);
    free(talk->answer);
    return code;
}

int cmd_chat(int argc, char **argv)
{
    static struct talk talk;
    const char *host = NULL;
    const struct cli_option table[] = {
        {"host", 0, CLI_TEXT, "H",
         "a paired box by name or address, or a pairing link (default: this machine)", &host, 0, 0, NULL},
        {"temp", 0, CLI_REAL, "T", "temperature, 0 = always the likeliest token", &talk.temp, 0, 5,
         &talk.temp_given},
        {"seed", 0, CLI_COUNT, "N", "the same seed gives the same answer", &talk.seed, 0, 0,
         &talk.seed_given},
        {"max-tokens", 'n', CLI_COUNT, "N", "end an answer after N tokens", &talk.max_tokens, 1, UINT32_MAX,
         NULL},
    };
    struct cli cli = {
        .name = "chat",
        .usage = "[--host H]",
        .about = "Talks with a running hearthd over its WebSocket, like a phone. The conversation is kept by "
                 "the box.\n"
                 "On the box itself the terminal pairs itself; elsewhere a pairing link is needed once.\n"
                 "Without a terminal on stdin, each line is a question, answered at temperature 0 unless "
                 "--temp is given.",
        .example = "printf 'What is the capital of France?\\n' | hearth chat",
        .options = table,
        .n_options = sizeof table / sizeof *table,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    talk.cli = &cli;
    talk.typed = cli_is_tty(stdin);
    if (!talk.typed)
        talk.temp_given = true; // programs get the same answer each time
    return run(&talk, host);
}
