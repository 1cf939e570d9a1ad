// SPDX-License-Identifier: Apache-2.0
// The loader thread: checks, measures and opens model files, so that neither the loop nor the engine thread waits for
// a disk, and knows of each file what it is. Functions: any thread, unless they say otherwise.
//
// One file at a time is checked or opened. When nothing is asked it looks at the files it was shown (check, SHA-256),
// a piece at a time, then writes packed weights, and not while `busy` says that answers are being written.
#ifndef HD_LOADER_H
#define HD_LOADER_H
#include "firmware/check.h"
#include "firmware/limits.h"
#include "firmware/util.h"

struct hd_loader;

bool hd_file_identify(const char *path, struct hd_file_identity *identity); // false: no plain file
bool hd_file_same(const struct hd_file_identity *a, const struct hd_file_identity *b);

struct hd_file_facts {
    struct hd_file_identity identity;
    bool checked; // facts are valid
    struct hd_model_facts facts;
    char problem[HEARTH_ERROR_TEXT_BYTES]; // why it cannot be served; "" when it can, or is not known yet
    char sha256[HD_SHA256_HEX_BYTES];      // "" = not known yet
};

struct hd_loader_params {
    const struct hd_config *config;
    unsigned check_ms;                            // 0 = HD_CHECK_MS
    void (*done)(void *user);                     // loader thread: hd_loader_take has something
    void (*hashed)(void *user, const char *path); // loader thread: the SHA-256 is known
    bool (*busy)(void *user);                     // loader thread
    void *user;
};
enum hearth_status hd_loader_start(struct hd_loader **loader, const struct hd_loader_params *params,
                                   struct hearth_error *err);
// Cancels what runs. An engine that nobody took is closed.
void hd_loader_stop(struct hd_loader **loader);

// ---- engine thread: one request at a time, each ends in one result

// Checks the file unless that was done since it changed.
void hd_loader_check(struct hd_loader *loader, const char *path);
void hd_loader_open(struct hd_loader *loader, const char *path, unsigned n_ctx);
// What was asked last is not wanted any more: its result comes soon, CANCELED unless it was done already.
void hd_loader_cancel(struct hd_loader *loader);
struct hd_loader_result {
    bool opened; // else checked
    struct hd_file_facts file;
    struct hearth_engine *engine; // opened and OK: the caller's
    struct hearth_error error;
};
bool hd_loader_take(struct hd_loader *loader, struct hd_loader_result *result); // false: not yet
// An engine that was taken is used from now on: its packed weights may be written (firmware/packed.h). Let go before it
// is closed.
void hd_loader_keep(struct hd_loader *loader, const struct hearth_engine *engine, const char *path,
                    const struct hd_file_identity *identity);
void hd_loader_let_go(struct hd_loader *loader, const struct hearth_engine *engine);

// ---- files

// Shows a file; it is looked at when there is time. At most 256 are.
void hd_loader_show(struct hd_loader *loader, const char *path);
// The SHA-256 of a file of this identity, known from before.
void hd_loader_know(struct hd_loader *loader, const char *path, const struct hd_file_identity *identity,
                    const char *sha256);
// What is known of the file as it lies there now; false: nothing.
bool hd_loader_facts(struct hd_loader *loader, const char *path, struct hd_file_facts *facts);

#endif
