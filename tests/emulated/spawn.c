// SPDX-License-Identifier: Apache-2.0
// Preloaded into hearthd under qemu-user (tests/run.py --emulator): a program that starts itself again by
// /proc/self/exe would start the emulator without a program. This posix_spawn puts HEARTH_EMULATOR, its words and the
// program's path (HEARTH_EMULATED), before the arguments. Test code: not part of any build of Hearth.
#include <dlfcn.h>
#include <spawn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef int spawn_fn(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                     char *const[], char *const[]);

__attribute__((visibility("default"))) int posix_spawn(pid_t *pid, const char *path,
                                                       const posix_spawn_file_actions_t *actions,
                                                       const posix_spawnattr_t *attributes, char *const argv[],
                                                       char *const envp[])
{
    enum { MOST = 32, VARIABLES = 512 };
    static char words[1024];
    char *all[MOST + 1], *variables[VARIABLES + 1];
    const char *emulator = getenv("HEARTH_EMULATOR"), *program = getenv("HEARTH_EMULATED");
    void *symbol = dlsym(RTLD_NEXT, "posix_spawn");
    spawn_fn *real;
    memcpy(&real, &symbol, sizeof real);
    if (!emulator || !program || strcmp(path, "/proc/self/exe") || strlen(emulator) >= sizeof words)
        return real(pid, path, actions, attributes, argv, envp);
    unsigned n = 0;
    memcpy(words, emulator, strlen(emulator) + 1);
    for (char *rest = words, *word; n < 16 && (word = strsep(&rest, " "));)
        all[n++] = word;
    all[n++] = (char *)(size_t)program;
    for (unsigned i = 1; argv[0] && argv[i] && n < MOST; i++)
        all[n++] = argv[i];
    all[n] = NULL;
    n = 0;
    for (; *envp && n < VARIABLES; envp++)
        if (strncmp(*envp, "LD_PRELOAD=", 11)) // the emulator is a program of this machine
            variables[n++] = *envp;
    variables[n] = NULL;
    return real(pid, all[0], actions, attributes, all, variables);
}
