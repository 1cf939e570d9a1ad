// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the wire: each input is one frame from a client that nobody trusts yet. What decodes must encode
// again within the same budget, and decode to the same bytes.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hd_message message, again;
    struct hearth_error err;
    if (hd_wire_decode(&message, data, size, &err) == HEARTH_OK) {
        size_t n = protobuf_c_message_get_packed_size(&message.frame->base);
        uint8_t *bytes = malloc(n ? n : 1);
        if (bytes && protobuf_c_message_pack(&message.frame->base, bytes) == n &&
            hd_wire_decode(&again, bytes, n, &err) == HEARTH_OK) {
            uint8_t *twice = malloc(n ? n : 1);
            if (twice && (protobuf_c_message_pack(&again.frame->base, twice) != n || memcmp(bytes, twice, n)))
                __builtin_trap();
            free(twice);
            hd_wire_release(&again);
        }
        free(bytes);
    }
    hd_wire_release(&message);
    return 0;
}
