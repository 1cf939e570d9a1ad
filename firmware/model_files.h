// SPDX-License-Identifier: Apache-2.0
// Model files by name. A name from outside is never used as a path: it must be the name of a file in the models
// folder. Any thread.
#ifndef HD_MODEL_FILES_H
#define HD_MODEL_FILES_H
#include "firmware/config.h"
#include "firmware/store.h"

struct hd_model_file {
    char name[HD_MAX_MODEL_BYTES + 1]; // the file's name without ".gguf"
    char path[HD_PATH_BYTES];
    uint64_t size_bytes;
    // What hd_models_list adds:
    bool in_use, loaded, loading;
    char architecture[32], file_type[16]; // "" = not looked at yet
    unsigned n_ctx;                       // usable now, 0 if not loaded
    uint64_t needed_bytes;                // weights, KV and work memory; 0 = not known
    bool fits;                            // in the memory budget, alone
    char sha256[65], problem[HEARTH_ERROR_TEXT_BYTES];
};
// A plain name within the models folder, never a path. NOT_FOUND or INVALID.
enum hearth_status hd_model_file_find(const struct hd_config *config, const char *name,
                                      struct hd_model_file *file, struct hearth_error *err);
// All of the folder, sorted by name; *files is malloc'ed and has room for one more. Files whose names cannot be told
// on the wire are left out, and second and later parts of split models.
enum hearth_status hd_model_files_list(const struct hd_config *config, struct hd_model_file **files,
                                       size_t *n, struct hearth_error *err);
// The name that the model of this file is chosen by; "" for "".
void hd_model_file_name(const char *path, char name[HD_MAX_MODEL_BYTES + 1]);

#endif
