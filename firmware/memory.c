// SPDX-License-Identifier: Apache-2.0
// Reads /proc/meminfo and the control groups (v2 and v1) from this process's own up to the top. Any thread.
#include "firmware/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_PATH_BYTES = 1200, GROUP_BYTES = 512 };

struct names { // of one version's files
    const char *folder, *limit, *used, *reclaimable;
};
static const struct names v2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};
static const struct names v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                "total_inactive_file"};

static uint64_t read_number(const char *path, uint64_t missing)
{
    FILE *file = fopen(path, "re");
    unsigned long long value = missing;
    if (file && fscanf(file, "%llu", &value) != 1) // "max"
        value = missing;
    if (file)
        fclose(file);
    return value;
}

// The number behind `key` at the beginning of a line.
static uint64_t read_line(const char *path, const char *key, uint64_t missing)
{
    char line[256];
    size_t len = strlen(key);
    FILE *file = fopen(path, "re");
    uint64_t value = missing;
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, len) == 0 && (line[len] == ' ' || line[len] == ':')) {
            value = strtoull(line + len + 1, NULL, 10);
            break;
        }
    }
    if (file)
        fclose(file);
    return value;
}

// What one group leaves: its limit less what it uses that cannot be taken back.
static uint64_t group_leaves(const char *root, const struct names *names, const char *group)
{
    char path[FILE_PATH_BYTES];
    snprintf(path, sizeof path, "%s%s%s/%s", root, names->folder, group, names->limit);
    uint64_t limit = read_number(path, UINT64_MAX);
    if (limit == UINT64_MAX)
        return UINT64_MAX;
    snprintf(path, sizeof path, "%s%s%s/%s", root, names->folder, group, names->used);
    uint64_t used = read_number(path, 0);
    snprintf(path, sizeof path, "%s%s%s/memory.stat", root, names->folder, group);
    uint64_t back = read_line(path, names->reclaimable, 0);
    used -= back < used ? back : used;
    return used < limit ? limit - used : 0;
}

static uint64_t groups_leave(const char *root, const struct names *names, char *group)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t leaves = group_leaves(root, names, strcmp(group, "/") ? group : "");
        least = leaves < least ? leaves : least;
        char *slash = strrchr(group, '/');
        if (!slash || !group[0])
            return least;
        *slash = 0;
    }
}

uint64_t hd_memory_available(const char *root)
{
    char path[FILE_PATH_BYTES], line[GROUP_BYTES];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    uint64_t least = read_line(path, "MemAvailable", 0) << 10;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) { // "0::/path" or "7:memory:/path"
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        controllers++;
        if (controllers[0] && strcmp(controllers, "memory") != 0)
            continue;
        uint64_t leaves = groups_leave(root, controllers[0] ? &v1 : &v2, group);
        least = leaves < least ? leaves : least;
    }
    if (file)
        fclose(file);
    return least;
}

uint64_t hd_memory_resident(void)
{
    unsigned long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%lu %lu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t hd_memory_budget(unsigned budget_mib)
{
    if (budget_mib)
        return (uint64_t)budget_mib << 20;
    uint64_t ours = hd_memory_available("") + hd_memory_resident();
    return ours - ours / 8;
}
