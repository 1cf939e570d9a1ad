// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the chat formats. First byte: which format (255: the rest of the first line is a file's template,
// to be recognised). Then messages: a role byte, text up to the next zero byte. What renders has every message's text
// in segments that say who wrote it, and only template bytes may hold control tokens.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_MESSAGES = 16 };

static size_t read_messages(const uint8_t *data, size_t size, struct ht_chat_message *messages)
{
    size_t n = 0;
    while (size && n < MAX_MESSAGES) {
        const uint8_t *end = memchr(data + 1, 0, size - 1);
        size_t len = end ? (size_t)(end - data - 1) : size - 1;
        messages[n] = (struct ht_chat_message){
            .role = (enum ht_role)(data[0] % 5), .text = (const char *)data + 1, .len_bytes = len};
        n++;
        size_t taken = len + 1 + (end != NULL);
        data += taken;
        size -= taken;
    }
    return n;
}

// Everything a person wrote stands in segments of that origin, never in the template's.
static void check(const struct ht_chat_message *messages, size_t n, const struct ht_segment *segments,
                  size_t n_segments)
{
    for (size_t i = 0; i < n_segments; i++) {
        if (!segments[i].len_bytes)
            continue;
        for (size_t m = 0; m < n; m++) {
            const char *from = messages[m].text, *to = from + messages[m].len_bytes;
            if (segments[i].bytes >= from && segments[i].bytes < to && segments[i].origin == HT_ORIGIN_TEMPLATE)
                abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ht_segment segments[1024];
    struct ht_chat_message messages[MAX_MESSAGES];
    struct ht_chat chat;
    if (!size)
        return 0;
    const char *const *names = ht_chat_names();
    size_t n_names = 0, n_segments;
    while (names[n_names])
        n_names++;
    const char *name = *data == 255 ? NULL : names[*data % n_names], *jinja = NULL;
    size_t jinja_len = 0;
    data++, size--;
    if (!name) {
        const uint8_t *end = memchr(data, '\n', size);
        jinja = (const char *)data;
        jinja_len = end ? (size_t)(end - data) : size;
        data += jinja_len + (end != NULL);
        size -= jinja_len + (end != NULL);
    }
    if (ht_chat_init(&chat, name, jinja, jinja_len, NULL, NULL) != HEARTH_OK)
        return 0;
    size_t n = read_messages(data, size, messages);
    for (int generation = 0; generation < 2; generation++)
        if (ht_chat_render(&chat, messages, n, generation, segments, 1024, &n_segments, NULL) == HEARTH_OK)
            check(messages, n, segments, n_segments);
    return 0;
}
