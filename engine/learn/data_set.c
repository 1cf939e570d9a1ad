// SPDX-License-Identifier: Apache-2.0
// Sets: files one after the other, duplicates removed, split, mixed, tokenized, cut to sequences. One thread per set.
//
// A conversation longer than a sequence becomes pieces of whole question-answer pairs, each behind the conversation's
// own system text; the pieces together hold every pair but those that are too long alone, which are counted.
#include <stdio.h>
#include <string.h>

#include "engine/base/limits.h"
#include "engine/base/mem.h"
#include "engine/learn/data.h"
#include "engine/model/session.h"

struct cutting { // the conversation at hand
    bool active, raw;
    size_t n_fixed;              // turns before the first question
    size_t next;                 // turn, or token of a plain text, where the next piece begins
    size_t begin, n;             // of a plain text's tokens: the window at hand; n 0 = it was not cut
    unsigned piece;
    uint32_t *turn_tokens;       // [capacity] of each turn
    struct hearth_data_turn *turns; // [capacity] of the piece
    size_t capacity;
    char id[160];
};

struct hearth_data_set {
    struct hearth_data_set_params params;
    struct hearth_data_file *files;
    char **paths; // [3 * n_files] path, license, lang
    struct hearth_data_counts *counts;
    enum hearth_data_format *formats;
    unsigned n_seq;
    size_t file; // at hand
    struct hearth_data_reader *reader;
    const struct hearth_data_record *record; // whole, from the reader, or `plain`
    struct hearth_data_record plain;         // the reader's without the tools that it offers
    struct hearth_data_record piece;
    struct hearth_data_sample sample;
    struct ht_data_tokens tokens, rejected; // rejected: the other side of a pair
    struct ht_data_seen seen;
    struct ht_data_near *near;
    struct cutting cut;
};

void hearth_data_set_default(struct hearth_data_set_params *params)
{
    params->near = 0.8;
    params->held_out = 0.01;
}

static const struct named_style {
    const char *name;
    struct hearth_data_style style;
} styles[] = {
    {"assistant", {HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_SPLIT, 0}},
    {"all", {HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_SPLIT, 0}},
    {"last", {HEARTH_DATA_MASK_LAST, HEARTH_DATA_LONG_SPLIT, 0}},
    {"alpaca", {HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_RIGHT, 512}},
    {"alpaca-lora", {HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_RIGHT, 256}},
    {"llmtune", {HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_LEFT, 256}},
    {"vicuna", {HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_SPLIT, 2048}},
    {"dolly", {HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_DROP, 0}},
    {"baize", {HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_RIGHT, 512}},
    {"zh-alpaca", {HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_RIGHT, 512}},
    {"qlora", {HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_RIGHT, 528}}, // source 16, target 512; all text is target
    {"phoenix", {HEARTH_DATA_MASK_LEAD, HEARTH_DATA_LONG_SPLIT, 2048}},
    {"chimera", {HEARTH_DATA_MASK_LEAD, HEARTH_DATA_LONG_SPLIT, 2048}},
    {"wizardlm", {HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_RIGHT, 2048}},
};
enum { N_STYLES = sizeof styles / sizeof *styles };

const char *const *hearth_data_style_names(void)
{
    static const char *const names[] = {"assistant", "all",   "last",  "alpaca",    "alpaca-lora",
                                        "llmtune",   "vicuna", "dolly", "baize",     "zh-alpaca",
                                        "qlora",     "phoenix", "chimera", "wizardlm", NULL};
    return names;
}

bool hearth_data_style_find(const char *name, struct hearth_data_style *style)
{
    for (size_t i = 0; i < N_STYLES; i++)
        if (!strcmp(styles[i].name, name)) {
            *style = styles[i].style;
            return true;
        }
    return false;
}

static double share_of(const char *id, uint64_t seed, uint64_t use) // [0, 1), by the id alone
{
    return (double)(ht_data_hash(id, strlen(id), ht_data_hash(&use, sizeof use, seed)) >> 11) * 0x1p-53;
}

bool hearth_data_is_held_out(const char *id, uint64_t seed, double share)
{
    return share_of(id, seed, 1) < share;
}

unsigned ht_data_copies(const char *id, double weight, uint64_t seed, uint32_t epoch)
{
    double whole = (double)(uint64_t)weight;
    return (unsigned)whole + (share_of(id, seed, 2 + (uint64_t)epoch) < weight - whole);
}

const char *ht_data_set_id(const struct hearth_data_set *set)
{
    return set->record->id;
}

// ---------------------------------------------------------------- opening

static char *copy(const char *text)
{
    size_t n = strlen(text ? text : "") + 1;
    char *out = ht_calloc(n, 1);
    if (out && text)
        memcpy(out, text, n);
    return out;
}

static enum hearth_status check(const struct hearth_data_set_params *p, struct hearth_error *err)
{
    if (!p->files || !p->n_files || p->n_files > HEARTH_DATA_MAX_FILES)
        return ht_fail(err, HEARTH_INVALID, "%zu data files; 1 to %d are allowed", p->n_files, HEARTH_DATA_MAX_FILES);
    for (size_t i = 0; i < p->n_files; i++)
        if (!p->files[i].path || !(p->files[i].weight >= 0 && p->files[i].weight <= 1000))
            return ht_fail(err, HEARTH_INVALID, "%s: a weight is 0 to 1000",
                           p->files[i].path ? ht_shown_path(p->files[i].path) : "a file without a path");
    if (!(p->held_out >= 0 && p->held_out < 1) || !(p->near >= 0 && p->near <= 1))
        return ht_fail(err, HEARTH_INVALID, "the held-out share is in [0, 1), the likeness in [0, 1]");
    if (p->n_seq > HT_MAX_CTX)
        return ht_fail(err, HEARTH_LIMIT, "sequences of %u tokens are longer than %d", p->n_seq, HT_MAX_CTX);
    return HEARTH_OK;
}

static bool copy_files(struct hearth_data_set *set)
{
    size_t n = set->params.n_files;
    set->files = ht_calloc(n, sizeof *set->files);
    set->paths = ht_calloc(3 * n, sizeof *set->paths);
    set->counts = ht_calloc(n, sizeof *set->counts);
    set->formats = ht_calloc(n, sizeof *set->formats);
    if (!set->files || !set->paths || !set->counts || !set->formats)
        return false;
    for (size_t i = 0; i < n; i++) {
        set->files[i] = set->params.files[i];
        const char *const texts[] = {set->files[i].path, set->files[i].license, set->files[i].lang};
        for (size_t k = 0; k < 3; k++)
            if (!(set->paths[3 * i + k] = copy(texts[k])))
                return false;
        set->files[i].path = set->paths[3 * i];
        set->files[i].license = set->paths[3 * i + 1];
        set->files[i].lang = set->paths[3 * i + 2];
    }
    return true;
}

const char *ht_data_file_name(const struct hearth_data_file *file)
{
    const char *slash = strrchr(file->path, '/');
    return file->name ? file->name : slash ? slash + 1 : file->path;
}

enum hearth_status hearth_data_set_open(struct hearth_data_set **set, const struct hearth_data_set_params *params,
                                        struct hearth_error *err)
{
    *set = NULL;
    HT_TRY(check(params, err));
    struct hearth_data_set *s = ht_calloc(1, sizeof *s);
    enum hearth_status status = HEARTH_NOMEM;
    if (s)
        s->params = *params;
    if (!s || !copy_files(s)) {
        ht_fail(err, HEARTH_NOMEM, "no memory for %zu data files", params->n_files);
        goto failed;
    }
    if (params->near > 0 && !params->keep_duplicates)
        HT_TRY_TO(failed, ht_data_near_create(&s->near, params->near, err));
    s->n_seq = params->n_seq ? params->n_seq : params->style.n_seq;
    if (!s->n_seq && params->engine)
        s->n_seq = params->engine->info.n_ctx_train;
    *set = s;
    return HEARTH_OK;
failed:
    hearth_data_set_close(&s);
    return status;
}

void hearth_data_set_close(struct hearth_data_set **set)
{
    struct hearth_data_set *s = *set;
    *set = NULL;
    if (!s)
        return;
    hearth_data_close(&s->reader);
    for (size_t i = 0; s->paths && i < 3 * s->params.n_files; i++)
        ht_free(s->paths[i]);
    ht_free(s->paths);
    ht_free(s->files);
    ht_free(s->counts);
    ht_free(s->formats);
    ht_free(s->cut.turn_tokens);
    ht_free(s->cut.turns);
    ht_data_tokens_free(&s->tokens);
    ht_data_tokens_free(&s->rejected);
    ht_data_seen_free(&s->seen);
    ht_data_near_destroy(&s->near);
    ht_free(s);
}

unsigned hearth_data_set_seq(const struct hearth_data_set *set)
{
    return set->n_seq;
}

void hearth_data_set_get_counts(const struct hearth_data_set *set, size_t file, struct hearth_data_counts *counts,
                                enum hearth_data_format *format)
{
    *counts = set->counts[file];
    *format = set->formats[file];
    if (file != set->file || !set->reader)
        return;
    struct hearth_data_counts now;
    hearth_data_get_counts(set->reader, &now);
    for (int i = 0; i < HEARTH_DATA_N_SKIPS; i++) {
        counts->first_line[i] = counts->skipped[i] ? counts->first_line[i] : now.first_line[i];
        counts->skipped[i] += now.skipped[i];
    }
    for (int i = 0; i < HEARTH_DATA_N_FIXES; i++)
        counts->fixed[i] += now.fixed[i];
}

// ---------------------------------------------------------------- records

static void skip(struct hearth_data_set *set, enum hearth_data_skip reason)
{
    struct hearth_data_counts *counts = &set->counts[set->file];
    if (!counts->skipped[reason]++)
        counts->first_line[reason] = set->record->line;
}

static bool calls_tools(const struct hearth_data_turn *turns, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (turns[i].role == HEARTH_ROLE_CALLS || turns[i].role == HEARTH_ROLE_TOOL)
            return true;
    return false;
}

// Where the template has no form for tools: a record that offers some and calls none stands without them.
static void leave_tools_out(struct hearth_data_set *set)
{
    const struct hearth_data_record *r = set->record;
    if (!set->params.engine || set->params.engine->chat.tools || r->n_turns < 2 || r->raw ||
        r->turns[0].role != HEARTH_ROLE_TOOLS || calls_tools(r->turns, r->n_turns) ||
        calls_tools(r->rejected, r->n_rejected))
        return;
    set->plain = *r;
    set->plain.turns++;
    set->plain.n_turns--;
    set->plain.n_shared -= r->n_shared > 0;
    set->record = &set->plain;
    set->counts[set->file].fixed[HEARTH_DATA_FIX_TOOLS]++;
}

// The next record of any file; NULL at the end of the last one.
static enum hearth_status next_record(struct hearth_data_set *set, struct hearth_error *err)
{
    set->record = NULL;
    while (set->file < set->params.n_files) {
        const struct hearth_data_file *file = &set->files[set->file];
        if (!set->reader) {
            const struct hearth_data_reader_params params = {
                .path = file->path,
                .format = file->format,
                .license = file->license,
                .lang = file->lang,
                .keep_foreign_names = set->params.keep_foreign_names,
            };
            HT_TRY(hearth_data_open(&set->reader, &params, err));
            set->formats[set->file] = hearth_data_get_format(set->reader);
        }
        HT_TRY(hearth_data_next(set->reader, &set->record, err));
        if (set->record) {
            leave_tools_out(set);
            return HEARTH_OK;
        }
        hearth_data_set_get_counts(set, set->file, &set->counts[set->file], &set->formats[set->file]);
        hearth_data_close(&set->reader);
        set->file++;
    }
    return HEARTH_OK;
}

static enum hearth_status check_duplicate(struct hearth_data_set *set, bool *keep, struct hearth_error *err)
{
    const struct hearth_data_record *r = set->record;
    bool like = false;
    *keep = true;
    if (set->params.keep_duplicates || r->pair_only)
        return HEARTH_OK;
    uint64_t hash = ht_data_content_hash(r->turns, r->n_turns, 5);
    HT_TRY(ht_data_seen_add(&set->seen, ht_data_content_hash(r->rejected, r->n_rejected, hash), keep, err));
    if (!*keep)
        skip(set, HEARTH_DATA_SKIP_DUPLICATE);
    else if (set->near && !r->n_rejected)
        HT_TRY(ht_data_near_add(set->near, r, &like, err));
    if (like) {
        skip(set, HEARTH_DATA_SKIP_NEAR_DUPLICATE);
        *keep = false;
    }
    return HEARTH_OK;
}

// ---------------------------------------------------------------- pieces

// Tokenizes turns of the record at hand. *good = false: counted.
static enum hearth_status tokenize_to(struct hearth_data_set *set, struct ht_data_tokens *to,
                                      const struct hearth_data_turn *turns, size_t n_turns, bool *good,
                                      struct hearth_error *err)
{
    struct hearth_error cause = {0};
    const struct hearth_engine *engine = set->params.engine;
    if (!set->record->raw && !engine->chat.format)
        return ht_fail(err, HEARTH_UNSUPPORTED, "the model has no chat template; name one (--template)");
    enum hearth_status status = ht_data_tokenize(to, engine, turns, n_turns, set->record->raw,
                                                 set->params.style.mask, &cause);
    *good = status == HEARTH_OK;
    if (status == HEARTH_UNSUPPORTED)
        skip(set, HEARTH_DATA_SKIP_TOOLS);
    else if (status == HEARTH_INVALID)
        skip(set, HEARTH_DATA_SKIP_TEMPLATE);
    else if (status == HEARTH_LIMIT)
        skip(set, HEARTH_DATA_SKIP_TOO_LONG);
    else if (status)
        return ht_fail(err, status, "%s", cause.text);
    return HEARTH_OK;
}

static enum hearth_status tokenize(struct hearth_data_set *set, const struct hearth_data_turn *turns, size_t n_turns,
                                   bool *good, struct hearth_error *err)
{
    return tokenize_to(set, &set->tokens, turns, n_turns, good, err);
}

static bool cutting_room(struct cutting *c, size_t n_turns)
{
    size_t capacity = c->capacity;
    void *turns = c->turns, *tokens = c->turn_tokens;
    if (n_turns <= capacity)
        return true;
    bool good = ht_grow(&tokens, capacity, 2 * n_turns, sizeof *c->turn_tokens);
    c->turn_tokens = tokens;
    good = good && ht_grow(&turns, capacity, 2 * n_turns, sizeof *c->turns);
    c->turns = turns;
    if (good)
        c->capacity = 2 * n_turns;
    return good;
}

// The whole record is in set->tokens and too long: pieces of it come one by one.
static enum hearth_status begin_cutting(struct hearth_data_set *set, struct hearth_error *err)
{
    struct cutting *c = &set->cut;
    const struct hearth_data_record *r = set->record;
    if (!cutting_room(c, r->n_turns))
        return ht_fail(err, HEARTH_NOMEM, "no memory to split a conversation of %zu turns", r->n_turns);
    memset(c->turn_tokens, 0, r->n_turns * sizeof *c->turn_tokens);
    for (size_t i = 0; i < set->tokens.list.n; i++)
        if (set->tokens.list.items[i].turn < r->n_turns)
            c->turn_tokens[set->tokens.list.items[i].turn]++;
    c->n_fixed = 0;
    while (c->n_fixed < r->n_turns && r->turns[c->n_fixed].role != HEARTH_ROLE_USER)
        c->n_fixed++;
    c->active = true;
    c->raw = r->raw;
    c->next = r->raw ? 0 : c->n_fixed;
    c->piece = 0;
    return HEARTH_OK;
}

// Where the question after turn `at` begins.
static size_t pair_end(const struct hearth_data_record *r, size_t at)
{
    do
        at++;
    while (at < r->n_turns && r->turns[at].role != HEARTH_ROLE_USER);
    return at;
}

static size_t last_pair_begin(const struct hearth_data_record *r, size_t end)
{
    do
        end--;
    while (r->turns[end].role != HEARTH_ROLE_USER);
    return end;
}

static void name_piece(struct hearth_data_set *set, const struct hearth_data_turn *turns, size_t n_turns, size_t start)
{
    set->piece = *set->record;
    set->piece.turns = turns;
    set->piece.n_turns = n_turns;
    snprintf(set->cut.id, sizeof set->cut.id, "%.128s_%zu", set->record->id, start);
    set->piece.id = set->cut.id;
    if (!set->cut.piece)
        set->counts[set->file].fixed[HEARTH_DATA_FIX_SPLIT]++;
    set->sample.piece = set->cut.piece++;
}

// *made: a piece is in set->tokens and set->piece.
static enum hearth_status next_piece(struct hearth_data_set *set, bool *made, struct hearth_error *err)
{
    struct cutting *c = &set->cut;
    const struct hearth_data_record *r = set->record;
    *made = false;
    while (c->next < r->n_turns && !*made) {
        size_t begin = c->next, end = pair_end(r, begin), n_tokens = 0, n;
        for (size_t i = 0; i < c->n_fixed; i++)
            n_tokens += c->turn_tokens[i];
        for (size_t i = begin; i < end; i++)
            n_tokens += c->turn_tokens[i];
        while (end < r->n_turns) {
            size_t more = pair_end(r, end);
            for (size_t i = end; i < more; i++)
                n_tokens += c->turn_tokens[i];
            if (n_tokens > set->n_seq)
                break;
            end = more;
        }
        memcpy(c->turns, r->turns, c->n_fixed * sizeof *c->turns);
        for (;;) { // what was counted in the whole may come out longer alone
            n = c->n_fixed + end - begin;
            memcpy(c->turns + c->n_fixed, r->turns + begin, (end - begin) * sizeof *c->turns);
            HT_TRY(tokenize(set, c->turns, n, made, err));
            if (!*made || set->tokens.n <= set->n_seq || last_pair_begin(r, end) == begin)
                break;
            end = last_pair_begin(r, end);
        }
        c->next = end;
        if (*made && set->tokens.n > set->n_seq) {
            skip(set, HEARTH_DATA_SKIP_PAIR_TOO_LONG);
            *made = false;
        } else if (*made && !set->tokens.n_targets) {
            skip(set, HEARTH_DATA_SKIP_NO_TARGET);
            *made = false;
        } else if (*made) {
            name_piece(set, c->turns, n, begin);
        }
    }
    c->active = c->next < r->n_turns;
    return HEARTH_OK;
}

// The next window of a plain text, whose tokens are all in set->tokens.
static void next_window(struct hearth_data_set *set)
{
    struct cutting *c = &set->cut;
    size_t n = set->tokens.n, end = n - c->next > set->n_seq ? c->next + set->n_seq : n;
    c->begin = c->next;
    c->n = end - c->begin;
    set->tokens.weights[c->begin] = 0; // it was the last target of the window before
    name_piece(set, set->record->turns, set->record->n_turns, c->begin);
    c->next = end == n ? n : end - 1; // the last token of a window is the first of the next: each is a target once
    c->active = c->next + 1 < n;
}

// What is too long and is not split: cut to a sequence, or left out.
static void shorten(struct hearth_data_set *set, struct ht_data_tokens *tokens, bool *made)
{
    enum hearth_data_long too_long = set->params.style.too_long;
    size_t n = tokens->n;
    *made = true;
    if (!set->n_seq || n <= set->n_seq)
        return;
    *made = too_long == HEARTH_DATA_LONG_RIGHT || too_long == HEARTH_DATA_LONG_LEFT;
    if (!*made) {
        skip(set, HEARTH_DATA_SKIP_TOO_LONG);
        return;
    }
    set->counts[set->file].fixed[HEARTH_DATA_FIX_TRUNCATED]++;
    ht_data_tokens_cut(tokens, too_long == HEARTH_DATA_LONG_LEFT ? n - set->n_seq : 0,
                       too_long == HEARTH_DATA_LONG_LEFT ? n : set->n_seq);
}

// The rejected side of a pair, behind the turns that both share.
static enum hearth_status other_side(struct hearth_data_set *set, bool *made, struct hearth_error *err)
{
    const struct hearth_data_record *r = set->record;
    struct hearth_data_turn *turns;
    size_t n = r->n_shared + r->n_rejected;
    if (!cutting_room(&set->cut, n))
        return ht_fail(err, HEARTH_NOMEM, "no memory for a pair of %zu turns", n);
    turns = set->cut.turns;
    memcpy(turns, r->turns, r->n_shared * sizeof *turns);
    memcpy(turns + r->n_shared, r->rejected, r->n_rejected * sizeof *turns);
    HT_TRY(tokenize_to(set, &set->rejected, turns, n, made, err));
    if (*made)
        shorten(set, &set->rejected, made);
    if (*made && !set->rejected.n_targets) {
        skip(set, HEARTH_DATA_SKIP_NO_TARGET);
        *made = false;
    }
    return HEARTH_OK;
}

// The record as one sample, or the beginning of its pieces.
static enum hearth_status whole(struct hearth_data_set *set, bool *made, struct hearth_error *err)
{
    const struct hearth_data_record *r = set->record;
    set->piece = *r;
    set->sample.piece = 0;
    set->tokens.n = set->tokens.n_targets = set->cut.n = 0;
    *made = true;
    if (!set->params.engine)
        return HEARTH_OK;
    HT_TRY(tokenize(set, r->turns, r->n_turns, made, err));
    if (!*made)
        return HEARTH_OK;
    if (set->n_seq && set->tokens.n > set->n_seq && !r->n_rejected &&
        set->params.style.too_long == HEARTH_DATA_LONG_SPLIT) {
        HT_TRY(begin_cutting(set, err));
        if (!r->raw)
            return next_piece(set, made, err);
        next_window(set);
        return HEARTH_OK;
    }
    shorten(set, &set->tokens, made);
    if (*made && !set->tokens.n_targets) {
        skip(set, HEARTH_DATA_SKIP_NO_TARGET);
        *made = false;
    }
    if (!*made || !r->n_rejected)
        return HEARTH_OK;
    HT_TRY(other_side(set, made, err));
    if (!*made && !r->pair_only) { // the good answer alone
        set->piece.n_rejected = 0;
        *made = true;
    }
    return HEARTH_OK;
}

// What is at hand becomes the sample.
static void show(struct hearth_data_set *set)
{
    const struct cutting *c = &set->cut;
    struct hearth_data_sample *s = &set->sample;
    bool tokens = set->params.engine != NULL, pair = tokens && set->piece.n_rejected;
    size_t begin = c->n ? c->begin : 0;
    s->record = &set->piece;
    s->file = set->file;
    s->held_out = hearth_data_is_held_out(set->record->id, set->params.seed, set->params.held_out);
    s->copies = ht_data_copies(set->record->id, set->files[set->file].weight, set->params.seed, set->params.epoch);
    s->ids = tokens ? set->tokens.ids + begin : NULL;
    s->weights = tokens ? set->tokens.weights + begin : NULL;
    s->n_tokens = c->n ? c->n : set->tokens.n;
    s->n_targets = 0;
    for (size_t i = 0; i < s->n_tokens; i++)
        s->n_targets += s->weights[i] > 0;
    s->rejected_ids = pair ? set->rejected.ids : NULL;
    s->rejected_weights = pair ? set->rejected.weights : NULL;
    s->n_rejected_tokens = pair ? set->rejected.n : 0;
    s->n_rejected_targets = pair ? set->rejected.n_targets : 0;
}

enum hearth_status hearth_data_set_next(struct hearth_data_set *set, const struct hearth_data_sample **sample,
                                        struct hearth_error *err)
{
    bool made = false, first = true;
    *sample = NULL;
    while (!made) {
        if (set->cut.active) {
            first = set->cut.piece == 0;
            made = set->cut.raw;
            if (made)
                next_window(set);
            else
                HT_TRY(next_piece(set, &made, err));
            continue;
        }
        HT_TRY(next_record(set, err));
        if (!set->record)
            return HEARTH_OK;
        first = true;
        HT_TRY(check_duplicate(set, &made, err));
        if (made)
            HT_TRY(whole(set, &made, err));
    }
    struct hearth_data_counts *counts = &set->counts[set->file];
    if (first) {
        counts->n_records += !set->record->pair_only;
        counts->n_turns += set->record->pair_only ? 0 : set->record->n_turns;
        counts->n_pairs += set->piece.n_rejected > 0;
    }
    show(set);
    *sample = &set->sample;
    return HEARTH_OK;
}
