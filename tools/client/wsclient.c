// SPDX-License-Identifier: Apache-2.0
// hearth.v1 over libwebsockets. One context and one connection per client; callbacks run inside lws_service,
// on the caller's thread.
#include "tools/client/wsclient.h"

#include <libwebsockets.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "tools/client/identity.h"

static const size_t MAX_FRAME_BYTES = 1 << 20;
enum { MAX_QUEUED = 4096, TICK_MS = 100, PING_AFTER_S = 30, HANG_UP_AFTER_S = 60 };

struct message {
    struct message *next;
    size_t len_bytes;
    unsigned char data[]; // outgoing: LWS_PRE bytes come first
};

struct queue {
    struct message *first, **last;
    size_t n;
};

struct wsclient {
    struct lws_context *context;
    struct lws *wsi;
    enum wsclient_state state;
    bool connecting, tls_failed;
    unsigned close_code;
    char why[160];
    struct queue in, out;
    unsigned char *partial; // a message that comes in pieces
    size_t partial_len, partial_capacity;
    bool (*interrupted)(void);
};

static uint64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

bool wsclient_random_id(uint8_t id[16])
{
    return getrandom(id, 16, 0) == 16;
}

static bool enqueue(struct queue *queue, struct message *message)
{
    if (queue->n == MAX_QUEUED) {
        free(message);
        return false;
    }
    message->next = NULL;
    *queue->last = message;
    queue->last = &message->next;
    queue->n++;
    return true;
}

static struct message *dequeue(struct queue *queue)
{
    struct message *message = queue->first;
    if (!message)
        return NULL;
    queue->first = message->next;
    if (!queue->first)
        queue->last = &queue->first;
    queue->n--;
    return message;
}

static void lose(struct wsclient *client, enum wsclient_state state, const char *why, size_t len)
{
    if (client->state != WSCLIENT_OPEN)
        return;
    client->state = state;
    client->connecting = false;
    client->wsi = NULL;
    snprintf(client->why, sizeof client->why, "%.*s", (int)len, why);
}

static void on_error(struct wsclient *client, const char *text, size_t len)
{
    char why[160];
    snprintf(why, sizeof why, "%.*s", text ? (int)len : 10, text ? text : "no details");
    client->tls_failed = strstr(why, "mbedtls") || strstr(why, "cert");
    lose(client, WSCLIENT_UNREACHABLE, why, strlen(why));
}

// Collects a message; a whole one goes to the queue. False: too large, or no memory.
static bool on_receive(struct wsclient *client, struct lws *wsi, const void *data, size_t len)
{
    if (!lws_frame_is_binary(wsi) || client->partial_len + len > MAX_FRAME_BYTES)
        return false;
    if (client->partial_len + len > client->partial_capacity) {
        size_t capacity = 2 * (client->partial_len + len);
        unsigned char *larger = realloc(client->partial, capacity);
        if (!larger)
            return false;
        client->partial = larger;
        client->partial_capacity = capacity;
    }
    if (len)
        memcpy(client->partial + client->partial_len, data, len);
    client->partial_len += len;
    if (lws_remaining_packet_payload(wsi) || !lws_is_final_fragment(wsi))
        return true;
    struct message *message = malloc(sizeof *message + client->partial_len);
    if (!message)
        return false;
    message->len_bytes = client->partial_len;
    memcpy(message->data, client->partial, client->partial_len);
    client->partial_len = 0;
    return enqueue(&client->in, message);
}

static int on_writable(struct wsclient *client, struct lws *wsi)
{
    struct message *message = dequeue(&client->out);
    if (!message)
        return 0;
    int sent = lws_write(wsi, message->data + LWS_PRE, message->len_bytes, LWS_WRITE_BINARY);
    bool good = sent >= 0 && (size_t)sent >= message->len_bytes;
    free(message);
    if (client->out.first)
        lws_callback_on_writable(wsi);
    return good ? 0 : -1;
}

static int on_socket(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct wsclient *client = lws_context_user(lws_get_context(wsi));
    (void)user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR: on_error(client, in, len); break;
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        client->connecting = false;
        if (client->out.first)
            lws_callback_on_writable(wsi);
        break;
    case LWS_CALLBACK_CLIENT_RECEIVE: return on_receive(client, wsi, in, len) ? 0 : -1;
    case LWS_CALLBACK_CLIENT_WRITEABLE: return on_writable(client, wsi);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        if (len >= 2)
            client->close_code = (unsigned)((unsigned char *)in)[0] << 8 | ((unsigned char *)in)[1];
        break;
    case LWS_CALLBACK_CLIENT_CLOSED: lose(client, WSCLIENT_LOST, "the connection ended", 20); break;
    default: break;
    }
    return 0;
}

static void on_tick(lws_sorted_usec_list_t *timer)
{
    (void)timer; // only wakes lws_service
}

// Serves the socket until `done` says so or the time is over.
static void serve(struct wsclient *client, unsigned timeout_ms, bool (*done)(const struct wsclient *client))
{
    lws_sorted_usec_list_t tick = {0};
    uint64_t until_ms = clock_ms() + timeout_ms;
    while (client->state == WSCLIENT_OPEN && !done(client) && clock_ms() < until_ms) {
        lws_sul_schedule(client->context, 0, &tick, on_tick, TICK_MS * LWS_US_PER_MS);
        if (lws_service(client->context, 0) < 0)
            lose(client, WSCLIENT_LOST, "the connection failed", 21);
        if (client->interrupted && client->interrupted())
            break;
    }
    lws_sul_cancel(&tick);
}

static bool is_connected(const struct wsclient *client)
{
    return !client->connecting;
}

static bool has_message(const struct wsclient *client)
{
    return client->in.first != NULL;
}

static bool has_sent(const struct wsclient *client)
{
    return client->out.first == NULL;
}

static bool begin(struct wsclient *client, const struct wsclient_params *params)
{
    // Pings when nothing came for a while, hangs up when nothing comes back.
    static const lws_retry_bo_t keep_alive = {.secs_since_valid_ping = PING_AFTER_S,
                                              .secs_since_valid_hangup = HANG_UP_AFTER_S};
    char host[300];
    struct lws_client_connect_info connect;
    memset(&connect, 0, sizeof connect);
    snprintf(host, sizeof host, strchr(params->host, ':') ? "[%s]:%u" : "%s:%u", params->host, params->port);
    connect.context = client->context;
    connect.address = params->host;
    connect.port = params->port;
    connect.path = "/ws";
    connect.host = host;
    connect.protocol = "hearth.v1";
    connect.local_protocol_name = "hearth.v1";
    connect.alpn = "http/1.1";
    connect.ssl_connection = LCCSCF_USE_SSL;
    connect.retry_and_idle_policy = &keep_alive;
    connect.pwsi = &client->wsi;
    client->connecting = true;
    if (lws_client_connect_via_info(&connect))
        return true;
    lose(client, WSCLIENT_UNREACHABLE, "no connection", 13);
    return false;
}

static struct lws_context *make_context(struct wsclient *client, const struct wsclient_params *params)
{
    static const struct lws_protocols protocols[] = {{"hearth.v1", on_socket, 0, 65536, 0, NULL, 0},
                                                     LWS_PROTOCOL_LIST_TERM};
    struct lws_context_creation_info info;
    memset(&info, 0, sizeof info);
    lws_set_log_level(0, NULL);
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.protocols = protocols;
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    info.user = client;
    info.http_proxy_address = ""; // a box of this home is never behind a proxy
    info.client_ssl_ca_mem = params->ca;
    info.client_ssl_ca_mem_len = (unsigned)params->ca_len_bytes;
    return lws_create_context(&info);
}

enum wsclient_state wsclient_connect(struct wsclient **result, const struct wsclient_params *params,
                                     char why[160])
{
    *result = NULL;
    why[0] = 0;
    struct wsclient *client = calloc(1, sizeof *client);
    if (!client)
        return WSCLIENT_NO_MEMORY;
    client->in.last = &client->in.first;
    client->out.last = &client->out.first;
    client->interrupted = params->interrupted;
    client->context = make_context(client, params);
    if (!client->context) {
        free(client);
        memcpy(why, "the box's authority cannot be used", 35);
        return WSCLIENT_UNTRUSTED;
    }
    if (begin(client, params))
        serve(client, params->connect_timeout_ms, is_connected);
    if (client->state == WSCLIENT_OPEN && client->connecting) {
        bool stopped = client->interrupted && client->interrupted();
        lose(client, stopped ? WSCLIENT_INTERRUPTED : WSCLIENT_UNREACHABLE, "no answer", 9);
    }
    // The library's words for a refused certificate depend on timing: a look of our own tells.
    if (client->tls_failed &&
        identity_untrusted(params->host, params->port, params->ca, params->ca_len_bytes, client->why))
        client->state = WSCLIENT_UNTRUSTED;
    enum wsclient_state state = client->state;
    if (state == WSCLIENT_OPEN) {
        *result = client;
    } else {
        memcpy(why, client->why, sizeof client->why);
        wsclient_destroy(&client);
    }
    return state;
}

void wsclient_destroy(struct wsclient **pointer)
{
    struct wsclient *client = *pointer;
    if (!client)
        return;
    if (client->state == WSCLIENT_OPEN)
        serve(client, 500, has_sent); // what was queued still goes out
    client->state = WSCLIENT_LOST;
    lws_context_destroy(client->context);
    for (struct message *message; (message = dequeue(&client->in));)
        free(message);
    for (struct message *message; (message = dequeue(&client->out));)
        free(message);
    free(client->partial);
    free(client);
    *pointer = NULL;
}

bool wsclient_send(struct wsclient *client, const Hearth__V1__ClientFrame *frame)
{
    size_t len = hearth__v1__client_frame__get_packed_size(frame);
    if (client->state != WSCLIENT_OPEN || len > MAX_FRAME_BYTES)
        return false;
    struct message *message = malloc(sizeof *message + LWS_PRE + len);
    if (!message)
        return false;
    message->len_bytes = len;
    hearth__v1__client_frame__pack(frame, message->data + LWS_PRE);
    if (!enqueue(&client->out, message))
        return false;
    if (client->wsi)
        lws_callback_on_writable(client->wsi);
    return true;
}

Hearth__V1__ServerFrame *wsclient_receive(struct wsclient *client, unsigned timeout_ms)
{
    if (!client->in.first)
        serve(client, timeout_ms, has_message);
    struct message *message = dequeue(&client->in);
    if (!message)
        return NULL;
    Hearth__V1__ServerFrame *frame =
        hearth__v1__server_frame__unpack(NULL, message->len_bytes, message->data);
    free(message);
    if (!frame)
        lose(client, WSCLIENT_LOST, "a frame that cannot be read", 27);
    return frame;
}

void wsclient_frame_free(Hearth__V1__ServerFrame **frame)
{
    if (*frame)
        hearth__v1__server_frame__free_unpacked(*frame, NULL);
    *frame = NULL;
}

enum wsclient_state wsclient_get_state(const struct wsclient *client)
{
    return client->state;
}

unsigned wsclient_close_code(const struct wsclient *client)
{
    return client->close_code;
}
