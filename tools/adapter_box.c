// SPDX-License-Identifier: Apache-2.0
// hearth adapter list, use, off, rm, import --name, export NAME FILE. See adapter_box.h. Main thread.
#include "tools/adapter_box.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/admin.h"
#include "tools/paths.h"

bool adapter_box_is_verb(const char *verb)
{
    return !strcmp(verb, "list") || !strcmp(verb, "use") || !strcmp(verb, "off") || !strcmp(verb, "rm");
}

static void print_item(const json_t *item)
{
    char size[24], when[32];
    const char *person = admin_text(item, "person"), *set = admin_text(item, "data_set");
    printf("%-24s rank %-4lld %10s  %s  ", admin_text(item, "name"), (long long)admin_number(item, "rank"),
           cli_size((uint64_t)admin_number(item, "size_bytes"), size),
           admin_time(admin_number(item, "created_ms"), when));
    if (admin_text(item, "model")[0])
        admin_print_clean(admin_text(item, "model"));
    else // it was imported: all that is known of its model
        printf("for SHA-256 %.12s", admin_text(item, "base"));
    printf(set[0] ? " from " : "%s", "");
    admin_print_clean(set);
    if (person[0]) {
        fputs("  own of ", stdout);
        admin_print_clean(person);
    }
    fputc('\n', stdout);
}

static void print_list(const json_t *answer)
{
    const json_t *item;
    size_t i;
    json_array_foreach(json_object_get(answer, "adapters"), i, item)
        print_item(item);
    json_array_foreach(json_object_get(answer, "trainings"), i, item)
        printf("%-24s training, %s, from %s\n", admin_text(item, "name"), admin_text(item, "state"),
               admin_text(item, "data_set"));
    json_array_foreach(json_object_get(answer, "choices"), i, item)
    {
        const char *person = admin_text(item, "person"), *name = admin_text(item, "adapter");
        admin_print_clean(person[0] ? person : "whoever has made no choice");
        printf(": %s", name[0] ? name : "the model alone");
        if (name[0])
            printf(", scale %g", json_real_value(json_object_get(item, "scale")));
        fputc('\n', stdout);
    }
}

static json_t *request_of(const struct cli *cli, const struct adapter_box_words *words)
{
    const char *verb = cli->args[0];
    if (!strcmp(verb, "list"))
        return json_pack("{s:s}", "cmd", "adapters.list");
    if (!strcmp(verb, "rm"))
        return json_pack("{s:s, s:s}", "cmd", "adapters.remove", "name", cli->args[1]);
    json_t *request = json_pack("{s:s, s:f}", "cmd", "adapters.use", "scale", words->scale);
    if (words->person)
        request = admin_with(request, "person", json_string(words->person));
    if (!strcmp(verb, "use"))
        request = admin_with(request, "name", json_string(cli->args[1]));
    else if (words->person) // a person's "none" is a choice; the box's is none
        request = admin_with(request, "name", json_string(""));
    return request;
}

int adapter_box(const struct cli *cli, const struct adapter_box_words *words)
{
    const char *verb = cli->args[0];
    bool named = !strcmp(verb, "use") || !strcmp(verb, "rm");
    int code = CLI_OK;
    if (cli->n_args != 1 + named)
        return cli_wrong(cli, named ? "'%s' wants the adapter's name" : "'%s' takes no name", verb);
    json_t *answer = admin_ask(request_of(cli, words), &code);
    if (!answer)
        return code;
    if (cli->json)
        code = admin_print_json(answer);
    else if (!strcmp(verb, "list"))
        print_list(answer);
    else if (!strcmp(verb, "rm"))
        puts("removed: its key is destroyed");
    json_decref(answer);
    return code ? code : cli_finish(CLI_OK);
}

int adapter_box_import(const struct cli *cli, const struct adapter_box_words *words, const char *path)
{
    int code = CLI_OK, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cli_fail(CLI_NOINPUT, "%s: %s", path, strerror(errno));
    struct admin *admin = admin_open(&code);
    json_t *request = json_pack("{s:s, s:s}", "cmd", "adapters.import", "name", words->name), *answer = NULL;
    if (admin)
        answer = admin_call_fds(admin, request, &fd, 1, &code);
    else
        json_decref(request);
    close(fd);
    if (answer && cli->json)
        code = admin_print_json(answer);
    else if (answer)
        print_item(json_object_get(answer, "item"));
    json_decref(answer);
    admin_close(&admin);
    return code ? code : cli_finish(CLI_OK);
}

// The daemon writes into a file of ours beside the one that is wanted.
static int fetch(const struct cli *cli, const char *name, int fd)
{
    int code = CLI_OK;
    struct admin *admin = admin_open(&code);
    if (!admin)
        return code;
    json_t *answer =
        admin_call_fds(admin, json_pack("{s:s, s:s}", "cmd", "adapters.export", "name", name), &fd, 1, &code);
    if (answer && fsync(fd))
        code = cli_fail(CLI_CANTCREAT, "cannot write the adapter: %s", strerror(errno));
    else if (answer && cli->json)
        code = admin_print_json(answer);
    else if (answer)
        print_item(json_object_get(answer, "item"));
    json_decref(answer);
    admin_close(&admin);
    return code;
}

int adapter_box_export(const struct cli *cli, const char *name, const char *path)
{
    char part[PATHS_MAX];
    if (snprintf(part, sizeof part, "%s.XXXXXX", path) >= PATHS_MAX)
        return cli_fail(CLI_CANTCREAT, "%s: the path is too long", path);
    int fd = mkostemp(part, O_CLOEXEC);
    if (fd < 0)
        return cli_fail(CLI_CANTCREAT, "%s: %s", path, strerror(errno));
    int code = fetch(cli, name, fd);
    if (close(fd) && !code)
        code = cli_fail(CLI_CANTCREAT, "%s: %s", path, strerror(errno));
    if (!code && rename(part, path))
        code = cli_fail(CLI_CANTCREAT, "%s: %s", path, strerror(errno));
    if (code)
        unlink(part);
    return code ? code : cli_finish(CLI_OK);
}
