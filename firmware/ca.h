// SPDX-License-Identifier: Apache-2.0
// The box's own certificate authority and the certificate that the server shows. Loop thread, at start and by
// timer.
//
// <state>/tls holds ca.key ca.crt leaf.key leaf.crt (PEM, 0600). The CA (EC P-256, 10 years) is
// name-constrained to .local, localhost, the configured names and private addresses: who installs it trusts
// this box for this home and for nothing else. The leaf lives at most 397 days. SHA-256 of the CA's public
// key is the pin of pairing links; it survives a new CA certificate, because the key stays.
#ifndef HD_CA_H
#define HD_CA_H
#include "firmware/net.h"

struct hd_identity {
    char *chain_pem;  // leaf, then CA; NUL-terminated
    size_t chain_len; // without the NUL
    uint8_t *key_der; // of the leaf
    size_t key_len;
    uint8_t *ca_der; // to be installed by browsers and phones; NULL with the owner's own certificate
    size_t ca_len;
    uint8_t pin[HD_HASH_BYTES];
    int64_t renew_ms; // when to ask again, at the latest
    bool ca_is_new, leaf_is_new;
};

// Loads what lies in `dir` (made if missing), and makes or renews what is absent, damaged, near its end or no
// longer names what `names` says. With tls_cert and tls_key in the config, those are loaded instead.
enum hearth_status hd_identity_load(struct hd_identity **identity, const struct hd_config *config,
                                    const struct hd_names *names, struct hearth_error *err);
void hd_identity_free(struct hd_identity **identity);
// The profile that Apple's devices install: malloc'ed, NUL-terminated. NULL when out of memory or without a
// CA.
char *hd_identity_mobileconfig(const struct hd_identity *identity, const char *host);

#endif
