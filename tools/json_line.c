// SPDX-License-Identifier: Apache-2.0
// JSON on stdout: see json_line.h. Main thread.
#include "tools/json_line.h"
#include "tools/cli.h"

int json_line(json_t *value, size_t flags)
{
    if (!value)
        return cli_fail(CLI_OSERR, "out of memory");
    bool whole = !json_dumpf(value, stdout, JSON_COMPACT | flags);
    putchar('\n');
    json_decref(value);
    return whole || ferror(stdout) ? cli_finish(CLI_OK) : cli_fail(CLI_OSERR, "out of memory");
}
