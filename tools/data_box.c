// SPDX-License-Identifier: Apache-2.0
// hearth data import, list and rm. Files are read here, with this user's rights, and handed to the daemon as memory
// without a name; it keeps them sealed. Nothing of them is written to a disk in plain. Main thread.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/learn.h"
#include "tools/admin.h"
#include "tools/data_box.h"
#include "tools/data_file.h"
#include "tools/data_record.h"
#include "tools/json_line.h"

enum { MESSAGES, TEXTS, N_PARTS };

struct import {
    const struct cli *cli;
    FILE *parts[N_PARTS];
    uint64_t n_written[N_PARTS], n_pairs_left;
    struct hearth_data_counts counts; // of all files
    char person[256];
};

bool data_box_is_verb(const char *verb)
{
    return !strcmp(verb, "import") || !strcmp(verb, "list") || !strcmp(verb, "rm");
}

static FILE *memory_file(void)
{
    int fd = memfd_create("hearth-data", MFD_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w+");
    if (!file && fd >= 0)
        close(fd);
    return file;
}

// ---- records

static int put_record(struct import *x, const struct hearth_data_record *record)
{
    bool raw;
    if (record->pair_only) { // its good answer is a record of its own
        x->n_pairs_left++;
        return CLI_OK;
    }
    json_t *json = data_record_json(record, &raw);
    FILE *to = x->parts[raw ? TEXTS : MESSAGES];
    bool good = json_put(json, to, JSON_COMPACT) && !ferror(to);
    json_decref(json);
    x->n_written[raw ? TEXTS : MESSAGES] += good;
    return good ? CLI_OK : cli_fail(CLI_OSERR, "no memory for a record");
}

static void add_counts(struct hearth_data_counts *all, const struct hearth_data_counts *one)
{
    all->n_records += one->n_records;
    all->n_turns += one->n_turns;
    all->n_pairs += one->n_pairs;
    for (int i = 0; i < HEARTH_DATA_N_SKIPS; i++)
        all->skipped[i] += one->skipped[i];
    for (int i = 0; i < HEARTH_DATA_N_FIXES; i++)
        all->fixed[i] += one->fixed[i];
}

static int read_file(struct import *x, const struct hearth_data_file *file)
{
    struct hearth_data_reader *reader;
    struct hearth_data_counts counts;
    struct hearth_error err = {0};
    const struct hearth_data_record *record;
    int code = CLI_OK;
    const struct hearth_data_reader_params params = {.path = file->path, .format = file->format};
    if (hearth_data_open(&reader, &params, &err))
        return cli_fail_status(&err);
    do {
        if (hearth_data_next(reader, &record, &err))
            code = cli_fail_status(&err);
        else if (record)
            code = put_record(x, record);
    } while (!code && record);
    hearth_data_get_counts(reader, &counts);
    add_counts(&x->counts, &counts);
    hearth_data_close(&reader);
    return code;
}

// ---- one's own conversations

static int only_person(struct import *x, struct admin *admin)
{
    int code = CLI_OK;
    json_t *answer = admin_call(admin, json_pack("{s:s}", "cmd", "people.list"), &code);
    const json_t *people = json_object_get(answer, "people");
    if (answer && json_array_size(people) != 1)
        code = cli_wrong(x->cli, "--person is needed: %zu people live here", json_array_size(people));
    else if (answer)
        snprintf(x->person, sizeof x->person, "%s", admin_text(json_array_get(people, 0), "name"));
    json_decref(answer);
    return code;
}

static int export_to(FILE *out, const struct import *x, struct admin *admin)
{
    int code = CLI_OK;
    json_t *answer =
        admin_call(admin, json_pack("{s:s, s:s}", "cmd", "conversations.export", "person", x->person), &code);
    while (answer) {
        const json_t *conversation = json_object_get(answer, "conversation");
        bool more = json_is_true(json_object_get(answer, "more"));
        if (conversation && (!json_put(conversation, out, JSON_COMPACT) || ferror(out)))
            code = cli_fail(CLI_OSERR, "no memory for a conversation");
        json_decref(answer);
        answer = more && !code ? admin_next(admin, &code) : NULL;
    }
    return code;
}

static int read_conversations(struct import *x, const char *person, struct admin *admin)
{
    char path[32];
    FILE *file = memory_file();
    if (!file)
        return cli_fail(CLI_OSERR, "no memory: %s", strerror(errno));
    snprintf(x->person, sizeof x->person, "%s", person ? person : "");
    int code = person ? CLI_OK : only_person(x, admin);
    if (!code)
        code = export_to(file, x, admin);
    if (!code && (fflush(file) || ftell(file) <= 0))
        code = cli_fail(CLI_DATAERR, "there are no conversations to learn from");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(file));
    const struct hearth_data_file source = {.path = path, .format = HEARTH_DATA_EXPORT};
    if (!code)
        code = read_file(x, &source);
    fclose(file);
    return code;
}

// ---- telling

static json_t *counts_json(const struct import *x)
{
    const struct hearth_data_counts *c = &x->counts;
    return json_pack("{s:I, s:I, s:I, s:o, s:o}", "records", (json_int_t)(x->n_written[0] + x->n_written[1]), "turns",
                     (json_int_t)c->n_turns, "pairs", (json_int_t)(c->n_pairs - x->n_pairs_left), "skipped",
                     data_reasons_json(c->skipped, HEARTH_DATA_N_SKIPS, false), "fixed",
                     data_reasons_json(c->fixed, HEARTH_DATA_N_FIXES, true));
}

static void print_reasons(const json_t *item, const char *key, const char *label)
{
    const char *reason;
    json_t *n;
    json_object_foreach(json_object_get(item, key), reason, n)
        printf("  %s %8lld  %s\n", label, (long long)json_integer_value(n), reason);
}

static void print_set(const json_t *item, bool reasons_too)
{
    char size[24], when[32];
    const char *person = admin_text(item, "person");
    printf("%-24s %8lld records %8lld turns %10s  %s", admin_text(item, "name"),
           (long long)admin_number(item, "records"), (long long)admin_number(item, "turns"),
           cli_size((uint64_t)admin_number(item, "size_bytes"), size),
           admin_time(admin_number(item, "created_ms"), when));
    if (person[0]) {
        fputs("  own of ", stdout);
        admin_print_clean(person);
    }
    fputc('\n', stdout);
    if (!reasons_too)
        return;
    print_reasons(item, "skipped", "left out");
    print_reasons(item, "fixed", "changed ");
}

// ---- import

static int hand_over(struct import *x, struct admin *admin)
{
    int fds[N_PARTS], code = CLI_OK;
    size_t n_fds = 0;
    const char *name = x->cli->args[1];
    for (int i = 0; i < N_PARTS; i++) {
        if (fflush(x->parts[i]))
            return cli_fail(CLI_OSERR, "no memory for the records");
        if (x->n_written[i])
            fds[n_fds++] = fileno(x->parts[i]);
    }
    if (!n_fds)
        return cli_fail(CLI_DATAERR, "there is nothing in it to learn from");
    json_t *request = json_pack("{s:s, s:s, s:b, s:b, s:o}", "cmd", "data.import", "name", name, "messages",
                                x->n_written[MESSAGES] > 0, "text", x->n_written[TEXTS] > 0, "counts", counts_json(x));
    if (request && x->person[0])
        request = admin_with(request, "person", json_string(x->person));
    json_t *answer = admin_call_fds(admin, request, fds, n_fds, &code);
    if (answer && x->cli->json)
        code = admin_print_json(answer);
    else if (answer)
        print_set(json_object_get(answer, "item"), true);
    json_decref(answer);
    return code;
}

static int import(const struct cli *cli, const struct data_box_words *words, struct admin *admin)
{
    struct import x = {.cli = cli};
    int code = CLI_OK;
    for (int i = 0; i < N_PARTS; i++)
        if (!(x.parts[i] = memory_file()))
            code = cli_fail(CLI_OSERR, "no memory: %s", strerror(errno));
    if (!code && words->conversations)
        code = read_conversations(&x, words->person, admin);
    for (int i = 2; i < cli->n_args && !code; i++) {
        struct hearth_data_file file;
        code = data_file_parse(cli, cli->args[i], &file);
        if (code)
            break;
        code = file.weight == 1 ? read_file(&x, &file)
                                : cli_wrong(cli, "a data set of the box has no weights within: import it alone");
    }
    if (!code)
        code = hand_over(&x, admin);
    for (int i = 0; i < N_PARTS; i++)
        if (x.parts[i])
            fclose(x.parts[i]);
    return code;
}

// ---- list and rm

static int list(const struct cli *cli, struct admin *admin)
{
    int code = CLI_OK;
    const json_t *item;
    size_t i;
    json_t *answer = admin_call(admin, json_pack("{s:s}", "cmd", "data.list"), &code);
    if (answer && cli->json) {
        code = admin_print_json(answer);
    } else if (answer) {
        json_array_foreach(json_object_get(answer, "data_sets"), i, item)
            print_set(item, false);
    }
    json_decref(answer);
    return code;
}

static int drop(const struct cli *cli, struct admin *admin)
{
    int code = CLI_OK;
    json_t *answer = admin_call(admin, json_pack("{s:s, s:s}", "cmd", "data.remove", "name", cli->args[1]), &code);
    if (answer)
        puts("removed: its key is destroyed");
    json_decref(answer);
    return code;
}

int data_box(const struct cli *cli, const struct data_box_words *words)
{
    const char *verb = cli->args[0];
    int code = CLI_OK;
    bool files = cli->n_args > 2;
    if (!strcmp(verb, "import") && (cli->n_args < 2 || files == words->conversations))
        return cli_wrong(cli, "import wants NAME and FILE..., or NAME --conversations");
    if (!strcmp(verb, "rm") && cli->n_args != 2)
        return cli_wrong(cli, "rm wants NAME");
    if (!strcmp(verb, "list") && cli->n_args != 1)
        return cli_wrong(cli, "list takes no name");
    struct admin *admin = admin_open(&code);
    if (!admin)
        return code;
    code = !strcmp(verb, "import") ? import(cli, words, admin)
           : !strcmp(verb, "list") ? list(cli, admin)
                                   : drop(cli, admin);
    admin_close(&admin);
    return code ? code : cli_finish(CLI_OK);
}
