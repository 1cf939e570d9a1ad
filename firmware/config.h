// SPDX-License-Identifier: Apache-2.0
// The daemon's settings. Order: flag > environment HEARTH_<KEY> > file > default. Main thread, before the
// others start.
#ifndef HD_CONFIG_H
#define HD_CONFIG_H
#include <stdbool.h>
#include <stdio.h>

#include "engine/engine.h"
#include "firmware/log.h"

enum { HD_PATH_BYTES = 1024, HD_MAX_NAMES = 16, HD_HOST_BYTES = 254 };
enum { HD_MAX_SESSIONS = 64, HD_MAX_PAUSED = 8 }; // answers at once; paused meanwhile

enum hd_listen { HD_LISTEN_AUTO = 0, HD_LISTEN_LOOPBACK, HD_LISTEN_ALL };

struct hd_config {
    char file[HD_PATH_BYTES];        // the configuration file, "" if there is none
    char state_dir[HD_PATH_BYTES];   // database, keys, certificates
    char models_dir[HD_PATH_BYTES];  // *.gguf that UseModel may name
    char packed_dir[HD_PATH_BYTES];  // files of packed weights, in the cache folder
    char runtime_dir[HD_PATH_BYTES]; // admin.sock; "" = in the state folder
    char model[HD_PATH_BYTES];       // path or name; "" = the remembered one, else the default
    char tls_cert[HD_PATH_BYTES];    // the owner's own certificate chain and key (PEM); "" = the box's
    char tls_key[HD_PATH_BYTES];
    char names[HD_PATH_BYTES]; // further host names, separated by commas or blanks
    char device[64], chat_template[64], cpu_isa[32];
    char system_prompt[4096]; // for conversations without a system text; "" = the model's own
    enum hd_listen listen;
    unsigned port;
    unsigned http_port; // plain HTTP for programs of this machine; 0 = none
    unsigned n_threads, n_ctx, max_sessions; // 0 = the engine's default, max_sessions 1..64
    enum hearth_kv_type kv;
    unsigned memory_budget_mib; // for all loaded models together; 0 = what is free, less an eighth
    unsigned prefix_cache_mib;  // of conversations' caches kept on disk, sealed; 0 = none
    unsigned learn_quota_mib;   // of one person's data sets, adapters and trainings; 0 = no limit
    unsigned stall_s;           // one step of the engine may take this long before the box counts as hung
    unsigned ping_s; // idle time after which a client is pinged; it has as long again to answer
    bool packed_cache; // loaded models' packed weights are kept in packed_dir, and read from there
    bool discard_unreadable;
    enum hd_log_format log_format;
    enum hd_log_level log_level;

    // flags only
    bool foreground, help, version;
    char check_model[HD_PATH_BYTES];
};

// Fills *config from everything. INVALID: a flag is wrong; FORMAT: the file or the environment is. The text
// names it.
enum hearth_status hd_config_load(struct hd_config *config, int argc, char *const *argv,
                                  struct hearth_error *err);
// One file's lines into *config, over what is there. NOT_FOUND if the file is absent.
enum hearth_status hd_config_read_file(struct hd_config *config, const char *path, struct hearth_error *err);
void hd_config_help(FILE *out);
// Sessions that an engine needs: as many as answer at once, and some for answers that are paused.
unsigned hd_config_engine_sessions(const struct hd_config *config);

// Makes the folder and its parents, 0700. IO with path and cause.
enum hearth_status hd_config_make_dir(const char *path, struct hearth_error *err);

#endif
