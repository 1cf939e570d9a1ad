// SPDX-License-Identifier: Apache-2.0
// JSON as commands print it: see json_line.h. Main thread; memory is taken by any.
#include "tools/json_line.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "tools/cli.h"

enum { RESERVE_BYTES = 64 << 10 };

static _Atomic(void *) reserve;
static atomic_bool lost;

static void *take(size_t size_bytes)
{
    void *p = malloc(size_bytes);
    if (p)
        return p;
    atomic_store(&lost, true);
    free(atomic_exchange(&reserve, NULL));
    return malloc(size_bytes);
}

void json_begin(void)
{
    atomic_store(&reserve, malloc(RESERVE_BYTES));
    json_set_alloc_funcs(take, free);
    hearth_json_watch();
}

bool json_whole(void)
{
    return !atomic_load(&lost);
}

bool json_put(const json_t *value, FILE *out, size_t flags)
{
    size_t n = value ? json_dumpb(value, NULL, 0, flags) : 0; // 0: out of memory
    char *text = n ? malloc(n) : NULL;
    bool whole = text && json_dumpb(value, text, n, flags) == n && json_whole();
    if (whole) {
        fwrite(text, 1, n, out);
        fputc('\n', out);
    }
    free(text);
    atomic_store(&lost, false); // it is told; what comes next is another text
    if (!atomic_load(&reserve))
        atomic_store(&reserve, malloc(RESERVE_BYTES));
    return whole;
}

int json_line(json_t *value, size_t flags)
{
    bool whole = json_put(value, stdout, JSON_COMPACT | flags);
    json_decref(value);
    return whole ? cli_finish(CLI_OK) : cli_fail(CLI_OSERR, "out of memory");
}
