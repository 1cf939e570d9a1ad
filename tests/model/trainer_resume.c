// SPDX-License-Identifier: Apache-2.0
// What a checkpoint keeps beside the values: a run that evaluates and stops early tells and leaves the same however
// often it was interrupted. And checkpoints whose checksum is right but whose numbers are not.
#include "tests/model/trainer_test.h"

#include <math.h>

#include "engine/base/hash.h"

static void bed_stopping(struct bed *bed)
{
    bed_make(bed, 24);
    bed->params.lr = 0.02; // too fast: the held-out loss falls at first, then it rises
    bed->params.targets = "all";
    bed->params.eval_every = 2;
    bed->params.patience = 3;
    bed->params.epochs = 40;
    bed->params.schedule = HEARTH_TRAIN_CONSTANT;
    bed->params.warmup = 0;
}

static unsigned n_told;
static void count_down(void *user, const struct hearth_train_step *s)
{
    (void)user, (void)s;
    n_told -= n_told > 0;
}

// Until so many steps and evaluations were told, then a checkpoint, and the trainer is gone. True: the run has ended.
static bool some_of_it(struct bed *bed, unsigned reports)
{
    struct hearth_trainer *t;
    struct hearth_error err = {0};
    struct hearth_train_info info = {0};
    n_told = reports;
    bed->params.on_step = count_down;
    bed->params.resume = true;
    must(hearth_trainer_open(&t, bed->engine, &bed->params, &err), &err);
    while (n_told && info.state != HEARTH_TRAIN_DONE) {
        must(hearth_trainer_run(t, 0, &err), &err);
        hearth_trainer_get_info(t, &info);
    }
    hearth_trainer_checkpoint(t);
    for (hearth_trainer_get_info(t, &info); info.saving; hearth_trainer_get_info(t, &info))
        must(hearth_trainer_run(t, 0, &err), &err);
    hearth_trainer_close(&t);
    return info.state == HEARTH_TRAIN_DONE;
}

static void ends_where_it_would_have(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    bed_stopping(&bed);
    must_train(&bed, &info);
    assert_true(info.stopped_early && info.last.step >= 8 && info.last.step < info.last.n_steps);
    struct blob adapter = blob_read(bed.runs, "adapter.gguf"), manifest = blob_read(bed.runs, "manifest.json");
    assert_true(manifest.n > 0 && manifest.n < 1 << 20);
    manifest.data[manifest.n] = 0;
    const char *best = strstr((const char *)manifest.data, "\"best step\": ");
    assert_true(best && best[13] != '0'); // it did get better at first
    static const unsigned reports[] = {1, 2, 5};
    for (size_t i = 0; i < sizeof reports / sizeof *reports; i++) {
        unsigned n_parts = 1;
        bed_empty(&bed);
        while (!some_of_it(&bed, reports[i]))
            assert_true(n_parts++ < 500);
        assert_true(n_parts > 2);
        if (!run_is_like(&bed, adapter, "adapter.gguf") || !run_is_like(&bed, manifest, "manifest.json"))
            fail_msg("another end with parts of %u reports", reports[i]);
    }
    free(adapter.data), free(manifest.data);
    bed_free(&bed);
}

// With patience the adapter is what it was at the best step: that of a run which ends there.
static void the_best_is_kept(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    struct hearth_adapter *best, *there;
    struct hearth_error err = {0};
    bed_stopping(&bed);
    must_train(&bed, &info);
    uint64_t best_step = info.last.step - 3 * 2;
    assert_true(best_step > 4);
    must(hearth_adapter_open(&best, check_path(bed.runs, "adapter.gguf"), NULL, &err), &err);
    bed_empty(&bed);
    bed.params.patience = 0;
    bed.params.max_steps = (unsigned)best_step;
    must_train(&bed, &info);
    assert_int_equal(info.last.step, best_step);
    must(hearth_adapter_open(&there, check_path(bed.runs, "adapter.gguf"), NULL, &err), &err);
    assert_int_equal(best->n_values, there->n_values);
    assert_memory_equal(best->values, there->values, best->n_values * sizeof *best->values);
    hearth_adapter_close(&best);
    hearth_adapter_close(&there);
    bed_free(&bed);
}

// The loss that is told is a mean: before anything is learnt it is about that of the held-out conversations.
static double first_loss, first_held_out;
static void listen(void *user, const struct hearth_train_step *s)
{
    (void)user;
    if (isnan(s->held_out) && s->step == 1)
        first_loss = s->loss;
    if (!isnan(s->held_out) && s->step == 0)
        first_held_out = s->held_out;
}

static void losses_are_means(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    bed_make(&bed, 12);
    bed.params.on_step = listen;
    must_train(&bed, &info);
    assert_true(first_held_out > 1 && fabs(first_loss / first_held_out - 1) < 0.3);
    bed_free(&bed);
}

// ---------------------------------------------------------------- crafted ones

static void refused(struct bed *bed, struct blob good, size_t at, uint64_t value, size_t width, const char *word)
{
    struct hearth_error err = {0};
    struct hearth_train_info info;
    struct ht_hash hash;
    unsigned char *bytes = malloc(good.n);
    memcpy(bytes, good.data, good.n);
    memcpy(bytes + at, &value, width);
    ht_hash_init(&hash);
    ht_hash_add(&hash, bytes, good.n - HT_HASH_BYTES);
    ht_hash_end(&hash, bytes + good.n - HT_HASH_BYTES);
    check_file_write(check_path(bed->runs, "checkpoint.bin"), bytes, good.n);
    assert_int_equal(train_through(bed, 1e9, &info, &err), HEARTH_FORMAT);
    if (!strstr(err.text, word))
        fail_msg("at %zu: %s", at, err.text);
    free(bytes);
}

static void crafted(void **state)
{
    (void)state;
    struct bed bed;
    uint32_t sizes[2];
    bed_make(&bed, 12);
    bed.params.data.held_out = 0;
    assert_false(some_of_it(&bed, 3));
    struct blob good = blob_read(bed.runs, "checkpoint.bin");
    assert_true(good.n > 200);
    memcpy(sizes, good.data + 8, sizeof sizes);
    size_t numbers = 16 + sizes[0]; // engine/learn/trainer_state.c: struct ht_train_state
    static const char nowhere[] = "stands where the run never comes", damaged[] = "is damaged";
    refused(&bed, good, 0, 'X', 1, damaged);
    refused(&bed, good, 8, UINT32_MAX, 4, damaged);
    refused(&bed, good, 12, sizes[1] + 1, 4, damaged);
    refused(&bed, good, numbers, 1, 8, damaged);                 // values
    refused(&bed, good, numbers + 8, UINT64_MAX, 8, nowhere);    // step
    refused(&bed, good, numbers + 24, UINT32_MAX, 8, nowhere);   // rows done
    refused(&bed, good, numbers + 104, UINT32_MAX, 4, nowhere);  // epoch
    refused(&bed, good, numbers + 104, 2, 4, nowhere);           // one too many
    refused(&bed, good, numbers + 108, 2, 4, nowhere);           // window
    free(good.data);
    bed_free(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_where_it_would_have),
        cmocka_unit_test(the_best_is_kept),
        cmocka_unit_test(losses_are_means),
        cmocka_unit_test(crafted),
    };
    return cmocka_run_group_tests_name("trainer_resume", tests, NULL, NULL);
}
