"""A socket that systemd keeps (LISTEN_FDS), and `thimble-device ask`: servers come and go, and no request is lost."""

import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import pytest

IDS = [2, 119, 50, 13, 343, 3]


class Kept:
    """A listening socket in this process's hands, and servers that are started with it as descriptor 3."""

    def __init__(self, thimble, model, path):
        self.thimble, self.model, self.path = thimble, model, path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)

    def start(self, *options, count="1", fd=None):
        fd = self.listener.fileno() if fd is None else fd
        script = f'exec 3<&{fd}; export LISTEN_PID=$$ LISTEN_FDS={count} NOTIFY_SOCKET="$0"; exec "$@"'
        command = ["bash", "-c", script, self.path.parent / "notify", self.thimble.device, "serve", self.model, "--threads", "1", *options]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[fd])


@pytest.fixture
def kept(thimble, models, tmp_path):
    kept = Kept(thimble, models.export("albert-deb", "int8"), tmp_path / "s")
    yield kept
    kept.listener.close()


def ask(path, request):
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(120)
        peer.connect(str(path))
        lines = peer.makefile("rw")
        print(json.dumps(request), file=lines, flush=True)
        return json.loads(lines.readline())


def test_a_passed_socket_is_served_and_kept(kept, tmp_path):
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(tmp_path / "notify"))
    told.settimeout(120)
    first = kept.start()
    assert told.recv(64) == b"READY=1", "it is ready when it serves, not before"
    answer = ask(kept.path, {"id": 1, "ids": IDS})
    assert answer["label"] == "perl"
    first.terminate()
    assert told.recv(64) == b"STOPPING=1"
    assert first.wait(30) == 0 and kept.path.exists(), "the socket is systemd's: it stays"
    # A client that comes while nobody serves waits for the next server.
    waiting = []
    client = threading.Thread(target=lambda: waiting.append(ask(kept.path, {"id": 2, "ids": IDS})))
    client.start()
    time.sleep(0.3)
    second = kept.start()
    client.join(120)
    assert waiting and waiting[0]["outputs"] == answer["outputs"]
    second.terminate()
    assert second.wait(30) == 0


def test_no_request_is_lost_while_servers_are_replaced(kept):
    """Each of these clients connects, asks and reads, again and again. What was sent is answered; a connection that ends before
    anything was sent is made anew."""
    stop, answered, lost = threading.Event(), [], []

    def client(number):
        while not stop.is_set():
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(120)
                peer.connect(str(kept.path))
                try:
                    peer.sendall((json.dumps({"id": number, "ids": IDS}) + "\n").encode())
                except BrokenPipeError:
                    continue
                line = peer.makefile().readline()
            (answered if line and "label" in json.loads(line) else lost).append(line)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    server = kept.start()
    for one in clients:
        one.start()
    for _ in range(8):
        before = len(answered)
        deadline = time.monotonic() + 120
        while len(answered) < before + 10 and time.monotonic() < deadline:
            time.sleep(0.01)
        server.terminate()
        assert server.wait(60) == 0
        server = kept.start()
    stop.set()
    for one in clients:
        one.join(120)
    server.terminate()
    assert server.wait(30) == 0
    assert not lost, lost[:3]
    assert len(answered) > 80


def test_ask_goes_on_when_the_server_is_killed(kept, thimble):
    server = kept.start()
    texts = "".join(f'{{"ids": {IDS}}}\n' for _ in range(60))
    command = [thimble.device, "ask", "--socket", kept.path, "--json"]
    asking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    threading.Thread(target=lambda: (asking.stdin.write(texts), asking.stdin.close())).start()
    lines = [asking.stdout.readline()]
    for _ in range(2):
        server.kill()
        server.wait()
        server = kept.start()
        lines.append(asking.stdout.readline())
    lines += asking.stdout.readlines()
    assert asking.wait(120) == 0 and len(lines) == 60
    assert {json.loads(line)["label"] for line in lines} == {"perl"}
    server.terminate()
    server.wait(30)


def test_ask_in_words(kept, thimble, tmp_path):
    server = kept.start()
    told = lambda *args, code=0, **kw: thimble.run("ask", "--socket", kept.path, *args, program=thimble.device, code=code, **kw)  # noqa: E731
    assert told("--ids", ",".join(map(str, IDS))).stdout.startswith("perl  9")
    answer = json.loads(told("--json", input='{"id": "x", "ids": [2, 17, 3]}\n').stdout)
    assert answer["id"] == "x" and "label" in answer
    refused = told("--ids", "2,4000,3", code=1)
    assert "ids[1] is 4000" in refused.stderr and not refused.stdout
    assert "line" in told(input="{broken\n", code=2).stderr
    if "with text" in thimble.run("--version", program=thimble.device).stdout:
        words = "Perl module to parse ISO 8601 dates"
        assert told("--text", words).stdout.startswith("perl  95.6")
        shown = told(input=f"{words}\n\na game\n").stdout.splitlines()
        assert shown[0] == words and shown[1].startswith("  perl") and shown[2] == "a game" and len(shown) == 4
    server.terminate()
    server.wait(30)
    gone = thimble.run("ask", "--socket", tmp_path / "none", "--ids", "2,3", program=thimble.device, code=2)
    assert "no server there" in gone.stderr and len(gone.stderr.strip().splitlines()) == 1
    slow = told("--ids", "2,3", "--timeout", "0.2", code=2)
    assert "no answer within" in slow.stderr


def test_what_is_passed_wrongly_is_refused(kept, tmp_path):
    file = os.open("/dev/null", os.O_RDONLY)
    stream, other = socket.socketpair(socket.AF_UNIX)
    tcp = socket.create_server(("127.0.0.1", 0))
    for options, extra, part in [
        ([], {"count": "2"}, "one listening socket is served"),
        ([], {"count": "x"}, "one listening socket is served"),
        ([], {"fd": file}, "no listening Unix socket"),
        ([], {"fd": stream.fileno()}, "no listening Unix socket"),
        ([], {"fd": tcp.fileno()}, "no listening Unix socket"),
        (["--socket", tmp_path / "x"], {}, "leave --socket out"),
    ]:
        server = kept.start(*options, **extra)
        _, said = server.communicate(timeout=60)
        assert server.returncode == 2 and part in said.decode() and len(said.decode().strip().splitlines()) == 1, said
    os.close(file)
    other.close()
    # Variables that were meant for another process mean nothing: it reads stdin, which is at its end.
    left = dict(os.environ, LISTEN_PID="1", LISTEN_FDS="1")
    done = subprocess.run([kept.thimble.device, "serve", kept.model], env=left, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 0 and not pathlib.Path("LISTEN").exists()
