// SPDX-License-Identifier: Apache-2.0
// What the models folder holds and what is known of it, and changing the model that answers. Loop thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/server.h"

static const char default_model[] = "SmolLM2-135M-Instruct-Q4_1";

void hd_model_name(const struct hd_worker_state *state, char name[HD_MAX_MODEL_BYTES + 1])
{
    hd_model_file_name(state->path, name);
}

// ---- the list

void hd_models_show(struct hd_server *server, const char *path)
{
    struct hd_loader *loader = hd_worker_loader(server->worker);
    struct hd_file_identity identity;
    struct hd_file_facts facts;
    char sha256[HD_SHA256_HEX_BYTES];
    if (hd_loader_facts(loader, path, &facts))
        return;
    if (hd_file_identify(path, &identity) &&
        hd_store_sha256_get(server->store, path, &identity, sha256, NULL) == HEARTH_OK)
        hd_loader_know(loader, path, &identity, sha256);
    hd_loader_show(loader, path);
}

void hd_models_hashed(struct hd_server *server, const struct hd_note *note)
{
    struct hd_file_facts facts;
    struct hearth_error error;
    if (hd_loader_facts(hd_worker_loader(server->worker), note->text, &facts) && facts.sha256[0] &&
        hd_store_sha256_set(server->store, note->text, &facts.identity, facts.sha256, &error) != HEARTH_OK)
        hd_log(HD_LOG_WARN, "a model's SHA-256 could not be stored: %s", error.text);
}

static void add_facts(struct hd_server *server, const struct hd_worker_state *state,
                      struct hd_model_file *file)
{
    struct hd_file_facts facts;
    hd_models_show(server, file->path);
    if (hd_loader_facts(hd_worker_loader(server->worker), file->path, &facts)) {
        snprintf(file->sha256, sizeof file->sha256, "%s", facts.sha256);
        snprintf(file->problem, sizeof file->problem, "%s", facts.problem);
        if (facts.checked) {
            snprintf(file->architecture, sizeof file->architecture, "%s", facts.facts.architecture);
            snprintf(file->file_type, sizeof file->file_type, "%s", facts.facts.file_type);
            file->needed_bytes =
                hd_worker_needed(server->config, &facts.facts, state->budget_bytes, &file->fits);
        }
    }
    file->in_use = (state->loaded || state->loading) && strcmp(state->path, file->path) == 0;
    for (unsigned i = 0; i < state->n_models; i++) {
        const struct hd_model_state *model = &state->models[i];
        if (strcmp(model->path, file->path) != 0)
            continue;
        file->loaded = model->loaded;
        file->loading = model->loading;
        file->n_ctx = model->loaded ? model->info.n_ctx : 0;
        file->needed_bytes = model->loaded ? model->needed_bytes : file->needed_bytes;
        file->fits = file->fits || model->loaded;
    }
}

enum hearth_status hd_models_list(struct hd_server *server, struct hd_model_file **files, size_t *n,
                                  struct hearth_error *err)
{
    struct hd_worker_state state;
    bool found = false;
    enum hearth_status status = hd_model_files_list(server->config, files, n, err);
    if (status != HEARTH_OK)
        return status;
    hd_worker_state(server->worker, &state);
    for (size_t i = 0; i < *n; i++)
        found = found || strcmp((*files)[i].path, state.path) == 0;
    if (state.loaded && !found) { // the owner gave a path outside of the folder; there is a place for it
        struct hd_model_file *file = &(*files)[(*n)++];
        memset(file, 0, sizeof *file);
        hd_model_name(&state, file->name);
        snprintf(file->path, sizeof file->path, "%s", state.path);
        file->size_bytes = state.info.file_bytes;
    }
    for (size_t i = 0; i < *n; i++)
        add_facts(server, &state, &(*files)[i]);
    return HEARTH_OK;
}

void hd_models_look(struct hd_server *server)
{
    struct hd_model_file *files = NULL;
    struct hearth_error ignored;
    size_t n = 0;
    if (hd_model_files_list(server->config, &files, &n, &ignored) != HEARTH_OK)
        return;
    for (size_t i = 0; i < n; i++)
        hd_models_show(server, files[i].path);
    free(files);
}

// ---- which one answers

// The setting, when it names a file by path.
static bool is_path(const char *model)
{
    return strchr(model, '/') != NULL;
}

static enum hearth_status chosen(const struct hd_config *config, const char *name, char path[HD_PATH_BYTES],
                                 struct hearth_error *err)
{
    struct hd_model_file file;
    enum hearth_status status = hd_model_file_find(config, name, &file, err);
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
    enum hearth_status status = hd_model_files_list(config, &files, &n, err);
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
        hd_model_file_find(server->config, strcmp(name, "default") ? name : default_model, &file, err);
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

static void log_load(const struct hd_worker_state *state, const struct hd_note *note)
{
    if (note->error.code != HEARTH_OK) {
        hd_log(HD_LOG_ERROR, "the model cannot be loaded: %s", note->error.text);
        return;
    }
    for (unsigned i = 0; i < state->n_models; i++) {
        const struct hd_model_state *model = &state->models[i];
        if (note->text && strcmp(model->path, note->text) == 0)
            hd_log(HD_LOG_INFO, "model %s is loaded: %s, %u positions, %s%s", model->path,
                   model->info.file_type, model->info.n_ctx, model->info.device,
                   model->info.packed == HEARTH_PACKED_READ ? ", packed weights from their file" : "");
    }
}

void hd_models_loaded(struct hd_server *server, const struct hd_note *note)
{
    struct hearth_error error = {0};
    struct hd_load load = server->load;
    struct hd_worker_state state;
    hd_worker_state(server->worker, &state);
    log_load(&state, note);
    if (note->error.code == HEARTH_OK && note->text) {
        hd_models_show(server, note->text); // wherever it lies: adapters go by its hash
        hd_prefixes_loaded(server->prefixes, note->text);
        hd_server_work_prefixes(server);
    }
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
