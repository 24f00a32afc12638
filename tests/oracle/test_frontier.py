"""`thimble shrink --frontier`: bytes against loss is monotone, the drawing says what the table says and is sound XML that
needs nothing from elsewhere, and a budget alone is not the only thing that can be asked for.
"""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def text(models):
    return models.source("albert-deb") / "test.jsonl"


@pytest.fixture(scope="module")
def frontier(thimble, models, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    svg, html = folder / "f.svg", folder / "f.html"
    done = thimble.run(
        "shrink", models.source("albert-deb"), "--frontier", "--points", "5", "--baseline", "--rows", "16",
        "--calibrate", text, "--svg", svg, "--html", html, "--json",
    )
    assert sorted(path.name for path in folder.iterdir()) == ["f.html", "f.svg"], "only the drawings are written"
    return json.loads(done.stdout), svg.read_text(), html.read_text(), done.stderr


def test_no_smaller_file_loses_less(frontier):
    said, *_ = frontier
    points = said["frontier"]
    assert len(points) >= 4
    sizes = [point["bytes"] for point in points]
    losses = [point["measured_loss"] for point in points]
    assert sizes == sorted(set(sizes))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0, "fp32 is the reference itself"
    for point in points:
        low, high = point["loss"]["agreement_interval"]
        assert 0 <= low <= point["loss"]["agreement"] <= high <= 1
    # On other rows than those chosen on: nowhere measurably worse than any smaller file.
    for small, large in zip(points, points[1:]):
        assert large["loss"]["agreement_interval"][1] >= small["loss"]["agreement_interval"][0]
    assert said["held_out"] and said["calibrated"] and said["written"] is False


def test_progress_is_plain_lines_where_there_is_no_terminal(frontier):
    *_, stderr = frontier
    assert "sensitivities" in stderr and "\r" not in stderr and "\x1b" not in stderr


def test_the_drawings_are_whole_and_their_own(frontier):
    said, svg, html, _ = frontier
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    count = len(said["frontier"])
    # Loss and agreement, each for our files and for rounding to nearest, and the legend's mark.
    marks = {style: root.findall(f".//{SVG}g[@class='mark {style}']/*") for style in ("ours", "nearest")}
    assert [len(found) for found in marks.values()] == [2 * count + 1] * 2
    titles = [mark.find(f"{SVG}title").text for mark in marks["ours"] if mark.find(f"{SVG}title") is not None]
    for point in said["frontier"]:
        assert len([title for title in titles if title.startswith(f"{point['bytes']:,} bytes: ")]) == 2
    # fp32 loses nothing, which a logarithmic axis has no place for.
    zero = root.find(f".//{SVG}rect[@class='f-panel zero']")
    assert f"{said['frontier'][-1]['bytes']:,} bytes: no loss" in titles
    top, bottom = float(zero.get("y")), float(zero.get("y")) + float(zero.get("height"))
    assert sum(top < float(mark.get("cy")) < bottom for mark in marks["ours"]) == 1
    width, height = float(root.get("width")), float(root.get("height"))
    for mark in marks["ours"]:
        assert 0 <= float(mark.get("cx")) <= width and 0 <= float(mark.get("cy")) <= height
    ticks = [text.text for text in root.findall(f".//{SVG}text") if re.search(r" [KM]iB$", text.text)]
    assert len(ticks) >= 6 and all(re.fullmatch(r"\d+(\.5)? [KM]iB", tick) for tick in ticks), ticks

    page = ElementTree.fromstring(html)
    assert page.find(f".//{SVG}svg") is not None
    rows = page.findall(".//{http://www.w3.org/1999/xhtml}tr")
    assert len(rows) == count + 1
    for point, row in zip(said["frontier"], rows[1:]):
        words = "".join(row.itertext())
        assert f"{point['bytes']:,}" in words and set(point["formats"].values()) <= set(re.findall(r"[fiw]\d+[at]?", words))
    for text in (svg, html):
        assert "<script" not in text
        links = re.findall(r"(?:https?:)?//[^\s\"'<>]+", text)
        assert set(links) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}, links


def test_the_frontier_is_the_same_every_time(thimble, models, text, monkeypatch, tmp_path):
    ask = [
        "shrink", models.source("albert-seq-tiny"), "--frontier", "--points", "4", "--json",
    ]
    monkeypatch.setenv("THIMBLE_CACHE", "")
    first = thimble.run(*ask).stdout
    monkeypatch.setenv("THIMBLE_CACHE", str(tmp_path))
    assert [thimble.run(*ask).stdout for _ in range(2)] == [first, first]


def test_the_smallest_file_that_agrees_is_found_and_agrees(thimble, models, text, tmp_path):
    out = tmp_path / "small.onnx"
    ask = ["shrink", models.source("albert-deb"), "--min-agreement", "0.99", "--rows", "24", "--calibrate", text, "-o", out]
    said = json.loads(thimble.run(*ask, "--json").stdout)
    assert said["budget"] is None and said["loss"]["agreement"] >= 0.99
    assert out.stat().st_size == said["bytes"] < 700_000


@pytest.mark.long
@pytest.mark.parametrize("objective", ["agreement", "kl", "cosine", "error"])
def test_every_objective_is_minimised(thimble, models, text, objective):
    ask = [
        "shrink", models.source("albert-deb"), "--budget", "600KiB", "--rows", "16", "--calibrate", text, "--dry-run",
        "--objective", objective, "--json",
    ]
    said = json.loads(thimble.run(*ask).stdout)
    assert said["bytes"] <= 600 * 1024
    assert said["measured_loss"] <= said["floor_loss"][0]["loss"]


def test_ram_and_latency_are_predicted_and_kept(thimble, models, text):
    common = ["shrink", models.source("albert-deb"), "--rows", "16", "--calibrate", text, "--dry-run", "--target", "pi-4"]
    said = json.loads(thimble.run(*common, "--max-ram", "12MiB", "--json").stdout)
    assert said["predicted"]["ram"] <= 12 * (1 << 20)
    assert said["predicted"]["ram"] - said["bytes"] > 4 * (1 << 20), "the program is counted"

    slow = json.loads(thimble.run(*common, "--max-latency", "1000", "--seq", "64", "--json").stdout)
    assert slow["measured_loss"] == 0, "fp32 is fast enough"
    most = slow["predicted"]["latency_ms"] * 0.8
    fast = json.loads(thimble.run(*common, "--max-latency", most, "--seq", "64", "--json").stdout)
    assert fast["predicted"]["latency_ms"] <= most
    assert fast["measured_loss"] > 0
    no = thimble.run(*common, "--max-latency", "0.01", code=1)
    assert "predicted" in no.stdout and "at best" in no.stdout


def test_levers_make_files_that_run_everywhere(thimble, models, text, tmp_path):
    import numpy as np
    from bench import ask as ask_onnxruntime
    from bench import session

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(text.read_text().splitlines()[:40]))
    out = tmp_path / "cut.onnx"
    ask = ["shrink", models.source("albert-deb"), "--formats", "f32", "--vocab-from", corpus, "--max-seq", "48"]
    said = json.loads(thimble.run(*ask, "--budget", "4MiB", "--calibrate", corpus, "-o", out, "--json").stdout)
    assert {lever["name"] for lever in said["levers"]} == {"max-seq", "vocab-from"}
    assert said["loss"]["outputs"]["logits"]["max_abs"] == 0, "nothing is rounded, so nothing is lost"
    whole = models.export("albert-deb")
    saved = sum(lever["saves"] for lever in said["levers"])
    assert abs(whole.stat().st_size - out.stat().st_size - saved) < 512

    # The same answer for a text of the corpus, by the rewritten tokenizer.
    first = json.loads(corpus.read_text().splitlines()[0])["text"][:80]
    answers = [json.loads(thimble.run("run", file, "--text", first, "--json").stdout) for file in (whole, out)]
    for answer in answers:
        del answer["input_ids"]
    assert answers[0] == answers[1]
    # And ONNX Runtime agrees with the device on the cut file.
    feeds = {"input_ids": np.array([[2, 17, 40, 99, 3]])}
    feeds |= {"attention_mask": np.ones_like(feeds["input_ids"]), "token_type_ids": np.zeros_like(feeds["input_ids"])}
    theirs = ask_onnxruntime(session(out), feeds)["logits"]
    assert np.abs(thimble.infer(out, feeds)["logits"] - theirs).max() < 1e-4


WRONG = {
    "no constraint": (["-o", "{out}"], "--budget"),
    "a drawing without a frontier": (["--budget", "1MiB", "--dry-run", "--svg", "{out}"], "--frontier"),
    "a baseline without a frontier": (["--budget", "1MiB", "--dry-run", "--baseline"], "--frontier"),
    "one point": (["--frontier", "--points", "1"], "points"),
    "latency without a board": (["--max-latency", "5", "--dry-run"], "--target"),
    "no time at all": (["--max-latency", "0", "--target", "pi-4", "--dry-run"], "milliseconds"),
    "a board nobody knows": (["--budget", "1MiB", "--target", "pi-99", "--dry-run"], "pi-99"),
    "no RAM at all": (["--max-ram", "0", "--dry-run"], "max-ram"),
    "an unknown objective": (["--budget", "1MiB", "--objective", "luck", "--dry-run"], "objective"),
    "a pooler in use": (["--budget", "1MiB", "--drop-pooler", "--dry-run"], "pooler"),
    "no positions": (["--budget", "1MiB", "--max-seq", "1", "--dry-run"], "--max-seq"),
    "more positions than there are": (["--budget", "1MiB", "--max-seq", "100000", "--dry-run"], "--max-seq"),
    "a sequence beyond the positions left": (["--budget", "1MiB", "--max-seq", "8", "--seq", "9", "--dry-run"], "--seq"),
    "a corpus that is not there": (["--budget", "1MiB", "--vocab-from", "{out}", "--dry-run"], "no such file"),
    "an empty corpus": (["--budget", "1MiB", "--vocab-from", "{empty}", "--dry-run"], "no text"),
    "a frontier to write from": (["--frontier", "-o", "{out}"], "--budget"),
    "a chart over the checkpoint": (["--frontier", "--svg", "{source}/config.json"], "input"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_flags_are_one_clear_error(thimble, models, tmp_path, what):
    flags, word = WRONG[what]
    source = models.source("albert-deb")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    out = tmp_path / "out.onnx"
    flags = [flag.format(out=out, source=source, empty=empty) for flag in flags]
    done = thimble.run("shrink", source, *flags, code=2)
    assert word in done.stderr.lower() and "panicked" not in done.stderr, done.stderr
    assert done.stdout == "" and not out.exists()


def test_a_model_that_decides_nothing_cannot_agree(thimble, models, tmp_path):
    source = models.source("albert-tiny-groups")
    for flags in (["--min-agreement", "0.9"], ["--budget", "12MiB", "--objective", "kl"]):
        done = thimble.run("shrink", source, *flags, "--dry-run", code=2)
        assert "decides nothing" in done.stderr


def test_a_profile_without_a_rate_is_no_ground_for_a_prediction(thimble, models, tmp_path):
    from bench import ROOT

    text = (ROOT / "targets" / "pi-4.toml").read_text()
    profile = tmp_path / "pi-4.toml"
    profile.write_text("\n".join(line for line in text.splitlines() if not line.startswith("f32_gflops_per_core")))
    done = thimble.run(
        "shrink", models.source("albert-deb"), "--max-latency", "5", "--target", profile, "--dry-run", code=2
    )
    assert "f32_gflops_per_core" in done.stderr


def test_a_ram_limit_below_the_floor_names_what_fits(thimble, models):
    ask = ["shrink", models.source("albert-deb"), "--rows", "8", "--dry-run", "--max-ram"]
    said = json.loads(thimble.run(*ask, "12MiB", "--json").stdout)
    beside = said["predicted"]["ram"] - said["bytes"]
    done = thimble.run(*ask, beside + 200_000, code=1)
    assert "--max-ram" in done.stdout and "floor" in done.stdout and "nearest that fits" in done.stdout
