// SPDX-License-Identifier: Apache-2.0
// hearth token: a token for a program that speaks OpenAI's HTTP API. Main thread.
#include <jansson.h>
#include <string.h>

#include "tools/admin.h"
#include "tools/cli.h"
#include "tools/hearth.h"

// The token alone on stdout, so that a script can take it; how to use it on stderr.
static void print_token(const json_t *answer)
{
    puts(admin_text(answer, "token"));
    fprintf(stderr, "shown once. base_url %s; trust %s; ends with: hearth devices revoke %s\n",
            admin_text(answer, "base_url"), admin_text(answer, "ca_file"), admin_text(answer, "id"));
}

int cmd_token(int argc, char **argv)
{
    const char *person = NULL, *name = NULL;
    struct cli_list scopes = {0};
    bool create = false;
    const struct cli_option table[] = {
        {"person", 0, CLI_TEXT, "NAME", "who the program asks for", &person, 0, 0, NULL},
        {"name", 0, CLI_TEXT, "NAME", "what the program is called in the list of devices", &name, 0, 0, NULL},
        {"scope", 0, CLI_LIST, "SCOPE", "chat, train or admin; may be repeated (chat)", &scopes, 0, 0, NULL},
        {"create", 0, CLI_FLAG, NULL, "add the person if there is none of that name", &create, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "token",
        .usage = "create --person NAME --name NAME",
        .about = "Makes a token for a program that speaks OpenAI's HTTP API, and prints it once.\n"
                 "The program appears in the list of devices; revoking it there ends the token.",
        .example = "hearth token create --person Ann --name editor",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .min_args = 1,
        .max_args = 1,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    if (strcmp(cli.args[0], "create"))
        return cli_wrong(&cli, "'%s' is not create", cli.args[0]);
    if (!person || !name)
        return cli_wrong(&cli, "--person and --name are needed");
    json_t *request = json_pack("{s:s, s:s, s:s, s:b}", "cmd", "token.create", "person", person, "name", name,
                                "create", create);
    return admin_invite(&cli, request, &scopes, print_token);
}
