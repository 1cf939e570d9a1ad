// SPDX-License-Identifier: Apache-2.0
// Pre-tokenizers as scanners. Each scan_* function takes the text from `at` to `end` and returns where the
// piece that begins at `at` ends. The pattern it stands for is quoted above it. Pure; any thread.
#include "engine/text/split.h"

#include <string.h>

#include "engine/text/unicode.h"

struct ht_pre_tokenizer {
    const char *names[8]; // NULL after the last; messages and files use any of them
    size_t (*cut)(struct ht_splitter *splitter);
    unsigned max_digits; // of one number piece, in the patterns that limit it
    bool ignores_merges, adds_bos;
};

struct look {
    uint32_t c;
    enum ht_uc class;
    size_t next; // position after the character
};

static struct look look(struct ht_splitter *s, size_t at, size_t end)
{
    struct look l;
    s->n_steps++;
    l.next = at + ht_uc_next(s->text + at, end - at, &l.c);
    l.class = ht_uc_class(l.c);
    return l;
}

static bool is_other(enum ht_uc class) // [^\s\p{L}\p{N}]
{
    return class == HT_UC_OTHER || class == HT_UC_PUNCTUATION;
}

// The end of the run of characters of `class` that begins at `at`, at most `max` of them.
static size_t run(struct ht_splitter *s, size_t at, size_t end, enum ht_uc class, size_t max)
{
    while (at < end && max) {
        struct look l = look(s, at, end);
        if (l.class != class)
            break;
        at = l.next;
        max--;
    }
    return at;
}

static size_t run_other(struct ht_splitter *s, size_t at, size_t end)
{
    while (at < end) {
        struct look l = look(s, at, end);
        if (!is_other(l.class))
            break;
        at = l.next;
    }
    return at;
}

// 's|'t|'re|'ve|'m|'ll|'d at an apostrophe; `at` itself if none matches. `fold`: upper case too, and U+017F,
// which folds to s.
static size_t contraction(const struct ht_splitter *s, size_t at, size_t end, bool fold)
{
    static const char two[3][2] = {{'r', 'e'}, {'v', 'e'}, {'l', 'l'}};
    const unsigned char *t = s->text + at;
    size_t n = end - at;
    unsigned char mask = fold ? 0x20 : 0;
    if (n < 2 || t[0] != '\'')
        return at;
    unsigned char a = t[1] | (t[1] >= 'A' && t[1] <= 'Z' ? mask : 0);
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return at + 2;
    if (n < 3)
        return at;
    if (fold && t[1] == 0xC5 && t[2] == 0xBF)
        return at + 3;
    unsigned char b = t[2] | (t[2] >= 'A' && t[2] <= 'Z' ? mask : 0);
    for (int i = 0; i < 3; i++)
        if (a == two[i][0] && b == two[i][1])
            return at + 3;
    return at;
}

// \s+(?!\S)|\s+ : all of the white space at the end of the text, else all but its last character, which goes
// to the next piece.
static size_t space_run(struct ht_splitter *s, size_t at, size_t end)
{
    size_t last = at, here = at;
    while (here < end) {
        struct look l = look(s, here, end);
        if (l.class != HT_UC_SPACE)
            return last > at ? last : here;
        last = here;
        here = l.next;
    }
    return end;
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
static size_t scan_gpt2(struct ht_splitter *s, size_t at, size_t end)
{
    size_t contracted = contraction(s, at, end, false);
    if (contracted > at)
        return contracted;
    struct look l = look(s, at, end);
    size_t begin = at;
    if (l.c == ' ' && l.next < end) {
        begin = l.next;
        l = look(s, begin, end);
    }
    if (l.class == HT_UC_LETTER || l.class == HT_UC_NUMBER)
        return run(s, begin, end, l.class, SIZE_MAX);
    if (is_other(l.class))
        return run_other(s, begin, end);
    return space_run(s, at, end);
}

// \s*[\r\n]+|\s+(?!\S)|\s+
static size_t newlines_or_spaces(struct ht_splitter *s, size_t at, size_t end)
{
    size_t after_newline = at, last = at, here = at;
    while (here < end) {
        struct look l = look(s, here, end);
        if (l.class != HT_UC_SPACE)
            break;
        last = here;
        here = l.next;
        if (l.c == '\r' || l.c == '\n')
            after_newline = here;
    }
    if (after_newline > at)
        return after_newline;
    return here == end || last == at ? here : last;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max_digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
// |\s*[\r\n]+|\s+(?!\S)|\s+
static size_t scan_llama3(struct ht_splitter *s, size_t at, size_t end)
{
    size_t contracted = contraction(s, at, end, true);
    if (contracted > at)
        return contracted;
    struct look l = look(s, at, end);
    if (l.class == HT_UC_LETTER)
        return run(s, at, end, HT_UC_LETTER, SIZE_MAX);
    if (l.class == HT_UC_NUMBER)
        return run(s, at, end, HT_UC_NUMBER, s->pre->max_digits);
    struct look after = l;
    after.class = HT_UC_SPACE; // nothing follows: as good as white space
    if (l.next < end)
        after = look(s, l.next, end);
    if (after.class == HT_UC_LETTER && l.c != '\r' && l.c != '\n')
        return run(s, l.next, end, HT_UC_LETTER, SIZE_MAX);
    if (is_other(l.class) || (l.c == ' ' && l.next < end && is_other(after.class))) {
        size_t here = run_other(s, is_other(l.class) ? at : l.next, end);
        while (here < end && (s->text[here] == '\r' || s->text[here] == '\n'))
            here++;
        return here;
    }
    return newlines_or_spaces(s, at, end);
}

// ---------------------------------------------------------------- one pattern, or patterns one inside the
// other

static size_t cut_gpt2(struct ht_splitter *s)
{
    return scan_gpt2(s, s->position, s->end);
}

static size_t cut_llama3(struct ht_splitter *s)
{
    return scan_llama3(s, s->position, s->end);
}

// Every numeric character alone; the gpt-2 pattern in what lies between.
static size_t cut_smollm(struct ht_splitter *s)
{
    if (s->position == s->outer_end) {
        uint32_t c;
        size_t here = s->position + ht_uc_next(s->text + s->position, s->end - s->position, &c);
        s->n_steps++;
        if (ht_uc_is_numeric(c)) {
            s->outer_end = here;
            return here;
        }
        while (here < s->end) {
            size_t length = ht_uc_next(s->text + here, s->end - here, &c);
            s->n_steps++;
            if (ht_uc_is_numeric(c))
                break;
            here += length;
        }
        s->outer_end = here;
    }
    return scan_gpt2(s, s->position, s->outer_end);
}

static bool is_punctuation(const struct look *l) // [\p{P}\$\+<=>\^~\|]
{
    return l->class == HT_UC_PUNCTUATION || (l->c < 0x80 && l->c && strchr("$+<=>^~|", (int)l->c));
}

static bool three_digits(const unsigned char *text, size_t n)
{
    return n >= 3 && text[0] >= '0' && text[0] <= '9' && text[1] >= '0' && text[1] <= '9' && text[2] >= '0' &&
           text[2] <= '9';
}

// Numbers: [0-9]{3} from the left, and what lies between.
static size_t cut_number(struct ht_splitter *s)
{
    size_t here = s->position;
    if (three_digits(s->text + here, s->inner_end - here))
        return here + 3;
    while (here < s->inner_end && !three_digits(s->text + here, s->inner_end - here))
        here = look(s, here, s->inner_end).next;
    return here;
}

// Runs of punctuation and what lies between; in both the gpt-2 pattern; in its pieces numbers apart from a
// leading space; numbers in threes.
static size_t cut_default(struct ht_splitter *s)
{
    if (s->position < s->inner_end)
        return cut_number(s);
    if (s->position == s->outer_end) {
        struct look l = look(s, s->position, s->end);
        bool punctuation = is_punctuation(&l);
        while (l.next < s->end) {
            struct look after = look(s, l.next, s->end);
            if (is_punctuation(&after) != punctuation)
                break;
            l = after;
        }
        s->outer_end = l.next;
    }
    size_t end = scan_gpt2(s, s->position, s->outer_end);
    struct look first = look(s, s->position, end);
    struct look second = first;
    if (first.c == ' ' && first.next < end)
        second = look(s, first.next, end);
    if (second.class != HT_UC_NUMBER)
        return end;
    s->inner_end = end;
    return first.c == ' ' ? first.next : cut_number(s);
}

static const struct ht_pre_tokenizer pre_tokenizers[] = {
    {{"gpt-2", "phi-2", "mpt", "olmo"}, cut_gpt2, 0, false, false},
    {{"smollm", "starcoder", "command-r"}, cut_smollm, 0, false, false},
    {{"llama-bpe", "llama3", "llama-v3"}, cut_llama3, 3, true, true},
    {{"glm4", "chatglm-bpe"}, cut_llama3, 3, false, false},
    {{"qwen2", "stablelm2", "deepseek-r1-qwen"}, cut_llama3, 1, false, false},
    {{"default"}, cut_default, 0, false, false},
};
enum { N_PRE_TOKENIZERS = sizeof pre_tokenizers / sizeof pre_tokenizers[0] };

const struct ht_pre_tokenizer *ht_pre_tokenizer_find(const char *pre, const char *architecture)
{
    if (!pre)
        pre = architecture && !strcmp(architecture, "gptneox") ? "gpt-2" : "default";
    for (int i = 0; i < N_PRE_TOKENIZERS; i++)
        for (int j = 0; pre_tokenizers[i].names[j]; j++)
            if (!strcmp(pre_tokenizers[i].names[j], pre))
                return &pre_tokenizers[i];
    return NULL;
}

bool ht_pre_tokenizer_ignores_merges(const struct ht_pre_tokenizer *pre)
{
    return pre->ignores_merges;
}

bool ht_pre_tokenizer_adds_bos(const struct ht_pre_tokenizer *pre)
{
    return pre->adds_bos;
}

void ht_splitter_init(struct ht_splitter *splitter, const struct ht_pre_tokenizer *pre, const void *text,
                      size_t len_bytes)
{
    *splitter = (struct ht_splitter){.pre = pre, .text = text, .end = len_bytes};
}

size_t ht_splitter_next(struct ht_splitter *splitter, size_t *start)
{
    *start = splitter->position;
    if (splitter->position == splitter->end)
        return 0;
    splitter->position = splitter->pre->cut(splitter);
    return splitter->position - *start;
}
