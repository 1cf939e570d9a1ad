// SPDX-License-Identifier: Apache-2.0
// Adapters in answers: a row's bits depend on its own adapter alone, however it is batched; several are one sum; they
// come and go while others answer; caches never mix; what does not fit is refused and leaves nothing behind.
#include <math.h>

#include "engine/base/mem.h"
#include "engine/learn/adapter.h"
#include "tests/check/fault.h"
#include "tests/model/prefix_test.h"

static const char *const models[] = {
    "tests/golden/tiny-llama-q8_0.gguf",
    "tests/golden/tiny-qwen2-q4_1.gguf",
    "tests/golden/tiny-qwen3.gguf",
    "tests/golden/tiny-gemma3.gguf",
};
enum { N_MODELS = sizeof models / sizeof models[0], N_IDS = 70 };
enum { ALL = (1 << HT_N_MATRICES) - 1, HEAD = 1 << HT_ADAPTER_OUTPUT };

static float unit(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return (float)((int32_t)(*state >> 8) - (1 << 23)) * 0x1p-23f;
}

// An adapter of random values that the engine's model takes.
static struct hearth_adapter *make_adapter(const struct hearth_engine *e, unsigned linears, uint32_t rank,
                                           uint32_t seed)
{
    struct hearth_adapter *a;
    struct hearth_error err;
    const struct ht_adapter_spec spec = {.linears = linears, .rank = rank, .alpha = (float)rank / 2};
    must(ht_adapter_create(&a, &e->model.hp, &spec, &err), &err);
    for (size_t i = 0; i < a->n_values; i++)
        a->values[i] = 0.3f * unit(&seed);
    return a;
}

static unsigned load(struct hearth_engine *e, const struct hearth_adapter *a, float scale)
{
    struct hearth_error err;
    unsigned id;
    must(hearth_engine_adapter_load(e, &(struct hearth_adapter_use){a, scale}, 1, NULL, &id, &err), &err);
    assert_int_not_equal(id, 0);
    return id;
}

static unsigned load_new(struct hearth_engine *e, unsigned linears, uint32_t rank, uint32_t seed)
{
    struct hearth_adapter *a = make_adapter(e, linears, rank, seed);
    unsigned id = load(e, a, 1);
    hearth_adapter_close(&a);
    return id;
}

static float *eval_under(struct hearth_engine *e, struct hearth_session *s, unsigned adapter, const int32_t *ids,
                         size_t n, size_t chunk)
{
    struct hearth_error err;
    size_t n_vocab = e->model.hp.n_vocab;
    float *logits = malloc(n * n_vocab * sizeof *logits);
    for (size_t at = 0; at < n; at += chunk) {
        struct hearth_span span = {.session = s,
                                   .ids = ids + at,
                                   .n_ids = n - at < chunk ? n - at : chunk,
                                   .logits = logits + at * n_vocab,
                                   .adapter = adapter};
        must(hearth_engine_eval(e, &span, 1, &err), &err);
    }
    return logits;
}

static float *eval_once(struct hearth_engine *e, unsigned adapter, const int32_t *ids, size_t n, size_t chunk)
{
    struct hearth_session *s = new_session(e);
    float *logits = eval_under(e, s, adapter, ids, n, chunk);
    hearth_session_destroy(&s);
    return logits;
}

static void same_bits(const char *what, const float *want, const float *got, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&want[i], &got[i], sizeof *want))
            fail_msg("%s: logit %zu is %.9g, not %.9g", what, i, (double)got[i], (double)want[i]);
}

static size_t n_different(const float *a, const float *b, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += a[i] != b[i];
    return count;
}

// ---- bits

static struct hearth_engine *engine_of(const char *model, const char *isa, unsigned threads, bool exact)
{
    struct hearth_engine *engine;
    struct hearth_error err;
    const struct hearth_engine_params params = {.model_path = model,
                                                .device = "cpu",
                                                .max_sessions = 5,
                                                .n_ctx = 640,
                                                .n_threads = threads,
                                                .exact = exact,
                                                .cpu_isa = isa};
    if (hearth_engine_open(&engine, &params, &err) == HEARTH_UNSUPPORTED && isa)
        return NULL; // an instruction set that this CPU lacks
    assert_non_null(engine);
    return engine;
}

enum { N_WAYS = 5 }; // none, all linears, two and the head, a large rank in one, the head alone
static void load_ways(struct hearth_engine *e, unsigned id[N_WAYS])
{
    id[0] = 0;
    id[1] = load_new(e, ALL, 4, 1);
    id[2] = load_new(e, 1 << HT_ATTN_V | 1 << HT_FFN_DOWN | HEAD, 3, 2);
    id[3] = load_new(e, 1 << HT_ATTN_Q, 37, 3);
    id[4] = load_new(e, HEAD, 5, 4);
}

// Five spans in one batch, lengths that differ, adapters mixed: each as alone.
static void check_batch(struct hearth_engine *e, const unsigned id[N_WAYS], const int32_t *ids, float *const *want,
                        const char *what)
{
    static const unsigned way[5] = {1, 0, 2, 4, 3};
    static const size_t n[5] = {33, 7, N_IDS, 5, 40};
    struct hearth_session *s[5];
    struct hearth_span spans[5];
    struct hearth_error err;
    size_t n_vocab = e->model.hp.n_vocab;
    for (int i = 0; i < 5; i++) {
        s[i] = new_session(e);
        spans[i] = (struct hearth_span){.session = s[i],
                                        .ids = ids,
                                        .n_ids = n[i],
                                        .logits = malloc(n[i] * n_vocab * sizeof(float)),
                                        .adapter = id[way[i]]};
    }
    must(hearth_engine_eval(e, spans, 5, &err), &err);
    for (int i = 0; i < 5; i++) {
        same_bits(what, want[way[i]], spans[i].logits, n[i] * n_vocab);
        free(spans[i].logits);
        hearth_session_destroy(&s[i]);
    }
}

static void check_bits_of(const char *model, bool exact)
{
    static const char *const isas[] = {"ref", "avx2", "avx512vnni", "amx", "neon", "dotprod", "i8mm"};
    static const size_t chunks[] = {1, 3, 32, N_IDS};
    const int32_t *ids = some_ids(1);
    float *want[N_WAYS] = {0};
    char what[160];
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct hearth_engine *e = engine_of(model, isas[i], threads, exact);
            unsigned id[N_WAYS];
            if (!e)
                continue;
            size_t n_logits = (size_t)N_IDS * e->model.hp.n_vocab;
            load_ways(e, id);
            snprintf(what, sizeof what, "%s on %s", model, e->info.device);
            for (int w = 0; w < N_WAYS; w++)
                for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                    float *got = eval_once(e, id[w], ids, N_IDS, chunks[c]);
                    if (want[w])
                        same_bits(what, want[w], got, n_logits);
                    else
                        want[w] = malloc(n_logits * sizeof(float)), memcpy(want[w], got, n_logits * sizeof(float));
                    free(got);
                }
            for (int w = 1; w < N_WAYS; w++) // each does something of its own
                assert_true(n_different(want[w], want[w - 1], n_logits) > n_logits / 2);
            check_batch(e, id, ids, want, what);
            hearth_engine_close(&e);
        }
    for (int w = 0; w < N_WAYS; w++)
        free(want[w]);
}

static void bits_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    for (int i = 0; i < N_MODELS; i++)
        check_bits_of(models[i], false);
    check_bits_of(models[0], true);
    check_bits_of(models[3], true);
}

// With scale 0 an adapter is the base; twice the scale is twice B.
static void scales(void **state)
{
    (void)state;
    struct hearth_engine *e = engine_of(models[0], NULL, 2, false);
    struct hearth_adapter *a = make_adapter(e, ALL, 4, 7);
    const int32_t *ids = some_ids(2);
    size_t n = (size_t)N_IDS * e->model.hp.n_vocab;
    unsigned zero = load(e, a, 0), twice = load(e, a, 2);
    for (size_t t = 0; t < a->n_targets; t++)
        for (size_t i = 0; i < (size_t)a->targets[t].n * a->targets[t].rank; i++)
            a->values[a->targets[t].b_at + i] *= 2;
    unsigned doubled = load(e, a, 1);
    float *base = eval_once(e, 0, ids, N_IDS, N_IDS), *nothing = eval_once(e, zero, ids, N_IDS, N_IDS),
          *two = eval_once(e, twice, ids, N_IDS, N_IDS), *same = eval_once(e, doubled, ids, N_IDS, N_IDS);
    assert_int_equal(n_different(base, nothing, n), 0);
    same_bits("scale 2", two, same, n);
    assert_true(n_different(base, two, n) > n / 2);
    const struct ht_adapter_target *last = &a->targets[a->n_targets - 1];
    a->values[last->b_at + (size_t)last->n * last->rank - 1] += 1;
    (void)load(e, a, 1);
    for (int i = 0; i < 4; i++) // the cache tells them all apart, one value or a scale being enough
        for (int j = 0; j < i; j++)
            assert_false(ht_adapter_key_equal(e->loras.slot[i].key, e->loras.slot[j].key));
    free(base);
    free(nothing);
    free(two);
    free(same);
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
}

// Copies `from`, times its scale, behind the first `at` ranks of `to`, for the linears of `from`.
static void stack(struct hearth_adapter *to, const struct hearth_adapter *from, float scale, uint32_t at)
{
    for (size_t i = 0; i < from->n_targets; i++) {
        const struct ht_adapter_target *f = &from->targets[i];
        const struct ht_adapter_target *t = ht_adapter_find(to, f->layer, f->linear);
        float s = scale * ht_adapter_scale(from, f);
        for (uint32_t j = 0; j < f->rank; j++) {
            memcpy(to->values + t->a_at + (size_t)(at + j) * t->k, from->values + f->a_at + (size_t)j * f->k,
                   f->k * sizeof(float));
            for (uint32_t o = 0; o < f->n; o++)
                to->values[t->b_at + (size_t)o * t->rank + at + j] =
                    s * from->values[f->b_at + (size_t)o * f->rank + j];
        }
    }
}

static void a_sum_is_the_stacked_adapter(void **state)
{
    (void)state;
    struct hearth_engine *e = engine_of(models[0], NULL, 2, false);
    struct hearth_error err;
    struct hearth_adapter *a = make_adapter(e, ALL, 4, 1), *b = make_adapter(e, ALL, 3, 2), *both;
    const struct ht_adapter_spec spec = {.linears = ALL, .rank = 7, .alpha = 7};
    const struct hearth_adapter_use uses[] = {{a, 1}, {b, -0.37f}};
    unsigned sum;
    must(ht_adapter_create(&both, &e->model.hp, &spec, &err), &err);
    stack(both, a, 1, 0);
    stack(both, b, -0.37f, 4);
    must(hearth_engine_adapter_load(e, uses, 2, NULL, &sum, &err), &err);
    unsigned stacked = load(e, both, 1);
    const int32_t *ids = some_ids(3);
    float *x = eval_once(e, sum, ids, N_IDS, 9), *y = eval_once(e, stacked, ids, N_IDS, N_IDS);
    same_bits("a sum", x, y, (size_t)N_IDS * e->model.hp.n_vocab);
    free(x);
    free(y);
    hearth_adapter_close(&a);
    hearth_adapter_close(&b);
    hearth_adapter_close(&both);
    hearth_engine_close(&e);
}

// A part of `to` with the values of the first `n` linears named in `from`: their A, which is one, and their B's.
static void fuse(struct hearth_adapter *to, struct ht_adapter_target *t, const struct hearth_adapter *from,
                 const uint32_t *linears, size_t n)
{
    size_t row = 0;
    for (size_t i = 0; i < n; i++) {
        const struct ht_adapter_target *f = ht_adapter_find(from, t->layer, linears[i]);
        memcpy(to->values + t->a_at, from->values + f->a_at, (size_t)f->rank * f->k * sizeof(float));
        memcpy(to->values + t->b_at + row * t->rank, from->values + f->b_at, (size_t)f->n * f->rank * sizeof(float));
        row += f->n;
    }
}

static struct hearth_adapter *make_fused(const struct hearth_engine *e, struct hearth_adapter *apart, bool gguf)
{
    static const uint32_t qkv[] = {HT_ATTN_Q, HT_ATTN_K, HT_ATTN_V}, gate_up[] = {HT_FFN_GATE, HT_FFN_UP};
    const struct ht_hparams *hp = &e->model.hp;
    struct hearth_adapter *a;
    struct hearth_error err;
    must(ht_adapter_new(&a, "fused", gguf ? "gguf" : "peft", &err), &err);
    a->targets = ht_calloc(2 * hp->n_layers, sizeof *a->targets);
    for (uint32_t i = 0; i < 2 * hp->n_layers; i++) {
        struct ht_adapter_target *t = &a->targets[a->n_targets++], *first;
        first = ht_adapter_find(apart, i / 2, i % 2 ? HT_FFN_GATE : HT_ATTN_Q);
        *t = *first;
        t->linear = i % 2 ? gguf ? HT_FFN_UP : HT_ADAPTER_GATE_UP : HT_ADAPTER_QKV;
        t->n = i % 2 ? 2 * hp->n_ff : ht_dim_size(hp, HT_DIM_Q) + ht_dim_size(hp, HT_DIM_K) + ht_dim_size(hp, HT_DIM_V);
        for (uint32_t j = 1; j < (i % 2 ? 2u : 3u); j++) // the others read the same A
            memcpy(apart->values + ht_adapter_find(apart, i / 2, i % 2 ? gate_up[j] : qkv[j])->a_at,
                   apart->values + first->a_at, (size_t)first->rank * first->k * sizeof(float));
    }
    must(ht_adapter_lay_out(a, &err), &err);
    for (size_t i = 0; i < a->n_targets; i++) {
        bool attention = a->targets[i].linear == HT_ADAPTER_QKV;
        fuse(a, &a->targets[i], apart, attention ? qkv : gate_up, attention ? 3 : 2);
    }
    a->peft_rows = apart->peft_rows = !gguf;
    return a;
}

// Fused linears of a file that was opened without its base answer as the linears that they are.
static void fused_linears_are_those_of_the_model(void **state)
{
    (void)state;
    const unsigned linears = 1 << HT_ATTN_Q | 1 << HT_ATTN_K | 1 << HT_ATTN_V | 1 << HT_FFN_GATE | 1 << HT_FFN_UP;
    for (int i = 0; i < 2 * N_MODELS; i++) {
        struct hearth_engine *e = engine_of(models[i / 2], NULL, 2, false);
        struct hearth_adapter *apart = make_adapter(e, linears, 3, 5), *fused = make_fused(e, apart, i % 2);
        struct hearth_error err;
        const int32_t *ids = some_ids(3);
        unsigned id[2] = {load(e, apart, 0.5f), load(e, fused, 0.5f)};
        float *want = eval_once(e, id[0], ids, N_IDS, N_IDS), *got = eval_once(e, id[1], ids, N_IDS, N_IDS);
        same_bits(models[i / 2], want, got, (size_t)N_IDS * e->model.hp.n_vocab);
        struct ht_adapter_target *qkv = ht_adapter_find(fused, 0, HT_ADAPTER_QKV);
        struct ht_adapter_target *other = ht_adapter_find(fused, 0, i % 2 ? HT_FFN_UP : HT_ADAPTER_GATE_UP);
        const struct hearth_adapter_use use = {fused, 1};
        qkv->n--;
        assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id[0], &err), HEARTH_INVALID);
        assert_non_null(strstr(err.text, "blk.0.attn_qkv.weight is "));
        qkv->n++;
        other->linear = HT_ATTN_K; // beside the fused one, and with its rows
        other->n = ht_dim_size(&e->model.hp, HT_DIM_K);
        assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id[0], &err), HEARTH_FORMAT);
        assert_non_null(strstr(err.text, "twice"));
        free(want);
        free(got);
        hearth_adapter_close(&apart);
        hearth_adapter_close(&fused);
        hearth_engine_close(&e);
    }
}

// A session goes on under another adapter: what it holds is computed again.
static void a_session_changes_its_adapter(void **state)
{
    (void)state;
    struct hearth_engine *e = engine_of(models[3], NULL, 2, false);
    const int32_t *ids = some_ids(1);
    size_t n_vocab = e->model.hp.n_vocab;
    unsigned a = load_new(e, ALL, 4, 1), b = load_new(e, ALL, 4, 2);
    float *want = eval_once(e, b, ids, N_IDS, N_IDS);
    struct hearth_session *s = new_session(e);
    free(eval_under(e, s, 0, ids, 20, 20));
    free(eval_under(e, s, a, ids + 20, 21, 8));
    float *got = eval_under(e, s, b, ids + 41, N_IDS - 41, N_IDS);
    assert_int_equal(hearth_session_length(s), N_IDS);
    same_bits("changed twice", want + 41 * n_vocab, got, (N_IDS - 41) * n_vocab);
    free(got);
    struct hearth_error err; // and after a cut, under the same one
    must(hearth_session_truncate(s, 35, &err), &err);
    got = eval_under(e, s, b, ids + 35, N_IDS - 35, 6);
    same_bits("after a cut", want + 35 * n_vocab, got, (N_IDS - 35) * n_vocab);
    free(got);
    free(want);
    hearth_session_destroy(&s);
    hearth_engine_close(&e);
}

// ---- answers

static float temperature = 1;
static void ask_under(struct hearth_session *s, struct answer *answer, const int32_t *ids, size_t n, uint64_t owner,
                      unsigned adapter, unsigned max_draft)
{
    struct hearth_error err;
    struct hearth_request r = request_for(answer, ids, n, owner);
    r.adapter = adapter;
    r.max_draft = max_draft;
    r.max_tokens = 48;
    r.sampling.temperature = temperature;
    must(hearth_session_submit(s, &r, &err), &err);
    run_all(s->engine);
    assert_true(answer->ended && !answer->failed);
    check_cache(s->engine);
}

static void ask_fresh(struct hearth_engine *e, struct answer *answer, const int32_t *ids, size_t n, uint64_t owner,
                      unsigned adapter)
{
    struct hearth_session *s = new_session(e);
    ask_under(s, answer, ids, n, owner, adapter, 0);
    hearth_session_destroy(&s);
}

// One answers under A while others come, go, are loaded, dropped and swapped for it: its text is as alone.
static void adapters_come_and_go_while_one_answers(void **state)
{
    (void)state;
    struct hearth_engine *e = engine_for(4, 1024, HEARTH_KV_F16, NULL);
    struct hearth_adapter *a = make_adapter(e, ALL, 5, 1);
    struct hearth_error err;
    static struct answer alone[3], beside[3];
    const int32_t *ids = some_ids(1);
    unsigned id = load(e, a, 1), other = load_new(e, ALL, 2, 2), n_busy = 1, old = id;
    uint64_t both_bytes = e->info.adapter_bytes;
    ask_fresh(e, &alone[0], ids, 50, 0, id);
    ask_fresh(e, &alone[1], ids, 40, 0, other);
    ask_fresh(e, &alone[2], ids, 45, 0, 0);
    assert_true(alone[0].n != alone[2].n || memcmp(alone[0].text, alone[2].text, alone[0].n) != 0);
    struct hearth_session *s[3];
    for (int i = 0; i < 3; i++) {
        struct hearth_request r = request_for(&beside[i], ids, 50 - 10 * (size_t)(i == 1) - 5 * (size_t)(i == 2), 0);
        r.adapter = i == 0 ? id : i == 1 ? other : 0;
        r.max_tokens = 48;
        s[i] = new_session(e);
        must(hearth_session_submit(s[i], &r, &err), &err);
    }
    must(hearth_engine_step(e, &n_busy, &err), &err);
    must(hearth_engine_adapter_drop(e, id, &err), &err); // it goes on until its answer has ended
    assert_int_equal(hearth_engine_adapter_drop(e, id, &err), HEARTH_NOT_FOUND);
    struct answer refused;
    struct hearth_request late = request_for(&refused, ids, 9, 0);
    struct hearth_session *latecomer = new_session(e);
    late.adapter = id;
    assert_int_equal(hearth_session_submit(latecomer, &late, &err), HEARTH_NOT_FOUND);
    assert_int_equal(e->info.adapter_bytes, both_bytes);
    for (uint32_t i = 0; n_busy; i++) { // others are loaded and dropped all the time
        if (old != id)
            must(hearth_engine_adapter_drop(e, old, &err), &err);
        old = load_new(e, 1 << (i % HT_N_MATRICES), 1 + i % 50, i);
        must(hearth_engine_step(e, &n_busy, &err), &err);
    }
    must(hearth_engine_adapter_drop(e, old, &err), &err);
    for (int i = 0; i < 3; i++) {
        assert_true(beside[i].ended && !beside[i].failed);
        same_answer(&beside[i], &alone[i]);
        hearth_session_destroy(&s[i]);
    }
    for (int i = 0; i < HEARTH_MAX_ADAPTERS; i++)
        assert_true(!e->loras.slot[i].id || e->loras.slot[i].id == other);
    must(hearth_engine_adapter_drop(e, other, &err), &err);
    assert_int_equal(e->info.adapter_bytes, 0);
    // cancelled, or its session destroyed: let go as well
    id = load(e, a, 1);
    late.adapter = id;
    must(hearth_session_submit(latecomer, &late, &err), &err);
    must(hearth_engine_adapter_drop(e, id, &err), &err);
    assert_true(e->info.adapter_bytes > 0);
    hearth_session_destroy(&latecomer);
    assert_int_equal(e->info.adapter_bytes, 0);
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
}

static void the_cache_never_mixes(void **state)
{
    (void)state;
    struct hearth_engine *e = engine_for(2, 1024, HEARTH_KV_F16, NULL);
    struct hearth_adapter *a = make_adapter(e, ALL, 4, 1);
    struct hearth_error err;
    static struct answer base, first, got;
    const int32_t *ids = some_ids(2);
    enum { N = 4 * PAGE + 9, OWNER = 5 };
    unsigned id = load(e, a, 1), half = load(e, a, 0.5f);
    ask_fresh(e, &base, ids, N, OWNER, 0);
    ask_fresh(e, &first, ids, N, OWNER, id);
    assert_int_equal(first.usage.cached_tokens, 0); // the base's pages are not its own
    ask_fresh(e, &got, ids, N, OWNER, id);
    assert_int_equal(got.usage.cached_tokens, N - 1);
    same_answer(&got, &first);
    ask_fresh(e, &got, ids, N, OWNER, half);
    assert_int_equal(got.usage.cached_tokens, 0);
    ask_fresh(e, &got, ids, N, OWNER, 0);
    assert_int_equal(got.usage.cached_tokens, N - 1);
    same_answer(&got, &base);
    // in one session: another adapter begins anew, and finds its own pages again
    struct hearth_session *s = new_session(e);
    ask_under(s, &got, ids, N, OWNER, id, 0);
    ask_under(s, &got, ids, N, OWNER, 0, 0);
    assert_int_equal(got.usage.cached_tokens, N - 1);
    same_answer(&got, &base);
    ask_under(s, &got, ids, N, OWNER, id, 0);
    same_answer(&got, &first);
    // dropped and loaded again: equal values find what is there, others do not
    must(hearth_engine_adapter_drop(e, id, &err), &err);
    id = load(e, a, 1);
    ask_under(s, &got, ids, N, OWNER, id, 0);
    assert_int_equal(got.usage.cached_tokens, N - 1);
    same_answer(&got, &first);
    a->values[a->targets[3].b_at] += 0.01f;
    unsigned nearly = load(e, a, 1);
    ask_fresh(e, &got, ids, N, OWNER, nearly);
    assert_int_equal(got.usage.cached_tokens, 0);
    hearth_session_destroy(&s);
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
}

// ---- stored pages

static struct {
    unsigned char bytes[1 << 24];
    size_t n;
} stored;
static bool store(void *user, const void *data, size_t len_bytes)
{
    (void)user;
    assert_true(stored.n + len_bytes <= sizeof stored.bytes);
    memcpy(stored.bytes + stored.n, data, len_bytes);
    stored.n += len_bytes;
    return true;
}

static void stored_pages_know_their_adapter(void **state)
{
    (void)state;
    struct hearth_error err;
    static struct answer under, base, got;
    const int32_t *ids = some_ids(3);
    enum { N = 3 * PAGE + 5, OWNER = 9 };
    struct hearth_engine *e = engine_for(1, 1024, HEARTH_KV_F16, NULL);
    struct hearth_adapter *a = make_adapter(e, ALL, 4, 1);
    unsigned id = load(e, a, 1), n_positions;
    ask_fresh(e, &under, ids, N, OWNER, id);
    ask_fresh(e, &base, ids, N, OWNER, 0);
    stored.n = 0;
    must(hearth_engine_export_prefixes(e, OWNER, sizeof stored.bytes, store, NULL, &err), &err);
    hearth_engine_close(&e);
    e = engine_for(1, 1024, HEARTH_KV_F16, NULL);
    must(hearth_engine_import_prefixes(e, OWNER, stored.bytes, stored.n, &n_positions, &err), &err);
    check_cache(e);
    assert_true(n_positions >= 6 * PAGE);
    ask_fresh(e, &got, ids, N, OWNER, 0);
    assert_int_equal(got.usage.cached_tokens, N - 1);
    same_answer(&got, &base);
    id = load(e, a, 1); // only now is it there again
    ask_fresh(e, &got, ids, N, OWNER, id);
    assert_int_equal(got.usage.cached_tokens, N - 1);
    same_answer(&got, &under);
    unsigned other = load_new(e, ALL, 4, 2);
    ask_fresh(e, &got, ids, N, OWNER, other);
    assert_int_equal(got.usage.cached_tokens, 0);
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
}

static void proposals_change_nothing(void **state)
{
    (void)state;
    struct hearth_engine *e = engine_for(2, 1024, HEARTH_KV_F16, NULL);
    static struct answer plain, drafted;
    int32_t ids[64];
    for (int i = 0; i < 64; i++)
        ids[i] = 97 + i % 9; // what repeats is proposed
    struct hearth_adapter *a = make_adapter(e, ALL, 4, 1);
    unsigned id = load(e, a, 0.2f), drafts = 0;
    temperature = 0;
    for (unsigned max_draft = 1; max_draft <= 7; max_draft += 3) {
        struct hearth_session *s = new_session(e);
        ask_fresh(e, &plain, ids, 64, 0, id);
        ask_under(s, &drafted, ids, 64, 0, id, max_draft);
        same_answer(&drafted, &plain);
        drafts += drafted.usage.drafted_tokens;
        hearth_session_destroy(&s);
    }
    assert_true(drafts > 0);
    temperature = 1;
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
}

// ---- refusals

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct hearth_error err;
    struct hearth_engine *e = engine_of(models[0], NULL, 1, false), *gemma = engine_of(models[3], NULL, 1, false);
    struct hearth_adapter *a = make_adapter(e, ALL, 2, 1), *foreign = make_adapter(gemma, ALL, 2, 1);
    struct hearth_adapter_use use = {a, 1};
    unsigned id = 7;
    const char sha[] = "00000000000000000000000000000000000000000000000000000000000000ff",
               other[] = "00000000000000000000000000000000000000000000000000000000000000fe";
    memcpy(a->base_sha256, sha, sizeof sha);
    must(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), &err);
    must(hearth_engine_adapter_load(e, &use, 1, sha, &id, &err), &err);
    assert_int_equal(hearth_engine_adapter_load(e, &use, 1, other, &id, &err), HEARTH_INVALID);
    assert_int_equal(id, 0);
    assert_non_null(strstr(err.text, "another base"));
    assert_int_equal(hearth_engine_adapter_load(e, &(struct hearth_adapter_use){foreign, 1}, 1, NULL, &id, &err),
                     HEARTH_INVALID);
    assert_non_null(strstr(err.text, "gemma3"));
    foreign->architecture[0] = 0; // shapes alone tell
    foreign->n_layers = foreign->n_heads = foreign->n_kv_heads = 0;
    assert_int_equal(hearth_engine_adapter_load(e, &(struct hearth_adapter_use){foreign, 1}, 1, NULL, &id, &err),
                     HEARTH_INVALID);
    a->targets[0].layer = 400;
    assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), HEARTH_INVALID);
    assert_non_null(strstr(err.text, "blk.400"));
    a->targets[0].layer = 0;
    use.scale = INFINITY;
    assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), HEARTH_INVALID);
    use.scale = 3e38f;
    a->values[a->targets[0].b_at] = 4;
    assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), HEARTH_INVALID);
    use.scale = 1;
    a->values[5] = NAN;
    assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), HEARTH_FORMAT);
    a->values[5] = 0;
    assert_int_equal(hearth_engine_adapter_load(e, &use, 0, NULL, &id, &err), HEARTH_INVALID);
    // the 17th
    for (int i = 2; i < HEARTH_MAX_ADAPTERS; i++)
        must(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), &err);
    unsigned last = id;
    assert_int_equal(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), HEARTH_LIMIT);
    must(hearth_engine_adapter_drop(e, last, &err), &err);
    must(hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err), &err);
    assert_int_not_equal(id, last); // an id is never used again
    assert_int_equal(hearth_engine_adapter_drop(e, 0, &err), HEARTH_NOT_FOUND);
    assert_int_equal(hearth_engine_adapter_drop(e, last, &err), HEARTH_NOT_FOUND);
    hearth_adapter_close(&a);
    hearth_adapter_close(&foreign);
    hearth_engine_close(&gemma);
    hearth_engine_close(&e);
}

// ---- memory

// Every allocation of a load fails once: nothing of it stays, and what was loaded before still answers.
static void failing_loads(struct hearth_engine *e, const struct hearth_adapter *a, unsigned *first)
{
    struct hearth_error err;
    const struct hearth_adapter_use use = {a, 1};
    uint64_t bytes = e->info.adapter_bytes;
    long alive = fault_memory_alive();
    unsigned id;
    for (unsigned long i = 1;; i++) {
        fault_memory_arm(i);
        enum hearth_status status = hearth_engine_adapter_load(e, &use, 1, NULL, &id, &err);
        bool none_failed = fault_memory_count() < i;
        fault_memory_arm(0);
        if (none_failed) {
            assert_int_equal(status, HEARTH_OK);
            assert_true(i > 5 && e->info.adapter_bytes > bytes);
            must(hearth_engine_adapter_drop(e, id, &err), &err);
            break;
        }
        assert_int_equal(status, HEARTH_NOMEM);
        assert_true(strlen(err.text) > 5);
        assert_int_equal(id, 0);
        assert_int_equal(fault_memory_alive(), alive);
        assert_int_equal(e->info.adapter_bytes, bytes);
    }
    must(hearth_engine_adapter_drop(e, *first, &err), &err);
    assert_int_equal(e->info.adapter_bytes, 0);
    *first = load_new(e, ALL, 2, 1);
    assert_int_equal(fault_memory_alive(), alive);
}

static void every_allocation_of_a_load_fails_once(void **state)
{
    (void)state;
    struct hearth_error err;
    static struct answer want, got;
    const int32_t *ids = some_ids(1);
    fault_memory_begin(0);
    struct hearth_engine *e = engine_for(1, 256, HEARTH_KV_F16, NULL);
    unsigned first = load_new(e, ALL, 2, 1);
    struct hearth_adapter *a = make_adapter(e, ALL | HEAD, 19, 2); // needs more scratch than the first one
    a->peft_rows = true;                                    // the rows of q and k are turned on the way
    ask_fresh(e, &want, ids, 40, 0, first);
    failing_loads(e, a, &first);
    ask_fresh(e, &got, ids, 40, 0, first);
    same_answer(&got, &want);
    struct hearth_session *s = new_session(e);
    struct hearth_request r = request_for(&got, ids, 40, 0);
    r.adapter = first;
    must(hearth_session_submit(s, &r, &err), &err);
    must(hearth_engine_adapter_drop(e, first, &err), &err);
    fault_memory_arm(0);
    run_all(e); // a step allocates nothing, also where the last user of an adapter ends
    assert_int_equal(fault_memory_count(), 0);
    assert_int_equal(e->info.adapter_bytes, 0);
    hearth_session_destroy(&s);
    hearth_adapter_close(&a);
    hearth_engine_close(&e);
    assert_int_equal(fault_memory_end(NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_do_not_depend_on_the_batch),
        cmocka_unit_test(scales),
        cmocka_unit_test(a_sum_is_the_stacked_adapter),
        cmocka_unit_test(fused_linears_are_those_of_the_model),
        cmocka_unit_test(a_session_changes_its_adapter),
        cmocka_unit_test(adapters_come_and_go_while_one_answers),
        cmocka_unit_test(the_cache_never_mixes),
        cmocka_unit_test(stored_pages_know_their_adapter),
        cmocka_unit_test(proposals_change_nothing),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(every_allocation_of_a_load_fails_once),
    };
    return cmocka_run_group_tests_name("adapters", tests, set_up, tear_down);
}
