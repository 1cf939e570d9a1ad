// SPDX-License-Identifier: Apache-2.0
// libhearth: load a GGUF model, hold sessions, answer. Public, installed as <hearth/engine.h>.
//
// An engine is one model on one device. A session is one conversation's KV cache in that engine.
// Threads: an engine and its sessions belong to one thread at a time (the "engine thread"), which calls
// hearth_engine_step; only hearth_session_cancel may be called from any thread. Different engines are
// independent. The library never prints, exits, aborts or installs signal handlers, reads no environment
// variable and keeps no global state, but for one thing: from the first JSON on that it reads (a schema, a data set, an
// adapter of PEFT) it watches jansson's memory (json_set_alloc_funcs, in front of what is set then), so that missing
// memory is not taken for damage. A program that uses jansson in other threads sets its own functions, if any, and
// calls hearth_json_watch, before these begin.
//
// Every function that can fail returns a status and fills *err (which may be NULL). Out-pointers are set on
// every path: NULL or 0 on failure. `_close` and `_destroy` take a pointer to the pointer, set it to NULL
// and accept &NULL. Strings are UTF-8; sizes are in bytes unless the name says otherwise.
#ifndef HEARTH_ENGINE_H
#define HEARTH_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "status.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct hearth_engine;
struct hearth_session;

// "0.1.0"; never NULL.
const char *hearth_version(void);
void hearth_json_watch(void); // see Threads above; once is enough

// Bytes that this process may still take: what the system can give without swapping, and no more than its control
// groups allow. 0 = not known. Any thread.
uint64_t hearth_memory_free(void);

// ---------------------------------------------------------------- engine

enum hearth_kv_type { HEARTH_KV_DEFAULT = 0, HEARTH_KV_F32 = 1, HEARTH_KV_F16 = 2, HEARTH_KV_Q8 = 3 };

struct hearth_engine_params {
    const char *model_path; // GGUF file; of a split model, its first part
    const char *device;     // "auto" (or NULL), "cpu", "cuda[:i]", "vulkan[:i]"; absent: UNSUPPORTED
    unsigned n_threads;     // 0 = the cores this process may use
    // KV positions of all sessions together; 0 = what the model was trained for, if it fits in free memory.
    unsigned n_ctx;
    unsigned max_sessions;  // sessions that may exist at once [1..256]; 0 = 1
    enum hearth_kv_type kv; // DEFAULT = F16, or F32 with `exact`
    bool exact;             // contract F: float32 activations, one fma chain per output (slow, for reference)
    bool vocab_only;        // tokenizer and chat template only: sessions cannot be created
    // NULL = the file's; else a name from hearth_chat_template_names ("chatml"), or "raw" for completion
    // mode.
    const char *chat_template;
    const char *cpu_isa; // NULL = best the CPU has; "ref", "avx2", "neon" …, for tests
    // A folder with files of packed weights (hearth_engine_write_packed): the weights are read as they are packed
    // there; where they cannot be, they are packed as ever, and info.packed tells. NULL = none. base_sha256 goes with
    // it: of the file at model_path, 64 hex digits in small letters, as the caller has computed it.
    const char *packed_dir, *base_sha256;
    // Called during loading with the share that is done, in [0, 1]. Return false to cancel. May be NULL.
    bool (*progress)(void *user, double done);
    void *progress_user;
};

enum hearth_packed { // what became of packed_dir
    HEARTH_PACKED_NONE = 0, // not asked for, or the device has no packed form to store
    HEARTH_PACKED_ABSENT,   // there is no file for this base yet
    HEARTH_PACKED_REFUSED,  // there is one, and packed_problem says why it was left out
    HEARTH_PACKED_READ,
};

struct hearth_engine_info {
    char name[128];         // general.name, or the file's name
    char architecture[32];  // "llama"
    char file_type[16];     // most used weight type, "Q4_1"
    char device[96];        // "cpu avx512vnni, 2 threads"
    char chat_template[32]; // "chatml", or "none": completion mode
    char tool_format[16];   // how the template spells tools ("hermes", "llama3.1", …), "" = it has none
    bool late_system;       // the template takes system messages behind others, too
    char numerics_id[33];   // hex; bit claims hold within one id (docs/design.md)
    unsigned n_layers, n_embd, n_heads, n_kv_heads, n_vocab;
    unsigned n_ctx_train; // what the model was trained for
    unsigned n_ctx;       // KV positions planned
    uint64_t n_params;
    uint64_t weight_bytes;  // as held by the device
    uint64_t kv_bytes;      // the KV pool
    // Its pages now: all, those that sessions hold, those that only the prefix cache keeps. The others are free.
    unsigned n_pages, n_pages_used, n_pages_cached;
    uint64_t scratch_bytes; // activations and step buffers
    uint64_t file_bytes;
    uint64_t adapter_bytes; // what loaded adapters take
    enum hearth_packed packed;
    char packed_problem[HEARTH_ERROR_TEXT_BYTES];
};

// Opens the model. On failure *engine is NULL and nothing is left behind.
enum hearth_status hearth_engine_open(struct hearth_engine **engine,
                                      const struct hearth_engine_params *params, struct hearth_error *err);
// Destroys its sessions too.
void hearth_engine_close(struct hearth_engine **engine);
// As things are now; nothing in it belongs to the engine. Engine thread.
void hearth_engine_get_info(const struct hearth_engine *engine, struct hearth_engine_info *info);

// What a model needs, from its header alone. Filled for `doctor --fit` and before loading.
struct hearth_fit {
    uint64_t weight_bytes, kv_bytes_per_position, scratch_bytes;
    uint64_t available_bytes;        // free memory of the device now
    unsigned n_ctx_train, n_ctx_fit; // n_ctx_fit: positions that fit, 0 if not even the weights do
};
// Takes no weights into memory. NOT_FOUND, FORMAT, UNSUPPORTED as hearth_engine_open. Any thread.
enum hearth_status hearth_engine_fit(const struct hearth_engine_params *params, struct hearth_fit *fit,
                                     struct hearth_error *err);

// Runs one scheduler step on the calling thread: up to a chunk of prompt tokens and one generated token, with max_draft
// several, for every session that is answering (of an owner with many answers beside another's few, some wait their
// turn); calls their `on_event`. *n_busy = requests that still want steps, without paused ones.
// A failing request ends with HEARTH_EVENT_FAILED; the step itself fails only if the engine is unusable
// (DEVICE_LOST). Allocates nothing.
enum hearth_status hearth_engine_step(struct hearth_engine *engine, unsigned *n_busy,
                                      struct hearth_error *err);

// ---------------------------------------------------------------- text

enum hearth_tokenize_flags {
    HEARTH_TOKENIZE_SPECIAL =
        1,                   // control tokens spelt in the text become their ids (never for people's text)
    HEARTH_TOKENIZE_BOS = 2, // begin with BOS where the model wants one
};

// Writes at most `capacity` ids; *n_ids = how many the text has (also when that is more: LIMIT, ids cut).
enum hearth_status hearth_tokenize(const struct hearth_engine *engine, const char *text, size_t len_bytes,
                                   unsigned flags, int32_t *ids, size_t capacity, size_t *n_ids,
                                   struct hearth_error *err);
// The bytes of ids (control tokens are spelt out only with `special`). *len_bytes = bytes needed; no NUL is
// added.
enum hearth_status hearth_detokenize(const struct hearth_engine *engine, const int32_t *ids, size_t n_ids,
                                     bool special, char *text, size_t capacity, size_t *len_bytes,
                                     struct hearth_error *err);

enum hearth_role {
    HEARTH_ROLE_SYSTEM = 1,
    HEARTH_ROLE_USER = 2,
    HEARTH_ROLE_ASSISTANT = 3,
    // Tools; UNSUPPORTED where the template has none (hearth_engine_info.tool_format is ""). The JSON of TOOLS and
    // CALLS is rendered as it is spelt; models were trained on ", " and ": " between its parts.
    HEARTH_ROLE_TOOL = 4,  // what a tool gave back: the n-th one after CALLS answers its n-th call
    HEARTH_ROLE_TOOLS = 5, // the first message only: array of {"type": "function", "function": {"name", …}}
    // What the assistant called, after its text if it said any: array of {"name", "arguments", "id"}, in this order. As
    // the last message, empty: the assistant shall begin a call, and answers with the object {"name", "arguments"}.
    HEARTH_ROLE_CALLS = 6,
};

struct hearth_message {
    enum hearth_role role;
    const char *text;
    size_t len_bytes;
    // An assistant's turn that this model and template made: its ids (hearth_session_last_ids) are taken as
    // they are instead of tokenizing the text again, so that the KV cache still fits. NULL = tokenize the
    // text.
    const int32_t *ids;
    size_t n_ids;
};

// Renders messages with the model's chat template and tokenizes: template bytes may hold control tokens,
// people's text never does. `ids`, `capacity`, `n_ids` as in hearth_tokenize. The prompt ends where the
// assistant speaks next. UNSUPPORTED in completion mode.
enum hearth_status hearth_chat_tokenize(const struct hearth_engine *engine,
                                        const struct hearth_message *messages, size_t n_messages,
                                        int32_t *ids, size_t capacity, size_t *n_ids,
                                        struct hearth_error *err);
// NULL-terminated list of built-in template names.
const char *const *hearth_chat_template_names(void);

enum hearth_piece_type {
    HEARTH_PIECE_NONE = 0, // more of the answer is needed to tell
    HEARTH_PIECE_TEXT,
    HEARTH_PIECE_CALL,
};
enum { HEARTH_ANSWER_CALLED = 1 }; // state of an answer to a prompt that ended with an empty CALLS
// The next part of an answer of a model that was given tools. Text, name and arguments lie in the answer's text.
struct hearth_piece {
    unsigned state;    // in and out: 0 at first, or HEARTH_ANSWER_CALLED; later as the call before left it
    enum hearth_piece_type type;
    size_t used_bytes; // of the answer, from its beginning: what the piece took, marks and blanks too
    const char *text;  // TEXT
    size_t len_bytes;
    const char *name; // CALL: letters, digits, '_', '-', '.'
    size_t name_len_bytes;
    const char *arguments; // a JSON object as the model spelt it
    size_t arguments_len_bytes;
};
// Splits what has come of an answer and was not taken yet. `tool_format` is that of the engine's info; `end`: nothing
// more will come. Something that begins like a call and is none is text. Pure; any thread.
void hearth_answer_next(const char *tool_format, const char *text, size_t len_bytes, bool end,
                        struct hearth_piece *piece);

// ---------------------------------------------------------------- sessions and requests

// An empty session. Sessions share the engine's KV pool, page by page, as they grow. LIMIT: max_sessions there already.
enum hearth_status hearth_session_create(struct hearth_engine *engine, struct hearth_session **session,
                                         struct hearth_error *err);
// A request that runs ends without another event. Not from on_event.
void hearth_session_destroy(struct hearth_session **session);
// Forgets everything from position n_keep on; 0 empties the session. INVALID while a request runs.
enum hearth_status hearth_session_truncate(struct hearth_session *session, unsigned n_keep,
                                           struct hearth_error *err);
unsigned hearth_session_length(const struct hearth_session *session); // positions in the KV cache

struct hearth_logit_bias {
    int32_t token;
    float bias; // added to the logit
};

// Zero-initialise, then hearth_sampling_default. Order: bias, penalties, top-k, temperature, top-p, min-p,
// draw.
struct hearth_sampling {
    float temperature;                         // 0 = greedy
    uint32_t top_k;                            // 0 = off
    float top_p, min_p;                        // 1 and 0 = off
    float repeat_penalty;                      // 1 = off
    float presence_penalty, frequency_penalty; // 0 = off
    uint32_t penalty_last_n;                   // tokens looked back on, at most 4096
    uint64_t seed;                             // the same seed gives the same answer; no seed is special
    const struct hearth_logit_bias *logit_bias;
    size_t n_logit_bias; // at most 300
};
// Temperature 0.2 (small models need it low), top_k 40, top_p 0.95, min_p 0.05, no penalties.
void hearth_sampling_default(struct hearth_sampling *sampling);

enum hearth_stop_reason {
    HEARTH_STOP_NONE = 0, // still running
    HEARTH_STOP_END,      // the model ended its turn
    HEARTH_STOP_STRING,
    HEARTH_STOP_MAX_TOKENS,
    HEARTH_STOP_CONTEXT_FULL,
    HEARTH_STOP_CANCELLED,
    HEARTH_STOP_ERROR,
};

struct hearth_usage {
    unsigned prompt_tokens, cached_tokens, completion_tokens;
    unsigned drafted_tokens, accepted_tokens; // speculation: proposed, and taken without a step of their own
    double prompt_ms, first_token_ms, completion_ms; // first_token: since submit
    uint64_t seed;
    char numerics_id[33];
    enum hearth_stop_reason stop;
};

enum hearth_event_type {
    HEARTH_EVENT_PROMPT = 1, // a chunk of the prompt is done: prompt_done of prompt_total
    HEARTH_EVENT_TEXT,       // text of the answer: whole UTF-8 characters, stop strings held back
    HEARTH_EVENT_DONE,       // ended: usage.stop says why
    HEARTH_EVENT_FAILED,     // ended by an error
};

struct hearth_event {
    enum hearth_event_type type;
    const char *text; // valid during the callback only
    size_t len_bytes;
    unsigned prompt_done, prompt_total;
    const struct hearth_usage *usage; // DONE and FAILED
    const struct hearth_error *error; // FAILED
};

enum hearth_grammar_type {
    HEARTH_GRAMMAR_GBNF = 0,    // rules, the first is "root"
    HEARTH_GRAMMAR_JSON_SCHEMA, // a JSON Schema; `{}` or "" = any JSON value
};

struct hearth_request {
    // The prompt: messages (chat template), or ids as they are. The session's cache is compared with the
    // prompt and only what differs is computed (usage.cached_tokens tells).
    const struct hearth_message *messages;
    size_t n_messages;
    const int32_t *ids; // used when messages is NULL
    size_t n_ids;
    struct hearth_sampling sampling;
    unsigned max_tokens;     // 0 = until the end or the context is full
    bool ignore_end;         // go on after the model ends its turn (benchmarks; a grammar's end is an end)
    const char *const *stop; // stop strings, each 1..256 bytes
    size_t n_stop;           // at most 16
    // Whose question this is; 0 = nobody's. Owners share steps fairly, and full KV pages of a prompt are found again
    // in any session of the same owner. The pages of the first n_shared messages (the household's own system text)
    // are found by everybody.
    uint64_t owner;
    size_t n_shared;
    // What the answer must be: NULL = anything. It is read before submit returns; INVALID names line and cause,
    // UNSUPPORTED a part that is not understood. An answer that max_tokens or a full context cuts is incomplete.
    const char *grammar;
    size_t grammar_len_bytes;
    enum hearth_grammar_type grammar_type;
    // Most tokens proposed per step from what the session already holds (n-grams) and verified together; the answer
    // is the same with any value. 0 = off, at most 7.
    unsigned max_draft;
    // hearth_engine_adapter_load's id; 0 = the base alone. What the session holds under another one is computed again.
    unsigned adapter;
    // Called on the engine thread from hearth_engine_step. It must not call the engine, except
    // hearth_session_cancel. Exactly one DONE or FAILED ends every accepted request.
    void (*on_event)(void *user, const struct hearth_event *event);
    void *user;
};

// Takes a request; texts are copied or tokenized before it returns. CONTEXT if the prompt does not fit
// (err tells both counts), BUSY if the session is answering.
enum hearth_status hearth_session_submit(struct hearth_session *session, const struct hearth_request *request,
                                         struct hearth_error *err);
// Ask the running request to end with HEARTH_STOP_CANCELLED at the next step. Any thread. No-op when idle.
void hearth_session_cancel(struct hearth_session *session);
// Between steps: takes the running request out of them, and gives the session's KV pages back. It goes on with resume
// as if nothing had been: sampler, grammar, proposals, adapter and held-back text stay, events come but once, and what
// the prefix cache has lost of its pages by then is computed again, in chunks like a prompt. Until then
// hearth_session_length is 0, and cancel ends it with the next step, as ever. No-ops where nothing runs, or nothing is
// paused.
void hearth_session_pause(struct hearth_session *session);
void hearth_session_resume(struct hearth_session *session);
// The ids of the last answer (at most `capacity`), without its end token: kept so that a turn is never
// re-tokenized.
size_t hearth_session_last_ids(const struct hearth_session *session, int32_t *ids, size_t capacity);

// ---- adapters: LoRA adapters beside the base weights, loaded and dropped while others answer (learn.h opens files)

struct hearth_adapter;
struct hearth_adapter_use {
    const struct hearth_adapter *adapter; // need not outlive the call
    float scale;                          // times the adapter's own
};
enum { HEARTH_MAX_ADAPTERS = 16 }; // loaded at once
// Takes one adapter, or the sum of several, as `*id` (never 0) for requests and spans. Its values are copied, f32.
// INVALID: an adapter for another model (shapes, or base_sha256 where both are known: NULL = the caller has not
// computed it). LIMIT: too many, NOMEM: not enough memory. Between steps; answers that run are not disturbed.
enum hearth_status hearth_engine_adapter_load(struct hearth_engine *engine, const struct hearth_adapter_use *uses,
                                              size_t n_uses, const char *base_sha256, unsigned *id,
                                              struct hearth_error *err);
// New requests can no longer name it; the memory is given back when the last request that uses it has ended. What
// sessions hold and the prefix cache keeps of it is found again only by an adapter of the same values. NOT_FOUND: no
// such id.
enum hearth_status hearth_engine_adapter_drop(struct hearth_engine *engine, unsigned id, struct hearth_error *err);

// ---- prefix cache: full KV pages outlive their session while the pool has room for them, least recently used first

// Drops every cached page of this owner that no session holds; sessions keep theirs until they are emptied.
// owner 0: all owners'.
void hearth_engine_forget(struct hearth_engine *engine, uint64_t owner);
// Writes the cached pages of an owner (those of its sessions too), most recently used first, at most max_bytes, as
// one self-describing block through `write` (false = stop: IO). Bound to the model's files (device, inode, size, time
// of change), KV type and numerics id. Pages that everybody finds are written where the owner's follow them; with
// owner 0 they alone. BUSY while a request runs.
enum hearth_status
hearth_engine_export_prefixes(struct hearth_engine *engine, uint64_t owner, uint64_t max_bytes,
                              bool (*write)(void *user, const void *data, size_t len_bytes), void *user,
                              struct hearth_error *err);
// Takes pages back into the cache, as many as free pages allow (of several blocks the most useful first);
// *n_positions = how many positions came back. FORMAT: damaged, or of another model, KV type or numerics; then nothing
// is taken. A checksum finds damage; that nobody else wrote the block is for the caller to make sure. BUSY while a
// request runs.
enum hearth_status hearth_engine_import_prefixes(struct hearth_engine *engine, uint64_t owner,
                                                 const void *data, size_t len_bytes, unsigned *n_positions,
                                                 struct hearth_error *err);

// ---- packed weights as files, so that the next start need not pack: a cache, which may be emptied at any time

// Writes the engine's packed weights into the folder `dir`, under the base's SHA-256 and what their form depends on,
// whole or not at all, and removes other forms of the same base. Any thread, also beside steps, until the engine is
// closed. BUSY: another process writes it; CANCELED: go_on (NULL = always) returned false; LIMIT: it would take more
// than half of what the disk has left; UNSUPPORTED: the device has no form to store; IO: nothing is left behind.
enum hearth_status hearth_engine_write_packed(const struct hearth_engine *engine, const char *dir,
                                              const char *base_sha256, bool (*go_on)(void *user), void *user,
                                              struct hearth_error *err);
struct hearth_packed_size {
    unsigned n_files;
    uint64_t bytes;
};
// What files of packed weights a folder holds, of one base or (NULL) of all. A folder that is not there holds none.
enum hearth_status hearth_packed_measure(const char *dir, const char *base_sha256, struct hearth_packed_size *size,
                                         struct hearth_error *err);
// Removes them, and what killed processes left of theirs.
enum hearth_status hearth_packed_remove(const char *dir, const char *base_sha256, struct hearth_error *err);

// Appends ids to sessions in one batch and returns logits, without sampling: for scoring and tests. Each
// span's logits, when not NULL, is (n_ids, n_vocab) float32, row-major. Each session at most once. INVALID: another
// engine's session, or an id outside of the vocabulary; BUSY: it is answering; CONTEXT: it does not fit; NOT_FOUND: no
// such adapter. Then nothing was computed. Engine thread, between steps.
struct hearth_span {
    struct hearth_session *session;
    const int32_t *ids;
    size_t n_ids;
    float *logits;
    unsigned adapter; // as in hearth_request
};
enum hearth_status hearth_engine_eval(struct hearth_engine *engine, const struct hearth_span *spans,
                                      size_t n_spans, struct hearth_error *err);

// ---------------------------------------------------------------- files

// Writes what a GGUF file holds (keys, tensors, split parts) as JSON or text through `write`, which returns
// false to stop. Reads the header only.
enum hearth_status hearth_gguf_inspect(const char *path, bool json,
                                       bool (*write)(void *user, const char *text, size_t len_bytes),
                                       void *user, struct hearth_error *err);

// ---------------------------------------------------------------- this machine

// How fast the CPU's kernels go through packed weights: y = W x with matrices of 4096 x 4096, rotating over so many
// that they make up total_bytes together, by 1, 2, 4 and 8 columns of x at a time; the median of several passes.
enum { HEARTH_KERNEL_COLUMNS = 4 };
extern const unsigned hearth_kernel_columns[HEARTH_KERNEL_COLUMNS];
struct hearth_kernel_speed {
    char format[16];                             // "Q4_K"
    double gb_per_second[HEARTH_KERNEL_COLUMNS]; // packed bytes read
};
// Formats by index from 0; NOT_FOUND behind the last. n_threads 0 = all this process may use.
enum hearth_status hearth_measure_kernel(unsigned index, unsigned n_threads, size_t total_bytes,
                                         struct hearth_kernel_speed *out, struct hearth_error *err);
// What one barrier of the thread team costs.
enum hearth_status hearth_measure_barrier(unsigned n_threads, double *nanoseconds, struct hearth_error *err);

// What training's products with frozen weights do, forwards and transposed, in shapes of two models: W (n, k).
enum hearth_product_unit { HEARTH_PRODUCT_F32, HEARTH_PRODUCT_BF16_AVX512, HEARTH_PRODUCT_BF16_AMX };
struct hearth_product_speed {
    char model[24], format[16]; // "SmolLM2-135M", "Q4_1"
    uint32_t rows, n, k, parts; // of x; n: of all parts together
    double forward, transposed; // 10^9 operations a second (a product and a sum are two), the median of several runs
};
// By index from 0; NOT_FOUND behind the last, UNSUPPORTED: not on this CPU. cpu_isa: as in hearth_engine_params.
enum hearth_status hearth_measure_product(unsigned index, enum hearth_product_unit unit, unsigned n_threads,
                                          const char *cpu_isa, struct hearth_product_speed *out,
                                          struct hearth_error *err);

// What ops of training cost, without the products of frozen weights: a layer's share of a micro-batch of
// HEARTH_TRAIN_ROWS rows in one segment, LoRA of rank 8 on all linears, f32; the median of several runs.
enum { HEARTH_TRAIN_ROWS = 512 };
struct hearth_train_op_speed {
    char model[24], op[24];
    double milliseconds;     // of one time
    double per_batch;        // times in a micro-batch, or in an optimizer step for what runs once there
    double gflop, gigabytes; // of one time: multiplications and additions, or what must be read and written; else 0
};
// By index from 0; NOT_FOUND behind the last.
enum hearth_status hearth_measure_train_op(unsigned index, unsigned n_threads, const char *cpu_isa,
                                           struct hearth_train_op_speed *out, struct hearth_error *err);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
