// SPDX-License-Identifier: Apache-2.0
// GBNF: what grammars accept and refuse, byte by byte; which grammars are refused, and with which words; grammars made
// to hurt; masks against what taking every token says.
#include "tests/unit/grammar_check.h"

#include <time.h>

#include "engine/base/limits.h"
#include "engine/text/grammar_match.h"

// ---- texts

struct text_case {
    const char *grammar, *accepted[8], *refused[8];
};

static void check_texts(const struct text_case *c, bool schema)
{
    struct hearth_error err;
    for (int kind = 0; kind < 2; kind++)
        for (int i = 0; i < 8 && (kind ? c->refused[i] : c->accepted[i]); i++) {
            const char *text = kind ? c->refused[i] : c->accepted[i];
            struct ht_matcher *m = grammar_open(c->grammar, strlen(c->grammar), schema, &err);
            if (!m)
                fail_msg("%s: %s", c->grammar, err.text);
            bool complete;
            size_t n = grammar_read(m, text, strlen(text), &complete);
            if ((n == strlen(text) && complete) == kind)
                fail_msg("%s\n%s: read %zu bytes, %s", c->grammar, text, n,
                         complete ? "complete" : "not complete");
            ht_matcher_destroy(&m);
        }
}

static void texts_of_rules(void **state)
{
    (void)state;
    static const struct text_case cases[] = {
        {"root ::= [\\u0800-\\u0841]",
         {"\xE0\xA0\x81", "\xE0\xA0\xBF", "\xE0\xA1\x80", "\xE0\xA1\x81"},
         {"\xE0\xA1\x82", "\xE0\xA1\xBF", "\xDF\xBF"}},
        {"root ::= (\"a\"?){0,60000} \"b\"", {"b", "aab"}, {"a"}},
        {"root ::= \"ab\"", {"ab"}, {"", "a", "abc", "b"}},
        {"root ::= \"\"", {""}, {"a"}},
        {"root ::= ", {""}, {"a"}},
        {"root ::= \"a\" | \"bc\" |", {"a", "bc", ""}, {"b", "ab"}},
        {"root ::= \"a\"* \"b\"+ \"c\"?", {"b", "aab", "bbb", "abc"}, {"a", "", "abcc", "ba"}},
        {"root ::= \"a\"{2}", {"aa"}, {"a", "aaa"}},
        {"root ::= \"a\"{2,}", {"aa", "aaaaaaa"}, {"a", ""}},
        {"root ::= \"a\"{1,3}", {"a", "aa", "aaa"}, {"", "aaaa"}},
        {"root ::= \"a\"{,2}", {"", "a", "aa"}, {"aaa"}},
        {"root ::= \"a\"{0}\"b\"", {"b"}, {"ab"}},
        {"root ::= (\"a\"?){3} \"b\"", {"b", "ab", "aaab"}, {"aaaab"}},
        {"root ::= (\"a\"*)* \"b\"", {"b", "aaab"}, {"a"}},
        {"root ::= ((\"a\"{0,2}){0,2}){2,3} \"b\"", {"b", "aaaaaaaaaaaab"}, {"aaaaaaaaaaaaab"}},
        {"root ::= (\"a\" | \"ab\"){2} \"c\"", {"aac", "abac", "aabc", "ababc"}, {"ac", "abc", "aaac"}},
        {"root ::= [a-c-]+", {"a-c", "-"}, {"d", ""}},
        {"root ::= [^a-c\\]\\n]", {"d", "é", "€", "😀"}, {"a", "]", "\n", "", "dd"}},
        {"root ::= [α-ω]+", {"λ", "αω"}, {"a", "Α", "\xCE"}},
        {"root ::= [\\x41-\\u0043\\U0001F600]", {"A", "C", "😀"}, {"D", "😁"}},
        {"root ::= .", {"a", "\n", "é", "퟿", "😀"}, {"", "ab", "\xED\xA0\x80", "\xC0\x80", "\xFF", "\x80"}},
        {"root ::= [߿-ࠀ￿-𐀀]", {"߿", "ࠀ", "￿", "𐀀"}, {"߾", "ࠁ", "𐀁"}},
        {"root ::= \"\\\"\\\\\\n\\t\\r\\x21\\u00e9\"", {"\"\\\n\t\r!é"}, {"x"}},
        {"# a comment\nroot ::= a # another\na ::=\n \"x\" |\n \"y\"", {"x", "y"}, {"xy"}},
        {"root::=(\n \"a\"\n | b-1_C\n)\nb-1_C ::= \"z\"\r\n", {"a", "z"}, {"b"}},
        {"b ::= \"1\"\nroot ::= b b", {"11"}, {"1"}},
        {"root ::= \"(\" root \")\" | \"x\"", {"x", "(x)", "(((x)))"}, {"(x", "x)", "()"}},
        {"root ::= a\na ::= \"1\" a | \"2\"", {"2", "1112"}, {"1", "21"}},
        {"root ::= s s\ns ::= \"a\" s \"b\" | \"\"", {"", "ab", "aabb", "abaabb"}, {"a", "aab", "ba"}},
        {"root ::= e\ne ::= t ([-+] t)*\nt ::= [0-9]+ | \"(\" e \")\"", {"1+2", "(1-(22))"}, {"1+", "((1)"}},
        {"root ::= [a-zb-c]", {"b", "x", "z"}, {"{", "`"}},
        {"root ::= [^a-zb-c]", {"{", "`"}, {"b", "x", "z"}},
        {"root ::= [a-]+", {"a-", "-"}, {"b", "]"}},
        {"root ::= \"a\"{65536} | \"b\"", {"b"}, {"a"}},
        {"root ::= a1234567890123456789012345678901234567890123456\n"
         "a1234567890123456789012345678901234567890123456 ::= \"x\"",
         {"x"},
         {"y"}},
        {"root ::= x{3}\nx ::= \"a\" | \"b\" x", {"aaa", "babbaa", "abbbaa"}, {"aa", "aaaa"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_texts(&cases[i], false);
}

static void rules_that_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *grammar;
        enum hearth_status status;
        const char *words;
    } cases[] = {
        {"", HEARTH_INVALID, "no rule root"},
        {"start ::= \"a\"", HEARTH_INVALID, "no rule root"},
        {"root ::= a", HEARTH_INVALID, "line 1: rule a is not defined"},
        {"root ::= \"a\"\n\nroot ::= \"b\"", HEARTH_INVALID,
         "line 3, column 6: this rule is defined a second time"},
        {"root ::= a12345678901234567890123456789012345678901234567", HEARTH_INVALID, "more than 47"},
        {"root ::= root \"a\" | \"b\"", HEARTH_INVALID, "rule root is left-recursive"},
        {"root ::= (\"a\"?){2} root \"b\" | \"c\"", HEARTH_INVALID, "rule root is left-recursive"},
        {"root ::= a\na ::= \"x\"? b\nb ::= (\"\" | \"y\"{0,3}) a \"z\" | \"w\"", HEARTH_INVALID,
         "left-recursive"},
        {"root ::= (root)*", HEARTH_INVALID, "left-recursive"},
        {"root ::= \"a\" root", HEARTH_INVALID, "line 1: rule root never comes to an end"},
        {"root ::= \"a\" root{2}", HEARTH_INVALID, "line 1: rule root never comes to an end"},
        {"root ::= \"a\" | b\nb ::= \"b\" b", HEARTH_INVALID, "rule b never comes to an end"},
        {"root = \"a\"", HEARTH_INVALID, "line 1, column 6: `::=` is missing"},
        {"root ::= \"a", HEARTH_INVALID, "line 1, column 12: the text ends"},
        {"root ::= \"a\nb\"", HEARTH_INVALID, "over the end of the line"},
        {"root ::= [a", HEARTH_INVALID, "the text ends"},
        {"root ::= []", HEARTH_INVALID, "an empty class"},
        {"root ::= [z-a]", HEARTH_INVALID, "backwards"},
        {"root ::= (\"a\"", HEARTH_INVALID, "no `)`"},
        {"root ::= \"a\")", HEARTH_INVALID, "a `)` without"},
        {"root ::= \"\\q\"", HEARTH_INVALID, "unknown escape"},
        {"root ::= \"\\u12\"", HEARTH_INVALID, "hexadecimal"},
        {"root ::= \"\\ud800\"", HEARTH_INVALID, "no Unicode"},
        {"root ::= \"\\U00110000\"", HEARTH_INVALID, "no Unicode"},
        {"root ::= \"\xFF\"", HEARTH_INVALID, "not UTF-8"},
        {"root ::= \"a\"{3,2}", HEARTH_INVALID, "below its minimum"},
        {"root ::= \"a\"{}", HEARTH_INVALID, "without a number"},
        {"root ::= \"a\"{,}", HEARTH_INVALID, "without a number"},
        {"root ::= \"a\"**", HEARTH_INVALID, "two repetitions"},
        {"root ::= *", HEARTH_INVALID, "cannot stand here"},
        {"root ::= \"a\"{0,1000000}", HEARTH_LIMIT, "65536"},
        {"root ::= \"a\"{65537}", HEARTH_LIMIT, "65536"},
        {"root ::= <think>", HEARTH_UNSUPPORTED, "token references"},
        {"root ::= !<[12]>", HEARTH_UNSUPPORTED, "token references"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hearth_error err = {.text = ""};
        struct ht_matcher *m = grammar_open(cases[i].grammar, strlen(cases[i].grammar), false, &err);
        if (m || err.code != cases[i].status || !strstr(err.text, cases[i].words))
            fail_msg("%s: %d %s", cases[i].grammar, err.code, err.text);
    }
    struct hearth_error err;
    static const char nul[] = "root ::= \"\\\0\"";
    assert_null(grammar_open(nul, sizeof nul - 1, false, &err));
    assert_non_null(strstr(err.text, "unknown escape"));
}

// ---- grammars made to hurt: an error or an answer, soon

static char *repeat_text(const char *before, const char *text, unsigned n, const char *after)
{
    size_t head = strlen(before), len = strlen(text), tail = strlen(after) + 1;
    char *all = malloc(head + n * len + tail);
    memcpy(all, before, head);
    for (unsigned i = 0; i < n; i++)
        memcpy(all + head + i * len, text, len);
    memcpy(all + head + n * len, after, tail);
    return all;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// Walks the grammar with the lowest allowed id, up to n tokens. Returns LIMIT or OK.
static enum hearth_status wander(struct ht_matcher *m, unsigned n, struct hearth_error *err)
{
    uint32_t mask[TINY_WORDS];
    enum ht_allowed allowed;
    for (unsigned i = 0; i < n; i++) {
        enum hearth_status status = ht_matcher_mask(m, NULL, 0, mask, &allowed, err);
        if (status)
            return status;
        int32_t id = 0;
        while (id < TINY_N_VOCAB && (!has(mask, id) || id < BYTE_0 - 1))
            id++;
        if (id == TINY_N_VOCAB)
            return HEARTH_OK;
        assert_true(ht_matcher_take(m, id));
    }
    return HEARTH_OK;
}

static void hostile_rules_are_bounded(void **state)
{
    (void)state;
    const struct {
        char *grammar;
        unsigned allowed; // bits 1 << status
    } cases[] = {
        {repeat_text("root ::= ", "(", 100000, ""), 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "(\"a\"|", 1000, ""), 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "(\"a\" | \"a\" | \"a\")", 2000, ""), 1u << HEARTH_OK},
        {repeat_text("root ::= (", "\"a\"? ", 5000, ") \"b\""), 1u << HEARTH_OK | 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "\"abc\" | ", 20000, "\"z\""), 1u << HEARTH_OK | 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "x", 250000, ""), 1u << HEARTH_INVALID},
        {repeat_text("root ::= ", "x ", 120000, "\nx ::= \"y\""), 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "x ", 60000, "\nx ::= \"y\""), 1u << HEARTH_OK},
        {repeat_text("root ::= ", "[^a]", 40000, ""), 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "", 0, "((((\"a\"{0,60000}){0,60000}){0,60000}){0,60000}){1,60000} \"b\""),
         1u << HEARTH_OK | 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "", 0,
                     "\"a\" root root | \"a\" root x | \"a\" root y | \"a\"\nx ::= \"a\"\ny ::= \"a\""),
         1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "", 0, "\"(\" root \")\" | \"x\""), 1u << HEARTH_OK | 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "", 0, "((\"\" | \"\"{0,60000}) ((\"\"?)*)*)* \"b\""), 1u << HEARTH_OK},
        {repeat_text("root ::= ", "", 0,
                     "(\"a\" | [a-z]){0,60000} (\"a\" | [a-z]){0,60000} (\"a\" | [a-z]){0,60000}"),
         1u << HEARTH_OK | 1u << HEARTH_LIMIT},
        {repeat_text("root ::= ", "\\u4e00", 40000, ""), 1u << HEARTH_INVALID},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hearth_error err = {.text = ""};
        double begin = seconds();
        struct ht_matcher *m = grammar_open(cases[i].grammar, strlen(cases[i].grammar), false, &err);
        enum hearth_status status = m ? wander(m, 300, &err) : err.code;
        double took = seconds() - begin;
        if (m && ht_matcher_size_bytes(m) > 32 << 20)
            fail_msg("case %zu takes %zu bytes", i, ht_matcher_size_bytes(m));
        ht_matcher_destroy(&m);
        if (!(cases[i].allowed >> status & 1))
            fail_msg("case %zu: %d %s", i, status, err.text);
        if (took > 20) // seconds, with sanitizers on a busy machine; most take milliseconds
            fail_msg("case %zu took %g s", i, took);
        if (getenv("HEARTH_TEST_VERBOSE"))
            fprintf(stderr, "hostile %zu: %d, %.3f s %s\n", i, status, took, err.text);
        free(cases[i].grammar);
    }
}

// What is allowed up to a limit is refused beyond it.
static void limits_are_where_they_are_said(void **state)
{
    (void)state;
    char *const nested[] = {repeat_text("", ")", HT_MAX_GRAMMAR_NESTING, ""),
                            repeat_text("", ")", HT_MAX_GRAMMAR_NESTING + 1, "")};
    const struct {
        char *grammar;
        const char *words; // NULL: allowed
    } cases[] = {
        {repeat_text("root ::= ", "(", HT_MAX_GRAMMAR_NESTING, "\"a\""), NULL},
        {repeat_text("root ::= ", "(", HT_MAX_GRAMMAR_NESTING + 1, "\"a\""), "more than 64 deep"},
        {repeat_text("root ::= [", "b", 512, "]"), NULL},
        {repeat_text("root ::= [", "b", 513, "]"), "more than 512 parts"},
        {repeat_text("root ::= (", "(\"a\") ", 100, ")"), NULL}, // groups beside each other are not nested
        {repeat_text("#", "x", HT_MAX_GRAMMAR_BYTES - 14, "\nroot ::= \"a\""), NULL},
        {repeat_text("#", "x", HT_MAX_GRAMMAR_BYTES - 13, "\nroot ::= \"a\""), "at most"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hearth_error err = {.text = ""};
        char *text = repeat_text(cases[i].grammar, "", 0, i < 2 ? nested[i] : "");
        struct ht_matcher *m = grammar_open(text, strlen(text), false, &err);
        if (cases[i].words ? m || err.code != HEARTH_LIMIT || !strstr(err.text, cases[i].words) : !m)
            fail_msg("case %zu: %d %s", i, err.code, err.text);
        ht_matcher_destroy(&m);
        free(text);
        free(cases[i].grammar);
    }
    free(nested[0]);
    free(nested[1]);
}

// One call does so much work and no more, however its tokens are spread over it; what was too much for a long draft is
// none for a short one.
static void work_of_one_call_is_bounded(void **state)
{
    (void)state;
    enum { DRAFT = 4000 };
    struct hearth_error err = {.text = ""};
    char *grammar = repeat_text("root ::= x{5000}\nx ::= ", "\"a\" | ", 3900, "\"a\"");
    struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
    assert_non_null(m);
    static int32_t draft[DRAFT];
    uint32_t mask[TINY_WORDS];
    enum ht_allowed allowed;
    for (size_t i = 0; i < DRAFT; i++)
        draft[i] = BYTE_0 + 'a';
    assert_int_equal(ht_matcher_mask(m, draft, DRAFT, mask, &allowed, &err), HEARTH_LIMIT);
    assert_non_null(strstr(err.text, "too costly"));
    for (int i = 0; i < 20; i++) { // many calls of little work each
        assert_int_equal(ht_matcher_mask(m, draft, DRAFT / 40, mask, &allowed, &err), HEARTH_OK);
        assert_true(has(mask, BYTE_0 + 'a'));
        assert_true(ht_matcher_take(m, BYTE_0 + 'a'));
    }
    ht_matcher_destroy(&m);
    free(grammar);
}

// Many ways from rule to rule are walked once.
static void many_ways_between_rules_are_no_trouble(void **state)
{
    (void)state;
    char text[4096];
    struct hearth_error err;
    size_t n = (size_t)snprintf(text, sizeof text, "root ::= r0\n");
    for (int i = 0; i < 60; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "r%d ::= r%d | r%d\n", i, i + 1, i + 1);
    n += (size_t)snprintf(text + n, sizeof text - n, "r60 ::= \"a\"");
    struct ht_matcher *m = grammar_open(text, n, false, &err);
    bool complete;
    assert_int_equal(grammar_read(m, "a", 1, &complete), 1);
    assert_true(complete);
    ht_matcher_destroy(&m);
}

// ---- masks

static uint32_t random_state = 1;
static uint32_t below(uint32_t n)
{
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(random_state >> 8) * n >> 24);
}

// A mask says of each id what reading its bytes after the answer so far says; for some ids with a matcher that has seen
// nothing else.
static void check_mask(struct ht_matcher *m, const char *grammar, const char *so_far, size_t len)
{
    uint32_t mask[TINY_WORDS], again[TINY_WORDS];
    enum ht_allowed allowed, same;
    struct hearth_error err;
    assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
    assert_int_equal(ht_matcher_mask(m, NULL, 0, again, &same, &err), HEARTH_OK);
    assert_memory_equal(mask, again, sizeof mask);
    assert_int_equal(allowed, same);
    bool any = false;
    for (int32_t id = 0; id < TINY_N_VOCAB; id++) {
        bool can = ht_matcher_allowed(m, &id, 1), complete = ht_matcher_is_complete(m);
        any |= can;
        if (has(mask, id) != (ht_tokenizer_is_end(tiny_tokenizer, id) ? complete : can))
            fail_msg("%s\nafter %.*s: id %d is %d", grammar, (int)len, so_far, id, has(mask, id));
        if (below(TINY_N_VOCAB))
            continue;
        struct ht_matcher *fresh = grammar_open(grammar, strlen(grammar), false, &err);
        struct ht_text piece = ht_tokenizer_piece(tiny_tokenizer, id, false);
        assert_int_equal(grammar_read(fresh, so_far, len, &complete), len);
        assert_int_equal(complete, ht_matcher_is_complete(m));
        assert_int_equal(piece.len_bytes &&
                             grammar_read(fresh, piece.bytes, piece.len_bytes, &complete) == piece.len_bytes,
                         can);
        ht_matcher_destroy(&fresh);
    }
    assert_int_equal(allowed, any                         ? HT_ALLOWED_TOKENS
                              : ht_matcher_is_complete(m) ? HT_ALLOWED_END
                                                          : HT_ALLOWED_NOTHING);
    assert_int_equal(ht_matcher_is_finished(m), !any && ht_matcher_is_complete(m));
}

static void masks_say_what_tokens_do(void **state)
{
    (void)state;
    static const char *const grammars[] = {
        "root ::= \"abcd\" | \"ab\" \"cé\" | [ab]{3}",
        "root ::= \"\\\"\" ([^\"\\\\\\x00-\\x1f] | \"\\\\\" [\"\\\\n])* \"\\\"\"",
        "root ::= \"\\\"\" [^\"\\\\\\x00-\\x1f]{2,20} \"\\\"\" | \"<ud>\"+",
        "root ::= \" \"* (\"aa\" | \"é\" | .)*",
        "root ::= \"[\" (v (\",\" v)*)? \"]\"\nv ::= root | [ab]+ | \"<\" [ud]{1,2} \">\"",
        "root ::= x{1,3} \"\\n\"?\nx ::= \"ab\"? [cd] | \"aaaa\" x",
        "root ::= [^a]* [^b]{17} | \" \"+",
        "root ::= [\\x20-\\x21\\x23-\\x5b\\x5d-\\x7e]* \"\\n\"", // all of ASCII, nothing else
        "root ::= \"\\\"\" [^\"\\\\\\x00-\\x1f]{0,17} \"\\\"\"",
        "root ::= \"\\\"\" [^\"\\\\\\x00-\\x1f]{0,40} \"\\\"\"",
    };
    for (size_t g = 0; g < sizeof grammars / sizeof *grammars; g++)
        for (int run = 0; run < 6; run++) {
            struct hearth_error err;
            struct ht_matcher *m = grammar_open(grammars[g], strlen(grammars[g]), false, &err);
            char so_far[400];
            size_t len = 0;
            for (int i = 0; i < 12; i++) {
                check_mask(m, grammars[g], so_far, len);
                uint32_t mask[TINY_WORDS];
                enum ht_allowed allowed;
                assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
                if (allowed != HT_ALLOWED_TOKENS)
                    break;
                int32_t id = (int32_t)below(TINY_N_VOCAB);
                for (int tries = 0; !has(mask, id) || id < BYTE_0 - 1; tries++)
                    id = tries < 40 ? (int32_t)below(TINY_N_VOCAB) : (id + 1) % TINY_N_VOCAB;
                struct ht_text piece = ht_tokenizer_piece(tiny_tokenizer, id, false);
                memcpy(so_far + len, piece.bytes, piece.len_bytes);
                len += piece.len_bytes;
                // A draft of this id, then the mask behind it: as if it had been taken.
                uint32_t ahead[TINY_WORDS], after[TINY_WORDS];
                enum ht_allowed x, y;
                assert_int_equal(ht_matcher_mask(m, &id, 1, ahead, &x, &err), HEARTH_OK);
                assert_true(ht_matcher_take(m, id));
                assert_int_equal(ht_matcher_mask(m, NULL, 0, after, &y, &err), HEARTH_OK);
                assert_memory_equal(ahead, after, sizeof ahead);
                assert_int_equal(x, y);
            }
            ht_matcher_destroy(&m);
        }
}

// What an answer never holds: control tokens; and what is refused changes nothing.
static void control_tokens_are_never_allowed(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_matcher *m = grammar_open("root ::= .*", 11, false, &err);
    uint32_t mask[TINY_WORDS];
    enum ht_allowed allowed;
    assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
    for (int32_t id = 0; id < 3; id++) {
        assert_int_equal(has(mask, id), ht_tokenizer_is_end(tiny_tokenizer, id)); // the text may end here
        assert_false(ht_matcher_take(m, id));
    }
    const int32_t draft[] = {BYTE_0 + 'a', 3, BYTE_0 + 0xC3, 1, BYTE_0 + 'b'}; // the end token cuts it
    assert_int_equal(ht_matcher_allowed(m, draft, 5), 3);
    assert_int_equal(ht_matcher_mask(m, draft, 4, mask, &allowed, &err), HEARTH_INVALID);
    assert_true(ht_matcher_take(m, BYTE_0 + 0xC3));
    assert_false(ht_matcher_is_complete(m));
    assert_false(ht_matcher_take(m, BYTE_0 + 'a'));
    assert_true(ht_matcher_take(m, BYTE_0 + 0xA9));
    assert_true(ht_matcher_is_complete(m));
    ht_matcher_destroy(&m);
}

// More states than the tables hold: what is forgotten is found again.
static void long_answers_outlive_the_tables(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *grammar = "root ::= ([a-y]{200} \"z\"){60000}";
    struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
    uint32_t mask[TINY_WORDS];
    enum ht_allowed allowed;
    for (unsigned i = 0; i < 201 * 100; i++) {
        bool z = i % 201 == 200;
        if (i % 50 == 0 || z) {
            assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
            assert_int_equal(has(mask, BYTE_0 + 'a'), !z);
            assert_int_equal(has(mask, BYTE_0 + 'z'), z);
        }
        assert_true(ht_matcher_take(m, BYTE_0 + (z ? 'z' : 'a' + (int)(i % 25))));
    }
    ht_matcher_destroy(&m);
}

// The same where rules are left and entered, and with what is drafted: the tables fill up in the middle of both.
static void forgetting_keeps_stacks_and_drafts(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *grammar =
        "root ::= (p \"z\"){60000}\np ::= \"(\" q \")\"\nq ::= (\"abcdefghijklmno\"){10} r \"!\"\n"
        "r ::= \"<\" (\"pqrstu\"){15} \">\"";
    struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
    char text[512] = "(";
    for (int i = 0; i < 150; i++)
        text[1 + i] = (char)('a' + i % 15);
    text[151] = '<';
    for (int i = 0; i < 90; i++)
        text[152 + i] = (char)('p' + i % 6);
    memcpy(text + 242, ">!)z", 5);
    size_t n = strlen(text);
    for (size_t i = 0; i < 60 * n; i++) {
        int32_t draft[13];
        uint32_t mask[TINY_WORDS];
        enum ht_allowed allowed;
        for (size_t k = 0; k < 13; k++)
            draft[k] = BYTE_0 + (unsigned char)text[(i + k) % n];
        if (i % 5 == 0) {
            assert_int_equal(ht_matcher_mask(m, draft, 12, mask, &allowed, &err), HEARTH_OK);
            assert_true(has(mask, draft[12]));
            assert_int_equal(has(mask, BYTE_0 + '>'), text[(i + 12) % n] == '>');
            assert_int_equal(has(mask, BYTE_0 + ')'), text[(i + 12) % n] == ')');
        }
        assert_int_equal(ht_matcher_allowed(m, draft, 13), 13);
        assert_true(ht_matcher_take(m, draft[0]));
    }
    ht_matcher_destroy(&m);
}

// Rules that are entered late and left after the tables were full several times.
static void forgetting_keeps_what_is_left_much_later(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *grammar =
        "root ::= [a-y]{500} \"(\" a \")\"\na ::= b \">\"\nb ::= ([a-y]{200} \"z\"){100} \"!\"";
    struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
    for (int i = 0; i < 500; i++)
        assert_true(ht_matcher_take(m, BYTE_0 + 'c'));
    assert_true(ht_matcher_take(m, BYTE_0 + '('));
    for (int i = 0; i < 100; i++) {
        for (int k = 0; k < 200; k++)
            assert_true(ht_matcher_take(m, BYTE_0 + 'c'));
        assert_false(ht_matcher_take(m, BYTE_0 + 'c'));
        assert_true(ht_matcher_take(m, BYTE_0 + 'z'));
    }
    bool complete;
    assert_false(ht_matcher_take(m, BYTE_0 + 'c'));
    assert_int_equal(grammar_read(m, "!>)", 3, &complete), 3);
    assert_true(complete && ht_matcher_is_finished(m));
    ht_matcher_destroy(&m);
}

// An id that ends the answer is no text, however it is spelt; ids that the model gives no logits for are refused.
static void ends_are_no_text(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_grammar *g;
    struct ht_matcher *m;
    const int32_t end = BYTE_0 + 'a';
    const char *grammar = "root ::= [ab]{2}";
    uint32_t mask[TINY_WORDS];
    enum ht_allowed allowed;
    assert_int_equal(ht_grammar_from_gbnf(&g, grammar, strlen(grammar), &err), HEARTH_OK);
    assert_int_equal(ht_matcher_create(&m, &g, tiny_trie, tiny_tokenizer, TINY_N_VOCAB, &end, 1, &err), HEARTH_OK);
    assert_false(ht_matcher_take(m, end));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
        assert_int_equal(has(mask, end), i == 2); // it may end there
        assert_int_equal(has(mask, BYTE_0 + 'b'), i < 2);
        assert_int_equal(ht_matcher_take(m, BYTE_0 + 'b'), i < 2);
    }
    ht_matcher_destroy(&m);
    assert_int_equal(ht_grammar_from_gbnf(&g, grammar, strlen(grammar), &err), HEARTH_OK);
    assert_int_equal(ht_matcher_create(&m, &g, tiny_trie, tiny_tokenizer, TINY_N_VOCAB - 1, NULL, 0, &err),
                     HEARTH_FORMAT);
    assert_null(m);
}

// More states than masks are kept of, and each comes again.
static void masks_that_are_given_up_are_made_again(void **state)
{
    (void)state;
    struct hearth_error err;
    char text[3 * HT_MATCH_MASKS + 32], *literal = text + 11;
    enum { LENGTH = 3 * HT_MATCH_MASKS };
    memcpy(text, "root ::= (\"", 11);
    for (int i = 0; i < LENGTH; i++)
        literal[i] = (char)('a' + (i * 7 + i / 26) % 26);
    memcpy(literal + LENGTH, "\")*", 4);
    struct ht_matcher *m = grammar_open(text, strlen(text), false, &err);
    for (int i = 0; i < 3 * LENGTH; i++) {
        uint32_t mask[TINY_WORDS];
        enum ht_allowed allowed;
        assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
        for (int c = 'a'; c <= 'z'; c++)
            assert_int_equal(has(mask, BYTE_0 + c), c == literal[i % LENGTH]);
        assert_true(ht_matcher_take(m, BYTE_0 + literal[i % LENGTH]));
    }
    ht_matcher_destroy(&m);
}

// What is forgotten may begin at a state that is older than where the answer stands, or younger.
static void forgetting_tells_two_states_apart(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *grammar = "root ::= (\"ab\")*";
    for (int taken = 0; taken < 2; taken++) {
        struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
        uint32_t begun = m->current, other;
        assert_true(ht_matcher_take(m, BYTE_0 + 'a'));
        other = begun;
        if (!taken) { // the answer stands at the older one
            other = m->current;
            m->current = begun;
        }
        ht_match_flush(m, &other);
        assert_int_not_equal(other, m->current);
        assert_int_equal(ht_match_byte(m, &other, taken ? 'b' : 'a'), HT_STATE_DEAD);
        assert_true(ht_match_byte(m, &other, taken ? 'a' : 'b') > HT_STATE_DEAD);
        assert_false(ht_matcher_take(m, BYTE_0 + (taken ? 'a' : 'b')));
        assert_true(ht_matcher_take(m, BYTE_0 + (taken ? 'b' : 'a')));
        ht_matcher_destroy(&m);
    }
}

static void what_cannot_end_is_not_begun(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *grammar = "root ::= \"a\" | \"b\" [^\\x00-\\U0010FFFF] | \"c\" [^\\x00-\\U0010FFFF]?";
    struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
    assert_false(ht_matcher_take(m, BYTE_0 + 'b'));
    assert_true(ht_matcher_take(m, BYTE_0 + 'c'));
    assert_true(ht_matcher_is_finished(m));
    ht_matcher_destroy(&m);
}

static void deep_nesting_comes_to_a_bound(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *grammar = "root ::= \"(\" \" \" root \")\" | \"x\"";
    struct ht_matcher *m = grammar_open(grammar, strlen(grammar), false, &err);
    enum hearth_status status = wander(m, 3 * HT_MAX_GRAMMAR_DEPTH, &err);
    assert_int_equal(status, HEARTH_LIMIT);
    assert_non_null(strstr(err.text, "nested more than 512 deep"));
    ht_matcher_destroy(&m);
    m = grammar_open(grammar, strlen(grammar), false, &err);
    unsigned depth = 0;
    while (ht_matcher_take(m, BYTE_0 + '(') && ht_matcher_take(m, BYTE_0 + ' '))
        depth++;
    assert_int_equal(depth, HT_MAX_GRAMMAR_DEPTH);
    ht_matcher_destroy(&m);
    grammar = "root ::= \"a\" root | \"b\""; // what a rule ends with is not inside of it
    m = grammar_open(grammar, strlen(grammar), false, &err);
    for (int i = 0; i < 3 * HT_MAX_GRAMMAR_DEPTH; i++)
        assert_true(ht_matcher_take(m, BYTE_0 + 'a'));
    assert_true(ht_matcher_take(m, BYTE_0 + 'b'));
    assert_true(ht_matcher_is_finished(m));
    ht_matcher_destroy(&m);
}

static int setup(void **state)
{
    (void)state;
    grammar_setup();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    grammar_teardown();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts_of_rules),
                                       cmocka_unit_test(rules_that_are_refused),
                                       cmocka_unit_test(hostile_rules_are_bounded),
                                       cmocka_unit_test(limits_are_where_they_are_said),
                                       cmocka_unit_test(work_of_one_call_is_bounded),
                                       cmocka_unit_test(many_ways_between_rules_are_no_trouble),
                                       cmocka_unit_test(masks_say_what_tokens_do),
                                       cmocka_unit_test(control_tokens_are_never_allowed),
                                       cmocka_unit_test(long_answers_outlive_the_tables),
                                       cmocka_unit_test(forgetting_keeps_stacks_and_drafts),
                                       cmocka_unit_test(forgetting_keeps_what_is_left_much_later),
                                       cmocka_unit_test(ends_are_no_text),
                                       cmocka_unit_test(masks_that_are_given_up_are_made_again),
                                       cmocka_unit_test(forgetting_tells_two_states_apart),
                                       cmocka_unit_test(what_cannot_end_is_not_begun),
                                       cmocka_unit_test(deep_nesting_comes_to_a_bound)};
    return cmocka_run_group_tests_name("grammar_gbnf", tests, setup, teardown);
}
