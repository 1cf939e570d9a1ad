// SPDX-License-Identifier: Apache-2.0
// Every cap of the engine in one place. A file or a caller that goes beyond one gets LIMIT or FORMAT. Constants only.
#ifndef HT_LIMITS_H
#define HT_LIMITS_H

enum {
    HT_MAX_GGUF_KEYS = 65536,
    HT_MAX_GGUF_TENSORS = 65536,
    HT_MAX_GGUF_KEY_BYTES = 65535,
    HT_MAX_GGUF_STRING_BYTES = 16 << 20,  // one string value (chat templates are the longest)
    HT_MAX_GGUF_NAME_BYTES = 127,         // tensor names
    HT_MAX_GGUF_HEADER_BYTES = 256 << 20, // keys and tensor table of one part
    HT_MAX_GGUF_DIMS = 4,
    HT_MAX_GGUF_SPLITS = 1024,
    HT_MAX_SAFETENSORS = 65536,               // tensors of a safetensors file
    HT_MAX_SAFETENSORS_HEADER_BYTES = 2 << 20, // JSON takes up to 20 times as much while it is read
    HT_MAX_ADAPTER_CONFIG_BYTES = 1 << 20,
    HT_MAX_ADAPTER_RANK = 4096,
    HT_MAX_LAYERS = 512,
    HT_MAX_HEADS = 1024,
    HT_MAX_HEAD_DIM = 1024,
    HT_MAX_EMBD = 1 << 17,
    HT_MAX_FF = 1 << 19,
    HT_MAX_VOCAB = 1 << 20,
    HT_MAX_TOKEN_BYTES = 4096,
    HT_MAX_CTX = 1 << 22,
    HT_MAX_SESSIONS = 256,
    HT_MAX_THREADS = 256,
    HT_MAX_TEXT_BYTES = 64 << 20,   // text given to the tokenizer in one call
    HT_MAX_STRETCH_BYTES = 8 << 20, // of it without a place to split (tokens merge over all of it at once)
    HT_MAX_SPECIAL_BYTES = 256,     // a control or user-defined token's spelling
    HT_MAX_STOP_STRINGS = 16,
    HT_MAX_STOP_BYTES = 256,
    HT_MAX_LOGIT_BIAS = 300,
    HT_MAX_PENALTY_WINDOW = 4096,
    HT_MAX_MESSAGES = 65536,
    HT_MAX_GRAMMAR_BYTES = 256 << 10, // text of a grammar or schema
    HT_MAX_GRAMMAR_RULES = 8192,
    HT_MAX_GRAMMAR_EXPRS = 1 << 17, // parts of all rules
    HT_MAX_GRAMMAR_NODES = 1 << 18, // of the automaton
    HT_MAX_GRAMMAR_SETS = 8192,     // different sets of bytes
    HT_MAX_GRAMMAR_NESTING = 64,    // groups within groups, schemas within schemas
    HT_MAX_GRAMMAR_REPEAT = 65536,  // m and n of {m,n}
    HT_MAX_GRAMMAR_DEPTH = 512,     // rules within rules while an answer is made
    HT_MAX_GRAMMAR_WAYS = 4096,     // ways at once in which an answer so far may be read
    HT_MAX_DATA_RECORD_BYTES = 16 << 20, // one training record as its file spells it
    HT_MAX_DATA_RECORDS = 1 << 20,       // kept by one set (duplicates are told apart among them)
    HT_MAX_DATA_NESTING = 256,
    HT_MAX_DATA_TEXT_BYTES = 32 << 10, // plain text comes in pieces of at most this
    HT_MAX_TRAIN_SAMPLES = 1 << 20, // of one run, held in memory
    HT_MAX_TRAIN_TOKENS = 1 << 28,
    HT_MAX_TRAIN_EPOCHS = 1 << 20,
    HT_MAX_TRAIN_ROWS = 1 << 16, // of a micro-batch
    HT_KV_PAGE = 32, // positions in a KV page (docs/design.md, KV)
};

#endif
