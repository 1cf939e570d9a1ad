// SPDX-License-Identifier: Apache-2.0
// Loss curves: a grid of characters, and an SVG of two lines. Main thread.
#include "tools/train_curve.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------- reading

static bool add(struct curve_point **list, size_t *n, double step, double loss)
{
    if ((*n & (*n - 1)) == 0) { // full at every power of two
        struct curve_point *more = realloc(*list, (*n ? 2 * *n : 1) * sizeof *more);
        if (!more)
            return false;
        *list = more;
    }
    (*list)[(*n)++] = (struct curve_point){step, loss};
    return true;
}

static bool add_line(struct curve *curve, const char *line, size_t len_bytes)
{
    json_t *object = json_loadb(line, len_bytes, JSON_DISABLE_EOF_CHECK, NULL);
    const json_t *step = json_object_get(object, "step"), *loss = json_object_get(object, "loss");
    const json_t *held_out = json_object_get(object, "held_out");
    bool good = true;
    if (json_is_number(step) && json_is_number(loss))
        good = add(&curve->train, &curve->n_train, json_number_value(step), json_number_value(loss));
    if (json_is_number(step) && json_is_number(held_out))
        good = good && add(&curve->held_out, &curve->n_held_out, json_number_value(step), json_number_value(held_out));
    json_decref(object);
    return good;
}

bool curve_read(struct curve *curve, const char *path)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    bool good = true;
    *curve = (struct curve){0};
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (good && (n = getline(&line, &capacity, file)) > 0)
        good = add_line(curve, line, (size_t)n);
    good = good && !ferror(file);
    free(line);
    fclose(file);
    if (!good)
        curve_free(curve);
    return good;
}

void curve_free(struct curve *curve)
{
    free(curve->train);
    free(curve->held_out);
    *curve = (struct curve){0};
}

struct range {
    double least, most, last_step;
};

static struct range range_of(const struct curve *curve)
{
    struct range r = {INFINITY, -INFINITY, 1};
    for (size_t i = 0; i < curve->n_train + curve->n_held_out; i++) {
        const struct curve_point *p =
            i < curve->n_train ? &curve->train[i] : &curve->held_out[i - curve->n_train];
        r.least = fmin(r.least, p->loss);
        r.most = fmax(r.most, p->loss);
        r.last_step = fmax(r.last_step, p->step);
    }
    if (!(r.most - r.least > 1e-3)) {
        r.least -= 5e-4;
        r.most = r.least + 1e-3;
    }
    return r;
}

// ---------------------------------------------------------------- the terminal

enum { COLUMNS = 64, LINES = 12 };

// Mean of the points in each column; NAN where there are none.
static void columns_of(const struct curve_point *points, size_t n, double last_step, double means[COLUMNS])
{
    unsigned counts[COLUMNS] = {0};
    memset(means, 0, COLUMNS * sizeof *means);
    for (size_t i = 0; i < n; i++) {
        size_t column = (size_t)(points[i].step / last_step * (COLUMNS - 1) + 0.5);
        means[column < COLUMNS ? column : COLUMNS - 1] += points[i].loss;
        counts[column < COLUMNS ? column : COLUMNS - 1]++;
    }
    for (size_t i = 0; i < COLUMNS; i++)
        means[i] = counts[i] ? means[i] / counts[i] : NAN;
}

static void put(char grid[LINES][COLUMNS], const double means[COLUMNS], struct range r, char mark)
{
    for (size_t i = 0; i < COLUMNS; i++)
        if (!isnan(means[i])) {
            double height = (r.most - means[i]) / (r.most - r.least) * (LINES - 1);
            grid[(size_t)(height + 0.5)][i] = mark;
        }
}

void curve_print(const struct curve *curve, FILE *out)
{
    char grid[LINES][COLUMNS];
    double means[COLUMNS];
    struct range r = range_of(curve);
    if (!curve->n_train)
        return;
    memset(grid, ' ', sizeof grid);
    columns_of(curve->train, curve->n_train, r.last_step, means);
    put(grid, means, r, '*');
    columns_of(curve->held_out, curve->n_held_out, r.last_step, means);
    put(grid, means, r, 'o');
    for (size_t line = 0; line < LINES; line++) {
        double value = r.most - (r.most - r.least) * (double)line / (LINES - 1);
        fprintf(out, "%8.3f |%.*s\n", value, COLUMNS, grid[line]);
    }
    fputs("         +", out);
    for (int i = 0; i < COLUMNS; i++)
        fputc('-', out);
    fprintf(out, "\n          0%*.0f\n          * loss%s\n", COLUMNS - 1, r.last_step,
            curve->n_held_out ? "   o held out" : "");
}

// ---------------------------------------------------------------- SVG

enum { WIDTH = 720, HEIGHT = 360, LEFT = 64, RIGHT = 16, TOP = 40, BOTTOM = 40, MOST_POINTS = 1000 };

static double x_of(double step, struct range r)
{
    return LEFT + step / r.last_step * (WIDTH - LEFT - RIGHT);
}

static double y_of(double loss, struct range r)
{
    return TOP + (r.most - loss) / (r.most - r.least) * (HEIGHT - TOP - BOTTOM);
}

// Long runs are drawn by the means of equal stretches.
static void line_of(FILE *file, const struct curve_point *points, size_t n, struct range r, const char *class)
{
    size_t stretch = (n + MOST_POINTS - 1) / MOST_POINTS;
    fprintf(file, "<polyline class=\"%s\" points=\"", class);
    for (size_t i = 0; i < n; i += stretch) {
        double step = 0, loss = 0;
        size_t m = n - i < stretch ? n - i : stretch;
        for (size_t k = 0; k < m; k++) {
            step += points[i + k].step / (double)m;
            loss += points[i + k].loss / (double)m;
        }
        fprintf(file, "%s%.1f,%.1f", i ? " " : "", x_of(step, r), y_of(loss, r));
    }
    fputs("\"/>\n", file);
}

static void put_escaped(FILE *file, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<': fputs("&lt;", file); break;
        case '>': fputs("&gt;", file); break;
        case '&': fputs("&amp;", file); break;
        default: fputc((unsigned char)*text < 0x20 ? '?' : *text, file);
        }
}

static void put_grid(FILE *file, struct range r)
{
    for (int i = 0; i <= 4; i++) {
        double loss = r.least + (r.most - r.least) * i / 4, step = r.last_step * i / 4;
        fprintf(file, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, y_of(loss, r), WIDTH - RIGHT);
        fprintf(file, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3f</text>\n", LEFT - 8, y_of(loss, r) + 4, loss);
        fprintf(file, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%.0f</text>\n", x_of(step, r), HEIGHT - BOTTOM + 20,
                i == 4 ? "end" : "middle", step);
    }
}

bool curve_write_svg(const struct curve *curve, const char *path, const char *title)
{
    struct range r = range_of(curve);
    FILE *file = fopen(path, "we");
    if (!file)
        return false;
    if (!curve->n_train)
        r = (struct range){0, 1, 1};
    fprintf(file, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\">\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    fputs("<style>\n:root{--ground:#fff;--ink:#222;--faint:#ccc;--loss:#1f6fb4;--held:#c2560a}\n"
          "@media (prefers-color-scheme:dark){:root{--ground:#16181c;--ink:#ddd;--faint:#444;--loss:#6cb6ff;"
          "--held:#ffa657}}\n"
          "rect{fill:var(--ground)}text{fill:var(--ink);font:12px sans-serif}.grid{stroke:var(--faint)}\n"
          "polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}\n"
          ".loss{stroke:var(--loss)}.held{stroke:var(--held)}\n"
          "text.loss{fill:var(--loss);stroke:none}text.held{fill:var(--held);stroke:none}circle{fill:var(--held)}\n"
          "</style>\n",
          file);
    fprintf(file, "<rect width=\"%d\" height=\"%d\"/>\n<text x=\"%d\" y=\"24\">", WIDTH, HEIGHT, LEFT);
    put_escaped(file, title);
    fprintf(file, "</text>\n<text class=\"loss\" x=\"%d\" y=\"24\" text-anchor=\"end\">loss</text>\n", WIDTH - 100);
    if (curve->n_held_out)
        fprintf(file, "<text class=\"held\" x=\"%d\" y=\"24\" text-anchor=\"end\">held out</text>\n", WIDTH - RIGHT);
    put_grid(file, r);
    if (curve->n_train)
        line_of(file, curve->train, curve->n_train, r, "loss");
    if (curve->n_held_out)
        line_of(file, curve->held_out, curve->n_held_out, r, "held");
    for (size_t i = 0; i < curve->n_held_out && curve->n_held_out <= 100; i++)
        fprintf(file, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", x_of(curve->held_out[i].step, r),
                y_of(curve->held_out[i].loss, r));
    fprintf(file, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">step</text>\n</svg>\n", (LEFT + WIDTH) / 2,
            HEIGHT - 8);
    bool good = !ferror(file);
    return !fclose(file) && good;
}
