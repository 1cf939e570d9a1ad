// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back: byte-level BPE (GGUF model "gpt2") and SentencePiece-BPE ("llama").
//
// A tokenizer is built once from a vocabulary as the model file spells it, checked entry by entry, and never
// changes afterwards: any thread may use it. Text comes as segments, each with an origin. Control tokens
// (type 3) are recognised in template bytes only, so nobody can type one; user-defined tokens (type 4)
// everywhere. Splitting and merging run across segment borders as if the text were one string. Ids equal
// those of the `tokenizers` and `sentencepiece` libraries for every valid UTF-8 text; invalid bytes pass
// through byte tokens. A byte for which a byte-level vocabulary has no token (SmolLM2 lacks some control
// characters) is left out, as `tokenizers` does, and counted. Time is n log n at worst, memory is
// proportional to the longest stretch without a place to split.
#ifndef HT_TOKENIZER_H
#define HT_TOKENIZER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

struct ht_text {
    const char *bytes; // not NUL-terminated
    size_t len_bytes;
};

// GGUF's tokenizer.ggml.token_type.
enum ht_token_type {
    HT_TOKEN_UNDEFINED = 0,
    HT_TOKEN_NORMAL = 1,
    HT_TOKEN_UNKNOWN = 2,
    HT_TOKEN_CONTROL = 3,
    HT_TOKEN_USER_DEFINED = 4,
    HT_TOKEN_UNUSED = 5,
    HT_TOKEN_BYTE = 6,
};

// A flag of the model file: absent means "what the tokenizer model does by default".
enum ht_vocab_flag { HT_FLAG_ABSENT = 0, HT_FLAG_NO = 1, HT_FLAG_YES = 2 };

// The tokenizer keys of a model file; read by ht_tokenizer_create only, nothing of it is kept.
struct ht_vocab_source {
    const char *file;         // for messages; NULL allowed
    const char *architecture; // general.architecture; NULL allowed
    const char *model;        // tokenizer.ggml.model: "gpt2", "llama"
    const char *pre;          // tokenizer.ggml.pre; NULL = absent. Only "gpt2" looks at it
    size_t n_tokens;
    const struct ht_text *tokens; // (n_tokens)
    const float *scores;          // (n_tokens), or NULL; "llama" needs them
    const int32_t *types;         // (n_tokens), or NULL = all normal
    size_t n_merges;
    const struct ht_text *merges;                           // (n_merges) "left right"; "gpt2" needs them
    int64_t bos_id, eos_id, eot_id, eom_id, unk_id, pad_id; // -1 = absent; any other value must be < n_tokens
    enum ht_vocab_flag add_bos, add_eos, add_space_prefix;
};

struct ht_tokenizer;

// FORMAT or LIMIT name what is wrong with the vocabulary and which entry; UNSUPPORTED names an unknown
// tokenizer model or pre-tokenizer. On failure *tokenizer is NULL.
HT_MUST_USE enum hearth_status ht_tokenizer_create(struct ht_tokenizer **tokenizer,
                                                   const struct ht_vocab_source *source,
                                                   struct hearth_error *err);
void ht_tokenizer_destroy(struct ht_tokenizer **tokenizer);

// ---------------------------------------------------------------- encode

// Who wrote the bytes. Bits, because one token may hold bytes of two segments.
enum ht_origin { HT_ORIGIN_TEMPLATE = 1, HT_ORIGIN_SYSTEM = 2, HT_ORIGIN_USER = 4, HT_ORIGIN_ASSISTANT = 8 };

struct ht_segment {
    const char *bytes; // NULL only when len_bytes is 0
    size_t len_bytes;
    uint8_t origin; // one of enum ht_origin
    bool target;    // to be learned: an assistant's text and the end-of-turn bytes after it
    uint32_t turn;  // index of the message it belongs to
};

struct ht_token {
    int32_t id;
    uint32_t start, end; // bytes of the segments' concatenation; none for BOS, EOS, a lone space prefix
    uint8_t origins;     // bits of every segment it overlaps; 0 for an added BOS or EOS
    bool target;         // overlaps a target segment
    uint32_t turn;       // of the segment that holds its last byte
};

// A list that ht_tokenizer_encode appends to. Zero-initialise; free with ht_tokens_free.
struct ht_tokens {
    struct ht_token *items;
    size_t n, capacity;
    size_t n_dropped_bytes; // bytes for which the vocabulary has no token; a neighbour's range covers them
    uint64_t n_steps;       // work done: characters looked at, look-ups, heap moves (tests bound it)
};
void ht_tokens_free(struct ht_tokens *tokens);

enum ht_encode_flags {
    HT_ENCODE_BOS = 1,       // begin with BOS where the model wants one and the text does not spell it
    HT_ENCODE_EOS = 2,       // end with EOS where the model wants one and the text does not spell it
    HT_ENCODE_CONTINUES = 4, // ordinary text stands before: no space prefix at the start
};

// Appends the tokens of the concatenated segments; ranges are contiguous and cover every byte. LIMIT beyond
// HT_MAX_TEXT_BYTES, or HT_MAX_STRETCH_BYTES without a place to split. On failure the list is as it was.
HT_MUST_USE enum hearth_status ht_tokenizer_encode(const struct ht_tokenizer *tokenizer,
                                                   const struct ht_segment *segments, size_t n_segments,
                                                   unsigned flags, struct ht_tokens *tokens,
                                                   struct hearth_error *err);

// ---------------------------------------------------------------- decode

// The bytes of one id, valid as long as the tokenizer: a byte token's byte, "▁" as a space. Control tokens
// are spelt out only with `special`, else empty. An id outside the vocabulary: empty.
struct ht_text ht_tokenizer_piece(const struct ht_tokenizer *tokenizer, int64_t id, bool special);

// All bytes of ids, the space prefix taken away again. Writes at most `capacity`, *len_bytes = bytes needed.
// INVALID for an id outside the vocabulary. decode(encode(x)) = x, but for dropped bytes, and with
// SentencePiece "▁" (U+2581) in x comes back as a space: that model does not tell the two apart.
HT_MUST_USE enum hearth_status ht_tokenizer_decode(const struct ht_tokenizer *tokenizer, const int32_t *ids,
                                                   size_t n_ids, bool special, char *text, size_t capacity,
                                                   size_t *len_bytes, struct hearth_error *err);

// ---------------------------------------------------------------- ids

size_t ht_tokenizer_n_tokens(const struct ht_tokenizer *tokenizer);
// The type in effect: turn markers and end tokens count as control whatever the file calls them.
enum ht_token_type ht_tokenizer_type(const struct ht_tokenizer *tokenizer, int64_t id);
// The model ends its turn or its text: eos, eot, eom, and the tokens that are spelt like one.
bool ht_tokenizer_is_end(const struct ht_tokenizer *tokenizer, int64_t id);
// The control or user-defined token with exactly this spelling, or -1 (for a format's stop strings).
int32_t ht_tokenizer_find_special(const struct ht_tokenizer *tokenizer, const char *text, size_t len_bytes);
int32_t ht_tokenizer_bos(const struct ht_tokenizer *tokenizer); // -1 = none
int32_t ht_tokenizer_eos(const struct ht_tokenizer *tokenizer);

#endif
