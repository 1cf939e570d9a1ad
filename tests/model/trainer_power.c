// SPDX-License-Identifier: Apache-2.0
// The power goes at every single operation of a run's files, or the operation fails, as on a full disk: what is there
// afterwards resumes to the same adapter, byte for byte, and a finished run stays finished. Each fsync is needed for
// that.
#include "tests/model/trainer_test.h"

#include "engine/base/io.h"
#include "tests/check/power.h"

static struct bed bed;
static struct blob want;

static int set_up(void **state)
{
    (void)state;
    struct hearth_train_info info;
    bed_make(&bed, 10);
    bed.params.max_steps = 4;
    bed.params.checkpoint_every = 1;
    bed.params.eval_every = 2;
    bed.save_bytes = 1500; // values and moments in some parts
    must_train(&bed, &info);
    want = blob_read(bed.runs, "adapter.gguf");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(want.data);
    bed_free(&bed);
    return 0;
}

static void fresh(void)
{
    bed_empty(&bed);
    power_begin(bed.runs);
    bed.params.resume = false;
}

// True if a run that was told to be finished has all its files, and another one goes on to the same adapter.
static bool holds(bool finished)
{
    struct hearth_error err = {0};
    struct hearth_train_info info;
    struct blob manifest = blob_read(bed.runs, "manifest.json");
    free(manifest.data);
    if (finished && !(run_is_like(&bed, want, "adapter.gguf") && manifest.n))
        return false;
    bed.params.resume = true;
    enum hearth_status status = train_through(&bed, 1e9, &info, &err);
    if (status != HEARTH_OK)
        print_message("%s\n", err.text);
    return status == HEARTH_OK && run_is_like(&bed, want, "adapter.gguf");
}

// Every operation, with each policy. With a lying disk it ends at the first promise that is broken.
static unsigned sweep(bool cut, const char *ignored, unsigned *runs)
{
    unsigned broken = 0;
    bool through = false;
    for (unsigned op = 1; !through; op++)
        for (unsigned seed = 0; seed < (cut ? 4 : 2); seed++) {
            struct hearth_error err = {0};
            struct hearth_train_info info;
            fresh();
            power_ignore_fsync(ignored);
            if (cut)
                power_cut_at(op);
            else
                power_fail_at(op);
            enum hearth_status status = train_through(&bed, 1e9, &info, &err);
            through = op > power_ops();
            power_cut_at(power_ops() + 1); // what failed is followed by a cut, too
            power_restart(seed == 0 ? POWER_DROP : seed == 1 ? POWER_KEEP : POWER_TEAR, op * 31 + seed);
            bool good = holds(status == HEARTH_OK);
            power_end();
            if (!good && !ignored)
                print_message("operation %u, policy %u: broken\n", op, seed);
            broken += !good;
            ++*runs;
            if (broken && ignored)
                return broken;
        }
    return broken;
}

static void power_cut_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(true, NULL, &runs), 0);
    assert_true(runs > 350);
    print_message("%u power cuts\n", runs);
}

static void an_error_at_every_operation(void **state)
{
    (void)state;
    unsigned runs = 0;
    assert_int_equal(sweep(false, NULL, &runs), 0);
    print_message("%u errors\n", runs);
}

static void each_fsync_is_needed(void **state)
{
    (void)state;
    static const char *const each[] = {"checkpoint.bin.tmp", "adapter.gguf.tmp", "manifest.json.tmp", "/"};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) {
        unsigned runs = 0;
        if (!sweep(true, each[i], &runs))
            fail_msg("without the fsync of %s nothing was lost", each[i]);
    }
}

// A full disk ends the run with an error that says so; the checkpoint before it stands.
static void a_full_disk(void **state)
{
    (void)state;
    struct hearth_error err = {0};
    struct hearth_train_info info;
    fresh();
    assert_int_equal(train_through(&bed, 1e9, &info, &err), HEARTH_OK);
    unsigned ops = power_ops(), told = 0;
    power_end();
    for (unsigned op = 20; op < ops; op++) {
        fresh();
        power_fail_at(op);
        enum hearth_status status = train_through(&bed, 1e9, &info, &err);
        told += status == HEARTH_IO && strstr(err.text, "No space left") && strstr(err.text, "checkpoint.bin");
        struct blob kept = blob_read(bed.runs, "checkpoint.bin");
        assert_true(kept.n > 1000 || info.saved_step == 0);
        free(kept.data);
        power_end();
    }
    assert_true(told > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_cut_at_every_operation),
        cmocka_unit_test(an_error_at_every_operation),
        cmocka_unit_test(each_fsync_is_needed),
        cmocka_unit_test(a_full_disk),
    };
    return cmocka_run_group_tests_name("trainer_power", tests, set_up, tear_down);
}
