"""What every oracle test needs, once per session: the release binaries, the fixtures, and artifacts exported from them.

THIMBLE_BIN names a folder that already holds `thimble` and `thimble-device`; otherwise cargo builds them.
"""

import os
import subprocess

import pytest

from bench import ROOT, Models, Thimble


@pytest.fixture(scope="session")
def thimble():
    folder = os.environ.get("THIMBLE_BIN")
    if not folder:
        build = ["cargo", "build", "--release", "--locked", "-q", "-p", "thimble", "-p", "thimble-device"]
        subprocess.run(build, cwd=ROOT, check=True)
        folder = os.path.join(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release")
    return Thimble(folder)


@pytest.fixture(scope="session")
def models(thimble, tmp_path_factory):
    return Models(thimble, tmp_path_factory.mktemp("models"))
