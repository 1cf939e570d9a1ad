// SPDX-License-Identifier: Apache-2.0
// Every allocation of a run fails once: it says so, leaves nothing behind, and what is in the folder resumes.
#include "tests/model/trainer_test.h"

static void every_allocation_fails_once(void **state)
{
    (void)state;
    struct bed bed;
    struct hearth_error err = {0};
    struct hearth_train_info info;
    unsigned long n = 0, ended = 0;
    bed_make(&bed, 10);
    bed.files[0].weight = 1.5; // ids are kept
    bed.params.max_steps = 3;
    bed.params.checkpoint_every = 1;
    bed.params.patience = 5;
    must_train(&bed, &info);
    struct blob want = blob_read(bed.runs, "adapter.gguf");
    bed_empty(&bed);
    fault_memory_begin(0);
    must_train(&bed, &info);
    assert_int_equal(fault_memory_end(&n), 0);
    assert_true(n > 50);
    for (unsigned long i = 1; i <= n; i++) {
        bed_empty(&bed);
        memset(&err, 0, sizeof err);
        bed.params.resume = false;
        fault_memory_begin(i);
        enum hearth_status status = train_through(&bed, 1e9, &info, &err);
        long left = fault_memory_end(NULL);
        if (status != HEARTH_OK && status != HEARTH_NOMEM)
            fail_msg("allocation %lu of %lu: %s, %s", i, n, hearth_status_text(status), err.text);
        if (left)
            fail_msg("allocation %lu of %lu failed, and %ld blocks were left behind", i, n, left);
        ended += status == HEARTH_NOMEM;
        if (status == HEARTH_NOMEM)
            assert_true(strlen(err.text) > 5);
        if (i % 8)
            continue;
        bed.params.resume = true;
        must_train(&bed, &info);
        assert_true(run_is_like(&bed, want, "adapter.gguf"));
    }
    assert_true(ended > n / 2);
    free(want.data);
    bed_free(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation_fails_once)};
    return cmocka_run_group_tests_name("trainer_faults", tests, NULL, NULL);
}
