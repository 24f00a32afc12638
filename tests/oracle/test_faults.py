"""What a full disk, a read-only file system, lost permissions or a second writer do to every command that writes: an error that
names the place, exit code 2, the old files as they were, nothing left behind. Kills are scripts/kill-loop's.
"""

import fcntl
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


AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@pytest.mark.parametrize(
    "name, others, there",
    [
        ("export", "m.tokenizer.json", ["m.onnx", "m.tokenizer.json"]),
        ("export", "m.tokenizer.json", ["m.tokenizer.json"]),
        ("slim, data file", "m.onnx.data", ["m.onnx", "m.onnx.data"]),
        ("slim, data file", "m.onnx", ["m.onnx", "m.onnx.data"]),
        ("slim, data file", "m.onnx", ["m.onnx"]),
    ],
)
def test_a_name_that_cannot_be_taken_gives_the_others_back(makers, at, name, others, there):
    """In a sticky directory only its owner may replace a file, which shows when the new one is to take its place."""
    if os.getuid() != 0:
        pytest.skip("only root can give files to others")
    stage = written(makers, name, at)
    for file in stage.files:
        if file.name not in there:
            file.unlink()
        elif file.name != others:
            os.chown(file, NOBODY, NOBODY)
    at.chmod(0o1777)
    before = everything(at)
    refused(run(stage, 1, code=2, **AS_NOBODY), at / others, "not permitted")
    assert everything(at) == before
    assert sorted(p.name for p in at.iterdir() if p.name not in ("cache", "again")) == there


def test_what_cannot_be_given_back_is_said(makers, at):
    """Of a file that cannot be read no second name is kept: nobody could clear it up."""
    if os.getuid() != 0:
        pytest.skip("only root can give files to others")
    stage = written(makers, "export", at)
    os.chown(at / "m.onnx", NOBODY, NOBODY)
    (at / "m.onnx").chmod(0o200)
    at.chmod(0o1777)
    done = run(stage, 1, code=2, **AS_NOBODY)
    refused(done, at / "m.tokenizer.json", "not permitted")
    assert f"{at / 'm.onnx'} is already the new one and stays" in done.stderr
    assert not stage.leftovers()


@pytest.mark.parametrize("why", ("locked", "unreadable"))
def test_a_model_that_cannot_be_given_back_keeps_its_data(makers, at, why):
    """It is the new one by then, and refers to its data under their passing name."""
    if os.getuid() != 0:
        pytest.skip("only root can give files to others")
    stage = written(makers, "slim, data file", at)
    run(stage, 1)
    new = stage.state()
    run(stage, 0)
    assert stage.state() != new
    os.chown(at / "m.onnx", NOBODY, NOBODY)
    at.chmod(0o1777)
    with open(at / "m.onnx") as held:
        if why == "locked":
            fcntl.flock(held, fcntl.LOCK_EX)
        else:
            (at / "m.onnx").chmod(0o200)
        done = run(stage, 1, code=2, **AS_NOBODY)
    refused(done, at / "m.onnx.data", "not permitted")
    assert f"{at / 'm.onnx'} is already the new one and stays" in done.stderr
    assert stage.state() == new


def injected(what, command):
    """The command under strace, which makes some of its system calls fail, or kills it there."""
    inject = [word for one in what for word in ("-e", f"inject={one}")]
    calls = ",".join(one.split(":")[0] for one in what)
    return ["strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={calls}", *inject, *map(str, command)]


def can_inject():
    probe = injected(["fsync,fdatasync:error=EIO"], ["sync", "-d", __file__])
    try:
        return subprocess.run(probe, capture_output=True).returncode == 1
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("links", ("links", "no links"))
@pytest.mark.parametrize("fault", ("error=EIO", "signal=KILL"))
@pytest.mark.parametrize("call", ("rename,renameat,renameat2", "fsync"))
def test_a_model_and_its_data_belong_together_whichever_call_fails(makers, at, call, fault, links):
    if not can_inject():
        pytest.skip("no strace, or it may not trace")
    stage = written(makers, "slim, data file", at)
    old = stage.state()
    run(stage, 1)
    new = stage.state()
    without = [] if links == "links" else ["link,linkat:error=EPERM"]
    for count in range(1, 20):
        run(stage, 0)
        before = everything(at)
        command = injected([f"{call}:{fault}:when={count}", *without], stage.command(1))
        done = subprocess.run(command, env=stage.environment, capture_output=True, text=True, timeout=60)
        there = everything(at)
        state = stage.state()
        if done.returncode == 0:
            assert state == new and count > 4, f"only {count - 1} calls"
            return
        assert state in (old, new), f"call {count}: {done.stderr}"
        if done.returncode == 2:
            changed = "is already the new one and stays" in done.stderr or "all is in place" in done.stderr
            assert changed == (state == new) and (changed or there == before), f"call {count}: {done.stderr}"
    raise AssertionError("it never came through")


def test_a_folder_that_cannot_be_brought_to_the_disk_is_known_before(makers, at):
    if os.getuid() != 0:
        pytest.skip("only root can give directories to others")
    stage = written(makers, "export", at)
    before = everything(at)
    for path in (at, *stage.files):
        os.chown(path, NOBODY, NOBODY)
    at.chmod(0o300)
    refused(run(stage, 1, code=2, **AS_NOBODY), at, "permission denied")
    at.chmod(0o755)
    assert everything(at) == before and len(list(at.iterdir())) == 2


def test_what_others_left_is_not_cleared(makers, at):
    if os.getuid() != 0:
        pytest.skip("only root can be another")
    stage = makers.export(at)
    own, others = at / ".thimble-own.part", at / ".thimble-others.part"
    for file, user in ((own, NOBODY), (others, NOBODY - 1)):
        file.write_text("x")
        os.chown(file, user, user)
    at.chmod(0o777)
    run(stage, 0, **AS_NOBODY)
    assert not own.exists() and others.exists()


def test_links_and_unreadable_files_are_replaced_and_leave_nothing(makers, at):
    stage = written(makers, "export", at)
    whole = stage.state()
    for old in ("dangling", "link", "unreadable"):
        model = at / "m.onnx"
        if old == "unreadable":
            model.chmod(0o200)
        else:
            model.unlink()
            model.symlink_to("nowhere" if old == "dangling" else "m.tokenizer.json")
        run(stage, 0)
        assert stage.state() == whole and not model.is_symlink()
        assert sorted(p.name for p in at.iterdir()) == ["m.onnx", "m.tokenizer.json"]


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


def test_an_inventory_of_more_boards_than_files_can_be_open(makers, at):
    """None of them answers; each is told of, in ssh's words."""
    stage = makers.deploy(at)
    tools = at / "tools"
    tools.mkdir()
    (tools / "ssh").write_text("#!/bin/sh\necho no route to it >&2\nexit 255\n")
    (tools / "ssh").chmod(0o755)
    stage.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    inventory = at / "boards"
    inventory.write_text("".join(f"b{n}\n" for n in range(200)))
    command = stage.command(0)
    to = command.index("--to")
    command[to : to + 2] = ["--inventory", inventory]
    command = ["prlimit", "--nofile=100:100", *command]
    done = subprocess.run([str(c) for c in command], env=stage.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("no route to it") == 200, done.stderr[-500:]
    assert not list(stage.temporary.iterdir())


def test_a_model_that_is_replaced_while_it_is_sent_arrives_as_it_was(makers, at):
    model = at / "m.onnx"
    shutil.copy(makers.made[0], model)
    stage = makers.deploy(at / "deploy")
    tools = at / "tools"
    tools.mkdir()
    # Between the first look and the sending.
    swap = f"cp {makers.made[1]} {at}/other; mv {at}/other {model}"
    (tools / "ssh").write_text(f'#!/bin/sh\n{swap}\nexec {ROOT}/tests/faults/ssh "$@"\n')
    (tools / "ssh").chmod(0o755)
    stage.environment["PATH"] = f"{tools}:{stage.environment['PATH']}"
    command = [model if c == makers.made[0] else c for c in stage.command(0)]
    done = subprocess.run([str(c) for c in command], env=stage.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (stage.board.home / "there/m.onnx").read_bytes() == makers.made[0].read_bytes() != model.read_bytes()


@pytest.mark.parametrize("config, code", (("/dev/null", 0), ("none", 0), ("pipe", 2), ("missing", 2)))
def test_ssh_is_given_a_configuration_it_can_read(makers, at, config, code):
    if config in ("pipe", "missing"):
        config = at / config
    if config == at / "pipe":
        os.mkfifo(config)
    stage = makers.deploy(at / "deploy")
    command = stage.command
    stage.command = lambda which: [*command(which), "--ssh-config", config]
    done = run(stage, 0, code=code)
    assert code == 0 or (f"--ssh-config {config}: " in done.stderr and not list(stage.board.home.iterdir()))


def test_another_models_tokenizer_goes_to_no_board(makers, at):
    model = at / "m.onnx"
    shutil.copy(makers.made[0], model)
    tokenizer = at / "m.tokenizer.json"
    own = makers.made[0].with_name("m.tokenizer.json").read_text()
    for text, sent in ((own, True), (own.replace("]", " ]", 1), False)):
        tokenizer.write_text(text)
        stage = makers.deploy(at / f"deploy-{sent}")
        deploy = [model if c == makers.made[0] else c for c in stage.command(0)]
        root = faults.root(at / f"root-{sent}")
        install = [makers.thimble, "install", model, "--rootfs", root, "--target", "pi-4", "--device-program", makers.program[0]]
        for command in (deploy, install):
            done = subprocess.run([str(c) for c in command], env=stage.environment, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0 and ("is ignored" in done.stderr) != sent, done.stderr
        for place in (stage.board.home / "there", root / "usr/share/thimble"):
            assert (place / "m.onnx").exists() and (place / "m.tokenizer.json").exists() == sent


def test_a_unit_that_cannot_be_enabled_is_not_installed(makers, at):
    if os.getuid() != 0:
        pytest.skip("only root can give directories to others")
    stage = makers.rootfs(at)
    root = at / "root"
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    for path in [root, *root.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    os.chown(wants, 0, 0)
    before = everything(root)
    refused(run(stage, 0, code=2, **AS_NOBODY), wants, "permission denied")
    assert everything(root) == before


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
