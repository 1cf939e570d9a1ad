// SPDX-License-Identifier: Apache-2.0
// Lets the sources, written for mbedTLS 3.6 and libwebsockets 4.3, compile against a distribution's older pair
// (mbedTLS 2.28, libwebsockets 4.0 to 4.2). The Makefile puts it in front of every file that uses them when there
// is no TLS pair of tools/build-tls; hearthd then answers on loopback only (HEARTH_OLD_TLS). No state.
#ifndef HD_OLD_TLS_H
#define HD_OLD_TLS_H
#define HEARTH_OLD_TLS 1
#include <libwebsockets.h>
#include <mbedtls/bignum.h>
#include <mbedtls/pk.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>

#ifndef LWS_PROTOCOL_LIST_TERM
#define LWS_PROTOCOL_LIST_TERM {NULL, NULL, 0, 0, 0, NULL, 0}
#endif

#if MBEDTLS_VERSION_NUMBER < 0x03000000
#define mbedtls_pk_parse_key(pk, key, len, password, password_len, rng, rng_arg)                              \
    mbedtls_pk_parse_key(pk, key, len, password, password_len)
#define mbedtls_pk_check_pair(public_key, private_key, rng, rng_arg) mbedtls_pk_check_pair(public_key, private_key)

static inline int mbedtls_x509write_crt_set_serial_raw(mbedtls_x509write_cert *crt, unsigned char *serial,
                                                       size_t len_bytes)
{
    mbedtls_mpi number;
    mbedtls_mpi_init(&number);
    int code = mbedtls_mpi_read_binary(&number, serial, len_bytes);
    if (!code)
        code = mbedtls_x509write_crt_set_serial(crt, &number);
    mbedtls_mpi_free(&number);
    return code;
}
#endif
#endif
