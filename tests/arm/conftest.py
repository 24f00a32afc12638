"""Fixtures of the ARM tests: the host's programs, the cross-built device under qemu-user as each board's CPU, and models
exported once. scripts/test-aarch64 builds what is needed, sets the environment and runs this.
"""

import concurrent.futures
import os
import pathlib

import pytest

from arm import CPUS, ROOT, Arm, Models, Thimble


@pytest.fixture(scope="session")
def thimble():
    return Thimble(os.environ.get("THIMBLE_BIN", ROOT / "target" / "release"))


@pytest.fixture(scope="session")
def models(thimble, tmp_path_factory):
    return Models(thimble, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def arms(thimble):
    binary = pathlib.Path(os.environ["THIMBLE_DEVICE"])
    assert binary.is_file()
    return {cpu: Arm(thimble.host.parent, binary, cpu) for cpu in CPUS}


@pytest.fixture(scope="session")
def each():
    """Calls a function for each item, on all cores: an emulator uses one."""

    def each(function, items):
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(function, items))

    return each
