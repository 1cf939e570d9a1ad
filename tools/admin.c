// SPDX-License-Identifier: Apache-2.0
// Talking to hearthd's admin socket. Main thread.
#include "tools/admin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tools/cli.h"
#include "tools/json_line.h"
#include "tools/paths.h"

enum { MAX_REQUEST_BYTES = 65536, MAX_FDS = 4 };

struct admin {
    FILE *stream; // for reading; requests are written to its descriptor
    char *line;
    size_t capacity;
    const char *if_missing; // said behind an error "not_found"; NULL = nothing
};

static int connect_path(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address)) {
        int saved = errno;
        close(fd);
        errno = saved;
        fd = -1;
    }
    return fd;
}

// HEARTH_ADMIN_SOCKET, then the runtime folder, the state folder, the service's folder.
static int connect_any(void)
{
    char path[PATHS_MAX];
    const char *named = getenv("HEARTH_ADMIN_SOCKET");
    if (named && named[0])
        return connect_path(named);
    int fd = -1, denied = 0;
    if (paths_get(path, PATHS_RUNTIME, "admin.sock"))
        fd = connect_path(path);
    denied |= errno == EACCES;
    if (fd < 0 && paths_get(path, PATHS_STATE, "admin.sock"))
        fd = connect_path(path);
    denied |= fd < 0 && errno == EACCES;
    if (fd < 0)
        fd = connect_path("/run/hearth/admin.sock");
    if (fd < 0 && denied)
        errno = EACCES;
    return fd;
}

struct admin *admin_connect(void)
{
    struct admin *admin = calloc(1, sizeof *admin);
    int fd = admin ? connect_any() : -1;
    if (fd >= 0)
        admin->stream = fdopen(fd, "r");
    if (fd < 0 || !admin->stream) {
        int saved = errno;
        if (fd >= 0)
            close(fd);
        free(admin);
        errno = saved;
        return NULL;
    }
    return admin;
}

struct admin *admin_open(int *code)
{
    struct admin *admin = admin_connect();
    if (!admin && errno == EACCES)
        *code = cli_fail(CLI_NOPERM, "hearthd's admin socket belongs to another user");
    else if (!admin)
        *code = cli_fail(CLI_UNAVAILABLE, "hearthd is not running here (start it with: hearthd)");
    return admin;
}

void admin_close(struct admin **admin)
{
    if (!*admin)
        return;
    fclose((*admin)->stream);
    free((*admin)->line);
    free(*admin);
    *admin = NULL;
}

// "invalid" … of docs/admin.md
static int exit_code(const char *code)
{
    static const struct {
        const char *name;
        int code;
    } table[] = {
        {"invalid", CLI_USAGE}, {"not_found", CLI_FAILED},  {"exists", CLI_FAILED},
        {"limit", CLI_DATAERR}, {"busy", CLI_TEMPFAIL},     {"unavailable", CLI_UNAVAILABLE},
        {"storage", CLI_IOERR}, {"internal", CLI_SOFTWARE}, {"unknown_command", CLI_UNAVAILABLE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].name, code))
            return table[i].code;
    return CLI_FAILED;
}

json_t *admin_next(struct admin *admin, int *code)
{
    ssize_t n = getline(&admin->line, &admin->capacity, admin->stream);
    json_t *answer = n > 0 ? json_loadb(admin->line, (size_t)n, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (!json_whole()) {
        json_decref(answer);
        *code = cli_fail(CLI_OSERR, "out of memory for hearthd's answer");
        return NULL;
    }
    if (!json_is_object(answer)) {
        json_decref(answer);
        *code = cli_fail(CLI_TEMPFAIL,
                         n > 0 ? "hearthd's answer is no JSON object" : "hearthd closed the connection");
        return NULL;
    }
    if (!json_is_true(json_object_get(answer, "ok"))) {
        const char *kind = admin_text(answer, "code");
        *code = cli_fail(exit_code(kind), "%s%s", admin_text(answer, "error"),
                         admin->if_missing && !strcmp(kind, "not_found") ? admin->if_missing : "");
        json_decref(answer);
        return NULL;
    }
    return answer;
}

static bool send_all(int fd, const char *data, size_t len_bytes)
{
    while (len_bytes) {
        ssize_t n = send(fd, data, len_bytes, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        len_bytes -= (size_t)n;
    }
    return true;
}

// The first byte of a request, and the descriptors with it.
static bool send_fds(int fd, const char *data, const int *fds, size_t n_fds)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec part = {(void *)data, 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(n_fds * sizeof(int))};
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
    memcpy(CMSG_DATA(&control.head), fds, n_fds * sizeof(int));
    return sendmsg(fd, &message, MSG_NOSIGNAL) == 1;
}

json_t *admin_call(struct admin *admin, json_t *request, int *code)
{
    return admin_call_fds(admin, request, NULL, 0, code);
}

json_t *admin_call_fds(struct admin *admin, json_t *request, const int *fds, size_t n_fds, int *code)
{
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_decref(request);
    int fd = fileno(admin->stream);
    if (!text || !json_whole() || strlen(text) >= MAX_REQUEST_BYTES) {
        bool whole = text && json_whole();
        *code = cli_fail(whole ? CLI_USAGE : CLI_OSERR,
                         whole ? "the request is too long" : "the request is no valid UTF-8, or memory is out");
        free(text);
        return NULL;
    }
    bool with = n_fds > 0 && n_fds <= MAX_FDS;
    bool sent = (!with || send_fds(fd, text, fds, n_fds)) &&
                send_all(fd, text + with, strlen(text) - with) && send_all(fd, "\n", 1);
    free(text);
    if (!sent) {
        *code = cli_fail(CLI_TEMPFAIL, "hearthd closed the connection");
        return NULL;
    }
    return admin_next(admin, code);
}

static json_t *ask(json_t *request, const char *if_missing, int *code)
{
    struct admin *admin = admin_open(code);
    if (!admin) {
        json_decref(request);
        return NULL;
    }
    admin->if_missing = if_missing;
    json_t *answer = admin_call(admin, request, code);
    admin_close(&admin);
    return answer;
}

json_t *admin_ask(json_t *request, int *code)
{
    return ask(request, NULL, code);
}

static int show(const struct cli *cli, json_t *request, const char *if_missing, void (*print)(const json_t *answer),
                const char *done)
{
    int code = CLI_OK;
    json_t *answer = ask(request, if_missing, &code);
    if (!answer)
        return code;
    if (cli->json)
        code = admin_print_json(answer);
    else if (print)
        print(answer);
    else if (done)
        puts(done);
    json_decref(answer);
    return code ? code : cli_finish(CLI_OK);
}

int admin_show(const struct cli *cli, json_t *request, void (*print)(const json_t *answer), const char *done)
{
    return show(cli, request, NULL, print, done);
}

json_t *admin_with(json_t *request, const char *key, json_t *value)
{
    if (request && json_object_set_new(request, key, value) == 0)
        return request;
    if (!request)
        json_decref(value);
    json_decref(request);
    return NULL;
}

int admin_invite(const struct cli *cli, json_t *request, const struct cli_list *scopes,
                 void (*print)(const json_t *answer))
{
    if (scopes->n) {
        json_t *array = json_array();
        bool whole = true;
        for (size_t i = 0; i < scopes->n; i++)
            whole = json_array_append_new(array, json_string(scopes->items[i])) == 0 && whole;
        if (!whole) {
            json_decref(array);
            array = NULL;
        }
        request = admin_with(request, "scopes", array);
    }
    return show(cli, request, "; --create adds one", print, NULL);
}

const char *admin_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

json_int_t admin_number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

int admin_print_json(json_t *answer)
{
    json_object_del(answer, "ok");
    json_object_del(answer, "more");
    return json_line(json_incref(answer), 0);
}

const char *admin_time(json_int_t unix_ms, char text[32])
{
    time_t seconds = (time_t)(unix_ms / 1000);
    struct tm local;
    if (!unix_ms || !localtime_r(&seconds, &local) || !strftime(text, 32, "%Y-%m-%d %H:%M", &local))
        snprintf(text, 32, "never");
    return text;
}

void admin_print_clean(const char *text)
{
    for (; *text; text++)
        fputc(((unsigned char)*text < ' ' && *text != '\n' && *text != '\t') || *text == 127 ? '?' : *text,
              stdout);
}
