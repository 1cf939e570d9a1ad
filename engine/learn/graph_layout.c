// SPDX-License-Identifier: Apache-2.0
// Where everything of a graph lies: one list that measures (no buffer) and carves. Engine thread.
#include "engine/learn/graph_impl.h"

struct carver {
    struct ht_buf *buf;
    uint64_t used; // floats
};

// (rows, width), from a border of 16 on.
static struct ht_ref take(struct carver *c, uint64_t rows, uint64_t width)
{
    struct ht_ref ref = {.buf = c->buf, .offset = (size_t)c->used};
    c->used += (rows * width + 15) / 16 * 16;
    return ref;
}

static uint32_t widest_group(const struct ht_graph *g, int input)
{
    uint32_t rank = 0;
    for (uint32_t i = 0; i < g->model->hp.n_layers; i++)
        if (g->layers[i].group[input].rank > rank)
            rank = g->layers[i].group[input].rank;
    return rank;
}

static void carve_kept(const struct ht_graph *g, struct carver *c, struct ht_graph_kept *kept,
                       const struct ht_graph_layer *layer)
{
    const struct ht_hparams *hp = &g->model->hp;
    uint32_t rows = g->p.rows;
    kept->q = take(c, rows, (uint64_t)hp->n_heads * hp->k_dim);
    kept->k = take(c, rows, (uint64_t)hp->n_kv_heads * hp->k_dim);
    kept->v = take(c, rows, (uint64_t)hp->n_kv_heads * hp->v_dim);
    kept->a = take(c, rows, (uint64_t)hp->n_heads * hp->v_dim);
    kept->lse = take(c, hp->n_kv_heads, g->lse_floats);
    kept->x1 = take(c, rows, hp->n_embd);
    kept->gate = take(c, rows, hp->n_ff);
    kept->up = take(c, rows, hp->n_ff);
    if (hp->features & HT_FEATURE_POST_NORM) {
        kept->o = take(c, rows, hp->n_embd);
        kept->down = take(c, rows, hp->n_embd);
    }
    for (int i = 0; i < HT_N_INPUTS; i++)
        kept->u[i] = take(c, rows, layer ? layer->group[i].rank : widest_group(g, i));
}

// Attention's and the FFN's share one place: they are never there at the same time.
static void carve_branches(struct ht_graph *g, struct carver *c)
{
    const struct ht_hparams *hp = &g->model->hp;
    uint32_t rows = g->p.rows;
    struct carver ffn = *c;
    g->h = take(&ffn, rows, hp->n_ff);
    g->dh = take(&ffn, rows, hp->n_ff);
    if (hp->features & HT_FEATURE_QK_NORM) {
        g->q = take(c, rows, (uint64_t)hp->n_heads * hp->k_dim);
        g->k = take(c, rows, (uint64_t)hp->n_kv_heads * hp->k_dim);
    }
    g->da = take(c, rows, (uint64_t)hp->n_heads * hp->v_dim);
    g->dq = take(c, rows, (uint64_t)hp->n_heads * hp->k_dim);
    g->dk = take(c, rows, (uint64_t)hp->n_kv_heads * hp->k_dim);
    g->dv = take(c, rows, (uint64_t)hp->n_kv_heads * hp->v_dim);
    c->used = ffn.used > c->used ? ffn.used : c->used;
}

static uint32_t widest_input(const struct ht_hparams *hp)
{
    uint32_t n_o = hp->n_heads * hp->v_dim, widest = hp->n_embd > hp->n_ff ? hp->n_embd : hp->n_ff;
    return widest > n_o ? widest : n_o;
}

void ht_graph_carve(struct ht_graph *g, struct ht_buf *work, uint64_t *work_floats)
{
    const struct ht_hparams *hp = &g->model->hp;
    struct carver c = {.buf = work};
    uint32_t rows = g->p.rows, rank = 0;
    struct ht_graph_kept shared = {0};
    if (g->p.checkpointing)
        carve_kept(g, &c, &shared, NULL);
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        g->layers[i].x = take(&c, rows, hp->n_embd);
        g->layers[i].kept = shared;
        if (!g->p.checkpointing)
            carve_kept(g, &c, &g->layers[i].kept, &g->layers[i]);
    }
    for (int i = 0; i < HT_N_INPUTS; i++)
        rank = widest_group(g, i) > rank ? widest_group(g, i) : rank;
    rank = g->head_group.rank > rank ? g->head_group.rank : rank;
    g->last = take(&c, rows, hp->n_embd);
    g->n = take(&c, rows, hp->n_embd);
    g->dx = take(&c, rows, hp->n_embd);
    g->dn = take(&c, rows, hp->n_embd);
    if (hp->features & HT_FEATURE_POST_NORM)
        g->d = take(&c, rows, hp->n_embd);
    g->t = take(&c, rows, rank);
    if (g->p.dropout > 0)
        g->xd = take(&c, rows, widest_input(hp));
    carve_branches(g, &c);
    g->chosen = take(&c, g->outs, hp->n_embd);
    g->final = take(&c, g->outs, hp->n_embd);
    g->logits = take(&c, g->outs, g->logits_stride);
    g->loss = take(&c, 1, rows);
    g->head_u = take(&c, g->outs, g->head_group.rank);
    *work_floats = c.used;
}

// ---------------------------------------------------------------- the adapter's targets

static enum ht_graph_input input_of(uint32_t linear, uint32_t *place)
{
    *place = linear == HT_ATTN_K || linear == HT_FFN_UP ? 1 : linear == HT_ATTN_V ? 2 : 0;
    if (linear <= HT_ATTN_V)
        return HT_INPUT_QKV;
    if (linear == HT_ATTN_OUTPUT)
        return HT_INPUT_OUTPUT;
    return linear == HT_FFN_DOWN ? HT_INPUT_DOWN : HT_INPUT_GATE_UP;
}

static struct ht_ref at(struct ht_ref ref, size_t floats)
{
    ref.offset += floats;
    return ref;
}

// Fills the groups of all layers and the head's; offsets are within the flat vectors, whose buffer need not be there
// yet.
enum hearth_status ht_graph_bind(struct ht_graph *g, const struct hearth_adapter *adapter, struct hearth_error *err)
{
    struct ht_ref values = g->vector[HT_GRAPH_VALUES], grads = g->vector[HT_GRAPH_GRADIENTS];
    g->lowest = UINT32_MAX;
    for (size_t i = 0; i < adapter->n_targets; i++) {
        const struct ht_adapter_target *from = &adapter->targets[i];
        uint32_t place = 0;
        bool head = from->linear == HT_ADAPTER_OUTPUT;
        HT_TRY(ht_adapter_fits(adapter, from, &g->model->hp, err));
        struct ht_graph_group *group =
            head ? &g->head_group : &g->layers[from->layer].group[input_of(from->linear, &place)];
        if (!group->n_targets) {
            group->k = from->k;
            group->a = at(values, from->a_at);
            group->da = at(grads, from->a_at);
        }
        group->target[group->n_targets++] = (struct ht_graph_target){
            .place = place,
            .n = from->n,
            .rank = from->rank,
            .column = group->rank,
            .stream = from->layer * HT_ADAPTER_LINEARS + from->linear,
            .scale = ht_adapter_scale(adapter, from),
            .a = at(values, from->a_at),
            .b = at(values, from->b_at),
            .da = at(grads, from->a_at),
            .db = at(grads, from->b_at),
        };
        group->rank += from->rank;
        g->lowest = !head && from->layer < g->lowest ? from->layer : g->lowest;
    }
    return HEARTH_OK;
}
