// SPDX-License-Identifier: Apache-2.0
// The engine thread: owns the engine and its sessions, takes jobs from a bounded queue and tells what happens
// through a bounded ring of notes. Functions are for the loop thread unless they say otherwise.
//
// The loop never waits for the engine. The engine thread waits only when the ring is full, for the loop to
// empty it.
#ifndef HD_WORKER_H
#define HD_WORKER_H
#include "firmware/config.h"
#include "firmware/loader.h"
#include "firmware/store.h"
#include "firmware/train_job.h"

struct hd_worker;

struct hd_worker_params {
    const struct hd_config *config; // must outlive the worker
    void (*wake)(void *user);       // engine or loader thread: notes are waiting
    void *user;
    unsigned check_ms, switch_ms, prefix_idle_ms, train_save_ms; // 0 = as limits.h and worker_internal.h have it
};
enum hearth_status hd_worker_start(struct hd_worker **worker, const struct hd_worker_params *params,
                                   struct hearth_error *err);
// Drops what waits, cancels what runs and joins the thread. Notes not taken by then are lost. An engine that does not
// come back within some seconds is left alone with its memory: the process is about to end.
// Afterwards the pointer is NULL: state, cancel, may_submit and submit take that for a worker that has ended.
void hd_worker_stop(struct hd_worker **worker);

// ---- jobs

// Stands for a model file, as long as it is not changed, with the chat template that is set for it.
enum { HD_MODEL_TAG_BYTES = 17 };
// "" when there is no such file.
void hd_model_tag(const struct hd_config *config, const char *path, char tag[HD_MODEL_TAG_BYTES]);

struct hd_job_message {
    enum hearth_role role;
    char *text; // malloc'ed, wiped when the job is freed
    size_t len_bytes;
    size_t asked_at; // where it stood among the messages that a program sent
    int32_t *ids;    // malloc'ed: of an answer that the loaded model made, else NULL
    size_t n_ids;
};

// One question, from whichever door. Zero-initialise; every pointer is malloc'ed and goes with the job.
struct hd_job {
    struct hd_id response;     // random, the door's own: notes carry it
    struct hd_id conversation; // whose cache is continued; zero: a question that stands alone
    struct hd_id person;       // who asks: fairness and prefix cache go by it; zero = the box itself
    // The model that shall answer: its name as ListModels tells it; "" or "default" = the one in use.
    char model[HD_MAX_MODEL_BYTES + 1];
    struct hd_job_message
        *messages; // may begin with HEARTH_ROLE_TOOLS, which stays when old turns are dropped
    size_t n_messages;
    // How many of the first messages are the household's (the settings' system_prompt): their cache is found by
    // everybody. 0 when a person wrote the system text.
    size_t n_shared;
    // The tag of the model that the messages' ids are of (hd_model_tag); with another one they are not used.
    char ids_tag[HD_MODEL_TAG_BYTES];
    char *prompt; // text to be continued as it is, without a chat template; then messages are none
    size_t prompt_len_bytes;
    char *grammar; // what the answer must be, or NULL
    size_t grammar_len_bytes;
    enum hearth_grammar_type grammar_type;
    struct hearth_sampling sampling; // logit_bias is malloc'ed; n_vocab is checked by the engine
    char *stops[16];
    size_t n_stops;
    unsigned max_tokens; // 0 = until the end
    unsigned max_draft;  // tokens guessed ahead; HD_JOB_DRAFT unless the door knows better
    bool drop_old;       // what does not fit loses its oldest turns; else CONTEXT
    struct hd_adapter *adapter; // or NULL; it waits until it is open
    float adapter_scale;
    bool adapter_optional; // with a model that it is not for: the model alone; else INVALID
};
enum { HD_JOB_DRAFT = 7 };
void hd_job_free(struct hd_job *job); // NULL allowed

// Takes the job over when OK. BUSY: HD_MAX_QUEUE jobs wait, or HD_MAX_QUEUE_PERSON of this person.
// UNSUPPORTED: no model; the text says why. NOT_FOUND: no model of that name.
// A model that is not loaded is loaded when it fits in the memory budget; when it does not, or cannot be read, the
// job ends in HD_NOTE_FAILED, as does a grammar that is wrong (INVALID).
enum hearth_status hd_worker_submit(struct hd_worker *worker, struct hd_job *job, struct hearth_error *err);
// What hd_worker_submit would say now, before anything is stored. *path (NULL allowed) = the model's file.
enum hearth_status hd_worker_may_submit(struct hd_worker *worker, const struct hd_id *person,
                                        const char *model, char path[HD_PATH_BYTES],
                                        struct hearth_error *err);
void hd_worker_cancel(struct hd_worker *worker, const struct hd_id *response); // waiting or running
void hd_worker_cancel_all(struct hd_worker *worker);
// Turns of a conversation (NULL: of any of the person's) are gone, or the person (NULL: anybody): caches are emptied as
// soon as they do not run, and what was exported before is worth nothing (see HD_NOTE_PREFIXES).
void hd_worker_forget(struct hd_worker *worker, const struct hd_id *conversation, const struct hd_id *person);

// Something about an adapter has changed: it is open, failed or gone.
void hd_worker_adapters_changed(struct hd_worker *worker);

// ---- training: between answers, in slices

// Takes the job over when OK; BUSY: there is one. It waits for its model, which is loaded as a question's would be and
// then stays. Ends in a note HD_NOTE_TRAIN with state STOPPED, DONE or FAILED.
enum hearth_status hd_worker_train(struct hd_worker *worker, struct hd_train_job *job, struct hearth_error *err);
// A checkpoint at the next border of an optimizer step, then it ends; `at_once`: nothing more is saved.
void hd_worker_train_stop(struct hd_worker *worker, bool at_once);
// It cannot go on (a checkpoint could not be written).
void hd_worker_train_fail(struct hd_worker *worker, const struct hearth_error *error);

// ---- caches of conversations over a restart (prefixes.h keeps the files)

// Gives a cache back to the model at `path`, if it is loaded. Takes over data (malloc'ed) in any case.
void hd_worker_import(struct hd_worker *worker, const struct hd_id *person, const char *path, uint8_t *data,
                      size_t len_bytes);
// Every cache that is newer than what was exported comes as HD_NOTE_PREFIXES, then HD_NOTE_EXPORTED.
void hd_worker_export_all(struct hd_worker *worker);
// Counts calls of hd_worker_forget.
uint64_t hd_worker_forget_seq(struct hd_worker *worker);

// ---- the models

// Makes this the model that answers who names none, and loads it if it is not loaded: after a check of the file in a
// child process, beside the others when the memory budget allows, else in place of idle ones. Answers of loaded models
// go on meanwhile. If it cannot be loaded the present one stays. Ends in a note of type HD_NOTE_MODEL with `tag`. BUSY
// while another such choice waits.
enum hearth_status hd_worker_load(struct hd_worker *worker, const char *path, uint64_t tag,
                                  struct hearth_error *err);

enum { HD_MAX_LOADED = 8 };

struct hd_model_state {
    char name[HD_MAX_MODEL_BYTES + 1], path[HD_PATH_BYTES];
    bool loaded, loading;           // neither: questions wait for it
    struct hearth_engine_info info; // valid when loaded
    uint64_t needed_bytes;          // weights, KV and work memory; 0 = not known yet
    int64_t since_ms;               // when it was loaded
    unsigned queued, active;
};

struct hd_worker_state {
    // The model in use. `loaded`: it can answer (it may have made room for another for the moment).
    bool loaded, loading;
    char path[HD_PATH_BYTES];
    struct hearth_engine_info info; // valid when loaded
    int64_t since_ms;               // when it was chosen
    char problem
        [HEARTH_ERROR_TEXT_BYTES];     // why nothing is loaded; "" when loaded or loading for the first time
    unsigned queued, active;           // of all models
    bool stalled;                      // the engine thread has not moved for longer than config.stall_s
    uint64_t budget_bytes, held_bytes; // memory for models: allowed, and needed by the loaded ones
    struct hd_model_state models[HD_MAX_LOADED + 1]; // and the one that is being loaded
    unsigned n_models;
    unsigned n_pages, n_pages_used, n_pages_cached; // of the loaded models' KV pools
    struct hd_train_figures train;
};
void hd_worker_state(struct hd_worker *worker, struct hd_worker_state *state); // any thread
// What is known of model files; they are looked at in the background.
struct hd_loader *hd_worker_loader(struct hd_worker *worker);
// What a model would need, and whether the budget has room for it (it alone).
uint64_t hd_worker_needed(const struct hd_config *config, const struct hd_model_facts *facts,
                          uint64_t budget_bytes, bool *fits);

// ---- notes

enum hd_note_type {
    HD_NOTE_STARTED = 1, // the prompt was taken: dropped_turns
    HD_NOTE_PROMPT,      // prompt_done of prompt_total
    HD_NOTE_TEXT,
    HD_NOTE_DONE,   // usage, token_ids
    HD_NOTE_FAILED, // error; usage if it had started
    HD_NOTE_MODEL,  // a load has ended: text = the file, model; error.code is OK when it is loaded; tag, or 0
    HD_NOTE_FILE,   // text = a file whose SHA-256 is known now
    HD_NOTE_PREFIXES, // text = a person's cache in a model: person, model_tag; void when tag is not the forget_seq
    HD_NOTE_EXPORTED,
    HD_NOTE_TRAIN, // tag, train_state, step (its step is 0: none is told), memory_bytes, text = precision; error
};
struct hd_note {
    enum hd_note_type type;
    struct hd_id response;
    struct hd_id person;
    char model[HD_MAX_MODEL_BYTES + 1]; // that answers: STARTED, DONE and FAILED
    char model_tag[HD_MODEL_TAG_BYTES];
    char *text; // malloc'ed, NUL-terminated
    size_t len_bytes;
    unsigned dropped_turns, prompt_done, prompt_total;
    struct hearth_usage usage;
    int32_t *token_ids; // malloc'ed
    size_t n_tokens;
    struct hearth_error error;
    uint64_t tag;
    char adapter[HD_MAX_LEARNT_NAME + 1]; // that it answers with: STARTED, DONE and FAILED; "" = none
    enum hd_train_state train_state;
    struct hearth_train_step step;
    uint64_t memory_bytes;
    struct hearth_adapter *learnt; // DONE: the loop's
};
bool hd_worker_next(struct hd_worker *worker, struct hd_note *note); // false: none waits
void hd_note_free(struct hd_note *note);                             // wipes its text

#endif
