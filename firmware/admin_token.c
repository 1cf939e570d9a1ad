// SPDX-License-Identifier: Apache-2.0
// Tokens for programs: a device without a pairing link, made at the admin socket. Loop thread.
#include <string.h>

#include "firmware/admin_internal.h"
#include "firmware/http_auth.h"

static bool read_scopes(const json_t *list, uint32_t *scopes)
{
    size_t i;
    const json_t *item;
    *scopes = list ? 0 : HD_SCOPE_CHAT;
    json_array_foreach(list, i, item)
    {
        uint32_t bit = json_is_string(item) ? hd_scope_from(json_string_value(item)) : 0;
        if (!bit)
            return false;
        *scopes |= bit;
    }
    return *scopes != 0;
}

// The device and its token come from a pairing that nobody else could use. It does not open the port to the network:
// that is for an invitation to do.
static enum hearth_status make(struct hd_store *store, const char *person_name, bool create, uint32_t scopes,
                               const char *name, struct hd_device *device, uint8_t token[HD_SECRET_BYTES],
                               struct hearth_error *err)
{
    struct hd_person person;
    uint8_t secret[HD_SECRET_BYTES];
    enum hearth_status status = hd_person_find(store, person_name, &person, err);
    if (status == HEARTH_NOT_FOUND && create)
        status = hd_person_add(store, person_name, &person, err);
    if (status == HEARTH_OK)
        status = hd_pair_create(store, &person.id, scopes, 0, secret, err);
    if (status == HEARTH_OK)
        status = hd_pair_redeem(store, secret, sizeof secret, name, "token", device, token, err);
    hd_wipe(secret, sizeof secret);
    return status;
}

void hd_admin_token_create(struct hd_admin_client *client, json_t *request)
{
    const char *cmd, *person, *name;
    int create = 0;
    uint32_t scopes;
    json_t *list = NULL;
    struct hd_server *server = client->server;
    struct hd_device device;
    struct hearth_error error = {0};
    uint8_t token[HD_SECRET_BYTES];
    char text[HD_TOKEN_TEXT_BYTES], id[2 * HD_ID_BYTES + 1], url[64], ca_file[HD_PATH_BYTES + 16];
    if (!hd_admin_unpack(client, request, "{s:s, s:s, s:s, s?b, s?o}", "cmd", &cmd, "person", &person, "name", &name,
                         "create", &create, "scopes", &list))
        return;
    if (!read_scopes(list, &scopes)) {
        hd_admin_error(client, "invalid", "scopes: an array of \"chat\", \"train\", \"admin\"");
        return;
    }
    if (make(server->store, person, create, scopes, name, &device, token, &error) != HEARTH_OK) {
        hd_admin_fail(client, &error);
        return;
    }
    hd_token_to_text(text, token);
    hd_hex(id, device.id.b, HD_ID_BYTES);
    snprintf(url, sizeof url, "https://localhost:%u/v1", server->config->port);
    snprintf(ca_file, sizeof ca_file, "%s/tls/ca.crt", server->config->state_dir);
    hd_admin_answer(client,
                    json_pack("{s:b, s:s, s:s, s:s, s:s, s:s, s:o}", "ok", 1, "token", text, "id", id,
                              "person", device.person_name, "name", device.name, "base_url", url, "ca_file",
                              server->identity->ca_der ? json_string(ca_file) : json_null()));
    hd_wipe(token, sizeof token);
    hd_wipe(text, sizeof text);
    hd_log(HD_LOG_INFO, "device %s was given a token", id);
}
