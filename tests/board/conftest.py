"""The virtual board with sshd, for the true `thimble deploy`. THIMBLE_BIN is the directory of the host's programs,
THIMBLE_DEVICE the aarch64 device program (scripts/cross-build prints it); scripts/test-board sets both, and THIMBLE_DEVICE_ARMV7 for
the boards of 32 bits."""

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


def without_device():
    """This environment without the variable that names the device program: for what thimble chooses itself."""
    return {name: value for name, value in os.environ.items() if name != "THIMBLE_DEVICE"}


def with_devices(folder, *devices):
    """The environment in which thimble finds these programs by itself, and no others but those that are built."""
    data = folder / "data/thimble"
    data.mkdir(parents=True, exist_ok=True)
    for name, program in devices:
        (data / name).write_bytes(program.read_bytes())
    return {**without_device(), "XDG_DATA_HOME": str(folder / "data")}


def free_ports(first=22420):
    """Two neighbouring ports nobody listens on."""
    for port in range(first, first + 980, 2):
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

    def deploy(self, file, *args, host="board", config=None, code=0, target="pi-4", runs=3, program=DEVICE, env=None):
        where = self.directory / "history.jsonl"
        named = ["--device-program", program] if program else []
        done = thimble(
            "deploy", file, "--target", target, "--to", host, "--ssh-config", config or self.config,
            *named, "--history", where, "--seq", 8, "--runs", runs, "--json", *args, code=code, env=env,
        )  # fmt: skip
        return json.loads(done.stdout)["boards"][0], done


def started(directory, first, *options):
    port = free_ports(first)
    script = ROOT / "scripts/virtual-board"
    subprocess.run([script, "start", directory, "--port", str(port), *options], check=True, timeout=400)
    yield Board(directory, port)
    subprocess.run([script, "stop", directory], check=True)


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("board"), 22420)


@pytest.fixture(scope="module")
def board32(tmp_path_factory):
    """A system and a kernel of 32 bits."""
    yield from started(tmp_path_factory.mktemp("board32"), 24420, "--system", "armhf")


@pytest.fixture(scope="module")
def mixed_board(tmp_path_factory):
    """A system of 32 bits on a kernel of 64, as Raspberry Pi OS has them."""
    yield from started(tmp_path_factory.mktemp("mixed"), 25420, "--system", "armhf", "--kernel", "arm64")


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
