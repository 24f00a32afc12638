"""The server, as programs on the board use it: ONNX Runtime judges its answers on the same file, whoever asks and whatever
is asked beside; nothing that is sent brings it down, nothing taken on is lost, and its memory stays where it was.
"""

import collections
import contextlib
import json
import os
import random
import resource
import signal
import socket
import stat
import subprocess
import threading
import time

import numpy as np
import pytest

from bench import INPUTS, PRECISIONS, ROOT, ask, cases, session
from test_errors import one_clear_line

LIMIT = 1e-4


class Server:
    """`thimble-device serve` on a socket, ended when the block is left."""

    def __init__(self, thimble, model, path, *options, wait=True):
        command = [str(thimble.device), "serve", str(model), "--socket", str(path), *map(str, options)]
        self.path = path
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if wait:
            line = self.process.stderr.readline()
            assert "serving" in line, line + self.process.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def end(self, signal_number=signal.SIGTERM):
        self.process.send_signal(signal_number)
        assert self.process.wait(timeout=30) == 0
        assert not self.path.exists(), "the socket was left behind"

    def connect(self):
        return Client(self.path)

    def stats(self):
        with self.connect() as client:
            return client.ask({"op": "stats"})

    def settled(self, condition, seconds=20):
        """Statistics once `condition` holds of them."""
        end, stats = time.monotonic() + seconds, {}
        while time.monotonic() < end:
            # A server that is still full says so and hangs up.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stats = self.stats()
                if condition(stats):
                    return stats
            time.sleep(0.02)
        raise AssertionError(stats)

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.lines.close()
        self.socket.close()

    def send(self, *requests):
        self.raw(b"".join(line(request) for request in requests))

    def raw(self, data):
        self.socket.sendall(data)

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def receive(self):
        text = self.lines.readline()
        return json.loads(text) if text else None

    def rest(self):
        return [json.loads(text) for text in self.lines]

    def ask(self, request):
        self.send(request)
        return self.receive()


def line(request):
    return json.dumps(request).encode() + b"\n"


def piped(thimble, model, data, *options, code=0):
    """Serves stdin and gives the answers of stdout."""
    command = [str(thimble.device), "serve", str(model), *map(str, options)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    assert done.returncode == code, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()]


def made(model, count, longest, seed, choices=0, typed=True):
    """Requests of random lengths over the whole vocabulary, by id."""
    random.seed(seed)
    vocabulary = {"albert-deb": 4000, "albert-tiny-groups": 131}.get(model, 97)

    def sequence(length):
        return [random.randrange(vocabulary) for _ in range(length)]

    requests = {}
    for number in range(count):
        request = {"id": number}
        if choices:
            request["choices"] = [sequence(random.randint(1, longest)) for _ in range(random.randint(1, choices))]
        else:
            request["ids"] = sequence(random.randint(1, longest))
            if typed and random.random() < 0.5:
                request["types"] = [random.randrange(2) for _ in request["ids"]]
        requests[number] = request
    return requests


def expected(judge, request):
    """What ONNX Runtime says to one request alone."""
    rows = request.get("choices") or [request["ids"]]
    seq = max(map(len, rows))
    pad = [row + [0] * (seq - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (seq - len(row)) for row in rows]
    types = [request.get("types", [0] * seq)] if "ids" in request else np.zeros((len(rows), seq))
    feeds = [np.array(value, np.int64) for value in (pad, mask, types)]
    if "choices" in request:
        feeds = [value[None] for value in feeds]
    return {name: value[0] for name, value in ask(judge, dict(zip(INPUTS, feeds, strict=True))).items()}


def assert_right(answer, wanted):
    assert "error" not in answer, answer
    assert set(answer["outputs"]) == set(wanted)
    for name, value in wanted.items():
        ours = np.array(answer["outputs"][name])
        assert ours.shape == value.shape, name
        assert np.abs(ours - value).max() <= LIMIT, name


# One model of every head; those whose outputs are a vocabulary or hidden states per token are asked for all of it.
HEADS = {
    "albert-deb": (128, 0, {}),
    "albert-seq-tiny": (32, 0, {}),
    "albert-tok-tiny": (32, 0, {}),
    "albert-qa-tiny": (32, 0, {}),
    "albert-choice-tiny": (32, 4, {}),
    "albert-mlm-tiny": (32, 0, {"full": True}),
    "albert-pretraining-tiny": (32, 0, {"full": True}),
    "albert-tiny-groups": (40, 0, {"full": True}),
}


@pytest.mark.parametrize("name", HEADS)
def test_onnx_runtime_gives_the_same_answers(thimble, models, name):
    longest, choices, extra = HEADS[name]
    path = models.export(name)
    judge = session(path)
    requests = made(name, 60, longest, 7, choices)
    answers = piped(thimble, path, b"".join(line(r | extra) for r in requests.values()))
    assert sorted(a["id"] for a in answers) == list(requests)
    for answer in answers:
        assert_right(answer, expected(judge, requests[answer["id"]]))
        assert answer["ms"] >= 0


@pytest.mark.parametrize("precision", ("fp32", "int8"))
@pytest.mark.parametrize("name", ("albert-deb", "albert-choice-tiny", "albert-tok-tiny"))
def test_company_changes_nothing(thimble, models, name, precision):
    """A sequence has the same bits in its answer alone and in any batch."""
    longest, choices, extra = HEADS[name]
    path = models.export(name, precision)
    data = b"".join(line(r | extra) for r in made(name, 150, longest, 3, choices).values())

    def outputs(*options):
        return {a["id"]: a["outputs"] for a in piped(thimble, path, data, *options)}

    alone = outputs("--batch", 1)
    assert len(alone) == 150
    for options in (("--batch", 32, "--tokens", 1024), ("--batch", 5), ("--batch", 16, "--linger", 20, "--threads", 1)):
        assert outputs(*options) == alone, options


@pytest.mark.parametrize("precision", PRECISIONS)
def test_company_changes_nothing_for_any_kernel(thimble, models, precision):
    path = models.export("albert-deb", precision)
    data = b"".join(line(r) for r in made("albert-deb", 24, 40, 4).values())
    info = json.loads(thimble.run("info", "--json", program=thimble.device).stdout)
    for kernel in {*info["kernels"]["f32"], *info["kernels"]["i8"]}:
        options = ("--threads", 1, "--kernel", kernel)
        alone, together = (
            {a["id"]: a["outputs"] for a in piped(thimble, path, data, *options, "--batch", batch)} for batch in (1, 16)
        )
        assert len(alone) == 24 and together == alone, kernel


def test_many_clients_each_get_their_own(thimble, models, tmp_path):
    path = models.export("albert-deb")
    requests = made("albert-deb", 320, 128, 11)
    judge = session(path)
    got, failures = {}, []

    def talk(client, mine):
        try:
            # Some send all at once, some wait for each answer.
            if mine[0]["id"] % 2:
                for request in mine:
                    answer = client.ask(request)
                    assert answer["id"] == request["id"]
                    got[answer["id"]] = answer
            else:
                client.send(*mine)
                client.finish()
                answers = client.rest()
                assert sorted(a["id"] for a in answers) == sorted(r["id"] for r in mine)
                got.update((a["id"], a) for a in answers)
        except Exception as failure:
            failures.append(failure)

    with Server(thimble, path, tmp_path / "s", "--threads", 1) as server:
        clients = [server.connect() for _ in range(16)]
        shares = [[requests[n] for n in range(first, 320, 16)] for first in range(16)]
        threads = [threading.Thread(target=talk, args=pair) for pair in zip(clients, shares, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        stats = server.stats()
        assert (stats["served"], stats["errors"], stats["queue"]) == (320, 0, 0)
        # What waited was computed together.
        assert stats["batches"] < 320 == stats["sequences"]
        for client in clients:
            client.close()
        server.end()
    assert len(got) == 320
    for number, answer in got.items():
        assert_right(answer, expected(judge, requests[number]))


def test_the_best_tokens_are_those_of_the_full_logits(thimble, models):
    path = models.export("albert-mlm-tiny")
    judge = session(path)
    ids = [2, 17, 4, 9, 3]
    full = expected(judge, {"ids": ids})["logits"]
    requests = [
        {"id": 0, "ids": ids, "top": 3, "at": [2, 0]},
        {"id": 1, "ids": ids},
        {"id": 2, "ids": ids, "full": True, "at": [4]},
        {"id": 3, "ids": ids, "full": True, "top": 97},
    ]
    answers = {a["id"]: a for a in piped(thimble, path, b"".join(map(line, requests)))}
    assert [top["at"] for top in answers[0]["top"]] == [2, 0] and "outputs" not in answers[0]
    assert [top["at"] for top in answers[1]["top"]] == [0, 1, 2, 3, 4]
    assert "top" not in answers[2] and np.abs(np.array(answers[2]["outputs"]["logits"]) - full[4]).max() <= LIMIT
    for answer, count in ((answers[0], 3), (answers[1], 5), (answers[3], 97)):
        for top in answer["top"]:
            row = full[top["at"]]
            assert len(set(top["ids"])) == count
            assert np.abs(np.array(top["logits"]) - row[top["ids"]]).max() <= LIMIT
            assert np.abs(np.array(top["logits"]) - np.sort(row)[::-1][:count]).max() <= LIMIT


def test_hidden_states_are_sent_when_asked_for(thimble, models):
    path = models.export("albert-tiny-groups")
    wanted = expected(session(path), {"ids": [2, 17, 3]})
    requests = [{"id": 0, "ids": [2, 17, 3]}, {"id": 1, "ids": [2, 17, 3], "at": [2, 0]}]
    answers = {a["id"]: a for a in piped(thimble, path, b"".join(map(line, requests)))}
    assert set(answers[0]["outputs"]) == {"pooler_output"}
    states = np.array(answers[1]["outputs"]["last_hidden_state"])
    assert np.abs(states - wanted["last_hidden_state"][[2, 0]]).max() <= LIMIT


def test_classes_have_their_names(thimble, models):
    case = cases("albert-deb")[0]
    ids = case.feeds["input_ids"][0][case.feeds["attention_mask"][0] == 1].tolist()
    (answer,) = piped(thimble, models.export("albert-deb"), line({"id": "a", "ids": ids}))
    best = int(np.argmax(case.golden["logits"][0]))
    labels = json.loads((models.source("albert-deb") / "config.json").read_text())["id2label"]
    assert (answer["argmax"], answer["label"]) == (best, labels[str(best)])
    (answer,) = piped(thimble, models.export("albert-tok-tiny"), line({"id": 0, "ids": [2, 5, 3]}))
    assert answer["argmax"] == np.argmax(answer["outputs"]["logits"], axis=1).tolist()
    assert answer["labels"] == [f"LABEL_{n}" for n in answer["argmax"]]
    (answer,) = piped(thimble, models.export("albert-choice-tiny"), line({"id": 0, "choices": [[2, 3], [2, 9, 3]]}))
    assert answer["argmax"] == int(np.argmax(answer["outputs"]["logits"]))


# What is sent, the id of the answer, and words of its one line.
GARBAGE = {
    "no JSON": (b"hello", None, "not JSON", "byte 1"),
    "half an object": (b'{"id": 1, "ids": [2, 3', None, "not JSON", "byte 22"),
    "two values": (b'{"id": 1, "ids": [2]} 3', None, "not JSON", "byte 23"),
    "a list": (b"[1, [2, 3]]", None, "a request is a JSON object"),
    "a number": (b"7", None, "a request is a JSON object"),
    "deep lists": (b"[" * 100_000, None, "not JSON"),
    "deep lists inside": (b'{"id": 1, "ids": ' + b"[" * 100_000, None, "not JSON"),
    "deep objects": (b'{"a":' * 100_000, None, "not JSON"),
    "deep and whole": (b'{"id": 1, "ids": ' + b"[" * 90 + b"]" * 90 + b"}", 1, "whole number"),
    "NaN": (b'{"id": 1, "ids": [NaN]}', None, "not JSON", "byte 19"),
    "infinite": (b'{"id": 1, "ids": [1e999]}', None, "not JSON", "out of range"),
    "huge": (b'{"id": 1, "ids": [123456789012345678901234567890]}', 1, "whole number"),
    "beyond 63 bits": (b'{"id": 1, "ids": [9223372036854775808]}', 1, "whole number"),
    "a fraction": (b'{"id": 1, "ids": [2.0]}', 1, "whole number", "byte 21"),
    "negative": (b'{"id": 1, "ids": [2, -1]}', 1, "ids[1] is -1", "0 to 3999"),
    "beyond the vocabulary": (b'{"id": "x", "ids": [2, 4000]}', "x", "ids[1] is 4000", "0 to 3999"),
    "empty": (b'{"id": 1, "ids": []}', 1, "empty"),
    "too long": (line({"id": 1, "ids": [5] * 129}), 1, "129 tokens", "128"),
    "far too long": (line({"id": 1, "ids": [5] * 70_000}), 1, "more than 65536 values"),
    "a null": (b'{"id": 1, "ids": [2, null]}', 1, "null"),
    "texts": (b'{"id": 1, "ids": ["2"]}', 1, "one sequence"),
    "a batch": (b'{"id": 1, "ids": [[2, 3], [2, 4, 3]]}', 1, "one sequence"),
    "mixed": (b'{"id": 1, "ids": [2, [3]]}', 1, "mixes"),
    "an object for ids": (b'{"id": 1, "ids": {"a": 1}}', 1, "a list"),
    "no ids": (b'{"id": 1}', 1, '"ids"'),
    "unknown field": (b'{"id": 1, "idz": [2]}', 1, "idz", "ids"),
    "twice": (b'{"id": 1, "ids": [2], "ids": [3]}', 1, "duplicate field"),
    "two ids": (b'{"id": 1, "ids": [2], "id": 2}', None, "duplicate field"),
    "an object as id": (b'{"id": {"a": 1}, "ids": [2]}', None, '"id"'),
    "a long id": (b'{"id": "' + b"x" * 1000 + b'", "ids": [2]}', None, "1000 bytes"),
    "types too few": (b'{"id": 1, "ids": [2, 3], "types": [0]}', 1, "types has 1 values", "2"),
    "types beyond": (b'{"id": 1, "ids": [2, 3], "types": [0, 2]}', 1, "types[1] is 2", "0 to 1"),
    "nested types": (b'{"id": 1, "ids": [2, 3], "types": [[0, 1]]}', 1, "another shape"),
    "choices": (b'{"id": 1, "choices": [[2, 3]]}', 1, "multiple choice", "sequence classification"),
    "top": (b'{"id": 1, "ids": [2, 3], "top": 3}', 1, "masked LM"),
    "at": (b'{"id": 1, "ids": [2, 3], "at": [0]}', 1, "one answer for all"),
    "full as a number": (b'{"id": 1, "ids": [2, 3], "full": 1}', 1, "boolean"),
    "unknown op": (b'{"id": 1, "op": "shutdown"}', 1, "shutdown", "ping"),
    "op and ids": (b'{"id": 1, "op": "ping", "ids": [2]}', 1, "send two"),
    "a pair alone": (b'{"id": 1, "ids": [2], "pair": "x"}', 1, '"text"'),
    "bytes": (b'{"id": 1, "ids": [2, \xff]}', None, "UTF-8", "byte 22"),
    "a wrong byte in a name": (b'{"id": "\xc3\x28"}', None, "UTF-8"),
    "NUL": (b'{"id": 1, "ids": [2, \x00 3]}', None, "not JSON"),
    "an escaped NUL in a name": (b'{"id": 1, "\\u0000": 3}', 1, "unknown field"),
    "half a surrogate": (b'{"id": "\\ud800"}', None, "not JSON"),
    "a control character": (b'{"id": "a\tb"}', None, "not JSON"),
    "over the bound": (b'{"id": 1, "ids": [' + b"2," * 600_000 + b"3]}", None, "1200021 bytes", "--max-line"),
}


def refused(answer, ident, words):
    assert set(answer) == {"id", "error"} and answer["id"] == ident, answer
    assert "\n" not in answer["error"] and "panicked" not in answer["error"]
    for word in words:
        assert word in answer["error"], answer


def test_garbage_gets_one_clear_line_each(thimble, models, tmp_path):
    path = models.export("albert-deb", "int8")
    good = {"id": "good", "ids": [2, 17, 3]}
    with Server(thimble, path, tmp_path / "s") as server, server.connect() as client:
        right = client.ask(good)["outputs"]
        for kind, (data, ident, *words) in GARBAGE.items():
            client.raw(data.rstrip(b"\n") + b"\n")
            answer = client.receive()
            refused(answer, ident, words)
            assert client.ask(good)["outputs"] == right, kind
        # All that in one breath, and half a line at the end.
        client.raw(b"".join(data.rstrip(b"\n") + b"\n" for data, *_ in GARBAGE.values()) + b'{"id": 5, "ids": [2')
        client.finish()
        answers = client.rest()
        assert len(answers) == len(GARBAGE) + 1
        refused(answers[-1], None, ["not JSON"])
        assert server.stats()["errors"] == 2 * len(GARBAGE) + 1
        server.end()


def test_garbage_for_other_heads(thimble, models):
    table = {
        "albert-mlm-tiny": [
            ({"ids": [2, 3], "at": [2]}, "positions are 0 to 1"),
            ({"ids": [2, 3], "at": [-1]}, "positions are 0 to 1"),
            ({"ids": [2, 3], "at": "all"}, "a list"),
            ({"ids": [2, 3], "at": [[0]]}, "list of positions"),
            ({"ids": [2, 3], "top": 0}, "1 to 97"),
            ({"ids": [2, 3], "top": 98}, "1 to 97"),
            ({"ids": [2, 3], "top": -1}, "u32"),
            ({"ids": [2, 3], "at": [0] * 60_000}, "the sequence has 2"),
        ],
        "albert-choice-tiny": [
            ({"ids": [2, 3]}, 'give "choices"'),
            ({"choices": []}, "empty"),
            ({"choices": [[2, 3], []]}, "choices[1] is empty"),
            ({"choices": [[2, 3], [2, 97]]}, "choices[1][1] is 97"),
            ({"choices": [[2, 3]], "types": [[0]]}, "types[0] has 1 values"),
            ({"choices": [[2, 3]], "types": [0, 0]}, "another shape"),
            ({"choices": [[2] * 32] * 65}, "2080 in all"),
            ({"choices": ["a", "b"]}, '"text"'),
        ],
    }
    for name, rows in table.items():
        data = b"".join(line(request | {"id": n}) for n, (request, _) in enumerate(rows))
        answers = piped(thimble, models.export(name), data)
        for answer, (n, (_, word)) in zip(answers, enumerate(rows), strict=True):
            refused(answer, n, [word])


IDS = ["text", 7, -7, 1.5, True, False, None, "", "\u0000", "é\U0001f600", 2**64 - 1, -(2**63), "x" * 256]


def test_ids_come_back_as_they_were(thimble, models):
    data = b"".join(line({"id": ident, "ids": [2, 3]}) for ident in IDS) + b'{"ids": [2, 3]}\n\n   \n{"ids":[2,3]}'
    answers = piped(thimble, models.export("albert-seq-tiny"), data)

    def kinds(values):
        return collections.Counter((type(v), v) for v in values)

    assert kinds(a["id"] for a in answers) == kinds([*IDS, None, None])


def test_ping_and_stats(thimble, models, tmp_path):
    with Server(thimble, models.export("albert-mlm-tiny"), tmp_path / "s") as server, server.connect() as client:
        pong = client.ask({"id": 3, "op": "ping"})
        assert (pong["id"], pong["ok"], pong["head"], pong["positions"]) == (3, True, "masked LM", 32)
        assert client.ask({"op": "stats"})["p50_ms"] is None
        for _ in range(5):
            assert "top" in client.ask({"ids": [2, 3]})
        client.ask({"ids": []})
        stats = client.ask({"id": "s", "op": "stats"})
        assert (stats["id"], stats["served"], stats["errors"], stats["queue"], stats["clients"]) == ("s", 5, 1, 0, 1)
        assert 0 < stats["p50_ms"] <= stats["p95_ms"]
        assert abs(stats["rss_bytes"] - server.rss()) < 8 << 20


def test_all_is_written_before_anything_is_read(thimble, models, tmp_path):
    """Thousands of requests from a client that reads only then: no deadlock, nothing lost, a short queue."""
    requests = made("albert-seq-tiny", 5000, 32, 5)
    with Server(thimble, models.export("albert-seq-tiny"), tmp_path / "s", "--queue", 4, "--threads", 1) as server:
        with server.connect() as client:
            client.send(*requests.values())
            client.finish()
            answers = client.rest()
        assert sorted(a["id"] for a in answers) == list(requests)
        assert not any("error" in a for a in answers)
        server.end()


def test_a_client_that_never_reads_blocks_nobody(thimble, models, tmp_path):
    options = ("--max-unsent", "64KiB", "--timeout", 5, "--threads", 1)
    request = line({"id": 0, "ids": [2, 5, 3]})
    with Server(thimble, models.export("albert-seq-tiny"), tmp_path / "s", *options) as server:
        with server.connect() as silent, server.connect() as other:
            silent.socket.setblocking(False)
            sent, deadline = 0, time.monotonic() + 30
            # It sends until the server reads no more: that it stops is the back-pressure.
            while time.monotonic() < deadline:
                try:
                    sent += silent.socket.send(request * 100)
                    full = time.monotonic()
                except BlockingIOError:
                    if time.monotonic() - full > 0.5:
                        break
                    time.sleep(0.005)
            else:
                pytest.fail(f"{sent} bytes were read from a client that does not read")
            for number in range(20):
                assert other.ask({"id": number, "ids": [2, 9, 3]})["id"] == number
            # The others did not have to wait until it was dropped.
            assert other.ask({"op": "stats"})["dropped"] == 0
            stats = server.settled(lambda s: s["dropped"] == 1 and s["clients"] == 2)
            assert stats["served"] < sent / len(request)
            silent.socket.setblocking(True)
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(100):
                    silent.socket.sendall(request)
        server.end()


def test_clients_that_vanish_cost_nothing(thimble, models, tmp_path):
    path = models.export("albert-deb", "int8")
    heavy = [{"id": n, "ids": [2] * 128} for n in range(60)]
    with Server(thimble, path, tmp_path / "s", "--clients", 8) as server, server.connect() as steady:
        right = steady.ask({"id": 0, "ids": [2, 17, 3]})["outputs"]
        for round_ in range(30):
            client = server.connect()
            # Some leave in the middle of a line, some with much in the queue, some without a word.
            client.send(*heavy[: round_ % 4 * 20])
            if round_ % 3 == 0:
                client.raw(b'{"id": 1, "ids": [2, ')
            client.close()
            assert steady.ask({"id": 0, "ids": [2, 17, 3]})["outputs"] == right
        # The steady one, and the one that asks.
        stats = server.settled(lambda s: s["clients"] == 2 and s["queue"] == 0)
        assert stats["served"] < sum(round_ % 4 * 20 for round_ in range(30)), "work of the vanished was done"
        server.end()


def test_one_client_too_many_is_told(thimble, models, tmp_path):
    with Server(thimble, models.export("albert-seq-tiny"), tmp_path / "s", "--clients", 2) as server:
        with server.connect() as one, server.connect() as two:
            assert one.ask({"op": "ping"})["ok"] and two.ask({"op": "ping"})["ok"]
            with server.connect() as three:
                refused(three.receive(), None, ["2 clients", "--clients"])
                assert three.receive() is None
        server.settled(lambda s: s.get("clients") == 1)


def test_clients_need_descriptors(thimble, models, tmp_path):
    """The soft limit is raised as far as the hard one lets it; beyond that the start is refused, not the clients later."""
    model = models.export("albert-seq-tiny")
    command = [thimble.device, "serve", model, "--socket", tmp_path / "s", "--clients", "100"]
    files = lambda soft, hard: lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # noqa: E731
    done = subprocess.run(command, preexec_fn=files(64, 64), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    one_clear_line(done, "--clients 100", "open files", "64", "ulimit")
    process = subprocess.Popen(command, preexec_fn=files(64, 512), stderr=subprocess.PIPE, text=True)
    assert "serving" in process.stderr.readline()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(tmp_path / "s")) for _ in range(100)]
        for client in clients:
            assert client.ask({"op": "ping"})["ok"]
    process.terminate()
    assert process.wait(timeout=30) == 0
    process.stderr.close()


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGINT))
def test_a_signal_answers_what_was_taken_on(thimble, models, tmp_path, number):
    path = models.export("albert-seq-tiny")
    requests = made("albert-seq-tiny", 1200, 32, 9)
    with Server(thimble, path, tmp_path / "s", "--threads", 1) as server:
        clients = [server.connect() for _ in range(4)]
        for client in clients:
            assert client.ask({"op": "ping"})["ok"]
        for n, client in enumerate(clients):
            client.send(*[requests[i] for i in range(n, 1200, 4)])
        # Some wait in the queue now, most still in the sockets.
        server.process.send_signal(number)
        answers = [answer for client in clients for answer in client.rest()]
        assert server.process.wait(timeout=30) == 0
        assert not server.path.exists()
        assert sorted(a["id"] for a in answers) == list(requests)
        assert not any("error" in a for a in answers)
        for client in clients:
            client.close()


def test_a_signal_with_more_than_can_be_done_in_time(thimble, models, tmp_path):
    """A long queue is cut off after the seconds of grace: each request is answered or refused, and the server is gone."""
    path = models.export("albert-deb")
    with Server(thimble, path, tmp_path / "s", "--queue", 65536, "--threads", 1) as server:
        with server.connect() as client, server.connect() as silent:
            silent.send(*[{"id": n, "ids": [2] * 3} for n in range(100)])
            client.send(*[{"id": n, "ids": [2] * 128} for n in range(6000)])
            server.settled(lambda s: s["queue"] > 3000)
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            answers = client.rest()
            assert server.process.wait(timeout=30) == 0
            assert time.monotonic() - begin < 9
            assert sorted(a["id"] for a in answers) == list(range(6000))
            late = [a for a in answers if "error" in a]
            assert late and len(late) < 6000 and all(a["error"] == "the server is stopping" for a in late)


def test_stdin_ends_after_all_is_answered(thimble, models):
    path = models.export("albert-seq-tiny")
    requests = made("albert-seq-tiny", 2000, 32, 1)
    answers = piped(thimble, path, b"".join(map(line, requests.values())), "--queue", 3, "--threads", 1)
    assert sorted(a["id"] for a in answers) == list(requests)
    assert piped(thimble, path, b"") == []
    # Nothing is lost for want of a last line feed.
    assert [a["id"] for a in piped(thimble, path, b'{"id": 4, "ids": [2, 3]}')] == [4]


def test_a_signal_ends_stdin(thimble, models):
    command = [str(thimble.device), "serve", str(models.export("albert-seq-tiny"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        server.stdin.write(b"".join(line({"id": n, "ids": [2, 3]}) for n in range(50)))
        server.stdin.flush()
        first = server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        # stdin stays open all the while.
        rest = server.stdout.read()
        assert server.wait(timeout=10) == 0
        assert sorted(json.loads(a)["id"] for a in [first, *rest.splitlines()]) == list(range(50))
        assert server.stderr.read() == b""


def test_a_closed_stdout_ends_quietly(thimble, models):
    command = [str(thimble.device), "serve", str(models.export("albert-seq-tiny"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        server.stdin.write(line({"id": 0, "ids": [2, 3]}))
        server.stdin.flush()
        server.stdout.readline()
        server.stdout.close()
        server.stdin.write(line({"id": 1, "ids": [2, 3]}))
        server.stdin.flush()
        assert server.wait(timeout=10) == 0
        assert server.stderr.read() == b""
        server.stdin.close()


def test_streams_that_do_not_block_are_waited_for(thimble, models):
    """Whoever shares stdin or stdout may have set it to fail instead of wait."""
    path, count = models.export("albert-tok-tiny"), 4000
    (asks, stdin), (stdout, answers) = os.pipe(), os.pipe()
    os.set_blocking(asks, False)
    os.set_blocking(answers, False)
    process = subprocess.Popen([thimble.device, "serve", path], stdin=asks, stdout=answers)
    os.close(asks)
    os.close(answers)
    with open(stdin, "wb") as to, open(stdout, "rb") as lines:
        writer = threading.Thread(target=lambda: (to.write(b"".join(line({"id": n, "ids": [2, 3]}) for n in range(count))), to.close()))
        writer.start()
        time.sleep(0.5)  # the pipe is full by now: each answer is some 100 bytes
        got = [json.loads(answer)["id"] for answer in lines]
        writer.join()
    assert sorted(got) == list(range(count)) and process.wait(timeout=30) == 0


def test_sockets_of_the_living_and_the_dead(thimble, models, tmp_path):
    path, name = models.export("albert-seq-tiny"), tmp_path / "s"
    with Server(thimble, path, name) as first:
        assert stat.S_IMODE(name.stat().st_mode) == 0o600
        with Server(thimble, path, name, wait=False) as second:
            assert second.process.wait(timeout=20) == 2
            assert "another server listens" in second.process.stderr.read()
        assert first.stats()["served"] == 0
        first.process.kill()
        first.process.wait()
        assert name.exists()
        with Server(thimble, path, name, "--mode", "0660") as third:
            assert stat.S_IMODE(name.stat().st_mode) == 0o660
            assert third.stats()["served"] == 0
            third.end()
    name.write_text("no socket")
    done = thimble.run("serve", path, "--socket", name, code=2, program=thimble.device)
    one_clear_line(done, "no socket")
    assert name.read_text() == "no socket"
    done = thimble.run("serve", path, "--socket", tmp_path / "none" / "s", code=2, program=thimble.device)
    one_clear_line(done, "none/s", "No such file")
    done = thimble.run("serve", path, "--socket", tmp_path / ("s" * 200), code=2, program=thimble.device)
    one_clear_line(done, "socket", "SUN_LEN")


def test_what_cannot_be_served_is_said(thimble, models, tmp_path):
    done = thimble.run("serve", tmp_path / "none.onnx", code=2, program=thimble.device)
    one_clear_line(done, "none.onnx")
    folder = os.open(tmp_path, os.O_RDONLY)
    done = thimble.run("serve", models.export("albert-seq-tiny"), code=2, program=thimble.device, stdin=folder)
    one_clear_line(done, "stdin", "directory")
    os.close(folder)


def test_memory_stays_where_it_was(thimble, models, tmp_path):
    """Thousands of requests of all lengths, garbage and clients that come and go: the server is no bigger at the end."""
    path = models.export("albert-deb", "int8")
    requests = made("albert-deb", 600, 64, 2)

    def load(server, rounds):
        for _ in range(rounds):
            with server.connect() as client:
                client.send(*requests.values())
                client.raw(b"[" * 70_000 + b"\n" + b"x" * 1_500_000 + b"\n")
                client.finish()
                assert len(client.rest()) == 602

    with Server(thimble, path, tmp_path / "s", "--threads", 1) as server:
        load(server, 3)
        first = server.rss()
        load(server, 10)
        assert server.rss() - first < 2 << 20, f"{first} bytes before, {server.rss()} after"
        assert server.stats()["served"] == 13 * 600
        server.end()


def test_what_a_burst_took_is_given_back(thimble, models, tmp_path):
    """Long lines of many clients at once, then only short sequences, which allocate nothing that would push it out."""
    with Server(thimble, models.export("albert-deb", "int8"), tmp_path / "s", "--threads", 1) as server, contextlib.ExitStack() as stack:
        with server.connect() as client:
            assert "outputs" in client.ask({"id": 0, "ids": [2, 9, 3]})
        first = server.rss()
        clients = [stack.enter_context(server.connect()) for _ in range(40)]
        for client in clients:
            client.raw(b"x" * 1_000_000)
        for client in clients:
            client.raw(line({"choices": ["a" * 9] * 60_000}))
            assert "error" in client.receive()
        for client in clients:
            client.raw(line({"choices": ["a" * 9] * 60_000}))
            assert "error" in client.receive()
            client.close()
        server.settled(lambda s: s.get("clients") == 1)
        with server.connect() as client:
            for n in range(50):
                client.ask({"id": n, "ids": [2, 9, 3]})
        assert server.rss() - first < 4 << 20, f"{first} bytes before, {server.rss()} after"
        server.end()


def test_clients_not_yet_let_in_are_told_of_the_end(thimble, models, tmp_path):
    with Server(thimble, models.export("albert-seq-tiny"), tmp_path / "s") as server, contextlib.ExitStack() as stack:
        server.process.send_signal(signal.SIGSTOP)
        clients = [stack.enter_context(server.connect()) for _ in range(20)]
        for client in clients:
            client.send({"id": 1, "ids": [2, 3]})
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            answer = client.receive()
            assert "outputs" in answer or answer["error"] == "the server is stopping"
        assert server.process.wait(timeout=30) == 0


# Unless the program is the lean one, the host's own tokenizer is what the answer is held against.
def has_text(thimble, model):
    (pong,) = piped(thimble, model, line({"op": "ping"}))
    return pong["text"]


def test_texts_are_tokenised_as_on_the_desk_or_refused(thimble, models):
    model = models.export("albert-deb")
    words = "Perl module to parse ISO 8601 dates"
    requests = [
        {"id": 0, "text": words},
        {"id": 1, "text": words, "pair": "rubygem"},
        {"id": 2, "text": words * 100},
        {"id": 3, "text": "\u0000 \U0001f600"},
    ]
    answers = {a["id"]: a for a in piped(thimble, model, b"".join(map(line, requests)))}
    if not has_text(thimble, model):
        for answer in answers.values():
            refused(answer, answer["id"], ["token ids only", '"ids"'])
        return
    for request in requests[:3]:
        extra = ["--pair", request["pair"]] if "pair" in request else []
        told = json.loads(thimble.run("run", model, "--text", request["text"], *extra, "--json").stdout)
        answer = answers[request["id"]]
        assert answer["ids"] == told["input_ids"]
        assert answer.get("truncated", False) == (request["id"] == 2)
    assert answers[0]["label"] == "perl" and "outputs" in answers[3]
    (answer,) = piped(thimble, model, line({"id": 0, "text": 7}))
    refused(answer, 0, ["string"])


def test_choices_are_counted_before_they_are_read(thimble, models):
    """Thousands of texts beside one long question would be hours of tokenising for a request that is refused in the end."""
    model, tokenizer = models.export("albert-choice-tiny"), ROOT / "models" / "albert-deb" / "tokenizer.json"
    if not has_text(thimble, models.export("albert-deb")):
        pytest.skip("thimble-device is the lean one")
    request = {"id": 0, "text": "a " * 200_000, "choices": ["b"] * 60_000}
    begin = time.monotonic()
    (answer,) = piped(thimble, model, line(request), "--tokenizer", tokenizer)
    refused(answer, 0, ["60000 choices", "--tokens"])
    assert time.monotonic() - begin < 10


def test_an_answer_is_bounded_by_what_is_asked(thimble, models):
    """Positions named again and again, and text quoted back, would make much of little."""
    path = models.export("albert-tok-tiny", "fp32")
    asked = [{"id": 1, "ids": [2, 3], "at": [0] * 60_000}, {"id": 2, "ids": [2, 3], "at": [0, 1]}, {"id": 3, "top": "x" * 100_000}]
    lines = piped(thimble, path, b"".join(line(r) for r in asked))
    answers = {a["id"]: a for a in lines}
    assert "60000 positions, the sequence has 2" in answers[1]["error"]
    assert len(answers[2]["outputs"]["logits"]) == 2
    errors = [a["error"] for a in lines if "error" in a and a["id"] != 1]
    assert len(errors) == 1 and len(errors[0]) < 500
