// SPDX-License-Identifier: Apache-2.0
// render_chat JINJA_FILE BOS EOS GENERATION: the messages on stdin (role byte as enum
// ht_role; u32 length; bytes), rendered with the format that the template is recognised as, for test_chat.py. The
// first line of stdout is the format's name. Exit 3: refused.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/chat.h"

enum { MAX_MESSAGES = 64, MAX_TEMPLATE_BYTES = 1 << 20 };

static int refused(const struct hearth_error *err)
{
    fprintf(stderr, "%s\n", err->text);
    return 3;
}

int main(int argc, char **argv)
{
    static char jinja[MAX_TEMPLATE_BYTES];
    static struct ht_chat chat;
    struct ht_chat_message messages[MAX_MESSAGES] = {{0}};
    static struct ht_segment segments[1 << 16];
    struct hearth_error err = {0};
    FILE *file = argc == 5 ? fopen(argv[1], "rb") : NULL;
    if (!file)
        return 2;
    size_t jinja_bytes = fread(jinja, 1, sizeof jinja, file), n = 0, n_segments;
    fclose(file);
    if (ht_chat_init(&chat, NULL, jinja, jinja_bytes, NULL, &err))
        return refused(&err);
    snprintf(chat.bos, sizeof chat.bos, "%s", argv[2]);
    snprintf(chat.eos, sizeof chat.eos, "%s", argv[3]);
    for (int role; n < MAX_MESSAGES && (role = getchar()) != EOF; n++) {
        uint32_t len_bytes;
        if (fread(&len_bytes, 4, 1, stdin) != 1)
            return 2;
        char *text = malloc(len_bytes + 1); // freed by the end of the program
        if (!text || fread(text, 1, len_bytes, stdin) != len_bytes)
            return 2;
        messages[n] =
            (struct ht_chat_message){.role = (enum ht_role)role, .text = text, .len_bytes = len_bytes};
    }
    if (ht_chat_render(&chat, messages, n, !strcmp(argv[4], "1"), segments,
                       sizeof segments / sizeof *segments, &n_segments, &err))
        return refused(&err);
    printf("%s\n", ht_chat_name(&chat));
    for (size_t i = 0; i < n_segments; i++)
        fwrite(segments[i].bytes, 1, segments[i].len_bytes, stdout);
    return 0;
}
