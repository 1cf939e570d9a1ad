// SPDX-License-Identifier: Apache-2.0
// The thread team with 1 to 8 members (more than this machine may have CPUs), and the count of usable CPUs.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/cpus.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"
#include "tests/check/fault.h"

enum { MAX_TEAM = 8, ROUNDS = 300 };

struct work {
    struct ht_pool *pool;
    unsigned cell[MAX_TEAM]; // plain memory: only the barriers order it, which TSan checks
    unsigned ran[MAX_TEAM];
    unsigned wrong;
};

static void count_up(void *arg, unsigned thread, unsigned n_threads)
{
    struct work *work = arg;
    work->ran[thread] += n_threads;
}

static void pass_round(void *arg, unsigned thread, unsigned n_threads)
{
    struct work *work = arg;
    unsigned wrong = 0;
    for (unsigned round = 1; round <= ROUNDS; round++) {
        work->cell[thread] = round;
        ht_pool_barrier(work->pool, thread);
        for (unsigned i = 0; i < n_threads; i++)
            wrong += work->cell[i] != round;
        ht_pool_barrier(work->pool, thread);
    }
    if (wrong)
        work->wrong = wrong;
}

static void runs_and_barriers(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= MAX_TEAM; n++) {
        struct work work = {0};
        struct hearth_error err;
        assert_int_equal(ht_pool_create(&work.pool, n, &err), HEARTH_OK);
        assert_int_equal(ht_pool_size(work.pool), n);
        for (unsigned run = 0; run < ROUNDS; run++)
            ht_pool_run(work.pool, count_up, &work);
        for (unsigned i = 0; i < MAX_TEAM; i++)
            assert_int_equal(work.ran[i], i < n ? ROUNDS * n : 0);
        ht_pool_run(work.pool, pass_round, &work);
        assert_int_equal(work.wrong, 0);
        ht_pool_run(work.pool, count_up, &work); // a run after barriers
        assert_int_equal(work.ran[n - 1], (ROUNDS + 1) * n);
        ht_pool_destroy(&work.pool);
        assert_null(work.pool);
    }
}

// Members that have fallen asleep between runs wake up again, and a member that is late is waited for.
static void sleepy(void *arg, unsigned thread, unsigned n_threads)
{
    struct work *work = arg;
    if (thread == n_threads - 1)
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    work->cell[thread]++;
    ht_pool_barrier(work->pool, thread);
    for (unsigned i = 0; i < n_threads; i++)
        if (work->cell[i] != work->cell[thread])
            work->wrong = 1;
    ht_pool_barrier(work->pool, thread);
}

static void sleeps_and_wakes(void **state)
{
    (void)state;
    for (unsigned n = 2; n <= 3; n++) {
        struct work work = {0};
        assert_int_equal(ht_pool_create(&work.pool, n, NULL), HEARTH_OK);
        for (unsigned run = 0; run < 20; run++) {
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            ht_pool_run(work.pool, sleepy, &work);
        }
        assert_int_equal(work.wrong, 0);
        assert_int_equal(work.cell[n - 1], 20);
        ht_pool_destroy(&work.pool);
    }
}

// An idle team takes no CPU time, be its members as many as the CPUs or more.
static void idle_costs_nothing(void **state)
{
    (void)state;
    for (unsigned n = 2; n <= MAX_TEAM; n *= 2) {
        struct work work = {0};
        struct timespec before, after;
        assert_int_equal(ht_pool_create(&work.pool, n, NULL), HEARTH_OK);
        ht_pool_run(work.pool, count_up, &work);
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL); // time to fall asleep
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
        double used_s =
            (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
        ht_pool_destroy(&work.pool);
        assert_true(used_s < 0.02);
    }
}

static void limits(void **state)
{
    (void)state;
    struct ht_pool *pool;
    struct hearth_error err;
    assert_int_equal(ht_pool_create(&pool, HT_MAX_THREADS + 1, &err), HEARTH_LIMIT);
    assert_null(pool);
    assert_int_equal(ht_pool_create(&pool, 0, &err), HEARTH_OK);
    assert_int_equal(ht_pool_size(pool), ht_cpus_usable());
    ht_pool_destroy(&pool);
    ht_pool_destroy(&pool);
    fault_memory_begin(1);
    assert_int_equal(ht_pool_create(&pool, 2, &err), HEARTH_NOMEM);
    assert_null(pool);
    assert_int_equal(fault_memory_end(NULL), 0);
}

static void put(const char *folder, const char *name, const char *text)
{
    check_file_write(check_path(folder, name), text, strlen(text));
}

static void cgroup_quotas(void **state)
{
    (void)state;
    char root[64], box[128], app[128], v1[128];
    check_folder_make(root);
    snprintf(box, sizeof box, "%s/box", root);
    snprintf(app, sizeof app, "%s/box/app", root);
    snprintf(v1, sizeof v1, "%s/cpu", root);
    assert_int_equal(mkdir(box, 0700) | mkdir(app, 0700) | mkdir(v1, 0700), 0);

    assert_int_equal(ht_cpus_of_cgroup("0::/box/app\n", root), 0);
    put(app, "cpu.max", "max 100000\n");
    assert_int_equal(ht_cpus_of_cgroup("0::/box/app\n", root), 0);
    put(app, "cpu.max", "350000 100000\n");
    assert_int_equal(ht_cpus_of_cgroup("0::/box/app\n", root), 4); // rounded up
    put(box, "cpu.max", "150000 100000\n");                        // a tighter folder above
    assert_int_equal(ht_cpus_of_cgroup("0::/box/app\n", root), 2);
    assert_int_equal(ht_cpus_of_cgroup("0::/box/gone/deeper\n", root), 2); // not mounted here: its ancestors
    put(box, "cpu.max", "5 100000\n");
    assert_int_equal(ht_cpus_of_cgroup("0::/box/app\n", root), 1);

    put(v1, "cpu.cfs_quota_us", "-1\n");
    put(v1, "cpu.cfs_period_us", "100000\n");
    assert_int_equal(ht_cpus_of_cgroup("4:cpuset:/\n1:cpu,cpuacct:/\n", root), 0);
    put(v1, "cpu.cfs_quota_us", "300000\n");
    assert_int_equal(ht_cpus_of_cgroup("4:cpuset:/\n1:cpu,cpuacct:/\n", root), 3);
    assert_int_equal(ht_cpus_of_cgroup("3:cpu:/some/group\n", root), 3);
    assert_int_equal(ht_cpus_of_cgroup("3:cpuset:/\n", root), 0);
    assert_int_equal(ht_cpus_of_cgroup("3:cpu:/\n0::/box/app\n", root), 1); // the smaller of both
    static const char *const odd[] = {"", "\n", "nonsense", "0:", "0::", "::::\n", "0::/../..\n"};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        assert_int_equal(ht_cpus_of_cgroup(odd[i], box), i == 4 ? 1 : 0);

    check_folder_remove(app);
    check_folder_remove(box);
    check_folder_remove(v1);
    check_folder_remove(root);
}

static void usable(void **state)
{
    (void)state;
    assert_in_range(ht_cpus_usable(), 1, HT_MAX_THREADS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_and_barriers),  cmocka_unit_test(sleeps_and_wakes),
        cmocka_unit_test(idle_costs_nothing), cmocka_unit_test(limits),
        cmocka_unit_test(cgroup_quotas),      cmocka_unit_test(usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
