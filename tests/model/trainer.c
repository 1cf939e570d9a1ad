// SPDX-License-Identifier: Apache-2.0
// The trainer on a tiny model: it learns; the same seed gives the same bytes however a run was cut into pieces, threads
// and parts; what is not the same run is refused; numbers that are none end it; its steps are those of its data.
#include "tests/model/trainer_test.h"

#include <math.h>

// ---------------------------------------------------------------- learning

struct told {
    double first, last, held_first, held_last, rate_sum;
    uint64_t n, n_held, tokens, step;
};

static void listen(void *user, const struct hearth_train_step *s)
{
    struct told *told = user;
    if (!isnan(s->held_out)) {
        told->held_first = told->n_held++ ? told->held_first : s->held_out;
        told->held_last = s->held_out;
        return;
    }
    assert_int_equal(s->step, told->step + 1);
    assert_true(s->tokens > told->tokens && s->targets > 0 && s->targets < s->tokens);
    told->step = s->step;
    told->tokens = s->tokens;
    told->first = told->n++ ? told->first : s->loss;
    told->last = s->loss;
    told->rate_sum += s->lr;
}

static void it_learns(void **state)
{
    (void)state;
    struct bed bed;
    struct told told = {0};
    struct hearth_train_info info;
    bed_make(&bed, 40);
    bed.params.targets = "all,output";
    bed.params.epochs = 4;
    bed.params.lr = 1e-2;
    bed.params.on_step = listen;
    bed.params.user = &told;
    must_train(&bed, &info);
    assert_true(told.last < 0.8 * told.first && told.held_last < 0.85 * told.held_first);
    assert_int_equal(told.n_held, 1 + 4); // before, and after each epoch
    assert_int_equal(info.state, HEARTH_TRAIN_DONE);
    assert_int_equal(info.last.step, told.step);
    assert_int_equal(info.saved_step, told.step);
    assert_int_equal(info.n_train + info.n_held_out, 40);
    assert_true(info.n_held_out > 2 && !info.stopped_early);

    struct hearth_adapter *adapter;
    struct hearth_error err;
    struct hearth_adapter_info what;
    must(hearth_adapter_open(&adapter, check_path(bed.runs, "adapter.gguf"), NULL, &err), &err);
    hearth_adapter_get_info(adapter, &what);
    assert_string_equal(what.base_sha256, TRAIN_SHA);
    assert_string_equal(what.name, "test");
    assert_int_equal(what.n_targets, 15);
    hearth_adapter_close(&adapter);

    struct blob manifest = blob_read(bed.runs, "manifest.json");
    json_t *all = json_loadb((const char *)manifest.data, manifest.n, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(all, "steps")), told.step);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(all, "run"), "rank")), 2);
    assert_int_equal(json_array_size(json_object_get(all, "files")), 1);
    assert_true(fabs(json_real_value(json_object_get(all, "held out loss")) - told.held_last) < 1e-6);
    json_decref(all);
    free(manifest.data);
    bed_free(&bed);
}

static void schedules_are_their_formulas(void **state)
{
    (void)state;
    struct hearth_train_params p = {.lr = 2, .warmup = 0.07};
    const double pi = acos(-1);
    for (uint64_t step = 1; step <= 100; step++) {
        double t = (double)step, part = (t - 8) / 93;
        for (int s = 0; s < 3; s++) {
            p.schedule = (enum hearth_train_schedule)s;
            double want = t <= 7 ? 2 * t / 7 : s == 0 ? 1 + cos(pi * part) : s == 1 ? 2 * (1 - part) : 2;
            assert_true(fabs(ht_train_rate(&p, step, 100) - want) < 1e-12);
        }
    }
    p.warmup = 0;
    assert_true(ht_train_rate(&p, 1, 1) == 2);
    p.warmup = 1;
    assert_true(ht_train_rate(&p, 4, 4) == 2 && ht_train_rate(&p, 1, 4) == 0.5);
}

// ---------------------------------------------------------------- the same bytes

static struct blob reference(struct bed *bed)
{
    struct hearth_train_info info;
    must_train(bed, &info);
    struct blob adapter = blob_read(bed->runs, "adapter.gguf");
    assert_true(adapter.n > 1000);
    bed_empty(bed);
    return adapter;
}

static void check_same(struct bed *bed, struct blob want, double budget_ms, const char *what)
{
    struct hearth_error err = {0};
    struct hearth_train_info info;
    must(train_through(bed, budget_ms, &info, &err), &err);
    if (!run_is_like(bed, want, "adapter.gguf"))
        fail_msg("%s: another adapter", what);
    bed_empty(bed);
}

static void the_same_bytes(void **state)
{
    (void)state;
    struct bed bed;
    bed_make(&bed, 24);
    bed.params.dropout = 0.1f;
    bed.params.neftune = 5;
    struct blob want = reference(&bed);
    check_same(&bed, want, 0, "piece by piece");
    check_same(&bed, want, 3, "3 ms at a time");
    bed.params.checkpointing = true;
    check_same(&bed, want, 1e9, "with checkpointing");
    bed.params.checkpointing = false;
    bed.params.checkpoint_every = 1;
    check_same(&bed, want, 1e9, "with many checkpoints");
    for (unsigned threads = 2; threads <= 3; threads++) {
        hearth_engine_close(&bed.engine);
        bed.engine = train_engine(threads);
        check_same(&bed, want, 1e9, "with more threads");
    }
    bed.params.seed = 1;
    struct blob other = reference(&bed);
    assert_false(blob_same(want, other));
    free(other.data);
    free(want.data);
    bed_free(&bed);
}

// An answer in between changes nothing, and neither does the training the answer.
static void beside_answers(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_train_info info = {0};
    struct hearth_trainer *t;
    static const int32_t ids[] = {5, 6, 7, 8, 9, 10, 11, 12};
    bed_make(&bed, 12);
    struct blob want = reference(&bed);
    struct hearth_session *session = new_session(bed.engine);
    float *before = eval_ids(session, bed.engine, ids, 8, 0);
    must(hearth_trainer_open(&t, bed.engine, &bed.params, &err), &err);
    while (info.state != HEARTH_TRAIN_DONE) {
        must(hearth_trainer_run(t, 0, &err), &err);
        must(hearth_session_truncate(session, 0, &err), &err);
        float *now = eval_ids(session, bed.engine, ids, 8, 3);
        assert_memory_equal(now, before, 8 * 264 * sizeof *now);
        free(now);
        hearth_trainer_get_info(t, &info);
    }
    hearth_trainer_close(&t);
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    free(before);
    free(want.data);
    bed_free(&bed);
}

// ---------------------------------------------------------------- interrupted and resumed

static uint64_t stop_after; // steps of this part
static void count_down(void *user, const struct hearth_train_step *s)
{
    (void)user;
    if (isnan(s->held_out) && stop_after)
        stop_after--;
}

// A part of the run: until `steps` of its own are done, then a checkpoint if `ask`. True at the end of the run.
static bool part(struct bed *bed, uint64_t steps, bool ask)
{
    struct hearth_trainer *t;
    struct hearth_error err = {0};
    struct hearth_train_info info = {0};
    stop_after = steps;
    bed->params.on_step = count_down;
    bed->params.resume = true;
    must(hearth_trainer_open(&t, bed->engine, &bed->params, &err), &err);
    while (info.state != HEARTH_TRAIN_DONE && stop_after) {
        must(hearth_trainer_run(t, 0, &err), &err);
        hearth_trainer_get_info(t, &info);
    }
    if (ask)
        hearth_trainer_checkpoint(t);
    for (hearth_trainer_get_info(t, &info); ask && info.saving; hearth_trainer_get_info(t, &info))
        must(hearth_trainer_run(t, 0, &err), &err);
    if (ask && info.state != HEARTH_TRAIN_DONE)
        assert_int_equal(info.saved_step, info.last.step);
    hearth_trainer_close(&t);
    return info.state == HEARTH_TRAIN_DONE;
}

static void interrupted_at_every_border(void **state)
{
    (void)state;
    struct bed bed;
    bed_make(&bed, 24);
    bed.params.dropout = 0.1f;
    bed.params.patience = 9;
    bed.params.eval_every = 2;
    struct blob want = reference(&bed);
    uint64_t n = 0;
    for (bool whole = false; !whole;) { // stopped once, after n steps
        n++;
        whole = part(&bed, n, true);
        while (!part(&bed, UINT64_MAX, false))
            ;
        if (!run_is_like(&bed, want, "adapter.gguf"))
            fail_msg("interrupted after %u steps: another adapter", (unsigned)n);
        bed_empty(&bed);
    }
    assert_true(n > 8);
    while (!part(&bed, 1, true)) // after each step, without an end
        ;
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    bed_empty(&bed);
    bed.params.checkpoint_every = 3; // lost without asking
    for (uint64_t k = 1; !part(&bed, k, false); k++)
        ;
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    free(want.data);
    bed_free(&bed);
}

static unsigned lines_of(const char *folder)
{
    struct blob log = blob_read(folder, "log.jsonl");
    unsigned n = 0;
    uint64_t last = 0;
    for (size_t i = 0; i < log.n; i++) {
        if (i && log.data[i - 1] != '\n')
            continue;
        n++;
        unsigned long long step;
        assert_int_equal(sscanf((const char *)log.data + i, "{\"step\": %llu", &step), 1);
        assert_true(step == last || step == last + 1);
        last = step;
    }
    free(log.data);
    return n;
}

static void the_log_has_each_step_once(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    bed_make(&bed, 24);
    must_train(&bed, &info);
    unsigned want = lines_of(bed.runs);
    assert_int_equal(want, info.last.step + 3); // and three evaluations
    bed_empty(&bed);
    bed.params.checkpoint_every = 4;
    part(&bed, 6, false); // two steps after the checkpoint
    assert_int_equal(lines_of(bed.runs), 6 + 1);
    while (!part(&bed, UINT64_MAX, false))
        ;
    assert_int_equal(lines_of(bed.runs), want);
    bed_free(&bed);
}

static void refuse(struct bed *bed, enum hearth_status want, const char *word)
{
    struct hearth_error err = {0};
    struct hearth_train_info info;
    bed->params.resume = true;
    enum hearth_status status = train_through(bed, 1e9, &info, &err);
    if (status != want || !strstr(err.text, word))
        fail_msg("%s wanted with \"%s\", got %s: %s", hearth_status_text(want), word, hearth_status_text(status),
                 err.text);
}

static void another_run_is_refused(void **state)
{
    (void)state;
    struct bed bed;
    bed_make(&bed, 24);
    part(&bed, 3, true);
    struct blob before = blob_read(bed.runs, "checkpoint.bin");
    const struct hearth_train_params own = bed.params;
#define OTHER(field, value, word)                                                                                      \
    bed.params.field = value;                                                                                          \
    refuse(&bed, HEARTH_INVALID, word);                                                                                \
    bed.params = own
    OTHER(rank, 4, "--rank is 2 there and 4 here");
    OTHER(alpha, 5, "--alpha is 4.0 there and 5.0 here");
    OTHER(lr, 1e-4, "--lr");
    OTHER(seed, 7, "--seed is ");
    OTHER(targets, "attn_q", "--targets");
    OTHER(epochs, 3, "--epochs is ");
    OTHER(n_batch, 3, "--batch times --accum is ");
    OTHER(n_micro_rows, 64, "--micro-rows is ");
    OTHER(neftune, 5, "--neftune is ");
    OTHER(patience, 4, "--patience is ");
    OTHER(data.held_out, 0.3, "--held-out is ");
    OTHER(data.n_seq, 48, "--seq is ");
    OTHER(moments, HEARTH_TRAIN_MOMENTS_8BIT, "--moments is \"f32\" there and \"8bit\" here");
    OTHER(base_sha256, "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
          "the SHA-256 of --model is ");
#undef OTHER
    write_chats(bed.data, 24, 5);
    refuse(&bed, HEARTH_INVALID, "training data has changed");
    write_chats(bed.data, 24, UINT32_MAX);
    assert_true(run_is_like(&bed, before, "checkpoint.bin")); // nothing was lost
    // Numerics of another device: the id within the file is another one.
    struct blob foreign = blob_read(bed.runs, "checkpoint.bin");
    char *id = memmem(foreign.data, foreign.n, "\"numerics\":\"", 12);
    assert_non_null(id);
    id[12] ^= 1;
    check_file_write(check_path(bed.runs, "checkpoint.bin"), foreign.data, foreign.n);
    refuse(&bed, HEARTH_INVALID, "numerics");
    for (size_t at = 0; at < before.n; at += at < 2000 ? 1 : 97) { // damage, and every length
        struct hearth_error err = {0};
        struct hearth_trainer *t;
        memcpy(foreign.data, before.data, before.n);
        foreign.data[at] ^= 0x10;
        check_file_write(check_path(bed.runs, "checkpoint.bin"), foreign.data, before.n);
        assert_int_not_equal(hearth_trainer_open(&t, bed.engine, &bed.params, &err), HEARTH_OK);
        check_file_write(check_path(bed.runs, "checkpoint.bin"), before.data, at);
        assert_int_not_equal(hearth_trainer_open(&t, bed.engine, &bed.params, &err), HEARTH_OK);
        assert_true(strlen(err.text) > 10);
    }
    check_file_write(check_path(bed.runs, "checkpoint.bin"), before.data, 9); // half of its head
    refuse(&bed, HEARTH_FORMAT, check_path(bed.runs, "checkpoint.bin is damaged"));
    free(foreign.data);
    free(before.data);
    bed_free(&bed);
}

// ---------------------------------------------------------------- moments of bytes

// A checkpoint of a run before there was a choice: its identity does not tell.
static void as_before_moments(const char *path, struct blob file)
{
    static const char told[] = "\"moments\":\"f32\",";
    const size_t n = sizeof told - 1;
    unsigned char *at = memmem(file.data, file.n, told, n);
    uint32_t identity;
    struct ht_hash hash;
    assert_non_null(at);
    memcpy(&identity, file.data + 8, sizeof identity);
    identity -= (uint32_t)n;
    memcpy(file.data + 8, &identity, sizeof identity);
    memmove(at, at + n, (size_t)(file.data + file.n - at) - n);
    file.n -= n;
    ht_hash_init(&hash);
    ht_hash_add(&hash, file.data, file.n - HT_HASH_BYTES);
    ht_hash_end(&hash, file.data + file.n - HT_HASH_BYTES);
    check_file_write(path, file.data, file.n);
}

static void moments_of_bytes(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    bed_make(&bed, 16);
    bed.params.lora_plus = 4;
    bed.params.dropout = 0.1f;
    struct blob plain = reference(&bed);
    part(&bed, 3, true);
    struct blob plain_file = blob_read(bed.runs, "checkpoint.bin"), file;
    bed_empty(&bed);
    bed.params.moments = HEARTH_TRAIN_MOMENTS_8BIT;
    bed.params.resume = false;
    must_train(&bed, &info);
    struct blob want = blob_read(bed.runs, "adapter.gguf");
    assert_int_equal(want.n, plain.n);
    assert_false(blob_same(want, plain));
    bed_empty(&bed);
    check_same(&bed, want, 0, "piece by piece");
    while (!part(&bed, 1, true)) // after each step, without an end
        ;
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    bed_empty(&bed);
    bed.params.checkpoint_every = 3; // lost without asking
    for (uint64_t k = 1; !part(&bed, k, false); k++)
        ;
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    bed_empty(&bed);
    part(&bed, 3, true);
    file = blob_read(bed.runs, "checkpoint.bin");
    bed.params.moments = HEARTH_TRAIN_MOMENTS_F32;
    refuse(&bed, HEARTH_INVALID, "--moments is \"8bit\" there and \"f32\" here");
    assert_true(run_is_like(&bed, file, "checkpoint.bin")); // nothing was lost
    as_before_moments(check_path(bed.runs, "checkpoint.bin"), plain_file);
    bed.params.checkpoint_every = 0;
    while (!part(&bed, UINT64_MAX, false))
        ;
    assert_true(run_is_like(&bed, plain, "adapter.gguf"));
    bed.params.moments = (enum hearth_train_moments)2;
    refuse(&bed, HEARTH_INVALID, "moments");
    free(plain.data);
    free(plain_file.data);
    free(file.data);
    free(want.data);
    bed_free(&bed);
}

// ---------------------------------------------------------------- numbers that are none

static void numbers_that_are_none_end_it(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_train_info info;
    bed_make(&bed, 24);
    bed.params.lr = 1e6;
    bed.params.clip = 0;
    bed.params.warmup = 0;
    bed.params.targets = "all";
    bed.params.schedule = HEARTH_TRAIN_CONSTANT;
    bed.params.epochs = 50;
    bed.params.checkpoint_every = 1;
    bed.params.decay = 1; // lr times decay: the values grow a millionfold in each step
    assert_int_equal(train_through(&bed, 1e9, &info, &err), HEARTH_NUMERIC);
    assert_non_null(strstr(err.text, "finite"));
    assert_non_null(strstr(err.text, "step"));
    assert_true(info.saved_step > 0);
    struct blob kept = blob_read(bed.runs, "checkpoint.bin"); // the last good one is there and is read again
    assert_true(kept.n > 1000);
    bed.params.resume = true;
    memset(&err, 0, sizeof err);
    assert_int_equal(train_through(&bed, 1e9, &info, &err), HEARTH_NUMERIC);
    free(kept.data);
    bed_free(&bed);
}

static void early_stop(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_train_info info;
    struct told told = {0};
    bed_make(&bed, 40);
    bed.params.lr = 0.3; // far too fast: the held-out loss rises
    bed.params.targets = "all";
    bed.params.eval_every = 2;
    bed.params.patience = 3;
    bed.params.epochs = 40;
    bed.params.schedule = HEARTH_TRAIN_CONSTANT;
    bed.params.on_step = listen;
    bed.params.user = &told;
    must_train(&bed, &info);
    assert_true(info.stopped_early && info.last.step < info.last.n_steps);
    struct blob manifest = blob_read(bed.runs, "manifest.json");
    json_t *all = json_loadb((const char *)manifest.data, manifest.n, 0, NULL);
    assert_true(json_number_value(json_object_get(all, "held out loss")) <= told.held_first);
    assert_int_equal(json_integer_value(json_object_get(all, "best step")) + 3 * 2, info.last.step);
    json_decref(all);
    free(manifest.data);
    bed_free(&bed);
}

// ---------------------------------------------------------------- data

static void bad_data_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        enum hearth_status want;
        const char *word;
    } bad[] = {{"", 0, HEARTH_FORMAT, "empty"},
               {"\0\1\2\3\377\376", 6, HEARTH_FORMAT, "not text"},
               {"{\"messages\": [", 14, HEARTH_FORMAT, ""},
               {"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n", 49, HEARTH_FORMAT,
                "nothing to train on"}};
    struct bed bed;
    bed_make(&bed, 4);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct hearth_error err = {0};
        struct hearth_train_info info;
        check_file_write(bed.data, bad[i].bytes, bad[i].n);
        enum hearth_status status = train_through(&bed, 1e9, &info, &err);
        if (status != bad[i].want || !strstr(err.text, bad[i].word))
            fail_msg("file %zu: %s, %s", i, hearth_status_text(status), err.text);
        bed_empty(&bed);
    }
    // Half of a file that ends in the middle of a record trains; the rest is counted.
    write_chats(bed.data, 20, UINT32_MAX);
    struct blob whole = blob_read(bed.folder, "chats.jsonl");
    check_file_write(bed.data, whole.data, whole.n - 30);
    struct hearth_train_info info;
    must_train(&bed, &info);
    assert_int_equal(info.n_train + info.n_held_out, 19);
    struct blob manifest = blob_read(bed.runs, "manifest.json");
    assert_non_null(memmem(manifest.data, manifest.n, "half-written", 12));
    free(manifest.data);
    free(whole.data);
    bed_free(&bed);
}

static void wrong_words_are_refused(void **state)
{
    (void)state;
    struct bed bed;
    bed_make(&bed, 8);
    const struct hearth_train_params own = bed.params;
#define WRONG(field, value, status, word)                                                                              \
    bed.params.field = value;                                                                                          \
    refuse(&bed, status, word);                                                                                        \
    bed.params = own
    WRONG(data.n_seq, 100000, HEARTH_CONTEXT, "sequences of 100000");
    WRONG(rank, 0, HEARTH_INVALID, "rank");
    WRONG(n_batch, 0, HEARTH_INVALID, "sequences per step");
    WRONG(n_micro_rows, 63, HEARTH_INVALID, "63 rows");
    WRONG(targets, "attn_q,nonsense", HEARTH_INVALID, "nonsense");
    WRONG(base_sha256, "abc", HEARTH_INVALID, "SHA-256");
    WRONG(lr, NAN, HEARTH_INVALID, "learning rate");
    WRONG(epochs, 0, HEARTH_INVALID, "neither epochs nor steps");
    WRONG(data.n_files, 0, HEARTH_INVALID, "data files");
    WRONG(files.folder, "/nonexistent/folder", HEARTH_NOT_FOUND, "folder");
#undef WRONG
    bed_free(&bed);
}

struct order {
    uint64_t keys[128];
    size_t n;
};

// The order in which an epoch's conversations come.
static struct order order_of(struct bed *bed)
{
    struct order o = {0};
    struct hearth_error err = {0};
    struct hearth_trainer *t;
    must(hearth_trainer_open(&t, bed->engine, &bed->params, &err), &err);
    while (t->phase < HT_TRAIN_BORDER)
        must(hearth_trainer_run(t, 0, &err), &err);
    struct ht_train_window w = {0};
    must(ht_train_window_make(&w, &t->order, 0, 0, 1, &err), &err);
    for (size_t i = 0; i < w.n_entries; i++) {
        assert_true(w.entries[i].row < w.n_rows && i < 128);
        o.keys[o.n++] = t->store.samples[w.entries[i].sample].key;
    }
    ht_train_window_free(&w);
    hearth_trainer_close(&t);
    return o;
}

static void a_record_less_moves_no_other(void **state)
{
    (void)state;
    struct bed bed;
    bed_make(&bed, 60);
    bed.files[0].weight = 1.5;
    struct order all = order_of(&bed);
    assert_true(all.n > 60 && all.n < 90);
    for (unsigned without = 0; without < 60; without += 7) {
        write_chats(bed.data, 60, without);
        struct order less = order_of(&bed);
        size_t at = 0, gone = 0;
        for (size_t i = 0; i < all.n; i++)
            if (at < less.n && all.keys[i] == less.keys[at])
                at++;
            else
                gone++;
        assert_int_equal(at, less.n);
        assert_true(gone <= 2); // its copies
    }
    bed_free(&bed);
}

// Rows of an epoch hold every copy of every sample once, and no others.
static void an_epoch_is_its_samples(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_trainer *t;
    bed_make(&bed, 60);
    bed.files[0].weight = 2;
    must(hearth_trainer_open(&t, bed.engine, &bed.params, &err), &err);
    while (t->phase < HT_TRAIN_BORDER)
        must(hearth_trainer_run(t, 0, &err), &err);
    struct ht_train_window first = {0}, second = {0}; // each epoch has its order
    must(ht_train_window_make(&first, &t->order, 0, 0, 1, &err), &err);
    must(ht_train_window_make(&second, &t->order, 1, 0, 1, &err), &err);
    unsigned moved = 0, apart = 0;
    for (size_t i = 0; i < first.n_entries; i++) {
        moved += first.entries[i].sample != second.entries[i].sample;
        apart += i && first.entries[i].sample != first.entries[i - 1].sample; // the copies of a sample are apart
    }
    assert_true(first.n_entries == second.n_entries && moved > first.n_entries / 2 && apart > first.n_entries * 3 / 4);
    ht_train_window_free(&first);
    ht_train_window_free(&second);
    for (uint32_t n_windows = 1; n_windows <= 8; n_windows *= 2) {
        unsigned seen[60] = {0};
        struct ht_train_window w = {0};
        for (uint32_t index = 0; index < n_windows; index++) {
            must(ht_train_window_make(&w, &t->order, 1, index, n_windows, &err), &err);
            for (uint32_t row = 0; row < w.n_rows; row++) {
                uint32_t at = 0;
                for (uint32_t i = w.row_from[row]; i < w.row_from[row + 1]; i++) {
                    assert_int_equal(w.sorted[i].row, row);
                    assert_int_equal(w.sorted[i].start, at);
                    at += t->store.samples[w.sorted[i].sample].n_tokens;
                    seen[w.sorted[i].sample]++;
                }
                assert_true(at > 0 && at <= 64);
            }
        }
        for (size_t i = 0; i < t->store.n_samples; i++)
            assert_int_equal(seen[i], t->store.samples[i].held_out ? 0 : 2);
        ht_train_window_free(&w);
    }
    hearth_trainer_close(&t);
    bed_free(&bed);
}

// Sequences together in one micro-batch give the losses of sequences one by one.
static void micro_batches_add_up(void **state)
{
    (void)state;
    struct bed bed;
    struct told one = {0}, together = {0};
    struct hearth_train_info info;
    bed_make(&bed, 40);
    bed.params.n_batch = 4;
    bed.params.max_steps = 5;
    bed.params.dropout = 0.2f;
    bed.params.on_step = listen;
    bed.params.user = &one;
    must_train(&bed, &info);
    bed_empty(&bed);
    bed.params.n_micro_rows = 3 * 64;
    bed.params.user = &together;
    must_train(&bed, &info);
    assert_true(fabs(one.first - together.first) < 1e-5 && fabs(one.last - together.last) < 1e-4);
    assert_int_equal(one.tokens, together.tokens);
    bed_free(&bed);
}

static void it_goes_on_from_an_adapter(void **state)
{
    (void)state;
    struct bed bed;
    struct told first = {0}, second = {0};
    struct hearth_train_info info;
    struct hearth_error err = {0};
    struct hearth_adapter *learnt;
    struct hearth_adapter_info what;
    bed_make(&bed, 40);
    bed.params.lr = 1e-2;
    bed.params.on_step = listen;
    bed.params.user = &first;
    must_train(&bed, &info);
    must(hearth_adapter_open(&learnt, check_path(bed.runs, "adapter.gguf"), NULL, &err), &err);
    bed_empty(&bed);
    bed.params.init = learnt;
    bed.params.user = &second;
    bed.params.rank = 7; // the adapter's own counts
    must_train(&bed, &info);
    assert_true(fabs(second.held_first - first.held_last) < 1e-5);
    hearth_adapter_close(&learnt);
    must(hearth_adapter_open(&learnt, check_path(bed.runs, "adapter.gguf"), NULL, &err), &err);
    hearth_adapter_get_info(learnt, &what);
    assert_int_equal(what.n_targets, 4);
    bed.params.base_sha256 = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    bed.params.init = learnt;
    refuse(&bed, HEARTH_INVALID, "for another base");
    hearth_adapter_close(&learnt);
    bed_free(&bed);
}

// ---------------------------------------------------------------- without a folder

static struct kept {
    struct blob files[4], coming;
    char names[4][32];
    unsigned n, saves;
} kept;

static enum hearth_status save(void *user, const struct hearth_train_part *part, struct hearth_error *err)
{
    struct kept *k = user;
    (void)err;
    unsigned i = 0;
    if (!part->offset) {
        free(k->coming.data);
        k->coming = (struct blob){malloc(part->size_bytes), 0};
    }
    assert_int_equal(part->offset, k->coming.n); // in order
    memcpy(k->coming.data + part->offset, part->data, part->len_bytes);
    k->coming.n += part->len_bytes;
    assert_true(k->coming.n <= part->size_bytes);
    if (k->coming.n < part->size_bytes)
        return HEARTH_OK;
    while (i < k->n && strcmp(k->names[i], part->name))
        i++;
    k->n += i == k->n;
    assert_true(k->n <= 4);
    snprintf(k->names[i], sizeof k->names[i], "%s", part->name);
    free(k->files[i].data);
    k->files[i] = k->coming;
    k->coming = (struct blob){0};
    k->saves++;
    return HEARTH_OK;
}

static enum hearth_status load(void *user, const char *name, size_t offset, void *bytes, size_t len_bytes,
                               size_t *size_bytes, struct hearth_error *err)
{
    struct kept *k = user;
    (void)err;
    *size_bytes = 0;
    for (unsigned i = 0; i < k->n; i++)
        if (!strcmp(k->names[i], name)) {
            *size_bytes = k->files[i].n;
            assert_true(offset <= *size_bytes && len_bytes <= *size_bytes - offset);
            if (bytes)
                memcpy(bytes, k->files[i].data + offset, len_bytes);
            return HEARTH_OK;
        }
    return HEARTH_NOT_FOUND;
}

static void files_through_functions(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_trainer *t;
    struct hearth_train_info info = {0};
    struct hearth_adapter *learnt;
    bed_make(&bed, 24);
    struct blob want = reference(&bed);
    bed.params.files = (struct hearth_train_files){.save = save, .load = load, .user = &kept};
    part(&bed, 4, true);
    assert_int_equal(kept.saves, 1);
    must(hearth_trainer_open(&t, bed.engine, &bed.params, &err), &err);
    while (info.state != HEARTH_TRAIN_DONE) {
        must(hearth_trainer_run(t, 0, &err), &err);
        hearth_trainer_get_info(t, &info);
    }
    must(hearth_trainer_adapter(t, &learnt, &err), &err);
    must(hearth_adapter_write_gguf(learnt, check_path(bed.runs, "adapter.gguf"), &err), &err);
    assert_true(run_is_like(&bed, want, "adapter.gguf"));
    assert_int_equal(kept.n, 2); // checkpoint and manifest
    hearth_adapter_close(&learnt);
    hearth_trainer_close(&t);
    for (unsigned i = 0; i < kept.n; i++)
        free(kept.files[i].data);
    free(want.data);
    bed_free(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_learns),
        cmocka_unit_test(schedules_are_their_formulas),
        cmocka_unit_test(the_same_bytes),
        cmocka_unit_test(beside_answers),
        cmocka_unit_test(interrupted_at_every_border),
        cmocka_unit_test(the_log_has_each_step_once),
        cmocka_unit_test(another_run_is_refused),
        cmocka_unit_test(moments_of_bytes),
        cmocka_unit_test(numbers_that_are_none_end_it),
        cmocka_unit_test(early_stop),
        cmocka_unit_test(bad_data_is_told),
        cmocka_unit_test(wrong_words_are_refused),
        cmocka_unit_test(a_record_less_moves_no_other),
        cmocka_unit_test(an_epoch_is_its_samples),
        cmocka_unit_test(micro_batches_add_up),
        cmocka_unit_test(it_goes_on_from_an_adapter),
        cmocka_unit_test(files_through_functions),
    };
    return cmocka_run_group_tests_name("trainer", tests, NULL, NULL);
}
