// SPDX-License-Identifier: Apache-2.0
// The shape of HTTP requests, and who asks (http_auth.h). Loop thread only.
#include "firmware/http_auth.h"

#include <ctype.h>
#include <string.h>

enum { VALUE_BYTES = 512 };

// ---- shape

#ifndef HEARTH_OLD_TLS
static void check_name(const char *name, int len, void *opaque)
{
    bool *bad = opaque;
    for (int i = 0; i < len - 1 && !*bad; i++) { // the last one is ':'
        unsigned char c = (unsigned char)name[i];
        *bad = !isalnum(c) && !strchr("!#$%&'*+-.^_`|~", c);
    }
    *bad = *bad || len < 2;
}
#endif

unsigned hd_http_check(struct lws *wsi, int64_t *body_len, const char **why)
{
    static const enum lws_token_indexes once[] = {
        WSI_TOKEN_HOST, WSI_TOKEN_ORIGIN, WSI_TOKEN_HTTP_CONTENT_LENGTH, WSI_TOKEN_HTTP_AUTHORIZATION};
    char length[24];
    bool bad = false;
    *body_len = -1;
    *why = "a header came twice";
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        if (lws_hdr_fragment_length(wsi, once[i], 1) > 0)
            return HTTP_STATUS_BAD_REQUEST;
#ifndef HEARTH_OLD_TLS // a name with a space, a folded line, a line without colon
    *why = "a header line is malformed";
    lws_hdr_custom_name_foreach(wsi, check_name, &bad);
    if (bad)
        return HTTP_STATUS_BAD_REQUEST;
#endif
    *why = "Transfer-Encoding is not taken: send Content-Length";
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0)
        return HTTP_STATUS_BAD_REQUEST;
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) <= 0)
        return 0;
    *why = "Content-Length is no number";
    int n = lws_hdr_copy(wsi, length, sizeof length, WSI_TOKEN_HTTP_CONTENT_LENGTH);
    if (n < 1 || n > 15)
        return HTTP_STATUS_BAD_REQUEST;
    *body_len = 0;
    for (int i = 0; i < n; i++) {
        if (!isdigit((unsigned char)length[i]))
            return HTTP_STATUS_BAD_REQUEST;
        *body_len = *body_len * 10 + (length[i] - '0');
    }
    return 0;
}

// ---- who

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void hd_token_to_text(char text[HD_TOKEN_TEXT_BYTES], const uint8_t token[HD_SECRET_BYTES])
{
    unsigned bits = 0, n_bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < HD_SECRET_BYTES; i++) {
        bits = bits << 8 | token[i];
        for (n_bits += 8; n_bits >= 6; n_bits -= 6)
            text[n++] = digits[bits >> (n_bits - 6) & 63];
    }
    text[n++] = digits[bits << (6 - n_bits) & 63]; // 256 bits leave 4
    text[n] = 0;
}

bool hd_token_from_text(uint8_t token[HD_SECRET_BYTES], const char *text)
{
    size_t len = strlen(text), n = 0;
    unsigned bits = 0, n_bits = 0;
    if (len == 44 && text[43] == '=')
        len = 43;
    if (len != 43)
        return false;
    for (size_t i = 0; i < len; i++) {
        const char *at = strchr(digits, text[i]);
        if (!at)
            return false;
        bits = bits << 6 | (unsigned)(at - digits);
        n_bits += 6;
        if (n_bits >= 8 && n < HD_SECRET_BYTES) {
            n_bits -= 8;
            token[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    return n == HD_SECRET_BYTES && (bits & ((1u << n_bits) - 1)) == 0;
}

static void refuse(struct hd_exchange *x, unsigned status, const char *code, const char *text)
{
    x->refused = status;
    x->refused_code = code;
    x->refused_text = text;
}

static void wrong_token(struct hd_exchange *x)
{
    char address[INET6_ADDRSTRLEN + 2];
    enum hd_try try = hd_guard_wrong_try(x->server->guard, &x->connection->address, hd_now_ms());
    if (try == HD_TRY_WAIT_TOLD) {
        hd_address_format(address, &x->connection->address, false);
        hd_log(HD_LOG_WARN, "%s: %d wrong tokens within a minute; it must wait", address,
               HD_WRONG_TRIES_PER_MINUTE);
    }
    if (try == HD_TRY_WRONG)
        refuse(x, HTTP_STATUS_UNAUTHORIZED, "invalid_api_key", "the token is not known here");
    else
        refuse(x, 429, "wrong_tokens", "the token is not known here, and there were too many such: wait a minute");
}

static bool read_token(struct hd_exchange *x, uint8_t token[HD_SECRET_BYTES])
{
    static const char scheme[] = "bearer ";
    char value[VALUE_BYTES];
    int n = lws_hdr_copy(x->wsi, value, sizeof value, WSI_TOKEN_HTTP_AUTHORIZATION);
    size_t at = sizeof scheme - 1;
    bool good = n > 0 && strlen(value) == (size_t)n && strncasecmp(value, scheme, at) == 0;
    while (good && value[at] == ' ')
        at++;
    good = good && hd_token_from_text(token, value + at);
    hd_wipe(value, sizeof value);
    return good;
}

static void check_token(struct hd_exchange *x, uint32_t scope)
{
    uint8_t token[HD_SECRET_BYTES];
    struct hearth_error error = {0};
    enum hearth_status status = HEARTH_NOT_FOUND;
    if (read_token(x, token))
        status = hd_device_authenticate(x->server->store, token, sizeof token, NULL, &x->device, &error);
    hd_wipe(token, sizeof token);
    if (status == HEARTH_NOT_FOUND)
        wrong_token(x);
    else if (status != HEARTH_OK)
        refuse(x, HTTP_STATUS_SERVICE_UNAVAILABLE, "storage", "the box cannot read its own records");
    else if (!(x->device.scopes & scope))
        refuse(x, HTTP_STATUS_FORBIDDEN, "scope", "that token may not do this");
    else if (hd_guard_too_fast(x->server->guard, &x->device.id, hd_now_ms()))
        refuse(x, 429, "rate_limit_exceeded", "too many requests: slow down");
}

void hd_http_authorise(struct hd_exchange *x)
{
    char origin[VALUE_BYTES];
    int has_origin = lws_hdr_total_length(x->wsi, WSI_TOKEN_ORIGIN);
    bool has_token = lws_hdr_total_length(x->wsi, WSI_TOKEN_HTTP_AUTHORIZATION) > 0;
    if (has_origin > 0 && (lws_hdr_copy(x->wsi, origin, sizeof origin, WSI_TOKEN_ORIGIN) != has_origin ||
                           !hd_origin_allowed(&x->server->names, x->server->config->port, origin)))
        refuse(x, HTTP_STATUS_FORBIDDEN, "origin", "other sites' pages may not ask this box");
    else if (x->route->read_by_all ||
             (x->route->metrics && !has_token && hd_address_is_loopback(&x->connection->address)))
        return;
    else if (!has_token)
        refuse(x, HTTP_STATUS_UNAUTHORIZED, "missing_api_key",
               "send Authorization: Bearer TOKEN (hearth token create)");
    else
        check_token(x, x->route->metrics ? HD_SCOPE_ADMIN : HD_SCOPE_CHAT);
}
