// SPDX-License-Identifier: Apache-2.0
// What the box learns from and has learnt, as rows of the database: data sets, trainings that are not done, adapters;
// and who has chosen which adapter. The files lie beside it (sealed_file.h), each under its row's id, sealed with a key
// of that id. Server loop thread only. Statuses as in store.h.
//
// A row of a person's own conversations goes, with its key, in the same stroke as anything of that person is deleted:
// nothing stays that was learnt from what is gone.
#ifndef HD_STORE_LEARN_H
#define HD_STORE_LEARN_H
#include "firmware/store.h"

enum { HD_MAX_LEARNT = 256, HD_MAX_LEARNT_PERSON = 64, HD_MAX_LEARNT_NAME = 64, HD_MAX_LEARNT_META = 16 << 10 };

enum hd_learnt_kind {
    HD_LEARNT_SET = 1,
    HD_LEARNT_RUN = 2, // a training that is not done; becomes an adapter
    HD_LEARNT_ADAPTER = 3,
};
struct hd_learnt {
    struct hd_id id;
    enum hd_learnt_kind kind;
    struct hd_id person; // of whose conversations; zero = nobody's
    char name[HD_MAX_LEARNT_NAME + 1];
    int64_t created_ms;
    uint64_t size_bytes;
    char *meta; // JSON, malloc'ed: names and numbers, never a text
};
void hd_learnt_free(struct hd_learnt *items, size_t n);
// Letters, digits, '.', '_', '-', [1..64], beginning with a letter or digit; "none" is none.
bool hd_learnt_name_ok(const char *name);

// All of them, oldest first; free with hd_learnt_free.
enum hearth_status hd_store_learnt_list(struct hd_store *store, struct hd_learnt **items, size_t *n,
                                        struct hearth_error *err);
// An id with its key, on disk when it returns. Then come the files, then hd_store_learnt_add.
enum hearth_status hd_store_learnt_key(struct hd_store *store, const struct hd_id *person, struct hd_id *id,
                                       struct hearth_error *err);
enum hearth_status hd_store_learnt_add(struct hd_store *store, const struct hd_learnt *item, struct hearth_error *err);
// The same in the place of another row, which goes as by hd_store_learnt_remove, in one stroke: there is always one.
enum hearth_status hd_store_learnt_replace(struct hd_store *store, const struct hd_id *old,
                                           const struct hd_learnt *item, struct hearth_error *err);
// kind, size_bytes and meta, by id, in one stroke.
enum hearth_status hd_store_learnt_update(struct hd_store *store, const struct hd_learnt *item,
                                          struct hearth_error *err);
// The row, choices of it, and its key; the files are worth nothing then. NOT_FOUND.
enum hearth_status hd_store_learnt_remove(struct hd_store *store, const struct hd_id *id, struct hearth_error *err);
// A key without a row.
enum hearth_status hd_store_learnt_drop_key(struct hd_store *store, const struct hd_id *id, struct hearth_error *err);
// At the start, when nothing is on its way in: destroys keys whose row a crash has prevented.
enum hearth_status hd_store_learnt_drop_orphans(struct hd_store *store, struct hearth_error *err);

// ---- which adapter answers; `person` zero = whoever has made no choice

struct hd_adapter_choice {
    struct hd_id person, adapter; // adapter zero = the model alone
    double scale;
};
// *list is malloc'ed.
enum hearth_status hd_store_choice_list(struct hd_store *store, struct hd_adapter_choice **list, size_t *n,
                                        struct hearth_error *err);
enum hearth_status hd_store_choice_set(struct hd_store *store, const struct hd_adapter_choice *choice,
                                       struct hearth_error *err);
enum hearth_status hd_store_choice_clear(struct hd_store *store, const struct hd_id *person, struct hearth_error *err);

#endif
