"""The clients of `clients/` against the real server, and against servers that send garbage, stop, hang or hang up: each gives the
server's own answers, and else one clear error in bounded time.
"""

import ast
import contextlib
import importlib.util
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from bench import ROOT
from test_serve import Client as Wire
from test_serve import Server

CLIENTS = ROOT / "clients"
STRICT = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-pedantic"]
KINDS = ("python", "node", "c", "aarch64")
# Those that keep several requests on the way.
PIPELINED = ("python", "node")

# A program of each language that asks each line of its stdin, and prints `OK` or the error, a tab, and the answer or the words.
SESSIONS = {
    "python": """
        import json, sys
        sys.path.insert(0, sys.argv[1])
        from thimble_client import Client, ThimbleError
        def say(name, text):
            print(name, text, sep="\\t", flush=True)
        try:
            client = Client(sys.argv[2], timeout=float(sys.argv[3]), reconnect=float(sys.argv[4]), limit=int(sys.argv[5]))
        except ThimbleError as error:
            say(type(error).__name__, error)
            sys.exit()
        with client:
            for line in sys.stdin:
                try:
                    say("OK", json.dumps(client.request(json.loads(line))))
                except ThimbleError as error:
                    say(type(error).__name__, error)
    """,
    "node": """
        import readline from "node:readline";
        const [folder, path, timeout, reconnect, limit] = process.argv.slice(1);
        const { Client, ThimbleError } = await import(folder + "/thimble-client.mjs");
        const say = (error, answer) => console.log(error ? error.name + "\\t" + error.message : "OK\\t" + JSON.stringify(answer));
        const ours = (error) => { if (!(error instanceof ThimbleError)) throw error; say(error); };
        try {
          const client = await Client.open(path, { timeout: +timeout, reconnect: +reconnect, limit: +limit });
          for await (const line of readline.createInterface({ input: process.stdin })) {
            try { say(null, await client.request(JSON.parse(line))); } catch (error) { ours(error); }
          }
          client.close();
        } catch (error) { ours(error); }
    """,
    "c": """
        #include "thimble_client.h"
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void ignore(int number) { (void)number; alarm(1); }
        static int say(thimble_status status, const thimble_client *client, const char *answer)
        {
            static const char *const names[] = {"OK", "ServerError", "ServerBusy", "ConnectionFailed", "AnswerTimeout",
                                                "BadAnswer", "BadAnswer", "BadRequest"};
            printf("%s\\t%s\\n", names[status], status == THIMBLE_OK ? answer : thimble_error(client));
            return fflush(stdout);
        }
        int main(int count, char **arguments)
        {
            size_t size = strtoul(arguments[5], NULL, 10) + 1;
            char *line = NULL, *answer = malloc(size);
            size_t room = 0;
            thimble_client client;
            struct sigaction action;
            thimble_status status = thimble_open(&client, arguments[2], (int)(atof(arguments[3]) * 1000));
            client.reconnect_ms = (int)(atof(arguments[4]) * 1000);
            if (count > 6) {
                /* Interrupts calls of the system that wait. */
                memset(&action, 0, sizeof action);
                action.sa_handler = ignore;
                sigaction(SIGALRM, &action, NULL);
                alarm(1);
            }
            if (status != THIMBLE_OK) say(status, &client, "");
            while (status == THIMBLE_OK && getline(&line, &room, stdin) > 0) {
                line[strcspn(line, "\\n")] = '\\0';
                say(thimble_ask(&client, line, answer, size), &client, answer);
            }
            thimble_close(&client);
            free(line);
            free(answer);
            return 0;
        }
    """,
}


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The commands of each kind, by `session` and `ask`."""
    folder = tmp_path_factory.mktemp("clients")
    sources = {name: textwrap.dedent(text) for name, text in SESSIONS.items()}
    (folder / "session.c").write_text(sources["c"])
    commands = {
        "python": {
            "session": [sys.executable, "-c", sources["python"], CLIENTS / "python"],
            "ask": [sys.executable, CLIENTS / "python/thimble_client.py"],
        }
    }
    if node := shutil.which("node"):
        commands["node"] = {
            "session": [node, "--input-type=module", "-e", sources["node"], CLIENTS / "node"],
            "ask": [node, CLIENTS / "node/thimble-client.mjs"],
        }

    def compiled(kind, compiler, extra, runner=()):
        commands[kind] = {}
        for name, main in (("session", folder / "session.c"), ("ask", CLIENTS / "c/ask.c")):
            program = folder / f"{name}-{kind}"
            command = [*compiler, *STRICT, *extra, "-I", CLIENTS / "c", main, CLIENTS / "c/thimble_client.c", "-o", program]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            # The folder is what the other languages find their client in.
            commands[kind][name] = [*runner, program, *(["-"] if name == "session" else [])]

    trial = folder / "trial.c"
    trial.write_text("int main(void) { return 0; }\n")
    sanitizers = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    usable = subprocess.run(["cc", *sanitizers, trial, "-o", folder / "trial"], capture_output=True).returncode == 0
    compiled("c", ["cc"], sanitizers if usable else ["-O2"])
    if shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64"):
        compiled("aarch64", ["aarch64-linux-gnu-gcc"], ["-O2", "-static"], ["qemu-aarch64"])
    return commands


@pytest.fixture(params=KINDS)
def kind(request, built):
    if request.param not in built:
        pytest.skip({"node": "node is not installed", "aarch64": "no aarch64-linux-gnu-gcc or qemu-aarch64"}[request.param])
    return request.param


@pytest.fixture(params=PIPELINED)
def pipelined(request, built):
    if request.param not in built:
        pytest.skip("node is not installed")
    return request.param


class Session:
    """A client's program that asks what it is given."""

    def __init__(self, built, kind, path, timeout=20, reconnect=5, limit=32 << 20, more=()):
        command = [*built[kind]["session"], path, timeout, reconnect, limit, *more]
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        try:
            _, words = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        # Sanitizers and uncaught exceptions report there.
        assert failed or (self.process.returncode == 0 and words == ""), (self.process.returncode, words)

    def send(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def receive(self):
        """The name of the outcome, and the answer or the error's words."""
        watch = threading.Timer(60, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        assert line, self.process.communicate(timeout=10)
        name, _, text = line.rstrip("\n").partition("\t")
        if name != "OK":
            return name, text
        answer = json.loads(text)
        # The C client leaves its own number in the answer.
        answer.pop("id", None)
        return name, answer

    def ask(self, request):
        self.send(request)
        return self.receive()


class Fake:
    """A server of the test's own: each connection goes to the next of `turns`, and those after the last to the last one."""

    def __init__(self, path, *turns):
        self.path, self.turns, self.requests, self.failures = path, turns, [], []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.threads = [threading.Thread(target=self.accept)]
        self.open, self.files = [], {}
        self.threads[0].start()

    def accept(self):
        for number in range(10_000):
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.open.append(peer)
            thread = threading.Thread(target=self.turn, args=(self.turns[min(number, len(self.turns) - 1)], peer))
            self.threads.append(thread)
            thread.start()

    def turn(self, turn, peer):
        try:
            turn(self, peer)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except Exception as failure:
            self.failures.append(failure)
        finally:
            # The descriptor lives as long as the file does.
            if peer in self.files:
                self.files[peer].close()
            peer.close()

    def request(self, peer):
        """The next request of a connection; None at its end."""
        if peer not in self.files:
            self.files[peer] = peer.makefile("rb")
        line = self.files[peer].readline()
        if not line:
            return None
        self.requests.append(json.loads(line))
        return self.requests[-1]

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        for peer in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(30)
        os.unlink(self.path)
        assert failed or not self.failures, self.failures


def good(fake, peer):
    """Answers each request with its own ids."""
    while (request := fake.request(peer)) is not None:
        peer.sendall(json.dumps({"id": request["id"], "heard": request.get("ids")}).encode() + b"\n")


def says(*parts, pause=0.0, then=good):
    """Reads one request and sends these bytes, with `ID` for its id; then hangs up, or behaves as `then`."""

    def turn(fake, peer):
        request = fake.request(peer)
        for part in parts:
            peer.sendall(part.replace(b"ID", str(request["id"]).encode()))
            time.sleep(pause)
        if then:
            then(fake, peer)

    return turn


def hangs(fake, peer):
    while peer.recv(1 << 16):
        pass


def without_time(answer):
    return {key: value for key, value in answer.items() if key not in ("ms", "id")}


def raw(path, request):
    with Wire(path) as wire:
        return wire.ask(request)


def one_line(words):
    assert words and "\n" not in words and "Traceback" not in words and len(words) < 600, words


@pytest.fixture(scope="module")
def served(thimble, models, tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "s"
    with Server(thimble, models.export("albert-deb"), path, "--threads", 1) as server:
        yield server
        server.end()


def test_answers_are_the_servers_own(built, kind, served):
    with Session(built, kind, served.path) as session:
        for request in ({"ids": [2, 17, 3]}, {"ids": [2, 5, 9, 3], "types": [0, 0, 1, 1]}, {"ids": [2] * 128}):
            outcome, answer = session.ask(request)
            assert outcome == "OK" and without_time(answer) == without_time(raw(served.path, request))
        outcome, pong = session.ask({"op": "ping"})
        assert outcome == "OK" and pong["model"].endswith(".onnx") and pong["positions"] == 128
        outcome, stats = session.ask({"op": "stats"})
        assert outcome == "OK" and stats["served"] >= 3
        # A refusal is one request's own affair.
        assert session.ask({"ids": [2, 4000, 3]}) == ("ServerError", "ids[1] is 4000, must be 0 to 3999")
        outcome, words = session.ask({"idz": [2]})
        assert outcome == "ServerError" and "idz" in words
        # Longer than the server reads: its error has no id.
        outcome, words = session.ask({"ids": [2] * 600_000})
        assert outcome == "ServerError" and "--max-line" in words
        assert session.ask({"ids": [2, 17, 3]})[0] == "OK"


TEXTS = ("Perl module to parse ISO 8601 dates", "ruby \"gem\" \\ of\tGerman: Größe \U0001f600", "a\nb\u2028c\x7f")


def test_texts_and_pairs_are_the_servers_own(built, kind, served):
    takes_text = raw(served.path, {"op": "ping"})["text"]
    with Session(built, kind, served.path) as session:
        for request in ({"text": TEXTS[0]}, {"text": TEXTS[0], "pair": TEXTS[1]}):
            outcome, answer = session.ask(request)
            if takes_text:
                assert outcome == "OK" and without_time(answer) == without_time(raw(served.path, request))
                assert "pair" in request or answer["label"] == "perl"
            else:
                assert outcome == "ServerError" and "token ids only" in answer


@pytest.mark.parametrize("text", TEXTS)
def test_texts_arrive_as_they_are(built, kind, text, tmp_path):
    """Quotes, control characters and what is not ASCII, through the command lines."""
    for pair in (None, TEXTS[1]):
        with Fake(tmp_path / "s", good) as fake:
            words = [*built[kind]["ask"], fake.path, "--text", text, *(["--pair", pair] if pair else [])]
            done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, "")
            assert json.loads(done.stdout)["heard"] is None
            (request,) = fake.requests
            del request["id"]
            assert request == ({"text": text} if pair is None else {"text": text, "pair": pair})


def run(built, kind, *words, **options):
    command = [*built[kind]["ask"], *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60, **options)


def test_command_lines(built, kind, served, tmp_path):
    done = run(built, kind, served.path, "--ids", "2,17,3")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert without_time(json.loads(done.stdout)) == without_time(raw(served.path, {"ids": [2, 17, 3]}))
    done = run(built, kind, served.path, "--request", '{"ids": [2, 17, 3], "at": [0]}')
    assert done.returncode in (0, 1) and done.stdout.count("\n") + done.stderr.count("\n") == 1
    assert json.loads(run(built, kind, served.path, "--ping").stdout)["ok"] is True
    done = run(built, kind, served.path, "--ids", "2,9999,3")
    assert (done.returncode, done.stdout) == (1, "") and "9999" in done.stderr
    lines = ['{"ids": [2, 5, 3]}', "", '{"ids": [2, 9999]}', '{"ids": [2, 17, 3]}']
    done = run(built, kind, served.path, input="\n".join(lines))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr, len(answers)) == (1, "", 3) and "9999" in answers[1]["error"]
    assert [answers[0]["label"], answers[2]["label"]] == [raw(served.path, json.loads(lines[n]))["label"] for n in (0, 3)]
    for wrong in (
        [],
        [served.path, "more"],
        [served.path, "--ids", "2,x"],
        [served.path, "--ids", ""],
        [served.path, "--request", "{"],
        [served.path, "--request", "[2]"],
        [served.path, "--pair", "b"],
        [served.path, "--text", "a", "--ids", "2"],
        [served.path, "--what"],
        [served.path, "--ping", "--timeout", "-1"],
        [served.path, "--ping", "--timeout", "nan"],
        [served.path, "--ping", "--limit", "0"],
    ):
        done = run(built, kind, *wrong)
        assert done.returncode == 2 and done.stdout == "" and re.search("usage|JSON", done.stderr), (wrong, done)
    for path, words in ((tmp_path / "none", "No such file|ENOENT"), (tmp_path, "refused|ECONNREFUSED"), ("x" * 200, "107 bytes|too long")):
        done = run(built, kind, path, "--ping")
        assert done.returncode in (2, 3) and re.search(words, done.stderr), done
        one_line(done.stderr.rstrip("\n"))
    for text in ("not JSON", "[2]", '{"ids": [2]} x'):
        done = run(built, kind, served.path, input=text + "\n")
        assert done.returncode == 2 and done.stdout == "", (text, done)
    with open("/dev/full", "w") as full:
        command = [*built[kind]["ask"], served.path, "--ids", "2,17,3"]
        done = subprocess.run([str(word) for word in command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 3
    one_line(done.stderr.rstrip("\n"))


BATCH = {
    "python": """
        import json, sys
        sys.path.insert(0, sys.argv[1])
        from thimble_client import Client, ThimbleError
        with Client(sys.argv[2], timeout=20) as client:
            requests = [tuple(r["both"]) if isinstance(r, dict) and "both" in r else r for r in json.load(sys.stdin)]
            answers = client.batch(requests, return_errors=True)
            print(json.dumps([{type(a).__name__: str(a)} if isinstance(a, ThimbleError) else a for a in answers]))
            errors = [a for a in answers if isinstance(a, ThimbleError)]
            try:
                client.batch(requests)
                assert not errors
            except ThimbleError as error:
                assert type(error) is type(errors[0]) and str(error) == str(errors[0])
            assert client.batch([]) == []
    """,
    "node": """
        import fs from "node:fs";
        import assert from "node:assert";
        const [folder, path] = process.argv.slice(1);
        const { Client, ThimbleError } = await import(folder + "/thimble-client.mjs");
        const client = await Client.open(path, { timeout: 20 });
        const requests = JSON.parse(fs.readFileSync(0)).map((r) => (r.both ? { text: r.both[0], pair: r.both[1] } : r));
        const answers = await client.batch(requests, { returnErrors: true });
        console.log(JSON.stringify(answers.map((a) => (a instanceof ThimbleError ? { [a.name]: a.message } : a))));
        const first = answers.find((a) => a instanceof ThimbleError);
        const again = await client.batch(requests).catch((error) => error);
        assert.equal(again instanceof ThimbleError, first !== undefined);
        if (first) assert.deepEqual([again.name, again.message], [first.name, first.message]);
        assert.deepEqual(await client.batch([]), []);
        // No close: a client that waits for nothing keeps no process alive.
    """,
}


def program(built, kind, source, *arguments, **options):
    """Runs a program of the language that imports the client."""
    command = {
        "python": [sys.executable, "-c", textwrap.dedent(source), CLIENTS / "python"],
        "node": ["node", "--input-type=module", "-e", textwrap.dedent(source), CLIENTS / "node"],
    }[kind]
    command = [str(word) for word in [*command, *arguments]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_batches_come_back_in_order(built, pipelined, served):
    """Of all lengths, with refusals between them, some of them without an id."""
    requests = [[2, *range(5, 5 + n * 7 % 120), 3] for n in range(300)]
    requests[17] = {"ids": [2, 9999]}
    requests[40] = {"ids": [2] * 600_000}
    requests[41] = {"ids": [2] * 700_000}
    requests[42] = {"ids": [2, 17, 3], "id": "my own"}
    requests[50] = {"both": ["a text", "its pair"]}
    answers = json.loads(program(built, pipelined, BATCH[pipelined], served.path, input=json.dumps(requests)))
    assert len(answers) == 300
    with Wire(served.path) as wire:
        for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            if number in (40, 41):
                assert f"a line of {len(request['ids']) // 50_000}000" in answer["ServerError"]
            elif number == 50:
                assert "label" in answer or "token ids only" in answer["ServerError"]
            elif number == 17:
                assert "9999" in answer["ServerError"]
            else:
                wanted = wire.ask(request if isinstance(request, dict) else {"ids": request})
                assert without_time(answer) == without_time(wanted), number
                assert answer.get("id") == ("my own" if number == 42 else None)


def test_answers_in_any_order_find_their_requests(built, pipelined, tmp_path):
    """Eight at a time, the last first, cut into pieces at any byte."""

    def backwards(fake, peer):
        while True:
            group = [fake.request(peer) for _ in range(8)]
            if group[0] is None:
                return
            data = b"".join(json.dumps({"id": r["id"], "heard": r["ids"]}).encode() + b"\n" for r in reversed(group))
            for start in range(0, len(data), 5):
                peer.sendall(data[start : start + 5])

    requests = [[n, 2 * n] for n in range(160)]
    with Fake(tmp_path / "s", backwards) as fake:
        answers = json.loads(program(built, pipelined, BATCH[pipelined], fake.path, input=json.dumps(requests)))
    assert [answer["heard"] for answer in answers] == requests


def test_clients_at_the_same_time(built, served):
    """All kinds beside each other, three of each."""
    failures, wanted = [], {n: without_time(raw(served.path, {"ids": [2, n, 3]})) for n in range(100, 130)}

    def talk(kind, first):
        try:
            with Session(built, kind, served.path, 60) as session:
                for n in [*range(first, 130), *range(100, first)]:
                    outcome, answer = session.ask({"ids": [2, n, 3]})
                    assert outcome == "OK" and without_time(answer) == wanted[n]
        except BaseException as failure:
            failures.append((kind, failure))

    threads = [threading.Thread(target=talk, args=(kind, 100 + 9 * turn)) for kind in built for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_calls_share_one_client(built, pipelined, served):
    source = {
        "python": """
            import sys, threading
            sys.path.insert(0, sys.argv[1])
            from thimble_client import Client
            client, got = Client(sys.argv[2]), {}
            def ask(n):
                got[n] = client.ask_ids([2, n, 3])["outputs"]
            threads = [threading.Thread(target=ask, args=(n,)) for n in range(5, 45)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            assert len(got) == 40
            for n in got:
                assert client.ask_ids([2, n, 3])["outputs"] == got[n]
            client.close()
        """,
        "node": """
            import assert from "node:assert";
            const [folder, path] = process.argv.slice(1);
            const { Client } = await import(folder + "/thimble-client.mjs");
            const client = new Client(path);
            const got = await Promise.all(Array.from({ length: 200 }, (_, n) => client.askIds([2, n, 3])));
            for (let n = 0; n < 200; n++) assert.deepEqual((await client.askIds([2, n, 3])).outputs, got[n].outputs);
            client.close();
        """,
    }
    program(built, pipelined, source[pipelined], served.path)


# What a server sends in place of an answer.
GARBAGE = {
    "words": [b"hello\n"],
    "a blank line": [b"\n"],
    "no UTF-8": [b'{"id":ID,"x":"\xff\xfe"}\n'],
    "overlong UTF-8": [b'{"id":ID,"x":"\xc0\xaf"}\n'],
    "a zero byte": [b'{"id":ID,"x":1}\0\n'],
    "a byte order mark": [b'\xef\xbb\xbf{"id":ID}\n'],
    "a list": [b"[ID]\n"],
    "deep lists": [b"[" * 200_000 + b"\n"],
    "deep objects": [b'{"a":' * 100_000 + b"\n"],
    "a word that is no JSON": [b'{"id":ID,"x":NaN}\n'],
    "half an object": [b'{"id":ID,"x":\n'],
    "two objects": [b'{"id":ID}{"id":ID}\n'],
    "no id": [b'{"x":1}\n'],
    "null id and no error": [b'{"id":null,"x":1}\n'],
    "an older id": [b'{"id":0}\n'],
    "another's id": [b'{"id":ID00}\n'],
    "an id like it": [b'{"id":"ID"}\n'],
    "true as an id": [b'{"id":true}\n'],
    "an error that is a number": [b'{"id":ID,"error":5}\n'],
    "an error that is an object": [b'{"id":ID,"error":{"a":"b"}}\n'],
    "control characters": [b'{"id":ID,"x":"\x01"}\n'],
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_told_and_got_over(built, kind, name, tmp_path):
    with Fake(tmp_path / "s", says(*GARBAGE[name]), good) as fake, Session(built, kind, fake.path, timeout=10) as session:
        outcome, words = session.ask({"ids": [1]})
        assert outcome == "BadAnswer", words
        one_line(words)
        # A new connection, so that nothing of it is left.
        for n in range(2, 5):
            assert session.ask({"ids": [n]}) == ("OK", {"heard": [n]})
        assert len(fake.open) == 2


def strictly(line):
    """What a line of JSON in UTF-8 holds, without what Python reads and JSON has not; None where it is none."""

    def refuse(word):
        raise ValueError(word)

    try:
        return json.loads(line.decode(), parse_constant=refuse)
    except ValueError:
        return None


def test_damaged_answers_are_read_as_json_or_refused(built, kind, tmp_path):
    """Bytes of an answer changed, taken out and put in: what is still JSON with the right id is an answer, nothing else is."""
    dice = random.Random(20)
    sent = []

    def damaging(fake, peer):
        while (request := fake.request(peer)) is not None:
            line = bytearray(b'{"id":%d,"a":[0.5e-3,{"b":"\\u00fc\\n\xc3\xbc\xf0\x9f\x98\x80"}],"c":[true,null,-0],"d":{}}' % request["id"])
            for _ in range(dice.choice((1, 1, 1, 2, 3))):
                at = dice.randrange(len(line))
                line[at : at + dice.randint(0, 2)] = bytes(
                    dice.choice(b'{}[]",:\\ue0.-19t \xc3\xed\xa0\x80\x00\xff') for _ in range(dice.randint(0, 2))
                )
            sent.append(bytes(line))
            peer.sendall(line + b"\n")

    with Fake(tmp_path / "s", damaging) as fake, Session(built, kind, fake.path, timeout=10) as session:
        outcomes = []
        for _ in range(400):
            outcome, answer = session.ask({"ids": [1]})
            held, asked = strictly(sent[-1]), fake.requests[-1]["id"]
            right = isinstance(held, dict) and type(held.get("id")) is int and held["id"] == asked
            # Python and JavaScript read lone surrogates and any number; what C adds in strictness is no danger.
            lenient = right and kind in ("c", "aarch64") and b"\\ud" in sent[-1].lower()
            assert outcome == ("OK" if right else "BadAnswer") or lenient, (sent[-1], outcome, answer)
            if outcome == "OK":
                assert answer == {key: value for key, value in held.items() if key != "id"}
            outcomes.append(outcome)
        assert min(outcomes.count("OK"), outcomes.count("BadAnswer")) > 20


def test_lines_arrive_in_any_pieces(built, kind, tmp_path):
    parts = [bytes([byte]) for byte in b'{"x":"\xc3\xbc\xf0\x9f\x98\x80\\u00fc","id":ID}\n'.replace(b"ID", b"1")]
    with Fake(tmp_path / "s", says(*parts, pause=0.001)) as fake, Session(built, kind, fake.path) as session:
        assert session.ask({"ids": [1]}) == ("OK", {"x": "\u00fc\U0001f600\u00fc"})
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})


def test_what_the_server_says_is_told(built, kind, tmp_path):
    words = [
        (b'{"id":ID,"error":"the server is stopping"}\n', "ServerBusy", "the server is stopping"),
        (b'{"id":ID,"error":"too \\"large\\", \\u00fc\xc3\xbc\\ud83d\\ude00"}\n', "ServerError", 'too "large", \u00fc\u00fc\U0001f600'),
        (b'{"id":null,"error":"not JSON"}\n', "ServerError", "not JSON"),
    ]

    def turn(fake, peer):
        for said, _, _ in words:
            request = fake.request(peer)
            peer.sendall(said.replace(b"ID", str(request["id"]).encode()))
        good(fake, peer)

    with Fake(tmp_path / "s", turn) as fake, Session(built, kind, fake.path) as session:
        for _, outcome, text in words:
            assert session.ask({"ids": [1]}) == (outcome, text)
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})
        assert len(fake.open) == 1


def test_a_server_without_room_is_busy(built, kind, thimble, models, tmp_path):
    """Whether the refusal comes before the request is sent or after, often enough to meet both."""
    with Server(thimble, models.export("albert-seq-tiny"), tmp_path / "s", "--clients", 1) as server:
        for turn in range(6):
            with contextlib.ExitStack() as stack:
                # The server may not have noticed yet that the last one left.
                for _ in range(200):
                    wire = stack.enter_context(Wire(server.path))
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        if "ok" in (wire.ask({"op": "ping"}) or {}):
                            break
                    wire.close()
                    time.sleep(0.02)
                with Session(built, kind, server.path, timeout=10, reconnect=turn % 2) as session:
                    for _ in range(3):
                        outcome, words = session.ask({"ids": [2, 3]})
                        assert outcome == "ServerBusy" and "--clients" in words, words
            server.settled(lambda s: s.get("clients") == 1)
        # The one client there is now may be the one that looked.
        with Session(built, kind, server.path) as session:
            outcome = None
            for _ in range(100):
                outcome, words = session.ask({"ids": [2, 3]})
                if outcome == "OK":
                    break
                time.sleep(0.02)
            assert outcome == "OK", words
        server.end()


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGKILL))
def test_a_restarted_server_is_asked_again(built, kind, number, thimble, models, tmp_path):
    path, model = tmp_path / "s", models.export("albert-seq-tiny")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(thimble, model, path))
        session = stack.enter_context(Session(built, kind, path))
        right = session.ask({"ids": [2, 17, 3]})[1]["outputs"]
        server.process.send_signal(number)
        server.process.wait(30)
        # It comes back while the client already asks.
        session.send({"ids": [2, 17, 3]})
        time.sleep(0.3)
        server = stack.enter_context(Server(thimble, model, path))
        outcome, answer = session.receive()
        assert outcome == "OK" and answer["outputs"] == right
        # And while the client is idle: nothing is sent twice then, so one that never does that goes on, too.
        careful = stack.enter_context(Session(built, kind, path, reconnect=0))
        assert careful.ask({"ids": [2, 17, 3]})[1]["outputs"] == right
        server.process.send_signal(number)
        server.process.wait(30)
        stack.enter_context(Server(thimble, model, path))
        assert session.ask({"ids": [2, 17, 3]})[1]["outputs"] == right
        assert careful.ask({"ids": [2, 17, 3]})[1]["outputs"] == right


def test_a_batch_outlives_a_restart(built, pipelined, thimble, models, tmp_path):
    """Killed in the middle of a batch: what was not answered is sent again, once."""
    path, model = tmp_path / "s", models.export("albert-deb")
    source = {
        "python": """
            import sys
            sys.path.insert(0, sys.argv[1])
            from thimble_client import Client
            requests = [[2, 5 + n % 50, 3] * 40 for n in range(400)]
            with Client(sys.argv[2]) as client:
                print("begin", flush=True)
                answers = client.batch(requests)
                print(sum(a["outputs"] == answers[n % 50]["outputs"] for n, a in enumerate(answers)))
        """,
        "node": """
            import assert from "node:assert";
            const [folder, path] = process.argv.slice(1);
            const { Client } = await import(folder + "/thimble-client.mjs");
            const requests = Array.from({ length: 400 }, (_, n) => Array(40).fill([2, 5 + (n % 50), 3]).flat());
            const client = await Client.open(path);
            console.log("begin");
            const answers = await client.batch(requests);
            console.log(answers.filter((a, n) => JSON.stringify(a.outputs) === JSON.stringify(answers[n % 50].outputs)).length);
        """,
    }
    command = {"python": [sys.executable, "-c"], "node": ["node", "--input-type=module", "-e"]}[pipelined]
    command = [*command, textwrap.dedent(source[pipelined]), str(CLIENTS / pipelined), str(path)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(thimble, model, path, "--threads", 1))
        client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stack.callback(client.kill)
        assert client.stdout.readline() == "begin\n"
        server.settled(lambda stats: stats["served"] >= 20)
        server.process.kill()
        server.process.wait(30)
        second = stack.enter_context(Server(thimble, model, path, "--threads", 1))
        out, err = client.communicate(timeout=120)
        # A kill may fall into an answer on its way; the client then says so and sends nothing twice.
        if "within an answer" not in err:
            assert (out, err) == ("400\n", "")
            assert 0 < second.stats()["served"] < 400


LOST = {
    # What the connections do, whether requests may be sent again, the outcome, its words, and how often the request was sent.
    "at once": ([says(then=None), good], 5, "OK", None, 2),
    "twice": ([says(then=None)], 5, "ConnectionFailed", "twice", 2),
    "never again": ([says(then=None), good], 0, "ConnectionFailed", "before the answer", 1),
    "within an answer": ([says(b'{"id":', then=None), good], 5, "ConnectionFailed", "within an answer", 1),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_request_is_sent_again_only_unanswered(built, kind, name, tmp_path):
    turns, reconnect, wanted, words, sent = LOST[name]
    with Fake(tmp_path / "s", *turns) as fake, Session(built, kind, fake.path, 10, reconnect) as session:
        outcome, answer = session.ask({"ids": [7]})
        assert outcome == wanted, answer
        assert answer == {"heard": [7]} if words is None else words in answer
        assert len(fake.requests) == sent
        if len(turns) > 1:
            assert session.ask({"ids": [8]}) == ("OK", {"heard": [8]})


def test_a_server_that_stays_away(built, kind, tmp_path):
    with Fake(tmp_path / "s", good) as fake, Session(built, kind, fake.path, timeout=20, reconnect=1) as session:
        assert session.ask({"ids": [7]})[0] == "OK"
        # Its socket remains, as that of a killed server does.
        for peer in (*fake.open, fake.listener):
            peer.shutdown(socket.SHUT_RDWR)
        begin = time.monotonic()
        outcome, words = session.ask({"ids": [8]})
        assert outcome == "ConnectionFailed" and "refused" in words.lower(), words
        assert 0.8 < time.monotonic() - begin < 8


def test_no_answer_is_a_timeout(built, kind, tmp_path):
    with Fake(tmp_path / "s", hangs, good) as fake, Session(built, kind, fake.path, timeout=1) as session:
        begin = time.monotonic()
        assert session.ask({"ids": [1]})[0] == "AnswerTimeout"
        assert 0.9 < time.monotonic() - begin < 5
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})


def test_a_server_that_reads_nothing_is_a_timeout(built, kind, tmp_path):
    release = threading.Event()
    with Fake(tmp_path / "s", lambda fake, peer: release.wait(20), good) as fake, Session(built, kind, fake.path, timeout=1) as session:
        assert session.ask({"ids": [1] * 800_000})[0] == "AnswerTimeout"
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})
        release.set()


def test_drops_without_end_are_a_timeout(built, kind, tmp_path):
    drip = says(*[b" "] * 100, pause=0.05, then=None)
    with Fake(tmp_path / "s", drip, good) as fake, Session(built, kind, fake.path, timeout=1) as session:
        begin = time.monotonic()
        assert session.ask({"ids": [1]})[0] == "AnswerTimeout"
        assert time.monotonic() - begin < 4
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})


def test_a_late_answer_is_no_other_requests_answer(built, kind, thimble, models, tmp_path):
    with Server(thimble, models.export("albert-seq-tiny"), tmp_path / "s") as server:
        with Session(built, kind, server.path, timeout=1) as session:
            right = session.ask({"ids": [2, 17, 3]})[1]["outputs"]
            server.process.send_signal(signal.SIGSTOP)
            assert session.ask({"ids": [2, 9, 3]})[0] == "AnswerTimeout"
            server.process.send_signal(signal.SIGCONT)
            for _ in range(3):
                outcome, answer = session.ask({"ids": [2, 17, 3]})
                assert outcome == "OK" and answer["outputs"] == right


def test_no_connection_is_a_timeout_too(built, kind, tmp_path):
    """Nobody accepts, and the queue of those that wait is full."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        for _ in range(100):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(str(tmp_path / "s"))
            except BlockingIOError:
                break
        with Session(built, kind, tmp_path / "s", timeout=1) as session:
            begin = time.monotonic()
            outcome, words = session.receive()
            assert outcome == "ConnectionFailed" and time.monotonic() - begin < 8
            one_line(words)


def test_an_answer_beyond_the_limit(built, kind, thimble, models, tmp_path):
    with Server(thimble, models.export("albert-mlm-tiny"), tmp_path / "s") as server:
        with Session(built, kind, server.path, limit=2000) as session:
            for _ in range(2):
                outcome, words = session.ask({"ids": [2] * 20, "full": True})
                assert outcome == "BadAnswer" and "2000 bytes" in words, words
                assert session.ask({"ids": [2, 3], "at": [0]})[0] == "OK"
    # Its whole line and its beginning without an end.
    for end in (b"\n", b""):
        flood = says(b'{"id":ID,"x":"' + b"x" * 3_000_000 + b'"}' + end, then=hangs)
        with Fake(tmp_path / "f", flood, good) as fake, Session(built, kind, fake.path, limit=1 << 20) as session:
            outcome, words = session.ask({"ids": [1]})
            assert outcome == "BadAnswer" and "1048576 bytes" in words, words
            assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})
    exact = b'{"id":ID,"x":"' + b"x" * 85 + b'"}\n'
    for limit, outcome in ((100, "OK"), (99, "BadAnswer")):
        with Fake(tmp_path / "f", says(exact)) as fake, Session(built, kind, fake.path, limit=limit) as session:
            assert len(exact.replace(b"ID", b"1")) - 1 == 100
            assert session.ask({"ids": [1]})[0] == outcome


def test_a_server_that_reads_no_more_still_answers(built, kind, tmp_path):
    def half(fake, peer):
        request = fake.request(peer)
        peer.shutdown(socket.SHUT_RD)
        time.sleep(0.2)
        peer.sendall(json.dumps({"id": request["id"], "heard": "half"}).encode() + b"\n")
        time.sleep(0.2)

    with Fake(tmp_path / "s", half, good) as fake, Session(built, kind, fake.path, timeout=5) as session:
        assert session.ask({"ids": [1]}) == ("OK", {"heard": "half"})
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})


@pytest.mark.parametrize("kind", ("c", "aarch64"), indirect=True)
def test_signals_interrupt_no_request(built, kind, tmp_path):
    slow = says(b"", *[b" "] * 25, b'{"id":ID}\n', pause=0.1)
    with Fake(tmp_path / "s", slow) as fake, Session(built, kind, fake.path, more=["signals"]) as session:
        assert session.ask({"ids": [1]}) == ("OK", {})
        assert session.ask({"ids": [2]}) == ("OK", {"heard": [2]})


def test_requests_that_c_refuses_to_send(built, tmp_path):
    with Fake(tmp_path / "s", good) as fake, Session(built, "c", fake.path) as session:
        no_json = ("", " ", "[2]", '{"ids": [2]', '{"ids": [2]} x', '{"ids": [01]}', '{"x": "\\q"}', '{"x": "\\ud800"}')
        for wrong in (*no_json, '{"id": 5, "ids": [2]}'):
            session.process.stdin.write(wrong + "\n")
            session.process.stdin.flush()
            assert session.receive()[0] == "BadRequest", wrong
        for right in ("{}", " { } ", '\t{"ids":[2,-1.5e+3,0],"x":{"id":[{}, [], "\\u00fc"]}}'):
            session.process.stdin.write(right + "\n")
            session.process.stdin.flush()
            assert session.receive()[0] == "OK", right
        assert fake.requests[2]["x"] == {"id": [{}, [], "\u00fc"]}
        assert [request.get("id") for request in fake.requests] == [1, 2, 3]


def test_a_python_client_is_closed_and_interrupted(tmp_path):
    client = module()
    with Fake(tmp_path / "s", hangs) as fake:
        asked = client.Client(fake.path, timeout=20)
        threading.Timer(0.3, asked.close).start()
        begin = time.monotonic()
        with pytest.raises(client.ConnectionFailed, match="closed"):
            asked.ask_ids([2])
        with pytest.raises(client.ConnectionFailed, match="closed"):
            asked.ask_ids([2])
        assert time.monotonic() - begin < 5
    with Fake(tmp_path / "s", hangs, good) as fake, client.Client(fake.path, timeout=20) as asked:

        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                asked.ask_ids([2])
        finally:
            signal.signal(signal.SIGALRM, before)
        assert asked.ask_ids([3]) == {"heard": [3]}


def test_wrong_arguments_of_python_are_refused_before_sending(tmp_path):
    client = module()
    with Fake(tmp_path / "s", good) as fake, client.Client(fake.path) as asked:
        for wrong in ([1.5], ["2"], [None]):
            with pytest.raises(TypeError):
                asked.ask_ids(wrong)
        for wrong in ("a text", {"ids": [2]}, b"ab", [[2], 7], [b"ab"], [["a", "b"]]):
            with pytest.raises(TypeError):
                asked.batch(wrong)
        with pytest.raises(ValueError):
            asked.request({"ids": [float("nan")]})
        with pytest.raises(ValueError):
            asked.batch([[2], "\ud800"])
        assert fake.requests == []
    for options in ({"timeout": 0}, {"timeout": float("inf")}, {"reconnect": -1}, {"limit": 0}, {"window": 0}):
        with pytest.raises(ValueError):
            client.Client(fake.path, **options)


def test_a_node_client_is_closed_while_it_asks(built, tmp_path):
    if "node" not in built:
        pytest.skip("node is not installed")
    source = """
        import assert from "node:assert";
        const [folder, path] = process.argv.slice(1);
        const { Client, ConnectionFailed, AnswerTimeout } = await import(folder + "/thimble-client.mjs");
        const client = await Client.open(path, { timeout: 20 });
        setTimeout(() => client.close(), 200);
        const both = await Promise.allSettled([client.askIds([2]), client.batch([[3], [4]])]);
        for (const { reason } of both) assert(reason instanceof ConnectionFailed && /closed/.test(reason.message));
        await assert.rejects(client.askIds([2]), ConnectionFailed);
        await assert.rejects(client.batch("a text"), TypeError);
        await assert.rejects(client.batch([7]), TypeError);
        assert.throws(() => new Client(path, { timeout: 0 }), RangeError);
        assert.throws(() => new Client("x".repeat(200)), TypeError);
        // One call's time is over, and the connection goes on for the other.
        const slow = new Client(path, { timeout: 0.5 });
        const [late, answers] = await Promise.allSettled([slow.askIds([9]), slow.batch([[1], [2], [3], [4]])]);
        assert(late.reason instanceof AnswerTimeout);
        assert.deepEqual(answers.value.map((a) => a.heard), [[1], [2], [3], [4]]);
        slow.close();
    """

    def slow(fake, peer):
        while (request := fake.request(peer)) is not None:
            if request["ids"] != [9]:
                time.sleep(0.3)
                peer.sendall(json.dumps({"id": request["id"], "heard": request["ids"]}).encode() + b"\n")

    with Fake(tmp_path / "s", hangs, slow) as fake:
        program(built, "node", source, fake.path)


def module():
    spec = importlib.util.spec_from_file_location("thimble_client", CLIENTS / "python/thimble_client.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_python_client_is_written_for_old_pythons():
    source = (CLIENTS / "python/thimble_client.py").read_text()
    ast.parse(source, feature_version=(3, 9))
    imported = {name.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for name in node.names}
    assert imported <= sys.stdlib_module_names


def test_programs_of_the_page_are_answered(built, served, tmp_path):
    """The page's programs and commands in one folder with copies of the clients, as a reader would have them."""
    text = (ROOT / "docs/clients.md").read_text()
    texts = raw(served.path, {"op": "ping"})["text"]
    for name in ("python/thimble_client.py", "node/thimble-client.mjs", "c/thimble_client.h", "c/thimble_client.c", "c/ask.c"):
        shutil.copy(CLIENTS / name, tmp_path)
    shutil.copytree(CLIENTS, tmp_path / "clients")
    found = {"python": "program.py", "js": "program.mjs", "c": "program.c"}
    for language, name in found.items():
        (source,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)
        assert "/run/deb.sock" in source
        (tmp_path / name).write_text(source.replace("/run/deb.sock", str(served.path)))
    commands = [[sys.executable, "program.py"]]
    if "node" in built:
        commands.append(["node", "program.mjs"])
    subprocess.run(["cc", *STRICT, "program.c", "thimble_client.c", "-o", "program"], cwd=tmp_path, check=True)
    commands.append(["./program"])
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "perl" in done.stdout, done
    (tmp_path / "requests.jsonl").write_text('{"ids": [2, 17, 3]}\n' * 3)
    ran = 0
    for line in "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M)).replace("\\\n", " ").splitlines():
        line = re.sub(r"\s#.*", "", line).replace("/run/deb.sock", shlex.quote(str(served.path)))
        if not line or line.startswith("thimble-device") or ("node" not in built and line.startswith("node")):
            continue
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        refused = "--text" in line and not texts
        assert done.returncode == int(refused), (line, done)
        ran += 1
    assert ran >= 4
    assert (tmp_path / "answers.jsonl").read_text().count("\n") == 3
