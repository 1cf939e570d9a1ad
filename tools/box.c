// SPDX-License-Identifier: Apache-2.0
// Finding and entering a box. Trust comes from two places only: the admin socket of this machine, or the
// identity that a pairing link pins. Main thread.
#include "tools/box.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/admin.h"
#include "tools/ask.h"
#include "tools/box_store.h"
#include "tools/cli.h"
#include "tools/paths.h"
#include "tools/url.h"

static const char CLIENT_NAME[] = "hearth-terminal " HEARTH_VERSION;
enum { CONNECT_TIMEOUT_MS = 15000, REPLY_TIMEOUT_MS = 15000, DEFAULT_PORT = 8443, SELF_PAIR_TTL_S = 60 };

// ---------------------------------------------------------------- which box

static int find_local(struct box *box)
{
    int code = CLI_OK;
    json_t *status = admin_ask(json_pack("{s:s}", "cmd", "status"), &code);
    if (!status)
        return code;
    bool paired;
    if ((code = box_store_find(box, admin_text(status, "fp"), NULL, &paired))) {
        json_decref(status);
        return code;
    }
    snprintf(box->fp, sizeof box->fp, "%s", admin_text(status, "fp"));
    snprintf(box->host, sizeof box->host, "127.0.0.1");
    box->port = (uint16_t)admin_number(status, "port");
    box->local = true;
    char *pem = paths_read(admin_text(status, "ca_file"), IDENTITY_CA_MAX - 1);
    if (pem) {
        box->ca_len_bytes = strlen(pem) + 1;
        memcpy(box->ca, pem, box->ca_len_bytes);
    } else {
        code = cli_fail(CLI_NOPERM, "%s: cannot read the box's authority: %s", admin_text(status, "ca_file"),
                        strerror(errno));
    }
    free(pem);
    json_decref(status);
    return code;
}

// Copies the value of "key=" in a link's fragment; false if it is not there or too long.
static bool link_value(const char *link, const char *key, char *text, size_t size)
{
    size_t n_key = strlen(key);
    for (const char *at = strchr(link, '#'); at; at = strchr(at + 1, '&')) {
        size_t len = strcspn(at + 1, "&");
        if (len <= n_key || strncmp(at + 1, key, n_key) || at[1 + n_key] != '=' || len - n_key > size)
            continue;
        snprintf(text, size, "%.*s", (int)(len - n_key - 1), at + n_key + 2);
        return true;
    }
    return false;
}

static bool parse_pin(const char *hex, uint8_t pin[IDENTITY_SHORT_PIN_BYTES])
{
    if (strlen(hex) != 2 * IDENTITY_SHORT_PIN_BYTES || strspn(hex, "0123456789abcdef") != strlen(hex))
        return false;
    for (size_t i = 0; i < IDENTITY_SHORT_PIN_BYTES; i++)
        pin[i] = (uint8_t)strtoul((const char[]){hex[2 * i], hex[2 * i + 1], 0}, NULL, 16);
    return true;
}

static int find_by_link(struct box *box, const char *link)
{
    struct url url;
    const char *problem;
    uint8_t pin[IDENTITY_SHORT_PIN_BYTES];
    char why[160], secret[64];
    size_t n;
    if (!url_parse(&url, link, &problem))
        return cli_fail(CLI_USAGE, "the pairing link has %s", problem);
    if (!link_value(link, "pair", secret, sizeof secret) ||
        !link_value(link, "fp", box->fp, sizeof box->fp) ||
        !identity_base64url(secret, strlen(secret), box->secret, sizeof box->secret, &n) ||
        n != sizeof box->secret || !parse_pin(box->fp, pin))
        return cli_fail(CLI_USAGE, "this is not a whole pairing link (see: hearth pair)");
    box->has_secret = true;
    snprintf(box->host, sizeof box->host, "%s", url.host);
    box->port = url.port;
    if (!identity_fetch(box->host, box->port, pin, box->ca, &box->ca_len_bytes, why))
        return cli_fail(CLI_UNAVAILABLE, "%s:%u: %s", box->host, box->port, why);
    return CLI_OK;
}

int box_find(struct box *box, const char *host)
{
    memset(box, 0, sizeof *box);
    if (!host)
        return find_local(box);
    if (!strncasecmp(host, "https://", 8))
        return find_by_link(box, host);
    char name[256];
    const char *colon = strrchr(host, ':');
    bool with_port = colon && strchr(host, ':') == colon;
    snprintf(name, sizeof name, "%.*s", (int)(with_port ? colon - host : (long)strlen(host)), host);
    bool paired;
    int code = box_store_find(box, NULL, name, &paired);
    if (code)
        return code;
    if (!paired)
        return cli_fail(
            CLI_NOPERM,
            "this terminal is not paired with %s: hearth chat --host LINK (from 'hearth pair' there)", name);
    if (with_port)
        box->port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return CLI_OK;
}

// ---------------------------------------------------------------- entering it

static int take_secret(struct box *box)
{
    int code = CLI_OK;
    size_t n;
    json_t *answer = admin_ask(json_pack("{s:s, s:s, s:i, s:[s,s], s:b, s:b}", "cmd", "pair", "person", "owner",
                                         "ttl_s", SELF_PAIR_TTL_S, "scopes", "chat", "admin", "create", 1, "local", 1),
                               &code);
    if (!answer)
        return code;
    const char *secret = admin_text(answer, "secret");
    if (!identity_base64url(secret, strlen(secret), box->secret, sizeof box->secret, &n) ||
        n != sizeof box->secret)
        code = cli_fail(CLI_SOFTWARE, "hearthd's pairing secret cannot be read");
    box->has_secret = !code;
    json_decref(answer);
    return code;
}

// Sends one frame and waits for the frame that answers it; NULL: lost, or no answer in time.
static Hearth__V1__ServerFrame *exchange(struct wsclient *client, Hearth__V1__ClientFrame *request)
{
    uint8_t id[16];
    if (!wsclient_random_id(id))
        return NULL;
    request->request_id.data = id;
    request->request_id.len = sizeof id;
    if (!wsclient_send(client, request))
        return NULL;
    for (;;) {
        Hearth__V1__ServerFrame *frame = wsclient_receive(client, REPLY_TIMEOUT_MS);
        if (!frame || (frame->request_id.len == sizeof id && !memcmp(frame->request_id.data, id, sizeof id)))
            return frame;
        wsclient_frame_free(&frame);
    }
}

static int keep_token(struct box *box, const Hearth__V1__Paired *paired)
{
    if (paired->token.len != BOX_TOKEN_BYTES)
        return cli_fail(CLI_SOFTWARE, "the box's token has an odd size");
    memcpy(box->token, paired->token.data, BOX_TOKEN_BYTES);
    box->has_token = true;
    box->has_secret = false;
    memset(box->secret, 0, sizeof box->secret);
    return box_store_save(box);
}

static int refused(const struct box *box, const Hearth__V1__Error *error, unsigned close_code)
{
    if (box->has_secret && !box->local &&
        (close_code == 4401 || (error && error->code == HEARTH__V1__ERROR__CODE__CODE_UNAUTHENTICATED)))
        return cli_fail(CLI_NOPERM, "%s: the pairing link was used already, or is too old", box->host);
    if (error)
        return cli_fail(error->code == HEARTH__V1__ERROR__CODE__CODE_BUSY ? CLI_TEMPFAIL : CLI_NOPERM,
                        "%s: %s", box->host, error->message);
    if (close_code)
        return cli_fail(CLI_NOPERM, "%s: the box closed the connection (%u)", box->host, close_code);
    return cli_fail(CLI_TEMPFAIL, "%s: the box does not answer", box->host);
}

enum entry { ENTERED, ENTRY_UNKNOWN, ENTRY_FAILED };

// Hello or Pair. ENTRY_UNKNOWN: the box does not know the token (any more).
static enum entry introduce(struct box *box, struct wsclient *client, int *code)
{
    Hearth__V1__ClientFrame request = HEARTH__V1__CLIENT_FRAME__INIT;
    Hearth__V1__Hello hello = HEARTH__V1__HELLO__INIT;
    Hearth__V1__Pair pair = HEARTH__V1__PAIR__INIT;
    if (box->has_secret) {
        pair.secret = (ProtobufCBinaryData){sizeof box->secret, box->secret};
        pair.device_name = (char *)"terminal";
        pair.client = (char *)CLIENT_NAME;
        request.body_case = HEARTH__V1__CLIENT_FRAME__BODY_PAIR;
        request.pair = &pair;
    } else {
        hello.token = (ProtobufCBinaryData){sizeof box->token, box->token};
        hello.client = (char *)CLIENT_NAME;
        request.body_case = HEARTH__V1__CLIENT_FRAME__BODY_HELLO;
        request.hello = &hello;
    }
    Hearth__V1__ServerFrame *reply = exchange(client, &request);
    enum entry entry = ENTRY_FAILED;
    unsigned close_code = wsclient_close_code(client);
    const Hearth__V1__Error *error =
        reply && reply->body_case == HEARTH__V1__SERVER_FRAME__BODY_ERROR ? reply->error : NULL;
    if (reply && reply->body_case == HEARTH__V1__SERVER_FRAME__BODY_WELCOME)
        entry = ENTERED;
    else if (reply && reply->body_case == HEARTH__V1__SERVER_FRAME__BODY_PAIRED)
        entry = (*code = keep_token(box, reply->paired)) ? ENTRY_FAILED : ENTERED;
    else if (!box->has_secret && ((error && error->code == HEARTH__V1__ERROR__CODE__CODE_UNAUTHENTICATED) ||
                                  close_code == 4401 || close_code == 4403))
        entry = ENTRY_UNKNOWN;
    else
        *code = refused(box, error, close_code);
    wsclient_frame_free(&reply);
    return entry;
}

static int open_socket(struct box *box, struct wsclient **client, bool quiet)
{
    char why[160];
    struct wsclient_params params = {
        .host = box->host,
        .port = box->port ? box->port : DEFAULT_PORT,
        .ca = box->ca,
        .ca_len_bytes = box->ca_len_bytes,
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        .interrupted = ask_interrupted,
    };
    switch (wsclient_connect(client, &params, why)) {
    case WSCLIENT_OPEN: return CLI_OK;
    case WSCLIENT_INTERRUPTED: return CLI_INTERRUPTED;
    case WSCLIENT_UNTRUSTED:
        return cli_fail(CLI_NOPERM, "%s:%u: the box's certificate is not trusted: %s", box->host, params.port,
                        why);
    case WSCLIENT_NO_MEMORY: return cli_fail(CLI_OSERR, "out of memory");
    case WSCLIENT_UNREACHABLE:
    case WSCLIENT_LOST: break;
    }
    return quiet ? CLI_TEMPFAIL
                 : cli_fail(CLI_UNAVAILABLE, "%s:%u: the box cannot be reached: %s", box->host, params.port,
                            why);
}

int box_connect(struct box *box, struct wsclient **client, bool quiet)
{
    *client = NULL;
    for (int attempt = 0; attempt < 2; attempt++) {
        int code = CLI_OK;
        if (!box->has_token && !box->has_secret)
            code = box->local
                       ? take_secret(box)
                       : cli_fail(CLI_NOPERM, "%s: this terminal is not paired with the box", box->host);
        if (!code)
            code = open_socket(box, client, quiet);
        if (code)
            return code;
        enum entry entry = introduce(box, *client, &code);
        if (entry == ENTERED)
            return CLI_OK;
        wsclient_destroy(client);
        if (entry == ENTRY_FAILED)
            return code;
        box->has_token = false;
        if ((code = box_store_forget_token(box)))
            return code;
    }
    return cli_fail(CLI_NOPERM, "%s: the box does not know this terminal", box->host);
}
