// SPDX-License-Identifier: Apache-2.0
// How much memory may still be taken: the limits of control groups of both versions, as files say them.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "engine/base/free_memory.h"
#include "tests/check/fault.h"

static void put(const char *folder, const char *name, const char *text)
{
    check_file_write(check_path(folder, name), text, strlen(text));
}

static void the_tightest_group_counts(void **state)
{
    (void)state;
    char root[64], box[128], app[128], v1[128];
    check_folder_make(root);
    snprintf(box, sizeof box, "%s/box", root);
    snprintf(app, sizeof app, "%s/box/app", root);
    snprintf(v1, sizeof v1, "%s/memory", root);
    assert_int_equal(mkdir(box, 0700) | mkdir(app, 0700) | mkdir(v1, 0700), 0);
    const char *self = "0::/box/app\n";
    assert_true(ht_memory_of_cgroup(self, root) == UINT64_MAX);
    put(app, "memory.max", "max\n");
    put(app, "memory.current", "600\n");
    assert_true(ht_memory_of_cgroup(self, root) == UINT64_MAX);
    put(app, "memory.max", "1000\n");
    assert_int_equal(ht_memory_of_cgroup(self, root), 400);
    put(app, "memory.stat", "anon 200\ninactive_file_x 9\ninactive_file 250\nactive_file 5\n");
    assert_int_equal(ht_memory_of_cgroup(self, root), 650); // file pages that nobody needs
    put(box, "memory.max", "900\n");
    put(box, "memory.current", "800\n");
    assert_int_equal(ht_memory_of_cgroup(self, root), 100); // a tighter folder above
    assert_int_equal(ht_memory_of_cgroup("0::/box/gone/deeper\n", root), 100);
    put(box, "memory.current", "1000\n");
    assert_int_equal(ht_memory_of_cgroup(self, root), 0);
    put(box, "memory.stat", "inactive_file 5000\n"); // more than is used
    assert_int_equal(ht_memory_of_cgroup(self, root), 650);

    put(v1, "memory.limit_in_bytes", "5000\n");
    put(v1, "memory.usage_in_bytes", "4000\n");
    put(v1, "memory.stat", "cache 7\ntotal_inactive_file 1500\n");
    assert_int_equal(ht_memory_of_cgroup("7:memory:/\n", root), 2500);
    assert_int_equal(ht_memory_of_cgroup("7:cpu,memory:/some/group\n", root), 2500);
    assert_true(ht_memory_of_cgroup("7:cpuset,memories:/\n", root) == UINT64_MAX);
    assert_int_equal(ht_memory_of_cgroup("7:memory:/\n0::/box/app\n", root), 650);
    check_folder_remove(app);
    check_folder_remove(box);
    check_folder_remove(v1);
    check_folder_remove(root);
}

static void this_process_has_some(void **state)
{
    (void)state;
    assert_true(ht_memory_free() > 1 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_tightest_group_counts),
                                       cmocka_unit_test(this_process_has_some)};
    return cmocka_run_group_tests_name("base_free_memory", tests, NULL, NULL);
}
