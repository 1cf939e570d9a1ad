// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of evaluation's questions: the file is read as questions with choices and as questions to answer; the
// first byte picks form and way of comparing. The answers of a stub are pieces of the input.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/learn/eval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum hearth_status score(void *user, struct ht_text context, struct ht_text answer, double *log_p,
                                unsigned *n_tokens, bool *best, struct hearth_error *err)
{
    (void)user;
    *log_p = -(double)(answer.len_bytes % 7) - 1;
    *n_tokens = (unsigned)(answer.len_bytes % 5);
    *best = context.len_bytes % 2;
    return context.len_bytes % 13 == 12 ? ht_fail(err, HEARTH_CONTEXT, "too long") : HEARTH_OK;
}

static enum hearth_status answer(void *user, const struct hearth_message *messages, size_t n_messages,
                                 struct ht_text prompt, struct ht_gen_made *made, struct hearth_error *err)
{
    static char text[256];
    (void)user, (void)err;
    if (messages)
        prompt = (struct ht_text){messages[n_messages - 1].text, messages[n_messages - 1].len_bytes};
    size_t n = prompt.len_bytes < sizeof text - 1 ? prompt.len_bytes : sizeof text - 1;
    for (size_t i = 0; i < n; i++)
        text[i] = prompt.bytes[i] ? prompt.bytes[i] : ' ';
    text[n] = 0;
    *made = (struct ht_gen_made){text, n, 1, HEARTH_STOP_END};
    return HEARTH_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("tasks", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (!size || ftruncate(fd, 0) || pwrite(fd, data + 1, size - 1, 0) != (ssize_t)size - 1)
        return 0;
    const struct ht_choice_model scored = {score, NULL};
    const struct ht_gen_model answered = {answer, NULL};
    const struct hearth_choices_params choices = {
        .path = path, .form = (enum hearth_choice_form)(data[0] % 4), .shots_path = data[0] & 64 ? path : NULL,
        .n_shots = 2};
    const struct hearth_gen_params gen = {
        .path = path, .match = (enum hearth_match)(data[0] % HEARTH_N_MATCHES), .pattern = "is (.*)",
        .chat = data[0] & 128, .shots_path = choices.shots_path, .n_shots = 2};
    struct hearth_choices c;
    struct hearth_gen g;
    if (!ht_choices_run(&scored, &choices, &c, NULL) && (c.n_right[0] > c.counts.n_items || !(c.macro >= 0)))
        abort();
    if (!ht_gen_run(&answered, &gen, &g, NULL) && g.n_right + g.n_nothing > g.counts.n_items)
        abort();
    return 0;
}
