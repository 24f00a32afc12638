"""thimble-device as a library: a program of a package outside the workspace is built with it, without a network, and answers."""

import json
import shutil
import subprocess

import pytest
from conftest import ROOT

PACKAGE = ROOT / "bindings/rust-example"


@pytest.fixture(scope="module")
def example(folder):
    """The program, of the versions that the workspace has: what is not among them would have to be fetched."""
    target = folder.parent
    shutil.copy(ROOT / "Cargo.lock", PACKAGE)
    command = ["cargo", "build", "--manifest-path", PACKAGE / "Cargo.toml", "--offline", "-q", "--target-dir", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / "debug/ask"


def test_the_example_answers_as_serve_does(example, models, serve):
    model, texts = models.export("albert-deb"), ["Perl module to parse ISO 8601 dates", "a library to parse dates"]
    lines = serve(model, *[json.dumps({"text": text}) for text in texts])
    done = subprocess.run([example, model, *texts], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line.split("\t") for line in done.stdout.splitlines()]
    for (label, score, text), line, wanted in zip(told, lines, texts, strict=True):
        answer = json.loads(line)
        assert (label, text) == (answer["label"], wanted)
        assert float(score) == pytest.approx(max(answer["scores"]), abs=1e-3)


def test_the_example_says_what_is_wrong(example, models):
    cases = [
        (["no.onnx", "x"], "no.onnx: No such file"),
        ([models.export("albert-seq-tiny"), "x"], "no tokenizer"),
        ([], "usage"),
    ]
    for arguments, words in cases:
        done = subprocess.run([example, *arguments], capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done


def test_the_package_is_outside_the_workspace():
    done = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1", "--offline"], cwd=ROOT, capture_output=True)
    names = {package["name"] for package in json.loads(done.stdout)["packages"]}
    assert "thimble-device" in names and "ask" not in names
