// SPDX-License-Identifier: Apache-2.0
// hearth logits: token ids in, a NumPy file of logits out, written chunk by chunk. Main thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/adapters.h"
#include "tools/hearth.h"
#include "tools/ids.h"
#include "tools/models.h"
#include "tools/progress.h"

// A .npy file, version 1.0: magic, header padded to 128 bytes, then (rows, columns) little-endian float32.
static bool write_npy_header(FILE *file, size_t rows, size_t columns)
{
    enum { HEADER_BYTES = 128, PREFIX_BYTES = 10 };
    char header[HEADER_BYTES];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)(HEADER_BYTES - PREFIX_BYTES);
    header[9] = 0;
    char text[HEADER_BYTES - PREFIX_BYTES];
    int n = snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }",
                     rows, columns);
    memcpy(header + PREFIX_BYTES, text, (size_t)n);
    header[HEADER_BYTES - 1] = '\n';
    return fwrite(header, 1, sizeof header, file) == sizeof header;
}

struct job {
    const int32_t *ids;
    size_t n_ids, chunk, n_vocab;
    unsigned adapter;
    FILE *file;
    const char *path;
};

static int write_chunks(struct hearth_engine *engine, struct hearth_session *session, const struct job *job,
                        float *logits)
{
    struct hearth_error err = {0};
    struct progress bar;
    int code = CLI_OK;
    size_t row_bytes = job->n_vocab * sizeof(float);
    progress_start(&bar, "logits", 0, job->n_ids * row_bytes);
    for (size_t at = 0; at < job->n_ids && !code; at += job->chunk) {
        size_t n = job->n_ids - at < job->chunk ? job->n_ids - at : job->chunk;
        struct hearth_span span = {
            .session = session, .ids = job->ids + at, .n_ids = n, .logits = logits, .adapter = job->adapter};
        if (hearth_engine_eval(engine, &span, 1, &err))
            code = cli_fail_status(&err);
        else if (fwrite(logits, row_bytes, n, job->file) != n)
            code = cli_fail(CLI_IOERR, "%s: cannot write: %s", job->path, strerror(errno));
        progress_set(&bar, (at + n) * row_bytes);
    }
    progress_end(&bar);
    return code;
}

static int compute(struct hearth_engine *engine, const struct job *job)
{
    struct hearth_session *session = NULL;
    struct hearth_error err = {0};
    for (size_t i = 0; i < job->n_ids; i++)
        if ((size_t)job->ids[i] >= job->n_vocab)
            return cli_fail(CLI_DATAERR, "token id %d is not below the vocabulary's %zu", (int)job->ids[i],
                            job->n_vocab);
    float *logits = malloc(job->chunk * job->n_vocab * sizeof *logits);
    if (!logits)
        return cli_fail(CLI_OSERR, "out of memory: use a smaller --chunk");
    int code = CLI_OK;
    if (hearth_session_create(engine, &session, &err))
        code = cli_fail_status(&err);
    else if (!write_npy_header(job->file, job->n_ids, job->n_vocab))
        code = cli_fail(CLI_IOERR, "%s: cannot write: %s", job->path, strerror(errno));
    else
        code = write_chunks(engine, session, job, logits);
    hearth_session_destroy(&session);
    free(logits);
    return code;
}

// Writes beside the target and renames, so that a file that is there is whole.
static int write_file(struct hearth_engine *engine, struct job *job, const char *out)
{
    char part[PATHS_MAX];
    struct stat st;
    if (!stat(out, &st) && !S_ISREG(st.st_mode)) { // a device or a pipe cannot be renamed
        job->file = fopen(out, "wbe");
        memcpy(part, "", 1);
    } else {
        int n = snprintf(part, sizeof part, "%s.part", out);
        job->file = n > 0 && n < PATHS_MAX ? fopen(part, "wbe") : NULL;
    }
    job->path = out;
    if (!job->file)
        return cli_fail(CLI_CANTCREAT, "%s: cannot create: %s", out, strerror(errno));
    int code = compute(engine, job);
    if (fclose(job->file) && !code)
        code = cli_fail(CLI_IOERR, "%s: cannot write: %s", out, strerror(errno));
    if (!code && part[0] && rename(part, out))
        code = cli_fail(CLI_CANTCREAT, "%s: cannot create: %s", out, strerror(errno));
    if (code && part[0])
        unlink(part);
    return code;
}

static int run(const struct cli *cli, struct model_options *options, const struct cli_list *adapters, struct job *job,
               const char *out)
{
    struct hearth_engine *engine;
    struct hearth_engine_info info;
    options->n_ctx = job->n_ids;
    int code = models_open(&engine, cli, options);
    if (code)
        return code;
    hearth_engine_get_info(engine, &info);
    job->n_vocab = info.n_vocab;
    if (job->chunk > job->n_ids)
        job->chunk = job->n_ids;
    code = adapters_load(engine, options->model, adapters, &job->adapter);
    if (!code)
        code = write_file(engine, job, out);
    if (!code && cli->json)
        printf("{\"n_tokens\":%zu,\"n_vocab\":%zu,\"numerics_id\":\"%s\"}\n", job->n_ids, job->n_vocab,
               info.numerics_id);
    hearth_engine_close(&engine);
    return code ? code : cli_finish(CLI_OK);
}

int cmd_logits(int argc, char **argv)
{
    struct model_options options = {0};
    struct cli_list adapters = {.n = 0};
    const char *ids_file = NULL, *out = NULL;
    uint64_t chunk = 64;
    const struct cli_option table[] = {
        {"model", 'm', CLI_TEXT, "MODEL", "file, or name of a model (default: the chosen one)",
         &options.model, 0, 0, NULL},
        {"ids", 0, CLI_TEXT, "FILE", "blank-separated token ids, used as they are; - = stdin", &ids_file, 0,
         0, NULL},
        {"out", 0, CLI_TEXT, "FILE", "where the .npy file goes", &out, 0, 0, NULL},
        {"exact", 0, CLI_FLAG, NULL, "float32 activations and KV, one chain per output (slow)",
         &options.exact, 0, 0, NULL},
        {"chunk", 0, CLI_COUNT, "N", "tokens at once (64); the result does not depend on it", &chunk, 1, 8192,
         NULL},
        {"kv", 0, CLI_TEXT, "TYPE", "KV cache: f16, q8 or f32", &options.kv, 0, 0, NULL},
        {"adapter", 0, CLI_LIST, "A[:scale]", "a LoRA adapter at this scale (1); repeated: their sum", &adapters, 0, 0,
         NULL},
    };
    struct cli cli = {
        .name = "logits",
        .usage = "[-m MODEL] --ids FILE --out FILE.npy",
        .about = "Feeds token ids to a model and writes the logits after each as a float32 NumPy file\n"
                 "of shape (n_tokens, n_vocab).",
        .example = "hearth logits -m default --ids ids.txt --out logits.npy",
        .options = table,
        .n_options = sizeof table / sizeof *table,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    if (!ids_file || !out)
        return cli_wrong(&cli, "--ids and --out are needed");
    int32_t *ids;
    struct job job = {.chunk = (size_t)chunk};
    code = ids_read_file(ids_file, &ids, &job.n_ids);
    if (code)
        return code;
    job.ids = ids;
    code = run(&cli, &options, &adapters, &job, out);
    free(ids);
    return code;
}
