// SPDX-License-Identifier: Apache-2.0
// Answers copied out of a web page: HTML to Markdown, the page's buttons and counters removed. Pure functions.
//
// Only tags that are known are taken for HTML; "<stdio.h>" and "a < b" stay. Without a known tag no entity is decoded.
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/learn/data.h"

struct tag {
    const char *name, *open, *close;
};
static const struct tag tags[] = {
    {"div", "", ""},          {"span", "", ""},       {"p", "\n\n", "\n\n"}, {"br", "\n", ""},
    {"pre", "\n```\n", "\n```\n"}, {"code", "`", "`"},  {"strong", "**", "**"}, {"b", "**", "**"},
    {"em", "*", "*"},         {"i", "*", "*"},        {"ul", "\n", "\n"},    {"ol", "\n", "\n"},
    {"li", "\n* ", ""},       {"h1", "\n\n# ", "\n\n"}, {"h2", "\n\n## ", "\n\n"}, {"h3", "\n\n### ", "\n\n"},
    {"h4", "\n\n#### ", "\n\n"}, {"hr", "\n---\n", ""}, {"a", "", ""},         {"button", "", ""},
    {"blockquote", "\n> ", "\n"}, {"table", "\n", "\n"}, {"thead", "", ""},    {"tbody", "", ""},
    {"tr", "\n|", ""},        {"td", " ", " |"},      {"th", " ", " |"},     {"svg", "", ""},
};

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

// The tag at text[at] == '<': bytes up to its '>', 0 if it is none of the known ones.
static size_t tag_at(struct ht_text text, size_t at, const struct tag **tag, bool *closes)
{
    size_t i = at + 1;
    *closes = i < text.len_bytes && text.bytes[i] == '/';
    i += *closes;
    for (size_t t = 0; t < sizeof tags / sizeof *tags; t++) {
        size_t n = strlen(tags[t].name), k = 0;
        while (k < n && i + k < text.len_bytes && lower(text.bytes[i + k]) == tags[t].name[k])
            k++;
        if (k < n || i + n >= text.len_bytes || !strchr(" />\n", text.bytes[i + n]))
            continue;
        const char *end = memchr(text.bytes + i + n, '>', text.len_bytes - i - n);
        if (!end || memchr(text.bytes + i + n, '<', (size_t)(end - text.bytes) - i - n))
            return 0;
        *tag = &tags[t];
        return (size_t)(end - text.bytes) + 1 - at;
    }
    return 0;
}

static size_t entity_at(struct ht_text text, size_t at, char out[4], size_t *n)
{
    static const struct {
        const char *name;
        const char *text;
    } entities[] = {{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#39;", "'"}, {"&nbsp;", " "}};
    for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
        size_t len = strlen(entities[i].name);
        if (text.len_bytes - at >= len && !memcmp(text.bytes + at, entities[i].name, len)) {
            *n = strlen(entities[i].text);
            memcpy(out, entities[i].text, *n);
            return len;
        }
    }
    return 0;
}

static struct ht_text to_markdown(struct ht_data_pool *pool, struct ht_text text, bool *was_html)
{
    const struct tag *tag = NULL;
    bool closes, in_pre = false;
    for (size_t i = 0; i < text.len_bytes && !*was_html; i++)
        *was_html = text.bytes[i] == '<' && tag_at(text, i, &tag, &closes) > 0;
    if (!*was_html)
        return text;
    struct ht_data_out out = ht_data_out_make(pool, 3 * text.len_bytes); // no tag grows beyond three times its bytes
    for (size_t i = 0; i < text.len_bytes;) {
        char c = text.bytes[i], plain[4];
        size_t n = c == '<' ? tag_at(text, i, &tag, &closes) : 0, len = 1;
        if (n) {
            bool code = !strcmp(tag->name, "code");
            const char *mark = closes ? tag->close : tag->open;
            if (!strcmp(tag->name, "pre"))
                in_pre = !closes;
            if (!(code && in_pre))
                ht_data_put(&out, mark, strlen(mark));
            i += n;
            continue;
        }
        n = c == '&' ? entity_at(text, i, plain, &len) : 0;
        ht_data_put(&out, n ? plain : text.bytes + i, len);
        i += n ? n : 1;
    }
    return (struct ht_text){out.bytes, out.n};
}

static size_t digits_at(struct ht_text text, size_t at)
{
    size_t n = 0;
    while (at + n < text.len_bytes && text.bytes[at + n] >= '0' && text.bytes[at + n] <= '9')
        n++;
    return n;
}

static size_t word_at(struct ht_text text, size_t at, const char *word)
{
    size_t n = strlen(word);
    return at <= text.len_bytes && text.len_bytes - at >= n && !memcmp(text.bytes + at, word, n) ? n : 0;
}

// digits, `between`, digits, `after`; 0 if not there.
static size_t counter_at(struct ht_text text, size_t at, const char *between, const char *after)
{
    size_t a = digits_at(text, at), m = a ? word_at(text, at + a, between) : 0;
    size_t b = m ? digits_at(text, at + a + m) : 0, e = strlen(after);
    return b && (!e || word_at(text, at + a + m + b, after)) ? a + m + b + e : 0;
}

// "```lang Copy code…" gets its line end; an empty fence with nothing but the button goes.
static struct ht_text clean_fences(struct ht_data_pool *pool, struct ht_text text)
{
    struct ht_data_out out = ht_data_out_make(pool, text.len_bytes);
    bool inside = false, rewritten = false;
    for (size_t i = 0; i < text.len_bytes;) {
        size_t fence = word_at(text, i, "```"), copied = word_at(text, i, "Copy"), n = 0, begin = i;
        if (fence && !inside) {
            size_t k = i + 3;
            while (k < text.len_bytes && k - i < 40 && text.bytes[k] != '`' && !word_at(text, k, "Copy code"))
                k++;
            if (word_at(text, k, "Copy code")) {
                struct ht_text lang = ht_data_trim((struct ht_text){text.bytes + i + 3, k - i - 3});
                while ((n = word_at(text, k, "Copy code")))
                    k += n;
                while (k < text.len_bytes && (text.bytes[k] == ' ' || text.bytes[k] == '\n'))
                    k++;
                i = k;
                if (word_at(text, k, "```")) {
                    i = k + 3;
                    continue;
                }
                ht_data_put(&out, "```", 3);
                ht_data_put(&out, lang.bytes, lang.len_bytes);
                ht_data_put(&out, "\n", 1);
                inside = rewritten = true;
                continue;
            }
        }
        if (fence) {
            if (rewritten && out.n && out.bytes[out.n - 1] != '\n')
                ht_data_put(&out, "\n", 1);
            inside = !inside;
            rewritten = false;
        } else if (copied && (n = counter_at(text, i + copied, " chars / ", " words"))) {
            i += copied + n;
            continue;
        }
        n = fence ? fence : 1;
        ht_data_put(&out, text.bytes + begin, n);
        i += n;
    }
    return (struct ht_text){out.bytes, out.n};
}

static struct ht_text without_triple_lines(struct ht_data_pool *pool, struct ht_text text)
{
    struct ht_data_out out = ht_data_out_make(pool, text.len_bytes);
    for (size_t i = 0; i < text.len_bytes;) {
        size_t n = word_at(text, i, "\n\n\n");
        ht_data_put(&out, text.bytes + i, 1);
        i += n ? n : 1;
    }
    return (struct ht_text){out.bytes, out.n};
}

struct ht_text ht_data_clean(struct ht_data_pool *pool, struct ht_text text, bool *was_html)
{
    *was_html = false;
    text = to_markdown(pool, text, was_html);
    text = clean_fences(pool, text);
    size_t n = counter_at(text, 0, " / ", "");
    text.bytes += n;
    text.len_bytes -= n;
    return ht_data_trim(without_triple_lines(pool, text));
}
