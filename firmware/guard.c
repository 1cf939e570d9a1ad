// SPDX-License-Identifier: Apache-2.0
// Counts per address and the allow-lists (see guard.h). Loop thread only.
#include "firmware/guard.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "firmware/limits.h"

enum { MINUTE_MS = 60 * 1000 };

struct peer {
    struct hd_address address; // an IPv6 peer is its /64: a host can have any number of addresses in it
    unsigned connections;
    unsigned wrong_tries;
    int64_t window_ms; // start of the minute that wrong_tries counts
    uint64_t shaken;   // when its last handshake began, in the order of all; 0 = none yet
    bool used;
    bool known; // a device has shown its token from there
};

struct rate {
    struct hd_id device;
    struct hd_bucket bucket;
};

struct hd_guard {
    struct rate rates[HD_MAX_RATES];
    struct peer peers[HD_MAX_ADDRESSES];
    size_t connections;
    struct hd_bucket handshakes;
    uint64_t n_handshakes;
    unsigned told; // addresses that the log named in this minute
    int64_t told_ms;
};

_Static_assert(HD_MAX_ADDRESSES > HD_MAX_CONNECTIONS, "a place without connections is always to be found");

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

bool hd_guard_is_neighbour(const struct hd_address *a, const struct hd_address *b)
{
    struct hd_address one = peer_key(a), other = peer_key(b);
    return hd_address_equal(&one, &other);
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

static bool was_wrong(const struct peer *peer, int64_t now_ms)
{
    return peer->wrong_tries && now_ms - peer->window_ms < MINUTE_MS;
}

// Whether less is lost with `a` than with `b`: who is known stays longest, then who was wrong, else the latest.
// Who was never here has nothing to lose.
static bool goes_before(const struct peer *a, const struct peer *b, int64_t now_ms)
{
    bool a_wrong = was_wrong(a, now_ms), b_wrong = was_wrong(b, now_ms);
    if (a->known != b->known)
        return b->known;
    if (a_wrong != b_wrong)
        return b_wrong;
    return a_wrong ? a->window_ms < b->window_ms : a->shaken < b->shaken;
}

// A place for an address: a free one, else that of one without connections.
static struct peer *find_or_add(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms)
{
    struct peer *peer = find(guard, address);
    if (peer)
        return peer;
    for (size_t i = 0; i < HD_MAX_ADDRESSES; i++) {
        struct peer *p = &guard->peers[i];
        if (p->connections == 0 && (!peer || goes_before(p, peer, now_ms)))
            peer = p;
    }
    *peer = (struct peer){.address = peer_key(address), .used = true};
    return peer;
}

bool hd_guard_connect(struct hd_guard *guard, const struct hd_address *address)
{
    if (guard->connections >= HD_MAX_CONNECTIONS)
        return false;
    struct peer *peer = find_or_add(guard, address, hd_now_ms());
    if (peer->connections >= HD_MAX_CONNECTIONS_PER_ADDRESS)
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

size_t hd_guard_place(const struct hd_guard *guard, const struct hd_address *address)
{
    const struct peer *peer = find((struct hd_guard *)guard, address);
    return peer ? (size_t)(peer - guard->peers) : 0;
}

void hd_guard_know(struct hd_guard *guard, const struct hd_address *address)
{
    struct peer *peer = find(guard, address);
    if (peer)
        peer->known = true;
}

bool hd_guard_is_known(const struct hd_guard *guard, const struct hd_address *address)
{
    const struct peer *peer = find((struct hd_guard *)guard, address);
    return peer && peer->known;
}

static bool comes_before(const struct peer *a, const struct peer *b, bool known_first)
{
    return known_first && a->known != b->known ? a->known : a->shaken < b->shaken;
}

size_t hd_guard_handshake(struct hd_guard *guard, const size_t *places, size_t n, int64_t now_ms)
{
    size_t next = 0;
    if (!n || !hd_bucket_take(&guard->handshakes, now_ms, HD_HANDSHAKES_PER_SECOND, HD_HANDSHAKES_BURST))
        return n;
    bool known_first = ++guard->n_handshakes % 2;
    for (size_t i = 1; i < n; i++) {
        if (comes_before(&guard->peers[places[i]], &guard->peers[places[next]], known_first))
            next = i;
    }
    guard->peers[places[next]].shaken = guard->n_handshakes;
    return next;
}

// One more within this minute; how many that makes.
static unsigned count(unsigned *n, int64_t *window_ms, int64_t now_ms)
{
    if (now_ms - *window_ms >= MINUTE_MS || now_ms < *window_ms) {
        *window_ms = now_ms;
        *n = 0;
    }
    *n += *n < UINT_MAX;
    return *n;
}

enum hd_try hd_guard_wrong_try(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms)
{
    struct peer *peer = find_or_add(guard, address, now_ms);
    unsigned n = count(&peer->wrong_tries, &peer->window_ms, now_ms);
    if (n != HD_WRONG_TRIES_PER_MINUTE)
        return n < HD_WRONG_TRIES_PER_MINUTE ? HD_TRY_WRONG : HD_TRY_WAIT;
    return count(&guard->told, &guard->told_ms, now_ms) <= HD_TOLD_PER_MINUTE ? HD_TRY_WAIT_TOLD : HD_TRY_WAIT;
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

// A device's place, else that of the one which has been quiet longest.
static struct rate *rate_of(struct hd_guard *guard, const struct hd_id *device)
{
    struct rate *rate = &guard->rates[0];
    for (size_t i = 0; i < HD_MAX_RATES; i++) {
        struct rate *r = &guard->rates[i];
        if (hd_id_equal(&r->device, device))
            return r;
        if (r->bucket.filled_ms < rate->bucket.filled_ms)
            rate = r;
    }
    *rate = (struct rate){.device = *device};
    return rate;
}

bool hd_guard_too_fast(struct hd_guard *guard, const struct hd_id *device, int64_t now_ms)
{
    return !hd_bucket_take(&rate_of(guard, device)->bucket, now_ms, HD_FRAMES_PER_SECOND, HD_FRAMES_BURST);
}

void hd_guard_has_read(struct hd_guard *guard, const struct hd_id *device, size_t n_bytes)
{
    rate_of(guard, device)->bucket.level -= (double)(n_bytes / HD_READ_BYTES_PER_FRAME);
}
