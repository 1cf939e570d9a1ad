// SPDX-License-Identifier: Apache-2.0
// Pinning: a handshake whose only purpose is to see the chain. No application data is sent in it. The mbedTLS
// calls are those that 2.28 and 3.6 share. The calling thread.
#include "tools/client/identity.h"

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/md.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
#include <psa/crypto.h>
#endif

enum { READ_TIMEOUT_MS = 10000 };

static bool pin_of(const mbedtls_x509_crt *cert, uint8_t pin[IDENTITY_PIN_BYTES])
{
    return cert->pk_raw.len &&
           !mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), cert->pk_raw.p, cert->pk_raw.len, pin);
}

bool identity_valid_until(const unsigned char *cert, size_t len_bytes, int64_t *unix_s)
{
    mbedtls_x509_crt crt;
    mbedtls_x509_crt_init(&crt);
    bool good = !mbedtls_x509_crt_parse(&crt, cert, len_bytes);
    const mbedtls_x509_time *end = &crt.valid_to;
    struct tm utc = {.tm_year = end->year - 1900,
                     .tm_mon = end->mon - 1,
                     .tm_mday = end->day,
                     .tm_hour = end->hour,
                     .tm_min = end->min,
                     .tm_sec = end->sec};
    *unix_s = good ? (int64_t)timegm(&utc) : 0;
    mbedtls_x509_crt_free(&crt);
    return good;
}

void identity_tls_version(char text[32])
{
    char number[18];
    mbedtls_version_get_string(number);
    snprintf(text, 32, "mbedTLS %s", number);
}

struct handshake {
    mbedtls_net_context net;
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config config;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
};

static void handshake_init(struct handshake *handshake)
{
    mbedtls_net_init(&handshake->net);
    mbedtls_ssl_init(&handshake->ssl);
    mbedtls_ssl_config_init(&handshake->config);
    mbedtls_entropy_init(&handshake->entropy);
    mbedtls_ctr_drbg_init(&handshake->random);
}

static void handshake_free(struct handshake *handshake)
{
    mbedtls_ssl_free(&handshake->ssl);
    mbedtls_net_free(&handshake->net);
    mbedtls_ssl_config_free(&handshake->config);
    mbedtls_ctr_drbg_free(&handshake->random);
    mbedtls_entropy_free(&handshake->entropy);
}

// The chain is taken as it comes and compared with `ca` (NULL = with nothing): the caller decides.
static const char *handshake_run(struct handshake *handshake, const char *host, uint16_t port,
                                 mbedtls_x509_crt *ca)
{
    char text[8];
    snprintf(text, sizeof text, "%u", port);
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    if (psa_crypto_init() != PSA_SUCCESS)
        return "no cryptography";
#endif
    if (mbedtls_ctr_drbg_seed(&handshake->random, mbedtls_entropy_func, &handshake->entropy, NULL, 0) ||
        mbedtls_ssl_config_defaults(&handshake->config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                    MBEDTLS_SSL_PRESET_DEFAULT))
        return "no cryptography";
    mbedtls_ssl_conf_rng(&handshake->config, mbedtls_ctr_drbg_random, &handshake->random);
    mbedtls_ssl_conf_authmode(&handshake->config, ca ? MBEDTLS_SSL_VERIFY_OPTIONAL : MBEDTLS_SSL_VERIFY_NONE);
    mbedtls_ssl_conf_ca_chain(&handshake->config, ca, NULL);
    mbedtls_ssl_conf_read_timeout(&handshake->config, READ_TIMEOUT_MS);
#if MBEDTLS_VERSION_NUMBER >= 0x03000000 && defined(MBEDTLS_SSL_PROTO_TLS1_3)
    // TLS 1.3 clients verify always; 1.2 lets the chain be looked at first.
    mbedtls_ssl_conf_max_tls_version(&handshake->config, MBEDTLS_SSL_VERSION_TLS1_2);
#endif
    if (mbedtls_ssl_setup(&handshake->ssl, &handshake->config) ||
        mbedtls_ssl_set_hostname(&handshake->ssl, host))
        return "out of memory";
    if (mbedtls_net_connect(&handshake->net, host, text, MBEDTLS_NET_PROTO_TCP))
        return "no connection";
    mbedtls_ssl_set_bio(&handshake->ssl, &handshake->net, mbedtls_net_send, NULL, mbedtls_net_recv_timeout);
    int result;
    do
        result = mbedtls_ssl_handshake(&handshake->ssl);
    while (result == MBEDTLS_ERR_SSL_WANT_READ || result == MBEDTLS_ERR_SSL_WANT_WRITE);
    return result ? "no TLS there" : NULL;
}

bool identity_fetch(const char *host, uint16_t port, const uint8_t pin[IDENTITY_SHORT_PIN_BYTES],
                    unsigned char der[IDENTITY_CA_MAX], size_t *len_bytes, char why[160])
{
    struct handshake handshake;
    uint8_t found[IDENTITY_PIN_BYTES];
    *len_bytes = 0;
    handshake_init(&handshake);
    const char *problem = handshake_run(&handshake, host, port, NULL);
    const mbedtls_x509_crt *cert = problem ? NULL : mbedtls_ssl_get_peer_cert(&handshake.ssl);
    for (; cert && !*len_bytes; cert = cert->next) {
        if (!pin_of(cert, found) || memcmp(found, pin, IDENTITY_SHORT_PIN_BYTES) ||
            cert->raw.len > IDENTITY_CA_MAX)
            continue;
        memcpy(der, cert->raw.p, cert->raw.len);
        *len_bytes = cert->raw.len;
    }
    if (!*len_bytes)
        snprintf(why, 160, "%s", problem ? problem : "the box there is another one than the link names");
    handshake_free(&handshake);
    return *len_bytes != 0;
}

bool identity_untrusted(const char *host, uint16_t port, const unsigned char *ca, size_t ca_len_bytes,
                        char why[160])
{
    struct handshake handshake;
    mbedtls_x509_crt authorities;
    char text[160] = "";
    mbedtls_x509_crt_init(&authorities);
    handshake_init(&handshake);
    // A bundle may hold certificates that are not understood: the others count.
    bool told = mbedtls_x509_crt_parse(&authorities, ca, ca_len_bytes) >= 0 &&
                !handshake_run(&handshake, host, port, &authorities);
    uint32_t flags = told ? mbedtls_ssl_get_verify_result(&handshake.ssl) : 0;
    if (flags)
        mbedtls_x509_crt_verify_info(text, sizeof text, "", flags);
    text[strcspn(text, "\n")] = 0;
    snprintf(why, 160, "%s", text);
    handshake_free(&handshake);
    mbedtls_x509_crt_free(&authorities);
    return flags != 0;
}

bool identity_base64url(const char *text, size_t len_bytes, uint8_t *bytes, size_t capacity, size_t *n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint32_t bits = 0;
    unsigned n_bits = 0;
    *n = 0;
    for (size_t i = 0; i < len_bytes; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!digit)
            return false;
        bits = bits << 6 | (uint32_t)(digit - digits);
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        if (*n == capacity)
            return false;
        bytes[(*n)++] = (uint8_t)(bits >> n_bits);
        bits &= (1u << n_bits) - 1;
    }
    return !bits;
}
