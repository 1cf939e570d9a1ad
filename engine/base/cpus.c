// SPDX-License-Identifier: Apache-2.0
// Usable CPUs: sched_getaffinity and cgroup quotas. Any thread; reads a few small system files.
#include "engine/base/cpus.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/cgroup.h"
#include "engine/base/limits.h"

enum { TEXT_BYTES = 8192 };

static unsigned ceil_cpus(long long quota_us, long long period_us)
{
    if (quota_us <= 0 || period_us <= 0)
        return 0;
    long long n = quota_us / period_us + (quota_us % period_us != 0);
    return n > HT_MAX_THREADS ? HT_MAX_THREADS : (unsigned)n;
}

static unsigned smaller(unsigned a, unsigned b) // 0 = no limit
{
    return !a || (b && b < a) ? b : a;
}

// cpu.max of v2 holds "quota period" or "max period"; v1 has a file for each, quota -1 = none.
static unsigned folder_quota(const char *folder)
{
    char text[64], *end;
    if (ht_cgroup_text(folder, "cpu.max", text, sizeof text)) {
        long long quota = strtoll(text, &end, 10);
        return end == text ? 0 : ceil_cpus(quota, strtoll(end, NULL, 10));
    }
    if (!ht_cgroup_text(folder, "cpu.cfs_quota_us", text, sizeof text))
        return 0;
    long long quota = strtoll(text, NULL, 10);
    return ht_cgroup_text(folder, "cpu.cfs_period_us", text, sizeof text) ? ceil_cpus(quota, strtoll(text, NULL, 10))
                                                                         : 0;
}

static void tightest_quota(void *arg, const char *folder)
{
    unsigned *cpus = arg;
    *cpus = smaller(*cpus, folder_quota(folder));
}

unsigned ht_cpus_of_cgroup(const char *self, const char *root)
{
    unsigned cpus = 0;
    ht_cgroup_visit(self, root, "cpu", tightest_quota, &cpus);
    return cpus;
}

unsigned ht_cpus_usable(void)
{
    cpu_set_t set;
    char self[TEXT_BYTES];
    int count = 0;
    CPU_ZERO(&set);
    if (!sched_getaffinity(0, sizeof set, &set))
        count = CPU_COUNT(&set);
    if (count <= 0)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN); // more CPUs than cpu_set_t holds
    unsigned cpus = count <= 0 ? 1 : count > HT_MAX_THREADS ? HT_MAX_THREADS : (unsigned)count;
    if (ht_cgroup_text("/proc/self", "cgroup", self, sizeof self))
        cpus = smaller(cpus, ht_cpus_of_cgroup(self, "/sys/fs/cgroup"));
    return cpus;
}
