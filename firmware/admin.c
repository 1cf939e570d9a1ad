// SPDX-License-Identifier: Apache-2.0
// The admin socket: a Unix socket for the box's owner, one JSON object per line (docs/admin.md). Loop thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "firmware/admin_internal.h"
#include "firmware/json_text.h"
#include "firmware/learn.h"
#include "firmware/reserve.h"

struct hd_admin {
    struct hd_server *server;
    struct hd_admin_client *clients;
    unsigned n_clients;
    struct sockaddr_un address;
};

// ---- answers

void hd_admin_begin(struct hd_admin_client *client)
{
    client->losses = hd_json_losses();
}

void hd_admin_answer(struct hd_admin_client *client, json_t *answer)
{
    static const char none[] = "{\"ok\":false,\"code\":\"internal\",\"error\":\"no memory for the answer\"}";
    bool whole = hd_json_losses() == client->losses;
    char *made = whole ? hd_json_text(answer, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    const char *line = made ? made : none;
    size_t len = strlen(line), left = client->out_len - client->out_sent;
    char *out = malloc(left + len + 1);
    json_decref(answer);
    client->exporting = client->exporting && made;
    if (out) {
        if (left)
            memcpy(out, client->out + client->out_sent, left);
        memcpy(out + left, line, len);
        out[left + len] = '\n';
        hd_wipe_free(client->out, client->out_len);
        client->out = out;
        client->out_len = left + len + 1;
        client->out_sent = 0;
    } else {
        client->close_when_sent = true; // no memory for an answer: hang up
    }
    hd_wipe_free(made, made ? len : 0);
    lws_callback_on_writable(client->wsi);
}

void hd_admin_error(struct hd_admin_client *client, const char *code, const char *text)
{
    hd_admin_answer(client, json_pack("{s:b, s:s, s:s}", "ok", 0, "code", code, "error", text));
}

void hd_admin_fail(struct hd_admin_client *client, const struct hearth_error *error)
{
    switch (error->code) {
    case HEARTH_INVALID: hd_admin_error(client, "invalid", error->text); break;
    case HEARTH_NOT_FOUND: hd_admin_error(client, "not_found", error->text); break;
    case HEARTH_LIMIT: hd_admin_error(client, "limit", error->text); break;
    case HEARTH_BUSY: hd_admin_error(client, "busy", error->text); break;
    case HEARTH_UNSUPPORTED: hd_admin_error(client, "unavailable", error->text); break;
    case HEARTH_IO:
    case HEARTH_FORMAT: hd_admin_error(client, "storage", error->text); break;
    default: hd_admin_error(client, "internal", error->text); break;
    }
}

void hd_admin_model_loaded(struct hd_server *server, const struct hearth_error *error)
{
    for (struct hd_admin_client *client = server->admin ? server->admin->clients : NULL; client;
         client = client->next) {
        if (!client->waits_for_model)
            continue;
        client->waits_for_model = false;
        hd_admin_begin(client);
        if (error->code == HEARTH_OK)
            hd_admin_answer(client, json_pack("{s:b, s:o}", "ok", 1, "model", hd_admin_model(server)));
        else
            hd_admin_error(client, "unavailable", error->text);
    }
}

// ---- socket

static void accept_client(struct hd_admin *admin, int listener)
{
    struct ucred peer = {0};
    socklen_t len = sizeof peer;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    bool allowed =
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && (peer.uid == geteuid() || peer.uid == 0);
    bool room = allowed && admin->n_clients < HD_MAX_ADMIN_CLIENTS && hd_reserve_refill(); // see reserve.h
    struct hd_admin_client *client = room ? calloc(1, sizeof *client) : NULL;
    char *in = client ? malloc(HD_MAX_ADMIN_LINE_BYTES) : NULL;
    if (!in) {
        if (!allowed)
            hd_log(HD_LOG_WARN, "user %u was refused at the admin socket", (unsigned)peer.uid);
        free(client);
        close(fd);
        return;
    }
    client->server = admin->server;
    client->in = in;
    client->wsi = hd_listen_adopt_fd(admin->server, fd, "hearth-admin", client);
    if (!client->wsi) {
        free(in);
        free(client);
        return;
    }
    client->next = admin->clients;
    admin->clients = client;
    admin->n_clients++;
}

static void close_fds(struct hd_admin_client *client)
{
    while (client->n_fds)
        close(client->fds[--client->n_fds]);
}

static void client_free(struct hd_admin *admin, struct hd_admin_client *client)
{
    hd_learn_forget_waiter(admin->server->learn, client);
    close_fds(client);
    for (struct hd_admin_client **link = &admin->clients; *link; link = &(*link)->next) {
        if (*link == client) {
            *link = client->next;
            admin->n_clients--;
            break;
        }
    }
    hd_wipe_free(client->in, HD_MAX_ADMIN_LINE_BYTES);
    hd_wipe_free(client->out, client->out_len);
    free(client);
}

// Requests are taken one at a time: the next line waits until the answer to the last was sent.
static void take_line(struct hd_admin_client *client)
{
    if (client->out_len > client->out_sent || client->exporting || client->waits_for_model ||
        client->waits_for_learn || client->close_when_sent)
        return;
    hd_admin_begin(client);
    char *end = memchr(client->in, '\n', client->in_len);
    if (!end) {
        if (client->in_len == HD_MAX_ADMIN_LINE_BYTES) {
            client->close_when_sent = true;
            hd_admin_error(client, "limit", "a request has at most 64 KiB");
        }
        return;
    }
    size_t len = (size_t)(end - client->in);
    hd_admin_request(client, client->in, len);
    close_fds(client); // that it did not want
    client->in_len -= len + 1;
    memmove(client->in, end + 1, client->in_len);
}

// As read; descriptors that come along are kept for the request. Too many of them, and the connection ends.
static ssize_t receive(struct hd_admin_client *client, char *to, size_t room)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(HD_MAX_ADMIN_FDS * sizeof(int))];
    } control;
    struct iovec part = {to, room};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(lws_get_socket_fd(client->wsi), &message, MSG_CMSG_CLOEXEC);
    bool good = n >= 0 && !(message.msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&message) : NULL; c; c = CMSG_NXTHDR(&message, c)) {
        size_t n_fds = c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS
                           ? (c->cmsg_len - CMSG_LEN(0)) / sizeof(int)
                           : 0;
        for (size_t i = 0; i < n_fds; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (client->n_fds < HD_MAX_ADMIN_FDS) {
                client->fds[client->n_fds++] = fd;
            } else {
                close(fd);
                good = false;
            }
        }
    }
    if (n >= 0 && !good) {
        errno = EPROTO;
        return -1;
    }
    return n;
}

static int on_readable(struct hd_admin_client *client)
{
    size_t room = HD_MAX_ADMIN_LINE_BYTES - client->in_len;
    if (room == 0) { // it sends on although no answer was read
        take_line(client);
        return client->in_len == HD_MAX_ADMIN_LINE_BYTES && !client->close_when_sent ? -1 : 0;
    }
    ssize_t n = receive(client, client->in + client->in_len, room);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    if (n == 0)
        return -1;
    client->in_len += (size_t)n;
    take_line(client);
    return 0;
}

static int on_writable(struct hd_admin_client *client)
{
    size_t left = client->out_len - client->out_sent;
    ssize_t n =
        left ? send(lws_get_socket_fd(client->wsi), client->out + client->out_sent, left, MSG_NOSIGNAL) : 0;
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        return -1;
    client->out_sent += n > 0 ? (size_t)n : 0;
    if (client->out_sent < client->out_len) {
        lws_callback_on_writable(client->wsi);
        return 0;
    }
    hd_wipe_free(client->out, client->out_len);
    client->out = NULL;
    client->out_len = client->out_sent = 0;
    if (client->stop_when_sent)
        hd_server_stop(client->server);
    if (client->close_when_sent)
        return -1;
    if (client->exporting)
        hd_admin_export_next(client);
    else
        take_line(client);
    return 0;
}

int hd_admin_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    (void)user;
    (void)in;
    (void)len;
    struct hd_server *server = lws_context_user(lws_get_context(wsi));
    struct hd_admin_client *client = reason == LWS_CALLBACK_RAW_RX_FILE ||
                                             reason == LWS_CALLBACK_RAW_WRITEABLE_FILE ||
                                             reason == LWS_CALLBACK_RAW_CLOSE_FILE
                                         ? lws_get_opaque_user_data(wsi)
                                         : NULL;
    switch (reason) {
    case LWS_CALLBACK_RAW_RX_FILE:
        if (client)
            return on_readable(client);
        accept_client(server->admin, lws_get_socket_fd(wsi)); // the listener has no client
        return 0;
    case LWS_CALLBACK_RAW_WRITEABLE_FILE: return client ? on_writable(client) : 0;
    case LWS_CALLBACK_RAW_CLOSE_FILE:
        if (client && server->admin)
            client_free(server->admin, client);
        return 0;
    default: return 0;
    }
}

static enum hearth_status bind_socket(struct hd_admin *admin, int fd, struct hearth_error *err)
{
    const char *path = admin->address.sun_path;
    unlink(path); // the state folder's lock is ours, so nobody answers there
    if (bind(fd, (struct sockaddr *)&admin->address, sizeof admin->address) != 0 || chmod(path, 0600) != 0 ||
        listen(fd, HD_MAX_ADMIN_CLIENTS) != 0)
        return hd_fail(err, HEARTH_IO, "%s: %s", path, strerror(errno));
    return HEARTH_OK;
}

enum hearth_status hd_admin_open(struct hd_server *server, struct hearth_error *err)
{
    const struct hd_config *config = server->config;
    const char *dir = config->runtime_dir[0] ? config->runtime_dir : config->state_dir;
    struct hd_admin *admin = calloc(1, sizeof *admin);
    int fd = admin ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
    if (fd < 0) {
        free(admin);
        return hd_fail(err, HEARTH_NOMEM, "the admin socket cannot be made");
    }
    admin->server = server;
    admin->address.sun_family = AF_UNIX;
    int n = snprintf(admin->address.sun_path, sizeof admin->address.sun_path, "%s/admin.sock", dir);
    enum hearth_status status =
        n > 0 && (size_t)n < sizeof admin->address.sun_path
            ? hd_config_make_dir(dir, err)
            : hd_fail(err, HEARTH_INVALID, "%s is too long for the admin socket: set runtime", dir);
    if (status == HEARTH_OK)
        status = bind_socket(admin, fd, err);
    if (status != HEARTH_OK) {
        close(fd);
        free(admin);
        return status;
    }
    server->admin = admin;
    if (!hd_listen_adopt_fd(server, fd, "hearth-admin", NULL))
        return hd_fail(err, HEARTH_NOMEM, "the admin socket cannot be watched");
    hd_log(HD_LOG_INFO, "admin socket: %s", admin->address.sun_path);
    return HEARTH_OK;
}

void hd_admin_close(struct hd_server *server)
{
    struct hd_admin *admin = server->admin;
    if (!admin)
        return;
    unlink(admin->address.sun_path);
    server->admin = NULL; // callbacks of the context's end find nothing
    while (admin->clients) {
        struct hd_admin_client *client = admin->clients;
        lws_set_opaque_user_data(client->wsi, NULL);
        client_free(admin, client);
    }
    free(admin);
}
