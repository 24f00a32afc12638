"""Whatever is wrong with a file or a flag, a user gets one clear line and the right exit code (0 yes, 1 a clear no, 2
usage, I/O or malformed input), never a panic, and no half-made file.
"""

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture
def good(models):
    return models.export("albert-deb", "int8")


def bad_file(kind, good, folder):
    path = folder / "bad.onnx"
    match kind:
        case "missing":
            pass
        case "a directory":
            path.mkdir()
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
        case "one byte short":
            path.write_bytes(good.read_bytes()[:-1])
        case "wrong magic":
            path.write_bytes(b"\x7fELF" + good.read_bytes()[4:])
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
        case "zeros":
            path.write_bytes(bytes(4096))
    return path


FILES = ("missing", "a directory", "empty", "truncated", "one byte short", "wrong magic", "text", "zeros")


def one_clear_line(done, *words):
    """One line of an error, without the smell of a program that fell over."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines, "nothing was said"
    assert "panicked" not in done.stderr and "RUST_BACKTRACE" not in done.stderr
    assert not any(word in done.stderr for word in ("Err(", "Some(", "Error {"))
    for word in words:
        assert word.lower() in done.stderr.lower(), f"{word!r} is not in {done.stderr!r}"


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("command", ["info", "run", "bench"])
def test_the_device_refuses_bad_files(thimble, good, tmp_path, command, kind):
    path = bad_file(kind, good, tmp_path)
    extra = {"info": [], "run": ["--ids", "2,3"], "bench": ["--runs", "1"]}[command]
    done = thimble.run(command, path, *extra, code=2, program=thimble.device)
    one_clear_line(done, "bad.onnx")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("command", ["inspect", "verify", "run", "export", "shrink"])
def test_the_host_refuses_bad_files(thimble, good, tmp_path, command, kind):
    path = bad_file(kind, good, tmp_path)
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    arguments = {
        "inspect": [path],
        "verify": [good, path],
        "run": [path, "--ids", "2,3"],
        "export": [path, "-o", out],
        "shrink": [path, "--budget", "12MiB", "-o", out],
    }[command]
    done = thimble.run(command, *arguments, code=2)
    one_clear_line(done)
    assert "bad.onnx" in done.stderr
    assert not list(out.parent.iterdir()), "something was left behind"


def spoil(folder, name, change):
    """A checkpoint folder with one file changed."""
    target = folder / "checkpoint"
    target.mkdir()
    from bench import FIXTURES

    for file in (FIXTURES / "albert-seq-tiny").iterdir():
        data = file.read_bytes()
        data = change(data) if file.name == name else data
        if data is not None:
            (target / file.name).write_bytes(data)
    return target


CHECKPOINTS = {
    "no config": ("config.json", lambda data: None, "config.json"),
    "config is not JSON": ("config.json", lambda data: data[:-40], "config.json"),
    "another architecture": ("config.json", lambda data: data.replace(b'"albert"', b'"bert"'), "bert"),
    "hidden_size that heads do not divide": (
        "config.json",
        lambda data: data.replace(b'"num_attention_heads": ', b'"num_attention_heads": 7'),
        "num_attention_heads",
    ),
    "unknown activation": (
        "config.json",
        lambda data: data.replace(b'"hidden_act": "relu"', b'"hidden_act": "mish"'),
        "mish",
    ),
    "no weights": ("model.safetensors", lambda data: None, "safetensors"),
    "truncated weights": ("model.safetensors", lambda data: data[:-100], "model.safetensors"),
    "weights that are no safetensors": ("model.safetensors", lambda data: b"PK" + data[2:], "model.safetensors"),
    "a header longer than the file": (
        "model.safetensors",
        lambda data: (1 << 60).to_bytes(8, "little") + data[8:],
        "model.safetensors",
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_host_refuses_bad_checkpoints(thimble, tmp_path, kind):
    name, change, word = CHECKPOINTS[kind]
    source, out = spoil(tmp_path, name, change), tmp_path / "out"
    out.mkdir()
    for command in (["export", source, "-o", out / "m.onnx"], ["shrink", source, "-o", out / "m.onnx", "--budget", "1MiB"]):
        one_clear_line(thimble.run(*command, code=2), word)
        assert not list(out.iterdir())


IDS = {
    "beyond the vocabulary": ("2,4000,3", "4000"),
    "negative": ("2,-1,3", "-1"),
    "longer than max_position": (",".join(["5"] * 129), "128"),
    "no number": ("2,x,3", "ids"),
    "nothing": ("", "ids"),
}


@pytest.mark.parametrize("kind", IDS)
def test_bad_ids_are_refused(thimble, good, kind):
    ids, word = IDS[kind]
    for program in (thimble.device, thimble.host):
        one_clear_line(thimble.run("run", good, f"--ids={ids}", code=2, program=program), word)


INPUTS = {
    "beyond the vocabulary": ({"input_ids": np.array([[2, 4000]])}, "4000"),
    "type beyond the table": ({"input_ids": np.array([[2, 3]]), "token_type_ids": np.array([[0, 2]])}, "token_type_ids"),
    "longer than max_position": ({"input_ids": np.full((1, 129), 5)}, "128"),
    "another shape": ({"input_ids": np.array([[2, 3]]), "attention_mask": np.array([[1, 1, 1]])}, "attention_mask"),
    "no ids": ({"attention_mask": np.array([[1, 1, 1]])}, "input_ids"),
    "a mask of twos": ({"input_ids": np.array([[2, 3]]), "attention_mask": np.array([[2, 1]])}, "attention_mask"),
    "one dimension": ({"input_ids": np.array([2, 3])}, "input_ids"),
    "no tokens": ({"input_ids": np.zeros((1, 0), np.int64)}, "input_ids"),
    "floats": ({"input_ids": np.array([[2.0, 3.0]], np.float32)}, "input_ids"),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_bad_inputs_are_refused(thimble, good, tmp_path, kind):
    tensors, word = INPUTS[kind]
    into, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, into)
    done = thimble.run("run", good, "--input", into, "--output", out, code=2, program=thimble.device)
    one_clear_line(done, word)
    assert not out.exists()


@pytest.mark.parametrize("kind", ("missing", "empty", "text"))
def test_input_files_that_are_no_safetensors(thimble, good, tmp_path, kind):
    into = tmp_path / "in.safetensors"
    if kind != "missing":
        into.write_bytes(b"" if kind == "empty" else b"input_ids: 2 3\n" * 9)
    one_clear_line(thimble.run("run", good, "--input", into, code=2, program=thimble.device), "in.safetensors")


@pytest.mark.parametrize("budget", ["0", "", "-5MiB", "12 parsecs", "MiB", "1e400"])
def test_budgets_that_are_none(thimble, models, tmp_path, budget):
    done = thimble.run("shrink", models.source("albert-seq-tiny"), f"--budget={budget}", "-o", tmp_path / "x.onnx", code=2)
    one_clear_line(done, "budget")
    assert not list(tmp_path.iterdir())


def test_mebibytes_and_megabytes_differ(thimble, models, tmp_path):
    """albert-deb in fp32 between the two: what fits 2 MiB is refused or made smaller for 2 MB."""
    sizes = {}
    for budget in ("1MiB", "1MB"):
        out = tmp_path / f"{budget}.onnx"
        thimble.run("shrink", models.source("albert-deb"), "--budget", budget, "-o", out)
        sizes[budget] = out.stat().st_size
    assert sizes["1MB"] <= 1_000_000 < sizes["1MiB"] <= 1 << 20


USAGE = (
    [],
    ["frobnicate"],
    ["export"],
    ["export", "{source}"],
    ["export", "{source}", "-o", "{out}", "--precision", "int3"],
    ["export", "{source}", "-o", "{out}", "--opset", "12"],
    ["export", "{source}", "-o", "{out}", "--opset", "19"],
    ["export", "{source}", "-o", "{out}", "--seq", "0"],
    ["export", "{source}", "-o", "{out}", "--seq", "100000"],
    ["shrink", "{source}", "-o", "{out}"],
    ["run", "{good}"],
)


@pytest.mark.parametrize("arguments", USAGE, ids=lambda a: " ".join(a) or "nothing")
def test_usage_errors_of_the_host(thimble, models, good, tmp_path, arguments):
    names = {"source": models.source("albert-seq-tiny"), "out": tmp_path / "x.onnx", "good": good}
    done = thimble.run(*[a.format(**names) for a in arguments], code=2)
    one_clear_line(done)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_leaves_nothing(thimble, models, tmp_path):
    done = thimble.run("export", models.source("albert-seq-tiny"), "-o", tmp_path / "no" / "x.onnx", code=2)
    one_clear_line(done, "x.onnx")
    (tmp_path / "folder.onnx").mkdir()
    one_clear_line(thimble.run("export", models.source("albert-seq-tiny"), "-o", tmp_path / "folder.onnx", code=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.onnx"]


def test_a_closed_pipe_is_no_error(thimble, good):
    import subprocess

    for command in ([thimble.host, "inspect", good], [thimble.device, "info", good]):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait()
        process.stderr.close()
        assert "panicked" not in stderr


def test_no_output_replaces_what_is_read(thimble, models, tmp_path):
    """Every way in which a command's output could be one of its inputs."""
    import shutil

    source = tmp_path / "checkpoint"
    shutil.copytree(models.source("albert-seq-tiny"), source)
    rows, model, reports = tmp_path / "rows.jsonl", tmp_path / "m.onnx", tmp_path / "r.jsonl"
    rows.write_text('{"ids": [2, 5, 3]}\n' * 32)
    thimble.run("export", source, "-o", model)
    bench = thimble.run("bench", model, "--seq", 8, "--runs", 1, "--json", program=thimble.device).stdout
    reports.write_text(bench)
    weights = source / "model.safetensors"
    for command in (
        ["inspect", model, "--against", source, "--html", weights],
        ["inspect", model, "--against", source, "--html", source / "config.json"],
        ["shrink", source, "--calibrate", rows, "--budget", "1MiB", "-o", rows],
        ["shrink", source, "--calibrate", rows, "--frontier", "--svg", rows],
        ["report", reports, "--html", reports],
        ["package", model, "-o", model, "--maintainer", "N <n@example.org>", "--device-program", thimble.device],
    ):
        before = {path: path.read_bytes() for path in (weights, source / "config.json", rows, model, reports)}
        done = thimble.run(*command, code=2)
        assert "is an input; name another output file" in done.stderr, command
        assert {path: path.read_bytes() for path in before} == before
