"""What `thimble shrink` says of its choice is so: which arithmetic, what was done to the numbers, what half of the bytes give,
and which inputs counted.
"""

import json

import pytest

INTEGERS = {"i8", "i8a", "i4"}


def plan(thimble, source, tmp_path, *options, code=0):
    done = thimble.run("shrink", source, "-o", tmp_path / "x.onnx", "--dry-run", "--json", *options, code=code)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["albert-tiny-groups", "albert-mlm-tiny", "albert-seq-tiny"])
def test_speed_is_integer_arithmetic_in_every_linear_map_whatever_the_budget(thimble, models, tmp_path, name):
    said = plan(thimble, models.source(name), tmp_path, "--budget", "100MiB", "--prefer", "speed")
    tables = {"word", "position", "type"} - ({"word"} if name == "albert-mlm-tiny" else set())
    linear = [f for f in said["families"] if not set(f["weights"]) <= tables]
    assert linear and {f["format"] for f in linear} <= INTEGERS, said["families"]


def test_balance_says_which_maps_are_multiplied_in_f32_and_what_that_takes(thimble, models, tmp_path):
    said = plan(thimble, models.source("albert-tiny-groups"), tmp_path, "--budget", "100MiB")
    wide = said["trade"]["f32_arithmetic"]
    assert wide == {f["name"]: f["format"] for f in said["families"] if f["name"] in wide}
    assert wide and not set(wide.values()) & INTEGERS
    assert all(time > 1 for time in said["trade"]["time"].values())
    done = thimble.run("shrink", models.source("albert-tiny-groups"), "--budget", "100MiB", "--dry-run", "-v", "-o", tmp_path / "x.onnx")
    line = next(line for line in done.stdout.splitlines() if line.startswith("arithmetic: "))
    assert all(f"{name} ({format})" in line for name, format in wide.items()), line


@pytest.mark.parametrize("formats, shifted, calibrated", [("f32", False, False), ("f16", False, False), ("i8", True, True)])
def test_only_what_was_done_is_said_to_be_done(thimble, models, tmp_path, formats, shifted, calibrated):
    options = ["--budget", "100MiB", "--formats", formats, "--prepare", "shift,calibrate"]
    said = plan(thimble, models.source("albert-tiny-groups"), tmp_path, *options)["preparation"]
    assert bool(said["shifted_inputs_of"]) == shifted == (said["shifted"] != "nowhere"), said
    assert bool(said["rounded_by_calibration"]) == calibrated == said["calibrated"], said
    assert bool(said["rounded_to_nearest"]) == (formats != "f32"), said


def test_half_the_bytes_is_the_answer_within_half_of_them_or_why_there_is_none(thimble, models, tmp_path):
    source = models.source("albert-tiny-groups")
    halves = []
    for budget in ("100MiB", "1"):
        if budget == "1":
            floor = plan(thimble, source, tmp_path, "--budget", budget, code=1)["floor"]
            budget = str(floor + 64)
        said = plan(thimble, source, tmp_path, "--budget", budget)
        halves.append(next(y for y in said["yardsticks"] if y["name"] == "half the bytes"))
    assert halves[0]["why"] is None and halves[0]["channel_rms"] >= 0
    assert "below the floor" in halves[1]["why"] and halves[1]["channel_rms"] is None


def test_inputs_without_a_real_token_do_not_count(thimble, models, tmp_path):
    rows = tmp_path / "rows.jsonl"
    masked = {"input_ids": [2, 9, 3], "attention_mask": [0, 0, 0]}
    ask = ["shrink", models.source("albert-tok-tiny"), "--budget", "100MiB", "--calibrate", rows, "-o", tmp_path / "x.onnx"]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [masked, {"input_ids": [2, 9, 3]}]))
    assert "1 inputs without a real token" in thimble.run(*ask).stderr
    (tmp_path / "x.onnx").unlink()
    rows.write_text(json.dumps(masked) + "\n")
    assert "attention_mask is 0 throughout" in thimble.run(*ask, code=2).stderr
    assert not (tmp_path / "x.onnx").exists()


def test_one_row_of_values_is_enough_to_choose_on(thimble, models, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in models.source("albert-seq-tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "regression"}))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"input_ids": [2, 9, 11, 3]}) + "\n")
    floor = plan(thimble, folder, tmp_path, "--budget", "1", "--calibrate", rows, code=1)["floor"]
    said = plan(thimble, folder, tmp_path, "--budget", str(floor + 4000), "--calibrate", rows)
    assert said["verdict"] == "fits" and said["trade"]["chosen"]["agreement"] is None
    assert 0 < said["trade"]["chosen"]["channel_rms"] < 1
