// SPDX-License-Identifier: Apache-2.0
// The beginning of a run, in pieces as everything behind it: first values, what the run is, and what a checkpoint
// holds. The memory that they fill was promised before; each piece takes as much of it as it fills. Engine thread.
#include "engine/base/mem.h"
#include "engine/learn/trainer.h"

// The next values, drawn or copied, into the adapter and from there into the graph.
static enum hearth_status put_values(struct hearth_trainer *t, struct hearth_error *err)
{
    struct ht_train_opening *o = &t->opening;
    const struct hearth_adapter *a = t->adapter, *init = t->params.init;
    size_t left = a->n_values - o->at, n = left < t->piece_values ? left : t->piece_values;
    if (!o->at && init) {
        ht_hash_init(&o->hash);
        for (size_t i = 0; i < init->n_targets; i++)
            ht_hash_add(&o->hash, &init->targets[i].alpha, sizeof init->targets[i].alpha);
    }
    ht_train_adapter_values(t, o->at, n);
    const float *values = a->values + o->at;
    if (init)
        ht_hash_add(&o->hash, values, n * sizeof *values);
    HT_TRY(ht_graph_state_write(t->graph, o->at * sizeof *values, values, n * sizeof *values, err));
    o->at += n;
    return HEARTH_OK;
}

static enum hearth_status identify(struct hearth_trainer *t, struct hearth_error *err)
{
    unsigned char sum[HT_HASH_BYTES];
    const struct hearth_adapter *init = t->params.init;
    if (init)
        ht_hash_end(&t->opening.hash, sum);
    return ht_train_identity(t, init ? sum : NULL, err);
}

// The log ends where the checkpoint was made, if there is one.
static enum hearth_status end(struct hearth_trainer *t, struct hearth_error *err)
{
    t->params.init = NULL; // borrowed until here
    t->phase = HT_TRAIN_READ;
    return ht_train_log_cut(t, err);
}

static enum hearth_status load_some(struct hearth_trainer *t, struct hearth_error *err)
{
    bool done;
    struct hearth_error cause = {0};
    enum hearth_status status = ht_train_load(t, &done, &cause);
    if (status == HEARTH_NOT_FOUND) // it ended before the first checkpoint: it begins anew
        return end(t, err);
    if (status != HEARTH_OK)
        return ht_fail(err, status, "%s", cause.text);
    if (!done)
        return HEARTH_OK;
    t->resumed = t->saved = true;
    t->saved_evaluated = t->evaluated;
    t->info.saved_step = t->step;
    return end(t, err);
}

enum hearth_status ht_train_open(struct hearth_trainer *t, struct hearth_error *err)
{
    if (t->opening.at < t->adapter->n_values)
        return put_values(t, err);
    if (!t->identity)
        return identify(t, err);
    return t->params.resume ? load_some(t, err) : end(t, err);
}
