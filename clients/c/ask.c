/* Asks a thimble server once, or each line of stdin, and prints the answers' JSON: an example of thimble_client.h.
 *
 *     cc -std=c99 -D_POSIX_C_SOURCE=200809L ask.c thimble_client.c -o ask
 *     ./ask /run/deb.sock --text "Perl module to parse ISO 8601 dates"
 *
 * Exit codes: 0 answered, 1 the server refused a request, 2 usage, 3 no answer (no server, busy, timeout). */
#include "thimble_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static const char USAGE[] =
    "usage: ask SOCKET [--text T [--pair T] | --ids 2,17,3 | --request JSON | --ping] [--timeout SECONDS] [--limit BYTES]\n"
    "Without --text, --ids, --request or --ping, requests are read from stdin, one JSON object a line.\n";

static int usage(const char *problem, const char *what)
{
    fprintf(stderr, "ask: %s%s\n%s", problem, what, USAGE);
    return 2;
}

/* Exit code of a status. */
static int code_of(thimble_status status)
{
    return status == THIMBLE_OK ? 0 : status == THIMBLE_REFUSED ? 1 : status == THIMBLE_BAD_REQUEST ? 2 : 3;
}

/* Prints an answer at once. */
static int print(const char *answer)
{
    if (puts(answer) >= 0 && fflush(stdout) == 0) return 1;
    fprintf(stderr, "ask: stdout: %s\n", strerror(errno));
    return 0;
}

/* Asks each line of stdin; a refused one is answered with the server's error. */
static int ask_lines(thimble_client *client, char *answer, size_t size)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    int code = 0;
    while (code < 2 && (length = getline(&line, &room, stdin)) >= 0) {
        if (length > 0 && line[length - 1] == '\n') line[--length] = '\0';
        if (strspn(line, " \t\r") == (size_t)length) continue;
        if (strlen(line) != (size_t)length) {
            fprintf(stderr, "ask: a line of stdin holds a zero byte\n");
            code = 2;
            break;
        }
        switch (thimble_ask(client, line, answer, size)) {
        case THIMBLE_REFUSED:
            code = 1;
            /* fall through */
        case THIMBLE_OK:
            if (!print(answer)) code = 3;
            break;
        case THIMBLE_BAD_REQUEST:
            fprintf(stderr, "ask: %s\n", thimble_error(client));
            code = 2;
            break;
        default:
            fprintf(stderr, "ask: %s\n", thimble_error(client));
            code = 3;
        }
    }
    if (code < 2 && ferror(stdin)) {
        fprintf(stderr, "ask: stdin: %s\n", strerror(errno));
        code = 2;
    }
    free(line);
    return code;
}

/* The request for token ids that are written with commas between them, to be freed; NULL where they are none. */
static char *ids_request(const char *list)
{
    size_t count = 1, i = 0, size;
    const char *at;
    int64_t *ids;
    char *request;
    for (at = list; *at != '\0'; at++) count += *at == ',';
    size = 16 + 24 * count;
    ids = malloc(count * sizeof *ids);
    request = malloc(size);
    for (at = list; ids != NULL && request != NULL; at++) {
        char *end;
        errno = 0;
        ids[i++] = strtoll(at, &end, 10);
        if (end == at || errno != 0 || (*end != ',' && *end != '\0')) break;
        at = end;
        if (*end == '\0') {
            thimble_ids_request(request, size, ids, count);
            free(ids);
            return request;
        }
    }
    free(ids);
    free(request);
    return NULL;
}

/* The request for a text, to be freed; NULL where it is not UTF-8. */
static char *text_request(const char *text, const char *pair)
{
    /* A byte becomes at most six. */
    size_t size = 32 + 6 * (strlen(text) + (pair != NULL ? strlen(pair) : 0));
    char *request = malloc(size);
    if (request != NULL && thimble_text_request(request, size, text, pair) > 0) return request;
    free(request);
    return NULL;
}

int main(int count, char **arguments)
{
    const char *path = NULL, *text = NULL, *pair = NULL, *ids = NULL, *given = NULL;
    double seconds = 30;
    size_t limit = 16 << 20;
    int ping = 0, i, code;
    thimble_client client;
    thimble_status status;
    char *request = NULL, *answer;
    for (i = 1; i < count; i++) {
        const char *name = arguments[i], *value = arguments[i + 1];
        char *end;
        if (strcmp(name, "--ping") == 0) {
            ping = 1;
            continue;
        }
        if (strncmp(name, "--", 2) != 0) {
            if (path != NULL) return usage("more than one socket: ", name);
            path = name;
            continue;
        }
        if (value == NULL) return usage("a value is missing behind ", name);
        if (strcmp(name, "--text") == 0) text = value;
        else if (strcmp(name, "--pair") == 0) pair = value;
        else if (strcmp(name, "--ids") == 0) ids = value;
        else if (strcmp(name, "--request") == 0) given = value;
        else if (strcmp(name, "--timeout") == 0) {
            seconds = strtod(value, &end);
            if (end == value || *end != '\0' || !(seconds >= 0.001 && seconds <= 1e6))
                return usage("--timeout must be 0.001 to 1000000 seconds, not ", value);
        } else if (strcmp(name, "--limit") == 0) {
            long long bytes = strtoll(value, &end, 10);
            if (end == value || *end != '\0' || bytes < 1 || bytes > 1LL << 30)
                return usage("--limit must be 1 to 1073741824 bytes, not ", value);
            limit = (size_t)bytes;
        } else return usage("unknown option ", name);
        i++;
    }
    if (path == NULL) return usage("give the path of the server's socket", "");
    if ((text != NULL) + (ids != NULL) + (given != NULL) + ping > 1) return usage("give one of --text, --ids, --request and --ping", "");
    if (pair != NULL && text == NULL) return usage("--pair needs --text", "");
    if (text != NULL && (request = text_request(text, pair)) == NULL) return usage("the text is not UTF-8", "");
    if (ids != NULL && (request = ids_request(ids)) == NULL) return usage("token ids are whole numbers between commas, not ", ids);
    if (ping) given = "{\"op\": \"ping\"}";
    answer = malloc(limit + 1);
    if (answer == NULL) {
        fprintf(stderr, "ask: no memory for answers of %zu bytes\n", limit);
        free(request);
        return 2;
    }
    status = thimble_open(&client, path, (int)(seconds * 1000));
    if (status != THIMBLE_OK) {
        fprintf(stderr, "ask: %s\n", thimble_error(&client));
        code = code_of(status);
    } else if (request == NULL && given == NULL) {
        code = ask_lines(&client, answer, limit + 1);
    } else {
        status = thimble_ask(&client, request != NULL ? request : given, answer, limit + 1);
        code = code_of(status);
        if (status != THIMBLE_OK) fprintf(stderr, "ask: %s\n", thimble_error(&client));
        else if (!print(answer)) code = 3;
    }
    thimble_close(&client);
    free(request);
    free(answer);
    return code;
}
