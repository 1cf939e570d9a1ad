// SPDX-License-Identifier: Apache-2.0
// hearth inspect: keys, tensors and parts of a GGUF file. Main thread.
#include "tools/hearth.h"
#include "tools/models.h"

static bool write_out(void *user, const char *text, size_t len_bytes)
{
    (void)user;
    return fwrite(text, 1, len_bytes, stdout) == len_bytes;
}

int cmd_inspect(int argc, char **argv)
{
    struct cli cli = {
        .name = "inspect",
        .usage = "FILE",
        .about =
            "Shows what a GGUF model file holds: its keys, tensors and parts. FILE may be a model's name.\n"
            "Only the header is read.",
        .example = "hearth inspect default",
        .min_args = 1,
        .max_args = 1,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    char path[PATHS_MAX];
    struct hearth_error err = {0};
    code = models_find(path, cli.args[0]);
    if (code)
        return code;
    if (hearth_gguf_inspect(path, cli.json, write_out, NULL, &err))
        return ferror(stdout) ? cli_finish(CLI_OK) : cli_fail_status(&err);
    return cli_finish(CLI_OK);
}
