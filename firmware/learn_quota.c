// SPDX-License-Identifier: Apache-2.0
// How much of the disk one person's data sets, adapters and trainings may take (learn_quota_mib), so that nobody fills
// it for the others. What is nobody's is the owner's own, who works on the box, and has no limit. Loop thread.
#include <string.h>

#include "firmware/learn_internal.h"

enum { MIB = 1 << 20 };

// Of whose conversations it is, or who had it trained; zeros: nobody's.
static enum hearth_status owner_of(const struct hd_learnt *item, struct hd_id *owner, struct hearth_error *err)
{
    *owner = item->person;
    if (!hd_id_is_zero(owner) || item->kind == HD_LEARNT_SET)
        return HEARTH_OK;
    json_t *meta = hd_learnt_meta(item, err);
    if (!meta)
        return HEARTH_NOMEM;
    const char *text = json_string_value(json_object_get(meta, "who"));
    struct hd_id who;
    if (text && hd_unhex(who.b, HD_ID_BYTES, text))
        *owner = who;
    json_decref(meta);
    return HEARTH_OK;
}

// A training has no size of its own, but what it goes on from, which grows with its rank and not with what comes out.
static uint64_t size_of(const struct hd_learn *learn, const struct hd_learnt *item)
{
    return item->kind == HD_LEARNT_RUN ? hd_sealed_size(learn->dir, &item->id) : item->size_bytes;
}

enum hearth_status hd_learn_check_quota(const struct hd_learn *learn, const struct hd_id *person,
                                        const struct hd_learnt *old, uint64_t more_bytes, struct hearth_error *err)
{
    uint64_t limit = (uint64_t)learn->server->config->learn_quota_mib * MIB, used = 0;
    size_t n = 0;
    if (!person || hd_id_is_zero(person))
        return HEARTH_OK;
    for (size_t i = 0; i < learn->n_items; i++) {
        struct hd_id owner;
        enum hearth_status status = owner_of(&learn->items[i], &owner, err);
        if (status != HEARTH_OK)
            return status;
        if (&learn->items[i] == old || !hd_id_equal(&owner, person))
            continue;
        used += size_of(learn, &learn->items[i]);
        n++;
    }
    if (n >= HD_MAX_LEARNT_PERSON)
        return hd_fail(err, HEARTH_LIMIT, "%zu data sets and adapters of one person are here already, and %d may be: "
                       "delete some", n, HD_MAX_LEARNT_PERSON);
    if (!limit || (used < limit && more_bytes <= limit - used))
        return HEARTH_OK;
    return hd_fail(err, HEARTH_LIMIT,
                   "one person's data sets, adapters and trainings may take %llu MiB on this box; %.1f are used, and "
                   "this needs %.1f: delete some",
                   (unsigned long long)(limit / MIB), (double)used / MIB, (double)more_bytes / MIB);
}
