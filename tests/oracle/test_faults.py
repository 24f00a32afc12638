"""What a full disk, a read-only file system, lost permissions or a second writer do to every command that writes: an error that
names the place, exit code 2, the old files as they were, nothing left behind. Kills are scripts/kill-loop's.
"""

import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import pytest

from bench import ROOT

sys.path.insert(0, str(ROOT / "tests" / "faults"))
import board as faults  # noqa: E402
from stages import Makers  # noqa: E402

STAGES = ("export", "shrink", "slim", "slim, data file", "package", "report", "install --rootfs", "install --image")
NOBODY = 65534


@pytest.fixture(scope="module")
def makers(thimble):
    # Not pytest's own place, which only its user may enter.
    work = pathlib.Path(tempfile.mkdtemp(prefix="thimble-faults-"))
    work.chmod(0o755)
    programs = work / "programs"
    programs.mkdir()
    for program in (thimble.host, thimble.device):
        shutil.copy(program, programs)
    yield Makers(work, programs)
    shutil.rmtree(work)


@pytest.fixture
def at(makers):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="at-", dir=makers.thimble.parents[1]))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", "-q", folder], stderr=subprocess.DEVNULL)


def mount(*arguments):
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this system does not let root mount: {done.stderr.strip()}")


def written(makers, name, at):
    """The stage with its first content in place."""
    if name not in (all_stages := makers.all()):
        pytest.skip("mke2fs is missing")
    stage = all_stages[name](at)
    run(stage, 0)
    return stage


def run(stage, which, code=0, **options):
    done = subprocess.run(
        [str(c) for c in stage.command(which)], env=stage.environment, capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == code, f"exit {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    return done


def everything(at):
    """Every file below and its content; the cache is nobody's output."""
    files = {p: p.read_bytes() for p in at.rglob("*") if p.is_file() and not p.is_symlink()}
    return {p: data for p, data in files.items() if at / "cache" not in p.parents and p.name != "filler"}


def refused(done, at, *words):
    """One error, which names the place and the cause."""
    assert "panicked" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and str(at) in errors[0], done.stderr
    assert any(word in errors[0].lower() for word in words), errors[0]


def fill(folder, free=8 << 10):
    """Leaves some bytes of a file system."""
    with open(folder / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(1 << 16))
        except OSError:
            pass
        filler.truncate(max(0, filler.tell() - free))


@pytest.mark.parametrize("name", STAGES)
def test_a_full_disk(makers, at, name):
    mount("-t", "tmpfs", "-o", "size=16m,mode=755", "full", at)
    stage = written(makers, name, at)
    before = everything(at)
    fill(at)
    refused(run(stage, 1, code=2), at, "no space left", "no storage space")
    assert everything(at) == before
    (at / "filler").unlink()
    old = stage.state()
    run(stage, 1)
    assert stage.state() != old and not stage.leftovers()


@pytest.mark.parametrize("name", STAGES)
def test_a_limit_on_the_size_of_files(makers, at, name):
    """ulimit -f, which by default ends a program without a word."""
    stage = written(makers, name, at)
    before = everything(at)
    limited = run(stage, 1, code=2, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
    refused(limited, at, "file too large")
    assert everything(at) == before


@pytest.mark.parametrize("name", STAGES)
def test_a_read_only_file_system(makers, at, name):
    stage = written(makers, name, at)
    before = everything(at)
    mount("--bind", at, at)
    mount("-o", "remount,ro,bind", at)
    refused(run(stage, 1, code=2), at, "read-only")
    assert everything(at) == before


@pytest.mark.parametrize("name", STAGES)
def test_lost_permissions(makers, at, name):
    stage = written(makers, name, at)
    before = everything(at)
    if os.getuid() == 0:
        lost = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    else:
        folders = [at, *(p for p in at.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        lost = {}
    try:
        refused(run(stage, 1, code=2, **lost), at, "permission denied")
    finally:
        for folder in [] if lost else folders:
            folder.chmod(0o755)
    assert everything(at) == before


def test_a_second_name_that_cannot_be_taken_gives_the_first_back(makers, at):
    """In a sticky directory only its owner may replace a file, which shows when the new one is to take its place."""
    if os.getuid() != 0:
        pytest.skip("only root can give files to others")
    stage = written(makers, "export", at)
    os.chown(at / "m.onnx", NOBODY, NOBODY)
    at.chmod(0o1777)
    before = everything(at)
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    refused(run(stage, 1, code=2, **nobody), at / "m.tokenizer.json", "not permitted")
    assert everything(at) == before
    # Where there was no old one, there is no new one.
    (at / "m.onnx").unlink()
    refused(run(stage, 1, code=2, **nobody), at / "m.tokenizer.json", "not permitted")
    assert [p.name for p in at.iterdir()] == ["m.tokenizer.json"]


@pytest.mark.parametrize("name", STAGES)
def test_two_writers_at_once(makers, at, name):
    stage = written(makers, name, at)
    whole = [stage.state()]
    run(stage, 1)
    whole.append(stage.state())
    for _ in range(3 if name == "shrink" else 10):
        writers = [stage.start(which) for which in (0, 1)]
        for writer in writers:
            said = writer.communicate()[1]
            assert writer.returncode == 0, said
        assert stage.state() in whole
    assert not stage.leftovers()


def test_an_abandoned_file_is_cleared_and_a_held_one_is_not(makers, at):
    import fcntl

    stage = written(makers, "export", at)
    abandoned, held = at / ".thimble-aaaaaa.part", at / ".thimble-bbbbbb.part"
    abandoned.write_bytes(b"x")
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run(stage, 1)
        assert not abandoned.exists() and held.exists()
    assert f"removed {abandoned.name}" in done.stderr


def test_a_history_takes_a_line_wholly_or_not_at_all(makers, at):
    """The board is elsewhere; the disk with the history is full when the measurement is done."""
    disk = at / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "full", disk)
    try:
        stage = makers.deploy(at)
        history = disk / "history.jsonl"
        command = stage.command
        stage.command = lambda which: [history if c == stage.history else c for c in command(which)]
        run(stage, 0)
        # A page is given in one piece: what is free ends within a line.
        history.write_bytes(history.read_bytes() + b"\n" * (4096 - history.stat().st_size % 4096 - 100))
        before = history.read_bytes()
        fill(disk, 0)
        done = run(stage, 1, code=2)
        refused(done, history, "no space left")
        assert "measured, but not added" in done.stderr and '{"schema":' in done.stdout, "what was measured is not lost"
        assert history.read_bytes() == before
        (disk / "filler").unlink()
        run(stage, 1)
        assert not faults.broken_lines(history)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("fault", ("read-only", "permission denied"))
def test_a_history_that_cannot_be_written_is_known_before_anything_is_sent(makers, at, fault):
    closed = at / "closed"
    closed.mkdir()
    stage = makers.deploy(at)
    command = stage.command
    stage.command = lambda which: [closed / "history.jsonl" if c == stage.history else c for c in command(which)]
    if fault == "read-only":
        mount("--bind", closed, closed)
        mount("-o", "remount,ro,bind", closed)
        options = {}
    else:
        closed.chmod(0o555)
        options = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}
    try:
        refused(run(stage, 0, code=2, **options), closed, fault)
        assert not list(stage.board.home.iterdir())
    finally:
        if fault == "read-only":
            subprocess.run(["umount", closed], check=True)


def test_a_board_whose_disk_fills_up(makers, at):
    """It told of room; while the model came, another took it."""
    disk = at / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "full", disk)
    try:
        stage = makers.deploy(at / "deploy", disk=disk, free=100_000)
        run(stage, 0)
        before = everything(disk)
        # The program fits, the model does not.
        fill(disk, 700_000)
        done = run(stage, 1, code=2)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
        assert len(errors) == 1 and "m.onnx" in errors[0] and "No space left" in errors[0], done.stderr
        assert everything(disk) == before and not stage.leftovers()
        (disk / "filler").unlink()
        run(stage, 1)
        assert everything(disk) != before
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_deploys_to_one_board(makers, at):
    stage = makers.deploy(at)
    whole = []
    for which in (0, 1):
        run(stage, which)
        whole.append(stage.state())
    for _ in range(3):
        writers = [stage.start(which) for which in (0, 1)]
        for writer in writers:
            said = writer.communicate()[1]
            # Which of the two is there is measured; the other is told so.
            assert writer.returncode == 0 or "was replaced while it was measured" in said, said
        assert stage.state() in whole
    assert not stage.leftovers() and not faults.broken_lines(stage.history)


def test_a_data_file_keeps_its_name_over_an_older_one(makers, at):
    """Whatever stood there: the same input gives the same bytes under the same names."""
    fresh, over = at / "fresh", at / "over"
    for folder in (fresh, over):
        folder.mkdir()
    run(makers.slim_with_data(fresh), 0)
    for which in (0, 1, 0):
        run(makers.slim_with_data(over), which)
    assert {p.name: p.read_bytes() for p in fresh.iterdir()} == {p.name: p.read_bytes() for p in over.iterdir()}
    assert sorted(p.name for p in over.iterdir()) == ["m.onnx", "m.onnx.data"]


def test_what_a_killed_slim_left_goes_unless_it_is_read(makers, at):
    """Killed halfway, a model refers to its data under a passing name; a copy of that model still does."""
    stage = makers.slim_with_data(at)
    run(stage, 0)
    passing = []
    for seed in (7, 8):
        faults.with_data(at / f"copy{seed}.onnx", seed, name=lambda digits: f"m.onnx.{digits[:16]}.data")
        passing = [p for p in at.iterdir() if len(p.name.split(".")) == 4]
    assert len(passing) == 2
    done = subprocess.run([makers.thimble, "slim", at / "copy7.onnx", "-o", at / "m.onnx"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = [p for p in passing if p.exists()]
    assert len(left) == 1
    for model, code in (("copy7.onnx", 0), ("m.onnx", 0), ("copy8.onnx", 2)):
        reads = [makers.thimble, "slim", at / model, "-o", at / "read.onnx"]
        assert subprocess.run(reads, capture_output=True).returncode == code
