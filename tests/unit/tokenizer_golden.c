// SPDX-License-Identifier: Apache-2.0
// Ids and cuts of tests/golden/tokens.txt, which the reference libraries made (tests/golden/make_tokens.py).
// The ids need the real models; where one is absent, its test is skipped.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/engine.h"
#include "engine/text/split.h"

enum { MAX_LINES = 4096, MAX_NUMBERS = 512 };

static char *file;
static char *lines[MAX_LINES];
static size_t n_lines, n_texts;

struct text {
    char bytes[1024];
    size_t len_bytes;
};

static int read_golden(void **state)
{
    (void)state;
    FILE *f = fopen("tests/golden/tokens.txt", "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        return -1;
    long size = ftell(f);
    rewind(f);
    file = calloc((size_t)size + 1, 1);
    if (!file || fread(file, 1, (size_t)size, f) != (size_t)size)
        return -1;
    fclose(f);
    for (char *at = file; *at && n_lines < MAX_LINES; n_lines++) {
        lines[n_lines] = at;
        at = strchr(at, '\n');
        if (!at)
            return -1;
        *at++ = '\0';
        n_texts += !strncmp(lines[n_lines], "text ", 5);
    }
    return n_texts > 200 ? 0 : -1;
}

static int free_golden(void **state)
{
    (void)state;
    free(file);
    return 0;
}

static struct text text_at(size_t i)
{
    struct text text = {.len_bytes = 0};
    const char *hex = lines[i] + 5;
    for (; hex[0] && hex[1]; hex += 2) {
        char pair[3] = {hex[0], hex[1], 0};
        assert_true(text.len_bytes < sizeof text.bytes);
        text.bytes[text.len_bytes++] = (char)strtoul(pair, NULL, 16);
    }
    return text;
}

// The lines after "HEADING", one for each text.
static char **section(const char *heading)
{
    for (size_t i = 0; i < n_lines; i++)
        if (!strcmp(lines[i], heading)) {
            assert_true(i + n_texts < n_lines);
            return lines + i + 1;
        }
    fail_msg("tests/golden/tokens.txt has no '%s'", heading);
    return NULL;
}

static size_t numbers(const char *line, int32_t out[MAX_NUMBERS])
{
    size_t n = 0;
    for (char *end; *line; line = end + (*end == ' ')) {
        assert_true(n < MAX_NUMBERS);
        out[n++] = (int32_t)strtol(line, &end, 10);
    }
    return n;
}

static void check_pieces(const char *name)
{
    char heading[64];
    snprintf(heading, sizeof heading, "pieces %s", name);
    char **expected = section(heading);
    const struct ht_pre_tokenizer *pre = ht_pre_tokenizer_find(name, NULL);
    assert_non_null(pre);
    for (size_t i = 0; i < n_texts; i++) {
        struct text text = text_at(i);
        struct ht_splitter splitter;
        int32_t lengths[MAX_NUMBERS];
        size_t n = numbers(expected[i], lengths), k = 0, start, length;
        ht_splitter_init(&splitter, pre, text.bytes, text.len_bytes);
        for (; (length = ht_splitter_next(&splitter, &start)); k++)
            if (k >= n || (size_t)lengths[k] != length)
                fail_msg("%s cuts text %zu otherwise at piece %zu", name, i, k);
        assert_int_equal(k, n);
    }
}

static void pieces(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "default"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        check_pieces(names[i]);
}

static bool find_model(const char *variable, const char *name, char path[1024])
{
    const char *given = getenv(variable), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given)
        snprintf(path, 1024, "%s", given);
    else if (cache && *cache)
        snprintf(path, 1024, "%s/hearth/models/%s", cache, name);
    else
        snprintf(path, 1024, "%s/.cache/hearth/models/%s", home ? home : "", name);
    return access(path, R_OK) == 0;
}

// SmolLM2 has no token for some bytes (of valid text these control characters and two lead bytes).
static bool smollm2_keeps(const struct text *text)
{
    for (size_t i = 0; i < text->len_bytes; i++)
        if (memchr("\x04\x06\x13\x14\x16\x1D\xF1\xF2", text->bytes[i], 8))
            return false;
    return true;
}

// Gemma does not tell U+2581 from a space.
static bool gemma3_keeps(const struct text *text)
{
    for (size_t i = 0; i + 3 <= text->len_bytes; i++)
        if (!memcmp(text->bytes + i, "\xE2\x96\x81", 3))
            return false;
    return true;
}

static void check_ids(const char *variable, const char *model, const char *heading,
                      bool (*keeps)(const struct text *text))
{
    char path[1024];
    if (!find_model(variable, model, path)) {
        printf("# skip: model %s is absent\n", model);
        skip();
    }
    struct hearth_engine *engine;
    struct hearth_error err = {0};
    struct hearth_engine_params params = {.model_path = path, .vocab_only = true, .device = "cpu"};
    if (hearth_engine_open(&engine, &params, &err))
        fail_msg("%s", err.text);
    char **expected = section(heading);
    for (size_t i = 0; i < n_texts; i++) {
        struct text text = text_at(i);
        int32_t want[MAX_NUMBERS], got[MAX_NUMBERS];
        size_t n = numbers(expected[i], want), n_got, back_bytes;
        if (hearth_tokenize(engine, text.bytes, text.len_bytes, 0, got, MAX_NUMBERS, &n_got, &err))
            fail_msg("text %zu: %s", i, err.text);
        if (n != n_got || memcmp(want, got, n * sizeof *want) != 0)
            fail_msg("%s: text %zu has other ids", heading, i);
        char back[4096];
        assert_int_equal(hearth_detokenize(engine, got, n_got, false, back, sizeof back, &back_bytes, NULL),
                         HEARTH_OK);
        bool same = back_bytes == text.len_bytes && !memcmp(back, text.bytes, back_bytes);
        if (same != keeps(&text))
            fail_msg("%s: text %zu %s", heading, i,
                     same ? "comes back, and should not" : "does not come back");
    }
    hearth_engine_close(&engine);
}

static void smollm2(void **state)
{
    (void)state;
    check_ids("HEARTH_TEST_SMOLLM2", "SmolLM2-135M-Instruct-Q4_1.gguf", "ids smollm2", smollm2_keeps);
}

static void gemma3(void **state)
{
    (void)state;
    check_ids("HEARTH_TEST_GEMMA3", "gemma-3-270m-Q4_K_M.gguf", "ids gemma3", gemma3_keeps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces),
        cmocka_unit_test(smollm2),
        cmocka_unit_test(gemma3),
    };
    return cmocka_run_group_tests(tests, read_golden, free_golden);
}
