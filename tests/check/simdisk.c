// SPDX-License-Identifier: Apache-2.0
// A disk in memory that can fail, fill up, lie and lose its power. Single-threaded.
#include "tests/check/simdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_INODES = 1024,
    MAX_NAMES = 16,
    MAX_FDS = 64,
    MAX_CHANGES = 128,
    PATH_BYTES = 128,
    FD_BASE = 1000,
    SECTOR = 512
};

struct bytes {
    uint8_t *p;
    size_t n, capacity;
};
struct write { // since the last fsync; data NULL = a truncate to `offset`
    uint64_t offset;
    struct bytes data;
    struct write *next;
};
struct inode {
    struct bytes now, durable;
    struct write *first, **last;
};
struct name {
    char path[PATH_BYTES];
    int inode;
};
struct names {
    struct name list[MAX_NAMES];
    int n;
};
struct simdisk {
    struct inode inodes[MAX_INODES];
    int n_inodes;
    struct names now, durable;
    struct names after[MAX_CHANGES]; // the names after each change since the last fsync of the folder
    int n_after;
    struct {
        int inode; // -1 = free
        char path[PATH_BYTES];
    } fds[MAX_FDS];
    unsigned ops, cut_at, fail_at;
    bool dead;
    size_t capacity;
    const char *ignore;
    struct bytes history; // everything that was ever written
};

static void *must(void *p)
{
    if (p == NULL)
        abort();
    return p;
}

static void resize(struct bytes *b, size_t n)
{
    if (n > b->capacity) {
        b->capacity = 2 * n;
        b->p = must(realloc(b->p, b->capacity));
    }
    if (n > b->n)
        memset(b->p + b->n, 0, n - b->n);
    b->n = n;
}

static void append(struct bytes *to, const void *data, size_t n)
{
    resize(to, to->n + n);
    memcpy(to->p + to->n - n, data, n);
}

static void copy(struct bytes *to, const struct bytes *from)
{
    resize(to, from->n);
    if (from->n > 0)
        memcpy(to->p, from->p, from->n);
}

static void drop_writes(struct inode *inode)
{
    while (inode->first != NULL) {
        struct write *w = inode->first;
        inode->first = w->next;
        free(w->data.p);
        free(w);
    }
    inode->last = &inode->first;
}

struct simdisk *simdisk_new(void)
{
    struct simdisk *disk = must(calloc(1, sizeof *disk));
    for (int i = 0; i < MAX_FDS; i++)
        disk->fds[i].inode = -1;
    return disk;
}

void simdisk_free(struct simdisk *disk)
{
    for (int i = 0; i < disk->n_inodes; i++) {
        drop_writes(&disk->inodes[i]);
        free(disk->inodes[i].now.p);
        free(disk->inodes[i].durable.p);
    }
    free(disk->history.p);
    free(disk);
}

// Counts an operation that changes something; what it must answer, or 0.
static int count(struct simdisk *disk)
{
    if (disk->dead)
        return -EIO;
    disk->ops++;
    if (disk->ops == disk->cut_at) {
        disk->dead = true;
        return -EIO;
    }
    return disk->ops == disk->fail_at ? -EIO : 0;
}

static int find(const struct names *names, const char *path)
{
    for (int i = 0; i < names->n; i++)
        if (strcmp(names->list[i].path, path) == 0)
            return i;
    return -1;
}

static void set_name(struct names *names, const char *path, int inode) // inode -1 removes
{
    int at = find(names, path);
    if (at >= 0)
        names->list[at] = names->list[--names->n];
    if (inode < 0)
        return;
    if (names->n == MAX_NAMES)
        abort();
    snprintf(names->list[names->n].path, PATH_BYTES, "%s", path);
    names->list[names->n++].inode = inode;
}

static void names_changed(struct simdisk *disk)
{
    if (disk->n_after == MAX_CHANGES)
        abort();
    disk->after[disk->n_after++] = disk->now;
}

static int new_inode(struct simdisk *disk)
{
    if (disk->n_inodes == MAX_INODES)
        abort();
    struct inode *inode = &disk->inodes[disk->n_inodes];
    inode->last = &inode->first;
    return disk->n_inodes++;
}

static void record(struct simdisk *disk, struct inode *inode, uint64_t offset, const void *data, size_t n)
{
    struct write *w = must(calloc(1, sizeof *w));
    w->offset = offset;
    if (data != NULL) {
        w->data.p = must(malloc(n + 1));
        w->data.n = n;
        memcpy(w->data.p, data, n);
        append(&disk->history, data, n);
    }
    *inode->last = w;
    inode->last = &w->next;
}

// ---- what reaches the disk

static uint64_t next_random(uint64_t *state) // splitmix64
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void apply(struct bytes *to, const struct write *w, bool tear, uint64_t *state)
{
    if (w->data.p == NULL) {
        if (!tear || next_random(state) % 2)
            resize(to, w->offset);
        return;
    }
    for (size_t i = 0; i < w->data.n;) { // sector by sector of the disk
        size_t n = SECTOR - (w->offset + i) % SECTOR;
        if (n > w->data.n - i)
            n = w->data.n - i;
        if (!tear || next_random(state) % 2) {
            if (w->offset + i + n > to->n)
                resize(to, w->offset + i + n);
            memcpy(to->p + w->offset + i, w->data.p + i, n);
        }
        i += n;
    }
}

// ---- the hooks

static struct inode *inode_of(struct simdisk *disk, int fd)
{
    if (fd < FD_BASE || fd >= FD_BASE + MAX_FDS || disk->fds[fd - FD_BASE].inode < 0)
        return NULL;
    return &disk->inodes[disk->fds[fd - FD_BASE].inode];
}

static int sim_open(void *user, const char *path, int flags, mode_t mode)
{
    (void)mode;
    struct simdisk *disk = user;
    if (disk->dead)
        return -EIO;
    int at = find(&disk->now, path), fd = 0;
    if (at < 0 && !(flags & O_CREAT))
        return -ENOENT;
    while (fd < MAX_FDS && disk->fds[fd].inode >= 0)
        fd++;
    if (fd == MAX_FDS)
        return -EMFILE;
    if (at < 0 || flags & O_TRUNC) {
        int result = count(disk);
        if (result != 0)
            return result;
    }
    int inode = at < 0 ? new_inode(disk) : disk->now.list[at].inode;
    if (at < 0) {
        set_name(&disk->now, path, inode);
        names_changed(disk);
    } else if (flags & O_TRUNC) {
        resize(&disk->inodes[inode].now, 0);
        record(disk, &disk->inodes[inode], 0, NULL, 0);
    }
    disk->fds[fd].inode = inode;
    snprintf(disk->fds[fd].path, PATH_BYTES, "%s", path);
    return FD_BASE + fd;
}

static int64_t sim_read_at(void *user, int fd, void *data, size_t len_bytes, uint64_t offset)
{
    struct simdisk *disk = user;
    struct inode *inode = inode_of(disk, fd);
    if (inode == NULL || disk->dead)
        return -EIO;
    if (offset >= inode->now.n)
        return 0;
    size_t n = len_bytes < inode->now.n - offset ? len_bytes : inode->now.n - offset;
    memcpy(data, inode->now.p + offset, n);
    return (int64_t)n;
}

static size_t used(const struct simdisk *disk)
{
    size_t total = 0;
    for (int i = 0; i < disk->now.n; i++)
        total += disk->inodes[disk->now.list[i].inode].now.n;
    return total;
}

static int64_t sim_write_at(void *user, int fd, const void *data, size_t len_bytes, uint64_t offset)
{
    struct simdisk *disk = user;
    struct inode *inode = inode_of(disk, fd);
    if (inode == NULL)
        return -EBADF;
    int result = count(disk);
    // A write that the power cut or the error meets may have reached the disk in part.
    size_t n = result != 0 ? len_bytes / 2 : len_bytes;
    size_t end = offset + n;
    if (disk->capacity != 0 && end > inode->now.n && used(disk) + (end - inode->now.n) > disk->capacity)
        return -ENOSPC;
    if (result != 0 && n == 0)
        return result;
    record(disk, inode, offset, data, n);
    if (end > inode->now.n)
        resize(&inode->now, end);
    memcpy(inode->now.p + offset, data, n);
    return result != 0 ? result : (int64_t)n;
}

static int sim_truncate(void *user, int fd, uint64_t size_bytes)
{
    struct simdisk *disk = user;
    struct inode *inode = inode_of(disk, fd);
    int result = inode == NULL ? -EBADF : count(disk);
    if (result != 0)
        return result;
    resize(&inode->now, size_bytes);
    record(disk, inode, size_bytes, NULL, 0);
    return 0;
}

static bool ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

static int sim_fsync(void *user, int fd)
{
    struct simdisk *disk = user;
    struct inode *inode = inode_of(disk, fd);
    int result = inode == NULL ? -EBADF : count(disk);
    if (result != 0)
        return result;
    if (disk->ignore != NULL && ends_with(disk->fds[fd - FD_BASE].path, disk->ignore))
        return 0;
    for (const struct write *w = inode->first; w != NULL; w = w->next)
        apply(&inode->durable, w, false, NULL);
    drop_writes(inode);
    return 0;
}

static int sim_close(void *user, int fd)
{
    struct simdisk *disk = user;
    if (inode_of(disk, fd) == NULL)
        return -EBADF;
    disk->fds[fd - FD_BASE].inode = -1;
    return 0;
}

static int64_t sim_size(void *user, int fd)
{
    struct simdisk *disk = user;
    struct inode *inode = inode_of(disk, fd);
    return inode == NULL || disk->dead ? -EIO : (int64_t)inode->now.n;
}

static int sim_lock(void *user, int fd, uint64_t start, uint64_t len_bytes)
{
    (void)user, (void)fd, (void)start, (void)len_bytes;
    return 0;
}

static int sim_rename(void *user, const char *from, const char *to)
{
    struct simdisk *disk = user;
    int result = count(disk), at = find(&disk->now, from);
    if (result != 0)
        return result;
    if (at < 0)
        return -ENOENT;
    int inode = disk->now.list[at].inode;
    set_name(&disk->now, from, -1);
    set_name(&disk->now, to, inode);
    names_changed(disk);
    return 0;
}

static int sim_unlink(void *user, const char *path)
{
    struct simdisk *disk = user;
    if (!disk->dead && find(&disk->now, path) < 0)
        return -ENOENT;
    int result = count(disk);
    if (result != 0)
        return result;
    set_name(&disk->now, path, -1);
    names_changed(disk);
    return 0;
}

static int sim_list(void *user, const char *dir, void (*each)(void *arg, const char *name), void *arg)
{
    struct simdisk *disk = user;
    struct names names = disk->now; // `each` may remove some
    size_t len = strlen(dir);
    for (int i = 0; i < names.n && !disk->dead; i++) {
        const char *path = names.list[i].path;
        if (strncmp(path, dir, len) == 0 && path[len] == '/' && strchr(path + len + 1, '/') == NULL)
            each(arg, path + len + 1);
    }
    return disk->dead ? -EIO : 0;
}

static int sim_exists(void *user, const char *path)
{
    struct simdisk *disk = user;
    return disk->dead ? -EIO : find(&disk->now, path) >= 0;
}

static int sim_fsync_dir(void *user, const char *dir)
{
    (void)dir;
    struct simdisk *disk = user;
    int result = count(disk);
    if (result != 0)
        return result;
    if (disk->ignore != NULL && strcmp(disk->ignore, "/") == 0)
        return 0;
    disk->durable = disk->now;
    disk->n_after = 0;
    return 0;
}

struct hd_io simdisk_io(struct simdisk *disk)
{
    return (struct hd_io){
        .open = sim_open,
        .read_at = sim_read_at,
        .write_at = sim_write_at,
        .truncate = sim_truncate,
        .fsync = sim_fsync,
        .close = sim_close,
        .size = sim_size,
        .lock = sim_lock,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .exists = sim_exists,
        .list = sim_list,
        .fsync_dir = sim_fsync_dir,
        .user = disk,
    };
}

// ---- power

void simdisk_next_process(struct simdisk *disk)
{
    for (int i = 0; i < MAX_FDS; i++)
        disk->fds[i].inode = -1;
    disk->dead = false;
    disk->cut_at = disk->fail_at = 0;
}

void simdisk_restart(struct simdisk *disk, enum simdisk_policy policy, uint64_t seed)
{
    for (int i = 0; i < disk->n_inodes; i++) {
        struct inode *inode = &disk->inodes[i];
        for (const struct write *w = inode->first; w != NULL && policy != SIMDISK_DROP; w = w->next)
            apply(&inode->durable, w, policy == SIMDISK_TEAR, &seed);
        drop_writes(inode);
        copy(&inode->now, &inode->durable);
    }
    int kept = policy == SIMDISK_DROP   ? 0
               : policy == SIMDISK_KEEP ? disk->n_after
                                        : (int)(next_random(&seed) % (uint64_t)(disk->n_after + 1));
    if (kept > 0)
        disk->durable = disk->after[kept - 1];
    disk->now = disk->durable;
    disk->n_after = 0;
    simdisk_next_process(disk);
}

unsigned simdisk_ops(const struct simdisk *disk)
{
    return disk->ops;
}

void simdisk_cut_at(struct simdisk *disk, unsigned op)
{
    disk->cut_at = op;
}

void simdisk_fail_at(struct simdisk *disk, unsigned op)
{
    disk->fail_at = op;
}

bool simdisk_is_dead(const struct simdisk *disk)
{
    return disk->dead;
}

void simdisk_set_capacity(struct simdisk *disk, size_t bytes)
{
    disk->capacity = bytes;
}

void simdisk_ignore_fsync(struct simdisk *disk, const char *suffix)
{
    disk->ignore = suffix;
}

// ---- looking and planting

uint8_t *simdisk_file(struct simdisk *disk, const char *path, size_t *len_bytes)
{
    int at = find(&disk->now, path);
    if (at < 0)
        return NULL;
    struct inode *inode = &disk->inodes[disk->now.list[at].inode];
    *len_bytes = inode->now.n;
    return must(inode->now.p);
}

void simdisk_put(struct simdisk *disk, const char *path, const void *data, size_t len_bytes)
{
    int inode = new_inode(disk);
    resize(&disk->inodes[inode].now, len_bytes);
    if (len_bytes)
        memcpy(disk->inodes[inode].now.p, data, len_bytes);
    copy(&disk->inodes[inode].durable, &disk->inodes[inode].now);
    set_name(&disk->now, path, inode);
    set_name(&disk->durable, path, inode);
}

void simdisk_remove(struct simdisk *disk, const char *path)
{
    set_name(&disk->now, path, -1);
    set_name(&disk->durable, path, -1);
}

bool simdisk_ever_held(const struct simdisk *disk, const void *bytes, size_t len_bytes)
{
    return disk->history.n >= len_bytes && memmem(disk->history.p, disk->history.n, bytes, len_bytes) != NULL;
}
