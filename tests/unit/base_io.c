// SPDX-License-Identifier: Apache-2.0
// Files: exact reads, refusals, atomic replacement under failing and torn operations.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/base/io.h"
#include "tests/check/fault.h"

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    ht_io_set_hook(NULL);
    check_folder_remove(folder);
    return 0;
}

static void assert_content(const char *path, const char *want)
{
    char got[64] = {0};
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    size_t n = fread(got, 1, sizeof got - 1, file);
    fclose(file);
    assert_int_equal(n, strlen(want));
    assert_string_equal(got, want);
}

static void reads(void **state)
{
    (void)state;
    struct hearth_error err = {0};
    struct ht_file *file;
    char data[8] = {0}, id[72], id2[72];
    const char *path = check_path(folder, "a");
    check_file_write(path, "hello world", 11);
    assert_int_equal(ht_file_open_read(&file, path, &err), HEARTH_OK);
    assert_int_equal(ht_file_size(file), 11);
    assert_string_equal(ht_file_path(file), path);
    assert_int_equal(ht_file_read(file, data, 5, 6, &err), HEARTH_OK);
    assert_memory_equal(data, "world", 5);
    assert_int_equal(ht_file_read(file, data, 0, 11, &err), HEARTH_OK);
    assert_int_equal(ht_file_read(file, data, 6, 6, &err), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "a: file ends at 11"));
    assert_int_equal(ht_file_read(file, data, 1, UINT64_MAX, &err), HEARTH_FORMAT);
    assert_int_equal(ht_file_read(file, data, 1, INT64_MAX, &err), HEARTH_FORMAT);
    assert_int_equal(ht_file_identity(file, id, &err), HEARTH_OK);
    assert_true(strlen(id) > 8 && strlen(id) < 72);
    check_file_write(path, "hello", 5); // the same file, another size
    assert_int_equal(ht_file_identity(file, id2, &err), HEARTH_OK);
    assert_string_not_equal(id, id2);
    assert_int_equal(ht_file_read(file, data, 5, 6, &err), HEARTH_FORMAT); // it shrank: no signal, an error
    ht_file_close(&file);
    assert_null(file);
    ht_file_close(&file);
}

static void refuses(void **state)
{
    (void)state;
    struct hearth_error err = {0};
    struct ht_file *file;
    assert_int_equal(ht_file_open_read(&file, check_path(folder, "none"), &err), HEARTH_NOT_FOUND);
    assert_null(file);
    assert_non_null(strstr(err.text, "none: cannot open"));
    assert_int_equal(ht_file_open_read(&file, folder, &err), HEARTH_INVALID);
    const char *fifo = check_path(folder, "fifo"); // opening one would block without a writer
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(ht_file_open_read(&file, fifo, &err), HEARTH_INVALID);
    assert_null(file);
    fault_memory_begin(1);
    assert_int_equal(ht_file_open_read(&file, fifo, &err), HEARTH_NOMEM);
    assert_int_equal(fault_memory_end(NULL), 0);
}

// ---- a hook that fails, interrupts or shortens the n-th operation

struct fault {
    int fail_at, calls; // the call that fails, 0 = none
    int code;           // what it returns; -EINTR and short counts must be survived
    int short_by_one;   // reads and writes move one byte at a time
};

static int strikes(struct fault *f)
{
    return ++f->calls == f->fail_at;
}

static int64_t faulty_read(void *user, int fd, void *data, size_t len, uint64_t offset)
{
    struct fault *f = user;
    if (strikes(f))
        return f->code;
    return pread(fd, data, f->short_by_one ? 1 : len, (off_t)offset);
}

static int64_t faulty_write(void *user, int fd, const void *data, size_t len, uint64_t offset)
{
    struct fault *f = user;
    if (strikes(f))
        return f->code;
    return pwrite(fd, data, f->short_by_one ? 1 : len, (off_t)offset);
}

static int faulty_fsync(void *user, int fd)
{
    return strikes(user) ? ((struct fault *)user)->code : fsync(fd) ? -errno : 0;
}

static int faulty_rename(void *user, const char *from, const char *to)
{
    return strikes(user) ? ((struct fault *)user)->code : rename(from, to) ? -errno : 0;
}

static int faulty_fsync_dir(void *user, const char *dir)
{
    assert_string_equal(dir, folder);
    return strikes(user) ? ((struct fault *)user)->code : 0;
}

static void install(struct fault *fault)
{
    struct ht_io_hook hook = {
        .read_at = faulty_read,
        .write_at = faulty_write,
        .fsync = faulty_fsync,
        .rename = faulty_rename,
        .fsync_dir = faulty_fsync_dir,
        .user = fault,
    };
    ht_io_set_hook(&hook);
}

static void short_and_interrupted(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_file *file;
    struct fault fault = {.fail_at = 3, .code = -EINTR, .short_by_one = 1};
    const char *path = check_path(folder, "s");
    char data[11];
    install(&fault);
    assert_int_equal(ht_file_replace(path, "hello world", 11, &err), HEARTH_OK);
    assert_int_equal(fault.calls, 12 + 3); // 11 bytes, one interruption; fsync, rename, fsync of the folder
    fault.calls = 0;
    assert_int_equal(ht_file_open_read(&file, path, &err), HEARTH_OK);
    assert_int_equal(ht_file_read(file, data, 11, 0, &err), HEARTH_OK);
    assert_memory_equal(data, "hello world", 11);
    fault = (struct fault){.fail_at = 1, .code = -EIO};
    assert_int_equal(ht_file_read(file, data, 11, 0, &err), HEARTH_IO);
    assert_non_null(strstr(err.text, "s: cannot read"));
    fault = (struct fault){.fail_at = 1, .code = -ENOMEM};
    assert_int_equal(ht_file_read(file, data, 11, 0, &err), HEARTH_NOMEM);
    fault = (struct fault){.fail_at = 1, .code = 12}; // more than was asked for
    assert_int_equal(ht_file_read(file, data, 11, 0, &err), HEARTH_FORMAT);
    ht_file_close(&file);
    for (int n = 1; n <= 2; n++) { // the write, the fsync
        fault = (struct fault){.fail_at = n, .code = -EINTR};
        assert_int_equal(ht_file_replace(path, "whole", 5, &err), HEARTH_OK);
        assert_content(path, "whole");
        fault = (struct fault){.fail_at = n, .code = -EINTR};
        assert_int_equal(ht_file_append(path, "whole", 5, 0, true, &err), HEARTH_OK);
    }
    fault = (struct fault){.fail_at = 1, .code = 6}; // more than was given
    assert_int_equal(ht_file_append(path, "whole", 5, 0, true, &err), HEARTH_IO);
    assert_int_equal(fault.calls, 1);
    fault = (struct fault){.fail_at = 1, .code = 6};
    assert_int_equal(ht_file_replace(path, "whole", 5, &err), HEARTH_IO);
    assert_int_equal(fault.calls, 1);
    fault = (struct fault){.fail_at = 1, .code = 0}; // nothing
    assert_int_equal(ht_file_append(path, "whole", 5, 0, true, &err), HEARTH_IO);
    ht_io_set_hook(NULL);
    assert_content(path, "whole");
}

static int failing_close(void *user, int fd)
{
    (void)user;
    close(fd);
    return -EIO;
}

// What is told at the close only is told on.
static void closing_fails(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *path = check_path(folder, "c");
    check_file_write(path, "old", 3);
    ht_io_set_hook(&(struct ht_io_hook){.close = failing_close});
    assert_int_equal(ht_file_replace(path, "new", 3, &err), HEARTH_IO);
    assert_int_equal(ht_file_append(path, "more", 4, 3, false, &err), HEARTH_IO);
    ht_io_set_hook(NULL);
    assert_content(path, "oldmore");
    assert_int_equal(access(check_path(folder, "c.tmp"), F_OK), -1);
}

// A file at the root of the system or in the working folder: its folder is synced all the same.
static int elsewhere_open(void *user, const char *path, int flags, int mode)
{
    (void)user, (void)path, (void)flags, (void)mode;
    return open("/dev/null", O_WRONLY | O_CLOEXEC);
}
static int no_fsync(void *user, int fd)
{
    (void)user, (void)fd;
    return 0;
}
static int no_rename(void *user, const char *from, const char *to)
{
    (void)user, (void)from, (void)to;
    return 0;
}
static int unlinked; // times
static int no_unlink(void *user, const char *path)
{
    (void)user, (void)path;
    unlinked++;
    return 0;
}
static int folder_synced(void *user, const char *dir)
{
    snprintf(user, 64, "%s", dir);
    return 0;
}

static void folders_of_files(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"/x", "/"}, {"x", "."}, {"a/x", "a"}, {"/a/b/x", "/a/b"}};
    for (size_t i = 0; i < 4; i++) {
        char dir[64] = "";
        ht_io_set_hook(&(struct ht_io_hook){.open = elsewhere_open,
                                            .fsync = no_fsync,
                                            .rename = no_rename,
                                            .unlink = no_unlink,
                                            .fsync_dir = folder_synced,
                                            .user = dir});
        unlinked = 0;
        assert_int_equal(ht_file_replace(cases[i][0], "text", 4, NULL), HEARTH_OK);
        ht_io_set_hook(NULL);
        assert_string_equal(dir, cases[i][1]);
        assert_int_equal(unlinked, 1); // what a crash left; nothing any more once the file has its name
    }
}

static int opened; // times

static int interrupted_open(void *user, const char *path, int flags, int mode)
{
    (void)user;
    if (!opened++)
        return -EINTR;
    int fd = open(path, flags, mode);
    return fd < 0 ? -errno : fd;
}

static void opening_is_tried_again(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_file *file;
    const char *path = check_path(folder, "o");
    check_file_write(path, "text", 4);
    ht_io_set_hook(&(struct ht_io_hook){.open = interrupted_open});
    assert_int_equal(ht_file_open_read(&file, path, &err), HEARTH_OK);
    ht_io_set_hook(NULL);
    assert_int_equal(opened, 2);
    ht_file_close(&file);
}

static int lowest_free(void)
{
    int fd = dup(0);
    assert_int_equal(close(fd), 0);
    return fd;
}

static void descriptors_are_given_back(void **state)
{
    (void)state;
    struct ht_file *file;
    const char *path = check_path(folder, "d"), *fifo = check_path(folder, "d-fifo");
    int before = lowest_free();
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(ht_file_replace(path, "text", 4, NULL), HEARTH_OK);
    assert_int_equal(ht_file_append(path, "text", 4, 4, true, NULL), HEARTH_OK);
    assert_int_equal(ht_file_open_read(&file, fifo, NULL), HEARTH_INVALID);
    assert_int_equal(ht_file_create_alone(&file, path, NULL), HEARTH_OK);
    assert_int_equal(ht_file_commit(&file, NULL), HEARTH_OK);
    assert_int_equal(ht_file_remove(path, true, NULL), HEARTH_OK);
    assert_int_equal(ht_file_remove(path, true, NULL), HEARTH_OK); // it is not there: as asked
    assert_int_equal(ht_file_remove(path, false, NULL), HEARTH_OK);
    assert_int_equal(ht_file_remove(fifo, true, NULL), HEARTH_IO); // not a file that was written here
    assert_int_equal(ht_file_remove(fifo, false, NULL), HEARTH_OK);
    assert_int_equal(lowest_free(), before);
}

// Whose a file is matters to who asks for one's own, and only then.
static void own_files(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_file *file;
    const char *path = check_path(folder, "mine"), *link = check_path(folder, "mine-link");
    check_file_write(path, "text", 4);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(ht_file_open_own(&file, path, &err), HEARTH_OK);
    ht_file_close(&file);
    assert_int_equal(ht_file_open_own(&file, link, &err), HEARTH_IO);
    assert_int_equal(ht_file_open_read(&file, link, &err), HEARTH_OK);
    ht_file_close(&file);
    static const mode_t modes[] = {0620, 0602};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(chmod(path, modes[i]), 0);
        assert_int_equal(ht_file_open_own(&file, path, &err), HEARTH_INVALID);
        assert_int_equal(ht_file_open_read(&file, path, &err), HEARTH_OK);
        ht_file_close(&file);
    }
    assert_int_equal(ht_file_open_read(&file, check_path(folder, "mine/below"), &err), HEARTH_NOT_FOUND);
}

// What lies where an own temporary should is neither followed nor waited for nor taken from others.
static void alone_takes_its_own_only(void **state)
{
    (void)state;
    struct ht_file *file;
    const char *path = check_path(folder, "alone"), *temporary = check_path(folder, "alone.tmp"),
               *target = check_path(folder, "target");
    assert_int_equal(symlink(target, temporary), 0);
    assert_int_equal(ht_file_create_alone(&file, path, NULL), HEARTH_IO);
    assert_null(file);
    assert_int_equal(access(target, F_OK), -1);
    assert_int_equal(unlink(temporary), 0);
    assert_int_equal(mkfifo(temporary, 0600), 0); // without a reader
    assert_int_equal(ht_file_create_alone(&file, path, NULL), HEARTH_IO);
    assert_int_equal(unlink(temporary), 0);
    check_file_write(temporary, "left", 4);
    assert_int_equal(chmod(temporary, 0602), 0);
    assert_int_equal(ht_file_create_alone(&file, path, NULL), HEARTH_IO);
    assert_content(temporary, "left");
    assert_int_equal(chmod(temporary, 0600), 0);
    assert_int_equal(link(temporary, target), 0); // it has another name too
    assert_int_equal(ht_file_create_alone(&file, path, NULL), HEARTH_IO);
    assert_int_equal(unlink(target), 0);
    assert_int_equal(ht_file_create_alone(&file, path, NULL), HEARTH_OK); // what a killed process left
    assert_int_equal(ht_file_write(file, "new", 3, NULL), HEARTH_OK);
    assert_int_equal(ht_file_commit(&file, NULL), HEARTH_OK);
    assert_content(path, "new");
}

// Until it has its name nobody else gets the lock.
static int locked_rename(void *user, const char *from, const char *to)
{
    int fd = open(from, O_RDWR | O_CLOEXEC);
    *(int *)user = flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
    close(fd);
    return rename(from, to) ? -errno : 0;
}

static void alone_until_renamed(void **state)
{
    (void)state;
    struct ht_file *file;
    int code = 0;
    ht_io_set_hook(&(struct ht_io_hook){.rename = locked_rename, .user = &code});
    assert_int_equal(ht_file_create_alone(&file, check_path(folder, "locked"), NULL), HEARTH_OK);
    assert_int_equal(ht_file_commit(&file, NULL), HEARTH_OK);
    ht_io_set_hook(NULL);
    assert_int_equal(code, EWOULDBLOCK);
}

// Whatever fails, the old file or the new one stands there whole, and no temporary is left.
static void replaces_all_or_nothing(void **state)
{
    (void)state;
    const char *path = check_path(folder, "r");
    static const int codes[] = {-ENOSPC, -EIO, 0};
    for (size_t c = 0; c < 3; c++)
        for (int n = 1; n <= 4; n++) {
            if (codes[c] == 0 && n > 1)
                break; // a write of nothing: only writes count bytes
            struct hearth_error err = {0};
            struct fault fault = {.fail_at = n, .code = codes[c]};
            check_file_write(path, "old", 3);
            install(&fault);
            enum hearth_status status = ht_file_replace(path, "new text", 8, &err);
            ht_io_set_hook(NULL);
            assert_int_equal(status, HEARTH_IO);
            assert_non_null(strstr(err.text, "/r"));
            assert_content(path, n == 4 ? "new text" : "old");
            assert_int_equal(access(check_path(folder, "r.tmp"), F_OK), -1);
        }
    struct fault none = {0};
    install(&none);
    assert_int_equal(ht_file_replace(path, "", 0, NULL), HEARTH_OK);
    ht_io_set_hook(NULL);
    assert_content(path, "");
    struct stat stat;
    assert_int_equal(lstat(path, &stat), 0);
    assert_int_equal(stat.st_mode & 0777, 0600);
}

static void streams(void **state)
{
    (void)state;
    struct hearth_error err;
    struct ht_file *file;
    const char *path = check_path(folder, "w"), *temporary = check_path(folder, "w.tmp");
    assert_int_equal(symlink("/nonexistent/target", temporary), 0); // a trap: must not be followed
    assert_int_equal(ht_file_create(&file, path, &err), HEARTH_OK);
    assert_int_equal(ht_file_write(file, "one ", 4, &err), HEARTH_OK);
    assert_int_equal(ht_file_write(file, "two", 3, &err), HEARTH_OK);
    assert_int_equal(ht_file_size(file), 7);
    assert_int_equal(access(path, F_OK), -1); // not there before the commit
    assert_int_equal(ht_file_commit(&file, &err), HEARTH_OK);
    assert_null(file);
    assert_content(path, "one two");
    assert_int_equal(ht_file_create(&file, path, &err), HEARTH_OK);
    assert_int_equal(ht_file_write(file, "three", 5, &err), HEARTH_OK);
    ht_file_close(&file); // given up
    assert_content(path, "one two");
    assert_int_equal(access(temporary, F_OK), -1);
    assert_int_equal(ht_file_create(&file, check_path(folder, "no/such"), &err), HEARTH_NOT_FOUND);
    assert_null(file);
    for (unsigned long n = 1; n <= 2; n++) {
        fault_memory_begin(n);
        assert_int_equal(ht_file_create(&file, path, &err), HEARTH_NOMEM);
        assert_int_equal(fault_memory_end(NULL), 0);
    }
}

// Appending goes to the file itself, never to what a link names, and each step that fails is told.
static void appends(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *path = check_path(folder, "log"), *link = check_path(folder, "link");
    assert_int_equal(ht_file_append(path, "one\n", 4, 0, true, &err), HEARTH_OK);
    assert_int_equal(ht_file_append(path, "two\n", 4, 4, false, &err), HEARTH_OK);
    assert_content(path, "one\ntwo\n");
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(ht_file_append(link, "three\n", 6, 8, false, &err), HEARTH_IO);
    assert_content(path, "one\ntwo\n");
    for (int fail_at = 1; fail_at <= 3; fail_at++) { // the write, the fsync, and then none is left
        fault_io_begin(fail_at);
        assert_int_equal(ht_file_append(path, "x", 1, 8, true, &err), fail_at < 3 ? HEARTH_IO : HEARTH_OK);
        fault_io_end();
    }
}

// A step that need not last is not waited for.
static void appends_without_sync(void **state)
{
    (void)state;
    struct fault fault = {0};
    install(&fault);
    assert_int_equal(ht_file_append(check_path(folder, "fast"), "one", 3, 0, false, NULL), HEARTH_OK);
    assert_int_equal(fault.calls, 1);
    assert_int_equal(ht_file_append(check_path(folder, "fast"), "two", 3, 3, true, NULL), HEARTH_OK);
    assert_int_equal(fault.calls, 3);
    ht_io_set_hook(NULL);
}

// An open descriptor is written in place, from its beginning: nothing is renamed over it.
static void writes_into_a_descriptor(void **state)
{
    (void)state;
    struct ht_file *file;
    const char *path = check_path(folder, "target-of-fd");
    char name[64];
    struct stat before, after;
    check_file_write(path, "a longer text", 13);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(fstat(fd, &before), 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    assert_int_equal(ht_file_create(&file, name, NULL), HEARTH_OK);
    assert_int_equal(ht_file_write(file, "short", 5, NULL), HEARTH_OK);
    assert_int_equal(ht_file_commit(&file, NULL), HEARTH_OK);
    assert_content(path, "short");
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    close(fd);
}

struct walked {
    unsigned n;
    uint64_t size;
};

static void count_file(void *user, const char *name, uint64_t size)
{
    struct walked *walked = user;
    assert_string_equal(name, "file");
    walked->n++;
    walked->size += size;
}

// Files are told, what is no file or a link to one is not.
static void walks(void **state)
{
    (void)state;
    struct walked walked = {0};
    char sub[80], path[100];
    snprintf(sub, sizeof sub, "%s/sub", folder);
    assert_int_equal(mkdir(sub, 0700), 0);
    assert_int_equal(ht_folder_walk(sub, count_file, &walked, NULL), HEARTH_OK);
    assert_int_equal(walked.n, 0);
    snprintf(path, sizeof path, "%s/file", sub);
    check_file_write(path, "12345", 5);
    assert_int_equal(symlink(path, check_path(sub, "link")), 0);
    assert_int_equal(mkfifo(check_path(sub, "fifo"), 0600), 0);
    assert_int_equal(mkdir(check_path(sub, "folder"), 0700), 0);
    assert_int_equal(ht_folder_walk(sub, count_file, &walked, NULL), HEARTH_OK);
    assert_int_equal(walked.n, 1);
    assert_int_equal(walked.size, 5);
    assert_int_equal(ht_folder_walk(path, count_file, &walked, NULL), HEARTH_NOT_FOUND);
    assert_int_equal(rmdir(check_path(sub, "folder")), 0);
    check_folder_remove(sub);
    assert_int_equal(ht_folder_walk(sub, count_file, &walked, NULL), HEARTH_OK); // none: no files
}

static int64_t write_a_byte(void *user, int fd, const void *data, size_t len_bytes, uint64_t offset)
{
    (void)user, (void)len_bytes;
    ssize_t n = pwrite(fd, data, 1, (off_t)offset);
    return n < 0 ? -errno : n;
}

static void appends_piece_by_piece(void **state)
{
    (void)state;
    struct hearth_error err = {0};
    const char *path = check_path(folder, "pieces");
    ht_io_set_hook(&(struct ht_io_hook){.write_at = write_a_byte});
    assert_int_equal(ht_file_append(path, "one\n", 4, 0, true, &err), HEARTH_OK);
    assert_int_equal(ht_file_append(path, "two\n", 4, 4, false, &err), HEARTH_OK);
    ht_io_set_hook(NULL);
    assert_content(path, "one\ntwo\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),
        cmocka_unit_test(refuses),
        cmocka_unit_test(short_and_interrupted),
        cmocka_unit_test(closing_fails),
        cmocka_unit_test(folders_of_files),
        cmocka_unit_test(opening_is_tried_again),
        cmocka_unit_test(descriptors_are_given_back),
        cmocka_unit_test(own_files),
        cmocka_unit_test(alone_takes_its_own_only),
        cmocka_unit_test(alone_until_renamed),
        cmocka_unit_test(replaces_all_or_nothing),
        cmocka_unit_test(streams),
        cmocka_unit_test(appends),
        cmocka_unit_test(appends_piece_by_piece),
        cmocka_unit_test(appends_without_sync),
        cmocka_unit_test(writes_into_a_descriptor),
        cmocka_unit_test(walks),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
