"""`deploy --serve`, `ask` and `undeploy` against a board that a directory plays (tests/faults): what is refused, and that asking goes
through the board's own program. The real thing, under systemd, is tests/server.
"""

import json
import pathlib
import sys

import pytest
from bench import ROOT

sys.path.insert(0, str(ROOT / "tests" / "faults"))
import board as faults  # noqa: E402


# The board's paths outside of its home are this machine's: one that serves models itself is left alone.
OWN = [pathlib.Path(path) for path in ("/usr/local/lib/thimble", "/etc/systemd/system/thimble.service")]
pytestmark = pytest.mark.skipif(any(path.exists() for path in OWN), reason="this machine serves models itself")


@pytest.fixture
def board(thimble, tmp_path):
    return faults.Board(tmp_path / "board", thimble.device)


def test_a_board_without_systemd_is_refused_before_anything_is_sent(thimble, models, board, tmp_path):
    if pathlib.Path("/run/systemd/system").exists():
        pytest.skip("the board has this machine's systemd")
    program = faults.device_program(tmp_path / "program", 1)
    deploy = board.deploy(thimble.host, models.export("albert-seq-tiny"), program, tmp_path / "h.jsonl")
    done = thimble.run(*deploy[1:], "--serve", code=1, env=board.environment())
    assert "--serve needs systemd on the board" in done.stdout
    assert not list((board.home / "there").iterdir())


def test_models_of_earlier_deploys_are_told_and_cleared(thimble, models, board, tmp_path):
    program = faults.device_program(tmp_path / "program", 1)
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    for copy in (first, second):
        copy.write_bytes(models.export("albert-seq-tiny").read_bytes())

    def deploy(model, *args):
        command = board.deploy(thimble.host, model, program, tmp_path / "h.jsonl")
        return thimble.run(*command[1:], *args, env=board.environment()).stdout

    (board.home / "there").mkdir()
    mine = board.home / "there/mine.onnx"
    mine.write_text("not deploy's")
    assert "unused" not in deploy(first)
    told = deploy(second)
    assert "there/first.onnx" in told and "thimble undeploy board --old removes it" in told and "mine.onnx" not in told
    assert "removed, unused" in deploy(second, "--clear-old") and not (board.home / "there/first.onnx").exists()
    deploy(first)
    done = thimble.run("undeploy", "board", "--old", "--dir", "there", env=board.environment())
    assert "there/second.onnx" in done.stdout and (board.home / "there/first.onnx").exists()
    assert mine.exists()


def test_the_boards_own_program_is_what_asks(thimble, board):
    """A unit names a program, which here writes down how it is called."""
    program = board.home / "thimble-device"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > called\ncat > read\necho perl\n[ ! -e refuse ] || { echo "thimble-device: no" >&2; exit 1; }\n')
    program.chmod(0o755)
    unit = board.home / ".config/systemd/user/thimble.service"
    unit.parent.mkdir(parents=True)
    unit.write_text(f"[Service]\nExecStart={program} serve /x/m.onnx --sha256 ab\n")
    for text in ("a b", "it's", "-x", "$(id)", 'a"b\\', "Größe"):
        done = thimble.run("ask", "board", f"--text={text}", "--pair=c d", "--timeout", "7", env=board.environment())
        assert done.stdout == "perl\n"
        called = (board.home / "called").read_text().splitlines()
        assert called[:2] == ["ask", "--socket"] and called[3:] == [f"--text={text}", "--pair=c d", "--timeout", "7"]
    thimble.run("ask", "board", "--json", env=board.environment(), input="one\ntwo\n")
    assert (board.home / "read").read_text() == "one\ntwo\n"
    (board.home / "refuse").touch()
    refused = thimble.run("ask", "board", "--text", "a", code=1, env=board.environment())
    assert refused.stdout == "perl\n" and refused.stderr.strip() == "error: board: no"


def test_what_cannot_be_asked_or_removed_is_one_error(thimble, board):
    for args, part in [
        (("ask", "board", "--text", "a"), "no server was deployed there"),
        (("ask", "-oProxyCommand=id", "--text", "a"), "unexpected argument"),
        (("ask", "pi@-oProxyCommand=id", "--text", "a"), "cannot be where a board is"),
        (("ask", "board:x", "--text", "a"), "'x' is no port"),
        (("ask", "board", "--ssh-config", "missing"), "--ssh-config missing"),
        (("ask", "board", "--timeout", "0"), "--timeout"),
        (("undeploy", "board", "--all", "--old"), "cannot be used with"),
        (("undeploy", "board", "--dir", ""), "--dir"),
        (("undeploy", "board", "--dir", "a\nb"), "--dir"),
        (("undeploy", "a b"), "cannot be where a board is"),
    ]:
        done = thimble.run(*args, code=2, env=board.environment())
        assert part in done.stderr and "panicked" not in done.stderr, done.stderr
    done = thimble.run("undeploy", "board", "--all", env=board.environment())
    assert "nothing of that kind is there" in done.stdout
    told = json.loads(thimble.run("undeploy", "board", "--json", env=board.environment()).stdout)
    assert told["removed"] == []
