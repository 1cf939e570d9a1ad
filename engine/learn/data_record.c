// SPDX-License-Identifier: Apache-2.0
// Records in the making: turns are gathered, checked, named and counted. One thread per reader.
#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/learn/data.h"

#define SKIP_TEXT(name, text) text,
#define FIX_TEXT(name, text) text,
#define FORMAT_TEXT(name, text) text,

const char *hearth_data_skip_text(enum hearth_data_skip skip)
{
    static const char *const texts[] = {HEARTH_DATA_SKIP_MAP(SKIP_TEXT)};
    return (unsigned)skip < HEARTH_DATA_N_SKIPS ? texts[skip] : "";
}

const char *hearth_data_fix_text(enum hearth_data_fix fix)
{
    static const char *const texts[] = {HEARTH_DATA_FIX_MAP(FIX_TEXT)};
    return (unsigned)fix < HEARTH_DATA_N_FIXES ? texts[fix] : "";
}

const char *hearth_data_format_name(enum hearth_data_format format)
{
    static const char *const texts[] = {HEARTH_DATA_FORMAT_MAP(FORMAT_TEXT)};
    return (unsigned)format < HEARTH_DATA_N_FORMATS ? texts[format] : "";
}

bool hearth_data_format_find(const char *name, enum hearth_data_format *format)
{
    for (int i = 0; i < HEARTH_DATA_N_FORMATS; i++)
        if (!strcmp(name, hearth_data_format_name((enum hearth_data_format)i))) {
            *format = (enum hearth_data_format)i;
            return true;
        }
    return false;
}

struct ht_text ht_data_text_of(const json_t *value)
{
    if (!json_is_string(value))
        return (struct ht_text){0};
    return (struct ht_text){json_string_value(value), json_string_length(value)};
}

struct ht_text ht_data_field(const json_t *object, const char *key)
{
    return ht_data_text_of(json_object_get(object, key));
}

enum hearth_role ht_data_role(struct ht_text name)
{
    static const struct {
        const char *name;
        enum hearth_role role;
    } roles[] = {
        {"user", HEARTH_ROLE_USER},           {"human", HEARTH_ROLE_USER},     {"prompter", HEARTH_ROLE_USER},
        {"assistant", HEARTH_ROLE_ASSISTANT}, {"gpt", HEARTH_ROLE_ASSISTANT},  {"chatgpt", HEARTH_ROLE_ASSISTANT},
        {"model", HEARTH_ROLE_ASSISTANT},     {"bing", HEARTH_ROLE_ASSISTANT}, {"bard", HEARTH_ROLE_ASSISTANT},
        {"system", HEARTH_ROLE_SYSTEM},       {"developer", HEARTH_ROLE_SYSTEM}, {"tool", HEARTH_ROLE_TOOL},
        {"function", HEARTH_ROLE_TOOL},       {"observation", HEARTH_ROLE_TOOL}, {"function_call", HEARTH_ROLE_CALLS},
    };
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (name.len_bytes == strlen(roles[i].name) && !memcmp(name.bytes, roles[i].name, name.len_bytes))
            return roles[i].role;
    return (enum hearth_role)0;
}

void ht_data_skip(struct hearth_data_reader *r, enum hearth_data_skip reason)
{
    if (!r->counts.skipped[reason]++)
        r->counts.first_line[reason] = r->line;
}

void ht_data_fix(struct hearth_data_reader *r, enum hearth_data_fix fix)
{
    r->counts.fixed[fix]++;
}

void ht_data_begin(struct hearth_data_reader *r)
{
    r->n_turns = 0;
}

struct hearth_data_turn *ht_data_add(struct hearth_data_reader *r, enum hearth_role role, struct ht_text text)
{
    static struct hearth_data_turn nowhere; // after a failure: written by nobody who reads it
    if (r->n_turns == r->turns_capacity) {
        void *p = r->turns;
        size_t capacity = r->turns_capacity ? 2 * r->turns_capacity : 16;
        if (!ht_grow(&p, r->turns_capacity, capacity, sizeof *r->turns)) {
            r->failed = true;
            return &nowhere;
        }
        r->turns = p;
        r->turns_capacity = capacity;
    }
    struct hearth_data_turn *turn = &r->turns[r->n_turns++];
    *turn = (struct hearth_data_turn){.role = role, .text = text.bytes ? text.bytes : "",
                                      .len_bytes = text.len_bytes,
                                      .weight = role == HEARTH_ROLE_ASSISTANT ? 1.0f : 0.0f};
    return turn;
}

void ht_data_add_system(struct hearth_data_reader *r, const json_t *value)
{
    struct ht_text system = ht_data_field(value, "system");
    if (!ht_data_blank(system))
        ht_data_add(r, HEARTH_ROLE_SYSTEM, system);
}

static struct ht_text turn_text(const struct hearth_data_turn *turn)
{
    return (struct ht_text){turn->text, turn->len_bytes};
}

// A question that is empty together with its second field, or no answer that says something.
static bool check_turns(struct hearth_data_reader *r, size_t n_turns)
{
    bool answered = false;
    for (size_t i = 0; i < n_turns; i++) {
        const struct hearth_data_turn *t = &r->turns[i];
        bool blank = ht_data_blank(turn_text(t));
        if (t->role == HEARTH_ROLE_ASSISTANT)
            answered |= !blank;
        bool called = i + 1 < n_turns && t[1].role == HEARTH_ROLE_CALLS;
        if (blank && (t->role == HEARTH_ROLE_USER || (t->role == HEARTH_ROLE_ASSISTANT && !called)) &&
            (!t->input || ht_data_blank((struct ht_text){t->input, t->input_len_bytes}))) {
            ht_data_skip(r, HEARTH_DATA_SKIP_EMPTY);
            return false;
        }
        answered |= t->role == HEARTH_ROLE_CALLS;
    }
    if (!answered)
        ht_data_skip(r, HEARTH_DATA_SKIP_NO_ANSWER);
    return answered;
}

static const char *first_of(struct hearth_data_reader *r, const json_t *meta, const char *const *keys)
{
    for (; *keys; keys++) {
        const json_t *value = json_object_get(meta, *keys);
        struct ht_text text = ht_data_text_of(value);
        if (json_is_integer(value)) {
            char *number = ht_data_take(&r->pool, 24, 1);
            if (!number)
                return "";
            snprintf(number, 24, "%lld", (long long)json_integer_value(value));
            return number;
        }
        if (text.len_bytes)
            return ht_data_string(&r->pool, text);
    }
    return "";
}

static void name_record(struct hearth_data_reader *r, struct hearth_data_record *record, const json_t *meta)
{
    static const char *const ids[] = {"id", "conversation_id", "message_tree_id", "prompt_id", "qid", NULL};
    static const char *const licenses[] = {"license", "licence", NULL};
    static const char *const languages[] = {"lang", "language", NULL};
    static const char *const teachers[] = {"teacher", "model", "model_name", NULL};
    record->source = r->source;
    record->line = r->line;
    record->id = first_of(r, meta, ids);
    record->license = first_of(r, meta, licenses);
    record->lang = first_of(r, meta, languages);
    record->teacher = first_of(r, meta, teachers);
    if (!*record->license)
        record->license = r->license ? r->license : "";
    if (!*record->lang)
        record->lang = r->lang ? r->lang : "";
    if (*record->id)
        return;
    char *id = ht_data_take(&r->pool, 24, 1);
    if (id)
        snprintf(id, 24, "h%016llx",
                 (unsigned long long)ht_data_content_hash(record->turns, record->n_turns, 1));
    record->id = id ? id : "";
}

static struct hearth_data_record *push(struct hearth_data_reader *r, const json_t *meta, size_t n_shared,
                                       size_t n_chosen)
{
    if (r->n_records == r->records_capacity) {
        void *p = r->records;
        size_t capacity = r->records_capacity ? 2 * r->records_capacity : 8;
        if (!ht_grow(&p, r->records_capacity, capacity, sizeof *r->records)) {
            r->failed = true;
            return NULL;
        }
        r->records = p;
        r->records_capacity = capacity;
    }
    struct hearth_data_turn *turns = ht_data_take(&r->pool, r->n_turns, sizeof *turns);
    if (!turns)
        return NULL;
    memcpy(turns, r->turns, r->n_turns * sizeof *turns);
    struct hearth_data_record *record = &r->records[r->n_records++];
    *record = (struct hearth_data_record){.turns = turns, .n_turns = n_chosen};
    if (n_chosen < r->n_turns) {
        record->rejected = turns + n_chosen;
        record->n_rejected = r->n_turns - n_chosen;
        record->n_shared = n_shared;
    }
    name_record(r, record, meta);
    return record;
}

struct hearth_data_record *ht_data_emit(struct hearth_data_reader *r, const json_t *meta)
{
    return !r->failed && check_turns(r, r->n_turns) ? push(r, meta, 0, r->n_turns) : NULL;
}

struct hearth_data_record *ht_data_emit_pair(struct hearth_data_reader *r, const json_t *meta, size_t n_shared,
                                             size_t n_chosen)
{
    if (r->failed || !check_turns(r, r->n_turns))
        return NULL;
    if (n_shared >= n_chosen || n_chosen >= r->n_turns) {
        ht_data_skip(r, HEARTH_DATA_SKIP_NO_ANSWER);
        return NULL;
    }
    return push(r, meta, n_shared, n_chosen);
}
