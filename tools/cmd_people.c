// SPDX-License-Identifier: Apache-2.0
// hearth people, devices and status: tables of what hearthd's admin socket tells. Main thread.
#include <jansson.h>
#include <string.h>

#include "tools/admin.h"
#include "tools/hearth.h"
#include "tools/cli.h"

static int list_people(const struct cli *cli)
{
    int code = CLI_OK;
    json_t *answer = admin_ask(json_pack("{s:s}", "cmd", "people.list"), &code), *person;
    size_t i;
    if (!answer)
        return code;
    if (cli->json) {
        code = admin_print_json(answer);
    } else {
        char when[32];
        json_array_foreach(json_object_get(answer, "people"), i, person)
        {
            admin_print_clean(admin_text(person, "name"));
            printf("\t%lld devices\t%lld conversations\tsince %s\n",
                   (long long)admin_number(person, "n_devices"),
                   (long long)admin_number(person, "n_conversations"),
                   admin_time(admin_number(person, "created_ms"), when));
        }
        code = cli_finish(CLI_OK);
    }
    json_decref(answer);
    return code;
}

int cmd_people(int argc, char **argv)
{
    struct cli cli = {
        .name = "people",
        .usage = "list | add NAME | remove NAME",
        .about = "Who lives with this box. Removing a person destroys the keys of all that person's "
                 "conversations.",
        .example = "hearth people add Ann",
        .min_args = 1,
        .max_args = 2,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code < 0)
        code = cli_check_list_words(&cli, "add", "remove");
    if (code >= 0)
        return code;
    if (cli.n_args == 1)
        return list_people(&cli);
    if (cli.args[0][0] == 'a')
        return admin_show(&cli, json_pack("{s:s, s:s}", "cmd", "people.add", "name", cli.args[1]), NULL, "added");
    return admin_show(&cli, json_pack("{s:s, s:s}", "cmd", "people.remove", "person", cli.args[1]), NULL,
                      "removed, with all conversations and devices");
}

static int list_devices(const struct cli *cli, const char *person)
{
    int code = CLI_OK;
    json_t *request = json_pack("{s:s}", "cmd", "devices.list"), *device;
    size_t i;
    if (person)
        request = admin_with(request, "person", json_string(person));
    json_t *answer = admin_ask(request, &code);
    if (!answer)
        return code;
    if (cli->json) {
        code = admin_print_json(answer);
    } else {
        char seen[32];
        json_array_foreach(json_object_get(answer, "devices"), i, device)
        {
            printf("%s\t", admin_text(device, "id"));
            admin_print_clean(admin_text(device, "person"));
            fputc('\t', stdout);
            admin_print_clean(admin_text(device, "name"));
            printf("\t%s\tlast seen %s\n",
                   json_is_true(json_object_get(device, "connected")) ? "connected" : "away",
                   admin_time(admin_number(device, "last_seen_ms"), seen));
        }
        code = cli_finish(CLI_OK);
    }
    json_decref(answer);
    return code;
}

int cmd_devices(int argc, char **argv)
{
    const char *person = NULL;
    const struct cli_option table[] = {
        {"person", 0, CLI_TEXT, "NAME", "with list: this person's devices only", &person, 0, 0, NULL},
    };
    struct cli cli = {
        .name = "devices",
        .usage = "list | revoke ID",
        .about = "Lists paired devices, or revokes one: its token dies and its open connections are closed "
                 "at once.",
        .example = "hearth devices list --person Ann",
        .options = table,
        .n_options = 1,
        .min_args = 1,
        .max_args = 2,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    if (!strcmp(cli.args[0], "list"))
        return cli.n_args == 2 ? cli_wrong(&cli, "'list' takes no id") : list_devices(&cli, person);
    if (strcmp(cli.args[0], "revoke"))
        return cli_wrong(&cli, "'%s' is none of list, revoke", cli.args[0]);
    if (cli.n_args != 2)
        return cli_wrong(&cli, "'revoke' wants a device id (see: hearth devices list)");
    return admin_show(&cli, json_pack("{s:s, s:s}", "cmd", "devices.revoke", "id", cli.args[1]), NULL,
                      "revoked");
}

// The models in memory.
static void print_models(const json_t *answer)
{
    char needed[24];
    const json_t *model;
    size_t i;
    json_array_foreach(json_object_get(answer, "models"), i, model)
        printf("         %s: %s, %s, %lld answering, %lld waiting\n", admin_text(model, "name"),
               admin_text(model, "state"), cli_size((uint64_t)admin_number(model, "needed_bytes"), needed),
               (long long)admin_number(model, "active"), (long long)admin_number(model, "queued"));
}

static void print_memory(const json_t *answer)
{
    char rss[24], held[24], budget[24];
    printf("memory   %s; models %s of %s\n", cli_size((uint64_t)admin_number(answer, "rss_bytes"), rss),
           cli_size((uint64_t)admin_number(answer, "memory_held_bytes"), held),
           cli_size((uint64_t)admin_number(answer, "memory_budget_bytes"), budget));
    if (json_is_true(json_object_get(answer, "stalled")))
        printf("         the engine hangs: no step has ended for a long time\n");
}

static void print_status(const json_t *answer)
{
    const json_t *model = json_object_get(answer, "model"), *url;
    size_t i;
    printf("hearthd %s, process %lld, up %lld s\n", admin_text(answer, "version"),
           (long long)admin_number(answer, "pid"), (long long)admin_number(answer, "uptime_ms") / 1000);
    if (json_is_object(model))
        printf("model    %s (%s), context %lld tokens, on %s\n", admin_text(model, "name"),
               admin_text(model, "file_type"), (long long)admin_number(model, "context_tokens"),
               admin_text(answer, "device"));
    else
        printf("model    none: %s\n", admin_text(answer, "model_error"));
    print_models(answer);
    printf("listens  %s, port %lld\n",
           !strcmp(admin_text(answer, "listen"), "all") ? "on all addresses" : "on loopback only",
           (long long)admin_number(answer, "port"));
    json_array_foreach(json_object_get(answer, "urls"), i, url)
        printf("         %s\n", json_string_value(url) ? json_string_value(url) : "");
    printf("work     %lld answers in progress, %lld waiting\n",
           (long long)admin_number(answer, "active_responses"),
           (long long)admin_number(answer, "queue_depth"));
    printf("people   %lld, devices %lld, connected %lld\n", (long long)admin_number(answer, "n_people"),
           (long long)admin_number(answer, "n_devices"),
           (long long)admin_number(answer, "connected_devices"));
    print_memory(answer);
    printf("state    %s\n", admin_text(answer, "state_dir"));
}

int cmd_status(int argc, char **argv)
{
    struct cli cli = {
        .name = "status",
        .usage = "",
        .about = "Tells what the running hearthd does: its model, addresses, people, work and memory.",
        .example = "hearth status --json",
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    return admin_show(&cli, json_pack("{s:s}", "cmd", "status"), print_status, NULL);
}
