// SPDX-License-Identifier: Apache-2.0
// The model check: parent side (loader thread) and child side (a process of its own). See check.h.
#include "firmware/check.h"

#include <ctype.h>
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
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"
#include "firmware/util.h"

extern char **environ;

enum { CHECK_DATA_BYTES_LOG2 = 32, REFUSED = 65, LOOK_MS = 200 };

// ---- parent

// The child takes its settings from flags alone: the file may have changed since the daemon read it.
static enum hearth_status spawn(const char *path, const struct hd_config *config, int out_fd, pid_t *pid,
                                struct hearth_error *err)
{
    static const char *const kv[] = {"auto", "f32", "f16", "q8"};
    char sessions[16];
    snprintf(sessions, sizeof sessions, "%u", config->max_sessions ? config->max_sessions : 1);
    char *const argv[] = {"hearthd",
                          "--check-model",
                          (char *)path,
                          "--config",
                          "/dev/null",
                          "--kv",
                          (char *)kv[config->kv],
                          "--sessions",
                          sessions,
                          "--isa",
                          (char *)config->cpu_isa,
                          "--template",
                          (char *)config->chat_template,
                          NULL};
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

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Reads until the child closes its end or time is up; true: it closed it.
static bool read_answer(int fd, char *text, size_t size, const struct hd_check *check)
{
    size_t used = 0;
    bool ended = false;
    int64_t deadline_ms = clock_ms() + check->timeout_ms;
    while (used < size - 1) {
        int64_t left_ms = deadline_ms - clock_ms();
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (left_ms <= 0 || atomic_load(check->cancel))
            break;
        if (poll(&wait, 1, left_ms < LOOK_MS ? (int)left_ms : LOOK_MS) <= 0)
            continue;
        ssize_t n = read(fd, text + used, size - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        ended = n <= 0;
        if (ended)
            break;
        used += (size_t)n;
    }
    text[used] = 0;
    text[strcspn(text, "\n")] = 0;
    return ended;
}

bool hd_check_read(const char *line, struct hd_model_facts *facts)
{
    unsigned long long weights, kv, scratch;
    int end = 0;
    memset(facts, 0, sizeof *facts);
    int n = sscanf(line, "ok %31[A-Za-z0-9_.?-] %15[A-Za-z0-9_.?-] %u %llu %llu %llu%n", facts->architecture,
                   facts->file_type, &facts->n_ctx_train, &weights, &kv, &scratch, &end);
    if (n != 6 || line[end])
        return false;
    facts->weight_bytes = weights;
    facts->kv_bytes_per_position = kv;
    facts->scratch_bytes = scratch;
    return true;
}

// What the dead child's state means for whoever wanted the model.
static enum hearth_status judge(const char *path, const char *text, int state, bool ended,
                                unsigned timeout_ms, struct hearth_error *err)
{
    if (!ended && !text[0])
        return hd_fail(err, HEARTH_FORMAT, "%s: reading its header took more than %u s", path,
                       (timeout_ms + 999) / 1000);
    if (WIFSIGNALED(state) && WTERMSIG(state) == SIGKILL)
        return hd_fail(err, HEARTH_FORMAT,
                       "%s: reading its header was killed (more memory or time than allowed)", path);
    if (WIFSIGNALED(state))
        return hd_fail(err, HEARTH_FORMAT, "%s: reading its header ended in signal %d (%s)", path,
                       WTERMSIG(state), strsignal(WTERMSIG(state)));
    if (text[0] && WIFEXITED(state) && WEXITSTATUS(state) == REFUSED)
        return hd_fail(err, HEARTH_FORMAT, "%s", text);
    return hd_fail(err, HEARTH_FORMAT, "%s: reading its header ended with code %d", path,
                   WIFEXITED(state) ? WEXITSTATUS(state) : -1);
}

enum hearth_status hd_check_model(const char *path, const struct hd_check *check,
                                  struct hd_model_facts *facts, struct hearth_error *err)
{
    int ends[2], state = 0;
    pid_t pid;
    char text[HEARTH_ERROR_TEXT_BYTES];
    memset(facts, 0, sizeof *facts);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return hd_fail(err, HEARTH_IO, "cannot start the model check: %s", strerror(errno));
    enum hearth_status status = spawn(path, check->config, ends[1], &pid, err);
    close(ends[1]);
    if (status != HEARTH_OK) {
        close(ends[0]);
        return status;
    }
    bool ended = read_answer(ends[0], text, sizeof text, check);
    if (!ended)
        kill(pid, SIGKILL); // it says too much, or its time is up
    close(ends[0]);         // after that: who writes into a closed pipe dies of another cause
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR) {
    }
    if (ended && WIFEXITED(state) && WEXITSTATUS(state) == 0 && hd_check_read(text, facts))
        return HEARTH_OK;
    return judge(path, text, state, ended, check->timeout_ms, err);
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

// Only what hd_check_read takes: a file may call its architecture anything.
static void print_word(const char *word, size_t size)
{
    if (!word[0])
        putchar('?');
    for (size_t i = 0; i + 1 < size && word[i]; i++)
        putchar(isalnum((unsigned char)word[i]) || strchr("_.-", word[i]) ? word[i] : '?');
    putchar(' ');
}

static int print_facts(const struct hearth_engine_info *info, const struct hearth_fit *fit)
{
    struct hd_model_facts facts;
    printf("ok ");
    print_word(info->architecture, sizeof facts.architecture);
    print_word(info->file_type, sizeof facts.file_type);
    printf("%u %llu %llu %llu\n", fit->n_ctx_train, (unsigned long long)fit->weight_bytes,
           (unsigned long long)fit->kv_bytes_per_position, (unsigned long long)fit->scratch_bytes);
    return 0;
}

int hd_check_main(const struct hd_config *config)
{
    set_limit(RLIMIT_CORE, 0);
    set_limit(RLIMIT_CPU, HD_CHECK_MS / 1000);
    set_limit(RLIMIT_FSIZE, 0);
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) // which want address space and ptrace
    set_limit(RLIMIT_DATA, (rlim_t)1 << CHECK_DATA_BYTES_LOG2);
    forbid_calls();
#endif
    struct hearth_engine_params params = {
        .model_path = config->check_model,
        .device = "cpu",
        .n_threads = 1,
        .max_sessions = hd_config_engine_sessions(config),
        .kv = config->kv,
        .chat_template = config->chat_template[0] ? config->chat_template : NULL,
        .cpu_isa = config->cpu_isa[0] ? config->cpu_isa : NULL,
        .vocab_only = true,
    };
    struct hearth_engine *engine = NULL;
    struct hearth_engine_info info = {0};
    struct hearth_fit fit;
    struct hearth_error error = {0};
    enum hearth_status status = hearth_engine_open(&engine, &params, &error);
    if (status == HEARTH_OK)
        hearth_engine_get_info(engine, &info);
    hearth_engine_close(&engine);
    params.vocab_only = false;
    if (status == HEARTH_OK)
        status = hearth_engine_fit(&params, &fit, &error);
    if (status == HEARTH_OK)
        return print_facts(&info, &fit);
    printf("%s\n", error.text);
    return REFUSED;
}
