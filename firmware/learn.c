// SPDX-License-Identifier: Apache-2.0
// Items of what the box learns, choices of adapters, life. See learn.h. Loop thread.
#include "firmware/learn.h"

#include <stdlib.h>
#include <string.h>

#include "firmware/json_text.h"
#include "firmware/learn_internal.h"

// ---- items

const struct hd_learnt *hd_learn_at(const struct hd_learn *learn, size_t i)
{
    return learn && i < learn->n_items ? &learn->items[i] : NULL;
}

struct hd_learnt *hd_learn_by_id(struct hd_learn *learn, const struct hd_id *id)
{
    for (size_t i = 0; i < learn->n_items; i++)
        if (hd_id_equal(&learn->items[i].id, id))
            return &learn->items[i];
    return NULL;
}

bool hd_learn_is_visible(const struct hd_learnt *item, const struct hd_id *person)
{
    return !person || hd_id_is_zero(&item->person) || hd_id_equal(&item->person, person);
}

const struct hd_learnt *hd_learn_find(const struct hd_learn *learn, enum hd_learnt_kind kind, const char *name,
                                      const struct hd_id *person)
{
    for (size_t i = 0; learn && i < learn->n_items; i++) {
        const struct hd_learnt *item = &learn->items[i];
        if (item->kind == kind && strcmp(item->name, name) == 0 && hd_learn_is_visible(item, person))
            return item;
    }
    return NULL;
}

enum hearth_status hd_learn_reload(struct hd_learn *learn, struct hearth_error *err)
{
    struct hd_learnt *items;
    struct hd_adapter_choice *choices;
    size_t n_items, n_choices;
    struct hd_store *store = learn->server->store;
    enum hearth_status status = hd_store_learnt_list(store, &items, &n_items, err);
    if (status != HEARTH_OK)
        return status;
    status = hd_store_choice_list(store, &choices, &n_choices, err);
    if (status != HEARTH_OK) {
        hd_learnt_free(items, n_items);
        return status;
    }
    hd_learnt_free(learn->items, learn->n_items);
    free(learn->choices);
    learn->items = items;
    learn->n_items = n_items;
    learn->choices = choices;
    learn->n_choices = n_choices;
    return HEARTH_OK;
}

void hd_learn_sync(struct hd_learn *learn)
{
    struct hearth_error error = {0};
    if (!learn)
        return;
    struct hd_learnt *before = learn->items;
    size_t n_before = learn->n_items;
    learn->items = NULL;
    learn->n_items = 0;
    if (hd_learn_reload(learn, &error) != HEARTH_OK) {
        hd_log(HD_LOG_ERROR, "what was learnt cannot be listed: %s", error.text);
        learn->items = before;
        learn->n_items = n_before;
        return;
    }
    hd_learn_own_stop(learn, "something was deleted meanwhile: try again");
    bool aborts = false;
    for (size_t i = 0; i < n_before; i++) {
        if (hd_learn_by_id(learn, &before[i].id))
            continue;
        aborts = aborts || hd_learn_uses(learn, &before[i].id);
        hd_learn_adapter_gone(learn, &before[i].id);
    }
    if (aborts)
        hd_learn_abort(learn);
    for (size_t i = 0; i < n_before; i++)
        if (!hd_learn_by_id(learn, &before[i].id))
            hd_sealed_remove(learn->dir, &before[i].id, NULL);
    hd_learnt_free(before, n_before);
}

enum hearth_status hd_learn_remove(struct hd_learn *learn, bool set, const char *name, const struct hd_id *person,
                                   struct hearth_error *err)
{
    const struct hd_learnt *item = hd_learn_find(learn, set ? HD_LEARNT_SET : HD_LEARNT_ADAPTER, name, person);
    if (!item && !set)
        item = hd_learn_find(learn, HD_LEARNT_RUN, name, person);
    if (!item)
        return hd_fail(err, HEARTH_NOT_FOUND, "there is no %s of that name", set ? "data set" : "adapter");
    if (hd_learn_uses(learn, &item->id))
        return hd_fail(err, HEARTH_BUSY, "the training that runs needs %s: stop it first", item->name);
    enum hearth_status status = hd_store_learnt_remove(learn->server->store, &item->id, err);
    hd_learn_sync(learn);
    return status;
}

enum hearth_status hd_learn_place(struct hd_learn *learn, const struct hd_id *item, struct hd_sealed_place *place,
                                  struct hearth_error *err)
{
    place->dir = learn->dir;
    return hd_vault_sealer(hd_store_vault(learn->server->store), item, &place->sealer, err);
}

bool hd_learn_model_sha256(struct hd_learn *learn, const char *path, char sha256[HD_SHA256_HEX_BYTES])
{
    struct hd_file_facts facts;
    sha256[0] = 0;
    if (hd_loader_facts(hd_worker_loader(learn->server->worker), path, &facts))
        memcpy(sha256, facts.sha256, sizeof facts.sha256);
    return sha256[0] != 0;
}

// ---- choices

bool hd_learn_choice(const struct hd_learn *learn, const struct hd_id *person, struct hd_adapter_choice *choice,
                     bool *own)
{
    bool found = false;
    *own = false;
    for (size_t i = 0; learn && i < learn->n_choices && !*own; i++) {
        const struct hd_adapter_choice *c = &learn->choices[i];
        *own = hd_id_equal(&c->person, person);
        if (!*own && !hd_id_is_zero(&c->person))
            continue;
        *choice = *c;
        found = true;
    }
    return found;
}

enum hearth_status hd_learn_use(struct hd_learn *learn, const struct hd_id *person, const char *name, double scale,
                                struct hearth_error *err)
{
    struct hd_adapter_choice choice = {.person = *person, .scale = scale};
    const struct hd_learnt *item = NULL;
    bool box = hd_id_is_zero(person);
    struct hd_store *store = learn->server->store;
    if (!(scale >= -4 && scale <= 4))
        return hd_fail(err, HEARTH_INVALID, "scale: -4 to 4");
    if (name && name[0]) {
        item = hd_learn_find(learn, HD_LEARNT_ADAPTER, name, box ? NULL : person);
        if (!item)
            return hd_fail(err, HEARTH_NOT_FOUND, "there is no adapter of that name");
        if (box && !hd_id_is_zero(&item->person))
            return hd_fail(err, HEARTH_INVALID, "%s was learnt from one person's conversations: it is for them alone",
                           item->name);
        choice.adapter = item->id;
    }
    enum hearth_status status = name && (item || !box) ? hd_store_choice_set(store, &choice, err)
                                                       : hd_store_choice_clear(store, person, err);
    return status == HEARTH_OK ? hd_learn_reload(learn, err) : status;
}

json_t *hd_learnt_meta(const struct hd_learnt *item, struct hearth_error *err)
{
    json_t *meta = hd_json_read(item->meta, strlen(item->meta), 0, NULL);
    if (!meta)
        hd_fail(err, HEARTH_NOMEM, "no memory for what is known of %s", item->name);
    return meta;
}

static enum hearth_status base_of(const struct hd_learnt *item, char sha256[HD_SHA256_HEX_BYTES],
                                  struct hearth_error *err)
{
    json_t *meta = hd_learnt_meta(item, err);
    const char *base = json_string_value(json_object_get(meta, "base"));
    snprintf(sha256, HD_SHA256_HEX_BYTES, "%s", base ? base : "");
    json_decref(meta);
    return meta ? HEARTH_OK : HEARTH_NOMEM;
}

static enum hearth_status give(struct hd_learn *learn, const struct hd_learnt *item, double scale, struct hd_job *job,
                               struct hearth_error *err)
{
    job->adapter = hd_learn_open_adapter(learn, item, err);
    job->adapter_scale = (float)scale;
    return job->adapter ? HEARTH_OK : err->code;
}

enum hearth_status hd_learn_pick(struct hd_learn *learn, const struct hd_id *person, const char *name,
                                 const char *path, struct hd_job *job, struct hearth_error *err)
{
    char base[HD_SHA256_HEX_BYTES], sha256[HD_SHA256_HEX_BYTES];
    struct hd_adapter_choice choice;
    bool own;
    if (strcmp(name, "none") == 0)
        return HEARTH_OK;
    if (!name[0]) {
        const struct hd_learnt *item =
            learn && hd_learn_choice(learn, person, &choice, &own) ? hd_learn_by_id(learn, &choice.adapter) : NULL;
        if (!item || !hd_learn_model_sha256(learn, path, sha256))
            return HEARTH_OK;
        if (base_of(item, base, err) != HEARTH_OK)
            return HEARTH_NOMEM;
        if (strcmp(base, sha256) != 0)
            return HEARTH_OK; // it is for another model
        job->adapter_optional = true;
        return give(learn, item, choice.scale, job, err);
    }
    const struct hd_learnt *item = hd_learn_find(learn, HD_LEARNT_ADAPTER, name, person);
    if (!item)
        return hd_fail(err, HEARTH_NOT_FOUND, "there is no adapter of that name");
    if (!hd_learn_model_sha256(learn, path, sha256))
        return hd_fail(err, HEARTH_UNSUPPORTED, "the model's file is being looked at: try again in a moment");
    if (base_of(item, base, err) != HEARTH_OK)
        return HEARTH_NOMEM;
    if (strcmp(base, sha256) != 0)
        return hd_fail(err, HEARTH_INVALID, "the adapter %s is for another model", item->name);
    bool chosen = hd_learn_choice(learn, person, &choice, &own) && hd_id_equal(&choice.adapter, &item->id);
    return give(learn, item, chosen ? choice.scale : 1, job, err);
}

// ---- life

static bool is_kept(void *user, const struct hd_id *id)
{
    return hd_learn_by_id(user, id) != NULL;
}

// Rows whose key was lost with a damaged key file.
static void drop_unreadable(struct hd_learn *learn)
{
    struct hearth_error error = {0};
    struct hd_store *store = learn->server->store;
    for (size_t i = 0; i < learn->n_items; i++) {
        const struct hd_learnt *item = &learn->items[i];
        if (hd_vault_has(hd_store_vault(store), &item->id))
            continue;
        hd_log(HD_LOG_WARN, "%s has lost its key and is removed", item->name);
        if (hd_store_learnt_remove(store, &item->id, &error) != HEARTH_OK)
            hd_log(HD_LOG_WARN, "%s: %s", item->name, error.text);
    }
    (void)hd_learn_reload(learn, &error);
}

static void wake(void *user)
{
    struct hd_learn *learn = user;
    lws_cancel_service(learn->server->lws);
}

struct hd_learn *hd_learn_open(struct hd_server *server)
{
    struct hearth_error error = {0};
    struct hd_learn *learn = calloc(1, sizeof *learn);
    if (!learn)
        return NULL;
    learn->server = server;
    int n = snprintf(learn->dir, sizeof learn->dir, "%s/learn", server->config->state_dir);
    enum hearth_status status = n < (int)sizeof learn->dir
                                    ? hd_config_make_dir(learn->dir, &error)
                                    : hd_fail(&error, HEARTH_INVALID, "the state folder's path is too long");
    if (status == HEARTH_OK)
        status = hd_store_learnt_drop_orphans(server->store, &error);
    if (status == HEARTH_OK)
        status = hd_learn_reload(learn, &error);
    if (status == HEARTH_OK)
        status = hd_keeper_start(&learn->keeper, wake, learn, &error);
    if (status != HEARTH_OK) {
        hd_log(HD_LOG_ERROR, "nothing can be learnt: %s", error.text);
        hd_learnt_free(learn->items, learn->n_items);
        free(learn->choices);
        free(learn);
        return NULL;
    }
    drop_unreadable(learn);
    hd_sealed_sweep(learn->dir, is_kept, learn);
    return learn;
}

void hd_learn_turn(struct hd_learn *learn)
{
    if (!learn)
        return;
    hd_keeper_tell(learn->keeper);
    hd_learn_drop_idle(learn);
}

void hd_learn_close(struct hd_learn **out)
{
    struct hd_learn *learn = *out;
    if (!learn)
        return;
    lws_sul_cancel(&learn->tell);
    learn->n_followers = 0;
    learn->own.client = NULL;
    hd_learn_own_stop(learn, "the box is stopping");
    hd_keeper_stop(&learn->keeper);
    *out = NULL;
    for (size_t i = 0; i < HD_MAX_LEARNT; i++)
        hd_adapter_unref(&learn->live[i]);
    hd_run_files_unref(&learn->files);
    hd_learnt_free(learn->items, learn->n_items);
    free(learn->choices);
    free(learn);
}
