// SPDX-License-Identifier: Apache-2.0
// What the tests of the store share: a store in a real folder or on the disk in memory, and short ways to
// talk to it.
#ifndef WIRE_STORE_KIT_H
#define WIRE_STORE_KIT_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <dirent.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "firmware/io.h"
#include "firmware/people.h"
#include "firmware/vault.h"
#include "tests/check/fault.h"
#include "tests/check/simdisk.h"

static char dir[64]; // a real folder, or "/box" on the disk in memory
static struct simdisk *disk;
static struct hd_io io;
static struct hearth_error err;
static struct hd_store *store;
static struct hd_id owner, device;
static unsigned next_request;

static inline void quiet(void *user, enum hd_log_level level, const char *line)
{
    (void)user, (void)level, (void)line;
}

static inline enum hearth_status try_open(bool discard)
{
    struct hd_store_options options = {.dir = dir, .discard_unreadable = discard};
    return hd_store_open(&store, &options, &err);
}

static inline void reopen(void)
{
    hd_store_close(&store);
    if (try_open(false) != HEARTH_OK)
        fail_msg("%s", err.text);
    struct hd_person person;
    assert_int_equal(hd_person_find(store, "owner", &person, &err), HEARTH_OK);
    owner = person.id;
}

static inline int setup_common(void)
{
    hd_log_set(quiet, NULL);
    memset(&err, 0, sizeof err);
    memset(&device, 0xd, sizeof device);
    next_request = 1;
    return 0;
}

static inline int setup_real(void **state)
{
    (void)state;
    hd_io_set(NULL);
    check_folder_make(dir);
    setup_common();
    reopen();
    return 0;
}

static inline void each_file(void (*visit)(const char *path, void *user), void *user)
{
    DIR *folder = opendir(dir);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (entry->d_name[0] != '.')
            visit(path, user);
    }
    closedir(folder);
}

static inline int teardown_real(void **state)
{
    (void)state;
    hd_store_close(&store);
    check_folder_remove(dir);
    hd_log_set(NULL, NULL);
    return 0;
}

static inline int setup_sim(void **state)
{
    (void)state;
    disk = simdisk_new();
    io = simdisk_io(disk);
    hd_io_set(&io);
    snprintf(dir, sizeof dir, "/box");
    return setup_common();
}

static inline int teardown_sim(void **state)
{
    (void)state;
    hd_store_close(&store);
    simdisk_free(disk);
    hd_io_set(NULL);
    hd_log_set(NULL, NULL);
    return 0;
}

// ---- little helpers

static inline enum hearth_status ask(const struct hd_id *person, const struct hd_id *conversation,
                                     const char *system, const char *text, struct hd_accepted *accepted)
{
    struct hd_chat chat = {.person = *person, .device = device, .text = text, .text_len = strlen(text)};
    chat.system = system;
    chat.system_len = system == NULL ? 0 : strlen(system);
    if (conversation != NULL)
        chat.conversation = *conversation;
    memcpy(chat.request.b, &next_request, sizeof next_request);
    chat.request.b[15] = 1;
    next_request++;
    return hd_store_chat_begin(store, &chat, accepted, &err);
}

static const struct hd_usage some_usage = {
    .prompt_tokens = 11,
    .cached_tokens = 3,
    .completion_tokens = 4,
    .prompt_ms = 1.5,
    .first_token_ms = 2.5,
    .completion_ms = 9.25,
    .seed = UINT64_MAX - 5,
    .numerics_id = "cpu-vnni-1",
    .stop_reason = "end",
};
static const int32_t some_tokens[] = {1, 70000, 0, 2147483647};

static inline enum hearth_status answer(const struct hd_accepted *accepted, const char *text)
{
    return hd_store_answer_finish(store, &accepted->assistant_turn, text, strlen(text), some_tokens, 4,
                                  &some_usage, &err);
}

static inline struct hd_accepted talk(const struct hd_id *conversation, const char *text, const char *reply)
{
    struct hd_accepted accepted;
    if (ask(&owner, conversation, NULL, text, &accepted) != HEARTH_OK ||
        answer(&accepted, reply) != HEARTH_OK)
        fail_msg("%s", err.text);
    return accepted;
}

static inline struct hd_conversation get(const struct hd_id *conversation)
{
    struct hd_conversation c;
    if (hd_store_conversation_get(store, &owner, conversation, true, &c, &err) != HEARTH_OK)
        fail_msg("%s", err.text);
    return c;
}

#endif
