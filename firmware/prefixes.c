// SPDX-License-Identifier: Apache-2.0
// Sealed files of caches. See prefixes.h. Server loop thread only.
//
// File, named by its id in hex; integers are little-endian:
//   0 magic "HRTHPFX1" | 8 id of the person's key (16) | 24 id of the file (16), then records: u32 length | sealed
//   The first record is the head, the others are the cache in parts of PART_BYTES. A part opens only with its file's id
//   and its number. It is written beside its name, fsynced and renamed: a power cut leaves the one before or this one.
#include "firmware/prefixes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/io.h"
#include "firmware/vault.h"

enum {
    PREFACE_BYTES = 8 + 2 * HD_ID_BYTES,
    PART_BYTES = 1 << 20,
    MAX_FILES = 256,
    MAX_PENDING = 16,
    NAME_BYTES = 2 * HD_ID_BYTES + 1,
};
static const char magic[8] = {'H', 'R', 'T', 'H', 'P', 'F', 'X', '1'};

struct head { // sealed as it lies here: the file never leaves the box
    uint64_t version, len_bytes, created_ms;
    char tag[HD_MODEL_TAG_BYTES], model[HD_MAX_MODEL_BYTES + 1];
};

struct kept { // one file
    struct hd_id id, key, person;
    struct head head;
    char path[HD_PATH_BYTES]; // of the model that wants it; "" = none does
};

struct transfer { // the file that is being read or written
    int fd;       // -1 = none
    struct kept file;
    uint64_t offset;
    uint8_t *data;
    size_t at; // in data
    unsigned part;
};

struct hd_prefixes {
    struct hd_prefixes_params params;
    char dir[HD_PATH_BYTES + 16];
    uint64_t budget_bytes;
    struct kept files[MAX_FILES];
    size_t n_files;
    struct hd_note pending[MAX_PENDING];
    size_t n_pending;
    struct transfer in, out;
};

static struct hd_vault *vault_of(const struct hd_prefixes *p)
{
    return hd_store_vault(p->params.store);
}

static bool path_of(const struct hd_prefixes *p, const struct hd_id *id, const char *suffix,
                    char path[HD_PATH_BYTES + 80])
{
    char name[NAME_BYTES];
    hd_hex(name, id->b, HD_ID_BYTES);
    return snprintf(path, HD_PATH_BYTES + 80, "%s/%s%s", p->dir, name, suffix) < HD_PATH_BYTES + 80;
}

static void remove_file(const struct hd_prefixes *p, const struct hd_id *id, const char *suffix)
{
    char path[HD_PATH_BYTES + 80];
    if (path_of(p, id, suffix, path))
        (void)hd_io()->unlink(hd_io()->user, path);
}

static void drop(struct hd_prefixes *p, size_t i)
{
    remove_file(p, &p->files[i].id, "");
    p->files[i] = p->files[--p->n_files];
}

uint64_t hd_prefixes_bytes(const struct hd_prefixes *p)
{
    uint64_t sum = 0;
    for (size_t i = 0; p && i < p->n_files; i++)
        sum += p->files[i].head.len_bytes;
    return sum;
}

// ---- records

static struct hd_slot slot_of(const struct kept *file, unsigned part, char field[24])
{
    snprintf(field, 24, part ? "part %u" : "head", part);
    return (struct hd_slot){.table = "prefixes", .field = field, .row = file->id};
}

static int write_record(struct hd_prefixes *p, struct transfer *t, const void *data, size_t len_bytes)
{
    char field[24];
    uint8_t *sealed, length[4];
    size_t sealed_len;
    struct hd_slot slot = slot_of(&t->file, t->part, field);
    struct hearth_error error;
    if (hd_vault_seal(vault_of(p), &t->file.key, &slot, data, len_bytes, &sealed, &sealed_len, &error) !=
        HEARTH_OK)
        return -EIO;
    hd_put_le(length, sealed_len, sizeof length);
    int result = hd_io_write_all(t->fd, length, sizeof length, t->offset);
    if (result == 0)
        result = hd_io_write_all(t->fd, sealed, sealed_len, t->offset + sizeof length);
    free(sealed);
    t->offset += sizeof length + sealed_len;
    t->part++;
    return result;
}

// *data is malloc'ed: len_bytes of it.
static bool read_record(struct hd_prefixes *p, struct transfer *t, uint8_t **data, size_t *len_bytes)
{
    char field[24];
    uint8_t length[4];
    struct hearth_error error;
    *data = NULL;
    if (hd_io_read_all(t->fd, length, sizeof length, t->offset) != (int64_t)sizeof length)
        return false;
    size_t sealed_len = (size_t)hd_get_le(length, sizeof length);
    uint8_t *sealed = sealed_len <= PART_BYTES + HD_SEAL_OVERHEAD_BYTES ? malloc(sealed_len + 1) : NULL;
    bool good =
        sealed && hd_io_read_all(t->fd, sealed, sealed_len, t->offset + sizeof length) == (int64_t)sealed_len;
    struct hd_slot slot = slot_of(&t->file, t->part, field);
    good = good && hd_vault_open_value(vault_of(p), &t->file.key, &slot, sealed, sealed_len, data, len_bytes,
                                       &error) == HEARTH_OK;
    free(sealed);
    t->offset += sizeof length + sealed_len;
    t->part++;
    return good;
}

// ---- reading

static void end_reading(struct hd_prefixes *p)
{
    if (p->in.fd >= 0)
        (void)hd_io()->close(hd_io()->user, p->in.fd);
    hd_wipe_free(p->in.data, p->in.data ? p->in.file.head.len_bytes : 0);
    p->in = (struct transfer){.fd = -1};
}

// Opens a file and its head. False: it is none of ours, or nobody's.
static bool begin_reading(struct hd_prefixes *p, struct transfer *t, const struct hd_id *id)
{
    char path[HD_PATH_BYTES + 80];
    uint8_t preface[PREFACE_BYTES], *data = NULL;
    size_t len_bytes = 0;
    *t = (struct transfer){.fd = -1, .offset = PREFACE_BYTES, .file.id = *id};
    if (!path_of(p, id, "", path))
        return false;
    t->fd = hd_io()->open(hd_io()->user, path, O_RDONLY | O_NOFOLLOW, 0);
    bool good = t->fd >= 0 && hd_io_read_all(t->fd, preface, sizeof preface, 0) == (int64_t)sizeof preface &&
                memcmp(preface, magic, sizeof magic) == 0 &&
                memcmp(preface + 8 + HD_ID_BYTES, id->b, HD_ID_BYTES) == 0;
    if (good) {
        memcpy(t->file.key.b, preface + 8, HD_ID_BYTES);
        good = hd_vault_person(vault_of(p), &t->file.key, &t->file.person) &&
               read_record(p, t, &data, &len_bytes) && len_bytes == sizeof t->file.head;
    }
    if (good) {
        memcpy(&t->file.head, data, sizeof t->file.head);
        t->file.head.tag[HD_MODEL_TAG_BYTES - 1] = t->file.head.model[HD_MAX_MODEL_BYTES] = 0;
        good = t->file.head.version == 1 && t->file.head.len_bytes > 0 &&
               t->file.head.len_bytes <= p->budget_bytes;
    }
    hd_wipe_free(data, len_bytes);
    if (!good && t->fd >= 0)
        (void)hd_io()->close(hd_io()->user, t->fd);
    if (!good)
        t->fd = -1;
    return good;
}

static struct kept *find(struct hd_prefixes *p, const struct hd_id *id)
{
    for (size_t i = 0; i < p->n_files; i++) {
        if (hd_id_equal(&p->files[i].id, id))
            return &p->files[i];
    }
    return NULL;
}

// The next part; at the end the whole is given away. A damaged file goes.
static void read_part(struct hd_prefixes *p)
{
    struct transfer *t = &p->in;
    uint8_t *data;
    size_t len_bytes, whole = t->file.head.len_bytes;
    bool good = read_record(p, t, &data, &len_bytes) && len_bytes > 0 && len_bytes <= whole - t->at;
    if (good) {
        memcpy(t->data + t->at, data, len_bytes);
        t->at += len_bytes;
    }
    hd_wipe_free(data, len_bytes);
    struct kept *kept = find(p, &t->file.id);
    if (!good) {
        hd_log(HD_LOG_DEBUG, "a damaged file of a cache is dropped");
        if (kept)
            drop(p, (size_t)(kept - p->files));
        end_reading(p);
    } else if (t->at == whole) {
        if (kept)
            kept->path[0] = 0;
        p->params.give(p->params.user, &t->file.person, t->file.path, t->data, whole);
        t->data = NULL;
        end_reading(p);
    }
}

static void start_reading(struct hd_prefixes *p, struct kept *kept)
{
    struct hd_id id = kept->id;
    char path[HD_PATH_BYTES];
    memcpy(path, kept->path, sizeof path);
    bool good = begin_reading(p, &p->in, &id);
    p->in.data = good ? malloc(p->in.file.head.len_bytes) : NULL;
    memcpy(p->in.file.path, path, sizeof path);
    if (good && p->in.data)
        return;
    kept->path[0] = 0;
    end_reading(p);
}

void hd_prefixes_loaded(struct hd_prefixes *p, const char *path)
{
    char tag[HD_MODEL_TAG_BYTES];
    if (!p)
        return;
    hd_model_tag(p->params.config, path, tag);
    for (size_t i = 0; i < p->n_files; i++) {
        if (tag[0] && strcmp(p->files[i].head.tag, tag) == 0)
            snprintf(p->files[i].path, sizeof p->files[i].path, "%s", path);
    }
}

void hd_prefixes_want(struct hd_prefixes *p, const struct hd_id *person, const char *path)
{
    for (size_t i = 0; p && i < p->n_files; i++) {
        struct kept *kept = &p->files[i];
        if (!kept->path[0] || strcmp(kept->path, path) != 0 || !hd_id_equal(&kept->person, person))
            continue;
        struct hd_id id = kept->id;
        if (p->in.fd < 0 || !hd_id_equal(&p->in.file.id, &id)) {
            end_reading(p); // another's is read again later
            start_reading(p, kept);
        }
        while (p->in.fd >= 0)
            read_part(p);
        return;
    }
}

// ---- writing

static void end_writing(struct hd_prefixes *p, bool good)
{
    struct transfer *t = &p->out;
    if (t->fd >= 0)
        (void)hd_io()->close(hd_io()->user, t->fd);
    if (t->fd >= 0 && !good)
        remove_file(p, &t->file.id, ".new");
    hd_wipe_free(t->data, t->data ? t->file.head.len_bytes : 0);
    *t = (struct transfer){.fd = -1};
}

// The person's key; a new one if there is none.
static enum hearth_status key_of(struct hd_prefixes *p, const struct hd_id *person, struct hd_id *key,
                                 struct hearth_error *err)
{
    if (hd_vault_find(vault_of(p), HD_KEY_PREFIX, person, key, 1) > 0)
        return HEARTH_OK;
    struct hd_key_spec spec = {.kind = HD_KEY_PREFIX, .person = *person};
    enum hearth_status status = hd_id_random(&spec.id, err);
    if (status == HEARTH_OK)
        status = hd_vault_add(vault_of(p), &spec, 1, err);
    *key = spec.id;
    return status;
}

// Makes room by dropping what was written longest ago.
static void keep_budget(struct hd_prefixes *p, uint64_t more_bytes)
{
    while (p->n_files && (hd_prefixes_bytes(p) + more_bytes > p->budget_bytes || p->n_files == MAX_FILES)) {
        size_t oldest = 0;
        for (size_t i = 1; i < p->n_files; i++)
            oldest = p->files[i].head.created_ms < p->files[oldest].head.created_ms ? i : oldest;
        drop(p, oldest);
    }
}

// The file of this person for this model, of whatever state of the model's file.
static struct kept *find_same(struct hd_prefixes *p, const struct kept *file)
{
    for (size_t i = 0; i < p->n_files; i++) {
        struct kept *kept = &p->files[i];
        if (hd_id_equal(&kept->person, &file->person) && strcmp(kept->head.model, file->head.model) == 0 &&
            !hd_id_equal(&kept->id, &file->id))
            return kept;
    }
    return NULL;
}

static bool start_writing(struct hd_prefixes *p, struct hd_note *note)
{
    struct transfer *t = &p->out;
    struct hearth_error error;
    char path[HD_PATH_BYTES + 80];
    uint8_t preface[PREFACE_BYTES];
    *t = (struct transfer){.fd = -1, .data = (uint8_t *)note->text};
    note->text = NULL;
    t->file.person = note->person;
    t->file.head =
        (struct head){.version = 1, .len_bytes = note->len_bytes, .created_ms = (uint64_t)hd_now_ms()};
    memcpy(t->file.head.tag, note->model_tag, sizeof t->file.head.tag);
    memcpy(t->file.head.model, note->model, sizeof t->file.head.model);
    if (note->len_bytes > p->budget_bytes || hd_id_random(&t->file.id, &error) != HEARTH_OK ||
        key_of(p, &note->person, &t->file.key, &error) != HEARTH_OK || !path_of(p, &t->file.id, ".new", path))
        return false;
    struct kept *same = find_same(p, &t->file);
    uint64_t replaced = same ? same->head.len_bytes : 0;
    keep_budget(p, note->len_bytes > replaced ? note->len_bytes - replaced : 0);
    t->fd = hd_io()->open(hd_io()->user, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
    if (t->fd < 0)
        return false;
    memcpy(preface, magic, sizeof magic);
    memcpy(preface + 8, t->file.key.b, HD_ID_BYTES);
    memcpy(preface + 8 + HD_ID_BYTES, t->file.id.b, HD_ID_BYTES);
    t->offset = PREFACE_BYTES;
    return hd_io_write_all(t->fd, preface, sizeof preface, 0) == 0 &&
           write_record(p, t, &t->file.head, sizeof t->file.head) == 0;
}

static bool finish_writing(struct hd_prefixes *p)
{
    const struct hd_io *io = hd_io();
    struct transfer *t = &p->out;
    char fresh[HD_PATH_BYTES + 80], path[HD_PATH_BYTES + 80];
    if (io->fsync(io->user, t->fd) != 0 || !path_of(p, &t->file.id, ".new", fresh) ||
        !path_of(p, &t->file.id, "", path) || io->rename(io->user, fresh, path) != 0)
        return false;
    (void)io->fsync_dir(io->user, p->dir);
    struct kept *same;
    while ((same = find_same(p, &t->file)) != NULL)
        drop(p, (size_t)(same - p->files));
    keep_budget(p, t->file.head.len_bytes);
    p->files[p->n_files++] = t->file;
    return true;
}

static void write_part(struct hd_prefixes *p)
{
    struct transfer *t = &p->out;
    size_t left = t->file.head.len_bytes - t->at, n = left < PART_BYTES ? left : PART_BYTES;
    bool good = n == 0 || write_record(p, t, t->data + t->at, n) == 0;
    t->at += n;
    bool end = good && t->at == t->file.head.len_bytes;
    good = good && (!end || finish_writing(p));
    if (!good)
        hd_log(HD_LOG_WARN, "a cache could not be written to %s", p->dir);
    if (!good || end)
        end_writing(p, good);
}

void hd_prefixes_keep(struct hd_prefixes *p, struct hd_note *note)
{
    if (!p || !note->text || p->n_pending == MAX_PENDING || note->tag != p->params.forget_seq(p->params.user))
        return;
    p->pending[p->n_pending++] = *note;
    note->text = NULL;
}

static void start_next(struct hd_prefixes *p)
{
    struct hd_note note = p->pending[0];
    memmove(p->pending, p->pending + 1, --p->n_pending * sizeof p->pending[0]);
    if (!start_writing(p, &note)) {
        hd_log(HD_LOG_WARN, "a cache could not be written to %s", p->dir);
        end_writing(p, false);
    }
}

// ---- the whole

bool hd_prefixes_work(struct hd_prefixes *p)
{
    if (!p)
        return false;
    if (p->in.fd >= 0) {
        read_part(p);
        return true;
    }
    struct kept *newest = NULL;
    for (size_t i = 0; i < p->n_files; i++) {
        struct kept *kept = &p->files[i];
        if (kept->path[0] && (!newest || kept->head.created_ms > newest->head.created_ms))
            newest = kept;
    }
    if (newest)
        start_reading(p, newest);
    else if (p->out.fd >= 0)
        write_part(p);
    else if (p->n_pending)
        start_next(p);
    else
        return false;
    return true;
}

void hd_prefixes_forget(struct hd_prefixes *p, const struct hd_id *person)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_pending; i++)
        hd_note_free(&p->pending[i]);
    p->n_pending = 0; // of before this deletion, whoever's
    end_writing(p, false);
    end_reading(p);
    for (size_t i = p->n_files; i-- > 0;) {
        if (!person || hd_id_equal(&p->files[i].person, person))
            drop(p, i);
    }
}

// A file of the folder is opened with its key, or goes.
static void look_at(void *arg, const char *name)
{
    struct hd_prefixes *p = arg;
    struct transfer t = {.fd = -1};
    struct hd_id id;
    char path[sizeof p->dir + 300];
    bool good = hd_unhex(id.b, HD_ID_BYTES, name) && p->n_files < MAX_FILES && begin_reading(p, &t, &id);
    struct kept *same = good ? find_same(p, &t.file) : NULL;
    if (t.fd >= 0)
        (void)hd_io()->close(hd_io()->user, t.fd);
    if (same && same->head.created_ms <= t.file.head.created_ms) // a power cut came after a rename
        drop(p, (size_t)(same - p->files));
    else if (same)
        good = false;
    if (good)
        p->files[p->n_files++] = t.file;
    else if (snprintf(path, sizeof path, "%s/%s", p->dir, name) < (int)sizeof path)
        (void)hd_io()->unlink(hd_io()->user, path);
}

struct hd_prefixes *hd_prefixes_open(const struct hd_prefixes_params *params)
{
    struct hearth_error error;
    struct hd_prefixes *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->params = *params;
    p->in.fd = p->out.fd = -1;
    p->budget_bytes = (uint64_t)params->config->prefix_cache_mib << 20;
    snprintf(p->dir, sizeof p->dir, "%s/prefixes", params->config->state_dir);
    if (hd_config_make_dir(p->dir, &error) != HEARTH_OK) {
        hd_log(HD_LOG_WARN, "caches are not kept: %s", error.text);
        free(p);
        return NULL;
    }
    (void)hd_io()->list(hd_io()->user, p->dir, look_at, p);
    keep_budget(p, 0);
    return p;
}

void hd_prefixes_close(struct hd_prefixes **out)
{
    struct hd_prefixes *p = *out;
    *out = NULL;
    if (!p)
        return;
    for (size_t i = 0; i < p->n_pending; i++)
        hd_note_free(&p->pending[i]);
    end_writing(p, false);
    end_reading(p);
    free(p);
}
