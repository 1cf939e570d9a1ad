// SPDX-License-Identifier: Apache-2.0
// The file of packed weights. A reader builds the front that it wants from the model in hand and compares: nothing in
// the file is believed, nor any number of it used.
//
//   head     struct file_head: what the file is bound to, counts, sizes
//   entries  a struct file_entry for each weight, in the order of weights_of
//   sums     a checksum for each piece of each weight, then zeros up to a multiple of 64 bytes
//   sum      checksum of all before it
//   data     the weights as the device keeps them, one behind the other
// Numbers are of the machine's own byte order: the magic tells another one. The checksums find damage; that nobody else
// wrote the file is what owner and mode say.
#include "engine/model/packed.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/io.h"
#include "engine/base/mem.h"
#include "engine/model/session.h"
#include "engine/ops/check.h"

#define MAGIC 0x31304B4350545248u // "HRTPCK01"
#define SUFFIX ".packed"
enum {
    PIECE_BYTES = 128 << 10, // read, checked and forgotten while it is in a core's cache
    SYNC_BYTES = 16 << 20,   // written at most before it is waited for: giving up waits for no more
    FRONT_ALIGN = 64,
    MAX_FRONT_BYTES = 256 << 20,
    NAME_BYTES = HT_SHA256_HEX + 1 + HT_PACKED_FORM_HEX + sizeof SUFFIX,
};

struct file_head {
    uint64_t magic, weight_bytes, file_bytes;
    char base_sha256[HT_SHA256_HEX], form[HT_PACKED_FORM_HEX];
    unsigned char files[HT_HASH_BYTES];
    uint32_t n_weights, n_pieces, piece_bytes, zero;
};

struct file_entry {
    uint64_t offset, size_bytes;
    uint32_t type, n, k, zero;
};

struct front { // the file up to its data
    struct ht_weight **weights;
    struct file_entry *entries;
    uint64_t *first_piece; // of each weight
    unsigned char *bytes;
    uint64_t n_pieces, file_bytes;
    size_t fixed_bytes, size_bytes; // fixed: head and entries
    uint32_t n_weights;
};

struct ht_packed {
    struct ht_file *file;
    const struct ht_model *model;
    struct front front;
    uint32_t from; // of the weights that are filled now
};

bool ht_packed_sha256_valid(const char *hex)
{
    return hex && strlen(hex) == HT_SHA256_HEX && strspn(hex, "0123456789abcdef") == HT_SHA256_HEX;
}

// ---- the front

// The model's weights, in an order of their own. NULL: only counted.
static uint32_t weights_of(const struct ht_model *m, struct ht_weight **weights)
{
    uint32_t n = 0;
    for (int64_t l = -2; l < m->hp.n_layers; l++)
        for (int i = 0; i < (l < 0 ? 1 : HT_N_MATRICES); i++) {
            struct ht_weight *w = l == -2 ? m->token_embd : l == -1 ? m->output : m->layers[l].matrix[i];
            if (!w || (l == -1 && w == m->token_embd))
                continue;
            if (weights)
                weights[n] = w;
            n++;
        }
    return n;
}

static const struct ht_weight_params *params_of(const struct ht_weight *w)
{
    return &((const struct ht_weight_head *)(const void *)w)->params;
}

static void front_free(struct front *f)
{
    ht_free(f->weights);
    ht_free(f->entries);
    ht_free(f->first_piece);
    ht_free(f->bytes);
    *f = (struct front){0};
}

static unsigned char *sum_of(const struct front *f, uint64_t piece)
{
    return f->bytes + f->fixed_bytes + piece * HT_HASH_BYTES;
}

static void sum_up(const void *data, size_t len_bytes, unsigned char sum[HT_HASH_BYTES])
{
    struct ht_hash hash;
    ht_hash_init(&hash);
    ht_hash_add(&hash, data, len_bytes);
    ht_hash_end(&hash, sum);
}

// Where each weight lies and how long the front is. False: no such file can be.
static bool lay_out(struct front *f, const struct ht_model *m)
{
    uint64_t at = 0, pieces = 0;
    for (uint32_t i = 0; i < f->n_weights; i++) {
        const struct ht_weight_params *params = params_of(f->weights[i]);
        uint64_t size = m->dev->weight_size(m->device, params);
        f->entries[i] = (struct file_entry){
            .offset = at, .size_bytes = size, .type = (uint32_t)params->type, .n = params->n, .k = params->k};
        f->first_piece[i] = pieces;
        if (size > INT64_MAX || __builtin_add_overflow(at, size, &at))
            return false;
        pieces += (size + PIECE_BYTES - 1) / PIECE_BYTES;
    }
    f->fixed_bytes = sizeof(struct file_head) + f->n_weights * sizeof *f->entries;
    uint64_t size = f->fixed_bytes + (pieces + 1) * HT_HASH_BYTES;
    size = (size + FRONT_ALIGN - 1) / FRONT_ALIGN * FRONT_ALIGN;
    if (pieces > UINT32_MAX || size > MAX_FRONT_BYTES)
        return false;
    for (uint32_t i = 0; i < f->n_weights; i++)
        f->entries[i].offset += size;
    f->n_pieces = pieces;
    f->size_bytes = (size_t)size;
    return !__builtin_add_overflow(at, size, &f->file_bytes) && f->file_bytes <= INT64_MAX;
}

// Head and entries as they must be for this model; the sums are zeros.
static enum hearth_status front_make(struct front *f, const struct ht_packed_key *key, const struct ht_model *m,
                                     struct hearth_error *err)
{
    *f = (struct front){.n_weights = weights_of(m, NULL)};
    f->weights = ht_calloc(f->n_weights, sizeof *f->weights);
    f->entries = ht_calloc(f->n_weights, sizeof *f->entries);
    f->first_piece = ht_calloc(f->n_weights, sizeof *f->first_piece);
    if (!f->weights || !f->entries || !f->first_piece)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a file of packed weights");
    weights_of(m, f->weights);
    if (!lay_out(f, m))
        return ht_fail(err, HEARTH_LIMIT, "the weights are too many for a file of packed ones");
    if (!(f->bytes = ht_calloc(1, f->size_bytes)))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a file of packed weights");
    struct file_head head;
    memset(&head, 0, sizeof head);
    head.magic = MAGIC;
    head.weight_bytes = f->file_bytes - f->size_bytes;
    head.file_bytes = f->file_bytes;
    memcpy(head.base_sha256, key->base_sha256, sizeof head.base_sha256);
    memcpy(head.form, key->form, sizeof head.form);
    memcpy(head.files, key->files, sizeof head.files);
    head.n_weights = f->n_weights;
    head.n_pieces = (uint32_t)f->n_pieces;
    head.piece_bytes = PIECE_BYTES;
    memcpy(f->bytes, &head, sizeof head);
    memcpy(f->bytes + sizeof head, f->entries, f->n_weights * sizeof *f->entries);
    return HEARTH_OK;
}

static void file_name(char name[NAME_BYTES], const struct ht_packed_key *key)
{
    snprintf(name, NAME_BYTES, "%s-%s" SUFFIX, key->base_sha256, key->form);
}

// dir/name; freed by the caller. NULL: out of memory.
static char *path_of(const char *dir, const char *name)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = ht_calloc(size, 1);
    if (path)
        snprintf(path, size, "%s/%s", dir, name);
    return path;
}

// ---- in

static enum hearth_status read_front(struct ht_packed *p, const struct ht_packed_key *key, struct hearth_error *err)
{
    struct front *f = &p->front;
    unsigned char sum[HT_HASH_BYTES];
    const char *shown = ht_shown_path(ht_file_path(p->file));
    HT_TRY(front_make(f, key, p->model, err));
    if (ht_file_size(p->file) != f->file_bytes)
        return ht_fail(err, HEARTH_FORMAT, "%s: it has %llu bytes, not %llu", shown,
                       (unsigned long long)ht_file_size(p->file), (unsigned long long)f->file_bytes);
    unsigned char *want = ht_calloc(1, f->fixed_bytes);
    if (!want)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a file of packed weights");
    memcpy(want, f->bytes, f->fixed_bytes);
    enum hearth_status status = ht_file_read(p->file, f->bytes, f->size_bytes, 0, err);
    bool same = status == HEARTH_OK && !memcmp(want, f->bytes, f->fixed_bytes);
    ht_free(want);
    HT_TRY(status);
    if (!same)
        return ht_fail(err, HEARTH_FORMAT, "%s: it is of another model or another form, or damaged", shown);
    sum_up(f->bytes, f->size_bytes - sizeof sum, sum);
    if (memcmp(sum, f->bytes + f->size_bytes - sizeof sum, sizeof sum) != 0)
        return ht_fail(err, HEARTH_FORMAT, "%s: its table is damaged", shown);
    return HEARTH_OK;
}

enum hearth_status ht_packed_open(struct ht_packed **packed, const char *dir, const struct ht_packed_key *key,
                                  const struct ht_model *model, struct hearth_error *err)
{
    char name[NAME_BYTES];
    file_name(name, key);
    char *path = path_of(dir, name);
    struct ht_packed *p = ht_calloc(1, sizeof *p);
    enum hearth_status status = HEARTH_OK;
    if (path && p) {
        p->model = model;
        status = ht_file_open_own(&p->file, path, err);
        if (status == HEARTH_OK)
            status = read_front(p, key, err);
    } else {
        status = ht_fail(err, HEARTH_NOMEM, "out of memory for a file of packed weights");
    }
    ht_free(path);
    if (status != HEARTH_OK)
        ht_packed_close(&p);
    *packed = p;
    return status;
}

void ht_packed_close(struct ht_packed **packed)
{
    struct ht_packed *p = *packed;
    *packed = NULL;
    if (!p)
        return;
    ht_file_close(&p->file);
    front_free(&p->front);
    ht_free(p);
}

uint32_t ht_packed_n_weights(const struct ht_packed *packed)
{
    return packed->front.n_weights;
}

static enum hearth_status read_piece(void *user, uint32_t weight, uint64_t offset, size_t len_bytes, void *data,
                                     struct hearth_error *err)
{
    const struct ht_packed *p = user;
    const struct front *f = &p->front;
    uint32_t at = p->from + weight;
    unsigned char sum[HT_HASH_BYTES];
    HT_TRY(ht_file_read(p->file, data, len_bytes, f->entries[at].offset + offset, err));
    sum_up(data, len_bytes, sum);
    if (memcmp(sum, sum_of(f, f->first_piece[at] + offset / PIECE_BYTES), sizeof sum) != 0)
        return ht_fail(err, HEARTH_FORMAT, "%s: it is damaged", ht_shown_path(ht_file_path(p->file)));
    return HEARTH_OK;
}

enum hearth_status ht_packed_fill(struct ht_packed *packed, uint32_t from, uint32_t *to, uint64_t *bytes,
                                  struct hearth_error *err)
{
    const struct front *f = &packed->front;
    const struct ht_model *m = packed->model;
    const struct ht_packed_source source = {.read = read_piece, .user = packed, .piece_bytes = PIECE_BYTES};
    uint64_t taken = 0;
    for (*to = from; *to < f->n_weights && taken < *bytes; (*to)++)
        taken += f->entries[*to].size_bytes;
    *bytes = taken;
    packed->from = from;
    return m->dev->packed_fill(m->device, f->weights + from, *to - from, &source, err);
}

bool ht_packed_index(const struct ht_packed *packed, const struct ht_weight *w, uint32_t *index)
{
    for (*index = 0; *index < packed->front.n_weights; (*index)++)
        if (packed->front.weights[*index] == w)
            return true;
    return false;
}

// ---- out

struct out {
    const struct ht_model *model;
    struct front front;
    struct ht_file *file; // NULL: pieces are only summed
    uint64_t unsynced;
    unsigned char *piece;
    bool (*go_on)(void *user);
    void *user;
};

static enum hearth_status put(struct out *o, size_t len, struct hearth_error *err)
{
    HT_TRY(ht_file_write(o->file, o->piece, len, err));
    o->unsynced += len;
    if (o->unsynced < SYNC_BYTES)
        return HEARTH_OK;
    o->unsynced = 0;
    return ht_file_sync(o->file, err);
}

// Every piece once: into its checksum, or into the file.
static enum hearth_status each_piece(struct out *o, struct hearth_error *err)
{
    const struct front *f = &o->front;
    for (uint32_t i = 0; i < f->n_weights; i++)
        for (uint64_t at = 0, piece = f->first_piece[i]; at < f->entries[i].size_bytes; at += PIECE_BYTES, piece++) {
            uint64_t left = f->entries[i].size_bytes - at;
            size_t len = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
            if (o->go_on && !o->go_on(o->user))
                return ht_fail(err, HEARTH_CANCELED, "writing packed weights was given up");
            HT_TRY(o->model->dev->packed_read(o->model->device, f->weights[i], at, len, o->piece, err));
            if (o->file)
                HT_TRY(put(o, len, err));
            else
                sum_up(o->piece, len, sum_of(f, piece));
        }
    return HEARTH_OK;
}

static enum hearth_status write_file(struct out *o, const char *dir, const char *path, struct hearth_error *err)
{
    struct front *f = &o->front;
    uint64_t free_bytes = ht_folder_free(dir);
    if (free_bytes && f->file_bytes > free_bytes / 2)
        return ht_fail(err, HEARTH_LIMIT, "%s: %llu MiB of packed weights are more than half of what the disk has left",
                       ht_shown_path(dir), (unsigned long long)(f->file_bytes >> 20));
    if (!(o->piece = ht_calloc(1, PIECE_BYTES)))
        return ht_fail(err, HEARTH_NOMEM, "out of memory for writing packed weights");
    HT_TRY(each_piece(o, err));
    sum_up(f->bytes, f->size_bytes - HT_HASH_BYTES, f->bytes + f->size_bytes - HT_HASH_BYTES);
    HT_TRY(ht_file_create_alone(&o->file, path, err));
    HT_TRY(ht_file_write(o->file, f->bytes, f->size_bytes, err));
    HT_TRY(each_piece(o, err));
    return ht_file_commit(&o->file, err);
}

struct sweep {
    const char *dir, *base, *keep; // base NULL: of any; keep: the file that stays, or NULL
    struct hearth_packed_size *size; // NULL: files are removed
    enum hearth_status status;
    struct hearth_error *err;
};

// Files of packed weights, and temporaries of them.
static void sweep_one(void *user, const char *name, uint64_t size)
{
    struct sweep *s = user;
    size_t len = strlen(name), whole = NAME_BYTES - 1;
    bool temporary = len == whole + 4 && !strcmp(name + whole, ".tmp");
    if ((len != whole && !temporary) || strncmp(name + whole - strlen(SUFFIX), SUFFIX, strlen(SUFFIX)) ||
        (s->base && strncmp(name, s->base, HT_SHA256_HEX) != 0))
        return;
    if (s->size) {
        s->size->n_files++;
        s->size->bytes += size;
        return;
    }
    if (s->keep && !strcmp(name, s->keep))
        return;
    char *path = path_of(s->dir, name);
    enum hearth_status status = path ? ht_file_remove(path, temporary, s->err)
                                     : ht_fail(s->err, HEARTH_NOMEM, "out of memory for a path");
    if (status != HEARTH_OK && status != HEARTH_BUSY)
        s->status = status;
    ht_free(path);
}

static enum hearth_status sweep(struct sweep *s)
{
    enum hearth_status status = ht_folder_walk(s->dir, sweep_one, s, s->err);
    return status != HEARTH_OK ? status : s->status;
}

enum hearth_status hearth_engine_write_packed(const struct hearth_engine *engine, const char *dir,
                                              const char *base_sha256, bool (*go_on)(void *user), void *user,
                                              struct hearth_error *err)
{
    struct out o = {.model = &engine->model, .go_on = go_on, .user = user};
    struct ht_packed_key key = engine->packed;
    char name[NAME_BYTES];
    if (!dir || !ht_packed_sha256_valid(base_sha256))
        return ht_fail(err, HEARTH_INVALID, "packed weights want a folder and the SHA-256 of their base");
    if (engine->vocab_only)
        return ht_fail(err, HEARTH_INVALID, "the engine was opened for its vocabulary only");
    if (!engine->dev->packed_form)
        return ht_fail(err, HEARTH_UNSUPPORTED, "device %s has no packed form to store", engine->dev->name);
    if (!engine->unchanged)
        return ht_fail(err, HEARTH_IO, "the model's file was changed while it was read");
    memcpy(key.base_sha256, base_sha256, sizeof key.base_sha256);
    file_name(name, &key);
    char *path = path_of(dir, name);
    enum hearth_status status = path ? front_make(&o.front, &key, o.model, err)
                                     : ht_fail(err, HEARTH_NOMEM, "out of memory for a path");
    if (status == HEARTH_OK)
        status = write_file(&o, dir, path, err);
    ht_file_close(&o.file);
    front_free(&o.front);
    ht_free(o.piece);
    ht_free(path);
    if (status == HEARTH_OK) { // what else there is of this base is of no use any more
        struct sweep s = {.dir = dir, .base = base_sha256, .keep = name};
        (void)sweep(&s); // the next one removes what this could not
    }
    return status;
}

enum hearth_status hearth_packed_measure(const char *dir, const char *base_sha256, struct hearth_packed_size *size,
                                         struct hearth_error *err)
{
    struct sweep s = {.dir = dir, .base = base_sha256, .size = size, .err = err};
    *size = (struct hearth_packed_size){0};
    return sweep(&s);
}

enum hearth_status hearth_packed_remove(const char *dir, const char *base_sha256, struct hearth_error *err)
{
    struct sweep s = {.dir = dir, .base = base_sha256, .err = err};
    return sweep(&s);
}
