// SPDX-License-Identifier: Apache-2.0
// One HTTP request that is computed rather than a file of the page: its shape, who asks, its body, and the bounded
// queue of what is sent back. Loop thread only.
//
// libwebsockets parses leniently. What it lets through is checked here, strictly, and every connection that brought a
// computed request ends with its answer: nothing that a broken request leaves in the pipe is ever read as another.
#ifndef HD_HTTP_H
#define HD_HTTP_H
#include "firmware/server.h"

struct hd_exchange;
struct hd_answering; // openai.c

enum hd_method { HD_GET = 1, HD_HEAD, HD_POST, HD_OTHER_METHOD };

struct hd_route {
    const char *path; // ends with '/': everything below
    bool post;        // else GET and HEAD; without `run` any method, and nothing is there
    bool read_by_all; // no token; else one with scope chat, unless the handler knows better
    bool metrics;     // loopback, or a token with scope admin
    void (*run)(struct hd_exchange *exchange);
};

struct hd_exchange {
    struct hd_exchange *next; // of the server's list
    struct hd_server *server;
    struct lws *wsi; // NULL once the connection is gone
    struct hd_connection *connection;
    const struct hd_route *route;
    const char *rest; // the path below a route that ends with '/'
    char path[256];
    struct hd_device device;
    bool head_only, keeps_old_http; // HTTP/1.0: no chunks
    int64_t started_ms;
    // the body
    char *body;
    size_t body_len, body_capacity, expected;
    bool taken;       // the handler has run, or it was refused
    unsigned refused; // status to answer with once the body is through
    const char *refused_code, *refused_text;
    // the answer
    uint8_t *out;
    size_t out_len, out_sent, out_capacity;
    unsigned status; // that was answered
    bool streams, ended;
    struct hd_answering *answering; // whoever still writes to it
};

// NULL: no computed page has that path.
const struct hd_route *hd_http_route(const char *path);
// 0, or the status with which a request of a doubtful shape is refused. *body_len = its Content-Length, -1 without one.
unsigned hd_http_check(struct lws *wsi, int64_t *body_len, const char **why);
// Callbacks of the connection. Results are libwebsockets': -1 hangs up.
int hd_exchange_begin(struct lws *wsi, const struct hd_route *route, const char *path, enum hd_method method,
                      int64_t body_len);
int hd_exchange_body(struct hd_exchange *exchange, const void *data, size_t len);
int hd_exchange_writable(struct hd_exchange *exchange);
int hd_exchange_timer(struct hd_exchange *exchange);
void hd_exchange_free(struct hd_exchange **exchange); // the connection is gone

// A whole answer. `extra`: further header lines, each with its line end, or NULL.
void hd_exchange_reply(struct hd_exchange *exchange, unsigned status, const char *mime, const char *extra,
                       const char *body, size_t len);
// {"error": {…}} as OpenAI's clients read it; `param` may be NULL.
void hd_exchange_error(struct hd_exchange *exchange, unsigned status, const char *code, const char *param,
                       const char *text);
// An answer in pieces: head, pieces, end. A reader who falls HD_MAX_SEND_QUEUE_BYTES behind is cut.
void hd_exchange_stream(struct hd_exchange *exchange, const char *mime);
void hd_exchange_piece(struct hd_exchange *exchange, const char *data, size_t len);
void hd_exchange_end(struct hd_exchange *exchange);
void hd_exchange_cut(struct hd_exchange *exchange); // at once, whatever was still to be sent

// ---- handlers

void hd_openai_chat(struct hd_exchange *exchange);
void hd_openai_complete(struct hd_exchange *exchange);
void hd_openai_models(struct hd_exchange *exchange);
void hd_openai_model(struct hd_exchange *exchange);
void hd_openai_gone(struct hd_exchange *exchange); // its client is: what still runs for it is cancelled
void hd_health(struct hd_exchange *exchange);
void hd_health_live(struct hd_exchange *exchange);
void hd_health_ready(struct hd_exchange *exchange);
void hd_metrics_page(struct hd_exchange *exchange);

#endif
