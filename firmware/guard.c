// SPDX-License-Identifier: Apache-2.0
// Counts per address and the allow-lists (see guard.h). Loop thread only.
#include "firmware/guard.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "firmware/limits.h"

enum { BACK_OFF_MS = 60 * 1000 };

struct peer {
    struct hd_address address; // an IPv6 peer is its /64: a host can have any number of addresses in it
    unsigned connections;
    unsigned wrong_tries;
    int64_t window_ms; // start of the minute that wrong_tries counts
    bool used;
};

struct hd_guard {
    struct peer peers[HD_MAX_ADDRESSES];
    size_t connections;
    unsigned overflow_tries; // wrong tries of addresses that found no place
    int64_t overflow_window_ms;
};

struct hd_guard *hd_guard_new(void)
{
    return calloc(1, sizeof(struct hd_guard));
}

void hd_guard_free(struct hd_guard **guard)
{
    free(*guard);
    *guard = NULL;
}

static struct hd_address peer_key(const struct hd_address *address)
{
    struct hd_address key = *address;
    if (key.len == 16 && !hd_address_is_loopback(&key))
        memset(key.b + 8, 0, 8);
    return key;
}

static struct peer *find(struct hd_guard *guard, const struct hd_address *address)
{
    struct hd_address key = peer_key(address);
    for (size_t i = 0; i < HD_MAX_ADDRESSES; i++) {
        if (guard->peers[i].used && hd_address_equal(&guard->peers[i].address, &key))
            return &guard->peers[i];
    }
    return NULL;
}

// A place for an address; one without connections and without fresh wrong tries is given away.
static struct peer *find_or_add(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms)
{
    struct peer *peer = find(guard, address);
    for (size_t i = 0; !peer && i < HD_MAX_ADDRESSES; i++) {
        struct peer *p = &guard->peers[i];
        if (!p->used ||
            (p->connections == 0 && (p->wrong_tries == 0 || now_ms - p->window_ms >= BACK_OFF_MS))) {
            *p = (struct peer){.address = peer_key(address), .used = true};
            peer = p;
        }
    }
    return peer;
}

bool hd_guard_connect(struct hd_guard *guard, const struct hd_address *address)
{
    if (guard->connections >= HD_MAX_CONNECTIONS)
        return false;
    struct peer *peer = find_or_add(guard, address, hd_now_ms());
    if (!peer || peer->connections >= HD_MAX_CONNECTIONS_PER_ADDRESS)
        return false;
    peer->connections++;
    guard->connections++;
    return true;
}

void hd_guard_disconnect(struct hd_guard *guard, const struct hd_address *address)
{
    struct peer *peer = find(guard, address);
    if (peer && peer->connections) {
        peer->connections--;
        guard->connections--;
    }
}

size_t hd_guard_connections(const struct hd_guard *guard)
{
    return guard->connections;
}

static bool count_try(unsigned *tries, int64_t *window_ms, int64_t now_ms)
{
    if (now_ms - *window_ms >= BACK_OFF_MS || now_ms < *window_ms) {
        *window_ms = now_ms;
        *tries = 0;
    }
    return ++*tries == HD_WRONG_TRIES_PER_MINUTE;
}

bool hd_guard_wrong_try(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms)
{
    struct peer *peer = find_or_add(guard, address, now_ms);
    return peer ? count_try(&peer->wrong_tries, &peer->window_ms, now_ms)
                : count_try(&guard->overflow_tries, &guard->overflow_window_ms, now_ms);
}

bool hd_guard_is_backed_off(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms)
{
    const struct peer *peer = find(guard, address);
    unsigned tries = peer ? peer->wrong_tries : guard->overflow_tries;
    int64_t since = now_ms - (peer ? peer->window_ms : guard->overflow_window_ms);
    return tries >= HD_WRONG_TRIES_PER_MINUTE && since >= 0 && since < BACK_OFF_MS;
}

// Splits "name:port" or "[v6]:port"; port 0 = none given. False when malformed.
static bool split_host(const char *host, char name[HD_HOST_BYTES], unsigned *port)
{
    const char *end, *colon;
    *port = 0;
    if (host[0] == '[') {
        end = strchr(++host, ']');
        if (!end || (end[1] != 0 && end[1] != ':'))
            return false;
        colon = end[1] == ':' ? end + 1 : NULL;
    } else {
        colon = strchr(host, ':');
        end = colon ? colon : host + strlen(host);
    }
    size_t len = (size_t)(end - host);
    if (len == 0 || len >= HD_HOST_BYTES)
        return false;
    memcpy(name, host, len);
    name[len] = 0;
    if (!colon)
        return true;
    for (const char *p = colon + 1; *p; p++) {
        if (!isdigit((unsigned char)*p) || (*port = *port * 10 + (unsigned)(*p - '0')) > 65535)
            return false;
    }
    return *port > 0;
}

bool hd_host_allowed(const struct hd_names *names, unsigned port, const char *host)
{
    char name[HD_HOST_BYTES];
    unsigned given;
    if (!split_host(host, name, &given) || (given ? given : 443) != port)
        return false;
    struct hd_address address;
    if (hd_address_parse(&address, name)) {
        for (size_t i = 0; i < names->n_ip; i++) {
            if (hd_address_equal(&names->ip[i], &address))
                return true;
        }
        return false;
    }
    size_t len = strlen(name);
    if (len > 1 && name[len - 1] == '.') // a rooted name is the same name
        name[len - 1] = 0;
    for (size_t i = 0; i < names->n_dns; i++) {
        if (strcasecmp(names->dns[i], name) == 0)
            return true;
    }
    return false;
}

bool hd_origin_allowed(const struct hd_names *names, unsigned port, const char *origin)
{
    static const char scheme[] = "https://";
    return strncasecmp(origin, scheme, sizeof scheme - 1) == 0 &&
           hd_host_allowed(names, port, origin + sizeof scheme - 1);
}

bool hd_bucket_take(struct hd_bucket *bucket, int64_t now_ms, double per_second, double burst)
{
    if (bucket->filled_ms == 0)
        bucket->level = burst;
    else if (now_ms > bucket->filled_ms)
        bucket->level += (double)(now_ms - bucket->filled_ms) * per_second / 1000;
    bucket->filled_ms = now_ms;
    if (bucket->level > burst)
        bucket->level = burst;
    if (bucket->level < 1)
        return false;
    bucket->level -= 1;
    return true;
}
