// SPDX-License-Identifier: Apache-2.0
// Models whose numbers are none or enormous: a run says so before anything was learnt and leaves nothing that looks
// like an adapter; with the right numbers it begins anew in the same folder. Logits far beyond what exp bears are
// learnt from.
#include "tests/model/trainer_test.h"

#include <math.h>

#include "engine/model/session.h"

static void put(struct hearth_engine *engine, const struct ht_ref *vector, uint32_t at, float value, float *before)
{
    const struct ht_model *m = &engine->model;
    struct hearth_error err = {0};
    size_t offset = (vector->offset + at) * sizeof(float);
    if (before)
        must(m->dev->buf_read(m->device, vector->buf, offset, before, sizeof *before, &err), &err);
    must(m->dev->buf_write(m->device, vector->buf, offset, &value, sizeof value, &err), &err);
}

static bool there(const struct bed *bed, const char *name)
{
    struct blob b = blob_read(bed->runs, name);
    free(b.data);
    return b.n > 0;
}

static void broken_models(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    bed_make(&bed, 12);
    const struct ht_model *m = &bed.engine->model;
    const struct ht_ref *const vectors[] = {&m->output_norm, &m->layers[0].vector[HT_ATTN_NORM],
                                            &m->layers[1].vector[HT_FFN_NORM]};
    static const float values[] = {NAN, INFINITY, -INFINITY, 3e38f};
    for (size_t i = 0; i < 3 * 4 * 2; i++) {
        struct hearth_error err = {0};
        float before;
        put(bed.engine, vectors[i / 8], 3, values[i / 2 % 4], &before);
        bed.params.data.held_out = i % 2 ? 0.3 : 0;
        assert_int_equal(train_through(&bed, 1e9, &info, &err), HEARTH_NUMERIC);
        if (!strstr(err.text, i % 2 ? "step 0: the held-out loss is not" : "step 1: the loss is not") ||
            !strstr(err.text, "nothing was learned yet: the model gives it"))
            fail_msg("case %zu: %s", i, err.text);
        assert_false(there(&bed, "adapter.gguf") || there(&bed, "manifest.json") || there(&bed, "checkpoint.bin"));
        put(bed.engine, vectors[i / 8], 3, before, NULL);
    }
    must_train(&bed, &info);
    assert_true(there(&bed, "adapter.gguf"));
    bed_free(&bed);
}

static void what_stays_is_told(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info = {0};
    bed_make(&bed, 12);
    bed.params.data.held_out = 0;
    for (uint32_t every = 1; every <= 50; every += 49) { // a checkpoint after each step, or none yet
        struct hearth_error err = {0};
        struct hearth_trainer *t;
        float before;
        bed.params.checkpoint_every = every;
        must(hearth_trainer_open(&t, bed.engine, &bed.params, &err), &err);
        while (info.last.step < 2 || (every == 1 && !info.saved_step)) {
            must(hearth_trainer_run(t, 0, &err), &err);
            hearth_trainer_get_info(t, &info);
        }
        put(bed.engine, &bed.engine->model.output_norm, 3, NAN, &before);
        assert_int_equal(hearth_trainer_run(t, 1e9, &err), HEARTH_NUMERIC);
        const char *stays = every == 1 ? "the last checkpoint is of step " : "there is no checkpoint yet";
        assert_non_null(strstr(err.text, stays));
        put(bed.engine, &bed.engine->model.output_norm, 3, before, NULL);
        hearth_trainer_close(&t);
        bed_empty(&bed);
        info.last.step = info.saved_step = 0;
    }
    bed_free(&bed);
}

// Logits of some ten thousand: exp of them is infinite, the losses and what is learnt are not.
static void enormous_logits(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    bed_make(&bed, 12);
    for (uint32_t i = 0; i < bed.engine->model.hp.n_embd; i++)
        put(bed.engine, &bed.engine->model.output_norm, i, 1e5f, NULL);
    bed.params.epochs = 4;
    bed.params.targets = "all,output";
    struct hearth_error err = {0};
    struct hearth_trainer *t;
    must(hearth_trainer_open(&t, bed.engine, &bed.params, &err), &err);
    do {
        must(hearth_trainer_run(t, 1e9, &err), &err);
        hearth_trainer_get_info(t, &info);
    } while (info.state != HEARTH_TRAIN_DONE);
    assert_true(t->first_held_out > 1e4 && t->last_held_out < t->first_held_out);
    hearth_trainer_close(&t);
    bed_free(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_models),
        cmocka_unit_test(what_stays_is_told),
        cmocka_unit_test(enormous_logits),
    };
    return cmocka_run_group_tests_name("trainer_numbers", tests, NULL, NULL);
}
