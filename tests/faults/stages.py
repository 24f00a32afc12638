"""Every command that writes files, as a stage of faults: it writes one of two contents, and what is there can be told afterwards.
For scripts/kill-loop and tests/oracle/test_faults.py; needs nothing but the standard library.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess

import board as faults


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Stage:
    """A command that writes `files`, one of two contents by `which`; `folders` are where they appear."""

    # Whether a kill may leave whole files of both runs: several names cannot change at one instant.
    may_mix = True

    def __init__(self, folder, command, files, folders=None, environment=None):
        self.folder, self.command, self.files = folder, command, files
        self.folders = folders or [folder]
        # Beside it: what befalls the place that is written to leaves this one alone.
        self.temporary = folder.with_name(folder.name + "-temporary")
        self.temporary.mkdir(exist_ok=True)
        self.temporary.chmod(0o1777)
        mine = {"THIMBLE_CACHE": str(folder / "cache"), "TMPDIR": str(self.temporary)}
        self.environment = {**(environment or os.environ), **mine}

    def start(self, which):
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        return subprocess.Popen([str(c) for c in self.command(which)], env=self.environment, **options)

    def kill(self, process):
        """Whether it was still at work."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.stderr.close()
        return process.wait() == -signal.SIGKILL

    def state(self):
        """What is there, by name."""
        return {f.name: digest(f.read_bytes()) for f in self.files if f.exists()}

    def problems(self):
        for cache in (self.folder / "cache").glob("*.json"):
            json.loads(cache.read_text())

    def leftovers(self):
        return [left for folder in self.folders for left in faults.leftovers(folder)] + list(self.temporary.iterdir())

    def marks(self):
        """What changes when a file appears or takes its place."""
        parts, places = set(), set()
        for folder in self.folders:
            try:
                parts.update(e.name for e in os.scandir(folder) if e.name.endswith(".part"))
            except OSError:
                pass
        for file in self.files:
            try:
                places.add(file.stat().st_ino)
            except OSError:
                pass
        return parts, places


class WithData(Stage):
    """slim with a data file: killed halfway, the model may refer to the same data under another name."""

    may_mix = False

    def state(self):
        model = self.files[0]
        again = self.folder / "again" / model.name
        again.parent.mkdir(exist_ok=True)
        # The two inputs have other shapes, so that a model beside the other's data is no model.
        for command in (["inspect", model], ["slim", model, "-o", again]):
            subprocess.run([self.program, *command], check=True, capture_output=True)
        return {f.name: digest(f.read_bytes()) for f in (again, again.with_name(again.name + ".data"))}


class Image(Stage):
    """An ext4 image, which must be sound; what lies in it is what counts."""

    known = None, None
    may_mix = False

    def state(self):
        image = self.files[0]
        now = digest(image.read_bytes())
        if self.known[0] != now:
            if not faults.sound(image):
                raise ValueError("e2fsck has something against the image")
            names = ["usr/share/thimble/m.onnx", "usr/share/thimble/m.tokenizer.json", "usr/bin/thimble-device"]
            names.append(f"usr/lib/systemd/system/{faults.UNIT}")
            dumped = {name: faults.dumped(image, name, self.folder / "dumped") for name in names}
            self.known = now, {name: digest(data) for name, data in dumped.items() if data is not None}
        return self.known[1]


class Deploy(Stage):
    """The host's program is killed; what runs on the board goes on to its end."""

    board = history = None

    def state(self):
        self.board.settled()
        return super().state()

    def problems(self):
        super().problems()
        if broken := faults.broken_lines(self.history):
            raise ValueError(f"the history has {broken[0][:60]!r}")

    def leftovers(self):
        return super().leftovers() + [p for p in (self.board.home / "there").iterdir() if p.name.endswith(".part")]


class DeployBoard(Deploy):
    """The shell on the board is killed, with all it runs; the host's program takes the link up again."""

    def kill(self, process):
        try:
            os.killpg(int((self.board.folder / "shell").read_text()), signal.SIGKILL)
            hit = True
        except (OSError, ValueError):
            hit = False
        # It gives up where the first look is killed, and says so.
        said = process.stderr.read()
        process.stderr.close()
        if process.wait() != 0 and "error: board: no connection" not in said:
            raise ValueError(f"deploy gave up: {said.strip().splitlines()[-1:]}")
        return hit


class Makers:
    """Makes what the stages read, once, in `work`; each stage is made in a folder of its own."""

    def __init__(self, work, programs):
        self.thimble, self.device = (pathlib.Path(programs).resolve() / name for name in ("thimble", "thimble-device"))
        self.source = faults.checkpoints(work)
        self.tiny, self.rows = work / "tiny", work / "rows.jsonl"
        shutil.copytree(faults.ROOT / "tests" / "fixtures" / "albert-tok-tiny", self.tiny)
        self.rows.write_text('{"input_ids": [2, 5, 3]}\n' * 12)
        self.plain, self.made, self.program, self.report = [], [], [], []
        for which, precision in enumerate(("int8", "fp16")):
            folder = work / f"made{which}"
            folder.mkdir()
            self.plain.append(faults.with_data(work / f"in{which}.onnx", which, *((6, 256), (4, 192))[which]))
            self.made.append(folder / "m.onnx")
            self.run("export", self.source[which], "-o", self.made[which], "--precision", precision)
            self.program.append(faults.device_program(work / f"program{which}", which))
            bench = [self.device, "bench", self.made[which], "--seq", "8", "--runs", "1", "--json"]
            self.report.append(work / f"report{which}.json")
            self.report[which].write_bytes(subprocess.run(bench, check=True, capture_output=True).stdout)

    def run(self, *command):
        subprocess.run([self.thimble, *command], check=True, capture_output=True)

    def stage(self, at, arguments, names, kind=Stage, **more):
        """One that writes files of these names below `at`."""
        stage = kind(at, lambda which: [self.thimble, *arguments(which)], [at / name for name in names], **more)
        stage.program = self.thimble
        return stage

    def export(self, at):
        return self.stage(at, lambda which: ["export", self.source[which], "-o", at / "m.onnx"], ["m.onnx", "m.tokenizer.json"])

    def shrink(self, at):
        options = ["--calibrate", self.rows, "--nearest", "--rows", "4", "-o", at / "m.onnx", "--budget"]
        return self.stage(at, lambda which: ["shrink", self.tiny, *options, ("30KiB", "34KiB")[which]], ["m.onnx"])

    def slim(self, at):
        return self.stage(at, lambda which: ["slim", self.plain[which], "--one-file", "-o", at / "m.onnx"], ["m.onnx"])

    def slim_with_data(self, at):
        return self.stage(at, lambda which: ["slim", self.plain[which], "-o", at / "m.onnx"], ["m.onnx", "m.onnx.data"], WithData)

    def package(self, at):
        def command(which):
            who = ["--maintainer", "N <n@example.org>", "--device-program", self.program[which]]
            return ["package", self.made[which], "-o", at / "m.deb", *who]

        return self.stage(at, command, ["m.deb"])

    def page(self, at):
        return self.stage(at, lambda which: ["report", self.report[which], "--html", at / "page.html"], ["page.html"])

    def install(self, which, *where):
        limit = ("40MiB", "50MiB")[which]
        options = ["--target", "pi-4", "--device-program", self.program[which], "--max-ram", limit]
        return ["install", self.made[which], *where, *options]

    def rootfs(self, at):
        root, lib, units = faults.root(at / "root"), "root/usr/share/thimble", "root/usr/lib/systemd/system"
        files = [f"{lib}/m.onnx", f"{lib}/m.tokenizer.json", "root/usr/bin/thimble-device", f"{units}/{faults.UNIT}"]
        return self.stage(at, lambda which: self.install(which, "--rootfs", root), files, folders=[at / lib, at / "root/usr/bin", at / units])

    def image(self, at):
        card = faults.image(at / "card.img", at / "tree")
        return self.stage(at, lambda which: self.install(which, "--image", card), ["card.img"], Image)

    def deploy(self, at, kind=None, **board):
        board, history = faults.Board(at / "board", self.device, **board), at / "history.jsonl"
        files = [f"board/home/there/{name}" for name in ("m.onnx", "m.tokenizer.json", "thimble-device")]

        def command(which):
            return board.deploy(self.thimble, self.made[which], self.program[which], history)[1:]

        more = {"folders": [board.home / "there"], "environment": board.environment()}
        stage = self.stage(at, command, files, kind or Deploy, **more)
        stage.board, stage.history = board, history
        return stage

    def all(self):
        stages = {
            "export": self.export,
            "shrink": self.shrink,
            "slim": self.slim,
            "slim, data file": self.slim_with_data,
            "package": self.package,
            "report": self.page,
            "install --rootfs": self.rootfs,
            "install --image": self.image,
            "deploy, host": self.deploy,
            "deploy, board": lambda at: self.deploy(at, DeployBoard),
        }
        if not faults.has_ext4():
            print("install --image is left out: mke2fs is missing (Debian: apt-get install e2fsprogs)")
            del stages["install --image"]
        return stages
