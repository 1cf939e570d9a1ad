// SPDX-License-Identifier: Apache-2.0
// What memory is left, as /proc and the control groups tell it: made-up trees of files.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>

#include "firmware/memory.h"

static char root[64];

static void put(const char *path, const char *text)
{
    char whole[256];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *p = whole + strlen(root) + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = 0;
        mkdir(whole, 0700);
        *p = '/';
    }
    FILE *file = fopen(whole, "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/hearth-memory-XXXXXX");
    assert_non_null(mkdtemp(root));
    put("/proc/meminfo", "MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:   4000 kB\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void without_groups_it_is_what_is_available(void **state)
{
    (void)state;
    assert_int_equal(hd_memory_available(root), 4000 << 10);
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_int_equal(hd_memory_available(root), 4000 << 10);
}

static void the_tightest_group_counts(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "1:cpu:/x\n0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "3000000\n");
    put("/sys/fs/cgroup/a/b/memory.current", "1000000\n");
    assert_int_equal(hd_memory_available(root), 2000000);
    put("/sys/fs/cgroup/a/memory.max", "2500000\n");
    put("/sys/fs/cgroup/a/memory.current", "2000000\n");
    assert_int_equal(hd_memory_available(root), 500000);
    put("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 300000\n"); // can be taken back
    assert_int_equal(hd_memory_available(root), 800000);
    put("/sys/fs/cgroup/a/memory.current", "9000000\n");
    assert_int_equal(hd_memory_available(root), 0);
}

static void the_older_groups_count_too(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "7:memory:/box\n3:cpu:/y\n0::/\n");
    put("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1000000\n");
    put("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "600000\n");
    put("/sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 100000\n");
    assert_int_equal(hd_memory_available(root), 500000);
}

static void a_container_sees_its_group_as_the_root(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "0::/\n");
    put("/sys/fs/cgroup/memory.max", "700000\n");
    put("/sys/fs/cgroup/memory.current", "100000\n");
    assert_int_equal(hd_memory_available(root), 600000);
}

static void a_budget_is_what_was_set(void **state)
{
    (void)state;
    assert_int_equal(hd_memory_budget(3), 3 << 20);
    uint64_t all = hd_memory_available("") + hd_memory_resident();
    assert_in_range(hd_memory_budget(0), all / 2, all);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(without_groups_it_is_what_is_available),
        T(the_tightest_group_counts),
        T(the_older_groups_count_too),
        T(a_container_sees_its_group_as_the_root),
        T(a_budget_is_what_was_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
