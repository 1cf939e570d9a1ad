// SPDX-License-Identifier: Apache-2.0
// From the file to the device: every tensor is checked against the family before the first byte is read. The device
// then asks for rows while it packs others. Peak memory is the packed weights and what the device stages.
// The loading thread, with the device's team.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/half.h"
#include "engine/base/mem.h"
#include "engine/model/packed.h"

enum { STRETCH_BYTES = 32 << 20 }; // of a tensor between two reports of progress

struct loader {
    struct ht_model *model;
    struct ht_gguf *gguf;
    bool (*progress)(void *user, double done);
    void *user;
    struct hearth_error *err;
    unsigned char *vector; // the longest one, as the file has it
    const struct ht_packed *packed; // NULL: none
    uint32_t n_packed;              // so many of its weights are there
    uint64_t done_bytes, total_bytes;
    size_t vector_floats; // taken of model->vectors so far, while room is made
};

static enum hearth_status missing(const struct ht_gguf *gguf, const char *name, struct hearth_error *err)
{
    return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s is missing", ht_gguf_shown(gguf), name);
}

// Tensor `name` as (n, k); n = 1 for vectors. NULL *out: absent.
static enum hearth_status find(const struct ht_gguf *gguf, const char *name, uint32_t n, uint32_t k,
                               const struct ht_gguf_tensor **out, struct hearth_error *err)
{
    const struct ht_gguf_tensor *t = *out = ht_gguf_use_tensor(gguf, name);
    if (!t)
        return HEARTH_OK;
    uint64_t rows = t->n_values / t->ne[0];
    if (t->ne[0] != k || rows != n || t->n_dims > 2)
        return ht_fail(err, HEARTH_FORMAT, "%s: tensor %s is (%llu, %llu), not (%u, %u)", ht_gguf_shown(gguf),
                       name, (unsigned long long)rows, (unsigned long long)t->ne[0], n, k);
    return HEARTH_OK;
}

static bool layer_has(const struct ht_hparams *hp, const struct ht_tensor_spec *spec)
{
    return !spec->feature || hp->features & spec->feature;
}

static void layer_name(char name[HT_MAX_GGUF_NAME_BYTES + 1], uint32_t layer,
                       const struct ht_tensor_spec *spec)
{
    snprintf(name, HT_MAX_GGUF_NAME_BYTES + 1, "blk.%u.%s", layer, spec->suffix);
}

// ---- the list of tensors, walked three times: to measure, to make room, to read

typedef enum hearth_status visit_fn(void *arg, const struct ht_gguf_tensor *tensor, uint32_t n, uint32_t k,
                                    bool is_matrix, struct ht_weight **weight, struct ht_ref *vector,
                                    struct hearth_error *err);

static enum hearth_status visit(const struct ht_gguf *gguf, const char *name, uint32_t n, uint32_t k,
                                bool is_matrix, struct ht_weight **weight, struct ht_ref *vector,
                                visit_fn *fn, void *arg, struct hearth_error *err)
{
    const struct ht_gguf_tensor *t;
    HT_TRY(find(gguf, name, n, k, &t, err));
    if (!t)
        return missing(gguf, name, err);
    return fn(arg, t, n, k, is_matrix, weight, vector, err);
}

// model NULL: only what the visitor does with the tensor matters.
static enum hearth_status visit_all(const struct ht_gguf *gguf, const struct ht_hparams *hp,
                                    struct ht_model *model, visit_fn *fn, void *arg, struct hearth_error *err)
{
    struct ht_weight *no_weight = NULL;
    struct ht_ref no_ref;
    HT_TRY(visit(gguf, "token_embd.weight", hp->n_vocab, hp->n_embd, true,
                 model ? &model->token_embd : &no_weight, NULL, fn, arg, err));
    for (uint32_t l = 0; l < hp->n_layers; l++)
        for (unsigned i = 0; i < ht_n_layer_tensors; i++) {
            const struct ht_tensor_spec *spec = &ht_layer_tensors[i];
            char name[HT_MAX_GGUF_NAME_BYTES + 1];
            if (!layer_has(hp, spec))
                continue;
            layer_name(name, l, spec);
            uint32_t n = spec->is_matrix ? ht_dim_size(hp, spec->n) : 1;
            struct ht_weight **weight = model && spec->is_matrix ? &model->layers[l].matrix[spec->slot] : &no_weight;
            struct ht_ref *vector = model && !spec->is_matrix ? &model->layers[l].vector[spec->slot] : &no_ref;
            HT_TRY(visit(gguf, name, n, ht_dim_size(hp, spec->k), spec->is_matrix, weight, vector, fn, arg, err));
        }
    HT_TRY(visit(gguf, "output_norm.weight", 1, hp->n_embd, false, NULL,
                 model ? &model->output_norm : &no_ref, fn, arg, err));
    if (hp->features & HT_FEATURE_OWN_OUTPUT)
        HT_TRY(visit(gguf, "output.weight", hp->n_vocab, hp->n_embd, true,
                     model ? &model->output : &no_weight, NULL, fn, arg, err));
    return HEARTH_OK;
}

struct measure {
    const struct ht_gguf *gguf;
    const struct ht_device_ops *dev;
    struct ht_device *device;
    uint64_t weight_bytes, file_bytes, n_values;
    size_t vector_floats;
    uint64_t longest_vector; // bytes in the file
};

static enum hearth_status measure_tensor(void *arg, const struct ht_gguf_tensor *t, uint32_t n, uint32_t k,
                                         bool is_matrix, struct ht_weight **weight, struct ht_ref *vector,
                                         struct hearth_error *err)
{
    (void)weight, (void)vector;
    struct measure *m = arg;
    if (is_matrix) {
        if (!m->dev->supports_weight(m->device, t->type))
            return ht_fail(err, HEARTH_UNSUPPORTED, "%s: tensor %s is %s, which device %s cannot multiply",
                           ht_gguf_shown(m->gguf), t->name, ht_type_info(t->type)->name, m->dev->name);
        struct ht_weight_params params = {.type = t->type, .n = n, .k = k};
        m->weight_bytes += m->dev->weight_size(m->device, &params);
    } else {
        m->vector_floats += (k + 15) / 16 * 16;
        m->longest_vector = t->size_bytes > m->longest_vector ? t->size_bytes : m->longest_vector;
    }
    m->file_bytes += t->size_bytes;
    m->n_values += t->n_values;
    return HEARTH_OK;
}

// ---- reading

static enum hearth_status tell(struct loader *l, uint64_t bytes)
{
    l->done_bytes += bytes;
    double done = l->done_bytes < l->total_bytes ? (double)l->done_bytes / (double)l->total_bytes : 1;
    if (l->progress && !l->progress(l->user, done))
        return ht_fail(l->err, HEARTH_CANCELED, "%s: loading was canceled", ht_gguf_shown(l->gguf));
    return HEARTH_OK;
}

struct rows_of { // a tensor as a source of rows, for any thread
    const struct ht_gguf *gguf;
    const struct ht_gguf_tensor *tensor;
};

static enum hearth_status read_rows(void *user, uint32_t first_row, uint32_t n_rows, void *blocks,
                                    struct hearth_error *err)
{
    const struct rows_of *from = user;
    uint64_t row_bytes = from->tensor->row_bytes;
    return ht_gguf_read(from->gguf, from->tensor, first_row * row_bytes, (size_t)(n_rows * row_bytes), blocks, err);
}

static enum hearth_status read_matrix(struct loader *l, const struct ht_gguf_tensor *t, uint32_t n,
                                      struct ht_weight *weight)
{
    const struct ht_model *m = l->model;
    uint32_t index;
    if (l->packed && ht_packed_index(l->packed, weight, &index) && index < l->n_packed)
        return HEARTH_OK; // and was told
    struct rows_of from = {.gguf = l->gguf, .tensor = t};
    const struct ht_weight_source source = {.read = read_rows, .user = &from};
    uint64_t at_once = STRETCH_BYTES / t->row_bytes / 64 * 64;
    for (uint32_t row = 0; row < n;) {
        uint32_t rows = at_once && n - row > at_once ? (uint32_t)at_once : at_once ? n - row : 1;
        HT_TRY(m->dev->weight_fill(m->device, weight, row, rows, &source, l->err));
        HT_TRY(tell(l, rows * t->row_bytes));
        row += rows;
    }
    return HEARTH_OK;
}

static enum hearth_status read_vector(struct loader *l, const struct ht_gguf_tensor *t, uint32_t k,
                                      const struct ht_ref *to)
{
    const struct ht_model *m = l->model;
    float *values = ht_calloc(k, sizeof *values);
    if (!values)
        return ht_fail(l->err, HEARTH_NOMEM, "out of memory for tensor %s", t->name);
    enum hearth_status status = HEARTH_OK;
    HT_TRY_TO(out, ht_gguf_read(l->gguf, t, 0, t->size_bytes, l->vector, l->err));
    ht_dequant_row(t->type, l->vector, k, values);
    HT_TRY_TO(out, m->dev->buf_write(m->device, m->vectors, to->offset * sizeof(float), values, k * sizeof(float),
                                     l->err));
    status = tell(l, t->size_bytes);
out:
    ht_free(values);
    return status;
}

static enum hearth_status read_tensor(void *arg, const struct ht_gguf_tensor *t, uint32_t n, uint32_t k,
                                      bool is_matrix, struct ht_weight **weight, struct ht_ref *vector,
                                      struct hearth_error *err)
{
    (void)err;
    return is_matrix ? read_matrix(arg, t, n, *weight) : read_vector(arg, t, k, vector);
}

// ---- making room

static struct ht_ref take_vector(struct loader *l, uint32_t k)
{
    struct ht_ref ref = {.buf = l->model->vectors, .offset = l->vector_floats};
    l->vector_floats += (k + 15) / 16 * 16;
    return ref;
}

static enum hearth_status make_tensor(void *arg, const struct ht_gguf_tensor *t, uint32_t n, uint32_t k,
                                      bool is_matrix, struct ht_weight **weight, struct ht_ref *vector,
                                      struct hearth_error *err)
{
    struct loader *l = arg;
    struct ht_weight_params params = {.type = t->type, .n = n, .k = k};
    if (is_matrix)
        return l->model->dev->weight_create(l->model->device, &params, weight, err);
    *vector = take_vector(l, k);
    return HEARTH_OK;
}

// freq_i = base^(-2i/n_rot) / divisor / factors_i, in float32 as the original models compute it.
static enum hearth_status make_rope(struct loader *l, float base, float divisor, const float *factors,
                                    struct ht_ref *out)
{
    const struct ht_model *m = l->model;
    uint32_t half = m->hp.n_rot / 2;
    float freq[HT_MAX_HEAD_DIM / 2];
    for (uint32_t i = 0; i < half; i++) {
        float power = powf(base, (float)(2 * i) / (float)m->hp.n_rot);
        freq[i] = 1.0f / power / divisor;
        if (factors)
            freq[i] /= factors[i];
    }
    *out = take_vector(l, half);
    return m->dev->buf_write(m->device, m->vectors, out->offset * sizeof(float), freq, half * sizeof(float),
                             l->err);
}

static enum hearth_status make_ropes(struct loader *l)
{
    struct ht_model *m = l->model;
    const struct ht_hparams *hp = &m->hp;
    float factors[HT_MAX_HEAD_DIM / 2];
    bool has = hp->features & HT_FEATURE_ROPE_FREQS;
    if (has) {
        const struct ht_gguf_tensor *t;
        HT_TRY(find(l->gguf, "rope_freqs.weight", 1, hp->n_rot / 2, &t, l->err));
        if (!t || t->type != HT_TYPE_F32)
            return ht_fail(l->err, HEARTH_FORMAT, "%s: tensor rope_freqs.weight is not F32",
                           ht_gguf_shown(l->gguf));
        HT_TRY(ht_gguf_read(l->gguf, t, 0, t->size_bytes, factors, l->err));
        for (uint32_t i = 0; i < hp->n_rot / 2; i++)
            if (!(factors[i] > 0) || !isfinite(factors[i]))
                return ht_fail(l->err, HEARTH_FORMAT, "%s: tensor rope_freqs.weight holds %g",
                               ht_gguf_shown(l->gguf), (double)factors[i]);
    }
    HT_TRY(make_rope(l, hp->rope_base, hp->rope_divisor, has ? factors : NULL, &m->rope_freq));
    if (hp->window)
        return make_rope(l, hp->rope_base_local, 1, NULL, &m->rope_freq_local);
    m->rope_freq_local = m->rope_freq;
    return HEARTH_OK;
}

static enum hearth_status create(struct loader *l)
{
    struct ht_model *m = l->model;
    struct measure sizes = {.gguf = l->gguf, .dev = m->dev, .device = m->device};
    HT_TRY(visit_all(l->gguf, &m->hp, NULL, measure_tensor, &sizes, l->err));
    if (m->hp.features & HT_FEATURE_ROPE_FREQS)
        (void)ht_gguf_use_tensor(l->gguf, "rope_freqs.weight");
    HT_TRY(ht_gguf_refuse_unused_tensors(l->gguf, l->err));

    size_t vector_floats = sizes.vector_floats + 2 * ((m->hp.n_rot / 2 + 15) / 16 * 16);
    m->layers = ht_calloc(m->hp.n_layers, sizeof *m->layers);
    if (!m->layers)
        return ht_fail(l->err, HEARTH_NOMEM, "%s: out of memory for %u layers", ht_gguf_shown(l->gguf),
                       m->hp.n_layers);
    HT_TRY(m->dev->buf_create(m->device, vector_floats * sizeof(float), &m->vectors, l->err));
    HT_TRY(visit_all(l->gguf, &m->hp, m, make_tensor, l, l->err));
    if (!m->output)
        m->output = m->token_embd;
    m->weight_bytes = sizes.weight_bytes + vector_floats * sizeof(float);
    m->n_params = sizes.n_values;
    m->file_bytes = sizes.file_bytes;
    m->longest_vector = sizes.longest_vector;
    return make_ropes(l);
}

enum hearth_status ht_model_create(struct ht_model *model, const struct ht_hparams *hp, struct ht_gguf *gguf,
                                   const struct ht_device_ops *dev, struct ht_device *device,
                                   struct hearth_error *err)
{
    *model = (struct ht_model){.hp = *hp, .dev = dev, .device = device};
    struct loader l = {.model = model, .gguf = gguf, .err = err};
    enum hearth_status status = create(&l);
    if (status != HEARTH_OK)
        ht_model_unload(model);
    return status;
}

// As many weights as come from the file of packed ones, a stretch at a time, so that it can be canceled.
static enum hearth_status read_packed(struct loader *l, struct ht_packed *packed, struct hearth_error *packed_err)
{
    l->packed = packed;
    for (uint32_t to; l->n_packed < ht_packed_n_weights(packed); l->n_packed = to) {
        uint64_t bytes = STRETCH_BYTES;
        if (ht_packed_fill(packed, l->n_packed, &to, &bytes, packed_err) != HEARTH_OK)
            return HEARTH_OK;
        HT_TRY(tell(l, bytes));
    }
    return HEARTH_OK;
}

enum hearth_status ht_model_read(struct ht_model *model, struct ht_gguf *gguf, struct ht_packed *packed,
                                 struct hearth_error *packed_err, bool (*progress)(void *user, double done),
                                 void *user, struct hearth_error *err)
{
    struct loader l = {.model = model,
                       .gguf = gguf,
                       .progress = progress,
                       .user = user,
                       .err = err,
                       .total_bytes = model->file_bytes,
                       .vector = ht_calloc(1, (size_t)model->longest_vector)};
    if (!l.vector)
        return ht_fail(err, HEARTH_NOMEM, "%s: out of memory for %llu bytes of a vector", ht_gguf_shown(gguf),
                       (unsigned long long)model->longest_vector);
    enum hearth_status status = packed ? read_packed(&l, packed, packed_err) : HEARTH_OK;
    if (status == HEARTH_OK)
        status = visit_all(gguf, &model->hp, model, read_tensor, &l, err);
    ht_free(l.vector);
    return status;
}

void ht_model_unload(struct ht_model *model)
{
    const struct ht_device_ops *dev = model->dev;
    if (!dev)
        return;
    if (model->output != model->token_embd)
        dev->weight_destroy(model->device, &model->output);
    dev->weight_destroy(model->device, &model->token_embd);
    for (uint32_t l = 0; model->layers && l < model->hp.n_layers; l++)
        for (int i = 0; i < HT_N_MATRICES; i++)
            dev->weight_destroy(model->device, &model->layers[l].matrix[i]);
    dev->buf_destroy(model->device, &model->vectors);
    ht_free(model->layers);
    *model = (struct ht_model){0};
}
