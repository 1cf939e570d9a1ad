// SPDX-License-Identifier: Apache-2.0
// Finds tool calls in an answer as it comes. Pure; any thread.
#ifndef HT_CHAT_CALLS_H
#define HT_CHAT_CALLS_H
#include "engine/text/chat_tools.h"

enum ht_answer_state { HT_ANSWER_START = 0, HT_ANSWER_CALLED = 1, HT_ANSWER_TEXT, HT_ANSWER_LIST };
enum ht_piece_type { HT_PIECE_NONE = 0, HT_PIECE_TEXT, HT_PIECE_CALL };

struct ht_piece { // as struct hearth_piece
    unsigned state;
    enum ht_piece_type type;
    size_t used_bytes;
    struct ht_text text, name, arguments;
};
// `tools` NULL: everything is text.
void ht_calls_next(const struct ht_chat_tools *tools, const char *text, size_t len_bytes, bool end,
                   struct ht_piece *piece);

#endif
