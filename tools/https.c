// SPDX-License-Identifier: Apache-2.0
// An HTTPS GET on libwebsockets. One context per call: nothing is shared between servers. The callbacks and
// the loop run on the caller's thread.
#include "tools/https.h"

#include <errno.h>
#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/ask.h"
#include "tools/client/identity.h"
#include "tools/paths.h"
#include "tools/progress.h"

static const char *const ca_files[] = {
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
    "/etc/ssl/cert.pem",
};
enum { MAX_HEADER_BYTES = 16384, BODY_BLOCK = 65536, MAX_CA_BYTES = 8 << 20 };

struct exchange {
    const struct https_call *call;
    struct https_reply *reply;
    double last_s; // when something came last
    bool over, tls_failed;
    enum https_end end;
};

static void end_with(struct exchange *exchange, enum https_end end, const char *why)
{
    if (exchange->over)
        return;
    exchange->over = true;
    exchange->end = end;
    if (why)
        snprintf(exchange->reply->error, sizeof exchange->reply->error, "%s", why);
}

static int add_header(struct lws *wsi, const char *name, const char *value, unsigned char **p,
                      unsigned char *end)
{
    return lws_add_http_header_by_name(wsi, (const unsigned char *)name, (const unsigned char *)value,
                                       (int)strlen(value), p, end);
}

static int add_headers(const struct https_call *call, struct lws *wsi, unsigned char **p, unsigned char *end)
{
    char text[512];
    int bad = add_header(wsi, "user-agent:", "hearth/" HEARTH_VERSION, p, end) ||
              add_header(wsi, "accept:", "*/*", p, end) ||
              add_header(wsi, "accept-encoding:", "identity", p, end);
    if (!bad && call->bearer) {
        snprintf(text, sizeof text, "Bearer %s", call->bearer);
        bad = add_header(wsi, "authorization:", text, p, end);
    }
    if (!bad && call->range_from && call->if_range) {
        snprintf(text, sizeof text, "bytes=%llu-", (unsigned long long)call->range_from);
        bad = add_header(wsi, "range:", text, p, end) || add_header(wsi, "if-range:", call->if_range, p, end);
    }
    return bad;
}

static void read_header(struct lws *wsi, enum lws_token_indexes token, char *text, size_t size)
{
    if (lws_hdr_copy(wsi, text, (int)size, token) < 0)
        text[0] = 0;
}

static bool parse_number(const char **at, uint64_t *value)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    *value = strtoull(*at, &end, 10);
    *at = end;
    return !errno;
}

// "bytes 100-199/200"
static bool parse_range(const char *text, struct https_reply *reply)
{
    const char *at = text + 6;
    return !strncasecmp(text, "bytes ", 6) && parse_number(&at, &reply->range_first) && *at++ == '-' &&
           parse_number(&at, &reply->range_last) && *at++ == '/' && parse_number(&at, &reply->range_total) &&
           !*at && reply->range_first <= reply->range_last && reply->range_last < reply->range_total;
}

static void read_head(struct lws *wsi, struct https_reply *reply)
{
    char text[128];
    const char *at = text;
    reply->status = (int)lws_http_client_http_response(wsi);
    read_header(wsi, WSI_TOKEN_HTTP_LOCATION, reply->location, sizeof reply->location);
    read_header(wsi, WSI_TOKEN_HTTP_ETAG, reply->etag, sizeof reply->etag);
    if (lws_hdr_custom_copy(wsi, reply->linked_etag, sizeof reply->linked_etag, "x-linked-etag:", 14) < 0)
        reply->linked_etag[0] = 0;
    read_header(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH, text, sizeof text);
    reply->has_length = parse_number(&at, &reply->length) && !*at;
    read_header(wsi, WSI_TOKEN_HTTP_CONTENT_RANGE, text, sizeof text);
    reply->has_range = parse_range(text, reply);
}

static void on_error(struct exchange *exchange, const char *text, size_t len)
{
    char why[160];
    snprintf(why, sizeof why, "%.*s", text ? (int)len : 10, text ? text : "no details");
    exchange->tls_failed = strstr(why, "mbedtls") || strstr(why, "cert");
    end_with(exchange, HTTPS_UNREACHABLE, why);
}

// The library's words for a refused certificate depend on timing: a look of our own tells.
static void explain_tls_failure(struct exchange *exchange, const char *ca_file)
{
    char why[160];
    char *pem = paths_read(ca_file, MAX_CA_BYTES);
    const struct url *url = exchange->call->url;
    if (pem && identity_untrusted(url->host, url->port, (unsigned char *)pem, strlen(pem) + 1, why)) {
        exchange->end = HTTPS_UNTRUSTED;
        memcpy(exchange->reply->error, why, sizeof why);
    }
    free(pem);
}

static int read_body(struct exchange *exchange, struct lws *wsi)
{
    char block[LWS_PRE + BODY_BLOCK], *at = block + LWS_PRE;
    int len = BODY_BLOCK;
    if (lws_http_client_read(wsi, &at, &len) < 0)
        return -1;
    return exchange->over ? -1 : 0;
}

static int on_http(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct exchange *exchange = lws_context_user(lws_get_context(wsi));
    (void)user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
        return add_headers(exchange->call, wsi, in, *(unsigned char **)in + len) ? -1 : 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR: on_error(exchange, in, len); break;
    case LWS_CALLBACK_ESTABLISHED_CLIENT_HTTP:
        exchange->last_s = progress_clock_s();
        read_head(wsi, exchange->reply);
        if (!exchange->call->on_head(exchange->call->user, exchange->reply)) {
            end_with(exchange, HTTPS_STOPPED, NULL);
            return -1;
        }
        break;
    case LWS_CALLBACK_RECEIVE_CLIENT_HTTP: return read_body(exchange, wsi);
    case LWS_CALLBACK_RECEIVE_CLIENT_HTTP_READ:
        exchange->last_s = progress_clock_s();
        if (!exchange->over && !exchange->call->on_body(exchange->call->user, in, len))
            end_with(exchange, HTTPS_STOPPED, NULL);
        return exchange->over ? -1 : 0;
    case LWS_CALLBACK_COMPLETED_CLIENT_HTTP: end_with(exchange, HTTPS_WHOLE, NULL); break;
    case LWS_CALLBACK_CLOSED_CLIENT_HTTP:
        end_with(exchange, HTTPS_BROKEN, "the server closed the connection");
        break;
    default: break;
    }
    return 0;
}

static const char *find_ca(const char *wanted)
{
    if (wanted)
        return access(wanted, R_OK) ? NULL : wanted;
    const char *named = getenv("SSL_CERT_FILE");
    if (named && named[0] && !access(named, R_OK))
        return named;
    for (size_t i = 0; i < sizeof ca_files / sizeof *ca_files; i++)
        if (!access(ca_files[i], R_OK))
            return ca_files[i];
    return NULL;
}

// Wakes the loop so that idle time and Ctrl-C are seen.
static void on_tick(lws_sorted_usec_list_t *timer)
{
    (void)timer;
}

static void serve(struct lws_context *context, struct exchange *exchange)
{
    lws_sorted_usec_list_t tick = {0};
    exchange->last_s = progress_clock_s();
    while (!exchange->over) {
        lws_sul_schedule(context, 0, &tick, on_tick, LWS_US_PER_SEC / 4);
        if (lws_service(context, 0) < 0)
            end_with(exchange, HTTPS_BROKEN, "the connection failed");
        if (ask_interrupted())
            end_with(exchange, HTTPS_INTERRUPTED, "interrupted");
        if (progress_clock_s() - exchange->last_s > exchange->call->idle_timeout_s)
            end_with(exchange, HTTPS_BROKEN, "the server sends nothing");
    }
    lws_sul_cancel(&tick);
}

static bool connect_to(struct lws_context *context, const struct url *url)
{
    struct lws_client_connect_info connect;
    memset(&connect, 0, sizeof connect);
    char host[URL_HOST_MAX + 16];
    bool v6 = strchr(url->host, ':') != NULL;
    if (url->port == 443)
        snprintf(host, sizeof host, v6 ? "[%s]" : "%s", url->host);
    else
        snprintf(host, sizeof host, v6 ? "[%s]:%u" : "%s:%u", url->host, url->port);
    connect.context = context;
    connect.address = url->host;
    connect.port = url->port;
    connect.path = url->path;
    connect.host = host;
    connect.method = "GET";
    connect.alpn = "http/1.1";
    connect.protocol = "https";
    connect.local_protocol_name = "https";
    connect.ssl_connection = LCCSCF_USE_SSL | LCCSCF_HTTP_NO_FOLLOW_REDIRECT;
    return lws_client_connect_via_info(&connect) != NULL;
}

enum https_end https_get(const struct https_call *call, struct https_reply *reply)
{
    static const struct lws_protocols protocols[] = {{"https", on_http, 0, BODY_BLOCK, 0, NULL, 0},
                                                     LWS_PROTOCOL_LIST_TERM};
    struct exchange exchange = {.call = call, .reply = reply};
    struct lws_context_creation_info info;
    memset(reply, 0, sizeof *reply);
    memset(&info, 0, sizeof info);
    lws_set_log_level(0, NULL);
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.protocols = protocols;
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    info.max_http_header_data = MAX_HEADER_BYTES;
    info.pt_serv_buf_size = MAX_HEADER_BYTES;
    info.user = &exchange;
    info.client_ssl_ca_filepath = find_ca(call->ca_file);
    if (!info.client_ssl_ca_filepath) {
        snprintf(reply->error, sizeof reply->error, "%s",
                 call->ca_file ? "the --ca file cannot be read"
                               : "no certificate authorities here (package ca-certificates)");
        return HTTPS_UNREACHABLE;
    }
    struct lws_context *context = lws_create_context(&info);
    if (!context) {
        snprintf(reply->error, sizeof reply->error, "%s: no usable certificate authorities",
                 info.client_ssl_ca_filepath);
        return HTTPS_UNREACHABLE;
    }
    if (!connect_to(context, call->url))
        end_with(&exchange, HTTPS_UNREACHABLE, reply->error[0] ? NULL : "no connection");
    else
        serve(context, &exchange);
    lws_context_destroy(context);
    if (exchange.tls_failed)
        explain_tls_failure(&exchange, info.client_ssl_ca_filepath);
    return exchange.end;
}
