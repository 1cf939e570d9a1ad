// SPDX-License-Identifier: Apache-2.0
// hearth doctor: is all well on this machine, and does a model fit. Main thread.
#include <errno.h>
#include <jansson.h>
#include <libwebsockets.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "tools/admin.h"
#include "tools/client/identity.h"
#include "tools/hash.h"
#include "tools/hearth.h"
#include "tools/json_line.h"
#include "tools/machine.h"
#include "tools/models.h"
#include "tools/packed.h"
#include "tools/progress.h"

enum result { GOOD, WARNING, BAD };
static const char *const result_names[] = {"ok", "warning", "problem"};

struct report {
    json_t *checks;
    bool bad;
};

static void add(struct report *report, enum result result, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void add(struct report *report, enum result result, const char *name, const char *format, ...)
{
    char text[PATHS_MAX + 200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    report->bad = report->bad || result == BAD;
    json_array_append_new(report->checks, json_pack("{s:s, s:s, s:s}", "name", name, "result",
                                                    result_names[result], "text", text));
}

static void check_cpu(struct report *report)
{
    static const char *const known[] = {"avx2",        "fma",         "f16c",     "avx512f",
                                        "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
                                        "asimd",       "asimddp",     "i8mm"};
    char name[128], found[256] = "";
    size_t n = 0;
    machine_cpu_name(name);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (machine_cpu_has(known[i]) && n < sizeof found)
            n += (size_t)snprintf(found + n, sizeof found - n, " %s", known[i]);
    bool fast = machine_cpu_has("avx2") || machine_cpu_has("asimddp");
    add(report, fast ? GOOD : WARNING, "cpu", "%s:%s%s", name, found[0] ? found : " no vector instructions",
        fast ? "" : " (answers will be slow)");
    add(report, GOOD, "threads", "%u", machine_threads());
}

static void check_memory(struct report *report)
{
    char available[24], total[24];
    uint64_t bytes = machine_memory_available();
    add(report, bytes >= catalogue[0].memory_bytes ? GOOD : BAD, "memory", "%s of %s are free",
        cli_size(bytes, available), cli_size(machine_memory_total(), total));
}

static void check_model(struct report *report)
{
    char path[PATHS_MAX], hex[HASH_HEX];
    char *chosen = models_chosen();
    const char *name = chosen ? chosen : catalogue[0].name;
    const struct catalogue_model *known = catalogue_find(name);
    struct stat st;
    bool here = known ? models_catalogue_path(path, known) && paths_is_file(path) : !models_find(path, name);
    if (!here) {
        add(report, BAD, "model", "the model '%s' is not here: hearth pull %s", name,
            known ? known->name : "default");
    } else if (!known) {
        add(report, GOOD, "model", "%s", path);
    } else {
        struct progress bar;
        progress_start(&bar, "checking the model", 0, stat(path, &st) ? 0 : (uint64_t)st.st_size);
        bool same = hash_file(path, &bar, hex) && !strcmp(hex, known->sha256);
        progress_end(&bar);
        if (same)
            add(report, GOOD, "model", "%s, SHA-256 as published", path);
        else
            add(report, BAD, "model", "%s: the file is damaged: hearth pull %s", path, known->name);
    }
    free(chosen);
}

static void check_disk(struct report *report)
{
    char path[PATHS_MAX], text[24];
    struct statvfs fs;
    if (!models_dir(path))
        return;
    while (statvfs(path, &fs) && strrchr(path, '/') > path) // the nearest folder that exists
        *strrchr(path, '/') = 0;
    uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    add(report, bytes >= (uint64_t)1 << 30 ? GOOD : WARNING, "disk", "%s are free in %s",
        cli_size(bytes, text), path);
}

static void check_packed(struct report *report)
{
    char dir[PATHS_MAX], text[24];
    struct hearth_packed_size size = packed_size(dir);
    if (size.n_files)
        add(report, GOOD, "packed", "%u file%s of packed weights, %s in %s", size.n_files, size.n_files == 1 ? "" : "s",
            cli_size(size.bytes, text), dir);
}

static void check_tls(struct report *report)
{
    char tls[32];
    unsigned lws = LWS_LIBRARY_VERSION_NUMBER;
    identity_tls_version(tls);
    bool recent = lws >= 4003000 && !strncmp(tls, "mbedTLS 3.", 10);
    add(report, recent ? GOOD : WARNING, "tls", "libwebsockets %u.%u.%u, %s%s", lws / 1000000,
        lws / 1000 % 1000, lws % 1000, tls,
        recent ? "" : ": too old for a home network, hearthd stays on loopback");
}

static void check_state(struct report *report, const char *dir)
{
    struct stat st;
    if (stat(dir, &st)) {
        if (errno == ENOENT)
            add(report, GOOD, "state", "%s is made at the first start of hearthd", dir);
        else
            add(report, BAD, "state", "%s: %s", dir, strerror(errno));
    } else if (st.st_mode & 077) {
        add(report, BAD, "state", "%s can be read by others: chmod 700 %s", dir, dir);
    } else if (st.st_uid != getuid() && getuid()) {
        add(report, BAD, "state", "%s belongs to another user", dir);
    } else {
        add(report, GOOD, "state", "%s is for its owner only", dir);
    }
}

// The authority and the server's certificate, both in <state>/tls.
static void check_certificate(struct report *report, const char *dir, const char *name, const char *file)
{
    char path[PATHS_MAX], when[32];
    int64_t until_s;
    if (!paths_join(path, dir, file))
        return;
    char *pem = paths_read(path, 65536);
    if (!pem)
        return; // made at the first start
    if (!identity_valid_until((unsigned char *)pem, strlen(pem) + 1, &until_s))
        add(report, BAD, name, "%s cannot be read as a certificate", path);
    else if (until_s <= (int64_t)time(NULL))
        add(report, BAD, name, "%s ended on %s: is the clock right?", path, admin_time(until_s * 1000, when));
    else
        add(report, GOOD, name, "valid until %s", admin_time(until_s * 1000, when));
    free(pem);
}

static void check_daemon(struct report *report)
{
    char dir[PATHS_MAX];
    int code = CLI_OK;
    struct admin *admin = admin_connect();
    json_t *status = admin ? admin_call(admin, json_pack("{s:s}", "cmd", "status"), &code) : NULL;
    if (!admin)
        add(report, WARNING, "hearthd", "is not running");
    else if (!status)
        add(report, BAD, "hearthd", "runs, but does not answer its admin socket");
    else if (!json_is_object(json_object_get(status, "model")))
        add(report, BAD, "hearthd", "runs without a model: %s", admin_text(status, "model_error"));
    else
        add(report, GOOD, "hearthd", "runs version %s on port %d (%s)", admin_text(status, "version"),
            (int)admin_number(status, "port"), admin_text(status, "listen"));
    bool known = status && admin_text(status, "state_dir")[0];
    if (known)
        snprintf(dir, sizeof dir, "%s", admin_text(status, "state_dir"));
    if (known || paths_get(dir, PATHS_STATE, "")) {
        check_state(report, dir);
        check_certificate(report, dir, "authority", "tls/ca.crt");
        check_certificate(report, dir, "certificate", "tls/leaf.crt");
    }
    json_decref(status);
    admin_close(&admin);
}

static int check_all(const struct cli *cli)
{
    struct report report = {.checks = json_array()};
    int code = CLI_OK;
    const json_t *check;
    size_t i;
    check_cpu(&report);
    check_memory(&report);
    check_disk(&report);
    check_packed(&report);
    check_model(&report);
    check_tls(&report);
    check_daemon(&report);
    if (cli->json) {
        json_t *object = json_pack("{s:b, s:O}", "ok", !report.bad, "checks", report.checks);
        code = json_line(object, 0);
    } else {
        json_array_foreach(report.checks, i, check)
            printf("%-8s %-12s %s\n", admin_text(check, "result"), admin_text(check, "name"),
                   admin_text(check, "text"));
    }
    json_decref(report.checks);
    return code ? code : cli_finish(report.bad ? CLI_FAILED : CLI_OK);
}

// What the model needs, from its header, against what is free. Exit code 1 when it does not fit.
static int fit(const struct cli *cli, const char *model, uint64_t n_ctx)
{
    char path[PATHS_MAX], text[4][24];
    struct hearth_fit need;
    struct hearth_error err = {0};
    int code = models_find(path, model);
    if (code)
        return code;
    struct hearth_engine_params params = {.model_path = path,
                                          .device = cli->device,
                                          .n_threads = (unsigned)cli->n_threads,
                                          .n_ctx = (unsigned)n_ctx};
    if (hearth_engine_fit(&params, &need, &err))
        return cli_fail_status(&err);
    uint64_t wanted = n_ctx ? n_ctx : 1;
    bool fits = need.n_ctx_fit >= wanted;
    if (cli->json) {
        json_t *object =
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "model", path, "weight_bytes",
                      (json_int_t)need.weight_bytes, "kv_bytes_per_position",
                      (json_int_t)need.kv_bytes_per_position, "scratch_bytes", (json_int_t)need.scratch_bytes,
                      "available_bytes", (json_int_t)need.available_bytes, "n_ctx_train",
                      (json_int_t)need.n_ctx_train, "n_ctx_fit", (json_int_t)need.n_ctx_fit, "fits", fits);
        code = json_line(object, 0);
    } else {
        printf("%s\nweights    %s\nscratch    %s\nKV cache   %s for 1,024 tokens\nfree       %s\n", path,
               cli_size(need.weight_bytes, text[0]), cli_size(need.scratch_bytes, text[1]),
               cli_size(need.kv_bytes_per_position * 1024, text[2]), cli_size(need.available_bytes, text[3]));
        if (need.n_ctx_fit)
            printf("it fits, with a context of up to %u tokens (the model was trained for %u)\n",
                   need.n_ctx_fit, need.n_ctx_train);
        else
            puts("it does not fit");
        if (need.n_ctx_fit && !fits)
            printf("a context of %llu tokens does not fit\n", (unsigned long long)n_ctx);
    }
    return code ? code : cli_finish(fits ? CLI_OK : CLI_FAILED);
}

int cmd_doctor(int argc, char **argv)
{
    const char *model = NULL;
    uint64_t n_ctx = 0;
    const struct cli_option table[] = {
        {"fit", 0, CLI_TEXT, "MODEL", "only tell whether a model fits into memory", &model, 0, 0, NULL},
        {"ctx", 0, CLI_COUNT, "N", "with --fit: with a context of N tokens", &n_ctx, 1, 1 << 24, NULL},
    };
    struct cli cli = {
        .name = "doctor",
        .usage = "[--fit MODEL]",
        .about = "Checks the processor, memory, disk, model, TLS libraries, hearthd, its folder and its "
                 "certificates.\n"
                 "Exit code 1 if there is a problem.",
        .example = "hearth doctor --fit gemma3-270m",
        .options = table,
        .n_options = sizeof table / sizeof *table,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    return model ? fit(&cli, model, n_ctx) : check_all(&cli);
}
