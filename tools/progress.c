// SPDX-License-Identifier: Apache-2.0
// The progress bar. Draws over itself with a carriage return; nothing at all when stderr is not a terminal.
// One thread at a time.
#include "tools/progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli.h"

static const double DRAW_EVERY_S = 0.1;

double progress_clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int progress_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40)
        return size.ws_col;
    return 80;
}

void progress_rest(char text[24], double seconds)
{
    if (seconds < 90)
        snprintf(text, 24, "%.0f s", seconds);
    else if (seconds < 5400)
        snprintf(text, 24, "%.0f min", seconds / 60);
    else
        snprintf(text, 24, "%.1f h", seconds / 3600);
}

void progress_line(const char *text)
{
    size_t n = strlen(text), most = (size_t)progress_columns() - 1;
    if (n > most) // never within a character
        for (n = most; n && ((unsigned char)text[n] & 0xc0) == 0x80;)
            n--;
    fprintf(stderr, "\r\033[K%.*s", (int)n, text);
    fflush(stderr);
}

static void draw(struct progress *bar, uint64_t done, double now_s)
{
    char have[24], all[24], speed_text[24], rest[24] = "", line[256];
    double elapsed = now_s - bar->started_s;
    double speed = elapsed > 0.5 ? (double)(done - bar->start_value) / elapsed : 0;
    if (bar->total && speed > 0)
        progress_rest(rest, (double)(bar->total - done) / speed);
    if (!bar->total) {
        snprintf(line, sizeof line, "%s  %s  %s/s", bar->label, cli_size(done, have),
                 cli_size((uint64_t)speed, speed_text));
    } else {
        double share = (double)done / (double)bar->total;
        char cells[25];
        size_t filled = (size_t)(share * 24);
        memset(cells, ' ', 24);
        memset(cells, '#', filled > 24 ? 24 : filled);
        cells[24] = 0;
        snprintf(line, sizeof line, "%s [%s] %3.0f%%  %s of %s  %s/s  %s", bar->label, cells, share * 100,
                 cli_size(done, have), cli_size(bar->total, all), cli_size((uint64_t)speed, speed_text),
                 rest);
    }
    progress_line(line);
    bar->shown = true;
}

void progress_start(struct progress *bar, const char *label, uint64_t done, uint64_t total)
{
    *bar =
        (struct progress){.label = label, .total = total, .start_value = done, .active = cli_is_tty(stderr)};
    bar->started_s = progress_clock_s();
    bar->drawn_s = bar->started_s; // a job that is over at once shows no bar
}

void progress_set(struct progress *bar, uint64_t done)
{
    if (!bar->active)
        return;
    double now_s = progress_clock_s();
    if (now_s - bar->drawn_s < DRAW_EVERY_S)
        return;
    if (bar->total && done > bar->total)
        done = bar->total;
    draw(bar, done < bar->start_value ? bar->start_value : done, now_s);
    bar->drawn_s = now_s;
}

void progress_end(struct progress *bar)
{
    if (bar->shown)
        fputs("\r\033[K", stderr);
    bar->shown = false;
    bar->active = false;
}
