// SPDX-License-Identifier: Apache-2.0
// Memory runs out while a body is read at the OpenAI door: every allocation fails once. That is the box's fault, not
// the body's: 500 with the code "memory"; no part of a body is lost in silence, and nothing is left behind.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "firmware/openai.h"
#include "tests/check/own_malloc.h"

static const char *const bodies[] = {
    "{\"model\": \"m\", \"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", "
    "\"content\": ["
    "{\"type\": \"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\"}]}, {\"role\": "
    "\"assistant\", "
    "\"tool_calls\": [{\"id\": \"123456789\", \"type\": \"function\", \"function\": {\"name\": \"f\", "
    "\"arguments\": \"{}\"}}]}, {\"role\": \"tool\", \"tool_call_id\": \"123456789\", \"content\": \"c\"}], "
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": "
    "\"object\"}}}], \"tool_choice\": \"required\", \"stop\": [\"x\", \"y\"]}",
    "{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"logit_bias\": {\"5\": "
    "1}, \"response_format\": "
    "{\"type\": \"json_schema\", \"json_schema\": {\"name\": \"n\", \"schema\": {\"type\": \"object\"}}}}",
};

// What a body became, as text: nothing of it may be missing in silence.
static void put_job(const struct hd_job *job, char *text, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < job->n_messages; i++)
        n += (size_t)snprintf(text + n, size - n, "%d %s\n", job->messages[i].role, job->messages[i].text);
    for (size_t i = 0; i < job->n_stops; i++)
        n += (size_t)snprintf(text + n, size - n, "stop %s\n", job->stops[i]);
    n += (size_t)snprintf(text + n, size - n, "%zu biases\n%s", job->sampling.n_logit_bias, job->grammar);
    assert_true(n < size);
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    static char whole[4096], again[sizeof whole];
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        for (long n = 0, n_total = 0; n <= n_total; n++) {
            struct hd_openai_request request;
            long before = live;
            n_allocations = 0;
            fail_at = n;
            bool good = hd_openai_parse(&request, bodies[i], strlen(bodies[i]), true);
            fail_at = 0;
            if (n == 0) {
                if (!good)
                    fail_msg("body %zu: %s", i, request.text);
                put_job(request.job, whole, sizeof whole);
                n_total = n_allocations;
                assert_true(!OWN_MALLOC || n_total > 20);
            } else if (good) { // a library had another way
                put_job(request.job, again, sizeof again);
                assert_string_equal(again, whole);
            } else if (request.status != 500 || strcmp(request.code, "memory") != 0) {
                fail_msg("body %zu, allocation %ld of %ld: %u %s %s", i, n, n_total, request.status, request.code,
                         request.text);
            }
            hd_openai_release(&request);
            assert_int_equal(live, before);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once)};
    return cmocka_run_group_tests_name("openai_memory", tests, NULL, NULL);
}
