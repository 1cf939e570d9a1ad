// SPDX-License-Identifier: Apache-2.0
// XDG folders and small files. Main thread.
#include "tools/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cli.h"

static const char *home(void)
{
    const char *dir = getenv("HOME");
    if (dir && dir[0] == '/')
        return dir;
    const struct passwd *user = getpwuid(getuid());
    return user && user->pw_dir && user->pw_dir[0] == '/' ? user->pw_dir : NULL;
}

bool paths_get(char path[PATHS_MAX], enum paths_base base, const char *name)
{
    static const char *const variables[] = {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
                                            "XDG_STATE_HOME", "XDG_RUNTIME_DIR"};
    static const char *const defaults[] = {"/.cache", "/.config", "/.local/share", "/.local/state", NULL};
    const char *dir = getenv(variables[base]), *rest = "";
    char runtime[64];
    if (!dir || dir[0] != '/') { // the XDG rule: relative paths are ignored
        if (base == PATHS_RUNTIME) {
            snprintf(runtime, sizeof runtime, "/run/user/%u", (unsigned)getuid());
            dir = runtime;
        } else {
            dir = home();
            rest = defaults[base];
        }
    }
    if (!dir) {
        cli_fail(CLI_CONFIG, "no home folder is known: set HOME or %s", variables[base]);
        return false;
    }
    int n = snprintf(path, PATHS_MAX, "%s%s/hearth%s%s", dir, rest, name[0] ? "/" : "", name);
    if (n < 0 || n >= PATHS_MAX) {
        cli_fail(CLI_CONFIG, "%s is too long", variables[base]);
        return false;
    }
    return true;
}

bool paths_join(char path[PATHS_MAX], const char *dir, const char *name)
{
    int n = snprintf(path, PATHS_MAX, "%s/%s", dir, name);
    return n > 0 && n < PATHS_MAX;
}

bool paths_make_parent(const char *path)
{
    char dir[PATHS_MAX];
    size_t len = strlen(path);
    if (len >= sizeof dir)
        return false;
    memcpy(dir, path, len + 1);
    for (char *slash = strchr(dir + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(dir, 0700) && errno != EEXIST) {
            cli_fail(CLI_CANTCREAT, "%s: cannot make the folder: %s", dir, strerror(errno));
            return false;
        }
        *slash = '/';
    }
    return true;
}

bool paths_is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

bool paths_is_dir(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

bool paths_same(const char *a, const char *b)
{
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

char *paths_read(const char *path, size_t max_bytes)
{
    FILE *file = fopen(path, "rbe");
    if (!file)
        return NULL;
    char *text = malloc(max_bytes + 2);
    size_t n = text ? fread(text, 1, max_bytes + 1, file) : 0;
    int why = !text ? ENOMEM : ferror(file) ? EIO : n > max_bytes ? EFBIG : 0;
    fclose(file);
    if (why) {
        free(text);
        errno = why;
        return NULL;
    }
    text[n] = 0;
    return text;
}

bool paths_replace(const char *path, const void *data, size_t len_bytes, unsigned mode)
{
    char part[PATHS_MAX];
    int n = snprintf(part, sizeof part, "%s.%ld.part", path, (long)getpid());
    if (n < 0 || n >= PATHS_MAX) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, (mode_t)mode);
    if (fd < 0)
        return false;
    const char *at = data;
    bool good = true;
    while (good && len_bytes) {
        ssize_t written = write(fd, at, len_bytes);
        if (written < 0 && errno == EINTR)
            continue;
        good = written > 0;
        if (good) {
            at += written;
            len_bytes -= (size_t)written;
        }
    }
    good = good && !fsync(fd);
    int saved = errno;
    if (close(fd) && good) {
        good = false;
        saved = errno;
    }
    if (good && rename(part, path)) {
        good = false;
        saved = errno;
    }
    if (!good)
        unlink(part);
    errno = saved;
    return good;
}
