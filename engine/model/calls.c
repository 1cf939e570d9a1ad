// SPDX-License-Identifier: Apache-2.0
// The public face of engine/text/chat_calls.h. Pure; any thread.
#include "engine/engine.h"
#include "engine/text/chat_calls.h"

void hearth_answer_next(const char *tool_format, const char *text, size_t len_bytes, bool end,
                        struct hearth_piece *piece)
{
    struct ht_piece found = {.state = piece->state};
    ht_calls_next(ht_chat_tools_find(tool_format), text, len_bytes, end, &found);
    *piece = (struct hearth_piece){
        .state = found.state,
        .type = (enum hearth_piece_type)found.type,
        .used_bytes = found.used_bytes,
        .text = found.text.bytes,
        .len_bytes = found.text.len_bytes,
        .name = found.name.bytes,
        .name_len_bytes = found.name.len_bytes,
        .arguments = found.arguments.bytes,
        .arguments_len_bytes = found.arguments.len_bytes,
    };
}
