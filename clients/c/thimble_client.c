/* The client of thimble_client.h: a socket with deadlines, and a scan of JSON lines that needs no memory of its own. */
#include "thimble_client.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* Milliseconds between two attempts to connect. */
#define PAUSE 20
/* Objects and lists inside each other that are read. */
#define DEPTH 64

/* A closed connection is an error of send, not a signal. */
#ifdef MSG_NOSIGNAL
#define SEND_FLAGS MSG_NOSIGNAL
#else
#define SEND_FLAGS 0
#endif

/* What a server says that does not take requests now. It sends these words as an error, with the request's id or without one. */
static const char STOPPING[] = "the server is stopping";
static const char FULL[] = "this server takes no more";

static thimble_status fail(thimble_client *client, thimble_status status, const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    vsnprintf(client->error, sizeof client->error, format, rest);
    va_end(rest);
    return status;
}

/* ---- JSON ---- */

/* Text being read. Behind a function that returns false, `at` is where reading failed. */
typedef struct {
    const unsigned char *at, *end;
} scan;

/* What a scan of an object finds at its first level. */
typedef struct {
    /* The values of `id` and `error`, with their quotes, or NULL. */
    const unsigned char *id, *id_end, *error, *error_end;
    int empty;
} fields;

static void skip_space(scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\r')) s->at++;
}

static int take(scan *s, char c)
{
    if (s->at == s->end || *s->at != (unsigned char)c) return 0;
    s->at++;
    return 1;
}

static int is_digit(const scan *s)
{
    return s->at < s->end && *s->at >= '0' && *s->at <= '9';
}

static int digits(scan *s)
{
    if (!is_digit(s)) return 0;
    while (is_digit(s)) s->at++;
    return 1;
}

static int number(scan *s)
{
    take(s, '-');
    if (!take(s, '0') && !digits(s)) return 0;
    if (take(s, '.') && !digits(s)) return 0;
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '+')) take(s, '-');
        return digits(s);
    }
    return 1;
}

static int word(scan *s, const char *text)
{
    size_t length = strlen(text);
    if ((size_t)(s->end - s->at) < length || memcmp(s->at, text, length) != 0) return 0;
    s->at += length;
    return 1;
}

/* Four hexadecimal digits; -1 where there are none. */
static long hex(scan *s)
{
    long value = 0;
    int i;
    for (i = 0; i < 4; i++, s->at++) {
        unsigned char c = s->at < s->end ? *s->at : 0;
        if (c >= '0' && c <= '9') value = value * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') value = value * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') value = value * 16 + (c - 'A' + 10);
        else return -1;
    }
    return value;
}

/* Bytes of the UTF-8 sequence at `at`; 0 where it is none (overlong, a surrogate, cut, above U+10FFFF). */
static size_t utf8(const unsigned char *at, const unsigned char *end)
{
    static const unsigned char least[] = {0, 0, 0x80, 0xa0, 0x90};
    size_t length, i;
    unsigned char c = *at;
    if (c < 0x80) return 1;
    length = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (length == 0 || (size_t)(end - at) < length) return 0;
    for (i = 1; i < length; i++)
        if (at[i] < 0x80 || at[i] > 0xbf) return 0;
    if ((c == 0xe0 || c == 0xf0) && at[1] < least[length]) return 0;
    if ((c == 0xed && at[1] > 0x9f) || (c == 0xf4 && at[1] > 0x8f)) return 0;
    return length;
}

/* Text being written: as much as fits, whole characters. */
typedef struct {
    char *to;
    size_t size, length;
    int full;
} text;

/* Appends bytes where there is room for all of them and a zero byte behind them. */
static void put(text *out, const void *bytes, size_t n)
{
    if (out->full || out->size - out->length <= n) {
        out->full = 1;
        return;
    }
    memcpy(out->to + out->length, bytes, n);
    out->length += n;
    out->to[out->length] = '\0';
}

static void put_text(text *out, const char *words)
{
    put(out, words, strlen(words));
}

/* Appends a code point as UTF-8. */
static void put_code_point(text *out, unsigned long c)
{
    unsigned char bytes[4];
    size_t n;
    if (c < 0x80) {
        bytes[0] = (unsigned char)c;
        n = 1;
    } else if (c < 0x800) {
        bytes[0] = (unsigned char)(0xc0 | c >> 6);
        bytes[1] = (unsigned char)(0x80 | (c & 0x3f));
        n = 2;
    } else if (c < 0x10000) {
        bytes[0] = (unsigned char)(0xe0 | c >> 12);
        bytes[1] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
        bytes[2] = (unsigned char)(0x80 | (c & 0x3f));
        n = 3;
    } else {
        bytes[0] = (unsigned char)(0xf0 | c >> 18);
        bytes[1] = (unsigned char)(0x80 | (c >> 12 & 0x3f));
        bytes[2] = (unsigned char)(0x80 | (c >> 6 & 0x3f));
        bytes[3] = (unsigned char)(0x80 | (c & 0x3f));
        n = 4;
    }
    put(out, bytes, n);
}

/* A string with its quotes. What it means goes to `out`, unless that is NULL; control characters become spaces there. */
static int string(scan *s, text *out)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/     ";
    if (!take(s, '"')) return 0;
    while (s->at < s->end && *s->at != '"') {
        size_t n = utf8(s->at, s->end);
        long c = *s->at;
        if (n == 0 || c < 0x20) return 0;
        if (c != '\\') {
            if (out != NULL) put(out, s->at, n);
            s->at += n;
            continue;
        }
        s->at++;
        if (s->at == s->end) return 0;
        c = *s->at++;
        if (c == 'u') {
            c = hex(s);
            if (c >= 0xd800 && c <= 0xdbff) {
                long low = take(s, '\\') && take(s, 'u') ? hex(s) : -1;
                if (low < 0xdc00 || low > 0xdfff) return 0;
                c = 0x10000 + (c - 0xd800) * 0x400 + (low - 0xdc00);
            } else if (c < 0 || (c >= 0xdc00 && c <= 0xdfff)) {
                return 0;
            }
        } else {
            const char *escape = c == 0 ? NULL : strchr(escapes, (int)c);
            if (escape == NULL) return 0;
            c = meant[escape - escapes];
        }
        if (out != NULL) put_code_point(out, c < 0x20 || c == 0x7f ? ' ' : (unsigned long)c);
    }
    return take(s, '"');
}

static int same(const unsigned char *begin, const unsigned char *end, const char *words)
{
    return (size_t)(end - begin) == strlen(words) && memcmp(begin, words, strlen(words)) == 0;
}

/* A value that is no object and no list. */
static int plain(scan *s)
{
    if (s->at < s->end && *s->at == '"') return string(s, NULL);
    return word(s, "true") || word(s, "false") || word(s, "null") || number(s);
}

/* One JSON object that ends where the text ends. Line feeds are refused. Depth is counted, not recursed into. */
static int object(scan *s, fields *found)
{
    enum { VALUE, MEMBER, AFTER } next = VALUE;
    const unsigned char *key = NULL, *key_end = NULL;
    char open[DEPTH];
    size_t depth = 0;
    memset(found, 0, sizeof *found);
    skip_space(s);
    if (s->at == s->end || *s->at != '{') return 0;
    for (;;) {
        skip_space(s);
        if (next == MEMBER) {
            if (open[depth - 1] == '}') {
                const unsigned char *begin = s->at;
                if (!string(s, NULL)) return 0;
                if (depth == 1) {
                    key = begin;
                    key_end = s->at;
                }
                skip_space(s);
                if (!take(s, ':')) return 0;
                skip_space(s);
            }
            next = VALUE;
        }
        if (next == VALUE) {
            const unsigned char *begin = s->at;
            size_t level = depth;
            if (take(s, '{') || take(s, '[')) {
                if (depth == DEPTH) return 0;
                open[depth++] = *begin == '{' ? '}' : ']';
                skip_space(s);
                next = s->at < s->end && *s->at == (unsigned char)open[depth - 1] ? AFTER : MEMBER;
                if (level == 0) found->empty = next == AFTER;
            } else if (plain(s)) {
                next = AFTER;
            } else {
                return 0;
            }
            if (level == 1 && same(key, key_end, "\"id\"")) {
                found->id = begin;
                found->id_end = s->at;
            } else if (level == 1 && same(key, key_end, "\"error\"")) {
                found->error = begin;
                found->error_end = s->at;
            }
        } else if (depth == 0) {
            return s->at == s->end;
        } else if (take(s, open[depth - 1])) {
            depth--;
        } else if (take(s, ',')) {
            next = MEMBER;
        } else {
            return 0;
        }
    }
}

/* ---- the connection ---- */

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static thimble_status late(thimble_client *client)
{
    return fail(client, THIMBLE_TIMEOUT, "%s: no answer within %d ms", client->path, client->timeout_ms);
}

/* Waits until the socket can do what `events` says, or is closed. */
static thimble_status await(thimble_client *client, short events, int64_t deadline)
{
    for (;;) {
        struct pollfd socket;
        int64_t left = deadline - now();
        int ready;
        socket.fd = client->fd;
        socket.events = events;
        socket.revents = 0;
        if (left <= 0) return late(client);
        ready = poll(&socket, 1, left > INT_MAX ? INT_MAX : (int)left);
        if (ready > 0) return THIMBLE_OK;
        if (ready < 0 && errno != EINTR && errno != EAGAIN)
            return fail(client, THIMBLE_NO_SERVER, "%s: poll: %s", client->path, strerror(errno));
    }
}

static void drop(thimble_client *client)
{
    if (client->fd >= 0) close(client->fd);
    client->fd = -1;
}

/* Connects. A full queue of the listening socket is waited for until the deadline, a missing server until `patient`. */
static thimble_status connect_until(thimble_client *client, int64_t deadline, int64_t patient)
{
    struct sockaddr_un address;
    size_t length = strlen(client->path);
    if (length == 0 || length >= sizeof address.sun_path)
        return fail(client, THIMBLE_NO_SERVER, "the path of a socket has 1 to %d bytes", (int)sizeof address.sun_path - 1);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, client->path, length);
    for (;;) {
        int code, missing, flags;
        int64_t until;
        client->fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (client->fd >= 0 && fcntl(client->fd, F_SETFD, FD_CLOEXEC) == 0 && (flags = fcntl(client->fd, F_GETFL)) >= 0
            && fcntl(client->fd, F_SETFL, flags | O_NONBLOCK) == 0
            && (connect(client->fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EINPROGRESS)) {
#ifdef SO_NOSIGPIPE
            int on = 1;
            setsockopt(client->fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
            return THIMBLE_OK;
        }
        code = errno;
        drop(client);
        missing = code == ENOENT || code == ECONNREFUSED;
        until = code == EAGAIN || code == EINTR ? deadline : missing && patient < deadline ? patient : missing ? deadline : 0;
        if (now() >= until)
            return fail(client, THIMBLE_NO_SERVER, "%s: %s%s", client->path, strerror(code),
                        missing ? "; is `thimble-device serve FILE --socket` running there?" : "");
        poll(NULL, 0, PAUSE);
    }
}

/* Sends bytes. False where the server takes no more, or with a status that is not OK. */
static int send_all(thimble_client *client, const char *bytes, size_t length, int64_t deadline, thimble_status *status)
{
    while (length > 0) {
        ssize_t sent = send(client->fd, bytes, length, SEND_FLAGS);
        if (sent >= 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            *status = await(client, POLLOUT, deadline);
            if (*status != THIMBLE_OK) return 0;
        } else if (errno != EINTR) {
            return 0;
        }
    }
    return 1;
}

/* Whether the server ended the connection while it was idle. */
static int has_ended(const thimble_client *client)
{
    char byte;
    ssize_t got;
    do got = recv(client->fd, &byte, 1, MSG_PEEK);
    while (got < 0 && errno == EINTR);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
}

/* Reads one line into `answer`, which is `size` bytes. `length` counts what came; the line is whole where the status is OK. */
static thimble_status receive_line(thimble_client *client, char *answer, size_t size, int64_t deadline, size_t *length, int *ended)
{
    *length = 0;
    *ended = 0;
    for (;;) {
        ssize_t got;
        char *end;
        if (*length == size)
            return fail(client, THIMBLE_TOO_LARGE, "%s: the answer has more than %zu bytes", client->path, size - 1);
        got = recv(client->fd, answer + *length, size - *length, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            thimble_status status = await(client, POLLIN, deadline);
            if (status != THIMBLE_OK) return status;
            continue;
        }
        if (got <= 0) {
            *ended = 1;
            return THIMBLE_OK;
        }
        end = memchr(answer + *length, '\n', (size_t)got);
        *length += (size_t)got;
        if (end == NULL) {
            /* A server that sends without end is no reason to wait for ever. */
            if (now() >= deadline) return late(client);
            continue;
        }
        if (end + 1 != answer + *length)
            return fail(client, THIMBLE_BAD_ANSWER, "%s: more than one answer came", client->path);
        *end = '\0';
        *length -= 1;
        return THIMBLE_OK;
    }
}

/* What a line says. */
static thimble_status judge(thimble_client *client, const char *answer, size_t length)
{
    scan s;
    fields found;
    char id[24];
    int nameless;
    s.at = (const unsigned char *)answer;
    s.end = s.at + length;
    if (!object(&s, &found) || (found.error != NULL && *found.error != '"')) {
        char part[61];
        size_t i, n = length < 60 ? length : 60;
        for (i = 0; i < n; i++) part[i] = answer[i] >= ' ' && answer[i] <= '~' ? answer[i] : '?';
        part[n] = '\0';
        return fail(client, THIMBLE_BAD_ANSWER, "%s: no answer of thimble-device came: %s%s", client->path, part, n < length ? "..." : "");
    }
    snprintf(id, sizeof id, "%" PRId64, client->number);
    nameless = found.error != NULL && found.id != NULL && same(found.id, found.id_end, "null");
    if (!nameless && (found.id == NULL || !same(found.id, found.id_end, id)))
        return fail(client, THIMBLE_BAD_ANSWER, "%s: an answer came to no request of this client", client->path);
    if (found.error != NULL) {
        text words = {client->error, sizeof client->error, 0, 0};
        client->error[0] = '\0';
        s.at = found.error;
        s.end = found.error_end;
        string(&s, &words);
        if (strcmp(client->error, STOPPING) == 0 || strstr(client->error, FULL) != NULL) {
            /* A server that is full has closed this connection. */
            if (nameless) drop(client);
            return THIMBLE_BUSY;
        }
        return THIMBLE_REFUSED;
    }
    return THIMBLE_OK;
}

thimble_status thimble_open(thimble_client *client, const char *path, int timeout_ms)
{
    size_t length = strlen(path);
    memset(client, 0, sizeof *client);
    client->fd = -1;
    client->timeout_ms = timeout_ms;
    client->reconnect_ms = 5000;
    if (length < sizeof client->path) memcpy(client->path, path, length);
    if (timeout_ms <= 0) return fail(client, THIMBLE_BAD_REQUEST, "timeout_ms is %d, must be above 0", timeout_ms);
    return connect_until(client, now() + timeout_ms, 0);
}

thimble_status thimble_ask(thimble_client *client, const char *request, char *answer, size_t size)
{
    scan s;
    fields found;
    char begin[40];
    int64_t deadline = now() + client->timeout_ms;
    int tries;
    if (size == 0) return fail(client, THIMBLE_BAD_REQUEST, "the buffer for the answer has no bytes");
    answer[0] = '\0';
    s.at = (const unsigned char *)request;
    s.end = s.at + strlen(request);
    if (!object(&s, &found))
        return fail(client, THIMBLE_BAD_REQUEST, "the request is no JSON object on one line: byte %zu",
                    (size_t)(s.at - (const unsigned char *)request) + 1);
    if (found.id != NULL) return fail(client, THIMBLE_BAD_REQUEST, "leave `id` out of the request: the client numbers requests");
    client->number++;
    snprintf(begin, sizeof begin, "{\"id\":%" PRId64 "%s", client->number, found.empty ? "" : ",");
    request = strchr(request, '{') + 1;
    if (client->fd >= 0 && has_ended(client)) drop(client);
    for (tries = 1;; tries++) {
        thimble_status status = THIMBLE_OK;
        size_t length;
        int ended;
        if (client->fd < 0) {
            status = connect_until(client, deadline, now() + client->reconnect_ms);
            if (status != THIMBLE_OK) return status;
        }
        /* Where the server takes no more, an answer or the reason may still be there to read. */
        if (send_all(client, begin, strlen(begin), deadline, &status) && send_all(client, request, strlen(request), deadline, &status))
            send_all(client, "\n", 1, deadline, &status);
        if (status == THIMBLE_OK) status = receive_line(client, answer, size, deadline, &length, &ended);
        if (status == THIMBLE_OK && !ended) status = judge(client, answer, length);
        if (status == THIMBLE_OK && ended) {
            drop(client);
            if (length == 0 && client->reconnect_ms > 0 && tries == 1) continue;
            status = fail(client, THIMBLE_NO_SERVER, "%s: the connection ended %s", client->path,
                          length > 0 ? "within an answer" : tries > 1 ? "before the answer, twice" : "before the answer");
        }
        if (status != THIMBLE_OK && status != THIMBLE_REFUSED && status != THIMBLE_BUSY) {
            /* What was sent may still be answered, and no later call may get that. */
            drop(client);
            answer[0] = '\0';
        }
        return status;
    }
}

/* ---- requests ---- */

static void put_string(text *out, const char *value)
{
    const unsigned char *at = (const unsigned char *)value, *end = at + strlen(value);
    put_text(out, "\"");
    while (at < end && !out->full) {
        size_t n = utf8(at, end);
        if (n == 0) {
            out->full = 1;
        } else if (*at < 0x20) {
            char escape[8];
            snprintf(escape, sizeof escape, "\\u%04x", *at);
            put_text(out, escape);
        } else {
            if (*at == '"' || *at == '\\') put_text(out, "\\");
            put(out, at, n);
        }
        at += n;
    }
    put_text(out, "\"");
}

size_t thimble_text_request(char *request, size_t size, const char *words, const char *pair)
{
    text out = {request, size, 0, 0};
    put_text(&out, "{\"text\":");
    put_string(&out, words);
    if (pair != NULL) {
        put_text(&out, ",\"pair\":");
        put_string(&out, pair);
    }
    put_text(&out, "}");
    return out.full ? 0 : out.length;
}

size_t thimble_ids_request(char *request, size_t size, const int64_t *ids, size_t count)
{
    text out = {request, size, 0, 0};
    size_t i;
    put_text(&out, "{\"ids\":[");
    for (i = 0; i < count; i++) {
        char number[24];
        snprintf(number, sizeof number, "%s%" PRId64, i > 0 ? "," : "", ids[i]);
        put_text(&out, number);
    }
    put_text(&out, "]}");
    return out.full ? 0 : out.length;
}

const char *thimble_error(const thimble_client *client)
{
    return client->error;
}

void thimble_close(thimble_client *client)
{
    drop(client);
}
