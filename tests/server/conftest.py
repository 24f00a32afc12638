"""A virtual board with Debian and systemd, two models and what its own program says of them. THIMBLE_BIN is the directory of the
host's programs, THIMBLE_DEVICE the aarch64 program; scripts/test-server sets both."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from debian import Board, Programs  # noqa: E402


@pytest.fixture(scope="session")
def programs():
    return Programs()


@pytest.fixture(scope="session")
def models(programs, tmp_path_factory):
    return programs.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def board(tmp_path_factory):
    board = Board(tmp_path_factory.mktemp("board"))
    board.start()
    yield board
    board.stop()


@pytest.fixture(scope="session")
def expected(board, models, programs):
    return board.expected(models, programs.device)
