// SPDX-License-Identifier: Apache-2.0
// Packed weights as files, so that the next start need not pack (packed_cache). The loader thread writes them when it
// has nothing else to do and nobody is answered; an engine that it writes from is not closed before it has let go.
#ifndef HD_PACKED_H
#define HD_PACKED_H
#include "engine/engine.h"
#include "firmware/config.h"
#include "firmware/store.h"

struct hd_packed;
struct hd_packed *hd_packed_new(void); // NULL: no memory
void hd_packed_free(struct hd_packed *packed);

// ---- engine thread

// This engine's weights are to be written, once its file's SHA-256 is known. The file is `identity`.
void hd_packed_keep(struct hd_packed *packed, const struct hearth_engine *engine, const char *path,
                    const struct hd_file_identity *identity);
// Before the engine is closed: gives up what is being written from it. Returns when nobody uses it; of any engine.
void hd_packed_let_go(struct hd_packed *packed, const struct hearth_engine *engine);

// ---- loader thread

struct hd_packed_work {
    const struct hd_config *config;
    // The SHA-256 of the file at `path` as long as it is `identity`; false: not known yet.
    bool (*sha256)(void *user, const char *path, const struct hd_file_identity *identity,
                   char sha256[HD_SHA256_HEX_BYTES]);
    bool (*go_on)(void *user); // asked piece by piece; false: something else is to be done, it is tried again later
    void *user;
};
// Writes one file. False: there was none to write.
bool hd_packed_write(struct hd_packed *packed, const struct hd_packed_work *work);

#endif
