// SPDX-License-Identifier: Apache-2.0
// Gives a fuzz target of tests/fuzz every kept input once, without a fuzzer: tests/fuzz/seeds/NAME and, for gguf, the
// golden models. One result a folder; a finding is a crash, which tests/run.py counts as a failure.
#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *suffix = "";

static int wanted(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name), m = strlen(suffix);
    return entry->d_name[0] != '.' && n >= m && strcmp(entry->d_name + n - m, suffix) == 0;
}

static int replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        perror(path);
        return 1;
    }
    // Exactly as long as the file, so that a sanitizer sees the first byte beyond it.
    uint8_t *data = malloc(st.st_size ? (size_t)st.st_size : 1);
    int failed = !data || fread(data, 1, (size_t)st.st_size, f) != (size_t)st.st_size;
    fclose(f);
    if (!failed)
        LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
    free(data);
    return failed;
}

static int replay_folder(const char *folder, unsigned number)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, wanted, alphasort), failed = count <= 0;
    for (int i = 0; i < count; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
        printf("# %s\n", path); // the last one is the one that crashed
        fflush(stdout);
        failed |= replay(path);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
    printf("%s %u - replays_%s\n", failed ? "not ok" : "ok", number, strrchr(folder, '/') + 1);
    return failed;
}

int main(int argc, char **argv)
{
    char folder[512];
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    bool models = strcmp(name, "gguf") == 0;
    (void)argc;
    snprintf(folder, sizeof folder, "tests/fuzz/seeds/%s", name);
    printf("1..%d\n", 1 + models);
    int failed = replay_folder(folder, 1);
    if (models) {
        suffix = ".gguf";
        failed |= replay_folder("tests/golden", 2);
    }
    return failed;
}
