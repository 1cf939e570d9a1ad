// SPDX-License-Identifier: Apache-2.0
// Training data inside the engine: a file as items, items as records, records as tokens. One thread per object.
//
// A record's texts lie in its parsed JSON or in the reader's pool; both live until the next item is taken. The pool
// answers NULL when memory is short and remembers it, so that parsers need no error path of their own.
#ifndef HT_DATA_H
#define HT_DATA_H
#include <jansson.h>

#include "engine/base/error.h"
#include "engine/learn.h"
#include "engine/text/tokenizer.h"

// ---------------------------------------------------------------- memory (data_pool.c)

struct ht_data_block;
struct ht_data_pool {
    struct ht_data_block *first;
    bool failed; // sticky until reset
};
void *ht_data_take(struct ht_data_pool *pool, size_t count, size_t size_bytes); // zeroed
void ht_data_reset(struct ht_data_pool *pool);
void ht_data_pool_free(struct ht_data_pool *pool);

// A text in the making, in a pool: room for `capacity` bytes is taken at once, what goes beyond is a failure.
struct ht_data_out {
    char *bytes;
    size_t n, capacity;
};
struct ht_data_out ht_data_out_make(struct ht_data_pool *pool, size_t capacity);
void ht_data_put(struct ht_data_out *out, const char *bytes, size_t len_bytes);
struct ht_text ht_data_trim(struct ht_text text); // white space of ASCII at both ends
struct ht_text ht_data_join(struct ht_data_pool *pool, struct ht_text a, const char *between, struct ht_text b);
const char *ht_data_string(struct ht_data_pool *pool, struct ht_text text); // NUL-terminated; "" on failure

uint64_t ht_data_hash(const void *bytes, size_t len_bytes, uint64_t seed);

// A set of 64-bit values; 0 is stored as 1.
struct ht_data_seen {
    uint64_t *slots;
    size_t n, capacity;
};
// *fresh = it was not in. NOMEM, LIMIT.
HT_MUST_USE enum hearth_status ht_data_seen_add(struct ht_data_seen *seen, uint64_t value, bool *fresh,
                                                struct hearth_error *err);
void ht_data_seen_free(struct ht_data_seen *seen);

// ---------------------------------------------------------------- a file as items (data_stream.c)

enum ht_data_mode { HT_DATA_LINES, HT_DATA_ARRAY, HT_DATA_VALUES, HT_DATA_TEXT };
struct ht_data_stream {
    struct ht_file *file;
    uint64_t offset; // read so far
    char *buf;
    size_t at, end, capacity;
    uint64_t line; // of buf[at], from 1
    enum ht_data_mode mode;
    bool opened, closed; // of an array: '[' and ']' were seen
    bool wrapped;        // it is the value of an object's key: '}' follows it
    bool ended;
};
struct ht_data_item {
    struct ht_text text;
    uint64_t line;
    bool last;      // nothing follows, not even the end of its line
    bool unusable;  // `skip` says why
    enum hearth_data_skip skip;
};
HT_MUST_USE enum hearth_status ht_data_stream_open(struct ht_data_stream *stream, const char *path,
                                                   struct hearth_error *err);
void ht_data_stream_close(struct ht_data_stream *stream);
// The first bytes that are there, for detection.
struct ht_text ht_data_stream_peek(const struct ht_data_stream *stream);
// False in *more at the end.
HT_MUST_USE enum hearth_status ht_data_stream_next(struct ht_data_stream *stream, struct ht_data_item *item, bool *more,
                                                   struct hearth_error *err);

// ---------------------------------------------------------------- items as records

struct hearth_data_reader {
    struct ht_data_stream stream;
    struct ht_data_pool pool;
    struct hearth_data_reader_params params;
    enum hearth_data_format format;
    char *path;
    const char *source;
    char *license, *lang;
    json_t *value;  // of the item at hand
    uint64_t line;
    struct hearth_data_turn *turns; // of the record in the making
    size_t n_turns, turns_capacity;
    struct hearth_data_record *records; // made of the item at hand
    size_t n_records, records_capacity, next_record;
    struct ht_data_seen ids, pairs;
    json_t *tree;   // messages of an OASST tree that come one a line, until the next tree begins
    size_t tree_bytes, item_bytes;
    uint64_t tree_line; // where it begins
    struct hearth_data_counts counts;
    bool plain;  // lines or text, no JSON
    bool failed; // memory was short in a list; sticky
};

struct ht_text ht_data_text_of(const json_t *value); // of a string; NULL bytes for anything else
struct ht_text ht_data_field(const json_t *object, const char *key);
bool ht_data_blank(struct ht_text text);
enum hearth_role ht_data_role(struct ht_text name); // 0 = unknown
void ht_data_skip(struct hearth_data_reader *r, enum hearth_data_skip reason);
void ht_data_fix(struct hearth_data_reader *r, enum hearth_data_fix fix);

// The record in the making: begin, add turns, emit.
void ht_data_begin(struct hearth_data_reader *r);
void ht_data_add_system(struct hearth_data_reader *r, const json_t *value); // its field "system", unless blank
// Its field "tools": functions, or a string that spells them; nothing without one. False: something else (counted).
bool ht_data_add_tools(struct hearth_data_reader *r, const json_t *value);
// A turn of calls out of what a file has: a call, a list of them, or a string that spells either. False: counted.
bool ht_data_add_calls(struct hearth_data_reader *r, const json_t *calls, float weight);
struct hearth_data_turn *ht_data_add(struct hearth_data_reader *r, enum hearth_role role, struct ht_text text);
// Checks questions and answers, names the record from `meta` (NULL = nothing is said) and counts it. NULL: skipped.
struct hearth_data_record *ht_data_emit(struct hearth_data_reader *r, const json_t *meta);
// The same with turns [n_shared, n_chosen) preferred to [n_chosen, n_turns).
struct hearth_data_record *ht_data_emit_pair(struct hearth_data_reader *r, const json_t *meta, size_t n_shared,
                                             size_t n_chosen);

void ht_data_alpaca(struct hearth_data_reader *r, const json_t *value);
void ht_data_dolly(struct hearth_data_reader *r, const json_t *value);
void ht_data_baize(struct hearth_data_reader *r, const json_t *value);
void ht_data_daily(struct hearth_data_reader *r, const json_t *value);
void ht_data_daily_line(struct hearth_data_reader *r, struct ht_text line);
void ht_data_messages(struct hearth_data_reader *r, const json_t *value);
void ht_data_export(struct hearth_data_reader *r, const json_t *value);
void ht_data_preference(struct hearth_data_reader *r, const json_t *value);
void ht_data_chatgpt(struct hearth_data_reader *r, const json_t *value);
void ht_data_oasst(struct hearth_data_reader *r, const json_t *value);
HT_MUST_USE enum hearth_status ht_data_sharegpt(struct hearth_data_reader *r, const json_t *value,
                                                struct hearth_error *err);
void ht_data_text_record(struct hearth_data_reader *r, const json_t *value);

// What a run calls the file.
const char *ht_data_file_name(const struct hearth_data_file *file);

// The format an object looks like; AUTO = unknown.
enum hearth_data_format ht_data_detect(const json_t *value);

// An answer copied out of a page: HTML to Markdown, the page's own words removed (data_html.c).
struct ht_text ht_data_clean(struct ht_data_pool *pool, struct ht_text text, bool *was_html);

// ---------------------------------------------------------------- duplicates (data_near.c)

struct ht_data_near;
HT_MUST_USE enum hearth_status ht_data_near_create(struct ht_data_near **near, double threshold,
                                                   struct hearth_error *err);
void ht_data_near_destroy(struct ht_data_near **near);
// Is there a record like this one? If not, it is kept.
HT_MUST_USE enum hearth_status ht_data_near_add(struct ht_data_near *near, const struct hearth_data_record *record,
                                                bool *like, struct hearth_error *err);
uint64_t ht_data_content_hash(const struct hearth_data_turn *turns, size_t n_turns, uint64_t seed);

// ---------------------------------------------------------------- sets (data_set.c)

// The id of the whole record that the sample at hand is of: it decides the split and the copies.
const char *ht_data_set_id(const struct hearth_data_set *set);
// Copies of a record in an epoch.
unsigned ht_data_copies(const char *id, double weight, uint64_t seed, uint32_t epoch);

// ---------------------------------------------------------------- records as tokens (data_tokens.c)

struct ht_data_tokens {
    struct ht_tokens list;
    struct ht_segment *segments;
    struct ht_chat_message *messages;
    float *weights, *segment_weights;
    int32_t *ids;
    size_t n, n_targets, segments_capacity, messages_capacity, tokens_capacity;
};
// Renders turns [0, n) into ids and weights. INVALID, UNSUPPORTED: the template cannot express it.
HT_MUST_USE enum hearth_status ht_data_tokenize(struct ht_data_tokens *tokens, const struct hearth_engine *engine,
                                                const struct hearth_data_turn *turns, size_t n_turns, bool raw,
                                                enum hearth_data_mask mask, struct hearth_error *err);
void ht_data_tokens_free(struct ht_data_tokens *tokens);
// Keeps tokens [from, to).
void ht_data_tokens_cut(struct ht_data_tokens *tokens, size_t from, size_t to);

#endif
