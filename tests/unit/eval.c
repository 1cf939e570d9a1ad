// SPDX-License-Identifier: Apache-2.0
// Evaluation with models whose log-probabilities are known: the definitions of perplexity, windows, the bootstrap,
// questions with choices and generated answers, each against values worked out by hand; files that are wrong.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/learn/eval.h"
#include "tests/check/fault.h"

static char folder[64];

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_folder_remove(folder);
    return 0;
}

static const char *file_of(const char *name, const char *text)
{
    return check_file_make(folder, name, text);
}

#define ABOUT(got, want) assert_true(fabs((got) - (want)) <= 1e-12 * fabs(want))

// ---------------------------------------------------------------- perplexity

// Three sentences: 2, 4 and 1 tokens of which 1, 2 and 0 belong to answers; 12, 20 and 4 bytes; 3, 4 and 1 words.
//   NLL: ln 8 (2 tokens), ln 256 (4), ln 2 (1); of answers ln 4 (1), ln 16 (2).
//   seed:  all (sqrt 8 + 4 + 2) / 3, answers (4 + 4) / 2;  token: all (8·256·2)^(1/7), answers 64^(1/3) = 4
//   bits per byte: 12 bits / 36 bytes;  word: 4096^(1/8)
static const struct hearth_ppl_text sentences[] = {
    {{2.0794415416798357, 1.3862943611198906}, {2, 1}, 12, 3},
    {{5.5451774444795623, 2.7725887222397811}, {4, 2}, 20, 4},
    {{0.69314718055994531, 0}, {1, 0}, 4, 1},
};

static void four_definitions(void **state)
{
    (void)state;
    struct hearth_ppl ppl = {0};
    struct hearth_ppl_numbers n;
    hearth_ppl_get(&ppl, &n);
    assert_true(isnan(n.seed_all) && isnan(n.seed_response) && isnan(n.token_all) && isnan(n.token_response) &&
                isnan(n.bits_per_byte) && isnan(n.word));
    for (int i = 0; i < 3; i++)
        hearth_ppl_add(&ppl, &sentences[i]);
    hearth_ppl_get(&ppl, &n);
    ABOUT(n.seed_all, (sqrt(8) + 4 + 2) / 3);
    ABOUT(n.seed_response, 4.0);
    ABOUT(n.token_all, pow(4096, 1.0 / 7));
    ABOUT(n.token_response, 4.0);
    ABOUT(n.bits_per_byte, 12.0 / 36);
    ABOUT(n.word, pow(4096, 1.0 / 8));
}

// Of a concatenation: the mean of the parts by their bytes.
static void bits_of_parts(void **state)
{
    (void)state;
    struct hearth_ppl all = {0};
    struct hearth_ppl_numbers n;
    double sum = 0, bytes = 0;
    for (int i = 0; i < 3; i++) {
        struct hearth_ppl one = {0};
        hearth_ppl_add(&one, &sentences[i]);
        hearth_ppl_add(&all, &sentences[i]);
        hearth_ppl_get(&one, &n);
        sum += n.bits_per_byte * (double)sentences[i].bytes;
        bytes += (double)sentences[i].bytes;
    }
    hearth_ppl_get(&all, &n);
    ABOUT(n.bits_per_byte, sum / bytes);
}

static void rows(void **state)
{
    (void)state;
    const float row[5] = {0, 1, -1, 1, -200}, wrong[2] = {NAN, 0};
    double sum = log(1 + 2 * exp(1) + exp(-1));
    bool best;
    ABOUT(ht_eval_row(row, 5, 1, &best), sum - 1);
    assert_true(best); // another as likely is none that is likelier
    ABOUT(ht_eval_row(row, 5, 2, &best), sum + 1);
    assert_false(best);
    ABOUT(ht_eval_row(row, 5, 4, &best), sum + 200);
    assert_true(isnan(ht_eval_row(wrong, 2, 1, &best)));
}

// Every token but the first once, in order, with at least window - stride before it; windows no longer than told.
static void windows(void **state)
{
    (void)state;
    for (size_t n = 0; n < 40; n++)
        for (size_t window = 4; window < 12; window++)
            for (size_t stride = 1; stride < window; stride++)
                for (int bos = 0; bos < 2; bos++) {
                    struct hearth_window w = {0};
                    size_t next = 1, lead = 0;
                    while (hearth_window_next(&w, n, window, stride, bos)) {
                        assert_true(w.from == next && w.end > w.from && w.begin < w.from + (size_t)bos);
                        assert_true(lead + w.end - w.begin <= window);
                        assert_true(w.from == 1 || lead + w.from - w.begin >= window - stride);
                        next = w.end;
                        lead = (size_t)bos;
                    }
                    assert_true(next == (n > 1 ? n : 1));
                }
}

static void words(void **state)
{
    (void)state;
    assert_int_equal(ht_eval_words("  one two\n\nthree\t", 17), 3);
    assert_int_equal(ht_eval_words(" \n", 2), 0);
}

// ---------------------------------------------------------------- bootstrap

static void resampled(void **state)
{
    (void)state;
    struct hearth_bootstrap x, y;
    struct hearth_error err = {0};
    // Two conversations: of four equally likely draws one has each twice, two have both. 95 % covers all of them.
    const double a[] = {10, 6}, b[] = {8, 6}, w[] = {4, 2};
    assert_int_equal(hearth_bootstrap_paired(a, b, w, 2, 1000, 0.95, 7, &x, &err), HEARTH_OK);
    ABOUT(x.loss_a, 16.0 / 6);
    ABOUT(x.loss_b, 14.0 / 6);
    ABOUT(x.difference, -2.0 / 6);
    assert_true(x.low == -4.0 / 8 && x.high == 0);
    assert_true(x.relative == -2.0 / 16 && x.relative_low == -4.0 / 20 && x.relative_high == 0);
    // 40 % of them are between the quarters: the draws that have both
    assert_int_equal(hearth_bootstrap_paired(a, b, w, 2, 1000, 0.4, 7, &x, &err), HEARTH_OK);
    assert_true(x.low == -2.0 / 6 && x.high == -2.0 / 6);
    // many: about the normal approximation, and the same again for the same seed
    enum { N = 400 };
    double many_a[N], many_b[N], ones[N], mean = 0, square = 0;
    for (int i = 0; i < N; i++) {
        double d = sin(12.9898 * i) * 0.3 - 0.02;
        many_a[i] = 3;
        many_b[i] = 3 + d;
        ones[i] = 1;
        mean += d / N;
        square += d * d / N;
    }
    double error = sqrt((square - mean * mean) / N);
    assert_int_equal(hearth_bootstrap_paired(many_a, many_b, ones, N, 10000, 0.95, 1, &x, &err), HEARTH_OK);
    assert_true(fabs(x.low - (mean - 1.96 * error)) < 0.15 * error);
    assert_true(fabs(x.high - (mean + 1.96 * error)) < 0.15 * error);
    assert_int_equal(hearth_bootstrap_paired(many_a, many_b, ones, N, 10000, 0.95, 1, &y, &err), HEARTH_OK);
    assert_memory_equal(&x, &y, sizeof x);
    assert_int_equal(hearth_bootstrap_paired(many_a, many_b, ones, N, 10000, 0.95, 2, &y, &err), HEARTH_OK);
    assert_true(x.low != y.low);
    assert_int_equal(hearth_bootstrap_paired(a, b, w, 0, 10, 0.95, 1, &x, &err), HEARTH_INVALID);
    assert_int_equal(hearth_bootstrap_paired(a, b, w, 2, 10, 1, 1, &x, &err), HEARTH_INVALID);
    const double no_weight[] = {1, 0}, no_number[] = {1, NAN};
    assert_int_equal(hearth_bootstrap_paired(a, b, no_weight, 2, 10, 0.9, 1, &x, &err), HEARTH_NUMERIC);
    assert_int_equal(hearth_bootstrap_paired(a, no_number, w, 2, 10, 0.9, 1, &x, &err), HEARTH_NUMERIC);
}

// ---------------------------------------------------------------- choices

struct known { // a model that knows the log-probability of some continuations; others are far off
    struct {
        const char *text;
        double log_p;
    } answers[16];
    char context[1024]; // the last one that was asked for
    bool best;
};

static enum hearth_status say(void *user, struct ht_text context, struct ht_text answer, double *log_p,
                              unsigned *n_tokens, bool *best, struct hearth_error *err)
{
    struct known *k = user;
    snprintf(k->context, sizeof k->context, "%.*s", (int)context.len_bytes, context.bytes);
    *log_p = -100;
    *n_tokens = 1;
    *best = k->best;
    for (size_t i = 0; k->answers[i].text; i++)
        if (strlen(k->answers[i].text) == answer.len_bytes &&
            !memcmp(k->answers[i].text, answer.bytes, answer.len_bytes))
            *log_p = k->answers[i].log_p;
    for (size_t i = 1; i < answer.len_bytes; i++)
        *n_tokens += answer.bytes[i] == ' ';
    return memmem(context.bytes, context.len_bytes, "LONG", 4) ? ht_fail(err, HEARTH_CONTEXT, "too long") : HEARTH_OK;
}

struct seen {
    struct hearth_choice_item items[16];
    size_t n;
    double done;
};

static bool see(void *user, const struct hearth_choice_item *item, double done)
{
    struct seen *seen = user;
    seen->items[seen->n++] = *item;
    assert_true(done >= seen->done && done <= 1);
    seen->done = done;
    return true;
}

static struct hearth_choices choose(struct known *model, const char *path, enum hearth_choice_form form,
                                    const char *shots, struct seen *seen)
{
    const struct hearth_choices_params params = {.path = path, .form = form, .shots_path = shots, .n_shots = 1,
                                                 .each = see, .user = seen};
    const struct ht_choice_model known = {say, model};
    struct hearth_choices out;
    struct hearth_error err = {0};
    *seen = (struct seen){0};
    if (ht_choices_run(&known, &params, &out, &err))
        fail_msg("%s", err.text);
    return out;
}

// Five tasks of endings. By the sum " a" wins: -3 against -4 and -8; over characters and bytes " a bb" does: -4 / 4.
static const char endings[] =
    "{\"ctx\": \"One\", \"endings\": [\"a\", \"a bb\", \"\xC3\xA4\xC3\xA4\xC3\xA4\"], \"label\": \"0\"}\n"
    "{\"prompt\": \"Two \", \"choices\": [\"a\", \"a bb\", \"x\"], \"answer\": 1}\n"
    "{\"question\": \"Three?\", \"choices\": {\"text\": [\"a\", \"a bb\"], \"label\": [\"1\", \"2\"]}, "
    "\"answerKey\": \"2\"}\n"
    "{\"query\": \"Four\", \"options\": [\"x\", \" a\"], \"gold\": \"B\"}\n"
    "{\"ctx\": \"Five\", \"endings\": [\"a bb\", \"a\"], \"answer\": \"a\"}\n";

static void choices(void **state)
{
    (void)state;
    struct seen seen;
    struct known model = {.answers = {{" a", -3}, {"a", -3}, {" a bb", -4}, {"a bb", -4},
                                      {" \xC3\xA4\xC3\xA4\xC3\xA4", -8}}};
    struct hearth_choices out = choose(&model, file_of("endings.jsonl", endings), HEARTH_CHOICE_AUTO, NULL, &seen);
    assert_int_equal(out.counts.n_items, 5);
    for (int k = 0; k < HEARTH_TASK_SKIPS; k++)
        assert_int_equal(out.counts.skipped[k], 0);
    // by sums items 1, 4 and 5 are right; per character (-3 / 1 against -4 / 4) 2, 3, 4; per token (-3 / 1, -4 / 2) too
    assert_int_equal(out.n_right[0], 3);
    assert_int_equal(out.n_right[1], 3);
    assert_int_equal(out.n_right[2], 3);
    assert_int_equal(out.n_right[3], 3);
    static const unsigned sums[] = {0, 0, 0, 1, 1}, characters[] = {1, 1, 1, 1, 0};
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(seen.items[i].chosen[0], sums[i]);
        assert_int_equal(seen.items[i].chosen[1], characters[i]);
        assert_int_equal(seen.items[i].line, i + 1);
    }
    // -5 over 3 characters beats -3 over 1 and -8 over 4; over bytes -5 / 6 does
    model = (struct known){.answers = {{" a", -3}, {" a bb", -4.5}, {" \xC3\xA4\xC3\xA4\xC3\xA4", -6}}};
    out = choose(&model, file_of("one.jsonl", endings), HEARTH_CHOICE_TEXT, NULL, &seen);
    assert_int_equal(seen.items[0].chosen[1], 1); // -4.5 / 4 against -6 / 3
    assert_int_equal(seen.items[0].chosen[2], 2); // -4.5 / 4 against -6 / 6
    assert_int_equal(out.n_groups, 1);
}

// Five questions with letters, two subjects: three of four right, none of one; macro (3/4 + 0) / 2.
static const char letters[] =
    "[{\"subject\": \"art\", \"question\": \"Q1\", \"choices\": [\"w\", \"x\", \"y\", \"z\"], \"answer\": 2},\n"
    "{\"subject\": \"art\", \"question\": \"Q2\", \"choices\": [\"w\", \"x\", \"y\", \"z\"], \"answer\": 2},\n"
    "{\"subject\": \"art\", \"question\": \"Q3\", \"choices\": [\"w\", \"x\", \"y\", \"z\"], \"answer\": \"C\"},\n"
    "{\"subject\": \"art\", \"question\": \"Q4\", \"choices\": [\"w\", \"x\", \"y\", \"z\"], \"answer\": \"A\"},\n"
    "{\"category\": \"other\", \"question\": \"\xE9\x97\xAE\", \"A\": \"1\", \"B\": \"2\", \"C\": \"3\", \"D\": \"4\", "
    "\"answer\": \"D\"}]";
static const char dev[] =
    "{\"subject\": \"old_art\", \"question\": \"E1\", \"choices\": [\"a\", \"b\"], \"answer\": 1}\n"
    "{\"subject\": \"old_art\", \"question\": \"E2\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n"
    "{\"subject\": \"elsewhere\", \"question\": \"E3\", \"choices\": [\"a\", \"b\"], \"answer\": 0}\n";

static void letter_choices(void **state)
{
    (void)state;
    struct seen seen;
    struct known model = {.answers = {{" A", -3}, {" B", -2}, {" C", -1}, {" D", -4}, {"A", -1}, {"D", -2}}};
    struct hearth_choices out = choose(&model, file_of("mmlu.json", letters), HEARTH_CHOICE_AUTO, NULL, &seen);
    assert_int_equal(out.counts.n_items, 5);
    assert_int_equal(out.n_right[0], 3);
    assert_int_equal(out.n_groups, 2);
    ABOUT(out.macro, 0.375);
    assert_string_equal(model.context, "\xE9\x97\xAE\nA. 1\nB. 2\nC. 3\nD. 4\n答案：");
    file_of("dev.jsonl", dev); // the heading and one example of its own subject
    choose(&model, file_of("q4.jsonl", "{\"subject\": \"old_art\", \"question\": \"Q4\", \"choices\": "
                                       "[\"w\", \"x\"], \"answer\": \"A\"}"),
           HEARTH_CHOICE_AUTO, check_path(folder, "dev.jsonl"), &seen);
    assert_string_equal(model.context, "The following are multiple choice questions (with answers) about old "
                                       "art.\n\nE1\nA. a\nB. b\nAnswer: B\n\nQ4\nA. w\nB. x\nAnswer:");
    // Examples out of the questions themselves: E1 has E2 before it, never itself with its answer.
    choose(&model, file_of("e1.jsonl", "{\"subject\": \"old_art\", \"question\": \"E1\", \"choices\": "
                                       "[\"a\", \"b\"], \"answer\": 1}\n"),
           HEARTH_CHOICE_AUTO, check_path(folder, "dev.jsonl"), &seen);
    assert_string_equal(model.context, "The following are multiple choice questions (with answers) about old "
                                       "art.\n\nE2\nA. a\nB. b\nAnswer: A\n\nE1\nA. a\nB. b\nAnswer:");
}

static void last_words(void **state)
{
    (void)state;
    struct seen seen;
    struct known model = {.answers = {{" sea", -2}}, .best = true};
    struct hearth_choices out = choose(&model, file_of("lambada.jsonl", "{\"text\": \"He went to the sea\"}\n"
                                                                        "{\"text\": \"word\"}\n"),
                                       HEARTH_CHOICE_AUTO, NULL, &seen);
    assert_true(out.counts.n_items == 1 && out.n_words == 1 && out.n_best == 1 && out.n_right[0] == 1);
    ABOUT(out.last_word_nll, 2.0);
    assert_string_equal(model.context, "He went to the");
    assert_int_equal(out.counts.skipped[HT_TASK_MISSING], 1);
    assert_int_equal(out.counts.first_line[HT_TASK_MISSING], 2);
    // Who has an answer of its own asks for more than a last word.
    out = choose(&model, file_of("asks.jsonl", "{\"text\": \"He went to the sea\"}\n"
                                               "{\"input\": \"Where did he go to\", \"output\": \"sea\"}\n"
                                               "{\"question\": \"Where did he go to\", \"choices\": \"sea\"}\n"),
                 HEARTH_CHOICE_AUTO, NULL, &seen);
    assert_int_equal(out.counts.n_items, 1);
    assert_int_equal(out.counts.skipped[HT_TASK_MISSING], 2);
}

static void wrong_questions(void **state)
{
    (void)state;
    struct seen seen;
    struct known model = {0};
    struct hearth_choices out = choose(
        &model,
        file_of("wrong.jsonl", "{\"ctx\": \"good\", \"endings\": [\"a\", \"b\"], \"label\": 0}\n"
                               "{\"ctx\": \"one\", \"endings\": [\"a\"], \"label\": 0}\n"
                               "{\"ctx\": 5, \"endings\": [\"a\", \"b\"], \"label\": 0}\n"
                               "{\"ctx\": \"no label\", \"endings\": [\"a\", \"b\"]}\n"
                               "{\"ctx\": \"far\", \"endings\": [\"a\", \"b\"], \"label\": 2}\n"
                               "{\"ctx\": \"far\", \"endings\": [\"a\", \"b\"], \"label\": \"bee\"}\n"
                               "{\"ctx\": \"far\", \"endings\": [\"a\", \"b\"], \"label\": -1}\n"
                               "{\"ctx\": \"LONG\", \"endings\": [\"a\", \"b\"], \"label\": 1}\n"
                               "no JSON\n"
                               "[1, 2]\n"
                               "{\"ctx\": \"half"),
        HEARTH_CHOICE_TEXT, NULL, &seen);
    assert_int_equal(out.counts.n_items, 1);
    static const uint64_t want[HEARTH_TASK_SKIPS] = {1, 1, 3, 3, 1, 1}, line[HEARTH_TASK_SKIPS] = {9, 10, 2, 5, 8, 11};
    for (int k = 0; k < HEARTH_TASK_SKIPS; k++) {
        assert_int_equal(out.counts.skipped[k], want[k]);
        assert_int_equal(out.counts.first_line[k], line[k]);
    }
    const struct ht_choice_model known = {say, &model};
    struct hearth_choices_params params = {.path = file_of("empty.jsonl", "")};
    struct hearth_error err = {0};
    assert_int_equal(ht_choices_run(&known, &params, &out, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "empty.jsonl"));
    check_file_write(check_path(folder, "binary.jsonl"), "\0\1\2\3", 4);
    params.path = check_path(folder, "binary.jsonl");
    assert_int_equal(ht_choices_run(&known, &params, &out, &err), HEARTH_FORMAT);
    params.path = file_of("prose.jsonl", "Once upon a time.\n");
    assert_int_equal(ht_choices_run(&known, &params, &out, &err), HEARTH_FORMAT);
    params.path = check_path(folder, "absent.jsonl");
    assert_int_equal(ht_choices_run(&known, &params, &out, &err), HEARTH_NOT_FOUND);
    params.path = check_path(folder, "wrong.jsonl");
    params.shots_path = check_path(folder, "prose.jsonl");
    assert_int_equal(ht_choices_run(&known, &params, &out, &err), HEARTH_FORMAT);
}

// ---------------------------------------------------------------- generated answers

// The extractors: what a model said, what is taken from it.
static const struct {
    enum hearth_match match;
    const char *pattern, *said, *taken;
} takes[] = {
    {HEARTH_MATCH_NUMBER, NULL, "She has 3 + 4 = 7 apples, so $1,234.50.", "1234.50"},
    {HEARTH_MATCH_NUMBER, NULL, "It is -5", "-5"},
    {HEARTH_MATCH_NUMBER, NULL, "no digit at all", NULL},
    {HEARTH_MATCH_NUMBER, NULL, "", NULL},
    {HEARTH_MATCH_STRICT, NULL, "6 * 7\n#### 42", "42"},
    {HEARTH_MATCH_STRICT, NULL, "#### 1,000. and #### 7", "1000"},
    {HEARTH_MATCH_STRICT, NULL, "the answer is 42", NULL},
    {HEARTH_MATCH_REGEX, "the answer is (.*)\\.", "So the answer is (B).", "(B)"},
    {HEARTH_MATCH_REGEX, "the answer is (.*)\\.", "the answer is 3.\nNo: the answer is 4.\n", "4"},
    {HEARTH_MATCH_REGEX, "[A-D]", "I say A, no, C", "C"},
    {HEARTH_MATCH_REGEX, "x*", "yyy", ""},
    {HEARTH_MATCH_REGEX, "^b", "abb", NULL},
    {HEARTH_MATCH_EXACT, NULL, " yes\n", "yes"},
};

static void extractors(void **state)
{
    (void)state;
    struct ht_data_pool pool = {0};
    struct ht_match *m;
    struct hearth_error err = {0};
    for (size_t i = 0; i < sizeof takes / sizeof *takes; i++) {
        assert_int_equal(ht_match_create(&m, takes[i].match, takes[i].pattern, &err), HEARTH_OK);
        const char *got = ht_match_take(m, &pool, takes[i].said, false);
        if (!got != !takes[i].taken || (got && strcmp(got, takes[i].taken)))
            fail_msg("row %zu: '%s', wanted '%s'", i, got ? got : "NULL", takes[i].taken ? takes[i].taken : "NULL");
        ht_match_destroy(&m);
    }
    assert_int_equal(ht_match_create(&m, HEARTH_MATCH_REGEX, "(", &err), HEARTH_INVALID);
    assert_null(m);
    // a record's own answer: GSM8K's solution, a bare number, a bare answer beside a pattern
    assert_int_equal(ht_match_create(&m, HEARTH_MATCH_NUMBER, NULL, &err), HEARTH_OK);
    assert_string_equal(ht_match_take(m, &pool, "2 and 3 are\n#### 5,000", true), "5000");
    assert_string_equal(ht_match_take(m, &pool, "18", true), "18");
    ht_match_destroy(&m);
    assert_int_equal(ht_match_create(&m, HEARTH_MATCH_REGEX, "is (.*)\\.", &err), HEARTH_OK);
    assert_string_equal(ht_match_take(m, &pool, " (B) ", true), "(B)");
    ht_match_destroy(&m);
    ht_data_pool_free(&pool);
}

static void comparisons(void **state)
{
    (void)state;
    static const struct {
        enum hearth_match match;
        const char *made, *wanted;
        bool right;
        double score;
    } rows[] = {
        {HEARTH_MATCH_EXACT, "yes", "yes", true, 1},
        {HEARTH_MATCH_EXACT, "Yes", "yes", false, 0},
        {HEARTH_MATCH_CONTAINS, "It is PARIS.", "Paris", true, 1},
        {HEARTH_MATCH_CONTAINS, "It is Pari", "Paris", false, 0},
        {HEARTH_MATCH_F1, "The Cat, sat!", "cat sat", true, 1},
        {HEARTH_MATCH_F1, "a big cat", "the cat sat down", false, 0.4},
        {HEARTH_MATCH_F1, "cat cat", "cat", false, 2.0 / 3},
        {HEARTH_MATCH_F1, "", "", true, 1},
        {HEARTH_MATCH_F1, "the", "", true, 1},
        {HEARTH_MATCH_F1, "x", "", false, 0},
    };
    struct ht_data_pool pool = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ht_match *m;
        double score = -1;
        assert_int_equal(ht_match_create(&m, rows[i].match, NULL, NULL), HEARTH_OK);
        bool right = ht_match_compare(m, &pool, rows[i].made, rows[i].wanted, &score);
        if (right != rows[i].right || fabs(score - rows[i].score) > 1e-12)
            fail_msg("row %zu: %d %g", i, right, score);
        ht_match_destroy(&m);
    }
    ht_data_pool_free(&pool);
}

struct parrot { // says what is listed, one after the other
    const char *const *answers;
    char text[256], prompt[1024];
    size_t n, n_messages;
};

static enum hearth_status parrot(void *user, const struct hearth_message *messages, size_t n_messages,
                                 struct ht_text prompt, struct ht_gen_made *made, struct hearth_error *err)
{
    struct parrot *p = user;
    (void)err;
    p->n_messages = n_messages;
    if (messages)
        prompt = (struct ht_text){messages[n_messages - 1].text, messages[n_messages - 1].len_bytes};
    snprintf(p->prompt, sizeof p->prompt, "%.*s", (int)prompt.len_bytes, prompt.bytes);
    snprintf(p->text, sizeof p->text, "%s", p->answers[p->n++]);
    *made = (struct ht_gen_made){p->text, strlen(p->text), 3, HEARTH_STOP_END};
    return HEARTH_OK;
}

static void answers(void **state)
{
    (void)state;
    static const char *const said[] = {"#### 7", "I think 8", "It is nine", "10", "11."};
    static const char gsm[] = "{\"question\": \"3+4\", \"answer\": \"sum\\n#### 7\"}\n"
                              "{\"question\": \"4+4\", \"answer\": \"#### 8\"}\n"
                              "{\"question\": \"4+5\", \"answer\": 9}\n"
                              "{\"question\": \"4+6\"}\n"
                              "{\"question\": \"4+6\", \"answers\": [\"10\", \"9\"]}\n"
                              "{\"question\": \"5+7\", \"answer\": \"12\"}\n";
    struct parrot model = {.answers = said};
    const struct ht_gen_model known = {parrot, &model};
    struct hearth_gen_params params = {.path = file_of("gsm.jsonl", gsm), .match = HEARTH_MATCH_NUMBER};
    struct hearth_gen out;
    struct hearth_error err = {0};
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_OK);
    assert_true(out.counts.n_items == 5 && out.n_right == 3 && out.n_nothing == 1);
    assert_int_equal(out.counts.skipped[HT_TASK_MISSING], 1);
    assert_int_equal(out.counts.first_line[HT_TASK_MISSING], 4);
    assert_string_equal(model.prompt, "Question: 5+7\nAnswer:");
    params.match = HEARTH_MATCH_STRICT;
    model.n = 0;
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_OK);
    assert_true(out.n_right == 1 && out.n_nothing == 4);
    model.n = 0;
    params.shots_path = file_of("shots.jsonl", gsm);
    params.n_shots = 1;
    params.max_items = 1;
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_OK);
    // never the question itself with its answer
    assert_string_equal(model.prompt, "Question: 4+4\nAnswer: #### 8\n\nQuestion: 3+4\nAnswer:");
    model.n = 0;
    params.chat = true;
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_OK);
    assert_string_equal(model.prompt, "3+4");
    assert_int_equal(model.n_messages, 3);
    params = (struct hearth_gen_params){
        .path = file_of("talk.jsonl",
                        "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"answer\": \"#### 7\"}")};
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_INVALID); // no template to render it
    params.chat = true;
    model.n = 0;
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_OK);
    assert_int_equal(out.n_right, 1);
    params.match = HEARTH_MATCH_REGEX;
    assert_int_equal(ht_gen_run(&known, &params, &out, &err), HEARTH_INVALID); // without a pattern
}

static void memory_is_short(void **state)
{
    (void)state;
    struct known model = {.answers = {{" A", -1}, {" C", -2}}};
    const struct ht_choice_model known = {say, &model};
    const struct hearth_choices_params params = {.path = file_of("m.json", letters),
                                                 .shots_path = file_of("d.json", dev),
                                                 .n_shots = 2};
    enum hearth_status status = HEARTH_NOMEM;
    struct hearth_choices out;
    unsigned long n;
    for (n = 1; status != HEARTH_OK; n++) {
        struct hearth_error err = {0};
        fault_memory_begin(n);
        status = ht_choices_run(&known, &params, &out, &err);
        assert_int_equal(fault_memory_end(NULL), 0);
        assert_true(status == HEARTH_OK || (status == HEARTH_NOMEM && err.text[0]));
        assert_true(n < 1000);
    }
    assert_true(n > 5 && out.counts.n_items == 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_definitions), cmocka_unit_test(bits_of_parts),   cmocka_unit_test(rows),
        cmocka_unit_test(windows),          cmocka_unit_test(words),           cmocka_unit_test(resampled),
        cmocka_unit_test(choices),          cmocka_unit_test(letter_choices),  cmocka_unit_test(last_words),
        cmocka_unit_test(wrong_questions),  cmocka_unit_test(extractors),      cmocka_unit_test(comparisons),
        cmocka_unit_test(answers),          cmocka_unit_test(memory_is_short),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
