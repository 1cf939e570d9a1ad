// SPDX-License-Identifier: Apache-2.0
// hearthd: reads its settings, opens the store, runs the server loop, ends with a sysexits code and one line
// why. The only file of the daemon that may end the process.
#include <mbedtls/version.h>
#if MBEDTLS_VERSION_MAJOR >= 3
#include <psa/crypto.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "firmware/check.h"
#include "firmware/json_text.h"
#include "firmware/server.h"

enum { MAX_FILES = 4096 };

static void harden(void)
{
    struct rlimit none = {0, 0}, files;
    struct sigaction hangup;
    sigset_t ours;
    umask(077);
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < MAX_FILES) {
        files.rlim_cur = files.rlim_max < MAX_FILES ? files.rlim_max : MAX_FILES;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&ours); // the server loop reads these from a descriptor
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGINT);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) // its terminal is closed; not with nohup
        sigaddset(&ours, SIGHUP);
    sigprocmask(SIG_BLOCK, &ours, NULL);
}

static int fail(int code, const struct hearth_error *error)
{
    fprintf(stderr, "hearthd: %s\n", error->text);
    return code;
}

static int store_exit_code(enum hearth_status status)
{
    switch (status) {
    case HEARTH_BUSY: return EX_TEMPFAIL;
    case HEARTH_FORMAT: return EX_DATAERR;
    case HEARTH_IO: return EX_IOERR;
    default: return EX_SOFTWARE;
    }
}

static int server_exit_code(enum hearth_status status)
{
    switch (status) {
    case HEARTH_BUSY: // the port
    case HEARTH_UNSUPPORTED: return EX_UNAVAILABLE;
    case HEARTH_INVALID: return EX_CONFIG;
    case HEARTH_FORMAT: return EX_DATAERR;
    case HEARTH_NOT_FOUND: return EX_NOINPUT;
    case HEARTH_IO: return EX_IOERR;
    default: return EX_SOFTWARE;
    }
}

static int serve(const struct hd_config *config)
{
    struct hearth_error error = {0};
    struct hd_store *store = NULL;
    struct hd_server *server = NULL;
    struct stat st;
    char url[512];
    if (hd_config_make_dir(config->state_dir, &error) != HEARTH_OK)
        return fail(EX_CANTCREAT, &error);
    if (stat(config->state_dir, &st) == 0 && (st.st_mode & 077) != 0 && chmod(config->state_dir, 0700) != 0)
        hd_log(HD_LOG_WARN, "%s is open to other users", config->state_dir);
    struct hd_store_options options = {.dir = config->state_dir,
                                       .discard_unreadable = config->discard_unreadable};
    enum hearth_status status = hd_store_open(&store, &options, &error);
    if (status != HEARTH_OK)
        return fail(store_exit_code(status), &error);
    status = hd_server_new(&server, config, store, &error);
    if (status != HEARTH_OK) {
        hd_store_close(&store);
        return fail(server_exit_code(status), &error);
    }
    if (isatty(STDOUT_FILENO) && hd_server_url(server, 0, NULL, url, sizeof url)) {
        printf("Hearth is at %s\n", url);
        fflush(stdout);
    }
    hd_server_run(server);
    hd_server_free(&server);
    hd_store_close(&store);
    hd_log(HD_LOG_INFO, "ended");
    return EX_OK;
}

int main(int argc, char **argv)
{
    static struct hd_config config;
    struct hearth_error error = {0};
    harden();
    hd_json_begin();
    enum hearth_status status = hd_config_load(&config, argc, argv, &error);
    if (status != HEARTH_OK)
        return fail(status == HEARTH_FORMAT ? EX_CONFIG : EX_USAGE, &error);
    if (config.help) {
        hd_config_help(stdout);
        return EX_OK;
    }
    if (config.version) {
        printf("hearthd " HEARTH_VERSION "\n");
        return EX_OK;
    }
    if (config.check_model[0])
        return hd_check_main(&config);
#if MBEDTLS_VERSION_MAJOR >= 3
    psa_crypto_init();
#endif
    hd_log_init(config.log_format, config.log_level);
    return serve(&config);
}
