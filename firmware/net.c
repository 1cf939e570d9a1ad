// SPDX-License-Identifier: Apache-2.0
// Names and addresses of this box (see net.h). Loop thread.
#include "firmware/net.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#include "firmware/util.h"

bool hd_address_is_loopback(const struct hd_address *a)
{
    static const uint8_t one[16] = {[15] = 1};
    return a->len == 4 ? a->b[0] == 127 : memcmp(a->b, one, 16) == 0;
}

bool hd_address_is_local(const struct hd_address *a)
{
    const uint8_t *b = a->b;
    if (hd_address_is_loopback(a))
        return true;
    if (a->len == 16)
        return (b[0] & 0xfe) == 0xfc || (b[0] == 0xfe && (b[1] & 0xc0) == 0x80);
    return b[0] == 10 || (b[0] == 172 && (b[1] & 0xf0) == 16) || (b[0] == 192 && b[1] == 168) ||
           (b[0] == 169 && b[1] == 254);
}

bool hd_address_from(struct hd_address *address, const struct sockaddr *from)
{
    memset(address, 0, sizeof *address);
    if (from->sa_family == AF_INET) {
        address->len = 4;
        memcpy(address->b, &((const struct sockaddr_in *)(const void *)from)->sin_addr, 4);
        return true;
    }
    if (from->sa_family != AF_INET6)
        return false;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)from)->sin6_addr;
    bool mapped = IN6_IS_ADDR_V4MAPPED(six);
    address->len = mapped ? 4 : 16;
    memcpy(address->b, six->s6_addr + (mapped ? 12 : 0), address->len);
    return true;
}

bool hd_address_equal(const struct hd_address *a, const struct hd_address *b)
{
    return a->len == b->len && memcmp(a->b, b->b, a->len) == 0;
}

void hd_address_format(char out[INET6_ADDRSTRLEN + 2], const struct hd_address *address, bool url)
{
    char text[INET6_ADDRSTRLEN] = "";
    inet_ntop(address->len == 4 ? AF_INET : AF_INET6, address->b, text, sizeof text);
    snprintf(out, INET6_ADDRSTRLEN + 2, url && address->len == 16 ? "[%s]" : "%s", text);
}

bool hd_address_parse(struct hd_address *address, const char *text)
{
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, text, address->b) == 1) {
        address->len = 4;
        return true;
    }
    address->len = 16;
    return inet_pton(AF_INET6, text, address->b) == 1;
}

static bool valid_dns(const char *name)
{
    size_t len = strlen(name), label = 0;
    if (len == 0 || len >= HD_HOST_BYTES)
        return false;
    for (size_t i = 0; i <= len; i++) {
        char c = name[i];
        if (c == '.' || c == 0) {
            if (label == 0 || label > 63 || name[i - 1] == '-')
                return false;
            label = 0;
        } else if (islower((unsigned char)c) || isdigit((unsigned char)c) || (c == '-' && label > 0)) {
            label++;
        } else {
            return false;
        }
    }
    return true;
}

static void add_dns(struct hd_names *names, const char *name)
{
    for (size_t i = 0; i < names->n_dns; i++) {
        if (strcmp(names->dns[i], name) == 0)
            return;
    }
    if (names->n_dns < sizeof names->dns / sizeof names->dns[0])
        snprintf(names->dns[names->n_dns++], HD_HOST_BYTES, "%s", name);
}

static void add_address(struct hd_names *names, const struct hd_address *address)
{
    for (size_t i = 0; i < names->n_ip; i++) {
        if (hd_address_equal(&names->ip[i], address))
            return;
    }
    if (names->n_ip < HD_MAX_ADDRESSES_OF_BOX)
        names->ip[names->n_ip++] = *address;
}

static void add_host(struct hd_names *names)
{
    char host[HD_HOST_BYTES] = "", clean[64], local[72];
    size_t n = 0;
    gethostname(host, sizeof host - 1);
    for (const char *p = host; *p && *p != '.' && n < sizeof clean - 1; p++) {
        char c = (char)tolower((unsigned char)*p);
        if (islower((unsigned char)c) || isdigit((unsigned char)c) || (c == '-' && n > 0))
            clean[n++] = c;
    }
    while (n && clean[n - 1] == '-')
        n--;
    clean[n] = 0;
    snprintf(local, sizeof local, "%s.local", n ? clean : "hearth");
    add_dns(names, local);
}

static enum hearth_status add_configured(struct hd_names *names, const char *list, struct hearth_error *err)
{
    for (const char *p = list; *p;) {
        size_t skip = strspn(p, ", \t"), len = strcspn(p + skip, ", \t");
        p += skip;
        char name[HD_HOST_BYTES];
        if (len >= sizeof name)
            return hd_fail(err, HEARTH_INVALID, "names: a host name is too long");
        for (size_t i = 0; i < len; i++)
            name[i] = (char)tolower((unsigned char)p[i]);
        name[len] = 0;
        p += len;
        if (len == 0)
            continue;
        struct hd_address address;
        if (hd_address_parse(&address, name)) {
            if (!hd_address_is_local(&address))
                return hd_fail(err, HEARTH_INVALID, "names: %s is not a private address", name);
            add_address(names, &address);
            continue;
        }
        if (!valid_dns(name))
            return hd_fail(err, HEARTH_INVALID, "names: '%s' is not a host name", name);
        if (names->n_dns >= HD_MAX_NAMES)
            return hd_fail(err, HEARTH_INVALID, "names: more than %d", HD_MAX_NAMES);
        add_dns(names, name);
    }
    return HEARTH_OK;
}

enum hearth_status hd_names_get(struct hd_names *names, const struct hd_config *config,
                                struct hearth_error *err)
{
    struct hd_address address;
    memset(names, 0, sizeof *names);
    add_host(names);
    add_dns(names, "localhost");
    hd_address_parse(&address, "127.0.0.1");
    add_address(names, &address);
    hd_address_parse(&address, "::1");
    add_address(names, &address);
    enum hearth_status status = add_configured(names, config->names, err);
    if (status != HEARTH_OK)
        return status;
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0)
        return HEARTH_OK; // without interfaces there is still loopback
    for (const struct ifaddrs *i = list; i; i = i->ifa_next) {
        if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || !hd_address_from(&address, i->ifa_addr))
            continue;
        bool link_local = address.len == 16 && address.b[0] == 0xfe &&
                          (address.b[1] & 0xc0) == 0x80; // needs a zone: no URL has one
        if (hd_address_is_local(&address) && !link_local)
            add_address(names, &address);
    }
    freeifaddrs(list);
    return HEARTH_OK;
}

bool hd_names_equal(const struct hd_names *a, const struct hd_names *b)
{
    return memcmp(a, b, sizeof *a) == 0; // both are zeroed before they are filled
}
