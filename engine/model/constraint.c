// SPDX-License-Identifier: Apache-2.0
// Taking in a request's grammar. Engine thread.
#include "engine/model/constraint.h"

enum hearth_status ht_constraint_create(struct ht_matcher **out, struct hearth_session *s,
                                        const struct hearth_request *request, struct hearth_error *err)
{
    struct hearth_engine *e = s->engine;
    struct ht_grammar *grammar;
    *out = NULL;
    if (!request->grammar)
        return HEARTH_OK;
    switch (request->grammar_type) {
    case HEARTH_GRAMMAR_GBNF:
        HT_TRY(ht_grammar_from_gbnf(&grammar, request->grammar, request->grammar_len_bytes, err));
        break;
    case HEARTH_GRAMMAR_JSON_SCHEMA:
        HT_TRY(ht_grammar_from_json_schema(&grammar, request->grammar, request->grammar_len_bytes, err));
        break;
    default:
        return ht_fail(err, HEARTH_INVALID, "grammar type %d is unknown", (int)request->grammar_type);
    }
    if (!e->trie) {
        enum hearth_status status = ht_trie_create(&e->trie, e->tokenizer, err);
        if (status != HEARTH_OK) {
            ht_grammar_destroy(&grammar);
            return status;
        }
        e->info.scratch_bytes += ht_trie_size_bytes(e->trie);
    }
    return ht_matcher_create(out, &grammar, e->trie, e->tokenizer, e->model.hp.n_vocab, s->end_ids, s->n_end_ids, err);
}
