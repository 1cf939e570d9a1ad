// SPDX-License-Identifier: Apache-2.0
// Files of packed weights when things fail: reads, writes, memory, the power, the process; when others write the same
// file, or the engine steps meanwhile. The answer is the same, and nothing is left behind.
#include "tests/model/packed_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "engine/base/io.h"
#include "tests/check/power.h"
#include "tests/check/tiny.h"

// ---- the n-th read of the file fails, or ends early

static struct {
    atomic_int fd, n, fail_at;
    bool early;
} reads;

static int count_open(void *user, const char *path, int flags, int mode)
{
    int fd = open(path, flags, mode);
    (void)user;
    if (fd >= 0 && strstr(path, ".packed"))
        atomic_store(&reads.fd, fd);
    return fd < 0 ? -errno : fd;
}

static int64_t count_read(void *user, int fd, void *data, size_t n, uint64_t offset)
{
    (void)user;
    if (fd == atomic_load(&reads.fd) && atomic_fetch_add(&reads.n, 1) + 1 == atomic_load(&reads.fail_at))
        return reads.early ? 0 : -EIO;
    ssize_t got = pread(fd, data, n, (off_t)offset);
    return got < 0 ? -errno : got;
}

static int count_close(void *user, int fd)
{
    (void)user;
    if (fd == atomic_load(&reads.fd))
        atomic_store(&reads.fd, -1);
    return close(fd) ? -errno : 0;
}

static void every_read_fails(void **state)
{
    (void)state;
    static const struct ht_io_hook hook = {.open = count_open, .read_at = count_read, .close = count_close};
    packed_file(dir, TINY);
    reads.fd = -1;
    ht_io_set_hook(&hook);
    assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_READ);
    int n = atomic_exchange(&reads.n, 0);
    assert_true(n > 10);
    for (int i = 1; i <= n; i++)
        for (int early = 0; early < 2; early++) {
            reads.n = 0;
            reads.fail_at = i;
            reads.early = early;
            assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_REFUSED);
        }
}

// ---- memory

static void every_allocation_of_reading_fails(void **state)
{
    (void)state;
    struct hearth_error err;
    unsigned long n;
    const struct hearth_engine_params p = packed_params(TINY, dir);
    packed_file(dir, TINY);
    struct hearth_engine *engine;
    fault_memory_begin(0);
    must(hearth_engine_open(&engine, &p, &err), &err);
    assert_int_equal(packed_of(engine), HEARTH_PACKED_READ);
    hearth_engine_close(&engine);
    assert_int_equal(fault_memory_end(&n), 0);
    unsigned packed_after_all = 0;
    for (unsigned long i = 1; i <= n; i++) {
        fault_memory_begin(i);
        enum hearth_status status = hearth_engine_open(&engine, &p, &err);
        if (status == HEARTH_OK) { // what only the file wanted
            assert_int_equal(packed_of(engine), HEARTH_PACKED_REFUSED);
            packed_after_all++;
        } else {
            assert_int_equal(status, HEARTH_NOMEM);
        }
        hearth_engine_close(&engine);
        assert_int_equal(fault_memory_end(NULL), 0);
    }
    assert_in_range(packed_after_all, 5, 12);
}

static void every_allocation_of_writing_fails(void **state)
{
    (void)state;
    struct hearth_error err;
    char name[256];
    unsigned long n = 1;
    fault_memory_begin(0); // its blocks are freed by the same hook
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    for (unsigned long i = 0; i <= n; i++) {
        long alive = fault_memory_alive();
        fault_memory_arm(i);
        enum hearth_status status = hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err);
        n = i ? n : fault_memory_count();
        assert_int_equal(fault_memory_alive(), alive);
        if (status != HEARTH_OK)
            assert_int_equal(status, HEARTH_NOMEM);
        assert_int_equal(names_in(dir, name), status == HEARTH_OK);
        must(hearth_packed_remove(dir, NULL, &err), &err);
        assert_true(i || status == HEARTH_OK);
    }
    assert_true(n > 6);
    hearth_engine_close(&engine);
    assert_int_equal(fault_memory_end(NULL), 0);
}

// ---- the disk

// Every operation of writing fails once, a write as on a full disk: no file, no temporary; then it goes.
static void every_operation_of_writing_fails(void **state)
{
    (void)state;
    struct hearth_error err;
    char name[256];
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    power_begin(dir);
    must(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err), &err);
    unsigned n = power_ops();
    power_end();
    assert_true(n > 10);
    for (unsigned i = 1; i <= n; i++) {
        must(hearth_packed_remove(dir, NULL, &err), &err);
        power_begin(dir);
        power_fail_at(i);
        enum hearth_status status = hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err);
        power_end();
        assert_int_equal(status, HEARTH_IO);
        // The last one makes the name durable: the file is there, and good.
        assert_int_equal(names_in(dir, name), i == n);
        assert_int_equal(open_and_compare(packed_params(TINY, dir)),
                         i == n ? HEARTH_PACKED_READ : HEARTH_PACKED_ABSENT);
    }
    must(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err), &err);
    assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_READ);
    hearth_engine_close(&engine);
}

static void the_power_goes(void **state)
{
    (void)state;
    struct hearth_error err;
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    bool done = false;
    for (unsigned cut = 1; !done; cut++)
        for (int policy = POWER_DROP; policy <= POWER_TEAR; policy++) {
            must(hearth_packed_remove(dir, NULL, &err), &err);
            power_begin(dir);
            power_cut_at(cut);
            enum hearth_status status = hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err);
            done = !power_is_gone();
            power_restart((enum power_policy)policy, cut);
            power_end();
            enum hearth_packed packed = open_and_compare(packed_params(TINY, dir));
            assert_int_not_equal(packed, HEARTH_PACKED_REFUSED); // it was synced before it had its name
            if (status == HEARTH_OK)
                assert_int_equal(packed, HEARTH_PACKED_READ);
            assert_true(cut < 1000);
        }
    hearth_engine_close(&engine);
}

// ---- the process is killed while it writes

static int64_t kill_at_write(void *user, int fd, const void *data, size_t n, uint64_t offset)
{
    int *left = user;
    if (!--*left) {
        (void)!pwrite(fd, data, n / 2, (off_t)offset);
        raise(SIGKILL);
    }
    ssize_t put = pwrite(fd, data, n, (off_t)offset);
    return put < 0 ? -errno : put;
}

static int killed_at_rename(void *user, const char *from, const char *to)
{
    (void)user, (void)from, (void)to;
    raise(SIGKILL);
    return 0;
}

static void killed_in_the_midst(void **state)
{
    (void)state;
    struct hearth_error err;
    char name[256];
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    for (int at = 1; at < 8; at++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            int left = at == 7 ? 1 << 20 : at;
            const struct ht_io_hook hook = {
                .write_at = kill_at_write, .rename = at == 7 ? killed_at_rename : NULL, .user = &left};
            ht_io_set_hook(&hook);
            _exit(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, NULL) == HEARTH_OK);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(names_in(dir, name), 1);
        assert_string_equal(name + strlen(name) - 4, ".tmp");
        assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_ABSENT);
        if (at % 2)
            must(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err), &err);
        assert_int_equal(names_in(dir, name), 1); // what was left is taken over, or removed
        must(hearth_packed_remove(dir, BASE, &err), &err);
        assert_int_equal(names_in(dir, name), 0);
    }
    hearth_engine_close(&engine);
}

// ---- others beside it

static void another_writes_it(void **state)
{
    (void)state;
    struct hearth_error err;
    char name[256];
    const char *path = packed_file(dir, TINY);
    char *temporary = malloc(strlen(path) + 5);
    memcpy(temporary, path, strlen(path));
    memcpy(temporary + strlen(path), ".tmp", 5);
    int fd = open(temporary, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB));
    assert_int_equal(write(fd, "half", 4), 4);
    assert_int_equal(write_packed(packed_params(TINY, dir), &err), HEARTH_BUSY);
    must(hearth_packed_remove(dir, NULL, &err), &err); // the file goes, what is being written does not
    assert_int_equal(names_in(dir, name), 1);
    struct blob b = blob_of(temporary);
    assert_int_equal(b.n, 4);
    free(b.data);
    close(fd);
    must(write_packed(packed_params(TINY, dir), &err), &err);
    assert_int_equal(names_in(dir, name), 1);
    assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_READ);

    // A temporary that is not ours is neither written nor followed.
    const char *aside = check_file_make(dir, "aside", "text of mine");
    assert_int_equal(symlink("aside", temporary), 0);
    assert_int_not_equal(write_packed(packed_params(TINY, dir), &err), HEARTH_OK);
    unlink(temporary);
    assert_int_equal(link(aside, temporary), 0);
    assert_int_not_equal(write_packed(packed_params(TINY, dir), &err), HEARTH_OK);
    b = blob_of(aside);
    assert_memory_equal(b.data, "text of mine", 12);
    free(b.data);
    free(temporary);
}

// What a killed process left may be longer than what is written now.
static void a_long_rest(void **state)
{
    (void)state;
    struct hearth_error err;
    const char *path = packed_file(dir, TINY);
    struct blob b = blob_of(path);
    char *rest = malloc(strlen(path) + 5);
    memcpy(rest, path, strlen(path));
    memcpy(rest + strlen(path), ".tmp", 5);
    unsigned char *longer = calloc(2, b.n);
    blob_put(rest, longer, 2 * b.n);
    must(write_packed(packed_params(TINY, dir), &err), &err);
    assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_READ);
    free(b.data);
    free(longer);
    free(rest);
}

static int ready_meanwhile(void *user, const char *path, int flags, int mode)
{
    char *final = user;
    int fd = open(path, flags, mode);
    size_t n = strlen(path);
    if (fd >= 0 && n > 4 && !strcmp(path + n - 4, ".tmp")) {
        memcpy(final, path, n - 4);
        final[n - 4] = 0;
        if (rename(path, final))
            return -EIO;
        check_file_write(path, "half", 4); // and a third one begins
    }
    return fd < 0 ? -errno : fd;
}

// Between opening the temporary and locking it, another process gives it its name: it is not ours to write any more.
static void another_is_ready_first(void **state)
{
    (void)state;
    char final[512] = "";
    struct hearth_error err;
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    const struct ht_io_hook hook = {.open = ready_meanwhile, .user = final};
    ht_io_set_hook(&hook);
    assert_int_equal(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err), HEARTH_BUSY);
    ht_io_set_hook(NULL);
    struct blob b = blob_of(final);
    assert_int_equal(b.n, 0);
    free(b.data);
    char name[256];
    assert_int_equal(names_in(dir, name), 2);
    hearth_engine_close(&engine);
}

// Some processes write and remove; whoever opens meanwhile finds it whole or not at all.
static void many_at_once(void **state)
{
    (void)state;
    enum { N = 4, ROUNDS = 12 };
    pid_t children[N];
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    for (int c = 0; c < N; c++) {
        children[c] = fork();
        assert_true(children[c] >= 0);
        if (children[c])
            continue;
        for (int i = 0; i < ROUNDS; i++) {
            enum hearth_status status = hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, NULL);
            if (status != HEARTH_OK && status != HEARTH_BUSY)
                _exit((int)status);
            if (!c)
                (void)hearth_packed_remove(dir, BASE, NULL);
        }
        _exit(0);
    }
    for (int i = 0; i < ROUNDS; i++)
        assert_int_not_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_REFUSED);
    for (int c = 0; c < N; c++) {
        int status;
        assert_int_equal(waitpid(children[c], &status, 0), children[c]);
        assert_int_equal(status, 0);
    }
    hearth_engine_close(&engine);
}

static void *write_beside(void *user)
{
    struct hearth_error err;
    for (int i = 0; i < 20; i++)
        must(hearth_engine_write_packed(user, dir, BASE, NULL, NULL, &err), &err);
    return NULL;
}

static void beside_steps(void **state)
{
    (void)state;
    static const int32_t ids[] = {5, 6, 7};
    pthread_t thread;
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    struct hearth_session *session = new_session(engine);
    assert_int_equal(pthread_create(&thread, NULL, write_beside, engine), 0);
    for (int i = 0; i < 15; i++)
        free(eval_ids(session, engine, ids, 3, 0));
    pthread_join(thread, NULL);
    hearth_engine_close(&engine);
    assert_int_equal(open_and_compare(packed_params(TINY, dir)), HEARTH_PACKED_READ);
}

// ---- a slow disk

static struct {
    uint64_t unsynced, most;
} disk;

static int64_t count_written(void *user, int fd, const void *data, size_t n, uint64_t offset)
{
    (void)user;
    ssize_t written = pwrite(fd, data, n, (off_t)offset);
    disk.unsynced += written > 0 ? (uint64_t)written : 0;
    disk.most = disk.unsynced > disk.most ? disk.unsynced : disk.most;
    return written < 0 ? -errno : written;
}

static int count_synced(void *user, int fd)
{
    (void)user;
    disk.unsynced = 0;
    return fsync(fd) ? -errno : 0;
}

// No call waits for the whole file to reach the disk: between any two of them it can be given up, so that closing the
// engine never waits for long.
static void the_disk_gets_it_in_pieces(void **state)
{
    (void)state;
    static const struct ht_io_hook hook = {.write_at = count_written, .fsync = count_synced};
    static const struct check_tiny shape = {.family = "llama", .layers = 2, .n_embd = 512, .n_ff = 4096, .heads = 4,
                                            .kv_heads = 2, .k_dim = 64, .v_dim = 64, .type = HT_TYPE_F32};
    struct hearth_error err;
    const struct hearth_engine_params p = packed_params(check_tiny_make(dir, "large.gguf", &shape), dir);
    memset(&disk, 0, sizeof disk);
    ht_io_set_hook(&hook);
    must(write_packed(p, &err), &err);
    ht_io_set_hook(NULL);
    struct hearth_packed_size size;
    must(hearth_packed_measure(dir, BASE, &size, &err), &err);
    assert_true(size.bytes > 40 << 20);
    assert_in_range(disk.most, 1, 17 << 20);
    assert_int_equal(disk.unsynced, 0);
    assert_int_equal(open_and_compare(p), HEARTH_PACKED_READ);
}

// ---- what a folder holds

static void one_file_of_a_base(void **state)
{
    (void)state;
    struct hearth_error err;
    struct hearth_packed_size size;
    char name[256];
    const char *path = packed_file(dir, TINY);
    char *old = strdup(path);
    memset(old + strlen(dir) + 1 + 65, 'a', 32); // of another form of the same base
    check_file_write(old, "old", 3);
    memset(old + strlen(dir) + 1, 'b', 64); // of another base
    check_file_write(old, "other", 5);
    check_file_make(dir, "mine.packed", "text of mine");
    must(hearth_packed_measure(dir, NULL, &size, &err), &err);
    assert_int_equal(size.n_files, 3);
    must(hearth_packed_measure(dir, BASE, &size, &err), &err);
    assert_int_equal(size.n_files, 2);
    must(write_packed(packed_params(TINY, dir), &err), &err);
    must(hearth_packed_measure(dir, BASE, &size, &err), &err);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(size.n_files, 1);
    assert_int_equal(size.bytes, st.st_size);
    must(hearth_packed_remove(dir, BASE, &err), &err);
    assert_int_equal(names_in(dir, name), 2);
    must(hearth_packed_remove(dir, NULL, &err), &err);
    assert_int_equal(names_in(dir, name), 1);
    assert_string_equal(name, "mine.packed");
    must(hearth_packed_measure(check_path(dir, "none"), NULL, &size, &err), &err);
    assert_int_equal(size.n_files, 0);
    must(hearth_packed_remove(check_path(dir, "none"), NULL, &err), &err);
    free(old);
}

static bool stop_at(void *user)
{
    return (*(int *)user)-- > 0;
}

static bool stop_at_progress(void *user, double done)
{
    assert_true(done >= 0 && done <= 1);
    return (*(int *)user)-- > 0;
}

static void given_up(void **state)
{
    (void)state;
    struct hearth_error err;
    char name[256];
    struct hearth_engine *engine = open_engine(packed_params(TINY, dir));
    int at = 0;
    for (int n;; at++) {
        n = at;
        enum hearth_status status = hearth_engine_write_packed(engine, dir, BASE, stop_at, &n, &err);
        if (status == HEARTH_OK)
            break;
        assert_int_equal(status, HEARTH_CANCELED);
        assert_int_equal(names_in(dir, name), 0);
        assert_true(at < 1000);
    }
    assert_true(at > 20); // asked at every piece, twice
    hearth_engine_close(&engine);
    struct hearth_engine_params p = packed_params(TINY, dir);
    p.progress = stop_at_progress;
    at = 0;
    for (int n;; at++) {
        n = at;
        p.progress_user = &n;
        enum hearth_status status = hearth_engine_open(&engine, &p, &err);
        if (status == HEARTH_OK)
            break;
        assert_int_equal(status, HEARTH_CANCELED);
        assert_null(engine);
    }
    assert_true(at > 1);
    assert_int_equal(packed_of(engine), HEARTH_PACKED_READ);
    hearth_engine_close(&engine);
}

static const char *changing;
static bool change_it(void *user, double done)
{
    (void)user, (void)done;
    const struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    return !utimensat(AT_FDCWD, changing, times, 0);
}

// What was read may be of two states: it is not kept under the name of either.
static void a_model_that_changes(void **state)
{
    (void)state;
    struct hearth_error err;
    struct blob b = blob_of(TINY);
    changing = check_path(dir, "model.gguf");
    blob_put(changing, b.data, b.n);
    struct hearth_engine_params p = packed_params(changing, dir);
    p.progress = change_it;
    struct hearth_engine *engine = open_engine(p);
    assert_int_equal(hearth_engine_write_packed(engine, dir, BASE, NULL, NULL, &err), HEARTH_IO);
    char name[256];
    assert_int_equal(names_in(dir, name), 1);
    hearth_engine_close(&engine);
    free(b.data);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_read_fails),
        TEST(every_allocation_of_reading_fails),
        TEST(every_allocation_of_writing_fails),
        TEST(every_operation_of_writing_fails),
        TEST(the_power_goes),
        TEST(killed_in_the_midst),
        TEST(another_writes_it),
        TEST(a_long_rest),
        TEST(another_is_ready_first),
        TEST(many_at_once),
        TEST(beside_steps),
        TEST(the_disk_gets_it_in_pieces),
        TEST(one_file_of_a_base),
        TEST(given_up),
        TEST(a_model_that_changes),
    };
    return cmocka_run_group_tests_name("packed_faults", tests, NULL, NULL);
}
