// SPDX-License-Identifier: Apache-2.0
// Who may connect and ask: connection counts and wrong tries per address, Host and Origin lists, frame rates.
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
size_t hd_guard_connections(const struct hd_guard *guard);

// A wrong token or secret. True when this one brought the back-off (worth a log line).
bool hd_guard_wrong_try(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms);
// True while an address must wait: its tokens are not even looked at.
bool hd_guard_is_backed_off(struct hd_guard *guard, const struct hd_address *address, int64_t now_ms);

// `host` is a Host header: a known name or address with the port (which may be missing when it is 443).
bool hd_host_allowed(const struct hd_names *names, unsigned port, const char *host);
// `origin` is an Origin header: "https://" and an allowed host. An absent header is the caller's case.
bool hd_origin_allowed(const struct hd_names *names, unsigned port, const char *origin);

// Frames per device: a bucket that fills at a steady rate.
struct hd_bucket {
    int64_t filled_ms;
    double level;
};
bool hd_bucket_take(struct hd_bucket *bucket, int64_t now_ms, double per_second, double burst);

#endif
