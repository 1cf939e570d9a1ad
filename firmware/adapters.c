// SPDX-License-Identifier: Apache-2.0
// References to adapters of the box. See adapters.h. Any thread.
#include "firmware/adapters.h"

#include <stdio.h>
#include <stdlib.h>

struct hd_adapter *hd_adapter_new(const struct hd_id *id, const char *name, const char *base_sha256)
{
    struct hd_adapter *adapter = calloc(1, sizeof *adapter);
    if (!adapter)
        return NULL;
    atomic_init(&adapter->refs, 1);
    atomic_init(&adapter->state, HD_ADAPTER_OPENING);
    atomic_init(&adapter->gone, false);
    adapter->id = *id;
    snprintf(adapter->name, sizeof adapter->name, "%s", name);
    snprintf(adapter->base_sha256, sizeof adapter->base_sha256, "%s", base_sha256);
    return adapter;
}

struct hd_adapter *hd_adapter_ref(struct hd_adapter *adapter)
{
    atomic_fetch_add(&adapter->refs, 1);
    return adapter;
}

void hd_adapter_unref(struct hd_adapter **out)
{
    struct hd_adapter *adapter = *out;
    *out = NULL;
    if (!adapter || atomic_fetch_sub(&adapter->refs, 1) != 1)
        return;
    hearth_adapter_close(&adapter->adapter);
    free(adapter);
}
