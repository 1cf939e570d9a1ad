// SPDX-License-Identifier: Apache-2.0
// HTTPS: the page's files, the CA for installation, /health, and who may become a WebSocket. Loop thread.
#include <string.h>

#include "firmware/assets.h"
#include "firmware/server.h"

enum { HEADER_BYTES = 2048, CHUNK_BYTES = 16 << 10, VALUE_BYTES = 512, HTTP_STATUS_MISDIRECTED = 421 };

// What is being sent; lies in libwebsockets' per-session memory.
struct page {
    const unsigned char *data;
    size_t left_bytes;
};

static struct hd_server *server_of(struct lws *wsi)
{
    return lws_context_user(lws_get_context(wsi));
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

static bool add_security(struct lws *wsi, unsigned char **p, unsigned char *end)
{
    return add(wsi, "content-security-policy:",
               "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src "
               "'self' wss:; "
               "font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action "
               "'none'; frame-ancestors 'none'",
               p, end) &&
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
static void refuse(struct lws *wsi, unsigned status)
{
    unsigned char buffer[LWS_PRE + 128];
    char *text = (char *)buffer + LWS_PRE;
    int n =
        snprintf(text, 128, "HTTP/1.1 %u Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", status);
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

// 0 = fine; else the status to answer with.
static unsigned check_host(struct lws *wsi)
{
    char host[VALUE_BYTES];
    struct hd_server *server = server_of(wsi);
    if (!header(wsi, WSI_TOKEN_HOST, host) || !hd_host_allowed(&server->names, server->config->port, host))
        return HTTP_STATUS_MISDIRECTED;
    return 0;
}

static int get(struct lws *wsi, struct page *page, const char *path, bool head_only)
{
    struct hd_server *server = server_of(wsi);
    char match[VALUE_BYTES];
    static const char healthy[] = "{\"status\":\"ok\"}";
    struct answer answer = {
        HTTP_STATUS_OK,    "application/json", NULL, "no-store", (const unsigned char *)healthy,
        sizeof healthy - 1};
    if (strcmp(path, "/health") == 0)
        return reply(wsi, page, &answer, head_only);
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

static int on_http(struct lws *wsi, struct page *page)
{
    char *path;
    int path_len, method = lws_http_get_uri_and_method(wsi, &path, &path_len);
    memset(page, 0, sizeof *page);
    unsigned refused = check_host(wsi);
    if (refused)
        return reply_text(wsi, page, refused, "this box is not known by that name\n");
    if (method != LWSHUMETH_GET &&
        method != LWSHUMETH_HEAD) { // a body may follow, which nobody will read: hang up
        refuse(wsi, HTTP_STATUS_METHOD_NOT_ALLOWED);
        return -1;
    }
    char name[256];
    if (path_len <= 0 || (size_t)path_len >= sizeof name)
        return reply_text(wsi, page, HTTP_STATUS_NOT_FOUND, "not found\n");
    memcpy(name, path, (size_t)path_len);
    name[path_len] = 0;
    return get(wsi, page, name, method == LWSHUMETH_HEAD);
}

// 0 lets the upgrade go on; the status that refuses it otherwise.
static unsigned check_upgrade(struct lws *wsi)
{
    struct hd_server *server = server_of(wsi);
    char value[VALUE_BYTES], path[16];
    unsigned refused = check_host(wsi);
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
    hd_guard_disconnect(server->guard, &connection->address);
    lws_set_opaque_user_data(wsi, NULL);
    free(connection);
}

int hd_http_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct page *page = user;
    unsigned status;
    (void)in;
    (void)len;
    switch (reason) {
    case LWS_CALLBACK_HTTP: return on_http(wsi, page);
    case LWS_CALLBACK_HTTP_WRITEABLE: return send_body(wsi, page);
    case LWS_CALLBACK_HTTP_BODY: // nothing here takes a body
        return -1;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        status = check_upgrade(wsi);
        if (status == 0)
            return 0;
        refuse(wsi, status);
        return -1;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION: // a WebSocket without our sub-protocol
    case LWS_CALLBACK_ESTABLISHED: return -1;
    case LWS_CALLBACK_WSI_DESTROY: connection_ended(wsi); return 0;
    default: return 0;
    }
}
