// SPDX-License-Identifier: Apache-2.0
// Life of the server loop: context, certificate, timers, signals, end. Loop thread (the process's first
// thread).
#include "firmware/server.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "firmware/learn.h"
#include "firmware/metrics.h"
#include "firmware/reserve.h"

#ifdef HEARTH_HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

enum { TICK_S = 60, STOP_GRACE_MS = 5000, STOP_POLL_MS = 50 };

static void notify(const char *state)
{
#ifdef HEARTH_HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

static void lws_line(int level, const char *line)
{
    char text[200];
    snprintf(text, sizeof text, "%s", line);
    text[strcspn(text, "\n")] = 0;
    hd_log(HD_LOG_DEBUG, "lws(%d): %s", level, text);
}

// ---- timers

// New addresses or names want a new leaf; so does one near its end.
static void refresh_identity(struct hd_server *server)
{
    struct hd_names *names = malloc(sizeof *names);
    struct hd_identity *identity = NULL;
    struct hearth_error error = {0};
    if (!names || hd_names_get(names, server->config, &error) != HEARTH_OK)
        goto end;
    bool same = hd_names_equal(names, &server->names);
    if (same && hd_now_ms() < server->identity->renew_ms)
        goto end;
    if (hd_responses_count_running(server->responses) > 0) // soon; a renewal closes connections
        goto end;
    if (hd_identity_load(&identity, server->config, names, &error) != HEARTH_OK) {
        hd_log(HD_LOG_ERROR, "the certificate could not be renewed: %s", error.text);
        goto end;
    }
    server->names = *names;
    if (!identity->leaf_is_new && !identity->ca_is_new)
        goto end;
    struct hd_identity *old = server->identity;
    server->identity = identity;
    if (hd_listen_renew(server, &error) != HEARTH_OK) {
        hd_log(HD_LOG_ERROR, "%s", error.text);
        server->identity = old;
        goto end;
    }
    identity = old;
    free(server->mobileconfig);
    server->mobileconfig = hd_identity_mobileconfig(server->identity, server->names.dns[0]);
    hd_log(HD_LOG_INFO, "the certificate was renewed (names, addresses or age)");
end:
    hd_identity_free(&identity);
    free(names);
}

static void on_tick(lws_sorted_usec_list_t *sul)
{
    struct hd_server *server = lws_container_of(sul, struct hd_server, tick);
    struct hearth_error error = {0};
    hd_responses_prune(server->responses, hd_now_ms());
    if (hd_store_tick(server->store, &error) != HEARTH_OK)
        hd_log(HD_LOG_WARN, "housekeeping: %s", error.text);
    if (!server->stopping)
        refresh_identity(server);
    if (!server->stopping)
        hd_models_look(server);
    lws_sul_schedule(server->lws, 0, &server->tick, on_tick, (lws_usec_t)TICK_S * LWS_US_PER_SEC);
}

// Says once that the engine hangs, and once that it goes on.
static void look_at_engine(struct hd_server *server)
{
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    if (state.stalled == server->stalled)
        return;
    server->stalled = state.stalled;
    if (state.stalled)
        hd_log(HD_LOG_ERROR, "the engine hangs: one step has taken more than %u s", server->config->stall_s);
    else
        hd_log(HD_LOG_WARN, "the engine goes on");
}

static void on_save(lws_sorted_usec_list_t *sul)
{
    struct hd_server *server = lws_container_of(sul, struct hd_server, save);
    server->turned_ms = hd_now_ms();
    look_at_engine(server);
    hd_api_save_answers(server);
    lws_sul_schedule(server->lws, 0, &server->save, on_save, (lws_usec_t)HD_PARTIAL_MS * LWS_US_PER_MS);
}

static void on_watchdog(lws_sorted_usec_list_t *sul)
{
#ifdef HEARTH_HAVE_SYSTEMD
    struct hd_server *server = lws_container_of(sul, struct hd_server, watchdog);
    uint64_t period_us = 0;
    if (sd_watchdog_enabled(0, &period_us) <= 0 || period_us == 0)
        return;
    look_at_engine(server);
    if (!server->stalled) // else the service manager starts us anew
        notify("WATCHDOG=1");
    lws_sul_schedule(server->lws, 0, &server->watchdog, on_watchdog, (lws_usec_t)(period_us / 2));
#else
    (void)sul;
#endif
}

// ---- caches of conversations

static void on_prefix_work(lws_sorted_usec_list_t *sul)
{
    struct hd_server *server = lws_container_of(sul, struct hd_server, prefix_work);
    if (hd_prefixes_work(server->prefixes))
        hd_server_work_prefixes(server);
}

void hd_server_work_prefixes(struct hd_server *server)
{
    lws_sul_schedule(server->lws, 0, &server->prefix_work, on_prefix_work, LWS_US_PER_MS);
}

static void give_prefixes(void *user, const struct hd_id *person, const char *path, uint8_t *data, size_t len_bytes)
{
    struct hd_server *server = user;
    hd_worker_import(server->worker, person, path, data, len_bytes);
}

static uint64_t forget_seq(void *user)
{
    struct hd_server *server = user;
    return hd_worker_forget_seq(server->worker);
}

static void open_prefixes(struct hd_server *server)
{
    const struct hd_prefixes_params params = {.config = server->config,
                                              .store = server->store,
                                              .give = give_prefixes,
                                              .forget_seq = forget_seq,
                                              .user = server};
    server->prefixes = hd_prefixes_open(&params);
}

// At the end: what is newer than the disk is written, as far as it comes within the grace.
static void keep_prefixes(struct hd_server *server)
{
    int64_t deadline_ms = hd_now_ms() + STOP_GRACE_MS;
    if (!server->prefixes || server->stalled)
        return;
    server->exported = false;
    hd_worker_export_all(server->worker);
    while (hd_now_ms() < deadline_ms) {
        hd_api_notes(server);
        if (!hd_prefixes_work(server->prefixes)) {
            if (server->exported)
                break;
            usleep(STOP_POLL_MS * 100);
        }
    }
}

// ---- signals

int hd_signal_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    (void)user;
    (void)in;
    (void)len;
    struct hd_server *server = lws_get_opaque_user_data(wsi);
    struct signalfd_siginfo info;
    if (reason == LWS_CALLBACK_RAW_RX_FILE && read(server->signal_fd, &info, sizeof info) == sizeof info) {
        hd_log(HD_LOG_INFO, "signal %u: ending", info.ssi_signo);
        hd_server_stop(server);
    }
    return 0;
}

static enum hearth_status watch_signals(struct hd_server *server, struct hearth_error *err)
{
    sigset_t set; // blocked in every thread by main
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    server->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (server->signal_fd < 0 || !hd_listen_adopt_fd(server, server->signal_fd, "hearth-signal", server))
        return hd_fail(err, HEARTH_IO, "cannot watch for signals");
    return HEARTH_OK;
}

// ---- life

static void on_revoked(void *user, const struct hd_id *device)
{
    hd_clients_close_device(user, device);
    hd_exchanges_revoked(user, device);
}

static void wake(void *user)
{
    struct hd_server *server = user;
    lws_cancel_service(server->lws);
}

static enum hearth_status make_context(struct hd_server *server, struct hearth_error *err)
{
    lws_set_log_level(LLL_ERR | LLL_WARN, lws_line);
    hd_reserve_refill();
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .user = server,
        .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT,
        .timeout_secs = HD_HANDSHAKE_S,
        .fd_limit_per_thread = HD_MAX_CONNECTIONS + 64,
        .max_http_header_data = 4096,
        .max_http_header_pool = HD_MAX_CONNECTIONS,
        .pt_serv_buf_size = 16384,
    };
    server->lws = lws_create_context(&info);
    if (!server->lws)
        return hd_fail(err, HEARTH_NOMEM, "the server's context cannot be made");
    server->base = hd_listen_base(server);
    return server->base ? HEARTH_OK : hd_fail(err, HEARTH_NOMEM, "the server's context cannot be made");
}

static enum hearth_status start_listening(struct hd_server *server, struct hearth_error *err)
{
    bool ever = false;
    const struct hd_config *config = server->config;
    enum hearth_status status = hd_invited(server->store, &ever, err);
    if (status != HEARTH_OK)
        return status;
    if (config->listen == HD_LISTEN_ALL || (config->listen == HD_LISTEN_AUTO && ever))
        return hd_listen_all(server, err);
    return hd_listen_loopback(server, err);
}

static enum hearth_status set_up(struct hd_server *server, struct hearth_error *err)
{
    enum hearth_status status = hd_names_get(&server->names, server->config, err);
    if (status == HEARTH_OK)
        status = hd_identity_load(&server->identity, server->config, &server->names, err);
    if (status == HEARTH_OK)
        status = make_context(server, err);
    if (status == HEARTH_OK)
        status = hd_listen_renew(server, err);
    if (status == HEARTH_OK)
        status = start_listening(server, err);
    if (status == HEARTH_OK)
        status = hd_listen_plain(server, err);
    if (status == HEARTH_OK)
        status = watch_signals(server, err);
    if (status == HEARTH_OK)
        status = hd_admin_open(server, err);
    if (status != HEARTH_OK)
        return status;
    server->mobileconfig = hd_identity_mobileconfig(server->identity, server->names.dns[0]);
    open_prefixes(server);
    server->learn = hd_learn_open(server);
    struct hd_worker_params params = {.config = server->config, .wake = wake, .user = server};
    return hd_worker_start(&server->worker, &params, err);
}

enum hearth_status hd_server_new(struct hd_server **out, const struct hd_config *config,
                                 struct hd_store *store, struct hearth_error *err)
{
    *out = NULL;
    struct hd_server *server = calloc(1, sizeof *server);
    if (!server)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the server");
    server->config = config;
    server->store = store;
    server->started_ms = server->turned_ms = hd_now_ms();
    server->metrics = hd_metrics_new();
    server->guard = hd_guard_new();
    server->scratch = malloc(LWS_PRE + HD_WIRE_PREFIX_BYTES + HD_MAX_FRAME_BYTES);
    server->responses =
        hd_responses_new(HD_MAX_RESPONSES, HD_MAX_RESPONSE_LOG_BYTES, hd_client_send_event, server);
    enum hearth_status status = server->guard && server->scratch && server->responses && server->metrics
                                    ? set_up(server, err)
                                    : hd_fail(err, HEARTH_NOMEM, "no memory for the server");
    if (status != HEARTH_OK) {
        hd_server_free(&server);
        return status;
    }
    hd_devices_on_revoked(store, on_revoked, server);
    *out = server;
    return HEARTH_OK;
}

bool hd_server_url(const struct hd_server *server, size_t i, const char *secret, char *out, size_t size)
{
    char address[INET6_ADDRSTRLEN + 2], fp[33], port[8] = "";
    const char *host = address;
    size_t n_dns = server->names.n_dns;
    const struct hd_address *last = server->names.ip;
    if (!server->open_to_all) { // nobody else can come
        if (i > 0)
            return false;
        host = "localhost";
    } else if (i < n_dns - 1) { // [0] is the box's own name, [1] is localhost: told last
        host = server->names.dns[i == 0 ? 0 : i + 1];
    } else {
        size_t k = i - (n_dns - 1), seen = 0;
        for (; last < server->names.ip + server->names.n_ip; last++) {
            if (!hd_address_is_loopback(last) && seen++ == k)
                break;
        }
        if (last == server->names.ip + server->names.n_ip) {
            if (k > seen)
                return false;
            host = "localhost";
        } else {
            hd_address_format(address, last, true);
        }
    }
    if (server->config->port != 443)
        snprintf(port, sizeof port, ":%u", server->config->port);
    hd_hex(fp, server->identity->pin, 16);
    snprintf(out, size, secret ? "https://%s%s/#pair=%s&fp=%s" : "https://%s%s/", host, port, secret, fp);
    return true;
}

static void load_first_model(struct hd_server *server)
{
    char path[HD_PATH_BYTES];
    struct hearth_error error = {0};
    enum hearth_status status = hd_models_first(server->config, server->store, path, &error);
    if (status == HEARTH_OK) {
        hd_models_show(server, path); // its packed weights go by its hash
        status = hd_worker_load(server->worker, path, 0, &error);
    }
    if (status != HEARTH_OK) {
        hd_log(HD_LOG_WARN, "no model: %s", error.text);
        snprintf(server->model_problem, sizeof server->model_problem, "%s", error.text);
    }
}

void hd_server_run(struct hd_server *server)
{
    char url[512];
    load_first_model(server);
    hd_learn_resume(server->learn);
    on_tick(&server->tick);
    on_save(&server->save);
    on_watchdog(&server->watchdog);
    hd_server_url(server, 0, NULL, url, sizeof url);
    hd_log(HD_LOG_INFO, "hearthd " HEARTH_VERSION ": %s (%s)", url,
           server->open_to_all ? "all interfaces" : "loopback only until somebody is invited");
#ifdef HEARTH_OLD_TLS
    hd_log(HD_LOG_WARN,
           "loopback only: built on this system's older TLS libraries, libwebsockets " LWS_LIBRARY_VERSION
           " and mbedTLS " MBEDTLS_VERSION_STRING);
#endif
    notify("READY=1");
    while (lws_service(server->lws, 0) >= 0) {
        if (!server->stopping)
            continue;
        if ((hd_responses_count_running(server->responses) == 0 && hd_openai_count(server) == 0) ||
            hd_now_ms() > server->stop_deadline_ms)
            break;
    }
}

static void on_stop_poll(lws_sorted_usec_list_t *sul) // keeps the loop turning until what runs has ended
{
    struct hd_server *server = lws_container_of(sul, struct hd_server, watchdog);
    lws_sul_schedule(server->lws, 0, &server->watchdog, on_stop_poll,
                     (lws_usec_t)STOP_POLL_MS * LWS_US_PER_MS);
    lws_cancel_service(server->lws);
}

void hd_server_stop(struct hd_server *server)
{
    if (server->stopping)
        return;
    notify("STOPPING=1");
    server->stopping = true;
    server->stop_deadline_ms = hd_now_ms() + STOP_GRACE_MS;
    hd_worker_cancel_all(server->worker);
    on_stop_poll(&server->watchdog);
}

// What still runs after the grace is stored as far as it came.
static void store_rest(struct hd_server *server)
{
    hd_api_notes(server);
    hd_api_save_answers(server);
}

void hd_server_free(struct hd_server **out)
{
    struct hd_server *server = *out;
    if (!server)
        return;
    if (server->responses && server->worker) {
        store_rest(server);
        keep_prefixes(server);
    }
    hd_devices_on_revoked(server->store, NULL, NULL);
    lws_sorted_usec_list_t *const timers[] = {&server->tick, &server->watchdog, &server->save, &server->prefix_work,
                                             &server->handshakes};
    for (size_t i = 0; i < sizeof timers / sizeof timers[0]; i++)
        lws_sul_cancel(timers[i]); // none of them does without the worker
    hd_worker_stop(&server->worker);
    hd_learn_close(&server->learn);
    for (struct hd_client *client = server->clients; client; client = client->next)
        hd_client_close(client, HD_CLOSE_GOING_AWAY, "the box is stopping");
    for (int i = 0; server->lws && server->clients && i < 10; i++) // lets the close frames leave
        lws_service(server->lws, 0);
    if (server->lws)
        hd_admin_close(server);
    hd_listen_drop_waiting(server);
    if (server->lws)
        lws_context_destroy(server->lws);
    hd_reserve_free();
    hd_prefixes_close(&server->prefixes);
    hd_responses_free(&server->responses);
    hd_guard_free(&server->guard);
    hd_metrics_free(&server->metrics);
    hd_identity_free(&server->identity);
    free(server->mobileconfig);
    hd_wipe_free(server->scratch, LWS_PRE + HD_WIRE_PREFIX_BYTES + HD_MAX_FRAME_BYTES);
    free(server);
    *out = NULL;
}
