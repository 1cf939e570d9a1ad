// SPDX-License-Identifier: Apache-2.0
// Folders of control groups, out of /proc/self/cgroup: see cgroup.h. Any thread.
#include "engine/base/cgroup.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 };

_Bool ht_cgroup_text(const char *folder, const char *name, char *text, size_t capacity)
{
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
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

static void visit_group(const char *root, const char *mount, const char *group, ht_cgroup_fn *fn, void *arg)
{
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s", root, mount);
    size_t top = n < 0 ? 0 : (size_t)n;
    n = snprintf(path, sizeof path, "%s%s%s", root, mount, group);
    if (n < 0 || (size_t)n >= sizeof path || strstr(group, "/../"))
        return;
    for (;;) {
        fn(arg, path);
        char *slash = strrchr(path, '/');
        if (!slash || slash < path + top)
            return;
        *slash = 0;
    }
}

// True if the comma-separated list names the controller.
static _Bool names_it(const char *list, size_t len, const char *controller)
{
    size_t n = strlen(controller);
    for (size_t at = 0; at + n <= len;) {
        size_t end = at;
        while (end < len && list[end] != ',')
            end++;
        if (end - at == n && !memcmp(list + at, controller, n))
            return 1;
        at = end + 1;
    }
    return 0;
}

static const char *next_line(const char *line)
{
    size_t len = strcspn(line, "\n");
    return line + len + (line[len] == '\n');
}

void ht_cgroup_visit(const char *self, const char *root, const char *controller, ht_cgroup_fn *fn, void *arg)
{
    char group[PATH_BYTES], mount[64];
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
            visit_group(root, "", group, fn, arg);
            visit_group(root, "/unified", group, fn, arg);
        } else if (names_it(names, names_len, controller)) {
            snprintf(mount, sizeof mount, "/%s", controller);
            visit_group(root, mount, group, fn, arg);
            snprintf(mount, sizeof mount, "/%.*s", (int)names_len, names);
            if (names_len != strlen(controller))
                visit_group(root, mount, group, fn, arg);
        }
    }
}
