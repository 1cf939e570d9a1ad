// SPDX-License-Identifier: Apache-2.0
// An adapter of the box on its way from its sealed file into engines: opened by the keeper thread, taken by the engine
// thread, held by whoever has a reference. Any thread.
#ifndef HD_ADAPTERS_H
#define HD_ADAPTERS_H
#include <stdatomic.h>

#include "engine/learn.h"
#include "firmware/store_learn.h"

enum hd_adapter_state { HD_ADAPTER_OPENING, HD_ADAPTER_OPEN, HD_ADAPTER_FAILED };

struct hd_adapter {
    atomic_uint refs;
    atomic_int state; // enum hd_adapter_state
    atomic_bool gone; // removed: no answer begins with it, engines let go of it
    struct hd_id id;
    char name[HD_MAX_LEARNT_NAME + 1];
    char base_sha256[HD_SHA256_HEX_BYTES]; // of the model that it is for
    struct hearth_adapter *adapter; // OPEN
    uint64_t values_bytes;          // OPEN: what it takes
    struct hearth_error error;      // FAILED
};
// OPENING, with one reference. NULL when out of memory.
struct hd_adapter *hd_adapter_new(const struct hd_id *id, const char *name, const char *base_sha256);
struct hd_adapter *hd_adapter_ref(struct hd_adapter *adapter);
void hd_adapter_unref(struct hd_adapter **adapter); // NULL allowed

#endif
