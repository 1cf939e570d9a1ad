// SPDX-License-Identifier: Apache-2.0
// What this box is called and where it can be reached: for the certificate, the Host check and pairing links.
// Loop thread.
#ifndef HD_NET_H
#define HD_NET_H
#include <netinet/in.h>

#include "firmware/config.h"

enum { HD_MAX_ADDRESSES_OF_BOX = 32 };

struct hd_address {
    uint8_t b[16];
    uint8_t len; // 4 or 16
};

struct hd_names {
    char dns[HD_MAX_NAMES + 2]
            [HD_HOST_BYTES]; // "<host>.local", "localhost", then configured ones; lower case
    size_t n_dns;
    struct hd_address ip[HD_MAX_ADDRESSES_OF_BOX]; // loopback first, then LAN addresses in interface order
    size_t n_ip;
};

// Reads the host name, the configured names and the interfaces' private addresses. INVALID: a configured name
// is none.
enum hearth_status hd_names_get(struct hd_names *names, const struct hd_config *config,
                                struct hearth_error *err);
bool hd_names_equal(const struct hd_names *a, const struct hd_names *b);

// Private, loopback or link-local: what the box's certificates may name.
bool hd_address_is_local(const struct hd_address *address);
bool hd_address_is_loopback(const struct hd_address *address);
// From a socket address; IPv4 in IPv6 becomes IPv4. False for other families.
bool hd_address_from(struct hd_address *address, const struct sockaddr *from);
bool hd_address_equal(const struct hd_address *a, const struct hd_address *b);
// "192.168.1.2" or, with `url`, "[fd00::2]" for IPv6.
void hd_address_format(char out[INET6_ADDRSTRLEN + 2], const struct hd_address *address, bool url);
bool hd_address_parse(struct hd_address *address, const char *text);

#endif
