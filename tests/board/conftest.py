"""The virtual board with sshd, for the true `thimble deploy`. THIMBLE_BIN is the directory of the host's programs,
THIMBLE_DEVICE the aarch64 device program (scripts/cross-build prints it); scripts/test-board sets both."""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ["THIMBLE_BIN"])
DEVICE = Path(os.environ["THIMBLE_DEVICE"])


def thimble(*args, code=0, **kw):
    done = subprocess.run([BIN / "thimble", *map(str, args)], capture_output=True, text=True, timeout=400, **kw)
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done


def free_ports():
    """Two neighbouring ports nobody listens on."""
    for port in range(22420, 23400, 2):
        try:
            for p in (port, port + 1):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", p))
            return port
        except OSError:
            continue
    raise RuntimeError("no free ports")


class Board:
    def __init__(self, directory, port):
        self.directory, self.port = directory, port
        self.config = directory / "ssh_config"

    def run(self, command):
        ssh = ["ssh", "-F", str(self.config), "board", command]
        return subprocess.run(ssh, capture_output=True, text=True, timeout=60, check=True).stdout

    def deploy(self, file, *args, host="board", config=None, code=0, target="pi-4", runs=3):
        where = self.directory / "history.jsonl"
        done = thimble(
            "deploy", file, "--target", target, "--to", host, "--ssh-config", config or self.config,
            "--device-program", DEVICE, "--history", where, "--seq", 8, "--runs", runs, "--json", *args, code=code,
        )  # fmt: skip
        return json.loads(done.stdout)["boards"][0], done


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    directory = tmp_path_factory.mktemp("board")
    port = free_ports()
    script = ROOT / "scripts/virtual-board"
    subprocess.run([script, "start", directory, "--port", str(port)], check=True, timeout=400)
    yield Board(directory, port)
    subprocess.run([script, "stop", directory], check=True)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The trained classifier in int8, with its tokenizer beside it."""
    out = tmp_path_factory.mktemp("model") / "deb.onnx"
    thimble("export", ROOT / "models/albert-deb", "-o", out, "--precision", "int8")
    return out


@pytest.fixture(scope="session")
def albert_base(tmp_path_factory):
    """Makes albert-base-v2's shape with random weights, in a precision."""
    directory = tmp_path_factory.mktemp("base")
    subprocess.run([BIN / "examples/albert_base_rand", directory / "src"], check=True)

    def export(precision):
        out = directory / f"base-{precision}.onnx"
        if not out.exists():
            thimble("export", directory / "src", "-o", out, "--precision", precision)
        return out

    return export
