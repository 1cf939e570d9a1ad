// SPDX-License-Identifier: Apache-2.0
// Who may connect and ask: connection counts and wrong tries per address, Host and Origin lists, rates per device.
// Loop thread only; knows no sockets.
#ifndef HD_GUARD_H
#define HD_GUARD_H
#include "firmware/net.h"

struct hd_guard;
struct hd_guard *hd_guard_new(void); // NULL when out of memory
void hd_guard_free(struct hd_guard **guard);

// Before TLS is paid for. False: too many connections, of this address or in all.
bool hd_guard_connect(struct hd_guard *guard, const struct hd_address *address);
void hd_guard_disconnect(struct hd_guard *guard, const struct hd_address *address);
bool hd_guard_is_neighbour(const struct hd_address *a, const struct hd_address *b); // counted as one address
size_t hd_guard_connections(const struct hd_guard *guard);


// Addresses from which a device has shown its token.
void hd_guard_know(struct hd_guard *guard, const struct hd_address *address);
bool hd_guard_is_known(const struct hd_guard *guard, const struct hd_address *address);

// TLS costs a signature: so many begin in a second, and whose address has begun none for longest is next; every other
// one is of an address that is known, if one of those waits. Which of those that wait may begin now; n: none. `places`:
// of their addresses, oldest connection first.
size_t hd_guard_handshake(struct hd_guard *guard, const size_t *places, size_t n, int64_t now_ms);
size_t hd_guard_place(const struct hd_guard *guard, const struct hd_address *address); // while it is connected

// Wrong tokens and pairing secrets. Both are 256 random bits, which nobody guesses, so a right one is let in whatever
// else came from its address: people behind one router or proxy cannot lock each other out. What wrong ones bring is an
// answer that says to wait, and a line in the log.
enum hd_try {
    HD_TRY_WRONG,     // say so
    HD_TRY_WAIT,      // say that it is time to wait: HD_WRONG_TRIES_PER_MINUTE and more of this address
    HD_TRY_WAIT_TOLD, // the same, and worth a line in the log: once a minute and address, and not for a crowd of them
};
enum hd_try hd_guard_wrong_try(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms);

// `host` is a Host header: a known name or address with the port (which may be missing when it is 443).
bool hd_host_allowed(const struct hd_names *names, unsigned port, const char *host);
// `origin` is an Origin header: "https://" and an allowed host. An absent header is the caller's case.
bool hd_origin_allowed(const struct hd_names *names, unsigned port, const char *origin);

// Frames and requests of a device, however many connections they come over. True: this one is too much.
bool hd_guard_too_fast(struct hd_guard *guard, const struct hd_id *device, int64_t now_ms);
// One that made the box read so much counts as more of them.
void hd_guard_has_read(struct hd_guard *guard, const struct hd_id *device, size_t n_bytes);

// A bucket that fills at a steady rate.
struct hd_bucket {
    int64_t filled_ms;
    double level;
};
bool hd_bucket_take(struct hd_bucket *bucket, int64_t now_ms, double per_second, double burst);

#endif
