// SPDX-License-Identifier: Apache-2.0
// CA and leaf certificates with mbedTLS (see ca.h). Extensions that name things are written here as DER, so
// that a certificate that already names the same can be recognised by its bytes. Loop thread.
#include "firmware/ca.h"

#include <mbedtls/asn1write.h>
#include <mbedtls/base64.h>
#include <mbedtls/ecp.h>
#include <mbedtls/oid.h>
#include <mbedtls/pem.h>
#include <mbedtls/pk.h>
#include <mbedtls/x509_crt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "firmware/io.h"
#include "firmware/util.h"

enum {
    FILE_BYTES = 64 << 10,
    EXTENSION_BYTES = 16 << 10,
    CERT_BYTES = 24 << 10,
    KEY_BYTES = 1 << 10,
    CA_DAYS = 3650,
    LEAF_DAYS = 396, // browsers refuse more than 398
    RENEW_DAYS = 30,
};
static const int64_t day_ms = 86400000;
static const int64_t earliest_ms = INT64_C(1767225600000); // 2026-01-01: a clock before that is wrong

struct pair {
    mbedtls_pk_context key;
    mbedtls_x509_crt crt;
};

static int rng(void *user, unsigned char *out, size_t len)
{
    (void)user;
    return hd_random(out, len, NULL) == HEARTH_OK ? 0 : MBEDTLS_ERR_PK_BAD_INPUT_DATA;
}

static enum hearth_status tls_fail(struct hearth_error *err, const char *what, int code)
{
    return hd_fail(err, code == MBEDTLS_ERR_PK_ALLOC_FAILED ? HEARTH_NOMEM : HEARTH_FORMAT,
                   "%s: TLS library error -0x%04x", what, (unsigned)-code);
}

// ---- extensions, written backwards as the library does

struct der {
    unsigned char bytes[EXTENSION_BYTES];
    unsigned char *p;
    int len; // or a negative error
};

static void der_begin(struct der *der)
{
    der->p = der->bytes + sizeof der->bytes;
    der->len = 0;
}

static void der_add(struct der *der, int written)
{
    der->len = der->len < 0 || written < 0 ? -1 : der->len + written;
}

static void der_value(struct der *der, unsigned char tag, const void *data, size_t len)
{
    if (der->len < 0)
        return;
    int body = mbedtls_asn1_write_raw_buffer(&der->p, der->bytes, data, len);
    int head = body < 0 ? -1 : mbedtls_asn1_write_len(&der->p, der->bytes, len);
    int mark = head < 0 ? -1 : mbedtls_asn1_write_tag(&der->p, der->bytes, tag);
    der_add(der, mark < 0 ? -1 : body + head + mark);
}

// Wraps what was written since `inner` bytes ago.
static void der_wrap(struct der *der, unsigned char tag, int since)
{
    if (der->len < 0)
        return;
    int head = mbedtls_asn1_write_len(&der->p, der->bytes, (size_t)(der->len - since));
    int mark = head < 0 ? -1 : mbedtls_asn1_write_tag(&der->p, der->bytes, tag);
    der_add(der, mark < 0 ? -1 : head + mark);
}

enum {
    TAG_DNS = MBEDTLS_ASN1_CONTEXT_SPECIFIC | 2,
    TAG_IP = MBEDTLS_ASN1_CONTEXT_SPECIFIC | 7,
    TAG_SEQUENCE = MBEDTLS_ASN1_CONSTRUCTED | MBEDTLS_ASN1_SEQUENCE,
    TAG_PERMITTED = MBEDTLS_ASN1_CONTEXT_SPECIFIC | MBEDTLS_ASN1_CONSTRUCTED | 0
};

// SubjectAltName ::= SEQUENCE OF GeneralName
static void write_alt_names(struct der *der, const struct hd_names *names)
{
    der_begin(der);
    for (size_t i = names->n_ip; i-- > 0;)
        der_value(der, TAG_IP, names->ip[i].b, names->ip[i].len);
    for (size_t i = names->n_dns; i-- > 0;)
        der_value(der, TAG_DNS, names->dns[i], strlen(names->dns[i]));
    der_wrap(der, TAG_SEQUENCE, 0);
}

static void write_subtree(struct der *der, unsigned char tag, const void *base, size_t len)
{
    int before = der->len;
    der_value(der, tag, base, len);
    der_wrap(der, TAG_SEQUENCE, before);
}

// NameConstraints ::= SEQUENCE { permittedSubtrees [0] SEQUENCE OF SEQUENCE { base GeneralName } }
static void write_constraints(struct der *der, const struct hd_names *names)
{
    static const uint8_t four[][8] = {{127, 0, 0, 0, 255, 0, 0, 0},
                                      {10, 0, 0, 0, 255, 0, 0, 0},
                                      {172, 16, 0, 0, 255, 240, 0, 0},
                                      {192, 168, 0, 0, 255, 255, 0, 0},
                                      {169, 254, 0, 0, 255, 255, 0, 0}};
    uint8_t six[3][32];
    memset(six, 0, sizeof six);
    six[0][15] = 1; // ::1/128
    memset(six[0] + 16, 0xff, 16);
    six[1][0] = 0xfc; // fc00::/7
    six[1][16] = 0xfe;
    six[2][0] = 0xfe; // fe80::/10
    six[2][1] = 0x80;
    six[2][16] = 0xff;
    six[2][17] = 0xc0;
    der_begin(der);
    for (size_t i = sizeof six / sizeof six[0]; i-- > 0;)
        write_subtree(der, TAG_IP, six[i], 32);
    for (size_t i = sizeof four / sizeof four[0]; i-- > 0;)
        write_subtree(der, TAG_IP, four[i], 8);
    for (size_t i = names->n_dns; i-- > 0;) { // what ends in .local needs no constraint of its own
        size_t len = strlen(names->dns[i]);
        if (len < 6 || strcmp(names->dns[i] + len - 6, ".local") != 0)
            write_subtree(der, TAG_DNS, names->dns[i], len);
    }
    write_subtree(der, TAG_DNS, "local", 5);
    der_wrap(der, TAG_PERMITTED, 0);
    der_wrap(der, TAG_SEQUENCE, 0);
}

static bool contains(const mbedtls_x509_crt *crt, const struct der *der)
{
    return der->len > 0 && crt->raw.len > 0 &&
           memmem(crt->raw.p, crt->raw.len, der->p, (size_t)der->len) != NULL;
}

// ---- times

static int64_t time_ms(const mbedtls_x509_time *t)
{
    struct tm tm = {.tm_year = t->year - 1900,
                    .tm_mon = t->mon - 1,
                    .tm_mday = t->day,
                    .tm_hour = t->hour,
                    .tm_min = t->min,
                    .tm_sec = t->sec};
    return (int64_t)timegm(&tm) * 1000;
}

static void time_text(char out[16], int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    strftime(out, 16, "%Y%m%d%H%M%S", &tm);
}

static int64_t clock_ms(void)
{
    int64_t now = hd_now_ms();
    return now < earliest_ms ? earliest_ms : now;
}

// ---- files

static void pair_init(struct pair *pair)
{
    mbedtls_pk_init(&pair->key);
    mbedtls_x509_crt_init(&pair->crt);
}

static void pair_free(struct pair *pair)
{
    mbedtls_pk_free(&pair->key);
    mbedtls_x509_crt_free(&pair->crt);
}

static enum hearth_status load_key(mbedtls_pk_context *key, const char *path, struct hearth_error *err)
{
    uint8_t *data;
    size_t len;
    enum hearth_status status = hd_io_read_file(path, FILE_BYTES, &data, &len, err);
    if (status != HEARTH_OK)
        return status;
    uint8_t *text = malloc(len + 1); // the PEM reader wants a NUL
    int code = MBEDTLS_ERR_PK_ALLOC_FAILED;
    if (text) {
        memcpy(text, data, len);
        text[len] = 0;
        code = mbedtls_pk_parse_key(key, text, len + 1, NULL, 0, rng, NULL);
    }
    hd_wipe_free(text, len + 1);
    hd_wipe_free(data, len);
    return code ? hd_fail(err, HEARTH_FORMAT, "%s: not a private key (TLS library error -0x%04x)", path,
                          (unsigned)-code)
                : HEARTH_OK;
}

static enum hearth_status load_crt(mbedtls_x509_crt *crt, const char *path, struct hearth_error *err)
{
    uint8_t *data;
    size_t len;
    enum hearth_status status = hd_io_read_file(path, FILE_BYTES, &data, &len, err);
    if (status != HEARTH_OK)
        return status;
    uint8_t *text = malloc(len + 1);
    int code = MBEDTLS_ERR_X509_ALLOC_FAILED;
    if (text) {
        memcpy(text, data, len);
        text[len] = 0;
        code = mbedtls_x509_crt_parse(crt, text, len + 1);
    }
    free(text);
    free(data);
    return code ? hd_fail(err, HEARTH_FORMAT, "%s: not a certificate (TLS library error -0x%04x)", path,
                          (unsigned)(code < 0 ? -code : code))
                : HEARTH_OK;
}

static enum hearth_status make_key(mbedtls_pk_context *key, const char *path, struct hearth_error *err)
{
    unsigned char pem[KEY_BYTES];
    int code = mbedtls_pk_setup(key, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY));
    if (code == 0)
        code = mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*key), rng, NULL);
    if (code == 0)
        code = mbedtls_pk_write_key_pem(key, pem, sizeof pem);
    enum hearth_status status =
        code ? tls_fail(err, path, code) : hd_io_replace(path, pem, strlen((char *)pem), err);
    hd_wipe(pem, sizeof pem);
    return status;
}

static enum hearth_status load_or_make_key(mbedtls_pk_context *key, const char *path,
                                           struct hearth_error *err)
{
    enum hearth_status status = load_key(key, path, err);
    return status == HEARTH_NOT_FOUND ? make_key(key, path, err) : status;
}

// ---- issuing

struct issue {
    const char *subject, *issuer;
    mbedtls_pk_context *key, *issuer_key;
    const struct der *names; // alternative names of a leaf, constraints of a CA
    bool is_ca;
    int64_t from_ms, to_ms;
};

static int set_leaf_extensions(mbedtls_x509write_cert *w, const struct der *alt_names)
{
    static const char server_auth[] = MBEDTLS_OID_SERVER_AUTH;
    struct der eku;
    der_begin(&eku);
    der_value(&eku, MBEDTLS_ASN1_OID, server_auth, sizeof server_auth - 1);
    der_wrap(&eku, TAG_SEQUENCE, 0);
    int code = mbedtls_x509write_crt_set_basic_constraints(w, 0, -1);
    if (code == 0)
        code = mbedtls_x509write_crt_set_key_usage(w, MBEDTLS_X509_KU_DIGITAL_SIGNATURE);
    if (code == 0)
        code = mbedtls_x509write_crt_set_extension(w, MBEDTLS_OID_EXTENDED_KEY_USAGE,
                                                   MBEDTLS_OID_SIZE(MBEDTLS_OID_EXTENDED_KEY_USAGE), 0, eku.p,
                                                   (size_t)eku.len);
    if (code == 0)
        code = mbedtls_x509write_crt_set_extension(w, MBEDTLS_OID_SUBJECT_ALT_NAME,
                                                   MBEDTLS_OID_SIZE(MBEDTLS_OID_SUBJECT_ALT_NAME), 0,
                                                   alt_names->p, (size_t)alt_names->len);
    return code;
}

static int set_ca_extensions(mbedtls_x509write_cert *w, const struct der *constraints)
{
    int code = mbedtls_x509write_crt_set_basic_constraints(w, 1, 0);
    if (code == 0)
        code =
            mbedtls_x509write_crt_set_key_usage(w, MBEDTLS_X509_KU_KEY_CERT_SIGN | MBEDTLS_X509_KU_CRL_SIGN);
    // Not marked critical: mbedTLS, our own clients' library, refuses critical extensions that it does not
    // know, while browsers and OpenSSL enforce these constraints either way.
    if (code == 0)
        code = mbedtls_x509write_crt_set_extension(w, MBEDTLS_OID_NAME_CONSTRAINTS,
                                                   MBEDTLS_OID_SIZE(MBEDTLS_OID_NAME_CONSTRAINTS), 0,
                                                   constraints->p, (size_t)constraints->len);
    return code;
}

static int fill_cert(mbedtls_x509write_cert *w, const struct issue *issue)
{
    char from[16], to[16];
    unsigned char serial[16];
    time_text(from, issue->from_ms);
    time_text(to, issue->to_ms);
    int code = rng(NULL, serial, sizeof serial);
    serial[0] = (serial[0] & 0x7f) | 0x40; // positive, and always 16 bytes
    mbedtls_x509write_crt_set_version(w, MBEDTLS_X509_CRT_VERSION_3);
    mbedtls_x509write_crt_set_md_alg(w, MBEDTLS_MD_SHA256);
    mbedtls_x509write_crt_set_subject_key(w, issue->key);
    mbedtls_x509write_crt_set_issuer_key(w, issue->issuer_key);
    if (code == 0)
        code = mbedtls_x509write_crt_set_serial_raw(w, serial, sizeof serial);
    if (code == 0)
        code = mbedtls_x509write_crt_set_validity(w, from, to);
    if (code == 0)
        code = mbedtls_x509write_crt_set_subject_name(w, issue->subject);
    if (code == 0)
        code = mbedtls_x509write_crt_set_issuer_name(w, issue->issuer);
    if (code == 0)
        code = issue->is_ca ? set_ca_extensions(w, issue->names) : set_leaf_extensions(w, issue->names);
    if (code == 0)
        code = mbedtls_x509write_crt_set_subject_key_identifier(w);
    return code ? code : mbedtls_x509write_crt_set_authority_key_identifier(w);
}

// Writes the certificate to `path` and parses it back into *crt.
static enum hearth_status issue_cert(mbedtls_x509_crt *crt, const struct issue *issue, const char *path,
                                     struct hearth_error *err)
{
    unsigned char *pem = malloc(CERT_BYTES);
    mbedtls_x509write_cert w;
    mbedtls_x509write_crt_init(&w);
    int code = pem && issue->names->len > 0 ? fill_cert(&w, issue) : MBEDTLS_ERR_X509_ALLOC_FAILED;
    if (code == 0)
        code = mbedtls_x509write_crt_pem(&w, pem, CERT_BYTES, rng, NULL);
    mbedtls_x509write_crt_free(&w);
    enum hearth_status status =
        code ? tls_fail(err, path, code) : hd_io_replace(path, pem, strlen((char *)pem), err);
    if (status == HEARTH_OK) {
        mbedtls_x509_crt_free(crt);
        mbedtls_x509_crt_init(crt);
        code = mbedtls_x509_crt_parse(crt, pem, strlen((char *)pem) + 1);
        status = code ? tls_fail(err, path, code) : HEARTH_OK;
    }
    free(pem);
    return status;
}

static bool same_key(const mbedtls_pk_context *a, const mbedtls_pk_context *b)
{
    return mbedtls_pk_check_pair(a, b, rng, NULL) == 0;
}

static enum hearth_status prepare_ca(struct pair *ca, const char *dir, const struct hd_names *names,
                                     bool *is_new, struct hearth_error *err)
{
    char key_path[HD_PATH_BYTES + 32], crt_path[HD_PATH_BYTES + 32], subject[128], id[9];
    uint8_t random[4];
    struct der constraints;
    snprintf(key_path, sizeof key_path, "%s/ca.key", dir);
    snprintf(crt_path, sizeof crt_path, "%s/ca.crt", dir);
    enum hearth_status status = load_or_make_key(&ca->key, key_path, err);
    if (status != HEARTH_OK)
        return status;
    write_constraints(&constraints, names);
    status = load_crt(&ca->crt, crt_path, err);
    if (status != HEARTH_OK && status != HEARTH_NOT_FOUND && status != HEARTH_FORMAT)
        return status;
    int64_t now = clock_ms();
    if (status == HEARTH_OK && same_key(&ca->crt.pk, &ca->key) && contains(&ca->crt, &constraints) &&
        time_ms(&ca->crt.valid_to) - now > (LEAF_DAYS + RENEW_DAYS) * day_ms)
        return HEARTH_OK;
    status = hd_random(random, sizeof random, err);
    if (status != HEARTH_OK)
        return status;
    hd_hex(id, random, sizeof random);
    snprintf(subject, sizeof subject, "O=Hearth,CN=Hearth box %.*s %s", (int)strcspn(names->dns[0], "."),
             names->dns[0], id);
    struct issue issue = {subject,      subject, &ca->key,     &ca->key,
                          &constraints, true,    now - day_ms, now + CA_DAYS * day_ms};
    *is_new = true;
    return issue_cert(&ca->crt, &issue, crt_path, err);
}

static enum hearth_status prepare_leaf(struct pair *leaf, struct pair *ca, const char *dir,
                                       const struct hd_names *names, bool *is_new, struct hearth_error *err)
{
    char key_path[HD_PATH_BYTES + 32], crt_path[HD_PATH_BYTES + 32], subject[HD_HOST_BYTES + 32], issuer[512];
    struct der alt_names;
    uint32_t flags = 0;
    snprintf(key_path, sizeof key_path, "%s/leaf.key", dir);
    snprintf(crt_path, sizeof crt_path, "%s/leaf.crt", dir);
    enum hearth_status status = load_or_make_key(&leaf->key, key_path, err);
    if (status != HEARTH_OK)
        return status;
    write_alt_names(&alt_names, names);
    status = load_crt(&leaf->crt, crt_path, err);
    if (status != HEARTH_OK && status != HEARTH_NOT_FOUND && status != HEARTH_FORMAT)
        return status;
    int64_t now = clock_ms();
    if (status == HEARTH_OK && same_key(&leaf->crt.pk, &leaf->key) && contains(&leaf->crt, &alt_names) &&
        time_ms(&leaf->crt.valid_from) <= now && time_ms(&leaf->crt.valid_to) - now > RENEW_DAYS * day_ms &&
        mbedtls_x509_crt_verify(&leaf->crt, &ca->crt, NULL, NULL, &flags, NULL, NULL) == 0)
        return HEARTH_OK;
    snprintf(subject, sizeof subject, "CN=%.60s",
             names->dns[0]); // nobody reads it; X.509 allows 64 characters
    if (mbedtls_x509_dn_gets(issuer, sizeof issuer, &ca->crt.subject) < 0)
        return hd_fail(err, HEARTH_FORMAT, "%s: its subject is too long", dir);
    struct issue issue = {subject,    issuer, &leaf->key,   &ca->key,
                          &alt_names, false,  now - day_ms, now + (LEAF_DAYS - 1) * day_ms};
    *is_new = true;
    return issue_cert(&leaf->crt, &issue, crt_path, err);
}

// ---- the result

static char *chain_pem(const mbedtls_x509_crt *leaf, const mbedtls_x509_crt *ca)
{
    static const char begin[] = "-----BEGIN CERTIFICATE-----\n", end[] = "-----END CERTIFICATE-----\n";
    enum { ROOM = FILE_BYTES + CERT_BYTES };
    unsigned char *out = calloc(1, ROOM);
    size_t used = 0, n = 0;
    const mbedtls_x509_crt *lists[] = {leaf, ca};
    for (int i = 0; out && i < 2; i++) {
        for (const mbedtls_x509_crt *c = lists[i]; c && c->raw.len; c = c->next) {
            if (mbedtls_pem_write_buffer(begin, end, c->raw.p, c->raw.len, out + used, ROOM - used, &n) !=
                0) {
                free(out);
                return NULL;
            }
            used += n - 1; // its NUL is overwritten by the next
        }
    }
    return (char *)out;
}

static enum hearth_status fill_identity(struct hd_identity *identity, struct pair *leaf, struct pair *ca,
                                        struct hearth_error *err)
{
    unsigned char der[KEY_BYTES * 8];
    int n = mbedtls_pk_write_key_der(&leaf->key, der, sizeof der); // written at the end of the buffer
    if (n > 0) {
        identity->key_der = malloc((size_t)n);
        identity->key_len = (size_t)n;
        if (identity->key_der)
            memcpy(identity->key_der, der + sizeof der - n, (size_t)n);
    }
    hd_wipe(der, sizeof der);
    identity->chain_pem = chain_pem(&leaf->crt, ca ? &ca->crt : NULL);
    const mbedtls_x509_crt *pinned = ca ? &ca->crt : &leaf->crt;
    hd_sha256(identity->pin, pinned->pk_raw.p, pinned->pk_raw.len);
    if (ca) {
        identity->ca_der = malloc(ca->crt.raw.len);
        identity->ca_len = ca->crt.raw.len;
        if (identity->ca_der)
            memcpy(identity->ca_der, ca->crt.raw.p, ca->crt.raw.len);
    }
    if (!identity->key_der || !identity->chain_pem || (ca && !identity->ca_der))
        return hd_fail(err, HEARTH_NOMEM, "no memory for the certificate");
    identity->chain_len = strlen(identity->chain_pem);
    identity->renew_ms = time_ms(&leaf->crt.valid_to) - RENEW_DAYS * day_ms;
    return HEARTH_OK;
}

static enum hearth_status load_own(struct pair *leaf, const struct hd_config *config,
                                   struct hearth_error *err)
{
    enum hearth_status status = load_crt(&leaf->crt, config->tls_cert, err);
    if (status == HEARTH_OK)
        status = load_key(&leaf->key, config->tls_key, err);
    if (status == HEARTH_OK && !same_key(&leaf->crt.pk, &leaf->key))
        status = hd_fail(err, HEARTH_INVALID, "%s is not the key of %s", config->tls_key, config->tls_cert);
    return status;
}

enum hearth_status hd_identity_load(struct hd_identity **out, const struct hd_config *config,
                                    const struct hd_names *names, struct hearth_error *err)
{
    char dir[HD_PATH_BYTES + 8];
    bool own = config->tls_cert[0] != 0;
    struct pair ca, leaf;
    *out = NULL;
    struct hd_identity *identity = calloc(1, sizeof *identity);
    if (!identity)
        return hd_fail(err, HEARTH_NOMEM, "no memory for the certificate");
    pair_init(&ca);
    pair_init(&leaf);
    snprintf(dir, sizeof dir, "%s/tls", config->state_dir);
    enum hearth_status status = own ? load_own(&leaf, config, err) : hd_config_make_dir(dir, err);
    if (status == HEARTH_OK && !own)
        status = prepare_ca(&ca, dir, names, &identity->ca_is_new, err);
    if (status == HEARTH_OK && !own)
        status = prepare_leaf(&leaf, &ca, dir, names, &identity->leaf_is_new, err);
    if (status == HEARTH_OK)
        status = fill_identity(identity, &leaf, own ? NULL : &ca, err);
    pair_free(&ca);
    pair_free(&leaf);
    if (status != HEARTH_OK)
        hd_identity_free(&identity);
    *out = identity;
    return status;
}

void hd_identity_free(struct hd_identity **identity)
{
    struct hd_identity *i = *identity;
    if (!i)
        return;
    free(i->chain_pem);
    hd_wipe_free(i->key_der, i->key_len);
    free(i->ca_der);
    free(i);
    *identity = NULL;
}

char *hd_identity_mobileconfig(const struct hd_identity *identity, const char *host)
{
    static const char form[] = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                               "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" "
                               "\"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"
                               "<plist version=\"1.0\"><dict>\n"
                               "<key>PayloadContent</key><array><dict>\n"
                               "<key>PayloadCertificateFileName</key><string>hearth-ca.cer</string>\n"
                               "<key>PayloadContent</key><data>%s</data>\n"
                               "<key>PayloadDisplayName</key><string>Hearth box %s</string>\n"
                               "<key>PayloadIdentifier</key><string>hearth.ca.%.16s.certificate</string>\n"
                               "<key>PayloadType</key><string>com.apple.security.root</string>\n"
                               "<key>PayloadUUID</key><string>%.8s-%.4s-4%.3s-8%.3s-%.12s</string>\n"
                               "<key>PayloadVersion</key><integer>1</integer>\n"
                               "</dict></array>\n"
                               "<key>PayloadDescription</key><string>Trusts this Hearth box, for names "
                               "ending in .local and private addresses only.</string>\n"
                               "<key>PayloadDisplayName</key><string>Hearth box %s</string>\n"
                               "<key>PayloadIdentifier</key><string>hearth.ca.%.16s</string>\n"
                               "<key>PayloadRemovalDisallowed</key><false/>\n"
                               "<key>PayloadType</key><string>Configuration</string>\n"
                               "<key>PayloadUUID</key><string>%.8s-%.4s-4%.3s-9%.3s-%.12s</string>\n"
                               "<key>PayloadVersion</key><integer>1</integer>\n"
                               "</dict></plist>\n";
    char hex[2 * HD_HASH_BYTES + 1];
    if (!identity->ca_der)
        return NULL;
    size_t base64_len = 0, room = identity->ca_len * 2 + 64;
    unsigned char *base64 = malloc(room);
    char *out = NULL;
    hd_hex(hex, identity->pin, HD_HASH_BYTES);
    if (base64 && mbedtls_base64_encode(base64, room, &base64_len, identity->ca_der, identity->ca_len) == 0) {
        int n = asprintf(&out, form, (char *)base64, host, hex, hex, hex + 8, hex + 12, hex + 15, hex + 18,
                         host, hex, hex + 1, hex + 9, hex + 13, hex + 16, hex + 19);
        if (n < 0)
            out = NULL;
    }
    free(base64);
    return out;
}
