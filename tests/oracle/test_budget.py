"""`thimble shrink` keeps its word: the file on disk is within the budget, the budget is used, more bytes never cost more
loss, and a budget that cannot be met is refused with the floor and what sets it.
"""

import json

import pytest

MIB = 1 << 20


@pytest.fixture(scope="module")
def shrunk(thimble, models, short_rows, tmp_path_factory):
    """albert-base-rand under each budget: the file's size and what the command said."""
    folder = tmp_path_factory.mktemp("budget")
    made = {}
    for mib in (12, 20):
        out = folder / f"{mib}.onnx"
        shrink = ["shrink", models.source("albert-base-rand"), "--budget", f"{mib}MiB", "--calibrate", short_rows, "-o", out, "--json"]
        made[mib] = (out, json.loads(thimble.run(*shrink).stdout))
    return made


def test_twelve_mebibytes_are_twelve_mebibytes(shrunk):
    out, _ = shrunk[12]
    assert out.stat().st_size <= 12_582_912


def test_every_budget_is_kept_and_used(shrunk):
    for mib, (out, said) in shrunk.items():
        size = out.stat().st_size
        assert size <= mib * MIB
        assert said["bytes"] == size
        step = said["next_step"]
        print(f"{mib} MiB: {size} bytes, {size / mib / MIB:.1%}, loss {said['measured_loss']:.3g}, next {step}")
        if size < 0.95 * mib * MIB and step:
            assert step["bytes"] > mib * MIB, f"{size} of {mib * MIB} bytes used, and {step} would fit"


def test_more_bytes_never_cost_more_loss(shrunk):
    losses = [said["measured_loss"] for _, said in shrunk.values()]
    assert losses == sorted(losses, reverse=True)


def test_the_same_question_gives_the_same_bytes_cached_or_not(thimble, models, tmp_path, monkeypatch):
    made = []
    for cache in ("", tmp_path / "cache", tmp_path / "cache"):
        monkeypatch.setenv("THIMBLE_CACHE", str(cache))
        out = tmp_path / f"{len(made)}.onnx"
        thimble.run("shrink", models.source("albert-tiny-groups"), "--budget", "200KiB", "-o", out)
        made.append(out.read_bytes())
    assert made[0] == made[1] == made[2]


def test_shrunk_files_run(thimble, shrunk):
    for out, _ in shrunk.values():
        thimble.run("inspect", out)
        thimble.run("run", out, "--ids", "2,17,3", program=thimble.device)


def test_loss_on_made_up_text_is_said_to_be_that(thimble, models, tmp_path, shrunk):
    done = thimble.run("shrink", models.source("albert-tiny-groups"), "--budget", "200KiB", "-o", tmp_path / "a.onnx", "--json")
    assert json.loads(done.stdout)["calibrated"] is False
    assert "calibrat" in done.stderr
    assert all(said["calibrated"] for _, said in shrunk.values())


def test_a_budget_below_the_floor_is_refused_with_the_floor(thimble, models, tmp_path):
    out = tmp_path / "never.onnx"
    said = thimble.run("shrink", models.source("albert-base-rand"), "--budget", "3MiB", "-o", out, code=1)
    assert "floor" in said.stdout and "MiB" in said.stdout and "word" in said.stdout
    assert "panicked" not in said.stderr
    assert not list(tmp_path.iterdir())
