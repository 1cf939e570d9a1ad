// SPDX-License-Identifier: Apache-2.0
// Trees of messages: a ChatGPT export's conversations and OASST's ranked replies. One path is learned; the answers that
// it left behind become rejected sides of pairs. Parsers over one item.
#include <string.h>

#include "engine/base/limits.h"
#include "engine/learn/data.h"

enum { MAX_TREE_MESSAGES = 4096 };

// ---------------------------------------------------------------- ChatGPT export

struct path { // node ids from the root to the current node
    const char **ids;
    size_t n;
};

static bool is(const json_t *object, const char *key, const char *text)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value && !strcmp(value, text);
}

// From `node` up to the root, turned round. False: a circle.
static bool find_path(struct hearth_data_reader *r, const json_t *mapping, const char *node, struct path *path)
{
    size_t n_nodes = json_object_size(mapping);
    path->ids = ht_data_take(&r->pool, n_nodes + 1, sizeof *path->ids);
    path->n = 0;
    for (const json_t *at; path->ids && node && (at = json_object_get(mapping, node));
         node = json_string_value(json_object_get(at, "parent"))) {
        if (path->n == n_nodes)
            return false;
        path->ids[path->n++] = node;
    }
    for (size_t i = 0; path->ids && i < path->n / 2; i++) {
        const char *swap = path->ids[i];
        path->ids[i] = path->ids[path->n - 1 - i];
        path->ids[path->n - 1 - i] = swap;
    }
    return true;
}

// The role and text of a node's message; role 0: nothing that a person saw.
static enum hearth_role visible(struct hearth_data_reader *r, const json_t *node, struct ht_text *text)
{
    const json_t *message = json_object_get(node, "message"), *content = json_object_get(message, "content"), *part;
    const json_t *type = json_object_get(content, "content_type"), *metadata = json_object_get(message, "metadata");
    const json_t *recipient = json_object_get(message, "recipient");
    struct ht_text name = ht_data_field(json_object_get(message, "author"), "role");
    size_t i;
    *text = (struct ht_text){"", 0};
    enum hearth_role role = name.bytes ? ht_data_role(name) : (enum hearth_role)0;
    if ((role != HEARTH_ROLE_USER && role != HEARTH_ROLE_ASSISTANT) || is(message, "channel", "analysis") ||
        json_is_true(json_object_get(metadata, "is_visually_hidden_from_conversation")) ||
        (json_is_string(recipient) && !is(message, "recipient", "all")) ||
        (type && !is(content, "content_type", "text") && !is(content, "content_type", "multimodal_text")))
        return (enum hearth_role)0;
    json_array_foreach(json_object_get(content, "parts"), i, part)
    {
        struct ht_text piece = json_is_string(part) ? ht_data_text_of(part) : ht_data_field(part, "text");
        if (piece.len_bytes)
            *text = text->len_bytes ? ht_data_join(&r->pool, *text, "\n", piece) : piece;
    }
    return ht_data_blank(*text) ? (enum hearth_role)0 : role;
}

// The first visible text below a node, along the last children; role 0 = none.
static enum hearth_role below(struct hearth_data_reader *r, const json_t *mapping, const char *id, struct ht_text *text)
{
    for (size_t left = json_object_size(mapping); id && left; left--) {
        const json_t *node = json_object_get(mapping, id), *children = json_object_get(node, "children");
        enum hearth_role role = visible(r, node, text);
        if (role)
            return role;
        size_t n = json_array_size(children);
        id = n ? json_string_value(json_array_get(children, n - 1)) : NULL;
    }
    return (enum hearth_role)0;
}

static void join_or_add(struct hearth_data_reader *r, enum hearth_role role, struct ht_text text)
{
    struct hearth_data_turn *last = r->n_turns ? &r->turns[r->n_turns - 1] : NULL;
    if (!last || last->role != role) {
        ht_data_add(r, role, text);
        return;
    }
    struct ht_text joined = ht_data_join(&r->pool, (struct ht_text){last->text, last->len_bytes}, "\n\n", text);
    last->text = joined.bytes ? joined.bytes : "";
    last->len_bytes = joined.len_bytes;
    ht_data_fix(r, HEARTH_DATA_FIX_MERGED);
}

// The other children of the node before path[i], as rejected answers; turn t is what the path has there. Only the turns
// up to t stand in r, and t is the last one.
static void emit_left_behind(struct hearth_data_reader *r, const json_t *conversation, const json_t *mapping,
                             const struct path *path, size_t i, size_t t)
{
    const json_t *children = json_object_get(json_object_get(mapping, path->ids[i - 1]), "children"), *child;
    size_t k;
    json_array_foreach(children, k, child)
    {
        const char *id = json_string_value(child);
        struct ht_text text;
        if (!id || !strcmp(id, path->ids[i]) || below(r, mapping, id, &text) != HEARTH_ROLE_ASSISTANT)
            continue;
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, text);
        struct hearth_data_record *record = ht_data_emit_pair(r, conversation, t, t + 1);
        if (record)
            record->pair_only = true;
        r->n_turns = t + 1;
    }
}

// Puts the path's turns into r; turn_of[i] = the turn that begins at or after node i.
static void gather(struct hearth_data_reader *r, const json_t *mapping, const struct path *path, size_t *turn_of)
{
    ht_data_begin(r);
    for (size_t i = 0; i < path->n; i++) {
        struct ht_text text;
        const json_t *node = json_object_get(mapping, path->ids[i]);
        enum hearth_role role = visible(r, node, &text);
        turn_of[i] = r->n_turns;
        if (role)
            join_or_add(r, role, text);
        else if (json_is_object(json_object_get(node, "message")))
            ht_data_fix(r, HEARTH_DATA_FIX_HIDDEN);
    }
}

void ht_data_chatgpt(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *mapping = json_object_get(value, "mapping");
    const char *current = json_string_value(json_object_get(value, "current_node"));
    struct path path;
    if (!json_is_object(mapping) || !current || !json_object_get(mapping, current)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
        return;
    }
    if (!find_path(r, mapping, current, &path)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_CYCLE);
        return;
    }
    size_t *turn_of = ht_data_take(&r->pool, path.n + 1, sizeof *turn_of);
    if (!path.ids || !turn_of)
        return;
    gather(r, mapping, &path, turn_of);
    if (r->n_turns && r->turns[0].role == HEARTH_ROLE_ASSISTANT) {
        ht_data_fix(r, HEARTH_DATA_FIX_LEADING);
        memmove(r->turns, r->turns + 1, --r->n_turns * sizeof *r->turns);
        for (size_t i = 0; i < path.n; i++)
            turn_of[i] = turn_of[i] ? turn_of[i] - 1 : SIZE_MAX;
    }
    if (r->n_turns && r->turns[r->n_turns - 1].role == HEARTH_ROLE_USER) {
        r->n_turns--;
        ht_data_fix(r, HEARTH_DATA_FIX_TRAILING);
    }
    size_t n_turns = r->n_turns;
    if (!ht_data_emit(r, value))
        return;
    struct hearth_data_turn *all = ht_data_take(&r->pool, n_turns, sizeof *all);
    if (!all)
        return;
    memcpy(all, r->turns, n_turns * sizeof *all);
    for (size_t i = 1; i < path.n && !r->failed; i++) {
        size_t t = turn_of[i];
        bool begins = t < n_turns && all[t].role == HEARTH_ROLE_ASSISTANT;
        if (!begins || json_array_size(json_object_get(json_object_get(mapping, path.ids[i - 1]), "children")) < 2)
            continue;
        memcpy(r->turns, all, n_turns * sizeof *all);
        r->n_turns = t + 1;
        emit_left_behind(r, value, mapping, &path, i, t);
    }
}

// ---------------------------------------------------------------- OASST

static double rank_of(const json_t *message)
{
    const json_t *rank = json_object_get(message, "rank");
    return json_is_number(rank) ? json_number_value(rank) : 1e9;
}

static bool usable(const json_t *message)
{
    return !json_is_true(json_object_get(message, "deleted")) && ht_data_field(message, "text").bytes;
}

static const json_t *best_reply(const json_t *replies)
{
    const json_t *best = NULL, *reply;
    size_t i;
    json_array_foreach(replies, i, reply)
        if (usable(reply) && (!best || rank_of(reply) < rank_of(best)))
            best = reply;
    return best;
}

// Ranked replies that the best one beats, as pairs. The turns up to the best reply stand in r.
static void emit_worse(struct hearth_data_reader *r, const json_t *meta, const json_t *replies, const json_t *best)
{
    const json_t *reply;
    size_t i, n = r->n_turns;
    json_array_foreach(replies, i, reply)
    {
        if (!usable(reply) || rank_of(reply) >= 1e9 || rank_of(reply) <= rank_of(best))
            continue;
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, ht_data_field(reply, "text"));
        struct hearth_data_record *record = ht_data_emit_pair(r, meta, n - 1, n);
        if (record)
            record->pair_only = true;
        r->n_turns = n;
    }
}

// Walks the best replies from `message`: first the conversation, then (with pairs) what was left behind.
static bool walk(struct hearth_data_reader *r, const json_t *meta, const json_t *message, bool pairs)
{
    ht_data_begin(r);
    while (message) {
        struct ht_text role = ht_data_field(message, "role"), text = ht_data_field(message, "text");
        enum hearth_role known = role.bytes ? ht_data_role(role) : (enum hearth_role)0;
        if (!text.bytes || (known != HEARTH_ROLE_USER && known != HEARTH_ROLE_ASSISTANT)) {
            ht_data_skip(r, text.bytes ? HEARTH_DATA_SKIP_UNKNOWN_ROLE : HEARTH_DATA_SKIP_MISSING_FIELD);
            return false;
        }
        ht_data_add(r, known, text);
        const json_t *replies = json_object_get(message, "replies"), *best = best_reply(replies);
        if (pairs && best && known == HEARTH_ROLE_USER) {
            ht_data_add(r, HEARTH_ROLE_ASSISTANT, ht_data_field(best, "text"));
            emit_worse(r, meta, replies, best);
            r->n_turns--;
        }
        message = best;
    }
    return !r->failed;
}

static void take_tree(struct hearth_data_reader *r, const json_t *tree, const json_t *root)
{
    const json_t *id = json_object_get(tree, "message_tree_id");
    struct ht_text role = ht_data_field(root, "role");
    if (role.bytes && ht_data_role(role) == HEARTH_ROLE_ASSISTANT) { // its question is not there
        ht_data_skip(r, HEARTH_DATA_SKIP_NOT_ALTERNATING);
        return;
    }
    json_t *meta = json_pack("{s:O?, s:O?, s:O?}", "id", id ? id : json_object_get(root, "message_id"), "lang",
                             json_object_get(root, "lang"), "model_name", json_object_get(root, "model_name"));
    if (!walk(r, meta, root, false)) {
        json_decref(meta);
        return;
    }
    if (r->n_turns && r->turns[r->n_turns - 1].role == HEARTH_ROLE_USER) {
        r->n_turns--;
        ht_data_fix(r, HEARTH_DATA_FIX_TRAILING);
    }
    if (ht_data_emit(r, meta))
        walk(r, meta, root, true);
    json_decref(meta);
}

// Does the chain of parents end? One that runs in a circle is reached from no root.
static bool rooted(const json_t *index, const json_t *message)
{
    for (size_t left = json_object_size(index) + 1; left; left--) {
        const char *id = json_string_value(json_object_get(message, "parent_id"));
        message = id ? json_object_get(index, id) : NULL;
        if (!message)
            return true;
    }
    return false;
}

// Links the messages that were gathered one by one, by parent_id, and walks from the root.
static void end_tree(struct hearth_data_reader *r)
{
    json_t *tree = r->tree, *message, *parent, *index = json_object();
    const json_t *root = NULL;
    uint64_t line = r->line;
    size_t i;
    r->line = r->tree_line;
    r->tree = NULL;
    r->tree_bytes = 0;
    json_array_foreach(tree, i, message)
    {
        const char *id = json_string_value(json_object_get(message, "message_id"));
        if (id)
            json_object_set(index, id, message);
    }
    json_array_foreach(tree, i, message)
    {
        const char *id = json_string_value(json_object_get(message, "parent_id"));
        parent = id ? json_object_get(index, id) : NULL;
        if (!parent) {
            root = root ? root : message;
            continue;
        }
        if (!rooted(index, message))
            continue;
        if (!json_object_get(parent, "replies"))
            json_object_set_new(parent, "replies", json_array());
        json_array_append(json_object_get(parent, "replies"), message);
    }
    if (root)
        take_tree(r, root, root);
    else
        ht_data_skip(r, HEARTH_DATA_SKIP_CYCLE);
    r->line = line;
    json_decref(index);
    r->value = json_incref(tree); // what the records point into
    json_decref(tree);
}

static bool same_tree(const json_t *a, const json_t *b)
{
    const char *x = json_string_value(json_object_get(a, "message_tree_id"));
    const char *y = json_string_value(json_object_get(b, "message_tree_id"));
    return x && y && !strcmp(x, y);
}

// A tree with nested replies, or one message (gathered until another tree begins). NULL: the file has ended.
void ht_data_oasst(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *prompt = json_object_get(value, "prompt");
    if (json_is_object(prompt)) {
        take_tree(r, value, prompt);
        return;
    }
    if (value && (!json_is_string(json_object_get(value, "message_id")) || !ht_data_field(value, "text").bytes)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
        return;
    }
    json_t *message = value ? json_copy((json_t *)value) : NULL;
    if (r->tree && (!message || !same_tree(json_array_get(r->tree, 0), message))) {
        json_decref(r->value);
        r->value = NULL;
        end_tree(r);
    }
    if (!message)
        return;
    if (!r->tree) {
        r->tree = json_array();
        r->tree_line = r->line;
    }
    if (json_array_size(r->tree) == MAX_TREE_MESSAGES || r->tree_bytes + r->item_bytes > HT_MAX_DATA_RECORD_BYTES) {
        ht_data_skip(r, HEARTH_DATA_SKIP_TOO_LARGE);
        json_decref(message);
        return;
    }
    r->tree_bytes += r->item_bytes;
    json_array_append_new(r->tree, message);
}
