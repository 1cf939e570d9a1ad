// SPDX-License-Identifier: Apache-2.0
// The model check: parent side (engine thread) and child side (a process of its own). See check.h.
#include "firmware/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"
#include "firmware/util.h"

extern char **environ;

enum { CHECK_SECONDS = 60, CHECK_DATA_BYTES_LOG2 = 32 };

// ---- parent

static enum hearth_status spawn(const char *path, int out_fd, pid_t *pid, struct hearth_error *err)
{
    char *const argv[] = {"hearthd", "--check-model", (char *)path, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out_fd, STDOUT_FILENO);
    int code = posix_spawn(pid, "/proc/self/exe", &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return code ? hd_fail(err, HEARTH_IO, "cannot start the model check: %s", strerror(code)) : HEARTH_OK;
}

// Reads until the child closes its end or time is up.
static size_t read_answer(int fd, char *text, size_t size)
{
    size_t used = 0;
    int64_t deadline_ms = hd_now_ms() + CHECK_SECONDS * 1000;
    while (used < size - 1) {
        int64_t left_ms = deadline_ms - hd_now_ms();
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (left_ms <= 0 || poll(&wait, 1, (int)left_ms) == 0)
            break;
        ssize_t n = read(fd, text + used, size - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        used += (size_t)n;
    }
    text[used] = 0;
    text[strcspn(text, "\n")] = 0;
    return used;
}

enum hearth_status hd_check_model(const char *path, struct hearth_error *err)
{
    int ends[2], state = 0;
    pid_t pid;
    char text[HEARTH_ERROR_TEXT_BYTES];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return hd_fail(err, HEARTH_IO, "cannot start the model check: %s", strerror(errno));
    enum hearth_status status = spawn(path, ends[1], &pid, err);
    close(ends[1]);
    if (status != HEARTH_OK) {
        close(ends[0]);
        return status;
    }
    read_answer(ends[0], text, sizeof text);
    close(ends[0]);
    kill(pid, SIGKILL); // it has said all that it has to say, or its time is up
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR) {
    }
    if (strcmp(text, "ok") == 0)
        return HEARTH_OK;
    if (text[0])
        return hd_fail(err, HEARTH_FORMAT, "%s", text);
    if (WIFSIGNALED(state) && WTERMSIG(state) != SIGKILL)
        return hd_fail(err, HEARTH_FORMAT, "%s: reading it ended in signal %d", path, WTERMSIG(state));
    return hd_fail(err, HEARTH_FORMAT, "%s: reading it took more than %d s, or more memory than allowed",
                   path, CHECK_SECONDS);
}

// ---- child

static void set_limit(int resource, rlim_t value)
{
    struct rlimit limit = {value, value};
    setrlimit(resource, &limit);
}

// No sockets, no programs, no tracing: these calls fail with EPERM.
__attribute__((unused)) static void forbid_calls(void)
{
#if defined(__x86_64__)
    const unsigned arch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
    const unsigned arch = AUDIT_ARCH_AARCH64;
#else
    const unsigned arch = 0;
#endif
    static const int denied[] = {SYS_socket, SYS_socketpair, SYS_connect,  SYS_execve,   SYS_execveat,
                                 SYS_ptrace, SYS_kill,       SYS_unlinkat, SYS_renameat2};
    enum { N = sizeof denied / sizeof denied[0] };
    struct sock_filter code[N + 5];
    unsigned n = 0;
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 0, N + 2);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < N; i++)
        code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)denied[i],
                                                 (unsigned char)(N - i), 0);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog program = {(unsigned short)n, code};
    if (arch)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int hd_check_main(const char *path)
{
    set_limit(RLIMIT_CORE, 0);
    set_limit(RLIMIT_CPU, CHECK_SECONDS);
    set_limit(RLIMIT_FSIZE, 0);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // which want address space and ptrace
    set_limit(RLIMIT_DATA, (rlim_t)1 << CHECK_DATA_BYTES_LOG2);
    forbid_calls();
#endif
    struct hearth_engine_params params = {
        .model_path = path, .device = "cpu", .n_threads = 1, .vocab_only = true};
    struct hearth_engine *engine = NULL;
    struct hearth_error error = {0};
    if (hearth_engine_open(&engine, &params, &error) != HEARTH_OK) {
        printf("%s\n", error.text);
        return 65;
    }
    hearth_engine_close(&engine);
    printf("ok\n");
    return 0;
}
