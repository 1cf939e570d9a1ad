// SPDX-License-Identifier: Apache-2.0
// What the files of the tokenizer share. Read-only once built.
#ifndef HT_TOKENIZER_INTERNAL_H
#define HT_TOKENIZER_INTERNAL_H
#include "engine/text/vocabulary.h"

struct ht_tokenizer {
    struct ht_vocab vocab;
};

#endif
