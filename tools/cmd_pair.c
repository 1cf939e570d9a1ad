// SPDX-License-Identifier: Apache-2.0
// hearth pair: a one-time link for a phone or browser, as QR code and text. Main thread.
#include <jansson.h>
#include <string.h>

#include "tools/admin.h"
#include "tools/cli.h"
#include "tools/hearth.h"
#include "tools/qr.h"

static void print_pairing(const json_t *answer)
{
    char when[32];
    const json_t *links = json_object_get(answer, "links"), *link;
    size_t i;
    if (!qr_print(admin_text(answer, "link"), cli_color(stdout)))
        puts("(the link is too long for a QR code)");
    printf("\n%s\n", admin_text(answer, "link"));
    json_array_foreach(links, i, link) if (json_string_value(link) &&
                                           strcmp(json_string_value(link), admin_text(answer, "link")))
        printf("%s\n", json_string_value(link));
    fputs("\nfor ", stdout);
    admin_print_clean(admin_text(answer, "person"));
    printf(", once, until %s\n", admin_time(admin_number(answer, "expires_ms"), when));
}

int cmd_pair(int argc, char **argv)
{
    const char *person = NULL;
    struct cli_list scopes = {0};
    uint64_t ttl_s = 600;
    bool create = false;
    const struct cli_option table[] = {
        {"person", 0, CLI_TEXT, "NAME", "whose device it will be", &person, 0, 0, NULL},
        {"ttl", 0, CLI_COUNT, "S", "the link dies after S seconds (600)", &ttl_s, 10, 86400, NULL},
        {"scope", 0, CLI_LIST, "SCOPE", "chat, train or admin; may be repeated (default: the box's rule)",
         &scopes, 0, 0, NULL},
        {"create", 0, CLI_FLAG, NULL, "add the person if there is none of that name", &create, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "pair",
        .usage = "--person NAME [--ttl S]",
        .about = "Makes a one-time pairing link and shows it as a QR code: scan it with the phone, or open "
                 "the link.\n"
                 "The first pairing opens the box to the home network.",
        .example = "hearth pair --person Ann",
        .options = table,
        .n_options = sizeof table / sizeof *table,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    if (!person)
        return cli_wrong(&cli, "--person is needed");
    json_t *request = json_pack("{s:s, s:s, s:I, s:b}", "cmd", "pair", "person", person, "ttl_s",
                                (json_int_t)ttl_s, "create", create);
    return admin_invite(&cli, request, &scopes, print_pairing);
}
