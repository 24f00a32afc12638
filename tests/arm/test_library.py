"""The C library for aarch64: programs cross-built against it, shared and static, answer on emulated Cortex-A53 what this machine's
engine answers, and take what no caller should give.
"""

import json
import os
import pathlib
import subprocess

import pytest
from arm import ROOT

LIBRARY = pathlib.Path(os.environ["THIMBLE_C"]).resolve()
COMPILER = os.environ.get("AARCH64_LINKER", "aarch64-linux-gnu-gcc")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-D_POSIX_C_SOURCE=200809L"]
INCLUDE = [f"-I{LIBRARY / 'include'}", f"-I{ROOT / 'clients/c'}"]
IDS = [2, 119, 50, 13, 343, 3]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    place = tmp_path_factory.mktemp("programs")

    def build(source, how):
        link = {
            "shared": ["-L", LIBRARY / "lib", "-lthimble", "-lm", "-lpthread"],
            "static": ["-static", LIBRARY / "lib/libthimble.a", "-lm", "-lpthread", "-ldl"],
        }[how]
        out = place / f"{source.stem}-{how}"
        done = subprocess.run(list(map(str, [COMPILER, *STRICT, *INCLUDE, source, *link, "-o", out])), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return out

    return build


def run(program, *arguments):
    """On a Cortex-A53: cores without dot products, as a Pi 3 or a Zero 2 W has them."""
    # The loader and the C library of the cross compiler, for the program that is not static.
    root = subprocess.run([COMPILER, "-print-sysroot"], capture_output=True, text=True).stdout.strip()
    roots = [path for path in (root, "/usr/aarch64-linux-gnu") if path and (pathlib.Path(path) / "lib/ld-linux-aarch64.so.1").exists()]
    environment = {**os.environ, "QEMU_LD_PREFIX": roots[0] if roots else "/", "QEMU_SET_ENV": f"LD_LIBRARY_PATH={LIBRARY / 'lib'}"}
    command = [ROOT / "scripts/device-on-arm", "--cpu", "cortex-a53", "--run", program, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=600)


@pytest.mark.parametrize("how", ["shared", "static"])
def test_the_example_answers_as_this_machine_does(build, models, thimble, how):
    model = models.export("albert-deb", "int8")
    program = build(ROOT / "bindings/c/examples/answer.c", how)
    (line,) = thimble.run("serve", model, program=thimble.device, input=json.dumps({"ids": IDS}) + "\n").stdout.splitlines()
    theirs = json.loads(line)
    done = run(program, model, "--ids", ",".join(map(str, IDS)))
    assert done.returncode == 0, done.stderr
    shape, first, answer = done.stdout.splitlines()
    mine = json.loads(answer)
    assert shape.startswith("logits 1 12: ") and first.startswith(theirs["label"])
    assert mine["argmax"] == theirs["argmax"] and mine.keys() == theirs.keys() - {"id", "ms"}
    # A rounding that flips on another CPU moves an int8 value by a step.
    assert max(abs(a - b) for a, b in zip(mine["outputs"]["logits"], theirs["outputs"]["logits"], strict=True)) <= 0.05
    said = run(program, model, "Perl module to parse ISO 8601 dates")
    assert said.stdout.startswith("perl "), said.stderr
    refused = run(program, model, "--ids", "2,999999")
    assert refused.returncode == 1 and "input_ids[1] is 999999" in refused.stderr


def test_no_argument_breaks_the_library(build, models, tmp_path):
    done = run(build(ROOT / "tests/bindings/attacks.c", "static"), models.export("albert-deb", "int8"), tmp_path)
    assert done.returncode == 0 and "checks hold" in done.stdout, done.stdout + done.stderr
