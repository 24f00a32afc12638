"""What the tests of faults and scripts/kill-loop share: a board played by a directory and tests/faults/ssh, a card's image, a model
with a data file, and what there is to be looked at after a fault. Needs nothing but the standard library.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNIT = "thimble.service"
TOOLS = os.environ["PATH"] + ":/usr/sbin:/sbin"


def device_program(path, seed, size=300_000):
    """A file that passes for an aarch64 program by its head."""
    head = bytearray(b"\x7fELF\x02\x01\x01".ljust(64, b"\0"))
    head[18] = 183
    path.write_bytes(bytes(head) + random.Random(seed).randbytes(size))
    path.chmod(0o755)
    return path


class Board:
    """A directory that plays a board to `thimble deploy`. `disk` is where its home lies, `free` what its df tells in KiB."""

    def __init__(self, folder, device, disk=None, free=None):
        self.folder = pathlib.Path(folder)
        self.home = self.folder / "home"
        self.folder.mkdir(parents=True)
        if disk:
            self.home.symlink_to(disk)
        else:
            self.home.mkdir()
        programs = {
            "uname": '[ "$1" = -m ] && echo aarch64 && exit\nexec /bin/uname "$@"',
            "board-bench": f'exec {device} "$@"',
        }
        if free is not None:
            programs["df"] = f"echo Filesystem; echo disk 9 9 {free} 1% /"
        (self.folder / "bin").mkdir()
        for name, text in programs.items():
            path = self.folder / "bin" / name
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    def environment(self):
        path = f"{ROOT / 'tests' / 'faults'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "IMITATED_BOARD": str(self.folder)}

    def settled(self):
        """Waits until nothing runs on the board."""
        with open(self.folder / "busy", "a") as busy:
            fcntl.flock(busy, fcntl.LOCK_EX)

    def deploy(self, thimble, model, program, history):
        """The command, with as short a measurement as there is."""
        where = ["--target", "pi-4", "--to", "board", "--dir", "there", "--history", history]
        return [thimble, "deploy", model, *where, "--device-program", program, "--seq", "8", "--runs", "1"]


def broken_lines(history):
    """Lines of a history that are no report."""
    wrong = []
    lines = history.read_text().splitlines() if history.exists() else []
    for line in filter(None, lines):
        try:
            json.loads(line)["report"]["model"]["sha256"]
        except (ValueError, KeyError):
            wrong.append(line)
    return wrong


def tool(*command, check=True):
    environment = {**os.environ, "PATH": TOOLS}
    return subprocess.run([str(c) for c in command], check=check, capture_output=True, text=True, env=environment)


def has_ext4():
    return all(shutil.which(name, path=TOOLS) for name in ("mke2fs", "e2fsck", "debugfs"))


def image(path, folder, size="8M"):
    """A bare ext4 root file system; `folder` is made for its content."""
    for directory in ("usr/bin", "etc", "bin"):
        (folder / directory).mkdir(parents=True)
    (folder / "etc/os-release").write_text("ID=raspbian\n")
    device_program(folder / "bin/sh", 7, 1000)
    tool("mke2fs", "-q", "-t", "ext4", "-d", folder, path, size)
    return path


def sound(path):
    return tool("e2fsck", "-fn", path, check=False).returncode == 0


def dumped(path, name, into):
    """A file's bytes in an image; None where it is not there."""
    into.unlink(missing_ok=True)
    tool("debugfs", "-R", f"dump /{name} {into}", path)
    return into.read_bytes() if into.exists() else None


def root(folder):
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/os-release").write_text("ID=raspbian\n")
    return folder


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def with_data(path, seed, layers=6, width=256, name=None):
    """An ONNX file of MatMuls whose weights lie in a file beside it: `path`, and PATH.bin, or what `name` makes of its SHA-256.
    The first stands there twice."""
    first, numbers = random.Random(seed), random.Random(seed)
    draws = [first if layer == layers - 1 else numbers for layer in range(layers)]
    weights = [b"".join(bytes([0, 0, draw.randrange(256), 0x3C]) for _ in range(width * width)) for draw in draws]
    beside = name(hashlib.sha256(b"".join(weights)).hexdigest()) if name else f"{path.name}.bin"
    graph = b""
    for layer, raw in enumerate(weights):
        place = {"location": beside, "offset": str(layer * len(raw)), "length": str(len(raw))}
        entries = b"".join(field(13, field(1, key) + field(2, value)) for key, value in place.items())
        # dims, data_type FLOAT, name, the place, data_location EXTERNAL
        graph += field(5, field(1, width) + field(1, width) + field(2, 1) + field(8, f"w{layer}") + entries + field(14, 1))
        graph += field(1, field(1, f"x{layer}") + field(1, f"w{layer}") + field(2, f"x{layer + 1}") + field(4, "MatMul"))
    graph += field(2, "chain")
    for number, name in ((11, "x0"), (12, f"x{layers}")):
        shape = field(1, field(2, "n")) + field(1, field(1, width))
        graph += field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, shape))))
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 17)))
    path.with_name(beside).write_bytes(b"".join(weights))
    return path


def checkpoints(folder):
    """Two checkpoints with a tokenizer each, which differ a little."""
    a, b = folder / "a", folder / "b"
    for to in (a, b):
        shutil.copytree(ROOT / "models" / "albert-deb", to)
        (to / "spiece.model").unlink()
    tokenizer = json.loads((b / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][-1][1] -= 0.25
    (b / "tokenizer.json").write_text(json.dumps(tokenizer))
    return a, b


def leftovers(folder):
    """Temporary files and passing names below a folder."""
    hidden = [p for p in pathlib.Path(folder).rglob(".thimble-*.part")]
    passing = [p for p in pathlib.Path(folder).rglob("*.data") if len(p.name.split(".")[-2]) == 16]
    return hidden + passing
