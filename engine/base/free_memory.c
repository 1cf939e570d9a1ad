// SPDX-License-Identifier: Apache-2.0
// /proc/meminfo and the memory limits of control groups: see free_memory.h. Any thread.
#include "engine/base/free_memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/cgroup.h"

enum { TEXT_BYTES = 16384 };

// The number after `key` at the start of a line; 0 if there is none.
static uint64_t value_of(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (!strncmp(line, key, n) && (line[n] == ' ' || line[n] == ':'))
            return strtoull(line + n + 1, NULL, 10);
    }
    return 0;
}

static void tightest_room(void *arg, const char *folder)
{
    static const struct {
        const char *limit, *usage, *idle;
    } versions[] = {{"memory.max", "memory.current", "inactive_file"},
                    {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}};
    uint64_t *room = arg;
    char text[TEXT_BYTES], *end;
    for (int i = 0; i < 2; i++) {
        if (!ht_cgroup_text(folder, versions[i].limit, text, sizeof text))
            continue;
        uint64_t limit = strtoull(text, &end, 10);
        if (end == text || !ht_cgroup_text(folder, versions[i].usage, text, sizeof text))
            continue; // "max"
        uint64_t usage = strtoull(text, NULL, 10);
        uint64_t idle =
            ht_cgroup_text(folder, "memory.stat", text, sizeof text) ? value_of(text, versions[i].idle) : 0;
        usage = usage > idle ? usage - idle : 0;
        uint64_t left = limit > usage ? limit - usage : 0;
        *room = left < *room ? left : *room;
    }
}

uint64_t ht_memory_of_cgroup(const char *self, const char *root)
{
    uint64_t room = UINT64_MAX;
    ht_cgroup_visit(self, root, "memory", tightest_room, &room);
    return room;
}

uint64_t ht_memory_free(void)
{
    char text[TEXT_BYTES];
    uint64_t bytes = 0;
    if (ht_cgroup_text("/proc", "meminfo", text, sizeof text))
        bytes = value_of(text, "MemAvailable")
                << 10; // counts what the system can take back, which sysconf does not
    long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_AVPHYS_PAGES);
    if (!bytes && page > 0 && pages > 0)
        bytes = (uint64_t)page * (uint64_t)pages;
    if (!ht_cgroup_text("/proc/self", "cgroup", text, sizeof text))
        return bytes;
    uint64_t allowed = ht_memory_of_cgroup(text, "/sys/fs/cgroup");
    return allowed < bytes ? allowed : bytes;
}
