// SPDX-License-Identifier: Apache-2.0
// Listening sockets, adoption, and the virtual host with the certificate. Loop thread.
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "firmware/learn.h"
#include "firmware/metrics.h"
#include "firmware/reserve.h"

enum { BACKLOG = 64, ACCEPTS_AT_ONCE = 32 };

// What a WebSocket gets while it is idle: a ping, and as long again to answer it.
static lws_retry_bo_t idle_policy;

static const struct lws_protocols base_protocols[] = {
    {.name = "hearth-listen", .callback = hd_listen_callback},
    {.name = "hearth-admin",
     .callback = hd_admin_callback,
     .per_session_data_size = sizeof(void *),
     .rx_buffer_size = 4096},
    {.name = "hearth-signal", .callback = hd_signal_callback},
    LWS_PROTOCOL_LIST_TERM,
};

// [0] answers HTTP and hears of every connection's end; a WebSocket must name the second.
static const struct lws_protocols tls_protocols[] = {
    {.name = "hearth-pages", .callback = hd_http_callback, .per_session_data_size = 64},
    {.name = "hearth.v1",
     .callback = hd_ws_callback,
     .per_session_data_size = sizeof(struct hd_client),
     .rx_buffer_size = 16384},
    LWS_PROTOCOL_LIST_TERM,
};

// Without TLS: no WebSocket, no page.
static const struct lws_protocols plain_protocols[] = {
    {.name = "hearth-door", .callback = hd_http_callback, .per_session_data_size = 64},
    LWS_PROTOCOL_LIST_TERM,
};

struct lws_vhost *hd_listen_base(struct hd_server *server)
{
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN, .vhost_name = "hearth-base", .protocols = base_protocols};
    return lws_create_vhost(server->lws, &info);
}

struct lws *hd_listen_adopt_fd(struct hd_server *server, int fd, const char *protocol, void *opaque)
{
    lws_adopt_desc_t adopt = {.vh = server->base,
                              .type = LWS_ADOPT_RAW_FILE_DESC,
                              .fd = {.filefd = fd},
                              .vh_prot_name = protocol,
                              .opaque = opaque};
    struct lws *wsi = lws_adopt_descriptor_vhost_via_info(&adopt);
    if (!wsi)
        close(fd);
    return wsi;
}

static enum hearth_status listen_on(struct hd_server *server, size_t place, const char *address,
                                    unsigned port, bool optional, struct hearth_error *err)
{
    struct hd_address at;
    hd_address_parse(&at, address);
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    memcpy(&four.sin_addr, at.b, 4);
    memcpy(&six.sin6_addr, at.b, 16);
    bool is_six = at.len == 16;
    int on = 1, fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return optional ? HEARTH_OK : hd_fail(err, HEARTH_UNSUPPORTED, "no socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (is_six)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    int code = bind(fd, is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four,
                    is_six ? sizeof six : sizeof four);
    if (code == 0)
        code = listen(fd, BACKLOG);
    if (code != 0) {
        code = errno;
        close(fd);
        if (optional && code == EADDRNOTAVAIL) // no IPv6 here
            return HEARTH_OK;
        return hd_fail(err, code == EADDRINUSE ? HEARTH_BUSY : HEARTH_UNSUPPORTED,
                       "cannot listen on %s port %u: %s", address, port, strerror(code));
    }
    server->listeners[place] = hd_listen_adopt_fd(server, fd, "hearth-listen", server);
    return server->listeners[place] ? HEARTH_OK
                                    : hd_fail(err, HEARTH_NOMEM, "cannot watch the listening socket");
}

enum hearth_status hd_listen_loopback(struct hd_server *server, struct hearth_error *err)
{
    enum hearth_status status = listen_on(server, 0, "127.0.0.1", server->config->port, false, err);
    return status == HEARTH_OK ? listen_on(server, 1, "::1", server->config->port, true, err) : status;
}

enum hearth_status hd_listen_plain(struct hd_server *server, struct hearth_error *err)
{
    struct lws_context_creation_info info = {.port = CONTEXT_PORT_NO_LISTEN_SERVER,
                                             .vhost_name = "hearth-plain",
                                             .protocols = plain_protocols,
                                             .keepalive_timeout = HD_HANDSHAKE_S,
                                             .timeout_secs_ah_idle = HD_HANDSHAKE_S};
    unsigned port = server->config->http_port;
    if (!port)
        return HEARTH_OK;
    server->plain = lws_create_vhost(server->lws, &info);
    if (!server->plain)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the port without TLS");
    enum hearth_status status = listen_on(server, 4, "127.0.0.1", port, false, err);
    return status == HEARTH_OK ? listen_on(server, 5, "::1", port, true, err) : status;
}

enum hearth_status hd_listen_all(struct hd_server *server, struct hearth_error *err)
{
    for (int i = 0; i < 2; i++) { // the kernel lets no second listener bind while these are there
        if (server->listeners[i]) {
            shutdown(lws_get_socket_fd(server->listeners[i]), SHUT_RD); // releases the port at once
            lws_set_timeout(server->listeners[i], PENDING_TIMEOUT_CLOSE_ACK, LWS_TO_KILL_ASYNC);
            server->listeners[i] = NULL;
        }
    }
    enum hearth_status status = listen_on(server, 2, "0.0.0.0", server->config->port, false, err);
    if (status == HEARTH_OK)
        status = listen_on(server, 3, "::", server->config->port, true, err);
    server->open_to_all = status == HEARTH_OK;
    return status;
}

void hd_listen_invited(struct hd_server *server)
{
    struct hearth_error error;
    if (server->open_to_all || server->config->listen != HD_LISTEN_AUTO)
        return;
    if (hd_listen_all(server, &error) == HEARTH_OK) {
        hd_log(HD_LOG_INFO, "somebody was invited: listening on all interfaces, port %u",
               server->config->port);
        return;
    }
    hd_log(HD_LOG_ERROR, "%s; staying on loopback", error.text);
    if (hd_listen_loopback(server, &error) != HEARTH_OK)
        hd_log(HD_LOG_ERROR, "%s", error.text);
}

void hd_connection_free(struct hd_connection *connection)
{
    struct hd_connection **link = &connection->server->connections;
    while (*link != connection)
        link = &(*link)->next;
    *link = connection->next;
    if (!connection->given_way)
        hd_guard_disconnect(connection->server->guard, &connection->address);
    free(connection);
}

static void close_waiting(struct hd_connection *connection)
{
    close(connection->fd);
    hd_connection_free(connection);
}

void hd_listen_drop_waiting(struct hd_server *server)
{
    for (struct hd_connection *c = server->connections, *next; c; c = next) {
        next = c->next;
        if (c->fd >= 0)
            close_waiting(c);
    }
}

// The oldest connection on which nobody has shown a token yet, of an address or (NULL) of all. Fresh ones stay, unless
// `for_known`: then it is one of an address that is not known.
static struct hd_connection *oldest_unknown(struct hd_server *server, const struct hd_address *address, bool for_known)
{
    struct hd_connection *oldest = NULL;
    int64_t before_ms = hd_now_ms() - HD_UNKNOWN_MS;
    for (struct hd_connection *c = server->connections; c; c = c->next) {
        if ((c->wsi || c->fd >= 0) && !c->known && !c->given_way &&
            (for_known ? !hd_guard_is_known(server->guard, &c->address) : c->since_ms <= before_ms) &&
            (!address || hd_guard_is_neighbour(&c->address, address)) && (!oldest || c->since_ms <= oldest->since_ms))
            oldest = c;
    }
    return oldest;
}

// Counts a newcomer. Where its address has no room, or nobody, the oldest that has not said who it is gives way: who
// only holds connections open keeps nobody out, least of all who has been here before.
static bool admit(struct hd_server *server, const struct hd_address *address)
{
    if (hd_guard_connect(server->guard, address))
        return true;
    struct hd_connection *gives_way = oldest_unknown(server, address, false);
    bool full = hd_guard_connections(server->guard) >= HD_MAX_CONNECTIONS;
    if (!gives_way && full && hd_guard_is_known(server->guard, address))
        gives_way = oldest_unknown(server, NULL, true);
    if (!gives_way && full)
        gives_way = oldest_unknown(server, NULL, false);
    if (!gives_way)
        return false;
    hd_metrics_connection_refused(server->metrics);
    if (gives_way->fd >= 0) {
        close_waiting(gives_way);
        return hd_guard_connect(server->guard, address);
    }
    gives_way->given_way = true;
    hd_guard_disconnect(server->guard, &gives_way->address);
    lws_set_timeout(gives_way->wsi, PENDING_TIMEOUT_CLOSE_SEND, LWS_TO_KILL_ASYNC);
    return hd_guard_connect(server->guard, address);
}

// libwebsockets has it from now on.
static void hand_over(struct hd_connection *connection)
{
    struct hd_server *server = connection->server;
    bool plain = connection->plain;
    lws_adopt_desc_t adopt = {.vh = plain ? server->plain : server->tls,
                              .type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP | (plain ? 0 : LWS_ADOPT_ALLOW_SSL),
                              .fd = {.sockfd = connection->fd},
                              .opaque = connection};
    connection->fd = -1;
    connection->since_ms = hd_now_ms();
    server->adopting = connection; // on failure libwebsockets may or may not have told of the end
    struct lws *wsi = lws_adopt_descriptor_vhost_via_info(&adopt);
    if (server->adopting == connection) {
        connection->wsi = wsi;
        if (!wsi)
            hd_connection_free(connection);
    }
    server->adopting = NULL;
}

static bool has_hung_up(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

// Those that wait for their handshake, oldest first.
static size_t waiting(struct hd_server *server, struct hd_connection *list[HD_MAX_CONNECTIONS])
{
    size_t n = 0;
    for (struct hd_connection *c = server->connections; c && n < HD_MAX_CONNECTIONS; c = c->next) {
        if (c->fd >= 0)
            list[n++] = c;
    }
    for (size_t i = 0; i < n / 2; i++) {
        struct hd_connection *c = list[i];
        list[i] = list[n - 1 - i];
        list[n - 1 - i] = c;
    }
    return n;
}

// Begins as many handshakes as may begin now; the others' turn comes by a timer.
static void begin_handshakes(lws_sorted_usec_list_t *timer)
{
    struct hd_server *server = lws_container_of(timer, struct hd_server, handshakes);
    struct hd_connection *list[HD_MAX_CONNECTIONS];
    size_t places[HD_MAX_CONNECTIONS], n = waiting(server, list);
    while (n) {
        for (size_t i = 0; i < n; i++)
            places[i] = list[i]->place;
        size_t next = hd_guard_handshake(server->guard, places, n, hd_now_ms());
        if (next == n)
            break;
        if (has_hung_up(list[next]->fd))
            close_waiting(list[next]);
        else
            hand_over(list[next]);
        memmove(list + next, list + next + 1, (--n - next) * sizeof list[0]);
    }
    if (n)
        lws_sul_schedule(server->lws, 0, timer, begin_handshakes, LWS_US_PER_SEC / HD_HANDSHAKES_PER_SECOND);
}

static void accept_one(struct hd_server *server, int fd, const struct sockaddr *from, bool plain)
{
    int on = 1;
    struct hd_address address;
    struct hd_connection *connection = NULL;
    if (server->stopping || !hd_reserve_refill() || !hd_address_from(&address, from) ||
        !admit(server, &address)) {
        hd_metrics_connection_refused(server->metrics);
        close(fd);
        return;
    }
    connection = calloc(1, sizeof *connection);
    if (!connection) {
        close(fd);
        hd_guard_disconnect(server->guard, &address);
        return;
    }
    *connection = (struct hd_connection){.next = server->connections,
                                         .server = server,
                                         .fd = fd,
                                         .address = address,
                                         .place = hd_guard_place(server->guard, &address),
                                         .since_ms = hd_now_ms(),
                                         .plain = plain};
    server->connections = connection;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (plain)
        hand_over(connection);
    else
        begin_handshakes(&server->handshakes);
}

static void accept_some(struct hd_server *server, struct lws *wsi)
{
    for (int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        int fd =
            accept4(lws_get_socket_fd(wsi), (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE)
                hd_log(HD_LOG_WARN, "no file descriptor for a new connection");
            return;
        }
        accept_one(server, fd, (struct sockaddr *)&from,
                   wsi == server->listeners[4] || wsi == server->listeners[5]);
    }
}

int hd_listen_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    (void)user;
    (void)in;
    (void)len;
    if (reason == LWS_CALLBACK_RAW_RX_FILE) {
        struct hd_server *server = lws_get_opaque_user_data(wsi);
        accept_some(server, wsi);
    } else if (reason == LWS_CALLBACK_EVENT_WAIT_CANCELLED) {
        struct hd_server *server = lws_context_user(lws_get_context(wsi));
        hd_api_notes(server);
        hd_learn_turn(server->learn);
    }
    return 0;
}

enum hearth_status hd_listen_renew(struct hd_server *server, struct hearth_error *err)
{
    char name[32];
    struct lws_vhost *old = server->tls;
    struct hd_identity *identity = server->identity;
    // libwebsockets would take one certificate out of PEM text; what does not begin with "-----" it hands to
    // mbedTLS as it is, which reads the whole chain.
    char *chain = NULL;
    if (asprintf(&chain, "\n%s", identity->chain_pem) < 0)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the certificate");
    const char *certificate = chain;
#ifdef HEARTH_OLD_TLS // on OpenSSL, which wants PEM text and takes its first certificate: the leaf is enough
    certificate = identity->chain_pem;
#endif
    idle_policy.secs_since_valid_ping = (uint16_t)server->config->ping_s;
    idle_policy.secs_since_valid_hangup = (uint16_t)(server->config->ping_s * 2);
    snprintf(name, sizeof name, "hearth-%u", ++server->tls_number);
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .vhost_name = name,
        .protocols = tls_protocols,
        .server_ssl_cert_mem = certificate,
        .server_ssl_cert_mem_len = (unsigned)strlen(certificate),
        .server_ssl_private_key_mem = identity->key_der,
        .server_ssl_private_key_mem_len = (unsigned)identity->key_len,
        .options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT,
        .retry_and_idle_policy = &idle_policy,
        .keepalive_timeout = HD_HANDSHAKE_S,
        .timeout_secs_ah_idle = HD_HANDSHAKE_S,
    };
    struct lws_vhost *vhost = lws_create_vhost(server->lws, &info);
    free(chain);
    if (!vhost)
        return hd_fail(err, HEARTH_UNSUPPORTED, "the TLS library refuses the certificate");
    server->tls = vhost;
    if (old)
        lws_vhost_destroy(old);
    return HEARTH_OK;
}
