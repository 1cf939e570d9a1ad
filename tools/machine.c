// SPDX-License-Identifier: Apache-2.0
// Reads /proc. Main thread.
#include "tools/machine.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/paths.h"

unsigned machine_threads(void)
{
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) > 0)
        return (unsigned)CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned)n : 1;
}

// The value after "key" and a colon in a /proc file of such lines; false if it is not there.
static bool proc_value(const char *path, const char *key, char *value, size_t size)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0, n = strlen(key);
    bool found = false;
    while (file && !found && getline(&line, &capacity, file) >= 0) {
        if (strncmp(line, key, n) || (line[n] != ':' && line[n] != '\t' && line[n] != ' '))
            continue;
        const char *at = strchr(line, ':');
        if (!at)
            continue;
        at += 1 + strspn(at + 1, " \t");
        snprintf(value, size, "%.*s", (int)strcspn(at, "\n"), at);
        found = true;
    }
    free(line);
    if (file)
        fclose(file);
    return found;
}

static uint64_t proc_kib(const char *path, const char *key)
{
    char value[64];
    return proc_value(path, key, value, sizeof value) ? strtoull(value, NULL, 10) * 1024 : 0;
}

void machine_cpu_name(char name[128])
{
    if (!proc_value("/proc/cpuinfo", "model name", name, 128) &&
        !proc_value("/proc/cpuinfo", "CPU part", name, 128))
        snprintf(name, 128, "unknown");
}

bool machine_cpu_has(const char *flag)
{
    char *flags = malloc(16384);
    bool found = false;
    if (flags && (proc_value("/proc/cpuinfo", "flags", flags, 16384) ||
                  proc_value("/proc/cpuinfo", "Features", flags, 16384))) {
        size_t n = strlen(flag);
        for (const char *at = flags; *at && !found; at += strcspn(at, " "), at += strspn(at, " "))
            found = strcspn(at, " ") == n && !strncmp(at, flag, n);
    }
    free(flags);
    return found;
}

double machine_peak_rss_mib(void)
{
    return (double)proc_kib("/proc/self/status", "VmHWM") / (1024 * 1024);
}

uint64_t machine_memory_total(void)
{
    return proc_kib("/proc/meminfo", "MemTotal");
}

uint64_t machine_memory_available(void)
{
    return proc_kib("/proc/meminfo", "MemAvailable");
}

double machine_process_age_ms(void)
{
    char *text = paths_read("/proc/self/stat", 4096);
    const char *at = text ? strrchr(text, ')') : NULL; // the command's name may hold blanks
    double age_ms = 0;
    for (int field = 2; at && field < 22; field++) // field 22: start time in clock ticks since boot
        at = strchr(at + 1, ' ');
    if (at) {
        struct timespec now;
        clock_gettime(CLOCK_BOOTTIME, &now);
        double started_s = strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK);
        age_ms = ((double)now.tv_sec + (double)now.tv_nsec * 1e-9 - started_s) * 1000;
    }
    free(text);
    return age_ms;
}
