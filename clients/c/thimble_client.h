/* Asks `thimble-device serve FILE --socket PATH`: one request line, one answer line. C99 and POSIX, no dependencies: copy
 * thimble_client.h and thimble_client.c into your program. Nothing is allocated; the caller gives the memory.
 *
 *     static char answer[1 << 20];
 *     thimble_client client;
 *     if (thimble_open(&client, "/run/deb.sock", 30000) == THIMBLE_OK
 *         && thimble_ask(&client, "{\"ids\": [2, 17, 3]}", answer, sizeof answer) == THIMBLE_OK)
 *         puts(answer);
 *     else
 *         fprintf(stderr, "%s\n", thimble_error(&client));
 *     thimble_close(&client);
 *
 * docs/serve.md of thimble lists the fields of requests and answers; docs/clients.md describes this client. */
#ifndef THIMBLE_CLIENT_H
#define THIMBLE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    THIMBLE_OK = 0,
    /* The server refused the request; thimble_error has its words, and the answer's line is in the buffer. */
    THIMBLE_REFUSED,
    /* The server has too many clients or is stopping; the same request may be answered later. */
    THIMBLE_BUSY,
    /* No server listens, or the connection was lost and the request may not be sent again. */
    THIMBLE_NO_SERVER,
    /* No answer came within the timeout. */
    THIMBLE_TIMEOUT,
    /* What came is no answer of a thimble server. */
    THIMBLE_BAD_ANSWER,
    /* The answer is larger than the buffer. */
    THIMBLE_TOO_LARGE,
    /* The request is no JSON object on one line, or holds an id. Nothing was sent. */
    THIMBLE_BAD_REQUEST
} thimble_status;

/* A connection to one server. One thread at a time may use it. */
typedef struct {
    /* Milliseconds until the answer of a call. */
    int timeout_ms;
    /* Milliseconds to wait for a server that is restarted (5000). A request whose connection broke is then sent once more, but
     * only if nothing of its answer came. 0: nothing is ever sent twice. */
    int reconnect_ms;
    /* The rest is the client's own. */
    int fd;
    int64_t number;
    char path[108];
    char error[512];
} thimble_client;

/* Connects; `timeout_ms` must be above 0. A client that is open must be closed before it is opened again. The client may be used
 * after a failure: the next request tries to connect again. */
thimble_status thimble_open(thimble_client *client, const char *path, int timeout_ms);

/* Sends one request, a JSON object on one line without `id`, and waits for its answer. The answer is stored in `answer` without its
 * line feed, with a zero byte at its end; it has at most `size` - 1 bytes. `request` and `answer` must not overlap. The client numbers
 * requests and checks the number, so an answer is never another request's. */
thimble_status thimble_ask(thimble_client *client, const char *request, char *answer, size_t size);

/* Writes the request for a text, or for a text and its pair (else NULL), into `request`. Returns its length, or 0 where `size` is
 * too small or a text is not UTF-8. */
size_t thimble_text_request(char *request, size_t size, const char *text, const char *pair);

/* Writes the request for token ids, special tokens included. Returns its length, or 0 where `size` is too small. */
size_t thimble_ids_request(char *request, size_t size, const int64_t *ids, size_t count);

/* What the last call that failed says, in one line. */
const char *thimble_error(const thimble_client *client);

/* Ends the connection. */
void thimble_close(thimble_client *client);

#ifdef __cplusplus
}
#endif

#endif
