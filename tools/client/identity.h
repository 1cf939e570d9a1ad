// SPDX-License-Identifier: Apache-2.0
// A box's identity: the certificate authority it made for itself, pinned by the SHA-256 of its public key.
// Blocking; the calling thread.
#ifndef HEARTH_CLIENT_IDENTITY_H
#define HEARTH_CLIENT_IDENTITY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A pin is the SHA-256 of a certificate's SubjectPublicKeyInfo.
enum { IDENTITY_PIN_BYTES = 32, IDENTITY_SHORT_PIN_BYTES = 16, IDENTITY_CA_MAX = 8192 };

// Asks the box for its certificate chain and takes the certificate out that bears the pinned key, as DER.
// Nothing else of the chain is believed: the caller connects anew and verifies against it. Links hold the
// pin's first 16 bytes. False with a reason in `why`.
bool identity_fetch(const char *host, uint16_t port, const uint8_t pin[IDENTITY_SHORT_PIN_BYTES],
                    unsigned char der[IDENTITY_CA_MAX], size_t *len_bytes, char why[160]);

// Why a TLS connection failed, when the library does not tell: connects once more and looks whether the
// server's certificate is vouched for by `ca` (PEM with its NUL counted, or DER) and names the host. True
// with a reason in `why` if it is not; false if the trouble is another one.
bool identity_untrusted(const char *host, uint16_t port, const unsigned char *ca, size_t ca_len_bytes,
                        char why[160]);

// When the first certificate of a PEM (with its NUL counted) or DER ends, Unix seconds. False if it is none.
bool identity_valid_until(const unsigned char *cert, size_t len_bytes, int64_t *unix_s);

// "mbedTLS 3.6.6"
void identity_tls_version(char text[32]);

// base64url without padding, as pairing links hold it. *n = bytes written; false if it is not that or does
// not fit.
bool identity_base64url(const char *text, size_t len_bytes, uint8_t *bytes, size_t capacity, size_t *n);

#endif
