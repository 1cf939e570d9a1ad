// SPDX-License-Identifier: Apache-2.0
// One answer on its way through the OpenAI door: from the engine's text to JSON, at once or in pieces. Loop thread
// only.
#ifndef HD_OPENAI_ANSWER_H
#define HD_OPENAI_ANSWER_H
#include <jansson.h>

#include "firmware/http.h"
#include "firmware/openai.h"

struct hd_answering {
    struct hd_answering *next;
    struct hd_exchange *exchange;
    struct hd_id response, device;
    bool chat, stream, include_usage, tools, one_call;
    char id[48], model[HD_MAX_MODEL_BYTES + 1], tool_format[16];
    int64_t created_s;
    // text that was not split or told yet; without stream and without tools, the whole answer
    char *text;
    size_t len, capacity, total;
    struct hearth_piece piece; // that was split off last
    bool full;                 // ended by the box, not by the model
    char *said;                // with tools and without stream: the text between the calls
    size_t said_len, said_capacity;
    json_t *calls;
    size_t n_calls;
};

struct hd_answering *hd_answering_new(struct hd_exchange *exchange, const struct hd_openai_request *request);
void hd_answering_free(struct hd_answering *answering); // NULL allowed
void hd_answering_start(struct hd_answering *answering);
// False: it wants no more.
bool hd_answering_text(struct hd_answering *answering, const char *text, size_t len);
void hd_answering_done(struct hd_answering *answering, const struct hearth_usage *usage);
void hd_answering_broken(struct hd_answering *answering, const struct hearth_error *error); // amid a stream

#endif
