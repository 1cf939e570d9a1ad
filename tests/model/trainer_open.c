// SPDX-License-Identifier: Apache-2.0
// Opening a trainer piece by piece: what each piece draws, writes and reads is counted, not timed, and what comes of it
// is what opening at once gives.
#include "tests/model/trainer_test.h"

#include "engine/base/mem.h"
#include "engine/model/session.h"

enum { PIECE_VALUES = 64, SAVE_BYTES = 512 };

static size_t n_set(const struct hearth_adapter *a)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_values; i++)
        n += a->values[i] != 0;
    return n;
}

// ---------------------------------------------------------------- what goes to the device

static const struct ht_device_ops *real;
static size_t n_written, n_read;

static enum hearth_status count_write(struct ht_device *device, struct ht_buf *buf, size_t offset, const void *data,
                                      size_t len_bytes, struct hearth_error *err)
{
    n_written += len_bytes;
    return real->buf_write(device, buf, offset, data, len_bytes, err);
}

static enum hearth_status count_read(struct ht_device *device, struct ht_buf *buf, size_t offset, void *data,
                                     size_t len_bytes, struct hearth_error *err)
{
    n_read += len_bytes;
    return real->buf_read(device, buf, offset, data, len_bytes, err);
}

static void watch(struct hearth_engine *engine)
{
    static struct ht_device_ops counting;
    real = engine->model.dev;
    counting = *real;
    counting.buf_write = count_write;
    counting.buf_read = count_read;
    engine->model.dev = engine->dev = &counting;
}

static void watch_no_more(struct hearth_engine *engine)
{
    engine->model.dev = engine->dev = real;
}

// ---------------------------------------------------------------- a checkpoint that is read

static struct blob checkpoint;
static size_t most_asked;

static enum hearth_status load(void *user, const char *name, size_t offset, void *bytes, size_t len_bytes,
                               size_t *size_bytes, struct hearth_error *err)
{
    (void)user, (void)err;
    *size_bytes = strcmp(name, "checkpoint.bin") ? 0 : checkpoint.n;
    if (!*size_bytes)
        return HEARTH_NOT_FOUND;
    assert_true(offset <= checkpoint.n && len_bytes <= checkpoint.n - offset);
    most_asked = len_bytes > most_asked ? len_bytes : most_asked;
    if (len_bytes)
        memcpy(bytes, checkpoint.data + offset, len_bytes);
    return HEARTH_OK;
}

static enum hearth_status save(void *user, const struct hearth_train_part *part, struct hearth_error *err)
{
    (void)user, (void)err, (void)part;
    return HEARTH_OK;
}

// ---------------------------------------------------------------- the tests

static struct hearth_trainer *begin(struct bed *bed)
{
    struct hearth_error err = {0};
    struct hearth_trainer *t;
    n_written = n_read = 0;
    must(hearth_trainer_begin(&t, bed->engine, &bed->params, &err), &err);
    assert_int_equal(n_written, 0);
    assert_int_equal(n_set(t->adapter), 0);
    t->piece_values = PIECE_VALUES;
    t->save_bytes = SAVE_BYTES;
    return t;
}

// Until it is open; no piece draws, copies, writes or reads more than a piece may.
static unsigned open_in_pieces(struct hearth_trainer *t)
{
    struct hearth_error err = {0};
    struct hearth_train_info info;
    unsigned n = 0;
    hearth_trainer_get_info(t, &info);
    while (info.state == HEARTH_TRAIN_OPENING) {
        size_t before = n_set(t->adapter);
        n_written = n_read = most_asked = 0;
        must(hearth_trainer_run(t, 0, &err), &err);
        assert_in_range(n_set(t->adapter) - before, 0, PIECE_VALUES);
        assert_in_range(n_written, 0, SAVE_BYTES);
        assert_int_equal(n_read, 0);
        assert_in_range(most_asked, 0, 4096); // the run's parameters, or a part
        hearth_trainer_get_info(t, &info);
        n++;
    }
    return n;
}

static void first_values_are_drawn_in_pieces(void **state)
{
    (void)state;
    struct bed bed;
    bed_make(&bed, 12);
    bed.params.targets = "all,output";
    bed.params.seed = 3;
    for (int gaussian = 0; gaussian < 2; gaussian++) {
        bed.params.gaussian = gaussian;
        watch(bed.engine);
        struct hearth_trainer *t = begin(&bed);
        unsigned n = open_in_pieces(t);
        watch_no_more(bed.engine);
        size_t n_values = t->adapter->n_values;
        assert_true(n >= n_values / PIECE_VALUES && n_values > 10 * PIECE_VALUES);
        float *got = malloc(n_values * sizeof *got);
        struct hearth_error err = {0};
        must(ht_graph_read(t->graph, HT_GRAPH_VALUES, got, &err), &err);
        memset(t->adapter->values, 0xff, n_values * sizeof *got);
        ht_adapter_init(t->adapter, 3, gaussian); // at once
        for (size_t i = 0; i < t->adapter->n_targets; i++) { // the seed's, in every matrix
            const struct ht_adapter_target *a = &t->adapter->targets[i];
            size_t n_a = (size_t)a->rank * a->k * sizeof *got, n_b = (size_t)a->n * a->rank * sizeof *got;
            assert_memory_equal(got + a->a_at, t->adapter->values + a->a_at, n_a);
            assert_memory_equal(got + a->b_at, t->adapter->values + a->b_at, n_b);
        }
        free(got);
        hearth_trainer_close(&t);
    }
    bed_free(&bed);
}

static void an_adapter_is_taken_in_pieces(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_train_info info;
    struct hearth_adapter *init;
    struct hearth_trainer *t;
    bed_make(&bed, 12);
    must_train(&bed, &info);
    must(hearth_adapter_open(&init, check_path(bed.runs, "adapter.gguf"), NULL, &err), &err);
    bed.params.init = init;
    bed_empty(&bed);
    must(hearth_trainer_open(&t, bed.engine, &bed.params, &err), &err);
    char *want = ht_train_json(t->identity, JSON_COMPACT);
    hearth_trainer_close(&t);
    watch(bed.engine);
    t = begin(&bed);
    (void)open_in_pieces(t);
    watch_no_more(bed.engine);
    char *got = ht_train_json(t->identity, JSON_COMPACT);
    assert_string_equal(got, want);
    assert_memory_equal(t->adapter->values, init->values, init->n_values * sizeof *init->values);
    ht_free(got);
    ht_free(want);
    hearth_trainer_close(&t);
    hearth_adapter_close(&init);
    bed_free(&bed);
}

// The end too: values are copied in pieces, and the adapter is given, not copied.
static void a_checkpoint_is_read_in_pieces(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_train_info info = {0};
    struct hearth_adapter *learnt, *none;
    bed_make(&bed, 12);
    bed.params.max_steps = 3;
    must_train(&bed, &info);
    struct blob want = blob_read(bed.runs, "adapter.gguf");
    checkpoint = blob_read(bed.runs, "checkpoint.bin");
    bed.params.files = (struct hearth_train_files){.save = save, .load = load};
    bed.params.resume = true;
    watch(bed.engine);
    struct hearth_trainer *t = begin(&bed);
    assert_int_equal(hearth_trainer_adapter(t, &none, &err), HEARTH_BUSY);
    assert_true(open_in_pieces(t) >= checkpoint.n / SAVE_BYTES);
    hearth_trainer_get_info(t, &info);
    assert_int_equal(info.saved_step, 3);
    while (info.state != HEARTH_TRAIN_DONE) {
        n_read = 0;
        must(hearth_trainer_run(t, 0, &err), &err);
        assert_in_range(n_read, 0, SAVE_BYTES);
        hearth_trainer_get_info(t, &info);
    }
    n_read = 0;
    must(hearth_trainer_adapter(t, &learnt, &err), &err);
    assert_int_equal(n_read, 0);
    assert_int_equal(hearth_trainer_adapter(t, &none, &err), HEARTH_INVALID);
    watch_no_more(bed.engine);
    hearth_trainer_close(&t);
    must(hearth_adapter_write_gguf(learnt, check_path(bed.runs, "adapter.gguf"), &err), &err);
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    hearth_adapter_close(&learnt);
    free(want.data);
    free(checkpoint.data);
    bed_free(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_values_are_drawn_in_pieces),
        cmocka_unit_test(an_adapter_is_taken_in_pieces),
        cmocka_unit_test(a_checkpoint_is_read_in_pieces),
    };
    return cmocka_run_group_tests_name("trainer_open", tests, NULL, NULL);
}
