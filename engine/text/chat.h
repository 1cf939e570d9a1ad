// SPDX-License-Identifier: Apache-2.0
// Chat formats as data: messages in, segments out. Any thread; nothing is allocated.
//
// A format is recognised from the template string of the model file (by the marks it contains) or named by
// the user. Rendering points into the caller's messages, the format's constants and struct ht_chat; every
// segment says who wrote it, so that the tokenizer recognises control tokens in template bytes only. A
// template interpreter can take the place of a format later: it only has to yield segments with origins.
#ifndef HT_CHAT_H
#define HT_CHAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/text/tokenizer.h"

enum ht_role { // as enum hearth_role
    HT_ROLE_SYSTEM = 1,
    HT_ROLE_USER = 2,
    HT_ROLE_ASSISTANT = 3,
    HT_ROLE_TOOL = 4,
    HT_ROLE_TOOLS = 5,
    HT_ROLE_CALLS = 6
};

struct ht_chat_message {
    enum ht_role role;
    const char *text;
    size_t len_bytes;
    // A user turn's second field (Alpaca's "input", Dolly's "context"); NULL = none. Formats without a place
    // for it put it below the text, after an empty line.
    const char *input;
    size_t input_len_bytes;
};

struct ht_chat_format; // one built-in format
struct ht_chat_tools;  // one way to spell tools

enum { HT_CHAT_SYSTEM_BYTES = 4096, HT_CHAT_MARK_BYTES = 64, HT_CHAT_MAX_STOPS = 3 };

// A format as one model uses it. Filled by ht_chat_init; read-only afterwards. Segments point into it, so it
// must outlive them and must not move.
struct ht_chat {
    const struct ht_chat_format *format; // NULL: completion mode ("none")
    const struct ht_chat_tools *tools;   // NULL: it has none
    char system[HT_CHAT_SYSTEM_BYTES];   // system text when the messages bring none; NUL-terminated
    size_t system_len_bytes;             // 0 = none
    bool late_system;                    // system messages may stand behind others, and stay there
    char bos[HT_CHAT_MARK_BYTES], eos[HT_CHAT_MARK_BYTES]; // spellings of the model's BOS and EOS, "" = none
};

// `name` (what --template was given) wins: a built-in name, or "none"/"raw" for completion mode; NULL = use
// `jinja`, the file's template (NULL or empty: completion mode). NOT_FOUND for an unknown name, UNSUPPORTED
// for a template that is not recognised (the message names --template). `tokenizer` gives the spellings of
// BOS and EOS; NULL = "<s>", "</s>".
HT_MUST_USE enum hearth_status ht_chat_init(struct ht_chat *chat, const char *name, const char *jinja,
                                            size_t jinja_len_bytes, const struct ht_tokenizer *tokenizer,
                                            struct hearth_error *err);

// "chatml", or "none" in completion mode; never NULL.
const char *ht_chat_name(const struct ht_chat *chat);
// "hermes", "" where the template has no tools; never NULL.
const char *ht_chat_tool_format(const struct ht_chat *chat);
// The mark that opens a call in an answer, NULL if there is none: a control token is spelt out where it is that.
const char *ht_chat_call_mark(const struct ht_chat *chat);
// NULL-terminated names of the built-in formats.
const char *const *ht_chat_names(void);
// NULL-terminated stop strings that the format needs beside the model's end tokens (at most
// HT_CHAT_MAX_STOPS). One that is spelt like a control token (ht_tokenizer_find_special) ends the turn as
// that id.
const char *const *ht_chat_stops(const struct ht_chat *chat);

// Segments that n_messages can need at most, but for TOOLS, TOOL and CALLS: a render with capacity 0 counts those.
size_t ht_chat_max_segments(size_t n_messages);

// Renders the messages. With `generation` the text ends where the assistant speaks next, and the last message must
// not be the assistant's; without it the last turn is closed (training). `turn` of a segment is the message's index;
// of a default system text and of the text before any message 0, of the generation prompt n_messages. Where TOOLS
// come first, the system text may be the second message. INVALID for no message, and for what the format cannot
// express: a system text where it has no place for one, or behind other messages (unless late_system); assistant
// first or two turns of one role in a row where turns must alternate. UNSUPPORTED in completion mode and for tools
// where the template has none; LIMIT when `capacity` is too small (*n_segments is what is needed).
HT_MUST_USE enum hearth_status ht_chat_render(const struct ht_chat *chat,
                                              const struct ht_chat_message *messages, size_t n_messages,
                                              bool generation, struct ht_segment *segments, size_t capacity,
                                              size_t *n_segments, struct hearth_error *err);

#endif
