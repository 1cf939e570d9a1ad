// SPDX-License-Identifier: Apache-2.0
// Usable CPUs: sched_getaffinity and cgroup quotas. Any thread; reads a few small system files.
#include "engine/base/cpus.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/limits.h"

enum { PATH_BYTES = 1024, TEXT_BYTES = 8192 };

// The file's first bytes as a string; false if it cannot be read.
static int read_text(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size_t len = 0;
    ssize_t n;
    while (len < capacity - 1 && (n = read(fd, text + len, capacity - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    text[len] = 0;
    return 1;
}

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
    char path[PATH_BYTES + 32], text[64], *end;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (read_text(path, text, sizeof text)) {
        long long quota = strtoll(text, &end, 10);
        return end == text ? 0 : ceil_cpus(quota, strtoll(end, NULL, 10));
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_text(path, text, sizeof text))
        return 0;
    long long quota = strtoll(text, NULL, 10);
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    return read_text(path, text, sizeof text) ? ceil_cpus(quota, strtoll(text, NULL, 10)) : 0;
}

// The tightest quota of mount/group and all folders above it. In a container the group's path may not exist
// below the mount; its ancestors then still do.
static unsigned group_quota(const char *root, const char *mount, const char *group)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s", root, mount);
    size_t top = n < 0 ? 0 : (size_t)n;
    n = snprintf(path, sizeof path, "%s%s%s", root, mount, group);
    if (n < 0 || (size_t)n >= sizeof path || strstr(group, "/../"))
        return 0;
    unsigned cpus = 0;
    for (;;) {
        cpus = smaller(cpus, folder_quota(path));
        char *slash = strrchr(path, '/');
        if (!slash || slash < path + top)
            return cpus;
        *slash = 0;
    }
}

static int is_cpu_controller(const char *names, size_t len)
{
    if (len == 3)
        return !memcmp(names, "cpu", 3);
    return len == 11 && (!memcmp(names, "cpu,cpuacct", 11) || !memcmp(names, "cpuacct,cpu", 11));
}

static const char *next_line(const char *line)
{
    size_t len = strcspn(line, "\n");
    return line + len + (line[len] == '\n');
}

unsigned ht_cpus_of_cgroup(const char *self, const char *root)
{
    unsigned cpus = 0;
    char group[PATH_BYTES];
    for (const char *line = self; *line; line = next_line(line)) {
        const char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path || path >= next_line(line))
            continue;
        size_t len = strcspn(++path, "\n"), names_len = (size_t)(path - names) - 2;
        if (len >= sizeof group)
            continue;
        memcpy(group, path, len);
        group[len] = 0;
        names++;
        if (!names_len) { // v2
            cpus = smaller(cpus, group_quota(root, "", group));
            cpus = smaller(cpus, group_quota(root, "/unified", group));
        } else if (is_cpu_controller(names, names_len)) {
            cpus = smaller(cpus, group_quota(root, "/cpu", group));
            cpus = smaller(cpus, group_quota(root, "/cpu,cpuacct", group));
        }
    }
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
    if (read_text("/proc/self/cgroup", self, sizeof self))
        cpus = smaller(cpus, ht_cpus_of_cgroup(self, "/sys/fs/cgroup"));
    return cpus;
}
