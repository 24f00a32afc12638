#!/usr/bin/env python3
"""Asks `thimble-device serve FILE --socket PATH` and gives its answers as dicts. One file without dependencies, for Python 3.9
and newer on systems with Unix sockets: copy it beside your program.

    from thimble_client import Client

    with Client("/run/deb.sock") as client:
        print(client.ask("Perl module to parse ISO 8601 dates")["label"])
        print(client.ask_ids([2, 119, 50, 13, 343, 3])["label"])
        answers = client.batch(["a text", ("a text", "its pair"), [2, 17, 3], {"ids": [2, 3], "at": [1]}])

docs/serve.md of thimble lists the fields of requests and answers; docs/clients.md describes this client.
"""

import argparse
import collections
import errno
import itertools
import json
import math
import operator
import os
import select
import socket
import sys
import threading
import time

__all__ = ["AnswerTimeout", "BadAnswer", "Client", "ConnectionFailed", "ServerBusy", "ServerError", "ThimbleError"]

# What a server says that does not take requests now. It sends these words as an error, with the request's id or without one.
STOPPING = "the server is stopping"
FULL = "this server takes no more"
# Bytes of the longest answer.
LIMIT = 32 << 20
# Bytes that one call of the system sends or receives.
CHUNK = 1 << 16
# Seconds between two attempts to connect.
PAUSE = 0.02
# Most seconds of a timeout: the system counts milliseconds in 31 bits.
LONGEST = 1_000_000


class ThimbleError(Exception):
    """Every error of this client."""


class ServerError(ThimbleError):
    """The server refused a request. The text is the server's."""


class ServerBusy(ServerError):
    """The server has too many clients or is stopping. The same request may be answered later."""


class ConnectionFailed(ThimbleError):
    """No server listens, or the connection was lost and the request may not be sent again."""


class AnswerTimeout(ThimbleError):
    """No answer came within the timeout."""


class BadAnswer(ThimbleError):
    """What came is no answer of a thimble server, or is larger than the limit."""


class _Request:
    """A request on its way: its number on the wire, its line, and how often it was sent."""

    def __init__(self, number, fields):
        self.number = number
        self.named = "id" in fields
        self.name = fields.get("id")
        # The id comes first, so that the server knows it even where it cannot read the rest.
        text = json.dumps({**{"id": number}, **fields, "id": number}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self.line = text.encode() + b"\n"
        self.sent = 0
        self.result = None


class Client:
    """A connection to one server. Threads may share it, and their calls take turns; for calls at the same time each thread needs
    a client of its own.

    timeout    seconds until the answer of a call; in a batch until its next answer
    reconnect  seconds to wait for a server that is restarted. A request whose connection broke is then sent once more, but only
               if nothing of its answer came. 0: nothing is ever sent twice
    limit      bytes of the longest answer
    window     requests of a batch that are sent before an answer is awaited
    """

    def __init__(self, path, *, timeout=30.0, reconnect=5.0, limit=LIMIT, window=32):
        if not hasattr(socket, "AF_UNIX"):
            raise ConnectionFailed("this Python has no Unix sockets")
        if not (0 < timeout <= LONGEST and 0 <= reconnect <= LONGEST):
            raise ValueError(f"timeout must be seconds above 0, reconnect seconds from 0, both at most {LONGEST}")
        if limit < 1 or window < 1:
            raise ValueError("limit and window must be at least 1")
        self.path, self.timeout, self.reconnect, self.limit, self.window = os.fspath(path), timeout, reconnect, limit, window
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._closed = False
        self._socket = None
        self._received = bytearray()
        self._connect(time.monotonic() + timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self, text, pair=None, **fields):
        """The answer to a text, or a text and its pair. `fields` are further fields of the request, such as `top=3`."""
        fields["text"] = text
        if pair is not None:
            fields["pair"] = pair
        return self.request(fields)

    def ask_ids(self, ids, types=None, **fields):
        """The answer to token ids, special tokens included."""
        fields["ids"] = [operator.index(number) for number in ids]
        if types is not None:
            fields["types"] = [operator.index(number) for number in types]
        return self.request(fields)

    def request(self, fields):
        """The answer to one request, given as a dict of the protocol's fields. An `id` in it comes back in the answer."""
        return self.batch([fields])[0]

    def ping(self):
        """The server's model, its head and its limits."""
        return self.request({"op": "ping"})

    def stats(self):
        """The server's counts, times and memory."""
        return self.request({"op": "stats"})

    def batch(self, requests, return_errors=False):
        """The answers to several requests in their order. They are sent without waiting for each other's answers. A request is a
        text, a tuple of text and pair, a list of token ids, or a dict. The first error is raised after the other answers came,
        and with `return_errors` each error stands in the place of its answer instead."""
        if isinstance(requests, (str, bytes, dict)):
            raise TypeError("batch takes a list of requests; `ask` and `request` take one")
        waiting = [_Request(next(self._numbers), _fields(request)) for request in requests]
        if not self._lock.acquire(timeout=self.timeout):
            raise AnswerTimeout(f"{self.path}: another call of this client took the whole {self.timeout:g} s")
        try:
            self._converse(waiting)
        except ThimbleError as error:
            self._drop()
            for request in waiting:
                request.result = error if request.result is None else request.result
        except BaseException:
            # Also an interrupt: what was sent may still be answered, and no later call may get that.
            self._drop()
            raise
        finally:
            self._lock.release()
        results = [request.result for request in waiting]
        for result in results:
            if isinstance(result, ThimbleError) and not return_errors:
                raise result
        return results

    def close(self):
        """Ends the connection. A call of another thread that waits for an answer fails."""
        self._closed = True
        connection = self._socket
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # The server closed it first.
        with self._lock:
            self._drop()

    def _drop(self):
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._received.clear()

    def _connect(self, deadline, patience=0.0):
        """Connects. A full queue of the listening socket is waited for until the deadline, a missing server for `patience`."""
        patient = min(deadline, time.monotonic() + patience)
        while not self._closed:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                connection.connect(self.path)
                self._socket = connection
                return
            except (OSError, ValueError) as error:
                connection.close()
                code = getattr(error, "errno", None)
                missing = code in (errno.ENOENT, errno.ECONNREFUSED)
                until = deadline if code in (errno.EAGAIN, errno.EINTR) else patient if missing else 0
                if time.monotonic() >= until:
                    hint = f"; is `thimble-device serve FILE --socket {self.path}` running?" if missing else ""
                    raise ConnectionFailed(f"{self.path}: {getattr(error, 'strerror', None) or error}{hint}") from error
            except BaseException:
                connection.close()
                raise
            time.sleep(PAUSE)
        raise ConnectionFailed(f"{self.path}: this client is closed")

    def _converse(self, requests):
        """Sends the requests, at most `window` unanswered ones, and gives each its result."""
        waiting = collections.deque(requests)
        # By number, in the order of sending; a dict keeps it.
        open_ = {}
        # Errors without an id, in the order of their requests.
        unnamed = []
        unsent = bytearray()
        sends = True
        deadline = time.monotonic() + self.timeout
        if self._socket is not None and self._ended():
            self._drop()
        if self._socket is None:
            self._connect(deadline, self.reconnect)
        while waiting or open_:
            # `close` may have come before there was a connection for it to end.
            if self._closed:
                raise ConnectionFailed(f"{self.path}: this client is closed")
            while sends and waiting and len(open_) < self.window and len(unsent) < CHUNK:
                request = waiting.popleft()
                request.sent += 1
                open_[request.number] = request
                unsent += request.line
            ready = self._wait(bool(unsent), deadline)
            if ready & select.POLLOUT and unsent:
                sends = self._send(unsent)
                if not sends:
                    # Nothing more is taken, but answers to what was taken, or the reason, may still come.
                    unsent.clear()
            if not ready & ~select.POLLOUT:
                continue
            lines = self._receive()
            for line in lines or ():
                if self._take(line, open_, unnamed):
                    deadline = time.monotonic() + self.timeout
            if lines is None:
                for request in self._lost(open_, unnamed):
                    waiting.appendleft(request)
                open_.clear()
                unsent.clear()
                sends = True
                self._connect(deadline, self.reconnect)

    def _ended(self):
        """Whether the server ended the connection while it was idle."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _wait(self, writing, deadline):
        """What of the socket is ready."""
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if writing else 0))
        ready = poll.poll(math.ceil(left * 1000)) if left > 0 else []
        if not ready:
            raise AnswerTimeout(f"{self.path}: no answer within {self.timeout:g} s")
        return ready[0][1]

    def _send(self, unsent):
        """Sends a part of the bytes and removes it from them; false where the server takes nothing more."""
        try:
            sent = self._socket.send(unsent[:CHUNK], getattr(socket, "MSG_NOSIGNAL", 0))
        except BlockingIOError:
            return True
        except OSError:
            return False
        del unsent[:sent]
        return True

    def _receive(self):
        """Whole lines that came; None at the end of the connection."""
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        received, lines, begin = self._received, [], 0
        start = len(received)
        received += data
        while (end := received.find(b"\n", start)) >= 0:
            lines.append(bytes(received[begin:end]))
            start = begin = end + 1
        del received[:begin]
        if max(map(len, [*lines, received])) > self.limit:
            raise BadAnswer(f"{self.path}: an answer has more than {self.limit} bytes; `limit` allows more")
        return lines

    def _take(self, line, open_, unnamed):
        """Gives an answer to its request; whether a request was answered."""
        try:
            answer = json.loads(line.decode(), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise BadAnswer(f"{self.path}: no JSON came: {_excerpt(line)}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("error", ""), str):
            raise BadAnswer(f"{self.path}: no answer of thimble-device came: {_excerpt(line)}")
        number, error = answer.get("id"), None
        if "error" in answer:
            words = answer["error"]
            error = ServerBusy(words) if words == STOPPING or FULL in words else ServerError(words)
        if number is None and isinstance(error, ServerBusy):
            raise error
        if number is None and error:
            # The server could not read the id. It says so in the order of the requests, so once no other answer is due, these
            # are the errors of the requests that are left.
            unnamed.append(error)
            return _settled(open_, unnamed)
        # True and 1.0 are equal to 1, but no numbers that were sent.
        request = open_.pop(number, None) if type(number) is int else None
        if request is None:
            raise BadAnswer(f"{self.path}: an answer came to no request of this client: {_excerpt(line)}")
        del answer["id"]
        request.result = error or ({"id": request.name, **answer} if request.named else answer)
        _settled(open_, unnamed)
        return True

    def _lost(self, open_, unnamed):
        """The requests to send again after the connection ended, the last one first."""
        begun = bool(self._received or unnamed)
        self._drop()
        if self._closed:
            raise ConnectionFailed(f"{self.path}: this client is closed")
        if unnamed:
            raise ConnectionFailed(f"{self.path}: the connection ended after the server said: {unnamed[0]}")
        if begun:
            raise ConnectionFailed(f"{self.path}: the connection ended within an answer")
        if not self.reconnect:
            raise ConnectionFailed(f"{self.path}: the connection ended before the answer")
        if any(request.sent > 1 for request in open_.values()):
            raise ConnectionFailed(f"{self.path}: the connection ended before the answer, twice")
        return reversed(open_.values())


def _settled(open_, unnamed):
    """Gives the errors without an id to the requests that are left, where there are as many; whether it did."""
    if len(unnamed) != len(open_):
        return False
    for request, error in zip(open_.values(), unnamed):
        request.result = error
    open_.clear()
    unnamed.clear()
    return True


def _fields(request):
    """A request of `batch` as the protocol's fields."""
    if isinstance(request, dict):
        return request
    if isinstance(request, str):
        return {"text": request}
    if isinstance(request, tuple) and len(request) == 2 and all(isinstance(part, str) for part in request):
        return {"text": request[0], "pair": request[1]}
    try:
        if isinstance(request, (bytes, bytearray)):
            raise TypeError
        return {"ids": [operator.index(number) for number in request]}
    except TypeError:
        raise TypeError(f"a request is a text, a tuple of two texts, token ids or a dict, not {request!r:.80}") from None


def _refuse(word):
    raise ValueError(f"{word} is no JSON")


def _excerpt(line):
    return repr(line[:80])[1:] + ("…" if len(line) > 80 else "")


def main(arguments=None):
    """Asks once, or each line of stdin, and prints answers as JSON lines."""
    parser = argparse.ArgumentParser(
        description="Ask thimble-device serve.",
        epilog="Without --text, --ids, --request or --ping, requests are read from stdin, one JSON object a line, and answered in "
        "their order. Exit codes: 0 answered, 1 the server refused a request, 2 usage, 3 no answer (no server, busy, timeout).",
    )
    parser.add_argument("socket", help="read the server's socket from this path")
    parser.add_argument("--text", help="ask this text")
    parser.add_argument("--pair", help="ask --text with this second text")
    parser.add_argument("--ids", metavar="2,17,3", help="ask these token ids")
    parser.add_argument("--request", metavar="JSON", help="ask this request, an object of the protocol's fields")
    parser.add_argument("--ping", action="store_true", help="ask for the model and its limits")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="wait this long for an answer (default 30)")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="BYTES", help="refuse a longer answer (default 32 MiB)")
    options = parser.parse_args(arguments)
    chosen = [options.text is not None, options.ids is not None, options.request is not None, options.ping]
    if sum(chosen) > 1:
        parser.error("give one of --text, --ids, --request and --ping")
    if options.pair is not None and options.text is None:
        parser.error("--pair needs --text")
    if not 0 < options.timeout <= LONGEST:
        parser.error(f"--timeout must be above 0 and at most {LONGEST}")

    if options.limit < 1:
        parser.error("--limit must be at least 1")

    def parsed(text, where):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            parser.error(f"{where} is no JSON: {error}")
        if not isinstance(fields, dict):
            parser.error(f"{where} is no JSON object")
        return fields

    if options.text is not None:
        fields = {"text": options.text} if options.pair is None else {"text": options.text, "pair": options.pair}
    elif options.ids is not None:
        try:
            fields = {"ids": [int(number) for number in options.ids.split(",")]}
        except ValueError:
            parser.error(f"--ids {options.ids}: token ids are whole numbers between commas")
    elif options.request is not None:
        fields = parsed(options.request, "--request")
    else:
        fields = {"op": "ping"} if options.ping else None

    refused = False
    # What UTF-8 cannot say becomes an escape that JSON reads.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        with Client(options.socket, timeout=options.timeout, limit=options.limit) as client:
            if fields is not None:
                print(json.dumps(client.request(fields), ensure_ascii=False), flush=True)
                return 0
            numbered = ((number, line) for number, line in enumerate(sys.stdin.buffer, 1) if line.strip())
            while group := list(itertools.islice(numbered, 256)):
                requests = [parsed(line, f"line {number} of stdin") for number, line in group]
                for request, answer in zip(requests, client.batch(requests, return_errors=True)):
                    if isinstance(answer, ServerError) and not isinstance(answer, ServerBusy):
                        refused, answer = True, {**{key: request[key] for key in ("id",) if key in request}, "error": str(answer)}
                    elif isinstance(answer, ThimbleError):
                        raise answer
                    print(json.dumps(answer, ensure_ascii=False))
                sys.stdout.flush()
    except ThimbleError as error:
        print(f"thimble_client: {error}", file=sys.stderr)
        return 1 if isinstance(error, ServerError) and not isinstance(error, ServerBusy) else 3
    except OSError as error:
        # stdout is flushed once more at the end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 0  # Whoever read the answers has left.
        print(f"thimble_client: stdin or stdout: {error.strerror or error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    except UnicodeEncodeError as error:
        print(f"thimble_client: a text is not valid Unicode: {error.reason}", file=sys.stderr)
        return 2
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
