// SPDX-License-Identifier: Apache-2.0
// The daemon's log (see log.h). Owns the format and level, set once; every call writes one line with one
// write(2). Any thread once set.
#include "firmware/log.h"
#include "firmware/json_text.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int syslog_levels[] = {3, 4, 6, 7};
static enum hd_log_format log_format = HD_LOG_TEXT;
static enum hd_log_level log_level = HD_LOG_INFO;
static bool to_journal;

static void format_time(char *out, size_t size)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + n, size - n, ".%03ldZ", now.tv_nsec / 1000000);
}

static void write_line(const char *line, size_t n)
{
    ssize_t written = write(STDERR_FILENO, line, n);
    (void)written; // a log that cannot be written must not stop the box
}

static void write_json(enum hd_log_level level, const char *time, const char *text)
{
    json_t *o = json_pack("{s:s, s:s, s:s}", "time", time, "level", level_names[level], "message", text);
    char *line = hd_json_text(o, JSON_COMPACT | JSON_PRESERVE_ORDER);
    if (line) {
        size_t n = strlen(line);
        line[n] = '\n'; // the NUL's place: one write per line
        write_line(line, n + 1);
    }
    free(line);
    json_decref(o);
}

static void sink(void *user, enum hd_log_level level, const char *message)
{
    (void)user;
    if (level > log_level)
        return;
    char text[LINE_BYTES], time[40], line[LINE_BYTES + 80];
    snprintf(text, sizeof text, "%s", message);
    for (char *p = text; *p; p++) { // no value may forge a second line
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    }
    format_time(time, sizeof time);
    if (log_format == HD_LOG_JSON) {
        write_json(level, time, text);
        return;
    }
    int n = to_journal ? snprintf(line, sizeof line, "<%d>%s\n", syslog_levels[level], text)
                       : snprintf(line, sizeof line, "%s %s: %s\n", time, level_names[level], text);
    write_line(line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

void hd_log_init(enum hd_log_format format, enum hd_log_level level)
{
    log_format = format;
    log_level = level;
    to_journal = getenv("JOURNAL_STREAM") != NULL && !isatty(STDERR_FILENO);
    hd_log_set(sink, NULL);
}
