// SPDX-License-Identifier: Apache-2.0
// Files of training data as words of a command. Main thread.
#include "tools/data_file.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cli.h"

// Cuts the last ":word" off; false if there is none.
static bool cut_suffix(char *spec, char **word)
{
    char *colon = strrchr(spec, ':');
    if (!colon || colon == spec || strchr(colon, '/'))
        return false;
    *word = colon + 1;
    return true;
}

// All formats' names but that of none.
static void list_formats(char *names, size_t capacity)
{
    for (int i = HEARTH_DATA_AUTO + 1; i < HEARTH_DATA_N_FORMATS; i++)
        snprintf(names + strlen(names), capacity - strlen(names), "%s%s", *names ? ", " : "",
                 hearth_data_format_name((enum hearth_data_format)i));
}

// Nothing is called `spec`; perhaps what stands before one of its last two colons.
static int check_suffix(const struct cli *cli, char *spec)
{
    char *colon = strrchr(spec, ':'), names[160] = "";
    for (int i = 0; i < 2 && colon && colon != spec; i++) {
        *colon = '\0';
        bool there = !access(spec, F_OK);
        char *before = strrchr(spec, ':');
        *colon = ':';
        if (there) {
            list_formats(names, sizeof names);
            return cli_wrong(cli, "'%s' behind the file's name is neither a weight (0.5) nor a format (%s)", colon + 1,
                             names);
        }
        colon = before;
    }
    return CLI_OK; // whoever opens it says that it is not there
}

int data_file_parse(const struct cli *cli, char *spec, struct hearth_data_file *file)
{
    char *word, *end;
    *file = (struct hearth_data_file){.path = spec, .weight = 1};
    if (!access(spec, F_OK)) // a name may hold colons
        return CLI_OK;
    if (cut_suffix(spec, &word) && isdigit((unsigned char)*word)) {
        double weight = strtod(word, &end);
        if (!*end) {
            file->weight = weight;
            word[-1] = '\0';
        }
    }
    if (access(spec, F_OK) && cut_suffix(spec, &word) && hearth_data_format_find(word, &file->format))
        word[-1] = '\0';
    return access(spec, F_OK) ? check_suffix(cli, spec) : CLI_OK;
}

void data_file_note_skips(const char *path, const struct hearth_data_counts *counts)
{
    for (int i = 0; i < HEARTH_DATA_N_SKIPS; i++)
        if (counts->skipped[i])
            cli_note("%s: left out %llu: %s (first: line %llu)", path, (unsigned long long)counts->skipped[i],
                     hearth_data_skip_text((enum hearth_data_skip)i), (unsigned long long)counts->first_line[i]);
}

int data_file_style(const struct cli *cli, const char *name, struct hearth_data_style *style)
{
    char names[160] = "";
    if (hearth_data_style_find(name, style))
        return CLI_OK;
    for (const char *const *known = hearth_data_style_names(); *known; known++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", *names ? ", " : "", *known);
    return cli_wrong(cli, "--mask '%s' is none of %s", name, names);
}
