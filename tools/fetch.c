// SPDX-License-Identifier: Apache-2.0
// Downloading a file in spite of the network. The part file has a companion (".part.json") that tells which
// URL and ETag its bytes belong to; without it, or with another ETag, the download begins anew. Main thread.
#include "tools/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tools/ask.h"
#include "tools/cli.h"
#include "tools/https.h"
#include "tools/paths.h"

enum { MAX_REDIRECTS = 5, MAX_IDLE_TRIES = 3, MAX_TRIES = 100 };
static const uint64_t MAX_FILE_BYTES = (uint64_t)1 << 40;

struct job {
    struct fetch *fetch;
    char part[PATHS_MAX], note[PATHS_MAX];
    int fd;
    struct hash *hash;     // of the bytes in the part file
    uint64_t have, total;  // total 0 = not known yet
    char etag[256];        // the bytes at hand belong to it; "" = they cannot be resumed
    char stated[HASH_HEX]; // SHA-256 that the server states, or ""
    struct url url, first;
    unsigned redirects;
    struct progress bar;
    bool bar_on;
    bool body_wanted;
    int code; // set once a failure is final
};

static int final(struct job *job, int code)
{
    job->code = code;
    return code;
}

// The hub states the file's SHA-256 as the ETag of the linked file; only strong ETags of 64 digits count.
static void take_stated(struct job *job, const char *etag)
{
    size_t len = strlen(etag);
    char hex[HASH_HEX];
    if (len > 2 && etag[0] == '"' && etag[len - 1] == '"' && hash_parse(etag + 1, len - 2, hex))
        memcpy(job->stated, hex, sizeof hex);
    else if (hash_parse(etag, len, hex))
        memcpy(job->stated, hex, sizeof hex);
}

static void write_note(const struct job *job)
{
    json_t *note = json_pack("{s:s, s:s, s:I}", "url", job->fetch->url, "etag", job->etag, "total",
                             (json_int_t)job->total);
    char *text = note ? json_dumps(note, JSON_COMPACT) : NULL;
    if (text)
        paths_replace(job->note, text, strlen(text), 0600);
    free(text);
    json_decref(note);
}

// Forgets the bytes at hand.
static bool start_anew(struct job *job)
{
    char unused[HASH_HEX];
    hash_end(&job->hash, unused);
    job->hash = hash_create();
    job->have = 0;
    job->total = 0;
    job->etag[0] = 0;
    if (job->hash && !ftruncate(job->fd, 0) && lseek(job->fd, 0, SEEK_SET) == 0)
        return true;
    final(job, cli_fail(CLI_IOERR, "%s: cannot begin anew: %s", job->part, strerror(errno)));
    return false;
}

// Of the part file's first `size_bytes`; the next byte is written behind them.
static bool hash_part(struct job *job, uint64_t size_bytes)
{
    enum { BLOCK = 1 << 20 };
    char *block = malloc(BLOCK);
    struct progress bar;
    ssize_t n = 1;
    progress_start(&bar, "checking what is here", 0, size_bytes);
    while (block && n > 0 && job->have < size_bytes) {
        uint64_t left = size_bytes - job->have;
        n = read(job->fd, block, left < BLOCK ? (size_t)left : BLOCK);
        if (n > 0 && !hash_add(job->hash, block, (size_t)n))
            break;
        job->have += n > 0 ? (uint64_t)n : 0;
        progress_set(&bar, job->have);
    }
    progress_end(&bar);
    free(block);
    return block && job->have == size_bytes;
}

// Takes up an earlier download of the same URL, if its note is there. Of one that is whole the last byte comes again,
// unless its SHA-256 is given: only the server knows whether the file is still the same, and its SHA-256.
static bool take_up(struct job *job)
{
    char *text = paths_read(job->note, 65536);
    json_t *note = text ? json_loads(text, JSON_REJECT_DUPLICATES, NULL) : NULL;
    const char *url = json_string_value(json_object_get(note, "url"));
    const char *etag = json_string_value(json_object_get(note, "etag"));
    json_int_t total = json_integer_value(json_object_get(note, "total"));
    struct stat st;
    bool usable = url && etag && etag[0] && strlen(etag) < sizeof job->etag &&
                  !strcmp(url, job->fetch->url) && total > 0 && !fstat(job->fd, &st) && st.st_size > 0 &&
                  st.st_size <= total;
    if (usable) {
        snprintf(job->etag, sizeof job->etag, "%s", etag);
        job->total = (uint64_t)total;
        bool ask = st.st_size == total && !(job->fetch->sha256 && job->fetch->sha256[0]);
        usable = hash_part(job, (uint64_t)st.st_size - (ask ? 1 : 0)) && job->have;
    }
    json_decref(note);
    free(text);
    return usable || start_anew(job);
}

static bool enough_space(struct job *job)
{
    struct statvfs fs;
    char need[24], have[24];
    uint64_t rest = job->total - job->have;
    if (fstatvfs(job->fd, &fs) || (uint64_t)fs.f_bavail * fs.f_frsize >= rest)
        return true;
    final(job, cli_fail(CLI_IOERR, "%s: the disk is full: %s more are needed, %s are free", job->fetch->path,
                        cli_size(rest, need), cli_size((uint64_t)fs.f_bavail * fs.f_frsize, have)));
    return false;
}

static bool is_redirect(int status)
{
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// A 206 that continues exactly what is here; anything else is a server that lies.
static bool continues(const struct job *job, const struct https_reply *reply)
{
    return reply->has_range && reply->range_first == job->have && reply->range_total == job->total &&
           reply->range_last + 1 == job->total && (!reply->etag[0] || !strcmp(reply->etag, job->etag));
}

static bool begin_whole(struct job *job, const struct https_reply *reply)
{
    if (job->have && !start_anew(job))
        return false;
    job->total = reply->has_length ? reply->length : 0;
    job->etag[0] = 0;
    if (reply->etag[0] == '"') // weak ETags do not name bytes
        snprintf(job->etag, sizeof job->etag, "%s", reply->etag);
    if (job->total > MAX_FILE_BYTES) {
        final(job, cli_fail(CLI_DATAERR, "%s: the server says %llu bytes, which is no model", job->fetch->url,
                            (unsigned long long)job->total));
        return false;
    }
    write_note(job);
    return true;
}

static bool on_head(void *user, const struct https_reply *reply)
{
    struct job *job = user;
    if (reply->linked_etag[0])
        take_stated(job, reply->linked_etag);
    if (reply->status != 200 && reply->status != 206)
        return false;
    if (reply->status == 206 && !continues(job, reply)) {
        start_anew(job); // the next try asks for everything
        return false;
    }
    if (reply->status == 200 && !begin_whole(job, reply))
        return false;
    if (!job->stated[0])
        take_stated(job, reply->etag);
    if (job->total && !enough_space(job))
        return false;
    if (!job->bar_on)
        progress_start(&job->bar, strrchr(job->fetch->path, '/') + 1, job->have, job->total);
    job->bar_on = true;
    job->body_wanted = true;
    return true;
}

static bool on_body(void *user, const void *data, size_t len_bytes)
{
    struct job *job = user;
    if (job->have + len_bytes > (job->total ? job->total : MAX_FILE_BYTES)) {
        final(job, cli_fail(CLI_DATAERR, "%s: the server sends more than it said", job->fetch->url));
        return false;
    }
    for (const char *at = data; len_bytes;) {
        ssize_t n = write(job->fd, at, len_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || !hash_add(job->hash, at, (size_t)n)) {
            progress_end(&job->bar);
            final(job, cli_fail(CLI_IOERR, "%s: cannot write: %s", job->part, strerror(errno)));
            return false;
        }
        at += n;
        len_bytes -= (size_t)n;
        job->have += (uint64_t)n;
    }
    progress_set(&job->bar, job->have);
    return true;
}

static int follow(struct job *job, const struct https_reply *reply)
{
    struct url next;
    const char *why;
    if (++job->redirects > MAX_REDIRECTS)
        return final(job,
                     cli_fail(CLI_UNAVAILABLE, "%s: more than %d redirects", job->fetch->url, MAX_REDIRECTS));
    if (!url_resolve(&next, &job->url, reply->location, &why))
        return final(job, cli_fail(CLI_UNAVAILABLE, "%s: redirected to %s", job->fetch->url, why));
    job->url = next;
    return CLI_OK;
}

// What a reply without a body that we want means: CLI_OK = try again.
static int on_status(struct job *job, const struct https_reply *reply)
{
    int status = reply->status;
    if (is_redirect(status))
        return follow(job, reply);
    if (status == 416 && job->have) // our bytes do not belong to the file any more
        return start_anew(job) ? CLI_OK : job->code;
    if (status == 408 || status == 429 || status >= 500)
        return CLI_OK;
    if (status == 401 || status == 403)
        return final(job,
                     cli_fail(CLI_NOPERM, "%s: not allowed (status %d); HEARTH_HUB_TOKEN may hold a token",
                              job->fetch->url, status));
    if (status == 404 || status == 410)
        return final(job,
                     cli_fail(CLI_NOINPUT, "%s: no such file there (status %d)", job->fetch->url, status));
    if (status == 206)
        return CLI_OK;
    return final(job,
                 cli_fail(CLI_UNAVAILABLE, "%s: the server answers with status %d", job->fetch->url, status));
}

// Sleeps before another try; false after Ctrl-C.
static bool pause_s(unsigned seconds)
{
    for (unsigned i = 0; i < seconds * 10 && !ask_interrupted(); i++)
        usleep(100000);
    return !ask_interrupted();
}

static enum https_end one_call(struct job *job, struct https_reply *reply)
{
    struct https_call call = {
        .url = &job->url,
        .ca_file = job->fetch->ca_file,
        .if_range = job->etag[0] ? job->etag : NULL,
        .range_from = job->etag[0] ? job->have : 0,
        .bearer = url_same_origin(&job->url, &job->first) ? job->fetch->token : NULL,
        .idle_timeout_s = job->fetch->idle_timeout_s,
        .on_head = on_head,
        .on_body = on_body,
        .user = job,
    };
    job->body_wanted = false;
    return https_get(&call, reply);
}

// True when the file is whole; else false with job->code 0 (try again) or an exit code.
static bool try_once(struct job *job, struct https_reply *reply, bool *redirected)
{
    enum https_end end = one_call(job, reply);
    *redirected = false;
    if (job->code)
        return false;
    switch (end) {
    case HTTPS_INTERRUPTED: final(job, CLI_INTERRUPTED); return false;
    case HTTPS_UNTRUSTED:
        final(job, cli_fail(CLI_NOPERM, "%s: the certificate of %s is not trusted: %s", job->fetch->url,
                            job->url.host, reply->error));
        return false;
    case HTTPS_UNREACHABLE: return false;
    case HTTPS_WHOLE:
    case HTTPS_BROKEN:
    case HTTPS_STOPPED: break;
    }
    if (!job->body_wanted) {
        if (reply->status) {
            on_status(job, reply);
            *redirected = !job->code && is_redirect(reply->status);
        }
        return false;
    }
    return job->total ? job->have == job->total : end == HTTPS_WHOLE;
}

static int give_up(const struct job *job, const struct https_reply *reply)
{
    char have[24], total[24];
    if (reply->status && !job->body_wanted)
        return cli_fail(CLI_TEMPFAIL, "%s: the server answers with status %d", job->fetch->url,
                        reply->status);
    if (!job->have)
        return cli_fail(CLI_UNAVAILABLE, "%s: cannot be reached: %s", job->fetch->url, reply->error);
    return cli_fail(CLI_TEMPFAIL,
                    "%s: the connection ends again and again (%s); %s of %s are kept, pull again to go on",
                    job->fetch->url, reply->error[0] ? reply->error : "cut short", cli_size(job->have, have),
                    job->total ? cli_size(job->total, total) : "an unknown size");
}

static int transfer(struct job *job)
{
    struct https_reply *reply = malloc(sizeof *reply);
    unsigned idle = 0;
    bool redirected = false;
    if (!reply)
        return cli_fail(CLI_OSERR, "out of memory");
    bool whole = job->total && job->have == job->total;
    for (unsigned tries = 0; !whole && !job->code; tries++) {
        uint64_t before = job->have;
        if (!redirected) {
            job->url = job->first; // signed links expire: every try begins at the front door
            job->redirects = 0;
        }
        whole = try_once(job, reply, &redirected);
        if (whole || job->code || redirected)
            continue;
        idle = job->have > before ? 0 : idle + 1;
        progress_end(&job->bar);
        job->bar_on = false;
        if (idle >= MAX_IDLE_TRIES || tries >= MAX_TRIES)
            final(job, give_up(job, reply));
        else if (!pause_s(idle))
            final(job, CLI_INTERRUPTED);
    }
    free(reply);
    progress_end(&job->bar);
    return job->code;
}

static int verify(struct job *job)
{
    struct fetch *fetch = job->fetch;
    const char *wanted = fetch->sha256 && fetch->sha256[0] ? fetch->sha256 : job->stated;
    if (!hash_end(&job->hash, fetch->hex) || fsync(job->fd))
        return cli_fail(CLI_IOERR, "%s: cannot write: %s", job->part, strerror(errno));
    fetch->size_bytes = job->have;
    fetch->verified = wanted[0] != 0;
    if (wanted[0] && strcmp(wanted, fetch->hex)) {
        unlink(job->part);
        unlink(job->note);
        return cli_fail(CLI_DATAERR, "%s: the SHA-256 is %s, not %s: thrown away", fetch->url, fetch->hex,
                        wanted);
    }
    if (fetch->keep_part)
        return CLI_OK;
    if (rename(job->part, fetch->path))
        return cli_fail(CLI_CANTCREAT, "%s: %s", fetch->path, strerror(errno));
    unlink(job->note);
    return CLI_OK;
}

int fetch_file(struct fetch *fetch)
{
    struct job *job = calloc(1, sizeof *job);
    const char *why;
    if (!job)
        return cli_fail(CLI_OSERR, "out of memory");
    job->fetch = fetch;
    int code = CLI_OK, n = snprintf(job->note, sizeof job->note, "%s.part.json", fetch->path);
    if (!url_parse(&job->first, fetch->url, &why)) {
        code = cli_fail(CLI_USAGE, "%s: %s", fetch->url, why);
    } else if (n < 0 || n >= PATHS_MAX) {
        code = cli_fail(CLI_CANTCREAT, "the path is too long");
    } else {
        snprintf(job->part, sizeof job->part, "%.*s", (int)(strlen(job->note) - 5), job->note);
        job->fd = open(job->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        job->hash = hash_create();
        if (job->fd < 0 || !job->hash)
            code = cli_fail(CLI_CANTCREAT, "%s: cannot create: %s", job->part, strerror(errno));
        else if (flock(job->fd, LOCK_EX | LOCK_NB))
            code = cli_fail(CLI_TEMPFAIL, "%s: is being fetched by another hearth", job->part);
        else if (!take_up(job))
            code = job->code;
        if (!code)
            code = transfer(job);
        if (!code)
            code = verify(job);
        char unused[HASH_HEX];
        hash_end(&job->hash, unused);
        if (job->fd >= 0)
            close(job->fd);
    }
    free(job);
    return code;
}
