// SPDX-License-Identifier: Apache-2.0
// What admin.c (socket) and admin_commands.c (requests) share. Loop thread.
#ifndef HD_ADMIN_INTERNAL_H
#define HD_ADMIN_INTERNAL_H
#include <jansson.h>

#include "firmware/server.h"

enum { HD_MAX_ADMIN_FDS = 4 };

struct hd_admin_client {
    struct hd_admin_client *next;
    struct hd_server *server;
    struct lws *wsi;
    char *in; // HD_MAX_ADMIN_LINE_BYTES
    size_t in_len;
    char *out; // lines to send
    size_t out_len, out_sent;
    size_t losses; // hd_json_losses when the answer was begun
    bool close_when_sent, stop_when_sent;
    bool waits_for_model, waits_for_learn;
    int fds[HD_MAX_ADMIN_FDS]; // that came with the request
    unsigned n_fds;
    bool exporting; // the next conversation is read when the last one was sent
    struct hd_person export_person;
    int64_t export_before_ms;
    uint64_t n_exported;
};

// Before an answer is built that no request line asks for at this moment.
void hd_admin_begin(struct hd_admin_client *client);
// Sends one line. Takes over `answer`; NULL, or one that lost something to missing memory, sends "internal".
void hd_admin_answer(struct hd_admin_client *client, json_t *answer);
void hd_admin_error(struct hd_admin_client *client, const char *code, const char *text);
void hd_admin_fail(struct hd_admin_client *client, const struct hearth_error *error);
// Reads the fields of a request that `format` names (jansson's), and refuses any other with an answer. false: it did.
bool hd_admin_unpack(struct hd_admin_client *client, json_t *request, const char *format, ...);
// One request line.
void hd_admin_request(struct hd_admin_client *client, const char *line, size_t len_bytes);
// Makes a device with a token for a program (admin_token.c).
void hd_admin_token_create(struct hd_admin_client *client, json_t *request);
// The next line of an export.
void hd_admin_export_next(struct hd_admin_client *client);
// admin_learn.c
void hd_admin_data_import(struct hd_admin_client *client, json_t *request);
void hd_admin_data_list(struct hd_admin_client *client, json_t *request);
void hd_admin_data_remove(struct hd_admin_client *client, json_t *request);
void hd_admin_adapters_import(struct hd_admin_client *client, json_t *request);
void hd_admin_adapters_export(struct hd_admin_client *client, json_t *request);
void hd_admin_adapters_list(struct hd_admin_client *client, json_t *request);
void hd_admin_adapters_use(struct hd_admin_client *client, json_t *request);
void hd_admin_adapters_remove(struct hd_admin_client *client, json_t *request);
void hd_admin_train_start(struct hd_admin_client *client, json_t *request);
void hd_admin_train_stop(struct hd_admin_client *client, json_t *request);
void hd_admin_train_status(struct hd_admin_client *client, json_t *request);
json_t *hd_admin_training(struct hd_server *server);
json_t *hd_admin_model(struct hd_server *server); // of the loaded one, or null

#endif
