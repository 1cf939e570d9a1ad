// SPDX-License-Identifier: Apache-2.0
// The logits of the tiny models are the bits that tests/golden/logits-bits.txt states: for every KV type, fast and
// exact, on every instruction set. The file is the same for all machines, so that x86-64 and aarch64 agree. One test
// an instruction set, so that a run tells which ones it saw. `logits_bits --write` prints the file anew.
#include "tests/model/model_test.h"

#include "engine/base/hash.h"

#define GOLDEN "tests/golden/logits-bits.txt"
enum { N_IDS = 70, HEX_BYTES = 2 * HT_HASH_BYTES + 1, LINE_BYTES = 128 };

static const char *const models[] = {"tiny-llama",      "tiny-llama-q8_0", "tiny-qwen2",
                                     "tiny-qwen2-q4_1", "tiny-qwen3",      "tiny-gemma3"};
enum { N_MODELS = sizeof models / sizeof models[0] };
static const struct {
    const char *name;
    enum hearth_kv_type kv;
} kvs[] = {{"f16", HEARTH_KV_F16}, {"q8", HEARTH_KV_Q8}, {"f32", HEARTH_KV_F32}};
enum { N_KVS = sizeof kvs / sizeof kvs[0], N_CASES = N_MODELS * N_KVS * 2 };

static void name_of(unsigned i, char line[LINE_BYTES])
{
    snprintf(line, LINE_BYTES, "%s %s %s", models[i / (2 * N_KVS)], kvs[i / 2 % N_KVS].name,
             i % 2 ? "exact" : "fast");
}

// Evaluates case i and writes its hash. False where this CPU lacks the instruction set.
static bool hash_of(unsigned i, const char *isa, char hex[HEX_BYTES])
{
    char path[LINE_BYTES];
    struct hearth_engine *engine;
    struct hearth_error err;
    snprintf(path, sizeof path, "tests/golden/%s.gguf", models[i / (2 * N_KVS)]);
    struct hearth_engine_params params = {.model_path = path,
                                          .device = "cpu",
                                          .n_ctx = 128,
                                          .n_threads = 2,
                                          .kv = kvs[i / 2 % N_KVS].kv,
                                          .exact = i % 2,
                                          .cpu_isa = isa};
    enum hearth_status status = hearth_engine_open(&engine, &params, &err);
    if (status == HEARTH_UNSUPPORTED)
        return false;
    must(status, &err);
    int32_t ids[N_IDS];
    uint32_t seed = 1;
    for (size_t n = 0; n < N_IDS; n++) {
        seed = seed * 1664525u + 1013904223u;
        ids[n] = (int32_t)(seed >> 16) % 256;
    }
    struct hearth_session *session = new_session(engine);
    struct hearth_engine_info info;
    hearth_engine_get_info(engine, &info);
    float *logits = eval_ids(session, engine, ids, N_IDS, 33); // few rows and many: 33, 33, 4
    struct ht_hash hash;
    unsigned char bytes[HT_HASH_BYTES];
    ht_hash_init(&hash);
    ht_hash_add(&hash, logits, (size_t)N_IDS * info.n_vocab * sizeof *logits);
    ht_hash_end(&hash, bytes);
    for (unsigned b = 0; b < HT_HASH_BYTES; b++)
        snprintf(hex + 2 * b, 3, "%02x", bytes[b]);
    free(logits);
    hearth_engine_close(&engine);
    return true;
}

static void path(void **state)
{
    const char *isa = *state;
    char line[LINE_BYTES], want[LINE_BYTES + HEX_BYTES], got[LINE_BYTES + HEX_BYTES], hex[HEX_BYTES];
    FILE *f = fopen(GOLDEN, "r");
    assert_non_null(f);
    for (unsigned i = 0; i < N_CASES;) {
        assert_non_null(fgets(want, sizeof want, f));
        if (want[0] == '#')
            continue;
        want[strcspn(want, "\n")] = 0;
        if (!hash_of(i, isa, hex)) {
            fclose(f);
            printf("# skip: this CPU has no %s\n", isa);
            skip();
        }
        name_of(i, line);
        snprintf(got, sizeof got, "%s %s", line, hex);
        assert_string_equal(got, want);
        i++;
    }
    fclose(f);
}

static int write_golden(void)
{
    char line[LINE_BYTES], hex[HEX_BYTES];
    printf("# Hashes of the tiny models' logits (tests/model/logits_bits.c --write): model, KV, precision, "
           "hash.\n");
    for (unsigned i = 0; i < N_CASES; i++) {
        name_of(i, line);
        if (!hash_of(i, "ref", hex))
            return 1;
        printf("%s %s\n", line, hex);
    }
    return 0;
}

#define PATH(isa)                                                                                            \
    {                                                                                                        \
        "path_" isa, path, NULL, NULL, (void *)(uintptr_t)(isa)                                              \
    }

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "--write"))
        return write_golden();
    const struct CMUnitTest tests[] = {
        PATH("ref"),
#if defined(__x86_64__)
        PATH("avx2"),
        PATH("avx512vnni"),
        PATH("amx"),
#elif defined(__aarch64__)
        PATH("neon"),
        PATH("dotprod"),
        PATH("i8mm"),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
