"""Somebody else changes a file while a program has it mapped: cuts it, writes to it, replaces it, or sets the clock back. Then
there is the right answer, or one line that names the file and exit code 2; never a signal, never a figure of two files.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from bench import ROOT
from test_errors import one_clear_line
from test_mapping import of_file, settle
from test_serve import Server

CUT = "was cut short or its storage failed while it was mapped"
WRITTEN = "was written to while it was in use"
# Long enough that the engine's other threads have a part in it.
IDS = {"id": 1, "ids": [2, *range(100, 220), 3]}
COMMANDS = (("info",), ("run", "--seq", "8"), ("bench", "--runs", "3"), ("serve",))


@pytest.fixture(scope="module")
def meddler(tmp_path_factory):
    """The environment of a program that somebody meddles with."""
    library = tmp_path_factory.mktemp("meddle") / "meddle.so"
    source = ROOT / "tests" / "oracle" / "meddle.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)

    def environment(how=None, file=None):
        preload = {"LD_PRELOAD": str(library)}
        chosen = {"MEDDLE_HOW": how, "MEDDLE_FILE": str(file)} if how else {"MEDDLE_CLOCK": "1"}
        return {**os.environ, **preload, **chosen}

    return environment


@pytest.fixture
def model(models, tmp_path):
    """A file of this test's own."""
    return shutil.copy(models.export("albert-deb", "int8"), tmp_path / "model.onnx")


def write_in_place(path):
    """What stands there already: the times alone tell."""
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(byte)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def answer(client, request=IDS):
    got = client.ask(request)
    assert got and "error" not in got, got
    return {key: value for key, value in got.items() if key != "ms"}


def ends(server, client, *words):
    """The next request gets no answer, and the server ends with one line."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        assert client.ask(IDS) is None
    assert server.process.wait(timeout=30) == 2
    said = server.process.stderr.read()
    assert len(said.splitlines()) == 1 and all(word in said for word in words), said


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bytes_left", [0, 4096])
def test_a_served_model_is_cut(thimble, model, tmp_path, threads, bytes_left):
    socket = tmp_path / "s"
    with Server(thimble, model, socket, "--threads", threads) as server:
        with server.connect() as client:
            answer(client)
            os.truncate(model, bytes_left)
            ends(server, client, f"{model}: {CUT}", "--copy")


def test_a_measured_model_is_cut(thimble, model):
    command = [str(thimble.device), "bench", str(model), "--runs", "1000000", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    settle(process, model)
    os.truncate(model, 0)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 2 and not out
    assert said.count("\n") == 1 and f"{model}: {CUT}" in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("how, words", [("cut", CUT), ("write", WRITTEN)])
def test_a_model_changes_while_it_is_loaded(thimble, model, meddler, command, how, words):
    name, *options = command
    environment = meddler(how, model)
    done = thimble.run(name, model, *options, code=2, program=thimble.device, env=environment, stdin=subprocess.DEVNULL)
    one_clear_line(done, str(model), words)
    assert not done.stdout and len(done.stderr.splitlines()) == 1


def test_a_signal_that_somebody_sends_still_ends_it(thimble, model, tmp_path):
    with Server(thimble, model, tmp_path / "s") as server:
        server.process.send_signal(signal.SIGBUS)
        assert server.process.wait(timeout=30) == -signal.SIGBUS
        assert server.process.stderr.read() == ""


def test_a_served_model_is_replaced(thimble, models, model, tmp_path):
    """By rename the old one stays whole; its answers are the same bits."""
    other = shutil.copy(models.export("albert-deb", "fp32"), tmp_path / "other.onnx")
    with Server(thimble, model, tmp_path / "s") as server, server.connect() as client:
        before = answer(client)
        os.replace(other, model)
        assert answer(client) == before
        with Server(thimble, model, tmp_path / "t") as new, new.connect() as newer:
            assert answer(newer) != before, "the other model would give the same anyway"
        assert answer(client) == before
        server.end()


def test_a_served_model_is_written_to(thimble, model, tmp_path):
    with Server(thimble, model, tmp_path / "s") as server, server.connect() as client:
        answer(client)
        write_in_place(model)
        ends(server, client, str(model), WRITTEN)
        assert not (tmp_path / "s").exists()


def measured(thimble, model, during, *options, code=0):
    """A bench of some seconds, and `during` in its middle."""
    command = [str(thimble.device), "bench", str(model), "--time", "3", "--runs", "10000000", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)
    assert process.poll() is None
    during()
    out, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    return json.loads(out) if code == 0 else said


def test_a_report_is_of_the_file_that_was_measured(thimble, models, model, tmp_path):
    was = digest(model)
    other = shutil.copy(models.export("albert-deb", "fp32"), tmp_path / "other.onnx")
    report = measured(thimble, model, lambda: os.replace(other, model))
    assert report["model"]["sha256"] == was != digest(model)
    assert any("another file by now" in warning for warning in report["warnings"])


def test_there_is_no_report_of_a_file_that_was_written_to(thimble, model):
    said = measured(thimble, model, lambda: write_in_place(model), code=2)
    assert said.count("\n") == 1 and f"{model} {WRITTEN}" in said


def test_a_copy_is_nobody_elses(thimble, model, tmp_path):
    with Server(thimble, model, tmp_path / "mapped") as server, server.connect() as client:
        expected = answer(client)
    with Server(thimble, model, tmp_path / "s", "--copy") as server, server.connect() as client:
        assert not of_file(server.process.pid, model)
        assert answer(client) == expected
        os.truncate(model, 0)
        assert answer(client) == expected
        os.remove(model)
        assert answer(client) == expected
        server.end()


def test_a_copy_is_measured_and_counted(thimble, models, model):
    was, size = digest(model), os.path.getsize(model)
    report = measured(thimble, model, lambda: os.truncate(model, 0), "--copy")
    assert report["engine"]["copied"] and not report["engine"]["locked"]
    assert report["model"]["sha256"] == was and report["model"]["bytes"] == size
    # A large one, to tell from the rest of the program.
    large = models.export("albert-base-rand", "int8")
    bench = ["bench", large, "--seq", "16", "--runs", "2", "--json"]
    mapped, copied = (
        json.loads(thimble.run(*bench, *more, program=thimble.device).stdout)["memory"] for more in ([], ["--copy"])
    )
    size = large.stat().st_size
    # Of a mapped file, rows of the word table that no token names stay away.
    assert 0.7 * size < mapped["predicted"]["file"] < size and mapped["predicted"]["copy"] == 0
    assert (copied["predicted"]["file"], copied["predicted"]["copy"]) == (0, size)
    assert mapped["predicted"]["activations"] == copied["predicted"]["activations"]
    # What the program takes besides wavers by a few pages.
    assert abs(copied["anon"] - mapped["anon"] - size) <= 1 << 20
    assert copied["peak_rss"] >= size and copied["file"] < mapped["file"]
    info = json.loads(thimble.run("info", large, "--copy", "--json", program=thimble.device).stdout)
    assert info["predicted"]["copy"] == size and info["engine"]["copied"]


def test_a_copy_for_which_there_is_no_memory_is_refused(thimble, tmp_path):
    """Before the kernel kills somebody for it."""
    with open("/proc/meminfo") as info:
        available = next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))
    for size in (available + (4 << 30), 1 << 43):
        with open(tmp_path / "sparse.onnx", "wb") as file:
            file.truncate(size)
        done = thimble.run("run", tmp_path / "sparse.onnx", "--copy", code=2, program=thimble.device)
        one_clear_line(done, "sparse.onnx", f"no memory for a copy of its {size} bytes")


@pytest.mark.parametrize("copy", [[], ["--copy"]], ids=["mapped", "copied"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_model_with_another_digest_is_refused(thimble, model, command, copy):
    name, *options = command
    right, run = digest(model), dict(program=thimble.device, stdin=subprocess.DEVNULL)
    thimble.run(name, model, *options, *copy, "--sha256", right.upper(), **run)
    with open(model, "r+b") as file:
        # A bit of the last weight.
        file.seek(-200, os.SEEK_END)
        bit = file.read(1)[0] ^ 1
        file.seek(-200, os.SEEK_END)
        file.write(bytes([bit]))
    thimble.run(name, model, *options, *copy, **run)
    done = thimble.run(name, model, *options, *copy, "--sha256", right, code=2, **run)
    one_clear_line(done, str(model), right, digest(model))
    assert not done.stdout


def test_the_digest_leaves_a_cold_start_cold(thimble, model):
    done = thimble.run("bench", model, "--runs", "1", "--cold", "--sha256", digest(model), "--json", program=thimble.device)
    assert json.loads(done.stdout)["cold_start"] is not None


@pytest.mark.parametrize("how, words", [("cut", CUT), ("write", WRITTEN)])
@pytest.mark.parametrize("kind", ["checkpoint", "artifact"])
def test_a_checkpoint_changes_while_it_is_read(thimble, models, model, meddler, tmp_path, kind, how, words):
    source = meddled = model
    if kind == "checkpoint":
        source = shutil.copytree(models.source("albert-deb"), tmp_path / "source")
        meddled = source / "model.safetensors"
    out = tmp_path / "out"
    out.mkdir()
    command = ["export", source, "-o", out / "x.onnx", "--precision", "fp16"]
    done = thimble.run(*command, code=2, env=meddler(how, meddled))
    one_clear_line(done, "error: ", str(meddled), words)
    assert len(done.stderr.splitlines()) == 1 and not list(out.iterdir())
    # It was the meddling.
    if how == "write":
        thimble.run(*command)


def test_a_clock_that_runs_backwards_changes_no_figure(thimble, model, meddler, tmp_path):
    look = "import time; a, b = time.time(), time.time(); print(b < a - 3000)"
    backwards = subprocess.run(["python3", "-c", look], env=meddler(), capture_output=True, text=True)
    assert backwards.stdout == "True\n", "the clock does not run backwards"
    bench = ["bench", model, "--runs", "20", "--profile", "--json"]
    done = thimble.run(*bench, program=thimble.device, env=meddler())
    report = json.loads(done.stdout)
    times = [report["load_ms"], report["first_inference_ms"], *report["latency_ms"]["samples"], report["profile"]["ms"]]
    assert len(times) == 23 and all(0 < ms < 60_000 for ms in times) and report["latency_ms"]["runs"] == 20
    # It also knows when to stop.
    begin = time.monotonic()
    thimble.run("bench", model, "--time", "0.5", "--runs", "10000000", "--json", program=thimble.device, env=meddler())
    assert time.monotonic() - begin < 30
    # The host takes it, and keeps the order in which reports came, whatever their stamps say.
    history = tmp_path / "history.jsonl"
    lines = [
        {"schema": 1, "board": "kitchen", "target": None, "time": stamp, "report": {**report, "load_ms": load}}
        for stamp, load in [("2026-03-01T00:00:00Z", 11.25), ("1970-01-01T00:00:00Z", 22.25), ("2026-02-01T00:00:00Z", 33.25)]
    ]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = thimble.run("report", history, "--json", env=meddler()).stdout
    assert [entry["report"]["load_ms"] for entry in json.loads(shown)["reports"]] == [11.25, 22.25, 33.25]


def test_a_line_that_nobody_reads_does_not_keep_the_program(thimble, model, tmp_path):
    with Server(thimble, model, tmp_path / "s") as server, server.connect() as client:
        # The pipe is filled by way of a descriptor of our own.
        full = os.open(f"/proc/{server.process.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full, b"x" * 4096)
        os.close(full)
        os.truncate(model, 4096)
        client.send(IDS)
        assert server.process.wait(20) == 2


@pytest.mark.parametrize("how", ("renamed", "linked", "permissions"))
def test_what_leaves_the_contents_alone_ends_nothing(thimble, model, tmp_path, how):
    with Server(thimble, model, tmp_path / "s") as server, server.connect() as client:
        first = client.ask(IDS)
        if how == "renamed":
            os.rename(model, model.with_suffix(".old"))
            os.rename(model.with_suffix(".old"), model)
        elif how == "linked":
            os.link(model, model.with_suffix(".link"))
            os.unlink(model.with_suffix(".link"))
        else:
            model.chmod(0o600)
            model.chmod(0o644)
        assert client.ask(IDS)["outputs"] == first["outputs"]


def test_an_output_is_neither_an_input_nor_a_device(thimble, model, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    before = digest(model)
    for output in (model, fifo, tmp_path):
        done = thimble.run("run", model, "--ids", "2,5,3", "--output", output, program=thimble.device, code=2)
        one_clear_line(done, str(output))
    assert digest(model) == before and fifo.is_fifo()
    done = thimble.run("run", model, "--input", fifo, program=thimble.device, code=2)
    one_clear_line(done, "no regular file")


def test_a_label_reaches_no_terminal_that_acts_on_it(thimble, tmp_path):
    checkpoint = tmp_path / "hostile"
    shutil.copytree(ROOT / "tests/fixtures/albert-seq-tiny", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    count = len(config.get("id2label") or {"0": "", "1": ""})
    names = {n: f"a{n}\x1b]0;pwn\x07\nrow 9: b\u202e" for n in range(count)}
    config["id2label"], config["label2id"] = {str(n): name for n, name in names.items()}, {v: k for k, v in names.items()}
    (checkpoint / "config.json").write_text(json.dumps(config))
    out = tmp_path / "m.onnx"
    thimble.run("export", checkpoint, "-o", out)
    for program in (thimble.device, thimble.host):
        said = thimble.run("run", out, "--ids", "2,3", program=program).stdout
        assert not any(c in said for c in "\x1b\x07\u202e") and "\nrow 9" not in said, said
