// SPDX-License-Identifier: Apache-2.0
// A request's grammar: compiled at submit, with all memory for following it. The scheduler asks the matcher
// (engine/text/grammar.h) for the mask of each output row and cuts proposals that it forbids. Engine thread.
#ifndef HT_CONSTRAINT_H
#define HT_CONSTRAINT_H
#include "engine/model/session.h"

// *out NULL: the request has none. The session's end_ids must be known. Builds the engine's tree of the vocabulary at
// the first grammar.
HT_MUST_USE enum hearth_status ht_constraint_create(struct ht_matcher **out, struct hearth_session *s,
                                                    const struct hearth_request *request, struct hearth_error *err);

#endif
