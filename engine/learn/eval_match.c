// SPDX-License-Identifier: Apache-2.0
// What of an answer is compared, and how: whole texts, numbers, patterns, words in common. Pure but for a compiled
// pattern; one thread per matcher.
#include <regex.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/eval.h"

enum { MOST_WORDS = 4096 };

struct ht_match {
    enum hearth_match match;
    regex_t own, strict, number;
    unsigned n_compiled; // of the three, in this order
};

static const char *const STRICT = "#### (-?[0-9.,]+)";
static const char *const NUMBER = "(-?[$0-9.,]{2,})|(-?[0-9]+)";

const char *hearth_match_name(enum hearth_match match)
{
#define HT_MATCH_TEXT(name, text) text,
    static const char *const texts[] = {HEARTH_MATCH_MAP(HT_MATCH_TEXT)};
    return (unsigned)match < HEARTH_N_MATCHES ? texts[match] : "";
}

bool hearth_match_find(const char *name, enum hearth_match *match)
{
    for (int i = 0; i < HEARTH_N_MATCHES; i++)
        if (!strcmp(name, hearth_match_name((enum hearth_match)i))) {
            *match = (enum hearth_match)i;
            return true;
        }
    return false;
}

enum hearth_status ht_match_create(struct ht_match **matcher, enum hearth_match match, const char *pattern,
                                     struct hearth_error *err)
{
    struct ht_match *m = *matcher = ht_calloc(1, sizeof *m);
    if (!m)
        return ht_fail(err, HEARTH_NOMEM, "out of memory for a pattern");
    m->match = match;
    const char *const patterns[] = {match == HEARTH_MATCH_REGEX && pattern ? pattern : STRICT, STRICT, NUMBER};
    regex_t *const compiled[] = {&m->own, &m->strict, &m->number};
    for (; m->n_compiled < 3; m->n_compiled++) {
        int bad = regcomp(compiled[m->n_compiled], patterns[m->n_compiled], REG_EXTENDED | REG_NEWLINE);
        if (!bad)
            continue;
        char why[96] = "";
        regerror(bad, compiled[m->n_compiled], why, sizeof why);
        ht_match_destroy(matcher);
        return ht_fail(err, bad == REG_ESPACE ? HEARTH_NOMEM : HEARTH_INVALID, "the pattern: %s", why);
    }
    return HEARTH_OK;
}

void ht_match_destroy(struct ht_match **matcher)
{
    struct ht_match *m = *matcher;
    *matcher = NULL;
    if (!m)
        return;
    regex_t *const compiled[] = {&m->own, &m->strict, &m->number};
    for (unsigned i = 0; i < m->n_compiled; i++)
        regfree(compiled[i]);
    ht_free(m);
}

// ---------------------------------------------------------------- taking

// The first or the last place that matches: its first group that took part, or all of it.
static bool find(const regex_t *pattern, const char *text, bool last, struct ht_text *found)
{
    regmatch_t at[3];
    bool any = false;
    for (const char *p = text; *p || p == text;) {
        if (regexec(pattern, p, 3, at, p == text ? 0 : REG_NOTBOL))
            break;
        const regmatch_t *group = pattern->re_nsub && at[1].rm_so >= 0                        ? &at[1]
                                  : pattern->re_nsub > 1 && at[2].rm_so >= 0 ? &at[2]
                                                                             : &at[0];
        *found = (struct ht_text){p + group->rm_so, (size_t)(group->rm_eo - group->rm_so)};
        any = true;
        if (!last)
            break;
        p += at[0].rm_eo > at[0].rm_so ? at[0].rm_eo : at[0].rm_eo + 1;
        if (at[0].rm_eo == at[0].rm_so && !p[-1])
            break;
    }
    return any;
}

// Without , $ and a full stop at the end.
static const char *plain_number(struct ht_data_pool *pool, struct ht_text text)
{
    struct ht_data_out out = ht_data_out_make(pool, text.len_bytes + 1);
    for (size_t i = 0; i < text.len_bytes; i++)
        if (text.bytes[i] != ',' && text.bytes[i] != '$' && !(text.bytes[i] == '.' && i + 1 == text.len_bytes))
            ht_data_put(&out, text.bytes + i, 1);
    return ht_task_string(pool, (struct ht_text){out.bytes, out.n});
}

const char *ht_match_take(const struct ht_match *m, struct ht_data_pool *pool, const char *text, bool reference)
{
    struct ht_text found, all = ht_data_trim((struct ht_text){text, strlen(text)});
    switch (m->match) {
    case HEARTH_MATCH_NUMBER:
    case HEARTH_MATCH_STRICT:
        if (find(&m->strict, text, false, &found) && (reference || m->match == HEARTH_MATCH_STRICT))
            return plain_number(pool, found);
        if (m->match == HEARTH_MATCH_STRICT && !reference)
            return NULL;
        return find(&m->number, text, true, &found) ? plain_number(pool, found) : NULL;
    case HEARTH_MATCH_REGEX:
        if (find(&m->own, text, true, &found))
            return ht_task_string(pool, ht_data_trim(found));
        return reference ? ht_task_string(pool, all) : NULL; // a bare answer
    default: return ht_task_string(pool, all);
    }
}

// ---------------------------------------------------------------- comparing

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool holds(const char *text, const char *what)
{
    for (; *text; text++) {
        size_t i = 0;
        while (what[i] && lower(text[i]) == lower(what[i]))
            i++;
        if (!what[i])
            return true;
    }
    return !*what;
}

// Words in lower case without punctuation of ASCII and the articles a, an, the.
static size_t words_of(struct ht_data_pool *pool, const char *text, const char **words)
{
    size_t n = 0, len = strlen(text);
    char *copy = ht_data_take(pool, len + 1, 1);
    bool inside = false;
    for (size_t i = 0, to = 0; copy && i <= len; i++) {
        char c = lower(text[i]);
        bool blank = !c || c == ' ' || (c >= '\t' && c <= '\r');
        bool mark = !blank && (unsigned char)c < 0x80 && !(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9');
        if (mark)
            continue;
        if (blank) {
            copy[to++] = 0;
            if (inside && (!strcmp(words[n], "a") || !strcmp(words[n], "an") || !strcmp(words[n], "the")))
                n--;
            n += inside;
            inside = false;
        } else {
            if (!inside && n == MOST_WORDS)
                break;
            if (!inside)
                words[n] = copy + to;
            inside = true;
            copy[to++] = c;
        }
    }
    return n;
}

// Harmonic mean of precision and recall over bags of words. *same: equal lists.
static double f1(struct ht_data_pool *pool, const char *made, const char *wanted, bool *same)
{
    const char **a = ht_data_take(pool, MOST_WORDS + 1, sizeof *a), **b = ht_data_take(pool, MOST_WORDS + 1, sizeof *b);
    *same = false;
    if (!a || !b)
        return 0;
    size_t n_a = words_of(pool, made, a), n_b = words_of(pool, wanted, b), common = 0;
    *same = n_a == n_b;
    for (size_t i = 0; i < n_a && *same; i++)
        *same = !strcmp(a[i], b[i]);
    for (size_t i = 0; i < n_a; i++)
        for (size_t j = 0; j < n_b; j++)
            if (b[j] && !strcmp(a[i], b[j])) {
                b[j] = NULL; // each counts once
                common++;
                break;
            }
    if (!n_a || !n_b)
        return n_a == n_b;
    return 2.0 * (double)common / (double)(n_a + n_b);
}

bool ht_match_compare(const struct ht_match *m, struct ht_data_pool *pool, const char *made, const char *wanted,
                        double *score)
{
    bool right;
    if (m->match == HEARTH_MATCH_F1) {
        *score = f1(pool, made, wanted, &right);
        return right;
    }
    right = m->match == HEARTH_MATCH_CONTAINS ? holds(made, wanted) : !strcmp(made, wanted);
    *score = right;
    return right;
}
