// SPDX-License-Identifier: Apache-2.0
// How a family of models was taught to be given tools, to call them and to hear from them: one family as data, how
// it is rendered, and how calls are found in an answer. NULL strings stand for nothing. Any thread; nothing is
// allocated.
#ifndef HT_CHAT_TOOLS_H
#define HT_CHAT_TOOLS_H
#include "engine/text/chat.h"

enum ht_tools_place { HT_TOOLS_IN_SYSTEM = 0, HT_TOOLS_FIRST_USER, HT_TOOLS_LAST_USER };

struct ht_chat_tools {
    const char *name;
    // the tools
    enum ht_tools_place place;
    const char *system_mark; // at the beginning of the system text
    const char *begin, *item_before, *item_after, *between, *end;
    bool function_only; // of {"type", "function": {…}} the inner part, its own strings without escapes
    bool indented;      // over lines, four blanks a level
    // the assistant's calls
    const char *calls_begin, *call_between, *name_before, *arguments_before, *id_before, *call_end,
        *calls_end;
    bool one_call, drops_text; // at most one in a turn; beside calls the turn's text is left out
    const char *forced;        // what a turn begins with that shall be a call
    // what the tools gave back
    const char *results_begin, *result_before, *result_id_before, *result_after, *results_end;
    bool quoted; // as a JSON string
    // in an answer
    const char *open,
        *close; // around calls; open NULL: the whole answer is one JSON object, or none is a call
};
extern const struct ht_chat_tools ht_tools_hermes, ht_tools_llama31, ht_tools_mistral,
    ht_tools_mistral_tekken;

const struct ht_chat_tools *ht_chat_tools_find(const char *name); // NULL = unknown
// The family whose marks a template string has, NULL if none.
const struct ht_chat_tools *ht_chat_tools_recognise(const char *jinja, size_t len_bytes);

// Puts bytes into a prompt; `from_template` as in struct ht_segment.
typedef void ht_tools_put(void *user, const char *bytes, size_t len_bytes, bool from_template);
// TOOLS as rendered. INVALID if it is not an array of functions.
HT_MUST_USE enum hearth_status ht_tools_render(const struct ht_chat_tools *tools,
                                               const struct ht_chat_message *message, ht_tools_put *put,
                                               void *user, struct hearth_error *err);
// CALLS; empty: the beginning of one.
HT_MUST_USE enum hearth_status ht_calls_render(const struct ht_chat_tools *tools,
                                               const struct ht_chat_message *message, ht_tools_put *put,
                                               void *user, struct hearth_error *err);
// The index-th of the tools' answers to `calls` (NULL: it is not known to which).
void ht_result_render(const struct ht_chat_tools *tools, const struct ht_chat_message *message,
                      const struct ht_chat_message *calls, size_t index, ht_tools_put *put, void *user);
#endif
