// SPDX-License-Identifier: Apache-2.0
// The tokenizer and the chat format out of a model file. The loading thread.
#ifndef HT_VOCAB_H
#define HT_VOCAB_H
#include "engine/gguf/gguf.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

HT_MUST_USE enum hearth_status ht_vocab_load(const struct ht_gguf *gguf, struct ht_tokenizer **tokenizer,
                                             struct hearth_error *err);
// name: what --template said, or NULL for the file's own template.
HT_MUST_USE enum hearth_status ht_vocab_chat(const struct ht_gguf *gguf, const char *name,
                                             const struct ht_tokenizer *tokenizer, struct ht_chat *chat,
                                             struct hearth_error *err);

#endif
