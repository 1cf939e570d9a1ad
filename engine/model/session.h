// SPDX-License-Identifier: Apache-2.0
// The engine's state and its sessions: what engine.c opens and the scheduler steps. Engine thread only, but
// for the cancel flag.
#ifndef HT_SESSION_H
#define HT_SESSION_H
#include <stdatomic.h>

#include "engine/base/clock.h"
#include "engine/base/hash.h"
#include "engine/engine.h"
#include "engine/model/answer.h"
#include "engine/model/context.h"
#include "engine/model/fair.h"
#include "engine/model/packed.h"
#include "engine/model/speculate.h"
#include "engine/text/chat.h"
#include "engine/text/grammar.h"
#include "engine/text/tokenizer.h"

// PROMPT: more than one known id is to be computed; also of an answer that goes on after a pause.
enum ht_phase { HT_IDLE = 0, HT_PROMPT, HT_DECODE, HT_PAUSED };

struct hearth_session {
    struct hearth_engine *engine;
    uint32_t slot;     // row of the page table, index in engine->sessions
    int32_t *tokens;   // [engine->session_limit]: what the cache holds, then what it will hold
    uint32_t n_tokens; // known ids
    uint32_t n_cached; // positions in the KV cache, <= n_tokens
    uint32_t *pages;   // [max pages] physical pages
    uint32_t n_pages;
    uint64_t owner;    // whose prefix cache its full pages are in; 0 = nobody's
    struct ht_adapter_key made_under; // the adapter that its cache was computed with
    uint32_t n_shared; // tokens [0, n_shared) may be found by everybody
    uint32_t n_listed; // pages [0, n_listed) are in the prefix cache
    bool forgotten;    // what it holds beyond those must not get there any more

    // ---- the running request
    enum ht_phase phase;
    int32_t adapter;    // slot of the bank for its rows; HT_NO_ADAPTER: the base alone
    atomic_bool cancel; // any thread
    struct hearth_sampling sampling;
    struct hearth_logit_bias bias[HT_MAX_LOGIT_BIAS];
    struct ht_answer answer;
    int32_t end_ids[HT_CHAT_MAX_STOPS]; // the format's stop marks that are tokens, beside the model's end tokens
    uint32_t n_end_ids;
    uint32_t n_prompt; // tokens[0 .. n_prompt) are the prompt, then the answer
    uint32_t prompt_told; // of them, in events
    uint32_t max_tokens;
    struct ht_matcher *matcher;  // where the answer stands in its grammar; NULL = it may be anything
    uint32_t max_draft;          // tokens proposed per step, at most
    struct ht_drafter drafter;   // follows `tokens` while max_draft is set
    uint32_t share;              // whose work this is, in engine->fair
    uint64_t order;              // requests of an owner begin in the order they came
    bool ignore_end;
    void (*on_event)(void *user, const struct hearth_event *event);
    void *user;
    struct hearth_usage usage;
    double submit_s, prompt_start_s, first_token_s; // monotonic seconds; 0 = not yet
    double paused_s;
    // ---- what this step does with it
    uint32_t step_rows;  // known ids that it computes
    uint32_t step_draft; // proposed ids after them, tokens[n_tokens ..]: rows too, each with an output row
    uint32_t step_out;   // first output row + 1, or 0: the answer goes on with 1 + step_draft output rows
    uint32_t n_offered;  // proposals before their worth was compared
    float chance[HT_MAX_DRAFT];
    uint64_t last_step, last_turn; // when it last had a row for its answer: the step, its place in the order of all
};

struct hearth_engine {
    const struct ht_device_ops *dev;
    struct ht_device *device;
    struct ht_model model;
    struct ht_context ctx;
    struct ht_tokenizer *tokenizer;
    struct ht_trie *trie; // the vocabulary as grammars see it; made for the first one
    struct ht_chat chat;
    struct hearth_engine_info info;
    unsigned char identity[HT_HASH_BYTES]; // of the model's files: what a stored prefix cache is bound to
    struct ht_packed_key packed;           // what a file of its packed weights is bound to, without the base's SHA-256
    bool unchanged;                        // the model's files were, until the weights were read
    bool vocab_only;
    bool lost;              // sticky: the device is gone
    uint32_t session_limit; // positions one session may hold
    uint32_t max_sessions;
    struct hearth_session **sessions; // [max_sessions], NULL = free
    struct ht_loras loras;            // adapters that are loaded
    struct ht_fair fair;              // owners' shares of the work
    uint64_t n_steps, n_turns, n_requests; // so far
    int32_t *prompt;                  // [session_limit] ids of a prompt that is being taken in
    int32_t *drawn;                   // [max_outs] tokens of a step
    uint32_t *found;                  // [max pages] of a look-up in the prefix cache
};


// Makes sure the cache has pages for positions [0, n). CONTEXT if the pool is used up.
HT_MUST_USE enum hearth_status ht_session_reserve(struct hearth_session *s, uint32_t n,
                                                  struct hearth_error *err);
// Drops cache and ids from position n on; full pages go to the prefix cache first.
void ht_session_cut(struct hearth_session *s, uint32_t n);
// From now on it is computed under this adapter: what was made under another one is given up.
void ht_session_make_under(struct hearth_session *s, struct ht_adapter_key adapter);
// Cuts the session to what it shares with ids[0, n), or takes the longer chain of full pages that the prefix cache
// has for this owner and adapter. Returns the positions that are cached then.
uint32_t ht_session_adopt(struct hearth_session *s, const int32_t *ids, uint32_t n, const struct ht_prefix_key *key);
// Gives its pages back through the prefix cache; ids stay known. Regain takes what the cache still has of them.
void ht_session_release(struct hearth_session *s);
void ht_session_regain(struct hearth_session *s);
// Enters the full pages of all sessions into the prefix cache, and the last, partly filled ones of the owner's sessions
// that are idle, without one (NULL: all). Between steps only.
void ht_engine_publish(struct hearth_engine *engine, uint64_t owner, const struct hearth_session *without);
// Adds a row to the step block; the caller has reserved its page. Returns the row.
uint32_t ht_step_add_row(struct hearth_engine *engine, struct hearth_session *s, int32_t id, uint32_t pos);
// Copies the page table of `s` into the step block.
void ht_step_set_pages(struct hearth_engine *engine, const struct hearth_session *s);
// The device failed: marks the engine.
enum hearth_status ht_engine_check(struct hearth_engine *engine, enum hearth_status status);

#endif
