// SPDX-License-Identifier: Apache-2.0
// Computed requests: routes, body, answer (http.h). Loop thread only.
#include "firmware/http.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/http_auth.h"
#include "firmware/json_text.h"
#include "firmware/metrics.h"

enum { PIECE_BYTES = 16 << 10, CHUNK_MARK_BYTES = 16 };

static const struct hd_route routes[] = {
    {.path = "/v1/chat/completions", .post = true, .run = hd_openai_chat},
    {.path = "/v1/completions", .post = true, .run = hd_openai_complete},
    {.path = "/v1/models", .run = hd_openai_models},
    {.path = "/v1/models/", .run = hd_openai_model},
    {.path = "/v1/"}, // what other servers have there: clients want to be told in their own form
    {.path = "/health", .read_by_all = true, .run = hd_health},
    {.path = "/health/live", .read_by_all = true, .run = hd_health_live},
    {.path = "/health/ready", .read_by_all = true, .run = hd_health_ready},
    {.path = "/metrics", .metrics = true, .run = hd_metrics_page},
};

const struct hd_route *hd_http_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        size_t len = strlen(routes[i].path);
        bool below = routes[i].path[len - 1] == '/';
        if (below ? !strncmp(path, routes[i].path, len) : !strcmp(path, routes[i].path))
            return &routes[i];
    }
    return NULL;
}

// ---- sending

void hd_exchange_cut(struct hd_exchange *x)
{
    x->taken = x->ended = true;
    hd_wipe(x->out, x->out_len);
    x->out_len = x->out_sent = 0;
    lws_set_timeout(x->wsi, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_ASYNC);
}

// The timer is never cancelled: one that fires with nothing to send is ignored.
static void restart_timer(struct hd_exchange *x, unsigned seconds)
{
    lws_set_timer_usecs(x->wsi, (lws_usec_t)seconds * LWS_US_PER_SEC);
}

// Room for `need` more bytes; false when the reader is too far behind or memory is out: then it is cut.
static bool make_room(struct hd_exchange *x, size_t need)
{
    if (x->out_sent) {
        memmove(x->out, x->out + x->out_sent, x->out_len - x->out_sent);
        x->out_len -= x->out_sent;
        x->out_sent = 0;
    }
    size_t capacity = x->out_capacity ? x->out_capacity : 2048;
    while (capacity < x->out_len + need)
        capacity *= 2;
    bool good = x->out_len + need <= HD_MAX_SEND_QUEUE_BYTES;
    uint8_t *out = good && capacity > x->out_capacity ? malloc(capacity) : x->out;
    if (!good || !out) {
        hd_exchange_cut(x);
        return false;
    }
    if (out != x->out) {
        if (x->out_len)
            memcpy(out, x->out, x->out_len);
        hd_wipe_free(x->out, x->out_capacity);
        x->out = out;
        x->out_capacity = capacity;
    }
    return true;
}

static void put(struct hd_exchange *x, const char *data, size_t len)
{
    if (!x->wsi || (x->ended && !x->out_len) || !make_room(x, len))
        return;
    bool idle = x->out_len == 0;
    memcpy(x->out + x->out_len, data, len);
    x->out_len += len;
    if (idle)
        restart_timer(x, HD_STALL_S);
    lws_callback_on_writable(x->wsi);
}

static const char *reason_of(unsigned status)
{
    static const struct {
        unsigned status;
        const char *reason;
    } reasons[] = {
        {200, "OK"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {421, "Misdirected Request"},
        {429, "Too Many Requests"},
        {500, "Internal Server Error"},
        {503, "Service Unavailable"},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Error";
}

static void put_head(struct hd_exchange *x, unsigned status, const char *mime, const char *extra,
                     const char *length)
{
    char head[1024];
    x->status = status;
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %u %s\r\ncontent-type: %s\r\n%s%scache-control: no-store\r\n"
                     "x-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
                     "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n"
                     "cross-origin-opener-policy: same-origin\r\n"
                     "cross-origin-resource-policy: same-origin\r\nconnection: close\r\n\r\n",
                     status, reason_of(status), mime, length, extra ? extra : "");
    put(x, head, (size_t)n);
}

void hd_exchange_reply(struct hd_exchange *x, unsigned status, const char *mime, const char *extra,
                       const char *body, size_t len)
{
    char length[48];
    if (x->ended || x->status)
        return;
    snprintf(length, sizeof length, "content-length: %zu\r\n", len);
    put_head(x, status, mime, extra, length);
    if (!x->head_only)
        put(x, body, len);
    hd_exchange_end(x);
}

static const char *type_of(unsigned status)
{
    return status == 401   ? "authentication_error"
           : status == 403 ? "permission_error"
           : status == 404 ? "not_found_error"
           : status == 429 ? "rate_limit_error"
           : status >= 500 ? "server_error"
                           : "invalid_request_error";
}

void hd_exchange_error(struct hd_exchange *x, unsigned status, const char *code, const char *param,
                       const char *text)
{
    const char *extra = status == 429
                            ? (strcmp(code, "wrong_tokens") ? "retry-after: 5\r\n" : "retry-after: 60\r\n")
                        : status == 401 ? "www-authenticate: Bearer\r\n"
                        : status == 405 ? (x->route->post ? "allow: POST\r\n" : "allow: GET, HEAD\r\n")
                                        : NULL;
    json_t *error = json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", text, "type", type_of(status),
                              "param", param, "code", code);
    char *body = hd_json_text(error, JSON_COMPACT);
    json_decref(error);
    hd_exchange_reply(x, status, "application/json", extra, body ? body : "{}", body ? strlen(body) : 2);
    free(body);
}

void hd_exchange_stream(struct hd_exchange *x, const char *mime)
{
    if (!x->ended && !x->status) {
        x->streams = true;
        put_head(x, HTTP_STATUS_OK, mime, NULL, x->keeps_old_http ? "" : "transfer-encoding: chunked\r\n");
    }
}

void hd_exchange_piece(struct hd_exchange *x, const char *data, size_t len)
{
    char mark[CHUNK_MARK_BYTES];
    if (x->ended || !len)
        return;
    int n = snprintf(mark, sizeof mark, "%zx\r\n", len);
    if (!x->keeps_old_http)
        put(x, mark, (size_t)n);
    put(x, data, len);
    if (!x->keeps_old_http)
        put(x, "\r\n", 2);
}

void hd_exchange_end(struct hd_exchange *x)
{
    if (x->ended)
        return;
    if (x->streams && !x->keeps_old_http)
        put(x, "0\r\n\r\n", 5);
    if (x->ended) // it was cut
        return;
    x->ended = true;
    if (x->wsi)
        lws_callback_on_writable(x->wsi);
}

int hd_exchange_writable(struct hd_exchange *x)
{
    unsigned char buffer[LWS_PRE + PIECE_BYTES];
    size_t n = x->out_len - x->out_sent < PIECE_BYTES ? x->out_len - x->out_sent : PIECE_BYTES;
    if (n) {
        memcpy(buffer + LWS_PRE, x->out + x->out_sent, n);
        hd_wipe(x->out + x->out_sent, n);
        x->out_sent += n;
        if (lws_write(x->wsi, buffer + LWS_PRE, n, LWS_WRITE_HTTP) < 0)
            return -1;
    }
    if (x->out_sent < x->out_len) {
        restart_timer(x, HD_STALL_S);
        lws_callback_on_writable(x->wsi);
        return 0;
    }
    x->out_len = x->out_sent = 0;
    if (!x->taken) // it was told to go on with the body
        restart_timer(x, HD_BODY_S);
    return x->ended ? -1 : 0; // what the socket did not take yet, libwebsockets sends before it hangs up
}

// ---- the request

static void run(struct hd_exchange *x)
{
    x->taken = true;
    if (x->refused)
        hd_exchange_error(x, x->refused, x->refused_code, NULL, x->refused_text);
    else
        x->route->run(x);
    hd_wipe_free(x->body, x->body_capacity);
    x->body = NULL;
    x->body_len = x->body_capacity = 0;
}

static void refuse(struct hd_exchange *x, unsigned status, const char *code, const char *text)
{
    x->refused = status;
    x->refused_code = code;
    x->refused_text = text;
}

int hd_exchange_begin(struct lws *wsi, const struct hd_route *route, const char *path, enum hd_method method,
                      int64_t body_len)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct hd_connection *connection = lws_get_opaque_user_data(wsi);
    struct hd_exchange *x = calloc(1, sizeof *x);
    if (!x || !connection || connection->exchange) {
        free(x);
        return -1;
    }
    *x = (struct hd_exchange){.server = connection->server,
                              .wsi = wsi,
                              .connection = connection,
                              .route = route,
                              .head_only = method == HD_HEAD,
                              .started_ms = hd_now_ms()};
    char version[16] = "";
    lws_hdr_copy(wsi, version, sizeof version, WSI_TOKEN_HTTP);
    x->keeps_old_http = strcmp(version, "HTTP/1.1") != 0;
    snprintf(x->path, sizeof x->path, "%s", path);
    x->rest = x->path + strlen(route->path);
    connection->exchange = x;
    x->next = x->server->exchanges;
    x->server->exchanges = x;
    lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0);
    if (route->run && (route->post ? method != HD_POST : method == HD_POST || method == HD_OTHER_METHOD))
        refuse(x, HTTP_STATUS_METHOD_NOT_ALLOWED, "method_not_allowed", "that path has another method");
    else
        hd_http_authorise(x);
    connection->known = !hd_id_is_zero(&x->device.id);
    if (connection->known)
        hd_guard_know(x->server->guard, &connection->address);
    if (!x->refused && !route->run)
        refuse(x, HTTP_STATUS_NOT_FOUND, "unknown_url", "there is nothing under that path");
    x->expected = body_len > 0 ? (size_t)body_len : 0;
    if (!x->refused && route->post && body_len < 0)
        refuse(x, 411, "length_required", "a body needs a Content-Length");
    if (!x->refused && x->expected > HD_MAX_BODY_BYTES)
        refuse(x, 413, "too_large", "a body may have 2 MiB");
    if (x->expected > HD_MAX_DRAIN_BYTES) // else it is read and dropped, so that the answer is not lost
        x->expected = 0;
    if (x->expected == 0) {
        run(x);
        return 0;
    }
    restart_timer(x, HD_BODY_S);
    char expect[16] = "";
    if (lws_hdr_copy(wsi, expect, sizeof expect, WSI_TOKEN_HTTP_EXPECT) > 0) {
        if (strcasecmp(expect, "100-continue") == 0 && !x->refused)
            put(x, go_on, sizeof go_on - 1);
        else
            run(x); // without the body
    }
    return 0;
}

int hd_exchange_body(struct hd_exchange *x, const void *data, size_t len)
{
    if (x->taken)
        return x->refused || x->ended ? 0 : -1; // bytes beyond the request: nobody asked for them
    if (len > x->expected - x->body_len) {
        refuse(x, HTTP_STATUS_BAD_REQUEST, "bad_request", "there is more than Content-Length says");
        run(x);
        return 0;
    }
    if (x->refused) {
        x->body_len += len;
    } else {
        size_t capacity = x->body_capacity ? x->body_capacity : 4096;
        while (capacity < x->body_len + len)
            capacity *= 2;
        if (capacity > x->body_capacity) {
            char *body = malloc(capacity);
            if (!body)
                return -1;
            if (x->body_len)
                memcpy(body, x->body, x->body_len);
            hd_wipe_free(x->body, x->body_capacity);
            x->body = body;
            x->body_capacity = capacity;
        }
        memcpy(x->body + x->body_len, data, len);
        x->body_len += len;
    }
    if (x->body_len == x->expected)
        run(x);
    return 0;
}

int hd_exchange_timer(struct hd_exchange *x)
{
    return x->taken && x->out_len == x->out_sent ? 0 : -1; // a body, or a reader, that does not come on
}

void hd_exchanges_revoked(struct hd_server *server, const struct hd_id *device)
{
    for (struct hd_exchange *x = server->exchanges; x; x = x->next)
        if (hd_id_equal(&x->device.id, device))
            hd_exchange_cut(x);
}

void hd_exchange_free(struct hd_exchange **out)
{
    struct hd_exchange *x = *out;
    *out = NULL;
    if (!x)
        return;
    struct hd_exchange **link = &x->server->exchanges;
    while (*link != x)
        link = &(*link)->next;
    *link = x->next;
    x->wsi = NULL;
    hd_openai_gone(x);
    hd_metrics_http(x->server->metrics, x->route->path, x->status ? x->status : 499);
    hd_wipe_free(x->body, x->body_capacity);
    hd_wipe_free(x->out, x->out_capacity);
    hd_wipe(&x->device, sizeof x->device);
    free(x);
}
