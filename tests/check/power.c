// SPDX-License-Identifier: Apache-2.0
// A folder whose power can be cut. Operations go to the real folder too, so that what reads it needs no hook.
#include "tests/check/power.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/io.h"
#include "engine/base/rng.h"

enum { MAX_FILES = 4096, MAX_NAMES = 64, MAX_FDS = 256, NAME = 128 };

struct bytes {
    unsigned char *data;
    size_t n;
};
struct name {
    char text[NAME];
    int file; // index into files
};

static struct {
    char folder[512];
    struct bytes synced[MAX_FILES];
    int n_files;
    struct name live[MAX_NAMES], durable[MAX_NAMES];
    int n_live, n_durable;
    int file_of[MAX_FDS]; // file + 1
    char path_of[MAX_FDS][NAME];
    unsigned ops, cut, fail;
    const char *ignored;
    bool gone;
} disk;

static void die(const char *what)
{
    perror(what);
    abort();
}

static void put_text(char *to, size_t size, const char *from)
{
    size_t n = strlen(from);
    if (n >= size)
        die("a name is too long");
    memcpy(to, from, n + 1);
}

static const char *path_in(const char *name)
{
    static char path[640];
    size_t n = strlen(disk.folder);
    memcpy(path, disk.folder, n);
    path[n] = '/';
    put_text(path + n + 1, sizeof path - n - 1, name);
    return path;
}

// The name of a path within the folder, or NULL.
static const char *within(const char *path)
{
    size_t n = strlen(disk.folder);
    return !strncmp(path, disk.folder, n) && path[n] == '/' ? path + n + 1 : NULL;
}

static struct name *find(struct name *names, int n, const char *text)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i].text, text))
            return &names[i];
    return NULL;
}

static void drop(struct name *names, int *n, const char *text)
{
    struct name *name = find(names, *n, text);
    if (name)
        *name = names[--*n];
}

static void bind(const char *text, int file)
{
    drop(disk.live, &disk.n_live, text);
    if (disk.n_live == MAX_NAMES)
        die("too many names");
    struct name *name = &disk.live[disk.n_live++];
    put_text(name->text, NAME, text);
    name->file = file;
}

static struct bytes read_fd(int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        die("fstat");
    struct bytes b = {malloc((size_t)st.st_size + 1), (size_t)st.st_size};
    if (!b.data || pread(fd, b.data, b.n, 0) != (ssize_t)b.n)
        die("pread");
    return b;
}

static struct bytes read_name(const char *name)
{
    int fd = open(path_in(name), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        die(name);
    struct bytes b = read_fd(fd);
    close(fd);
    return b;
}

static int new_file(struct bytes synced)
{
    if (disk.n_files == MAX_FILES)
        die("too many files");
    disk.synced[disk.n_files] = synced;
    return disk.n_files++;
}

// 0, or what the operation fails with.
static int operate(int error)
{
    if (disk.gone || ++disk.ops == disk.cut) {
        disk.gone = true;
        return -EIO;
    }
    return disk.ops == disk.fail ? -error : 0;
}

static bool lies(const char *path)
{
    size_t n = disk.ignored ? strlen(disk.ignored) : 0, len = strlen(path);
    return n && n <= len && !strcmp(path + len - n, disk.ignored);
}

// ---------------------------------------------------------------- the hook

static int power_open(void *user, const char *path, int flags, int mode)
{
    const char *name = within(path);
    (void)user;
    if (disk.gone)
        return -EIO;
    bool made = name && flags & O_CREAT && !find(disk.live, disk.n_live, name);
    int code = made ? operate(ENOSPC) : 0;
    if (code)
        return code;
    int fd = open(path, (flags & ~O_ACCMODE) | ((flags & O_ACCMODE) == O_WRONLY ? O_RDWR : flags & O_ACCMODE), mode);
    if (fd < 0)
        return -errno;
    if (fd >= MAX_FDS)
        die("too many files are open");
    if (made)
        bind(name, new_file((struct bytes){0}));
    disk.file_of[fd] = name ? find(disk.live, disk.n_live, name)->file + 1 : 0;
    put_text(disk.path_of[fd], NAME, name ? name : "");
    return fd;
}

static int64_t power_write(void *user, int fd, const void *data, size_t n, uint64_t offset)
{
    int code = operate(ENOSPC);
    (void)user;
    if (code)
        return code;
    ssize_t written = pwrite(fd, data, n, (off_t)offset);
    return written < 0 ? -errno : written;
}

static int power_fsync(void *user, int fd)
{
    int code = operate(EIO);
    (void)user;
    if (code || !disk.file_of[fd] || lies(disk.path_of[fd]))
        return code;
    struct bytes *synced = &disk.synced[disk.file_of[fd] - 1];
    free(synced->data);
    *synced = read_fd(fd);
    return 0;
}

static int power_close(void *user, int fd)
{
    (void)user;
    disk.file_of[fd] = 0;
    close(fd);
    return disk.gone ? -EIO : 0;
}

static int power_rename(void *user, const char *from, const char *to)
{
    int code = operate(EIO);
    (void)user;
    if (code)
        return code;
    if (rename(from, to))
        return -errno;
    struct name *name = find(disk.live, disk.n_live, within(from));
    int file = name->file;
    drop(disk.live, &disk.n_live, within(from));
    bind(within(to), file);
    return 0;
}

static int power_unlink(void *user, const char *path)
{
    const char *name = within(path);
    (void)user;
    if (disk.gone)
        return -EIO;
    if (!name || !find(disk.live, disk.n_live, name))
        return -ENOENT;
    int code = operate(EIO);
    if (code)
        return code;
    drop(disk.live, &disk.n_live, name);
    return unlink(path) ? -errno : 0;
}

static int power_fsync_dir(void *user, const char *dir)
{
    int code = operate(EIO);
    (void)user;
    (void)dir;
    if (code || (disk.ignored && !strcmp(disk.ignored, "/")))
        return code;
    memcpy(disk.durable, disk.live, sizeof disk.live);
    disk.n_durable = disk.n_live;
    return 0;
}

// ---------------------------------------------------------------- for tests

static void forget_files(void)
{
    for (int i = 0; i < disk.n_files; i++)
        free(disk.synced[i].data);
    disk.n_files = disk.n_live = disk.n_durable = 0;
}

// What lies in the folder is durable.
static void take_folder(void)
{
    forget_files();
    DIR *dir = opendir(disk.folder);
    if (!dir)
        die(disk.folder);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            bind(entry->d_name, new_file(read_name(entry->d_name)));
    closedir(dir);
    memcpy(disk.durable, disk.live, sizeof disk.live);
    disk.n_durable = disk.n_live;
}

void power_begin(const char *folder)
{
    static const struct ht_io_hook hook = {.open = power_open,
                                           .write_at = power_write,
                                           .fsync = power_fsync,
                                           .close = power_close,
                                           .rename = power_rename,
                                           .unlink = power_unlink,
                                           .fsync_dir = power_fsync_dir};
    put_text(disk.folder, sizeof disk.folder, folder);
    take_folder();
    disk.ops = disk.cut = disk.fail = 0;
    disk.ignored = NULL;
    disk.gone = false;
    ht_io_set_hook(&hook);
}

void power_end(void)
{
    ht_io_set_hook(NULL);
    forget_files();
}

unsigned power_ops(void)
{
    return disk.ops;
}

void power_cut_at(unsigned op)
{
    disk.cut = op;
}

void power_fail_at(unsigned op)
{
    disk.fail = op;
}

void power_ignore_fsync(const char *suffix)
{
    disk.ignored = suffix;
}

bool power_is_gone(void)
{
    return disk.gone;
}

static void put_back(const char *name, const unsigned char *data, size_t n)
{
    FILE *file = fopen(path_in(name), "wb");
    if (!file || (n && fwrite(data, 1, n, file) != n) || fclose(file))
        die(name);
}

// Synced bytes, then of those that were not a part, and some of it another's.
static void put_torn(const char *name, struct bytes synced, struct bytes live, uint64_t seed)
{
    struct ht_philox draw = ht_philox(seed, 1, 0);
    size_t n = live.n > synced.n ? synced.n + draw.v[0] % (live.n - synced.n + 1) : synced.n;
    for (size_t i = synced.n; i < n && draw.v[1] % 3 == 0; i++)
        live.data[i] = i % 512 < 256 ? live.data[i] : 0;
    size_t both = synced.n < live.n ? synced.n : live.n;
    if (both) // empty files have no data
        memcpy(live.data, synced.data, both);
    put_back(name, n > live.n ? synced.data : live.data, n);
}

void power_restart(enum power_policy policy, uint64_t seed)
{
    struct bytes live[MAX_NAMES];
    struct name names[MAX_NAMES];
    int n_names = disk.n_live;
    memcpy(names, disk.live, sizeof names);
    for (int i = 0; i < n_names; i++) {
        live[i] = read_name(names[i].text);
        unlink(path_in(names[i].text));
    }
    bool new_names = policy == POWER_KEEP || (policy == POWER_TEAR && ht_philox(seed, 0, 0).v[0] % 2);
    for (int i = 0; i < n_names && new_names; i++) {
        if (policy == POWER_KEEP)
            put_back(names[i].text, live[i].data, live[i].n);
        else
            put_torn(names[i].text, disk.synced[names[i].file], live[i], seed + (uint64_t)i);
    }
    for (int i = 0; i < disk.n_durable && !new_names; i++)
        put_back(disk.durable[i].text, disk.synced[disk.durable[i].file].data, disk.synced[disk.durable[i].file].n);
    for (int i = 0; i < n_names; i++)
        free(live[i].data);
    take_folder();
    disk.ops = disk.cut = disk.fail = 0;
    disk.gone = false;
}
