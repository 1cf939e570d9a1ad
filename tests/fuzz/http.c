// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the OpenAI door: each input is a body that a client sent; the first byte says to which of the two
// paths. What is taken must hold to its own limits, and so must what is refused.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/limits.h"
#include "firmware/openai.h"
#include "firmware/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_job(const struct hd_job *job)
{
    if (job->n_stops > HD_MAX_STOPS || job->sampling.n_logit_bias > HD_MAX_LOGIT_BIAS ||
        (!job->prompt && !job->n_messages))
        __builtin_trap();
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct hd_job_message *m = &job->messages[i];
        if (!m->text || strlen(m->text) != m->len_bytes || !hd_utf8_valid(m->text, m->len_bytes) ||
            m->role < HEARTH_ROLE_SYSTEM || m->role > HEARTH_ROLE_CALLS ||
            (m->role == HEARTH_ROLE_TOOLS && i))
            __builtin_trap();
    }
}

// Calls in answers, cut in two anywhere.
static void check_answer(const char *text, size_t len, size_t half)
{
    static const char *const formats[] = {"hermes", "llama3.1", "mistral", ""};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct hearth_piece piece = {.state = f & 1};
        size_t from = 0;
        for (int end = 0; end < 2; end++)
            do {
                hearth_answer_next(formats[f], text + from, (end ? len : half) - from, end, &piece);
                if (piece.used_bytes > (end ? len : half) - from || (piece.type && !piece.used_bytes))
                    __builtin_trap();
                from += piece.used_bytes;
            } while (piece.type != HEARTH_PIECE_NONE);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hd_openai_request request;
    if (size < 1)
        return 0;
    char *body = malloc(size); // without a NUL behind it
    if (!body)
        return 0;
    memcpy(body, data + 1, size - 1);
    if (hd_openai_parse(&request, body, size - 1, data[0] & 1)) {
        if (request.chat && !hd_openai_default_system(&request, "S"))
            __builtin_trap();
        check_job(request.job);
    } else if (request.job || request.status < 400 || !hd_utf8_valid(request.param, strlen(request.param)) ||
               !hd_utf8_valid(request.text, strlen(request.text))) {
        __builtin_trap();
    }
    hd_openai_release(&request);
    check_answer(body, size - 1, data[0] % size < size - 1 ? data[0] % size : size - 1);
    free(body);
    return 0;
}
