// SPDX-License-Identifier: Apache-2.0
// hearth conversations: list, show, export and delete, by the admin socket. Main thread.
#include <jansson.h>
#include <string.h>

#include "tools/admin.h"
#include "tools/cli.h"
#include "tools/hearth.h"
#include "tools/json_line.h"

struct words {
    const struct cli *cli;
    const char *person;
    char name[256]; // the only person, when none was named
    uint64_t limit;
};

// Without --person the answer is plain when one person lives here.
static int find_person(struct words *words, struct admin *admin)
{
    int code = CLI_OK;
    if (words->person)
        return CLI_OK;
    json_t *answer = admin_call(admin, json_pack("{s:s}", "cmd", "people.list"), &code);
    if (!answer)
        return code;
    const json_t *people = json_object_get(answer, "people");
    if (json_array_size(people) == 1) {
        snprintf(words->name, sizeof words->name, "%s", admin_text(json_array_get(people, 0), "name"));
        words->person = words->name;
    } else {
        code = cli_wrong(words->cli, "--person is needed: %zu people live here", json_array_size(people));
    }
    json_decref(answer);
    return code;
}

static void print_heads(const json_t *answer)
{
    const json_t *head;
    char when[32];
    size_t i;
    json_array_foreach(json_object_get(answer, "conversations"), i, head)
    {
        printf("%s\t%s\t%lld turns\t", admin_text(head, "id"),
               admin_time(admin_number(head, "updated_ms"), when), (long long)admin_number(head, "n_turns"));
        admin_print_clean(admin_text(head, "title"));
        fputc('\n', stdout);
    }
    if (json_is_true(json_object_get(answer, "has_more")))
        puts("(there are more: --limit)");
}

static void print_turns(const json_t *answer)
{
    const json_t *turn, *conversation = json_object_get(answer, "conversation");
    char when[32];
    size_t i;
    admin_print_clean(admin_text(conversation, "title"));
    fputc('\n', stdout);
    json_array_foreach(json_object_get(conversation, "turns"), i, turn)
    {
        printf("\n[%s, %s]\n", admin_text(turn, "role"), admin_time(admin_number(turn, "created_ms"), when));
        admin_print_clean(admin_text(turn, "text"));
        fputc('\n', stdout);
    }
}

// One conversation a line, as JSON: the form that other programs read.
static int export_all(struct admin *admin, const char *person)
{
    int code = CLI_OK;
    json_t *answer =
        admin_call(admin, json_pack("{s:s, s:s}", "cmd", "conversations.export", "person", person), &code);
    while (answer) {
        const json_t *conversation = json_object_get(answer, "conversation");
        bool more = json_is_true(json_object_get(answer, "more"));
        if (conversation && !json_put(conversation, stdout, JSON_COMPACT))
            code = cli_fail(CLI_OSERR, "out of memory");
        json_decref(answer);
        answer = more && !code ? admin_next(admin, &code) : NULL;
    }
    return code ? code : cli_finish(CLI_OK);
}

static int run(struct words *words, struct admin *admin)
{
    const char *verb = words->cli->args[0], *id = words->cli->n_args == 2 ? words->cli->args[1] : NULL;
    int code = find_person(words, admin);
    if (code)
        return code;
    if (verb[0] == 'e')
        return export_all(admin, words->person);
    json_t *request = NULL;
    if (verb[0] == 'l')
        request = json_pack("{s:s, s:s, s:I}", "cmd", "conversations.list", "person", words->person, "limit",
                            (json_int_t)words->limit);
    else
        request = json_pack("{s:s, s:s, s:s}", "cmd",
                            verb[0] == 's' ? "conversations.show" : "conversations.delete", "person",
                            words->person, "id", id);
    json_t *answer = admin_call(admin, request, &code);
    if (!answer)
        return code;
    if (words->cli->json)
        code = admin_print_json(answer);
    else if (verb[0] == 'l')
        print_heads(answer);
    else if (verb[0] == 's')
        print_turns(answer);
    else
        puts("deleted: its keys are destroyed");
    json_decref(answer);
    return code ? code : cli_finish(CLI_OK);
}

int cmd_conversations(int argc, char **argv)
{
    struct words words = {.limit = 50};
    const struct cli_option table[] = {
        {"person", 0, CLI_TEXT, "NAME", "whose conversations (needed if several people live here)",
         &words.person, 0, 0, NULL},
        {"limit", 0, CLI_COUNT, "N", "with list: at most N, newest first (50)", &words.limit, 1, 200, NULL},
    };
    struct cli cli = {
        .name = "conversations",
        .usage = "list | show ID | export | delete ID",
        .about = "Lists conversations, shows one, writes all of them as JSON lines, or deletes one by "
                 "destroying its keys.",
        .example = "hearth conversations export --person Ann > ann.jsonl",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .min_args = 1,
        .max_args = 2,
    };
    int code = cli_parse(&cli, argc, argv);
    if (code >= 0)
        return code;
    words.cli = &cli;
    const char *verb = cli.args[0];
    bool one = !strcmp(verb, "show") || !strcmp(verb, "delete");
    if (!one && strcmp(verb, "list") && strcmp(verb, "export"))
        return cli_wrong(&cli, "'%s' is none of list, show, export, delete", verb);
    if (one != (cli.n_args == 2))
        return cli_wrong(&cli, one ? "'%s' wants a conversation's id" : "'%s' takes no id", verb);
    struct admin *admin = admin_open(&code);
    if (!admin)
        return code;
    code = run(&words, admin);
    admin_close(&admin);
    return code;
}
