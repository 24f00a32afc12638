"""What the tests of served boards and scripts/power-cuts share: a virtual board with Debian and systemd (scripts/debian-board), two
models, packages of them, and what the board's own program says of each. Needs nothing but the standard library.
"""

import json
import os
import pathlib
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/debian-board"
MAINTAINER = "Test <test@example.org>"
IDS = [2, 119, 50, 13, 343, 3]
TEXT = "Perl module to parse ISO 8601 dates"
# The two models that take each other's place, and the formats that make them different.
FORMATS = {"old": "int8", "new": "int4"}
# Virtual boards wait for the machine they run on.
LONG = int(os.environ.get("THIMBLE_BOARD_WAIT", "900"))


class Programs:
    """The host's programs and the board's."""

    def __init__(self):
        self.host = pathlib.Path(os.environ["THIMBLE_BIN"]) / "thimble"
        self.device = pathlib.Path(os.environ["THIMBLE_DEVICE"])

    def thimble(self, *args, code=0, check=True, **kw):
        done = subprocess.run([str(self.host), *map(str, args)], capture_output=True, text=True, timeout=2 * LONG, **kw)
        assert not check or done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
        return done

    def models(self, folder):
        """Both models under the same file name, and a package of each, the new one with the higher version."""
        made = {}
        for number, (which, precision) in enumerate(FORMATS.items(), 1):
            at = folder / which
            at.mkdir(parents=True)
            model = at / "deb.onnx"
            self.thimble("export", ROOT / "models/albert-deb", "-o", model, "--precision", precision)
            package = at / "thimble-model.deb"
            options = ["--device-program", self.device, "--maintainer", MAINTAINER, "--release", f"{number}.0"]
            self.thimble("package", model, "-o", package, *options)
            made[which] = (model, package)
        return made


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Board:
    """A board whose disk lies in `folder`; off until it is started."""

    def __init__(self, folder):
        self.folder, self.port = pathlib.Path(folder), free_port()
        self.config = self.folder / "ssh_config"

    def start(self):
        subprocess.run([SCRIPT, "start", self.folder, "--port", str(self.port)], check=True, timeout=10 * LONG)

    def cut(self):
        subprocess.run([SCRIPT, "cut", self.folder], check=True, timeout=120)

    def stop(self):
        subprocess.run([SCRIPT, "stop", self.folder], check=True, timeout=300)

    def ssh(self, command, host="board"):
        return ["ssh", "-F", str(self.config), "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=40", host, command]

    def run(self, command, host="board", code=0, check=True, **kw):
        done = subprocess.run(self.ssh(command, host), capture_output=True, text=True, timeout=LONG, **kw)
        assert not check or done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def send(self, file, name):
        with open(file, "rb") as content:
            subprocess.run(self.ssh(f"cat > {name} && sync"), stdin=content, check=True, timeout=LONG)

    def expected(self, models, program):
        """The outputs of each model on this board's CPU, from the program alone: what a server must say to the bit."""
        self.run("mkdir -p /srv/expected")
        self.send(program, "/srv/expected/thimble-device")
        self.run("chmod 755 /srv/expected/thimble-device")
        said = {}
        for which, (model, _) in models.items():
            self.send(model, f"/srv/expected/{which}.onnx")
            ask = json.dumps({"ids": IDS})
            line = self.run(f"/srv/expected/thimble-device serve /srv/expected/{which}.onnx", input=ask + "\n")
            said[which] = json.loads(line)["outputs"]
        assert said["old"] != said["new"]
        return said

    def ask(self, program="/usr/bin/thimble-device", host="pi"):
        """One answer of the server, asked by a user who is nobody special."""
        ids = ",".join(map(str, IDS))
        line = self.run(f"{program} ask --socket /run/thimble.sock --json --timeout {LONG} --ids {ids}", host=host)
        return json.loads(line)["outputs"]

    def answers_as(self, expected, **kw):
        """Which of the models answers."""
        end = time.monotonic() + LONG
        while True:
            try:
                said = self.ask(**kw)
                break
            except AssertionError:
                # The server of a board that has just started may not listen yet.
                if time.monotonic() > end:
                    raise
                time.sleep(2)
        which = [name for name, outputs in expected.items() if outputs == said]
        assert len(which) == 1, f"neither the old nor the new model's answer: {said}"
        return which[0]

    def deploy(self, programs, model, *args, host="board", check=True):
        return programs.thimble(
            "deploy", model, "--target", "pi-4", "--to", host, "--ssh-config", self.config, "--device-program", programs.device,
            "--history", self.folder / "history.jsonl", "--seq", 8, "--runs", 2, "--serve", *args, check=check,
        )  # fmt: skip
