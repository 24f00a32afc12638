"""Fixtures of the ARM tests: the host's programs, the cross-built device under qemu-user as each board's CPU, and models
exported once. scripts/test-aarch64 and scripts/test-armv7 build what is needed, set the environment and run this.
"""

import concurrent.futures
import os
import pathlib

import pytest

from arm import PROGRAMS, ROOT, Arm, Models, Thimble


@pytest.fixture(scope="session")
def thimble():
    return Thimble(os.environ.get("THIMBLE_BIN", ROOT / "target" / "release"))


@pytest.fixture(scope="session")
def models(thimble, tmp_path_factory):
    return Models(thimble, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def arms(thimble):
    assert PROGRAMS and all(pathlib.Path(program).is_file() for program in PROGRAMS.values())
    return {cpu: Arm(thimble.host.parent, program, cpu) for cpu, program in PROGRAMS.items()}


@pytest.fixture(scope="session")
def each():
    """Calls a function for each item, on all cores: an emulator uses one."""

    def each(function, items):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(function, items))

    return each
