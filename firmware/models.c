// SPDX-License-Identifier: Apache-2.0
// Model files by name, and changing the model that answers. A name from outside is never used as a path: it
// must be the name of a file in the models folder. Loop thread.
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "firmware/server.h"

enum { MAX_MODELS = 1000 };
static const char suffix[] = ".gguf";
static const char default_model[] = "SmolLM2-135M-Instruct-Q4_1";

static bool ends_with_suffix(const char *name, size_t len)
{
    return len > sizeof suffix - 1 && strcmp(name + len - (sizeof suffix - 1), suffix) == 0;
}

void hd_model_name(const struct hd_worker_state *state, char name[HD_MAX_MODEL_BYTES + 1])
{
    const char *base = strrchr(state->path, '/');
    base = base ? base + 1 : state->path;
    size_t len = strlen(base);
    if (ends_with_suffix(base, len))
        len -= sizeof suffix - 1;
    len = len > HD_MAX_MODEL_BYTES ? hd_utf8_cut(base, len, HD_MAX_MODEL_BYTES) : len;
    memcpy(name, base, len);
    name[len] = 0;
    if (!hd_utf8_valid(name, len))
        snprintf(name, HD_MAX_MODEL_BYTES + 1, "model");
}

// A plain file name that can be told on the wire.
static bool name_is_plain(const char *name, size_t len)
{
    if (len == 0 || len > HD_MAX_MODEL_BYTES || name[0] == '.' || !hd_utf8_valid(name, len))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (name[i] == '/' || name[i] == '\\' || (unsigned char)name[i] < 0x20)
            return false;
    }
    return true;
}

enum hearth_status hd_models_find(const struct hd_config *config, const char *name,
                                  struct hd_model_file *file, struct hearth_error *err)
{
    size_t len = strlen(name);
    struct stat st;
    memset(file, 0, sizeof *file);
    if (ends_with_suffix(name, len))
        len -= sizeof suffix - 1;
    if (!name_is_plain(name, len))
        return hd_fail(err, HEARTH_INVALID,
                       "a model is chosen by its name in the models folder, 1 to %d bytes",
                       HD_MAX_MODEL_BYTES);
    memcpy(file->name, name, len);
    int n = snprintf(file->path, sizeof file->path, "%s/%s%s", config->models_dir, file->name, suffix);
    if (n < 0 || (size_t)n >= sizeof file->path)
        return hd_fail(err, HEARTH_INVALID, "the model's path is too long");
    if (stat(file->path, &st) != 0 || !S_ISREG(st.st_mode))
        return hd_fail(err, HEARTH_NOT_FOUND, "there is no model of that name in %s", config->models_dir);
    file->size_bytes = (uint64_t)st.st_size;
    return HEARTH_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct hd_model_file *)a)->name, ((const struct hd_model_file *)b)->name);
}

static enum hearth_status list_dir(const struct hd_config *config, struct hd_model_file **files, size_t *n,
                                   struct hearth_error *err)
{
    *n = 0;
    *files = calloc(MAX_MODELS + 1, sizeof **files);
    if (!*files)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the list of models");
    DIR *dir = opendir(config->models_dir);
    struct dirent *entry;
    struct hearth_error ignored;
    while (dir && *n < MAX_MODELS && (entry = readdir(dir)) != NULL) {
        if (ends_with_suffix(entry->d_name, strlen(entry->d_name)) &&
            hd_models_find(config, entry->d_name, &(*files)[*n], &ignored) == HEARTH_OK)
            (*n)++;
    }
    if (dir)
        closedir(dir);
    qsort(*files, *n, sizeof **files, by_name);
    return HEARTH_OK;
}

enum hearth_status hd_models_list(struct hd_server *server, struct hd_model_file **files, size_t *n,
                                  struct hearth_error *err)
{
    struct hd_worker_state state;
    bool found = false;
    enum hearth_status status = list_dir(server->config, files, n, err);
    if (status != HEARTH_OK)
        return status;
    hd_worker_state(server->worker, &state);
    for (size_t i = 0; i < *n; i++) {
        (*files)[i].loaded = state.loaded && strcmp((*files)[i].path, state.path) == 0;
        found = found || (*files)[i].loaded;
    }
    if (state.loaded &&
        !found) { // the owner gave a path outside of the folder; there is a place more than MAX_MODELS
        struct hd_model_file *file = &(*files)[(*n)++];
        memset(file, 0, sizeof *file);
        hd_model_name(&state, file->name);
        snprintf(file->path, sizeof file->path, "%s", state.path);
        file->size_bytes = state.info.file_bytes;
        file->loaded = true;
    }
    return HEARTH_OK;
}

// The setting, when it names a file by path.
static bool is_path(const char *model)
{
    return strchr(model, '/') != NULL;
}

static enum hearth_status chosen(const struct hd_config *config, const char *name, char path[HD_PATH_BYTES],
                                 struct hearth_error *err)
{
    struct hd_model_file file;
    enum hearth_status status = hd_models_find(config, name, &file, err);
    if (status == HEARTH_OK)
        memcpy(path, file.path, HD_PATH_BYTES);
    return status;
}

enum hearth_status hd_models_first(const struct hd_config *config, struct hd_store *store,
                                   char path[HD_PATH_BYTES], struct hearth_error *err)
{
    char name[HD_MAX_MODEL_BYTES + 1];
    struct hearth_error ignored;
    path[0] = 0;
    if (is_path(config->model)) {
        char *real = realpath(config->model, NULL);
        if (!real || strlen(real) >= HD_PATH_BYTES) {
            free(real);
            return hd_fail(err, HEARTH_NOT_FOUND, "%s: %s", config->model, strerror(errno));
        }
        memcpy(path, real, strlen(real) + 1);
        free(real);
        return HEARTH_OK;
    }
    if (config->model[0])
        return chosen(config, strcmp(config->model, "default") ? config->model : default_model, path, err);
    if (hd_store_model_get(store, name, &ignored) == HEARTH_OK &&
        chosen(config, name, path, &ignored) == HEARTH_OK)
        return HEARTH_OK;
    if (chosen(config, default_model, path, &ignored) == HEARTH_OK)
        return HEARTH_OK;
    struct hd_model_file *files = NULL;
    size_t n = 0;
    enum hearth_status status = list_dir(config, &files, &n, err);
    if (status == HEARTH_OK && n == 1)
        memcpy(path, files[0].path, HD_PATH_BYTES);
    else if (status == HEARTH_OK)
        status = hd_fail(err, HEARTH_NOT_FOUND,
                         n ? "several models are in %s: choose one with 'hearth models use NAME'"
                           : "there is no model in %s: 'hearth pull default' gets one",
                         config->models_dir);
    free(files);
    return status;
}

enum hearth_status hd_models_use(struct hd_server *server, const char *name, const struct hd_id *device,
                                 const struct hd_id *request, struct hearth_error *err)
{
    struct hd_model_file file;
    enum hearth_status status =
        hd_models_find(server->config, strcmp(name, "default") ? name : default_model, &file, err);
    if (status == HEARTH_OK && server->load.active)
        status = hd_fail(err, HEARTH_BUSY, "a model is being loaded already");
    if (status == HEARTH_OK)
        status = hd_worker_load(server->worker, file.path, server->load_counter + 1, err);
    if (status != HEARTH_OK)
        return status;
    server->load = (struct hd_load){.tag = ++server->load_counter, .active = true, .remember = true};
    memcpy(server->load.name, file.name, sizeof server->load.name);
    if (device) {
        server->load.device = *device;
        server->load.request = *request;
    }
    return HEARTH_OK;
}

// Tells the device that asked, on whichever of its sockets is open.
static void tell_device(struct hd_server *server, const struct hd_load *load,
                        const struct hearth_error *error)
{
    for (struct hd_client *client = server->clients; client; client = client->next) {
        if (!client->authenticated || client->close_code || !hd_id_equal(&client->device.id, &load->device))
            continue;
        if (error->code == HEARTH_OK)
            hd_api_done(client, &load->request);
        else
            hd_api_error(client, &load->request, HEARTH__V1__ERROR__CODE__CODE_UNAVAILABLE, error->text);
    }
}

void hd_models_loaded(struct hd_server *server, const struct hd_note *note)
{
    struct hearth_error error = {0};
    struct hd_load load = server->load;
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    if (note->error.code == HEARTH_OK)
        hd_log(HD_LOG_INFO, "model %s is loaded: %s, %u positions, %s", state.path, state.info.file_type,
               state.info.n_ctx, state.info.device);
    else
        hd_log(HD_LOG_ERROR, "the model cannot be loaded: %s", note->error.text);
    if (!load.active || load.tag != note->tag)
        return;
    memset(&server->load, 0, sizeof server->load);
    if (note->error.code == HEARTH_OK && load.remember &&
        hd_store_model_set(server->store, load.name, "", &error) != HEARTH_OK)
        hd_log(HD_LOG_WARN, "the choice of the model could not be stored: %s", error.text);
    if (hd_id_is_zero(&load.device))
        hd_admin_model_loaded(server, &note->error);
    else
        tell_device(server, &load, &note->error);
}
