// SPDX-License-Identifier: Apache-2.0
// One table of settings drives flags, environment and file. Main thread, before the others start.
#include "firmware/config.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <pwd.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "firmware/util.h"

enum kind { TEXT, PATH, NUMBER, CHOICE, SWITCH };

struct setting {
    const char
        *key; // in the file; a flag with '-' for '_', an environment variable in capitals after HEARTH_
    enum kind kind;
    size_t offset, size_bytes;
    unsigned low, high;  // NUMBER
    const char *choices; // CHOICE: "auto|loopback|all", the index is stored
    const char *help;
};

#define AT(field) offsetof(struct hd_config, field), sizeof(((struct hd_config *)0)->field)
static const struct setting settings[] = {
    {"state", PATH, AT(state_dir), 0, 0, NULL, "DIR  database, keys, certificates"},
    {"models", PATH, AT(models_dir), 0, 0, NULL, "DIR  GGUF files that may be chosen by name"},
    {"runtime", PATH, AT(runtime_dir), 0, 0, NULL, "DIR  where admin.sock lies"},
    {"model", TEXT, AT(model), 0, 0, NULL, "PATH|NAME  the model that answers"},
    {"port", NUMBER, AT(port), 1, 65535, NULL, "N  HTTPS and WebSocket port (8443)"},
    {"http_port", NUMBER, AT(http_port), 0, 65535, NULL,
     "N  the OpenAI door without TLS, for programs of this machine only (0 = none)"},
    {"listen", CHOICE, AT(listen), 0, 0, "auto|loopback|all",
     "auto|loopback|all  auto: all interfaces once somebody is invited"},
    {"names", TEXT, AT(names), 0, 0, NULL,
     "LIST  further host names of this box, for certificate and Host check"},
    {"tls_cert", PATH, AT(tls_cert), 0, 0, NULL, "FILE  your own certificate chain (PEM)"},
    {"tls_key", PATH, AT(tls_key), 0, 0, NULL, "FILE  its key"},
    {"threads", NUMBER, AT(n_threads), 0, 1024, NULL, "N  0 = all cores"},
    {"ctx", NUMBER, AT(n_ctx), 0, 1 << 24, NULL,
     "N  positions of context of all conversations together; 0 = the model's for each session, as memory allows"},
    {"sessions", NUMBER, AT(max_sessions), 1, HD_MAX_SESSIONS, NULL,
     "N  conversations kept in the model's cache at once (4)"},
    {"kv", CHOICE, AT(kv), 0, 0, "auto|f32|f16|q8", "auto|f32|f16|q8  type of the cache"},
    {"memory_budget_mib", NUMBER, AT(memory_budget_mib), 0, 1 << 24, NULL,
     "N  memory for all loaded models together; 0 = what is free, less an eighth"},
    {"prefix_cache_mib", NUMBER, AT(prefix_cache_mib), 0, 1 << 20, NULL,
     "N  disk for conversations' caches over a restart, sealed (256); 0 = none"},
    {"packed_cache", SWITCH, AT(packed_cache), 0, 0, NULL,
     "keep packed weights as files and read them at the next start"},
    {"learn_quota_mib", NUMBER, AT(learn_quota_mib), 0, 1 << 24, NULL,
     "N  disk for each person's data sets, adapters and trainings (2048); 0 = no limit"},
    {"stall_s", NUMBER, AT(stall_s), 1, 3600, NULL,
     "N  seconds that one step of the engine may take before the box counts as hung (180)"},
    {"device", TEXT, AT(device), 0, 0, NULL, "auto|cpu|cuda[:i]|vulkan[:i]"},
    {"template", TEXT, AT(chat_template), 0, 0, NULL, "NAME  chat template, where the file's is unknown"},
    {"isa", TEXT, AT(cpu_isa), 0, 0, NULL, "NAME  CPU path, for tests"},
    {"system_prompt", TEXT, AT(system_prompt), 0, 0, NULL,
     "TEXT  for conversations that bring none; empty: the model's own (You are a helpful AI assistant.)"},
    {"ping_s", NUMBER, AT(ping_s), 1, 3600, NULL, "N  idle seconds before a client is pinged (30)"},
    {"discard_unreadable", SWITCH, AT(discard_unreadable), 0, 0, NULL,
     "start although keys are lost: drops what they sealed"},
    {"log_format", CHOICE, AT(log_format), 0, 0, "text|json", "text|json"},
    {"log_level", CHOICE, AT(log_level), 0, 0, "error|warn|info|debug", "error|warn|info|debug"},
};
enum {
    N_SETTINGS = sizeof settings / sizeof settings[0],
    FLAG_CONFIG = 1000,
    FLAG_FOREGROUND,
    FLAG_CHECK,
    FLAG_HELP,
    FLAG_VERSION
};

static bool choice_index(const char *choices, const char *value, unsigned *index)
{
    size_t len = strlen(value);
    *index = 0;
    for (const char *p = choices; *p; p++, (*index)++) {
        const char *end = strchr(p, '|');
        size_t n = end ? (size_t)(end - p) : strlen(p);
        if (n == len && memcmp(p, value, n) == 0)
            return true;
        if (!end)
            return false;
        p = end;
    }
    return false;
}

// `where` names the source for the message: "--port", "HEARTH_PORT", "hearthd.conf:3: port".
static enum hearth_status set(struct hd_config *config, const struct setting *s, const char *value,
                              const char *where, struct hearth_error *err)
{
    void *field = (char *)config + s->offset;
    unsigned index;
    switch (s->kind) {
    case TEXT:
    case PATH:
        if (strlen(value) >= s->size_bytes)
            return hd_fail(err, HEARTH_INVALID, "%s: longer than %zu bytes", where, s->size_bytes - 1);
        if (s->kind == PATH && value[0] != '/' && value[0] != 0)
            return hd_fail(err, HEARTH_INVALID, "%s: '%s' is not an absolute path", where, value);
        snprintf(field, s->size_bytes, "%s", value);
        return HEARTH_OK;
    case NUMBER: {
        char *end;
        errno = 0;
        unsigned long number = strtoul(value, &end, 10);
        if (!isdigit((unsigned char)value[0]) || *end || errno || number < s->low || number > s->high)
            return hd_fail(err, HEARTH_INVALID, "%s: '%s' is not a number from %u to %u", where, value,
                           s->low, s->high);
        *(unsigned *)field = (unsigned)number;
        return HEARTH_OK;
    }
    case CHOICE:
        if (!choice_index(s->choices, value, &index))
            return hd_fail(err, HEARTH_INVALID, "%s: '%s' is not one of %s", where, value, s->choices);
        memcpy(field, &index, sizeof index); // all enumerations are as wide as unsigned here
        return HEARTH_OK;
    case SWITCH:
        if (!choice_index("no|yes|false|true|0|1", value, &index))
            return hd_fail(err, HEARTH_INVALID, "%s: '%s' is neither yes nor no", where, value);
        *(bool *)field = index % 2 == 1;
        return HEARTH_OK;
    }
    return HEARTH_OK;
}
_Static_assert(sizeof(enum hd_listen) == sizeof(unsigned) &&
                   sizeof(enum hearth_kv_type) == sizeof(unsigned) &&
                   sizeof(enum hd_log_format) == sizeof(unsigned) &&
                   sizeof(enum hd_log_level) == sizeof(unsigned),
               "set() writes choices as unsigned");
_Static_assert(HEARTH_KV_F32 == 1 && HEARTH_KV_F16 == 2 && HEARTH_KV_Q8 == 3,
               "the choices of kv are in this order");
_Static_assert(HD_LOG_ERROR == 0 && HD_LOG_DEBUG == 3, "the choices of log_level are in this order");

static const struct setting *setting_find(const char *key, size_t len)
{
    for (size_t i = 0; i < N_SETTINGS; i++) {
        if (strlen(settings[i].key) == len && memcmp(settings[i].key, key, len) == 0)
            return &settings[i];
    }
    return NULL;
}

static enum hearth_status read_line(struct hd_config *config, char *line, const char *path, unsigned number,
                                    struct hearth_error *err)
{
    char where[HEARTH_ERROR_TEXT_BYTES / 2];
    char *p = line + strspn(line, " \t");
    if (*p == '#' || *p == 0)
        return HEARTH_OK;
    size_t key_len = strcspn(p, " \t=");
    char *value = p + key_len + strspn(p + key_len, " \t");
    if (*value != '=')
        return hd_fail(err, HEARTH_INVALID, "%s:%u: a line is 'key = value'", path, number);
    value += 1 + strspn(value + 1, " \t");
    size_t len = strlen(value);
    while (len && (value[len - 1] == ' ' || value[len - 1] == '\t' || value[len - 1] == '\r'))
        value[--len] = 0;
    const struct setting *s = setting_find(p, key_len);
    if (!s)
        return hd_fail(err, HEARTH_INVALID, "%s:%u: unknown key '%.*s'", path, number,
                       key_len > 40 ? 40 : (int)key_len, p);
    snprintf(where, sizeof where, "%s:%u: %s", path, number, s->key);
    return set(config, s, value, where, err);
}

enum hearth_status hd_config_read_file(struct hd_config *config, const char *path, struct hearth_error *err)
{
    FILE *file = fopen(path, "rbe");
    if (!file) {
        enum hearth_status status = errno == ENOENT ? HEARTH_NOT_FOUND : HEARTH_IO;
        return hd_fail(err, status, "%s: %s", path, strerror(errno));
    }
    enum hearth_status status = HEARTH_OK;
    char line[8192];
    for (unsigned number = 1; status == HEARTH_OK && fgets(line, sizeof line, file); number++) {
        size_t len = strlen(line);
        if (len == sizeof line - 1)
            status = hd_fail(err, HEARTH_INVALID, "%s:%u: line too long", path, number);
        if (len && line[len - 1] == '\n')
            line[len - 1] = 0;
        if (status == HEARTH_OK)
            status = read_line(config, line, path, number, err);
    }
    if (status == HEARTH_OK && ferror(file))
        status = hd_fail(err, HEARTH_IO, "%s: cannot be read", path);
    fclose(file);
    return status;
}

// ---- defaults

static bool join(char *out, const char *dir, const char *name)
{
    int n = snprintf(out, HD_PATH_BYTES, "%s%s", dir, name);
    return n > 0 && n < HD_PATH_BYTES;
}

// The service manager's folder if it gives one, else the XDG one, else below the home folder.
static bool base_dir(char *out, const char *service, const char *xdg, const char *below_home)
{
    const char *dir = getenv(service);
    if (dir && dir[0] == '/' && !strchr(dir, ':'))
        return join(out, dir, "");
    dir = getenv(xdg);
    if (dir && dir[0] == '/')
        return join(out, dir, "/hearth");
    dir = getenv("HOME");
    if (!dir || dir[0] != '/') {
        const struct passwd *user = getpwuid(getuid());
        dir = user ? user->pw_dir : NULL;
    }
    return below_home && dir && dir[0] == '/' && join(out, dir, below_home);
}

static enum hearth_status defaults(struct hd_config *config, struct hearth_error *err)
{
    char cache[HD_PATH_BYTES], dir[HD_PATH_BYTES], user[64];
    struct stat st;
    memset(config, 0, sizeof *config);
    config->port = 8443;
    config->max_sessions = 4;
    config->ping_s = 30;
    config->prefix_cache_mib = 256;
    config->learn_quota_mib = 2048;
    config->stall_s = 180;
    config->log_level = HD_LOG_INFO;
    snprintf(config->device, sizeof config->device, "auto");
    snprintf(config->system_prompt, sizeof config->system_prompt, "You are a helpful AI assistant.");
    if (!base_dir(config->state_dir, "STATE_DIRECTORY", "XDG_STATE_HOME", "/.local/state/hearth") ||
        !base_dir(cache, "CACHE_DIRECTORY", "XDG_CACHE_HOME", "/.cache/hearth") ||
        !join(config->models_dir, cache, "/models") || !join(config->packed_dir, cache, "/packed") ||
        !base_dir(dir, "CONFIGURATION_DIRECTORY", "XDG_CONFIG_HOME", "/.config/hearth") ||
        !join(config->file, dir, "/hearthd.conf"))
        return hd_fail(
            err, HEARTH_INVALID,
            "no home folder is known: set HOME, or XDG_STATE_HOME, XDG_CACHE_HOME and XDG_CONFIG_HOME");
    if (!base_dir(config->runtime_dir, "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", NULL)) {
        snprintf(user, sizeof user, "/run/user/%u", (unsigned)getuid());
        if (stat(user, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == getuid())
            join(config->runtime_dir, user, "/hearth");
    }
    return HEARTH_OK;
}

// ---- flags

static void flag_name(char out[64], const char *key)
{
    snprintf(out, 64, "%s", key);
    for (char *p = out; *p; p++) {
        if (*p == '_')
            *p = '-';
    }
}

static void variable_name(char out[64], const char *key)
{
    snprintf(out, 64, "HEARTH_%s", key);
    for (char *p = out; *p; p++)
        *p = (char)toupper((unsigned char)*p);
}

static enum hearth_status set_flag(struct hd_config *config, int flag, const char *value, const char *name,
                                   struct hearth_error *err)
{
    char where[80];
    switch (flag) {
    case FLAG_CONFIG: // read before the flags
        return HEARTH_OK;
    case FLAG_FOREGROUND: config->foreground = true; return HEARTH_OK;
    case FLAG_CHECK:
        if (strlen(value) >= sizeof config->check_model)
            return hd_fail(err, HEARTH_INVALID, "--check-model: path too long");
        snprintf(config->check_model, sizeof config->check_model, "%s", value);
        return HEARTH_OK;
    case FLAG_HELP: config->help = true; return HEARTH_OK;
    case FLAG_VERSION: config->version = true; return HEARTH_OK;
    default: break;
    }
    snprintf(where, sizeof where, "--%s", name);
    char full[PATH_MAX > 4096 ? PATH_MAX : 4096];
    if (settings[flag].kind == PATH && value[0] != '/' && value[0] && getcwd(full, sizeof full)) {
        size_t n = strlen(full); // on the command line a relative path means what it says
        int more = snprintf(full + n, sizeof full - n, "/%s", value);
        if (more > 0 && (size_t)more < sizeof full - n)
            return set(config, &settings[flag], full, where, err);
    }
    return set(config, &settings[flag], settings[flag].kind == SWITCH ? "yes" : value, where, err);
}

// First pass (config = NULL): finds --config. Second pass: sets the rest.
static enum hearth_status walk_flags(struct hd_config *config, int argc, char *const *argv, const char **file,
                                     struct hearth_error *err)
{
    static char names[N_SETTINGS][64];
    struct option options[N_SETTINGS + 6];
    memset(options, 0, sizeof options);
    for (size_t i = 0; i < N_SETTINGS; i++) {
        flag_name(names[i], settings[i].key);
        options[i] = (struct option){names[i], settings[i].kind == SWITCH ? no_argument : required_argument,
                                     NULL, (int)i};
    }
    options[N_SETTINGS] = (struct option){"config", required_argument, NULL, FLAG_CONFIG};
    options[N_SETTINGS + 1] = (struct option){"foreground", no_argument, NULL, FLAG_FOREGROUND};
    options[N_SETTINGS + 2] = (struct option){"check-model", required_argument, NULL, FLAG_CHECK};
    options[N_SETTINGS + 3] = (struct option){"help", no_argument, NULL, FLAG_HELP};
    options[N_SETTINGS + 4] = (struct option){"version", no_argument, NULL, FLAG_VERSION};
    opterr = 0;
    optind = 0;
    int flag, index = 0;
    while ((flag = getopt_long(argc, argv, ":", options, &index)) != -1) {
        const char *last = optind > 0 && optind <= argc ? argv[optind - 1] : "";
        if (flag == ':')
            return hd_fail(err, HEARTH_INVALID, "%.60s needs a value (see --help)", last);
        if (flag == '?')
            return hd_fail(err, HEARTH_INVALID, "unknown option %.60s (see --help)", last);
        if (flag == FLAG_CONFIG)
            *file = optarg;
        enum hearth_status status =
            config ? set_flag(config, flag, optarg, options[index].name, err) : HEARTH_OK;
        if (status != HEARTH_OK)
            return status;
    }
    if (optind < argc)
        return hd_fail(err, HEARTH_INVALID, "unexpected argument '%.60s' (see --help)", argv[optind]);
    return HEARTH_OK;
}

// What is wrong here is not the caller's command line: FORMAT.
static enum hearth_status load_file_and_environment(struct hd_config *config, bool named,
                                                    struct hearth_error *err)
{
    char path[HD_PATH_BYTES], variable[64];
    struct hearth_error why = {0};
    snprintf(path, sizeof path, "%s", config->file);
    enum hearth_status status = hd_config_read_file(config, path, &why);
    if (status == HEARTH_NOT_FOUND && !named)
        config->file[0] = 0;
    else if (status != HEARTH_OK)
        return hd_fail(err, HEARTH_FORMAT, "%s", why.text);
    for (size_t i = 0; i < N_SETTINGS; i++) {
        variable_name(variable, settings[i].key);
        const char *value = getenv(variable);
        if (value && set(config, &settings[i], value, variable, &why) != HEARTH_OK)
            return hd_fail(err, HEARTH_FORMAT, "%s", why.text);
    }
    return HEARTH_OK;
}

enum hearth_status hd_config_load(struct hd_config *config, int argc, char *const *argv,
                                  struct hearth_error *err)
{
    const char *file = getenv("HEARTH_CONFIG");
    enum hearth_status status = defaults(config, err);
    if (status == HEARTH_OK)
        status = walk_flags(NULL, argc, argv, &file, err);
    if (status != HEARTH_OK)
        return status;
    bool named = file != NULL;
    if (named && strlen(file) >= sizeof config->file)
        return hd_fail(err, HEARTH_INVALID, "--config: path too long");
    if (named)
        snprintf(config->file, sizeof config->file, "%s", file);
    status = load_file_and_environment(config, named, err);
    if (status != HEARTH_OK)
        return status;
    status = walk_flags(config, argc, argv, &file, err);
    if (status == HEARTH_OK && (config->tls_cert[0] == 0) != (config->tls_key[0] == 0))
        status = hd_fail(err, HEARTH_INVALID, "tls_cert and tls_key go together");
#ifdef HEARTH_OLD_TLS // see firmware/old_tls.h
    if (status == HEARTH_OK && config->listen == HD_LISTEN_ALL)
        return hd_fail(err, HEARTH_INVALID,
                       "listen = all: this hearthd is built on older TLS libraries (see tools/setup)");
    config->listen = HD_LISTEN_LOOPBACK;
#endif
    return status;
}

unsigned hd_config_engine_sessions(const struct hd_config *config)
{
    unsigned n = config->max_sessions < HD_MAX_SESSIONS ? config->max_sessions : HD_MAX_SESSIONS;
    n = n ? n : 1;
    return n + (n - 1 < HD_MAX_PAUSED ? n - 1 : HD_MAX_PAUSED); // one always runs
}

void hd_config_help(FILE *out)
{
    fputs("Usage: hearthd [option]...\n"
          "The Hearth box: serves a language model to the page, the terminal and paired devices.\n\n"
          "Example: hearthd --port 8443 --model SmolLM2-135M-Instruct-Q4_1\n\n",
          out);
    for (size_t i = 0; i < N_SETTINGS; i++) {
        char name[64];
        flag_name(name, settings[i].key);
        fprintf(out, "  --%-20s %s\n", name, settings[i].help);
    }
    fputs("  --config               FILE  instead of $XDG_CONFIG_HOME/hearth/hearthd.conf\n"
          "  --foreground           accepted; hearthd never leaves the foreground\n"
          "  --check-model          FILE  read a model's header and end: 0 if it can be served\n"
          "  --help, --version\n\n"
          "Order: flag, environment (HEARTH_PORT ...), file (port = 8443), default.\n"
          "Exit codes: 0 ok, 64 wrong use, 69 port in use or something missing, 70 internal, 73 cannot "
          "create,\n"
          "74 input/output, 75 another hearthd runs here, 78 wrong configuration.\n",
          out);
}

enum hearth_status hd_config_make_dir(const char *path, struct hearth_error *err)
{
    char part[HD_PATH_BYTES];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + 1; *slash; slash++) {
        if (*slash != '/')
            continue;
        *slash = 0;
        if (mkdir(part, 0700) && errno != EEXIST)
            return hd_fail(err, HEARTH_IO, "%s: cannot make the folder: %s", part, strerror(errno));
        *slash = '/';
    }
    if (mkdir(part, 0700) && errno != EEXIST)
        return hd_fail(err, HEARTH_IO, "%s: cannot make the folder: %s", part, strerror(errno));
    return HEARTH_OK;
}
