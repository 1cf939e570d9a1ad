// SPDX-License-Identifier: Apache-2.0
// The server loop: one thread, one libwebsockets context. What the files server*.c, api*.c and admin.c share;
// main.c needs only create, run and free. Everything here belongs to the loop thread.
//
// Listening sockets are ours: a connection is counted before TLS costs anything, and the step from loopback
// to all interfaces closes no connection. Sockets are then adopted by the virtual host that holds the
// certificate.
#ifndef HD_SERVER_H
#define HD_SERVER_H
#include <libwebsockets.h>

#include "firmware/ca.h"
#include "firmware/guard.h"
#include "firmware/limits.h"
#include "firmware/model_files.h"
#include "firmware/people.h"
#include "firmware/prefixes.h"
#include "firmware/responses.h"
#include "firmware/worker.h"

struct hd_admin;
struct hd_answering;
struct hd_exchange;
struct hd_learn;
struct hd_metrics;

// A TCP connection that was counted by the guard.
struct hd_connection {
    struct hd_connection *next;
    struct hd_server *server;
    struct lws *wsi;
    struct hd_address address;
    size_t place;   // of its address, in the guard
    int64_t since_ms;
    int fd;         // while it waits for its handshake, else -1
    bool known;     // a device has shown its token on it
    bool given_way; // to a newcomer: not counted any more, about to be closed
    bool plain;  // without TLS, from this machine: the OpenAI door only
    struct hd_exchange *exchange; // the computed request that it carries, or NULL
};

struct hd_out {
    struct hd_out *next;
    bool has_request;
    struct hd_id request;
    struct hd_blob *blob; // a frame, or with has_request an event that wants its prefix
};

// One WebSocket. Lies in libwebsockets' per-session memory.
struct hd_client {
    struct hd_client *next;
    struct hd_server *server;
    struct lws *wsi;
    struct hd_address address;
    bool authenticated;
    struct hd_device device;
    uint8_t *rx; // the message being received
    size_t rx_len, rx_capacity;
    struct hd_out *first, *last;
    size_t queued_bytes;
    unsigned close_code; // 0 = open; else nothing is read or queued any more
    char close_reason[100];
    unsigned refused; // frames in a row beyond the rate
};

// A load of a model whose end somebody waits for.
struct hd_load {
    uint64_t tag;
    bool active, remember;
    char name[HD_MAX_MODEL_BYTES + 1];
    struct hd_id device, request; // zero device: the admin socket, or nobody
};

struct hd_server {
    const struct hd_config *config;
    struct hd_store *store;
    struct hd_worker *worker;
    struct hd_names names;
    struct hd_identity *identity;
    char *mobileconfig;
    struct hd_guard *guard;
    struct hd_responses *responses;
    struct hd_admin *admin;
    struct hd_metrics *metrics;
    struct hd_answering *answering; // what is asked through the OpenAI door
    struct hd_exchange *exchanges;  // computed requests, from their first line to the end of the connection

    struct lws_context *lws;
    struct lws_vhost *base, *tls; // descriptors; connections
    struct lws_vhost *plain;      // connections without TLS, NULL = none
    unsigned tls_number;
    struct hd_connection *connections, *adopting;
    struct lws *listeners[6]; // [0..1] loopback, [2..3] all interfaces, [4..5] loopback without TLS
    bool open_to_all;
    struct hd_client *clients;
    uint8_t *scratch; // one frame with libwebsockets' room before it

    struct hd_learn *learn;       // NULL: nothing can be learnt
    struct hd_prefixes *prefixes; // NULL: caches are not kept
    bool exported;                // all of them have been, for the end
    bool stalled;                 // that the engine hangs was told
    struct hd_load load;
    uint64_t load_counter;
    lws_sorted_usec_list_t tick, watchdog, save, prefix_work, handshakes;
    int signal_fd;
    int64_t started_ms, stop_deadline_ms;
    int64_t turned_ms; // when the loop's own timer last fired
    bool stopping;
    char model_problem[HEARTH_ERROR_TEXT_BYTES]; // why no model was looked for at start
};

// ---- life (server.c)

// BUSY: the port is in use. UNSUPPORTED: cannot listen.
enum hearth_status hd_server_new(struct hd_server **server, const struct hd_config *config,
                                 struct hd_store *store, struct hearth_error *err);
void hd_server_run(struct hd_server *server); // until a signal or hd_server_stop
void hd_server_stop(struct hd_server *server);
void hd_server_free(struct hd_server **server);
// The page's address, best first; false when there are no more. `secret` NULL = without pairing part.
int hd_signal_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);
bool hd_server_url(const struct hd_server *server, size_t i, const char *secret, char *out, size_t size);

// ---- listening (server_listen.c)

struct lws_vhost *hd_listen_base(struct hd_server *server); // the virtual host of descriptors
enum hearth_status hd_listen_loopback(struct hd_server *server, struct hearth_error *err);
// The port without TLS, if the settings have one: loopback, whatever else is open.
enum hearth_status hd_listen_plain(struct hd_server *server, struct hearth_error *err);
// Closes the loopback listeners and listens on all interfaces. Open connections stay.
enum hearth_status hd_listen_all(struct hd_server *server, struct hearth_error *err);
// The first invitation opens the port, if the settings allow it.
void hd_listen_invited(struct hd_server *server);
int hd_listen_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);
void hd_listen_drop_waiting(struct hd_server *server); // connections whose handshake has not begun
// Takes it from the list and from the guard's count.
void hd_connection_free(struct hd_connection *connection);
// A new virtual host with the present certificate takes over; the old one's connections are cut (a client sees 1006).
enum hearth_status hd_listen_renew(struct hd_server *server, struct hearth_error *err);
// Adopts a descriptor whose events go to `protocol` of the base host. NULL on failure; then `fd` is closed.
struct lws *hd_listen_adopt_fd(struct hd_server *server, int fd, const char *protocol, void *opaque);

// ---- pages (server_http.c) and sockets (server_ws.c)

int hd_http_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);
int hd_ws_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);
void hd_client_send(struct hd_client *client,
                    struct hd_blob *frame); // takes over the reference; NULL closes with 1011
void hd_client_send_event(void *server, void *client, const struct hd_id *request, struct hd_blob *event);
void hd_client_close(struct hd_client *client, unsigned code, const char *reason);
size_t hd_clients_close_device(struct hd_server *server, const struct hd_id *device);
size_t hd_clients_count(const struct hd_server *server,
                        const struct hd_id *device); // NULL = all authenticated ones

// A device was revoked: its HTTP requests are cut, whether their body is still coming, they are worked on, or the
// answer is being read (http.c).
void hd_exchanges_revoked(struct hd_server *server, const struct hd_id *device);

// ---- requests (api.c, api_chat.c)

void hd_api_frame(struct hd_client *client, const uint8_t *data, size_t len_bytes);
void hd_api_error(struct hd_client *client, const struct hd_id *request, Hearth__V1__Error__Code code,
                  const char *text);
void hd_api_fail(struct hd_client *client, const struct hd_id *request, const struct hearth_error *error);
Hearth__V1__Error__Code hd_api_code(enum hearth_status status);
void hd_api_reply(struct hd_client *client, const struct hd_id *request, Hearth__V1__ServerFrame *frame);
void hd_api_done(struct hd_client *client, const struct hd_id *request);
void hd_api_chat(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Chat *chat);
void hd_api_cancel(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Cancel *cancel);
void hd_api_resume(struct hd_client *client, const struct hd_id *request, const Hearth__V1__Resume *resume);
void hd_api_list_conversations(struct hd_client *client, const struct hd_id *request,
                               const Hearth__V1__ListConversations *list);
void hd_api_get_conversation(struct hd_client *client, const struct hd_id *request,
                             const Hearth__V1__GetConversation *get);
void hd_api_notes(struct hd_server *server);        // takes what the engine thread has to tell
void hd_api_save_answers(struct hd_server *server); // running ones, so that a crash loses little
// After turns were deleted: their answers are cancelled and forgotten, and the cache of the conversation is
// emptied (NULL = all caches: it is not known whose turns they were).
void hd_api_forget_turns(struct hd_server *server, const struct hd_deleted *deleted, const struct hd_id *person,
                         const struct hd_id *conversation);
// The name that the loaded model is chosen by; "" if none.
void hd_model_name(const struct hd_worker_state *state, char name[HD_MAX_MODEL_BYTES + 1]);

// ---- the OpenAI door (openai.c)

// True when the note was for an answer of that door.
bool hd_openai_note(struct hd_server *server, const struct hd_note *note);
size_t hd_openai_count(const struct hd_server *server); // answers that run or wait

// ---- models (models.c)

// The models folder with what is known of each file, and the model in use wherever it lies. *files is malloc'ed.
enum hearth_status hd_models_list(struct hd_server *server, struct hd_model_file **files, size_t *n,
                                  struct hearth_error *err);
// Has the loader look at a file, with the SHA-256 that was stored for it.
void hd_models_show(struct hd_server *server, const char *path);
// The same for files of the models folder that it does not know.
void hd_models_look(struct hd_server *server);
void hd_models_hashed(struct hd_server *server, const struct hd_note *note);
// The model to load at start: the setting, the remembered one, the default one, or the only one there is.
enum hearth_status hd_models_first(const struct hd_config *config, struct hd_store *store,
                                   char path[HD_PATH_BYTES], struct hearth_error *err);
// Starts a load; who asked is told when it ended. `device` NULL = the admin socket.
enum hearth_status hd_models_use(struct hd_server *server, const char *name, const struct hd_id *device,
                                 const struct hd_id *request, struct hearth_error *err);
void hd_models_loaded(struct hd_server *server, const struct hd_note *note);
// ---- learning (api_learn.c; learn.h has the rest)

void hd_api_train_start(struct hd_client *client, const struct hd_id *request, const Hearth__V1__TrainStart *body);
void hd_api_train_stop(struct hd_client *client, const struct hd_id *request, const Hearth__V1__TrainStop *body);
void hd_api_train_follow(struct hd_client *client, const struct hd_id *request);
void hd_api_import_conversations(struct hd_client *client, const struct hd_id *request,
                                 const Hearth__V1__ImportConversations *body);
void hd_api_list_data_sets(struct hd_client *client, const struct hd_id *request);
void hd_api_delete_data_set(struct hd_client *client, const struct hd_id *request,
                            const Hearth__V1__DeleteDataSet *body);
void hd_api_list_adapters(struct hd_client *client, const struct hd_id *request);
void hd_api_use_adapter(struct hd_client *client, const struct hd_id *request, const Hearth__V1__UseAdapter *body);

// Caches of conversations are read or written a piece at a time, between everything else (server.c).
void hd_server_work_prefixes(struct hd_server *server);

// ---- admin socket (admin.c)

enum hearth_status hd_admin_open(struct hd_server *server, struct hearth_error *err);
void hd_admin_close(struct hd_server *server);
int hd_admin_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);
void hd_admin_model_loaded(struct hd_server *server, const struct hearth_error *error); // answers use-model

#endif
