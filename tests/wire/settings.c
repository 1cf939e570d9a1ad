// SPDX-License-Identifier: Apache-2.0
// Settings: the file's syntax, the order of sources, and every wrong value with its place in the message.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "firmware/config.h"
#include "tests/check/fault.h"

static char dir[64], path[128];
static struct hd_config config;
static struct hearth_error err;

static int setup(void **state)
{
    (void)state;
    char **names = (char *[]){"HEARTH_PORT",       "HEARTH_CONFIG",   "HEARTH_LISTEN",
                              "STATE_DIRECTORY",   "CACHE_DIRECTORY", "CONFIGURATION_DIRECTORY",
                              "RUNTIME_DIRECTORY", "XDG_CACHE_HOME",  NULL};
    for (; *names; names++)
        unsetenv(*names);
    check_folder_make(dir);
    setenv("HOME", dir, 1);
    setenv("XDG_CONFIG_HOME", dir, 1);
    setenv("XDG_STATE_HOME", "/somewhere/state", 1);
    setenv("XDG_RUNTIME_DIR", "/somewhere/run", 1);
    char folder[96];
    snprintf(folder, sizeof folder, "%s/hearth", dir);
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/hearthd.conf", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    check_folder_remove(dir);
    return 0;
}

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    fclose(file);
}

static enum hearth_status load(int argc, ...)
{
    char *argv[16] = {"hearthd"};
    va_list args;
    va_start(args, argc);
    for (int i = 0; i < argc; i++)
        argv[i + 1] = va_arg(args, char *);
    va_end(args);
    memset(&err, 0, sizeof err);
    return hd_config_load(&config, argc + 1, argv, &err);
}

static void defaults_follow_the_folders_of_the_system(void **state)
{
    (void)state;
    char expected[128];
    assert_int_equal(load(0), HEARTH_OK);
    assert_int_equal(config.port, 8443);
    assert_int_equal(config.listen, HD_LISTEN_AUTO);
    assert_string_equal(config.state_dir, "/somewhere/state/hearth");
    assert_string_equal(config.runtime_dir, "/somewhere/run/hearth");
    snprintf(expected, sizeof expected, "%s/.cache/hearth/models", dir);
    assert_string_equal(config.models_dir, expected);
    assert_string_equal(config.file, ""); // there is none
    setenv("STATE_DIRECTORY", "/var/lib/hearth", 1);
    assert_int_equal(load(0), HEARTH_OK);
    assert_string_equal(config.state_dir, "/var/lib/hearth");
    setenv("STATE_DIRECTORY", "/var/lib/hearth:/var/lib/other", 1); // which of them is not said
    assert_int_equal(load(0), HEARTH_OK);
    assert_string_equal(config.state_dir, "/somewhere/state/hearth");
}

static void file_then_environment_then_flag(void **state)
{
    (void)state;
    write_file("# Hearth\n\n  port=1000\nlisten =  loopback  \r\nsystem_prompt = Be kind = always \nkv = "
               "q8\nsessions = 7");
    assert_int_equal(load(0), HEARTH_OK);
    assert_int_equal(config.port, 1000);
    assert_int_equal(config.listen, HD_LISTEN_LOOPBACK);
    assert_string_equal(config.system_prompt, "Be kind = always");
    assert_int_equal(config.kv, HEARTH_KV_Q8);
    assert_int_equal(config.max_sessions, 7);
    setenv("HEARTH_PORT", "2000", 1);
    assert_int_equal(load(0), HEARTH_OK);
    assert_int_equal(config.port, 2000);
    assert_int_equal(load(2, "--port", "3000"), HEARTH_OK);
    assert_int_equal(config.port, 3000);
    assert_int_equal(load(3, "--port=4000", "--log-format", "json"), HEARTH_OK);
    assert_int_equal(config.port, 4000);
    assert_int_equal(config.log_format, HD_LOG_JSON);
    assert_int_equal(config.listen, HD_LISTEN_LOOPBACK);
}

static void wrong(const char *text, const char *part, const char *also)
{
    write_file(text);
    assert_int_equal(load(0), HEARTH_FORMAT);
    if (!strstr(err.text, part) || !strstr(err.text, also))
        fail_msg("'%s' lacks '%s' or '%s'", err.text, part, also);
}

static void wrong_lines_are_named(void **state)
{
    (void)state;
    wrong("port = 1\n\ncolour = blue\n", ":3", "colour");
    wrong("port\n", ":1", "key = value");
    wrong("= 3\n", ":1", "unknown key");
    wrong("port = 70000\n", ":1: port", "1 to 65535");
    wrong("port = 12x\n", ":1: port", "12x");
    wrong("port = -1\n", ":1: port", "-1");
    wrong("port =\n", ":1: port", "not a number");
    wrong("listen = everywhere\n", ":1: listen", "auto|loopback|all");
    wrong("listen = aut\n", ":1: listen", "aut");
    wrong("state = relative/path\n", ":1: state", "absolute");
    wrong("discard_unreadable = maybe\n", ":1: discard_unreadable", "neither");
    char *line = malloc(9000);
    memset(line, 'x', 8999);
    memcpy(line, "model = ", 8);
    line[8999] = 0;
    wrong(line, ":1", "too long");
    line[2000] = 0;
    wrong(line, ":1: model", "longer than");
    free(line);
}

static void wrong_flags_are_named(void **state)
{
    (void)state;
    static const struct {
        char *flag, *value;
    } cases[] = {
        {"--port", "x"}, {"--nonsense", "1"}, {"--listen", "no"}, {"--kv", "f64"}, {"--log-level", "loud"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(load(2, cases[i].flag, cases[i].value), HEARTH_INVALID);
        assert_non_null(strstr(err.text, cases[i].flag));
    }
    assert_int_equal(load(1, "--port"), HEARTH_INVALID);
    assert_int_equal(load(1, "stray"), HEARTH_INVALID);
    assert_int_equal(load(2, "--tls-cert", "/x"), HEARTH_INVALID);
    assert_int_equal(load(2, "--tls-key", "/x"), HEARTH_INVALID);
    assert_int_equal(load(2, "--config", "/nonexistent"), HEARTH_FORMAT);
    setenv("HEARTH_LISTEN", "wrong", 1);
    assert_int_equal(load(0), HEARTH_FORMAT);
    assert_non_null(strstr(err.text, "HEARTH_LISTEN"));
}

static void switches_and_relative_paths(void **state)
{
    (void)state;
    assert_int_equal(load(3, "--discard-unreadable", "--foreground", "--help"), HEARTH_OK);
    assert_true(config.discard_unreadable && config.foreground && config.help);
    assert_int_equal(load(2, "--state", "here"), HEARTH_OK);
    assert_int_equal(config.state_dir[0], '/');
    assert_string_equal(strrchr(config.state_dir, '/'), "/here");
    static const char *const words[] = {"no", "yes", "false", "true", "0", "1"};
    for (int i = 0; i < 6; i++) {
        char line[64];
        snprintf(line, sizeof line, "discard_unreadable = %s\n", words[i]);
        write_file(line);
        assert_int_equal(load(0), HEARTH_OK);
        assert_int_equal(config.discard_unreadable, i % 2);
    }
}

static enum hearth_status load_number(const char *flag, long long value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    return load(2, flag, text);
}

static void numbers_stay_within_their_ranges(void **state)
{
    (void)state;
    static const struct {
        const char *flag;
        long long low, high;
    } ranges[] = {
        {"--port", 1, 65535},
        {"--http-port", 0, 65535},
        {"--threads", 0, 1024},
        {"--ctx", 0, 1 << 24},
        {"--sessions", 1, 64},
        {"--memory-budget-mib", 0, 1 << 24},
        {"--prefix-cache-mib", 0, 1 << 20},
        {"--learn-quota-mib", 0, 1 << 24},
        {"--stall-s", 1, 3600},
        {"--ping-s", 1, 3600},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        const char *flag = ranges[i].flag;
        assert_int_equal(load_number(flag, ranges[i].low), HEARTH_OK);
        assert_int_equal(load_number(flag, ranges[i].high), HEARTH_OK);
        assert_int_equal(load_number(flag, ranges[i].low - 1), HEARTH_INVALID);
        assert_int_equal(load_number(flag, ranges[i].high + 1), HEARTH_INVALID);
        assert_int_equal(load_number(flag, (1LL << 32) + ranges[i].low), HEARTH_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_follow_the_folders_of_the_system, setup, teardown),
        cmocka_unit_test_setup_teardown(file_then_environment_then_flag, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_lines_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_flags_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(switches_and_relative_paths, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_stay_within_their_ranges, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
