"""What every oracle test needs, once per session: the release binaries, the fixtures, and artifacts exported from them.

THIMBLE_BIN names a folder that already holds `thimble`, `thimble-device` and `examples/`; otherwise cargo builds them.
"""

import os
import subprocess

import pytest

from bench import ROOT, Models, Thimble


@pytest.fixture(scope="session")
def thimble(tmp_path_factory):
    # Losses remembered from another day must not decide a test.
    os.environ["THIMBLE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    folder = os.environ.get("THIMBLE_BIN")
    if not folder:
        build = ["cargo", "build", "--release", "--locked", "-q"]
        subprocess.run([*build, "-p", "thimble", "-p", "thimble-device", "--bins"], cwd=ROOT, check=True)
        subprocess.run([*build, "-p", "thimble-device", "--examples"], cwd=ROOT, check=True)
        folder = os.path.join(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release")
    return Thimble(folder)


@pytest.fixture(scope="session")
def models(thimble, tmp_path_factory):
    return Models(thimble, tmp_path_factory.mktemp("models"))
