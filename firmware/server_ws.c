// SPDX-License-Identifier: Apache-2.0
// WebSockets: receiving within limits, the bounded send queue, closing. Loop thread.
#include <stdlib.h>
#include <string.h>

#include "firmware/learn.h"

// ---- sending

static void out_free(struct hd_out *out)
{
    hd_blob_unref(out->blob);
    free(out);
}

static void drop_queue(struct hd_client *client)
{
    while (client->first) {
        struct hd_out *out = client->first;
        client->first = out->next;
        out_free(out);
    }
    client->last = NULL;
    client->queued_bytes = 0;
}

void hd_client_close(struct hd_client *client, unsigned code, const char *reason)
{
    if (client->close_code)
        return;
    client->close_code = code;
    snprintf(client->close_reason, sizeof client->close_reason, "%s", reason);
    drop_queue(client); // nothing more for this one
    hd_responses_drop_socket(client->server->responses, client);
    hd_learn_drop_socket(client->server->learn, client);
    lws_callback_on_writable(client->wsi);
    lws_set_timeout(client->wsi, PENDING_TIMEOUT_CLOSE_SEND,
                    HD_CLOSE_GRACE_S); // who does not read is cut off
}

// Takes over the blob's reference.
static void enqueue(struct hd_client *client, struct hd_blob *blob, const struct hd_id *request)
{
    struct hd_out *out = client->close_code || !blob ? NULL : calloc(1, sizeof *out);
    if (!out) {
        hd_blob_unref(blob);
        if (!client->close_code)
            hd_client_close(client, LWS_CLOSE_STATUS_UNEXPECTED_CONDITION, "out of memory");
        return;
    }
    out->blob = blob;
    out->has_request = request != NULL;
    if (request)
        out->request = *request;
    if (client->last)
        client->last->next = out;
    else
        client->first = out;
    client->last = out;
    client->queued_bytes += blob->len_bytes + sizeof *out;
    lws_callback_on_writable(client->wsi);
}

void hd_client_send(struct hd_client *client, struct hd_blob *frame)
{
    enqueue(client, frame, NULL);
    if (client->queued_bytes > HD_MAX_SEND_QUEUE_BYTES)
        hd_client_close(client, HD_CLOSE_TIMEOUT, "too slow a reader");
}

void hd_client_send_event(void *server, void *socket, const struct hd_id *request, struct hd_blob *event)
{
    (void)server;
    struct hd_client *client = socket;
    if (client->close_code)
        return;
    enqueue(client, hd_blob_ref(event), request);
    // The response's list of followers is being walked: the close must not touch it now. on_writable sees to
    // it.
    if (client->queued_bytes > HD_MAX_SEND_QUEUE_BYTES && !client->close_code) {
        client->close_code = HD_CLOSE_TIMEOUT;
        snprintf(client->close_reason, sizeof client->close_reason, "too slow a reader");
        drop_queue(client);
        lws_callback_on_writable(client->wsi);
        lws_set_timeout(client->wsi, PENDING_TIMEOUT_CLOSE_SEND, HD_CLOSE_GRACE_S);
    }
}

static int close_now(struct hd_client *client)
{
    lws_close_reason(client->wsi, (enum lws_close_status)client->close_code,
                     (unsigned char *)client->close_reason, strlen(client->close_reason));
    return -1;
}

static int on_writable(struct hd_client *client)
{
    if (client->close_code)
        return close_now(client);
    struct hd_out *out = client->first;
    if (!out)
        return 0;
    uint8_t *frame = client->server->scratch + LWS_PRE;
    size_t prefix = out->has_request ? HD_WIRE_PREFIX_BYTES : 0, len = prefix + out->blob->len_bytes;
    if (prefix)
        hd_wire_prefix(frame, &out->request);
    memcpy(frame + prefix, out->blob->data, out->blob->len_bytes);
    client->first = out->next;
    if (!client->first)
        client->last = NULL;
    client->queued_bytes -= out->blob->len_bytes + sizeof *out;
    out_free(out);
    int written = lws_write(client->wsi, frame, len,
                            LWS_WRITE_BINARY); // what the socket does not take now, the library keeps
    hd_wipe(frame, len);
    if (written < 0)
        return -1;
    if (client->first)
        lws_callback_on_writable(client->wsi);
    return 0;
}

// ---- receiving

static bool grow(struct hd_client *client, size_t need)
{
    if (need <= client->rx_capacity)
        return true;
    size_t capacity = client->rx_capacity ? client->rx_capacity : 1024;
    while (capacity < need)
        capacity *= 2;
    uint8_t *rx = malloc(capacity);
    if (!rx)
        return false;
    if (client->rx_len)
        memcpy(rx, client->rx, client->rx_len);
    hd_wipe_free(client->rx, client->rx_capacity);
    client->rx = rx;
    client->rx_capacity = capacity;
    return true;
}

static void reset_rx(struct hd_client *client)
{
    hd_wipe(client->rx, client->rx_len);
    client->rx_len = 0;
    if (client->rx_capacity > HD_MAX_FIRST_FRAME_BYTES * 4) { // one large frame must not hold memory for ever
        hd_wipe_free(client->rx, client->rx_capacity);
        client->rx = NULL;
        client->rx_capacity = 0;
    }
}

static int on_message(struct hd_client *client)
{
    lws_validity_confirmed(client->wsi);
    hd_api_frame(client, client->rx, client->rx_len);
    reset_rx(client);
    return 0;
}

static int on_receive(struct hd_client *client, const void *in, size_t len)
{
    if (client->close_code)
        return 0;
    if (!lws_frame_is_binary(client->wsi)) {
        hd_client_close(client, HD_CLOSE_TEXT, "binary frames only");
        return 0;
    }
    size_t limit = client->authenticated ? HD_MAX_FRAME_BYTES : HD_MAX_FIRST_FRAME_BYTES;
    size_t announced =
        client->rx_len + len + lws_remaining_packet_payload(client->wsi); // of this message, as far as known
    if (announced > limit) {
        hd_client_close(client, client->authenticated ? HD_CLOSE_TOO_BIG : HD_CLOSE_UNAUTHENTICATED,
                        client->authenticated ? "a frame may have 1 MiB" : "the first frame may have 4 KiB");
        return 0;
    }
    if (!grow(client, client->rx_len + len)) {
        hd_client_close(client, LWS_CLOSE_STATUS_UNEXPECTED_CONDITION, "out of memory");
        return 0;
    }
    if (len)
        memcpy(client->rx + client->rx_len, in, len);
    client->rx_len += len;
    return lws_is_final_fragment(client->wsi) ? on_message(client) : 0;
}

// ---- life

static int on_established(struct hd_client *client, struct lws *wsi)
{
    struct hd_connection *connection = lws_get_opaque_user_data(wsi);
    struct hd_server *server = lws_context_user(lws_get_context(wsi));
    if (!connection || server->stopping)
        return -1;
    memset(client, 0, sizeof *client);
    client->server = server;
    client->wsi = wsi;
    client->address = connection->address;
    client->next = server->clients;
    server->clients = client;
    lws_set_timer_usecs(wsi, (lws_usec_t)HD_FIRST_FRAME_MS * 1000);
    return 0;
}

static void on_closed(struct hd_client *client)
{
    if (!client->server)
        return;
    for (struct hd_client **link = &client->server->clients; *link; link = &(*link)->next) {
        if (*link == client) {
            *link = client->next;
            break;
        }
    }
    hd_responses_drop_socket(client->server->responses, client);
    hd_learn_drop_socket(client->server->learn, client);
    drop_queue(client);
    hd_wipe_free(client->rx, client->rx_capacity);
    client->rx = NULL;
    client->server = NULL;
}

int hd_ws_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct hd_client *client = user;
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED: return on_established(client, wsi);
    case LWS_CALLBACK_RECEIVE: return on_receive(client, in, len);
    case LWS_CALLBACK_SERVER_WRITEABLE: return on_writable(client);
    case LWS_CALLBACK_TIMER:
        if (!client->authenticated)
            hd_client_close(client, HD_CLOSE_TIMEOUT, "no Hello within 10 s");
        return 0;
    case LWS_CALLBACK_CLOSED: on_closed(client); return 0;
    default: return 0;
    }
}

size_t hd_clients_close_device(struct hd_server *server, const struct hd_id *device)
{
    size_t n = 0;
    for (struct hd_client *client = server->clients; client; client = client->next) {
        if (client->authenticated && !client->close_code && hd_id_equal(&client->device.id, device)) {
            hd_client_close(client, HD_CLOSE_REVOKED, "this device was revoked");
            n++;
        }
    }
    return n;
}

size_t hd_clients_count(const struct hd_server *server, const struct hd_id *device)
{
    size_t n = 0;
    for (const struct hd_client *client = server->clients; client; client = client->next) {
        if (client->authenticated && !client->close_code &&
            (!device || hd_id_equal(&client->device.id, device)))
            n++;
    }
    return n;
}
