// SPDX-License-Identifier: Apache-2.0
// ListConversations and GetConversation. Loop thread.
#include <stdlib.h>
#include <string.h>

#include "firmware/server.h"

enum { TURN_OVERHEAD_BYTES = 256, FRAME_ROOM_BYTES = 4096 };

static void fill_head(Hearth__V1__ConversationHead *head, const struct hd_conversation_head *from)
{
    hearth__v1__conversation_head__init(head);
    head->conversation_id = hd_wire_bytes(from->id.b, HD_ID_BYTES);
    head->title = (char *)from->title;
    head->created_ms = (uint64_t)from->created_ms;
    head->updated_ms = (uint64_t)from->updated_ms;
    head->turns = from->turns;
}

void hd_api_list_conversations(struct hd_client *client, const struct hd_id *request,
                               const Hearth__V1__ListConversations *body)
{
    struct hd_conversation_list list = {0};
    struct hearth_error error = {0};
    if (body->before_ms > INT64_MAX) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, "before_ms is out of range");
        return;
    }
    if (hd_store_conversation_list(client->server->store, &client->device.person, body->limit,
                                   (int64_t)body->before_ms, &list, &error) != HEARTH_OK) {
        hd_api_fail(client, request, &error);
        return;
    }
    Hearth__V1__ConversationHead *heads = calloc(list.n + 1, sizeof *heads),
                                 **items = calloc(list.n + 1, sizeof *items);
    Hearth__V1__ConversationList answer = HEARTH__V1__CONVERSATION_LIST__INIT;
    if (heads && items) {
        for (size_t i = 0; i < list.n; i++) {
            fill_head(&heads[i], &list.items[i]);
            items[i] = &heads[i];
        }
        answer.conversations = items;
        answer.n_conversations = list.n;
        answer.more = list.more;
        Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
        frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_CONVERSATION_LIST;
        frame.conversation_list = &answer;
        hd_api_reply(client, request, &frame);
    } else {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INTERNAL, "out of memory");
    }
    free(heads);
    free(items);
    hd_conversation_list_free(&list);
}

static void fill_usage(Hearth__V1__Usage *usage, const struct hd_usage *from)
{
    hearth__v1__usage__init(usage);
    usage->prompt_tokens = from->prompt_tokens;
    usage->cached_tokens = from->cached_tokens;
    usage->completion_tokens = from->completion_tokens;
    usage->prompt_ms = from->prompt_ms;
    usage->first_token_ms = from->first_token_ms;
    usage->completion_ms = from->completion_ms;
    usage->seed = from->seed;
    usage->numerics_id = (char *)from->numerics_id;
    usage->stop_reason = (char *)from->stop_reason;
}

static void fill_turn(struct hd_server *server, Hearth__V1__Turn *turn, Hearth__V1__Usage *usage,
                      const struct hd_turn *from)
{
    hearth__v1__turn__init(turn);
    turn->turn_id = hd_wire_bytes(from->id.b, HD_ID_BYTES);
    turn->role = (Hearth__V1__Turn__Role)from->role;
    turn->text = from->text;
    turn->created_ms = (uint64_t)from->created_ms;
    turn->finished = from->finished;
    if (from->role != HD_ROLE_ASSISTANT)
        return;
    turn->response_id = hd_wire_bytes(from->response.b, HD_ID_BYTES);
    if (from->has_usage) {
        fill_usage(usage, &from->usage);
        turn->usage = usage;
        turn->model = (char *)from->usage.model;
    }
    const struct hd_response *running =
        from->finished ? NULL : hd_response_find(server->responses, &from->response);
    size_t len;
    if (running) // newer than what is stored
        turn->text = (char *)hd_response_text(running, &len);
}

// The turns [*first, end) that go into one frame: the newest before `end`, at most `limit` (0: any number).
static size_t first_that_fits(const struct hd_conversation *conversation, size_t end, size_t limit)
{
    size_t used = FRAME_ROOM_BYTES, first = end;
    while (first > 0 && (!limit || end - first < limit)) {
        size_t need = conversation->turns[first - 1].text_len + TURN_OVERHEAD_BYTES;
        if (!conversation->turns[first - 1].finished)
            need = HD_MAX_RESPONSE_TEXT_BYTES + TURN_OVERHEAD_BYTES; // it may be longer by now
        if (need > HD_MAX_FRAME_BYTES - used)
            break;
        used += need;
        first--;
    }
    return first;
}

// Where the page ends: before the turn of this id; all turns when there is none. False: it is not in here.
static bool page_end(const struct hd_conversation *conversation, ProtobufCBinaryData before, size_t *end)
{
    struct hd_id id;
    *end = conversation->n_turns;
    if (before.len == 0)
        return true;
    if (!hd_id_from(&id, before.data, before.len))
        return false;
    for (*end = 0; *end < conversation->n_turns; (*end)++) {
        if (hd_id_equal(&conversation->turns[*end].id, &id))
            return true;
    }
    return false;
}

static void send_page(struct hd_client *client, const struct hd_id *request,
                      const struct hd_conversation *conversation, size_t first, size_t n)
{
    Hearth__V1__Turn *turns = calloc(n + 1, sizeof *turns), **items = calloc(n + 1, sizeof *items);
    Hearth__V1__Usage *usages = calloc(n + 1, sizeof *usages);
    Hearth__V1__ConversationHead head;
    Hearth__V1__Conversation answer = HEARTH__V1__CONVERSATION__INIT;
    fill_head(&head, &conversation->head);
    answer.head = &head;
    answer.more = first > 0;
    if (turns && items && usages) {
        for (size_t i = 0; i < n; i++) {
            fill_turn(client->server, &turns[i], &usages[i], &conversation->turns[first + i]);
            items[i] = &turns[i];
        }
        answer.turns = items;
        answer.n_turns = n;
        Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
        frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_CONVERSATION;
        frame.conversation = &answer;
        hd_api_reply(client, request, &frame);
    } else {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INTERNAL, "out of memory");
    }
    free(turns);
    free(items);
    free(usages);
}

void hd_api_get_conversation(struct hd_client *client, const struct hd_id *request,
                             const Hearth__V1__GetConversation *body)
{
    struct hd_id id;
    struct hd_conversation conversation = {0};
    struct hearth_error error = {0};
    if (!hd_id_from(&id, body->conversation_id.data, body->conversation_id.len)) {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_INVALID, "conversation_id: 16 bytes");
        return;
    }
    if (hd_store_conversation_get(client->server->store, &client->device.person, &id, false, &conversation,
                                  &error) != HEARTH_OK) {
        hd_api_fail(client, request, &error);
        return;
    }
    size_t end, n_bytes = 0;
    for (size_t i = 0; i < conversation.n_turns; i++)
        n_bytes += conversation.turns[i].text_len;
    hd_guard_has_read(client->server->guard, &client->device.id, n_bytes);
    if (page_end(&conversation, body->before_turn_id, &end)) {
        size_t first = first_that_fits(&conversation, end, body->limit);
        send_page(client, request, &conversation, first, end - first);
    } else {
        hd_api_error(client, request, HEARTH__V1__ERROR__CODE__CODE_NOT_FOUND,
                     "before_turn_id: no turn of this conversation");
    }
    hd_conversation_free(&conversation);
}
