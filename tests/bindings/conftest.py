"""Fixtures of the bindings' tests, which run in an environment that has the wheel: scripts/test-bindings makes it and says where the
C library and the programs are.
"""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
# A value that is kept would hide what a run does.
os.environ["THIMBLE_CACHE"] = ""


@pytest.fixture(scope="session")
def folder():
    """Where cargo left thimble, thimble-device, libthimble.a and libthimble.so."""
    return pathlib.Path(os.environ.get("THIMBLE_BIN", ROOT / "target" / "debug")).resolve()


class Models:
    """Thimble files of fixtures, each made once, by the program."""

    def __init__(self, program, folder):
        self.program, self.folder, self.made = program, folder, {}

    def export(self, source, precision="int8"):
        """`source` is the name of a fixture, or a path."""
        path = ROOT / "models/albert-deb" if source == "albert-deb" else FIXTURES / source
        key = (path, precision)
        if key not in self.made:
            out = self.folder / f"{path.name}-{precision}.onnx"
            done = subprocess.run(
                [self.program, "export", path, "-o", out, "--precision", precision], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            self.made[key] = out
        return self.made[key]


@pytest.fixture(scope="session")
def models(folder, tmp_path_factory):
    return Models(folder / "thimble", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def serve(folder):
    """The answers of `thimble-device serve` to requests, one JSON line each."""

    def serve(model, *requests):
        done = subprocess.run(
            [folder / "thimble-device", "serve", model], input="\n".join(requests) + "\n", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return serve
