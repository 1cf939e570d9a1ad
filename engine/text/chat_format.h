// SPDX-License-Identifier: Apache-2.0
// One chat format as data. In the strings \1 stands for the model's BOS, \2 for its EOS, \3 for the number of
// the round (1 for the first user turn).
#ifndef HT_CHAT_FORMAT_H
#define HT_CHAT_FORMAT_H
#include "engine/text/chat.h"
#include "engine/text/chat_tools.h"

#define HT_BOS   "\1"
#define HT_EOS   "\2"
#define HT_ROUND "\3"

enum ht_chat_system {
    HT_CHAT_SYSTEM_FIRST = 0, // before the first turn
    HT_CHAT_SYSTEM_IN_USER,   // inside the first user turn, before its text
    HT_CHAT_SYSTEM_NONE,      // no place for one
};

struct ht_chat_format {
    const char *name;
    const char *begin; // before everything
    enum ht_chat_system place;
    const char *system;       // text when the messages bring none; NULL = nothing at all
    const char *system_input; // the same when the first user turn has an input; NULL = `system`
    const char *system_before, *system_after;
    const char *system_later; // before a system text behind other messages, which stays there; NULL = refused
    const char *between;                                 // before every user turn but the first
    const char *user_before, *input_before, *user_after; // input_before NULL = an empty line
    const char *header;     // what makes the assistant speak: a prompt ends with it
    const char *lead;       // between header and answer
    const char *prompt_end; // after the header in a prompt only
    const char *end;        // after an answer, learned with it
    const char *last_end;   // the same for the last turn of all; NULL = `end`
    const char *gap;        // after that, not learned
    const char *stops[HT_CHAT_MAX_STOPS + 1];
    bool alternates;   // user and assistant must take turns, user first
    bool trims;        // white space around turns is removed
    bool trims_joined; // … around system and first user text taken together
    bool trims_system;
    bool input_always; // the place of the input is written even when there is none
    // Answers before the last user turn lose their "<think>…</think>"; a last answer without one gets an
    // empty one.
    bool forgets_thoughts;
    bool system_always; // the system turn is written even when it is empty
    const struct ht_chat_tools *tools; // of a format that is chosen by name; a template's own marks decide else
};

extern const struct ht_chat_format ht_chat_formats[];
extern const size_t ht_chat_n_formats;

const struct ht_chat_format *ht_chat_find_format(const char *name); // NULL = unknown
// The format whose marks a template string has, NULL if none; and the system text that it spells out, copied
// to chat->system (LIMIT if it does not fit).
HT_MUST_USE enum hearth_status ht_chat_recognise(struct ht_chat *chat, const char *jinja, size_t len_bytes,
                                                 struct hearth_error *err);

#endif
