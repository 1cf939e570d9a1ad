// SPDX-License-Identifier: Apache-2.0
// From text and messages to token ids, with the engine's tokenizer and chat format. Any thread.
#ifndef HT_PROMPT_H
#define HT_PROMPT_H
#include "engine/model/session.h"

// Both write at most `capacity` ids and set *n_ids to how many there are; LIMIT if that is more. *n_shared_ids: how
// many at the beginning hold nothing but text of the first n_shared messages and of the template around them.
HT_MUST_USE enum hearth_status ht_prompt_from_text(const struct hearth_engine *engine, const char *text,
                                                   size_t len_bytes, unsigned flags, int32_t *ids,
                                                   size_t capacity, size_t *n_ids, struct hearth_error *err);
HT_MUST_USE enum hearth_status ht_prompt_from_messages(const struct hearth_engine *engine,
                                                       const struct hearth_message *messages,
                                                       size_t n_messages, size_t n_shared, int32_t *ids,
                                                       size_t capacity, size_t *n_ids, size_t *n_shared_ids,
                                                       struct hearth_error *err);

#endif
