// SPDX-License-Identifier: Apache-2.0
// HTTPS: the page's files, the CA for installation, and who may become a WebSocket; computed pages are http.c's. Loop
// thread.
#include <string.h>

#include "firmware/assets.h"
#include "firmware/http.h"

enum { HEADER_BYTES = 2048, CHUNK_BYTES = 16 << 10, VALUE_BYTES = 512, POLICY_BYTES = 1024 };
enum { HTTP_STATUS_MISDIRECTED = 421 };

// What is being sent; lies in libwebsockets' per-session memory.
struct page {
    const unsigned char *data;
    size_t left_bytes;
};

static struct hd_server *server_of(struct lws *wsi)
{
    return lws_context_user(lws_get_context(wsi));
}

static bool is_plain(struct lws *wsi)
{
    const struct hd_connection *connection = lws_get_opaque_user_data(wsi);
    return connection && connection->plain;
}

static bool header(struct lws *wsi, enum lws_token_indexes token, char value[VALUE_BYTES])
{
    int n = lws_hdr_total_length(wsi, token);
    value[0] = 0;
    return n > 0 && n < VALUE_BYTES && lws_hdr_copy(wsi, value, VALUE_BYTES, token) == n;
}

static bool add(struct lws *wsi, const char *name, const char *value, unsigned char **p, unsigned char *end)
{
    return lws_add_http_header_by_name(wsi, (const unsigned char *)name, (const unsigned char *)value,
                                       (int)strlen(value), p, end) == 0;
}

// 0 = fine; else the status to answer with.
static unsigned check_host(struct lws *wsi)
{
    char host[VALUE_BYTES];
    struct hd_server *server = server_of(wsi);
    unsigned port = is_plain(wsi) ? server->config->http_port : server->config->port;
    if (!header(wsi, WSI_TOKEN_HOST, host) || !hd_host_allowed(&server->names, port, host))
        return HTTP_STATUS_MISDIRECTED;
    return 0;
}

// Where the page may connect to: the box, as it was asked for. 'self' means wss: too, but not to older browsers.
static void policy_of(struct lws *wsi, char policy[POLICY_BYTES])
{
    char host[VALUE_BYTES] = "";
    bool named = check_host(wsi) == 0 && header(wsi, WSI_TOKEN_HOST, host) && host[0] != '['; // no policy knows [::1]
    snprintf(policy, POLICY_BYTES,
             "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'%s%s; "
             "font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
             "frame-ancestors 'none'",
             named ? " wss://" : "", named ? host : "");
}

static bool add_security(struct lws *wsi, unsigned char **p, unsigned char *end)
{
    char policy[POLICY_BYTES];
    policy_of(wsi, policy);
    return add(wsi, "content-security-policy:", policy, p, end) &&
           add(wsi, "x-content-type-options:", "nosniff", p, end) &&
           add(wsi, "referrer-policy:", "no-referrer", p, end) &&
           add(wsi, "x-frame-options:", "DENY", p, end) &&
           add(wsi, "cross-origin-opener-policy:", "same-origin", p, end) &&
           add(wsi, "cross-origin-resource-policy:", "same-origin", p, end) &&
           add(wsi, "permissions-policy:", "camera=(self), microphone=(), geolocation=()", p, end);
}

struct answer {
    unsigned status;
    const char *mime, *etag, *cache;
    const unsigned char *data;
    size_t len_bytes;
};

// Headers now, the body when the socket is writable. The result is the callback's.
static int reply(struct lws *wsi, struct page *page, const struct answer *answer, bool head_only)
{
    unsigned char buffer[LWS_PRE + HEADER_BYTES], *start = buffer + LWS_PRE, *p = start,
                                                  *end = buffer + sizeof buffer;
    char quoted[80];
    bool not_modified = answer->status == HTTP_STATUS_NOT_MODIFIED;
    size_t len = not_modified ? 0 : answer->len_bytes;
    if (lws_add_http_header_status(wsi, answer->status, &p, end) || !add_security(wsi, &p, end) ||
        !add(wsi, "cache-control:", answer->cache, &p, end))
        return -1;
    if (!not_modified && !add(wsi, "content-type:", answer->mime, &p, end))
        return -1;
    snprintf(quoted, sizeof quoted, "\"%.64s\"", answer->etag ? answer->etag : "");
    if (answer->etag && !add(wsi, "etag:", quoted, &p, end))
        return -1;
    if (lws_add_http_header_content_length(wsi, len, &p, end) ||
        lws_finalize_write_http_header(wsi, start, &p, end))
        return -1;
    page->data = answer->data;
    page->left_bytes = head_only ? 0 : len;
    if (page->left_bytes == 0)
        return lws_http_transaction_completed(wsi) ? -1 : 0;
    lws_callback_on_writable(wsi);
    return 0;
}

static int reply_text(struct lws *wsi, struct page *page, unsigned status, const char *text)
{
    struct answer answer = {status,     "text/plain; charset=utf-8", NULL,
                            "no-store", (const unsigned char *)text, strlen(text)};
    return reply(wsi, page, &answer, false);
}

// A whole answer in one write, before a hang-up. The library's own would speak HTTP/1.0 here.
static void refuse(struct lws *wsi, unsigned status, const char *why)
{
    unsigned char buffer[LWS_PRE + 256];
    char *text = (char *)buffer + LWS_PRE;
    int n = snprintf(text, 256,
                     "HTTP/1.1 %u Refused\r\ncontent-type: text/plain\r\ncontent-length: %zu\r\n"
                     "connection: close\r\n\r\n%s\n",
                     status, strlen(why) + 1, why);
    lws_write(wsi, buffer + LWS_PRE, (size_t)n, LWS_WRITE_HTTP_HEADERS);
}

static int send_body(struct lws *wsi, struct page *page)
{
    unsigned char buffer[LWS_PRE + CHUNK_BYTES];
    size_t n = page->left_bytes < CHUNK_BYTES ? page->left_bytes : CHUNK_BYTES;
    if (n == 0)
        return 0;
    memcpy(buffer + LWS_PRE, page->data, n);
    page->data += n;
    page->left_bytes -= n;
    if (lws_write(wsi, buffer + LWS_PRE, n, page->left_bytes ? LWS_WRITE_HTTP : LWS_WRITE_HTTP_FINAL) < 0)
        return -1;
    if (page->left_bytes == 0)
        return lws_http_transaction_completed(wsi) ? -1 : 0;
    lws_callback_on_writable(wsi);
    return 0;
}

static const struct hd_asset *find_asset(const char *path)
{
    if (strcmp(path, "/") == 0)
        path = "/index.html";
    for (size_t i = 0; i < hd_n_assets; i++) {
        if (strcmp(hd_assets[i].path, path) == 0)
            return &hd_assets[i];
    }
    return NULL;
}

static int get(struct lws *wsi, struct page *page, const char *path, bool head_only)
{
    struct hd_server *server = server_of(wsi);
    char match[VALUE_BYTES];
    struct answer answer = {.status = HTTP_STATUS_OK, .cache = "no-store"};
    if (strcmp(path, "/hearth-ca.crt") == 0 && server->identity->ca_der) {
        answer.mime = "application/x-x509-ca-cert";
        answer.data = server->identity->ca_der;
        answer.len_bytes = server->identity->ca_len;
        return reply(wsi, page, &answer, head_only);
    }
    if (strcmp(path, "/hearth-ca.mobileconfig") == 0 && server->mobileconfig) {
        answer.mime = "application/x-apple-aspen-config";
        answer.data = (const unsigned char *)server->mobileconfig;
        answer.len_bytes = strlen(server->mobileconfig);
        return reply(wsi, page, &answer, head_only);
    }
    const struct hd_asset *asset = find_asset(path);
    if (!asset)
        return reply_text(wsi, page, HTTP_STATUS_NOT_FOUND, "not found\n");
    answer =
        (struct answer){HTTP_STATUS_OK, asset->mime, asset->etag, "no-cache", asset->data, asset->len_bytes};
    if (header(wsi, WSI_TOKEN_HTTP_IF_NONE_MATCH, match) && strstr(match, asset->etag))
        answer.status = HTTP_STATUS_NOT_MODIFIED;
    return reply(wsi, page, &answer, head_only);
}

static enum hd_method method_of(int method)
{
    return method == LWSHUMETH_GET    ? HD_GET
           : method == LWSHUMETH_HEAD ? HD_HEAD
           : method == LWSHUMETH_POST ? HD_POST
                                      : HD_OTHER_METHOD;
}

static int on_http(struct lws *wsi, struct page *page)
{
    char *path, name[256];
    const char *why;
    int64_t body_len;
    int path_len;
    enum hd_method method = method_of(lws_http_get_uri_and_method(wsi, &path, &path_len));
    memset(page, 0, sizeof *page);
    unsigned refused = hd_http_check(wsi, &body_len, &why);
    if (refused) { // nothing of this connection can be trusted to begin where it seems to
        refuse(wsi, refused, why);
        return -1;
    }
    bool long_path = path_len <= 0 || (size_t)path_len >= sizeof name;
    memcpy(name, path, long_path ? 0 : (size_t)path_len);
    name[long_path ? 0 : path_len] = 0;
    const struct hd_route *route = hd_http_route(name);
    if (body_len > 0 && !(route && (route->post || !route->run) && method == HD_POST)) {
        refuse(wsi, route && route->post ? HTTP_STATUS_BAD_REQUEST : HTTP_STATUS_METHOD_NOT_ALLOWED,
               "nothing here takes that body");
        return -1;
    }
    refused = check_host(wsi);
    if (refused && body_len > 0) {
        refuse(wsi, refused, "this box is not known by that name");
        return -1;
    }
    if (refused)
        return reply_text(wsi, page, refused, "this box is not known by that name\n");
    if (route)
        return hd_exchange_begin(wsi, route, name, method, body_len);
    if (method != HD_GET && method != HD_HEAD) { // a body may follow, which nobody will read: hang up
        refuse(wsi, HTTP_STATUS_METHOD_NOT_ALLOWED, "only GET and HEAD");
        return -1;
    }
    if (long_path || is_plain(wsi))
        return reply_text(wsi, page, HTTP_STATUS_NOT_FOUND, "not found\n");
    return get(wsi, page, name, method == HD_HEAD);
}

// 0 lets the upgrade go on; the status that refuses it otherwise.
static unsigned check_upgrade(struct lws *wsi)
{
    struct hd_server *server = server_of(wsi);
    char value[VALUE_BYTES], path[16];
    unsigned refused = is_plain(wsi) ? HTTP_STATUS_FORBIDDEN : check_host(wsi);
    if (refused)
        return refused;
    if (lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI) <= 0 || strcmp(path, "/ws") != 0)
        return HTTP_STATUS_NOT_FOUND;
    if (lws_hdr_total_length(wsi, WSI_TOKEN_ORIGIN) > 0 && // a browser always sends one, other clients none
        (!header(wsi, WSI_TOKEN_ORIGIN, value) ||
         !hd_origin_allowed(&server->names, server->config->port, value)))
        return HTTP_STATUS_FORBIDDEN;
    if (!header(wsi, WSI_TOKEN_PROTOCOL, value) || strcmp(value, "hearth.v1") != 0)
        return HTTP_STATUS_BAD_REQUEST;
    return 0;
}

static void connection_ended(struct lws *wsi)
{
    struct hd_connection *connection = lws_get_opaque_user_data(wsi);
    if (!connection)
        return;
    struct hd_server *server = connection->server;
    if (server->adopting == connection)
        server->adopting = NULL;
    hd_exchange_free(&connection->exchange);
    lws_set_opaque_user_data(wsi, NULL);
    hd_connection_free(connection);
}

int hd_http_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct page *page = user;
    struct hd_connection *connection = lws_get_opaque_user_data(wsi);
    struct hd_exchange *exchange = connection ? connection->exchange : NULL;
    unsigned status;
    switch (reason) {
    case LWS_CALLBACK_HTTP: return on_http(wsi, page);
    case LWS_CALLBACK_HTTP_WRITEABLE: return exchange ? hd_exchange_writable(exchange) : send_body(wsi, page);
    case LWS_CALLBACK_HTTP_BODY: return exchange ? hd_exchange_body(exchange, in, len) : -1;
    case LWS_CALLBACK_TIMER: return exchange ? hd_exchange_timer(exchange) : 0;
    case LWS_CALLBACK_CLOSED_HTTP:
        if (connection)
            hd_exchange_free(&connection->exchange);
        return 0;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        status = check_upgrade(wsi);
        if (status == 0)
            return 0;
        refuse(wsi, status, "no WebSocket there");
        return -1;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION: // a WebSocket without our sub-protocol
    case LWS_CALLBACK_ESTABLISHED: return -1;
    case LWS_CALLBACK_WSI_DESTROY: connection_ended(wsi); return 0;
    default: return 0;
    }
}
