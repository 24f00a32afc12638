"""What every oracle test needs, once per session: the release binaries, the fixtures, and artifacts exported from them.

THIMBLE_BIN names a folder that already holds `thimble`, `thimble-device` and `examples/`; otherwise cargo builds them.
"""

import json
import os
import random
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


@pytest.fixture(scope="session")
def short_rows(tmp_path_factory):
    """A few rows of different lengths, so that shrinking albert-base's shape takes seconds."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    draw = random.Random(7)
    ids = [[2, *(draw.randrange(5, 30000) for _ in range(4 + i)), 3] for i in range(16)]
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    return path
