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

void data_file_parse(char *spec, struct hearth_data_file *file)
{
    char *word, *end;
    *file = (struct hearth_data_file){.path = spec, .weight = 1};
    if (!access(spec, F_OK)) // a name may hold colons
        return;
    if (cut_suffix(spec, &word) && isdigit((unsigned char)*word)) {
        double weight = strtod(word, &end);
        if (!*end) {
            file->weight = weight;
            word[-1] = '\0';
        }
    }
    if (access(spec, F_OK) && cut_suffix(spec, &word) && hearth_data_format_find(word, &file->format))
        word[-1] = '\0';
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
