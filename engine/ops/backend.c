// SPDX-License-Identifier: Apache-2.0
// Names the back ends and picks one. Any thread.
#include "engine/ops/backend.h"

#include <string.h>

extern const struct ht_device_ops ht_cpu_device_ops;

// A back end that this build lacks has no table.
static const struct backend {
    const char *name, *title;
    const struct ht_device_ops *ops;
    bool indexed; // takes ":i"
} backends[] = {
    {"cuda", "CUDA", NULL, true},
    {"vulkan", "Vulkan", NULL, true},
    {"cpu", "CPU", &ht_cpu_device_ops, false},
};
enum { N_BACKENDS = sizeof backends / sizeof backends[0] };

// "" or ":" and up to three digits.
static bool parse_index(const char *s, unsigned *index)
{
    *index = 0;
    if (!*s)
        return true;
    size_t n = strlen(s + 1);
    if (*s != ':' || n < 1 || n > 3 || strspn(s + 1, "0123456789") != n)
        return false;
    while (*++s)
        *index = *index * 10 + (unsigned)(*s - '0');
    return true;
}

enum hearth_status ht_backend_find(const char *name, const struct ht_device_ops **ops, unsigned *index,
                                   struct hearth_error *err)
{
    *ops = NULL;
    *index = 0;
    if (!name || !strcmp(name, "auto")) {
        for (int i = 0; i < N_BACKENDS && !*ops; i++)
            *ops = backends[i].ops;
        return HEARTH_OK;
    }
    for (int i = 0; i < N_BACKENDS; i++) {
        const struct backend *b = &backends[i];
        size_t n = strlen(b->name);
        if (strncmp(name, b->name, n) || (name[n] && name[n] != ':'))
            continue;
        if (!parse_index(name + n, index) || (name[n] && !b->indexed))
            break;
        if (!b->ops)
            return ht_fail(err, HEARTH_UNSUPPORTED, "the %s back end is not in this build", b->title);
        *ops = b->ops;
        return HEARTH_OK;
    }
    return ht_fail(err, HEARTH_INVALID, "unknown device '%.40s': use auto, cpu, cuda[:i] or vulkan[:i]",
                   name);
}
