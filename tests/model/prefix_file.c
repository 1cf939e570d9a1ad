// SPDX-License-Identifier: Apache-2.0
// The prefix cache as a block of bytes: what comes back gives the bits of what is computed; of whom, how much and in
// which order; a damaged, foreign or hostile block is refused whole and touches nothing.
#include "tests/model/prefix_test.h"

struct block {
    unsigned char *data;
    size_t n, capacity, fail_after; // fail_after: refuses more bytes than that
};

static bool append(void *user, const void *data, size_t len_bytes)
{
    struct block *b = user;
    if (b->n + len_bytes > b->fail_after)
        return false;
    if (b->n + len_bytes > b->capacity) {
        b->capacity = 2 * (b->n + len_bytes);
        b->data = realloc(b->data, b->capacity);
    }
    memcpy(b->data + b->n, data, len_bytes);
    b->n += len_bytes;
    return true;
}

static struct block export_of(struct hearth_engine *engine, uint64_t owner, uint64_t max_bytes)
{
    struct block b = {.fail_after = SIZE_MAX};
    struct hearth_error err;
    must(hearth_engine_export_prefixes(engine, owner, max_bytes, append, &b, &err), &err);
    assert_true(b.n <= max_bytes);
    check_cache(engine);
    return b;
}

static unsigned import_into(struct hearth_engine *engine, uint64_t owner, const struct block *b)
{
    struct hearth_error err;
    unsigned n;
    must(hearth_engine_import_prefixes(engine, owner, b->data, b->n, &n, &err), &err);
    check_cache(engine);
    return n;
}

// Where things lie in a block (engine/model/prefix_file.c).
enum { HEAD = 88, MODEL_AT = 56, COUNT_AT = 80, RECORD = 152, ADAPTER_AT = 8, IDS_AT = 24, TAIL = HT_HASH_BYTES };

static size_t record_bytes(const struct hearth_engine *engine)
{
    return RECORD + engine->ctx.kv_bytes / engine->ctx.pages.n_pages;
}

static unsigned pages_in(const struct hearth_engine *engine, const struct block *b)
{
    assert_int_equal((b->n - HEAD - TAIL) % record_bytes(engine), 0);
    return (unsigned)((b->n - HEAD - TAIL) / record_bytes(engine));
}

static void sign(struct block *b)
{
    struct ht_hash hash;
    ht_hash_init(&hash);
    ht_hash_add(&hash, b->data, b->n - TAIL);
    ht_hash_end(&hash, b->data + b->n - TAIL);
}

static void comes_back_for(enum hearth_kv_type kv)
{
    static struct answer first, again;
    const int32_t *ids = some_ids(1);
    struct hearth_engine *engine = engine_for(2, 512, kv, NULL);
    ask_once(engine, &first, ids, 150, 5);
    struct block b = export_of(engine, 5, UINT64_MAX);
    assert_int_equal(pages_in(engine, &b), 5); // four full ones and a leaf
    hearth_engine_close(&engine);
    engine = engine_for(1, 512, kv, "ref"); // other instruction sets give the same bits
    assert_int_equal(import_into(engine, 5, &b), 155);
    assert_int_equal(import_into(engine, 5, &b), 0); // it is all there
    ask_once(engine, &again, ids, 150, 6);
    assert_int_equal(again.usage.cached_tokens, 0);
    ask_once(engine, &again, ids, 150, 5);
    assert_int_equal(again.usage.cached_tokens, 149);
    same_answer(&first, &again);
    struct block twice = export_of(engine, 5, UINT64_MAX);
    assert_int_equal(twice.n, b.n);
    assert_memory_equal(twice.data, b.data, b.n);
    hearth_engine_close(&engine);
    free(b.data);
    free(twice.data);
}

static void what_comes_back_gives_the_same_bits(void **state)
{
    (void)state;
    comes_back_for(HEARTH_KV_F16);
    comes_back_for(HEARTH_KV_Q8);
    comes_back_for(HEARTH_KV_F32);
}

// The latest first, a page never before the one that it follows, and no more bytes than asked for.
static void order_and_room(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(3, 1024, HEARTH_KV_F16, NULL), *small;
    const int32_t *ids = some_ids(1), *later = some_ids(2), *held = some_ids(3);
    ask_once(engine, &a, ids, 100, 1);
    ask_once(engine, &a, later, 100, 1);
    ask_once(engine, &a, some_ids(4), 100, 2);
    struct hearth_session *s = new_session(engine);
    ask(s, &a, held, 70, 1); // what a session holds comes first
    struct block all = export_of(engine, 1, UINT64_MAX), part;
    assert_int_equal(pages_in(engine, &all), 11);
    for (unsigned n = 0; n < 11; n++) {
        part = export_of(engine, 1, all.n - 1 - n * record_bytes(engine));
        assert_int_equal(pages_in(engine, &part), 10 - n);
        const size_t end = HEAD + (10 - n) * record_bytes(engine);
        assert_memory_equal(part.data + HEAD, all.data + HEAD, end - HEAD);
        free(part.data);
    }
    struct hearth_error err;
    struct block none = {.fail_after = SIZE_MAX};
    assert_int_equal(hearth_engine_export_prefixes(engine, 1, HEAD + TAIL - 1, append, &none, &err), HEARTH_LIMIT);
    part = export_of(engine, 1, HEAD + TAIL);
    assert_int_equal(pages_in(engine, &part), 0);
    free(part.data);
    // Room for ten pages: the end of the oldest chain stays out, and more of it goes when a page is wanted.
    small = engine_for(1, 10 * PAGE, HEARTH_KV_F16, NULL);
    assert_int_equal(import_into(small, 1, &all), 75 + 105 + 96);
    const int32_t *const prompts[] = {held, later, ids};
    static const unsigned n[] = {70, 100, 100}, cached[] = {69, 99, 64};
    for (int i = 0; i < 3; i++) {
        struct hearth_session *t = new_session(small);
        struct hearth_request r = request_for(&a, prompts[i], n[i], 1);
        must(hearth_session_submit(t, &r, &err), &err);
        assert_int_equal(hearth_session_length(t), cached[i]);
        hearth_session_cancel(t);
        run_all(small);
        hearth_session_destroy(&t);
        check_cache(small);
    }
    // What was there before stays, and is the last to go.
    hearth_engine_forget(small, 0);
    ask_once(small, &a, some_ids(5), 100, 9);
    assert_int_equal(import_into(small, 1, &all), 75 + 96);
    ask_once(small, &a, some_ids(6), 100, 9); // four pages: of those that came in
    ask_once(small, &a, some_ids(5), 100, 9);
    assert_int_equal(a.usage.cached_tokens, 99);
    hearth_engine_close(&small);
    hearth_engine_forget(engine, 1); // the session still holds its pages; they are in nobody's cache
    for (uint64_t owner = 0; owner < 2; owner++) {
        part = export_of(engine, owner, UINT64_MAX);
        assert_int_equal(pages_in(engine, &part), 0);
        free(part.data);
    }
    hearth_engine_close(&engine);
    free(all.data);
}

// Pages of everybody go with those that follow them, and are everybody's again.
static void shared_pages_come_along(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine = engine_for(1, 1024, HEARTH_KV_F16, NULL);
    struct hearth_session *s = new_session(engine);
    const int32_t *ids = some_ids(1);
    struct hearth_error err;
    struct hearth_request r = request_for(&a, ids, 100, 1);
    must(hearth_session_submit(s, &r, &err), &err);
    s->n_shared = 70; // as if its first messages had made them
    run_all(engine);
    struct block own = export_of(engine, 1, UINT64_MAX), common = export_of(engine, 0, UINT64_MAX),
                 other = export_of(engine, 2, UINT64_MAX);
    assert_int_equal(pages_in(engine, &own), 4);
    assert_int_equal(pages_in(engine, &common), 2);
    assert_int_equal(pages_in(engine, &other), 0);
    hearth_engine_close(&engine);
    engine = engine_for(1, 1024, HEARTH_KV_F16, NULL);
    assert_int_equal(import_into(engine, 2, &other), 0);
    unsigned n;
    assert_int_equal(hearth_engine_import_prefixes(engine, 0, own.data, own.n, &n, &err), HEARTH_FORMAT);
    assert_int_equal(import_into(engine, 0, &common), 64);
    assert_int_equal(import_into(engine, 1, &own), 32 + 9);
    ask_once(engine, &a, ids, 100, 3);
    assert_int_equal(a.usage.cached_tokens, 64);
    ask_once(engine, &a, ids, 100, 1);
    assert_int_equal(a.usage.cached_tokens, 99);
    hearth_engine_forget(engine, 0);
    assert_int_equal(import_into(engine, 1, &own), 64 + 32 + 9); // those of everybody come with them
    ask_once(engine, &a, ids, 100, 3);
    assert_int_equal(a.usage.cached_tokens, 64);
    hearth_engine_close(&engine);
    free(own.data);
    free(common.data);
    free(other.data);
}

// ---- refused

static void refused(struct hearth_engine *engine, const unsigned char *data, size_t n)
{
    struct hearth_error err = {.text = ""};
    unsigned n_positions = 77;
    unsigned char *exact = malloc(n ? n : 1); // so that a sanitizer sees a byte too far
    memcpy(exact, data, n);
    enum hearth_status status = hearth_engine_import_prefixes(engine, 1, exact, n, &n_positions, &err);
    free(exact);
    if (status != HEARTH_FORMAT || n_positions != 0 || strlen(err.text) < 5)
        fail_msg("a bad block of %zu bytes: %s, %u positions", n, hearth_status_text(status), n_positions);
    assert_int_equal(engine->ctx.pages.n_idle, 0);
    assert_int_equal(engine->ctx.pages.n_free, engine->ctx.pages.n_pages);
}

static struct block small_block(struct hearth_engine **engine)
{
    static struct answer a;
    *engine = engine_for(1, 512, HEARTH_KV_Q8, NULL);
    ask_once(*engine, &a, some_ids(1), 100, 1);
    struct block b = export_of(*engine, 1, UINT64_MAX);
    hearth_engine_forget(*engine, 0);
    return b;
}

static void damage_is_found(void **state)
{
    (void)state;
    struct hearth_engine *engine;
    struct block b = small_block(&engine);
    for (size_t n = 0; n < b.n; n += n < 4 * HEAD || n + 2 * HEAD > b.n ? 1 : 61)
        refused(engine, b.data, n);
    for (size_t i = 0; i < b.n; i += i < HEAD + RECORD + 8 || i + TAIL + 8 > b.n ? 1 : 37)
        for (int bit = 0; bit < 8; bit += 3) {
            b.data[i] ^= (unsigned char)(1 << bit);
            refused(engine, b.data, b.n);
            b.data[i] ^= (unsigned char)(1 << bit);
        }
    assert_true(append(&b, "x", 1));
    refused(engine, b.data, b.n);
    b.n--;
    assert_int_equal(import_into(engine, 1, &b), 105);
    hearth_engine_close(&engine);
    free(b.data);
}

static void put_u32(struct block *b, size_t at, uint32_t value)
{
    memcpy(b->data + at, &value, sizeof value);
}

// The checksum is right, what it says is not.
static void lies_are_refused(void **state)
{
    (void)state;
    struct hearth_engine *engine;
    struct block b = small_block(&engine);
    unsigned char *good = malloc(b.n);
    memcpy(good, b.data, b.n);
    const size_t record = record_bytes(engine);
    const struct {
        size_t at;
        uint32_t value;
    } lies[] = {
        {COUNT_AT, 3},
        {COUNT_AT, 5},
        {COUNT_AT, 0},
        {COUNT_AT, UINT32_MAX},
        {COUNT_AT, 1U << 31},
        {8, 0},
        {8, UINT32_MAX},
        {12, 1},
        {16, 'x'},
        {MODEL_AT, 1},
        {72, 16},
        {76, 1},
        {COUNT_AT + 4, 1},
        {HEAD, 0},
        {HEAD, 1},
        {HEAD + record, 1},
        {HEAD + record, 2},
        {HEAD + record, 1U << 31},
        {HEAD + 4, 2},
        {HEAD + record + 4, 1},
        {HEAD + ADAPTER_AT, 1}, // what follows it is the base's
        {HEAD + record + ADAPTER_AT + 12, 1},
        {HEAD + IDS_AT, UINT32_MAX},
        {HEAD + IDS_AT, 264},
        {HEAD + IDS_AT + 31 * 4, 1U << 20},
        {HEAD + IDS_AT + 31 * 4, UINT32_MAX},               // a leaf, and yet something follows
        {HEAD + 3 * record + 4, 1},                         // everybody's leaf
        {HEAD + 3 * record + IDS_AT, UINT32_MAX},           // the leaf: an id is missing,
        {HEAD + 3 * record + IDS_AT + 10 * 4, 5},           // one stands behind its end,
        {HEAD + 3 * record + IDS_AT + 31 * 4, UINT32_MAX - 1}, // its end is padded with something else
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(b.data, good, b.n);
        put_u32(&b, lies[i].at, lies[i].value);
        sign(&b);
        refused(engine, b.data, b.n);
    }
    hearth_engine_close(&engine);
    free(good);
    free(b.data);
}

static void lies_about_the_end_are_refused(void **state)
{
    (void)state;
    struct hearth_engine *engine;
    struct block b = small_block(&engine);
    unsigned char *good = malloc(b.n);
    memcpy(good, b.data, b.n);
    const size_t record = record_bytes(engine);
    for (size_t i = 0; i < 9; i++) // the leaf, of nine ids, has none
        put_u32(&b, HEAD + 3 * record + IDS_AT + i * 4, UINT32_MAX);
    sign(&b);
    refused(engine, b.data, b.n);
    memcpy(b.data, good, b.n);
    put_u32(&b, COUNT_AT, 1); // a leaf that everybody should find, and nothing before it
    memmove(b.data + HEAD, b.data + HEAD + 3 * record, record);
    put_u32(&b, HEAD, UINT32_MAX);
    struct block leaf = {.data = b.data, .n = HEAD + record + TAIL};
    sign(&leaf);
    assert_int_equal(import_into(engine, 1, &leaf), 9);
    hearth_engine_forget(engine, 0);
    put_u32(&leaf, HEAD + 4, 1);
    sign(&leaf);
    refused(engine, leaf.data, leaf.n);
    memcpy(b.data, good, b.n);
    assert_true(append(&b, "12345678", 8)); // more than the records
    sign(&b);
    refused(engine, b.data, b.n);
    hearth_engine_close(&engine);
    free(good);
    free(b.data);
}

// Anything at all: refused, or taken, and then everything is in order.
static void noise_is_refused_or_in_order(void **state)
{
    (void)state;
    struct hearth_engine *engine;
    struct block b = small_block(&engine);
    unsigned char *good = malloc(b.n);
    memcpy(good, b.data, b.n);
    const size_t record = record_bytes(engine);
    uint32_t random = 7;
    unsigned n_taken = 0;
    for (int i = 0; i < 3000; i++) {
        memcpy(b.data, good, b.n);
        for (int k = 0; k < 3; k++) {
            random = random * 1664525u + 1013904223u;
            size_t at = random >> 28 < 14 ? HEAD + (random >> 8 & 3) % 3 * record + (random >> 10) % RECORD
                                          : (random >> 8) % b.n;
            b.data[at] = (unsigned char)(random >> 24 & 1 ? random >> 25 : 255);
        }
        sign(&b);
        struct hearth_error err;
        unsigned n;
        if (hearth_engine_import_prefixes(engine, 1, b.data, b.n, &n, &err) == HEARTH_OK)
            n_taken++;
        check_cache(engine);
        hearth_engine_forget(engine, 0);
        assert_int_equal(engine->ctx.pages.n_free, engine->ctx.pages.n_pages);
    }
    assert_in_range(n_taken, 10, 2900);
    hearth_engine_close(&engine);
    free(good);
    free(b.data);
}

static void another_model_or_arithmetic_is_refused(void **state)
{
    (void)state;
    struct hearth_engine *engine, *other;
    struct block b = small_block(&engine);
    hearth_engine_close(&engine);
    other = engine_for(1, 512, HEARTH_KV_F16, NULL); // another KV type
    refused(other, b.data, b.n);
    hearth_engine_close(&other);
    other = open_engine((struct hearth_engine_params){
        .model_path = MODEL, .device = "cpu", .n_ctx = 512, .kv = HEARTH_KV_Q8, .exact = true});
    refused(other, b.data, b.n);
    hearth_engine_close(&other);
    lengthen("tests/golden/tiny-llama-q8_0.gguf", "llama.context_length", check_path(folder, "copy.gguf"));
    other = open_engine((struct hearth_engine_params){
        .model_path = check_path(folder, "copy.gguf"), .device = "cpu", .n_ctx = 512, .kv = HEARTH_KV_Q8});
    refused(other, b.data, b.n); // the same bytes, but nobody looked
    hearth_engine_close(&other);
    free(b.data);
}

static void not_now(void **state)
{
    (void)state;
    static struct answer a;
    struct hearth_engine *engine;
    struct block b = small_block(&engine), none = {.fail_after = 1000};
    struct hearth_session *s = new_session(engine);
    struct hearth_error err;
    struct hearth_request r = request_for(&a, some_ids(1), 100, 1);
    unsigned n = 1;
    must(hearth_session_submit(s, &r, &err), &err);
    assert_int_equal(hearth_engine_export_prefixes(engine, 1, UINT64_MAX, append, &none, &err), HEARTH_BUSY);
    assert_int_equal(hearth_engine_import_prefixes(engine, 1, b.data, b.n, &n, &err), HEARTH_BUSY);
    assert_int_equal(n, 0);
    run_all(engine);
    assert_int_equal(hearth_engine_export_prefixes(engine, 1, UINT64_MAX, append, &none, &err), HEARTH_IO);
    check_cache(engine);
    hearth_engine_close(&engine);
    engine = open_engine((struct hearth_engine_params){.model_path = MODEL, .device = "cpu", .vocab_only = true});
    assert_int_equal(hearth_engine_export_prefixes(engine, 1, UINT64_MAX, append, &none, &err), HEARTH_INVALID);
    assert_int_equal(hearth_engine_import_prefixes(engine, 1, b.data, b.n, &n, &err), HEARTH_INVALID);
    hearth_engine_close(&engine);
    free(b.data);
    free(none.data);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    struct hearth_engine *engine;
    struct block b = small_block(&engine);
    import_into(engine, 1, &b);
    struct block out = {.fail_after = SIZE_MAX};
    struct hearth_error err;
    for (int way = 0; way < 2; way++)
        for (unsigned long i = 1, n = 1; i <= n; i++) {
            unsigned n_positions = 0;
            out.n = 0;
            if (way)
                hearth_engine_forget(engine, 0);
            // 1..n fail in turn; the last round, where none does, tells n.
            fault_memory_begin(i);
            enum hearth_status status =
                way ? hearth_engine_import_prefixes(engine, 1, b.data, b.n, &n_positions, &err)
                    : hearth_engine_export_prefixes(engine, 1, UINT64_MAX, append, &out, &err);
            unsigned long n_asked;
            long left = fault_memory_end(&n_asked);
            assert_int_equal(left, 0);
            check_cache(engine);
            if (i > n_asked) {
                assert_int_equal(status, HEARTH_OK);
                assert_int_equal(way ? n_positions : out.n, way ? 105 : b.n);
                assert_true(i > 1);
                break;
            }
            assert_int_equal(status, HEARTH_NOMEM);
            n = n_asked + 1;
        }
    hearth_engine_close(&engine);
    free(b.data);
    free(out.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_comes_back_gives_the_same_bits),
        cmocka_unit_test(order_and_room),
        cmocka_unit_test(shared_pages_come_along),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(lies_about_the_end_are_refused),
        cmocka_unit_test(noise_is_refused_or_in_order),
        cmocka_unit_test(another_model_or_arithmetic_is_refused),
        cmocka_unit_test(not_now),
        cmocka_unit_test(every_allocation_fails_once),
    };
    return cmocka_run_group_tests_name("prefix_file", tests, set_up, tear_down);
}
