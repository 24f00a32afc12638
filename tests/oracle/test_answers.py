"""Answers against Hugging Face's pipelines: `tests/fixtures/answers/expected.json` holds what transformers 4.57 answers, and
`make.py` beside it says how. Scores agree within 1e-5, spans exactly."""

import json
import subprocess

import pytest

from bench import FIXTURES

ANSWERS = FIXTURES / "answers"
WILD = FIXTURES / "wild"
TOKENIZER = WILD / "b05_qa_text/tokenizer.json"
EXPECTED = json.loads((ANSWERS / "expected.json").read_text())
CLOSE = 1e-5
# Outputs of models whose weights are as wide as these carry f32 noise of their own.
NOISE = 1e-4


@pytest.fixture(scope="module")
def call(thimble):
    """Runs the program, whatever it ends with."""
    return lambda *args: subprocess.run([thimble.host, *map(str, args)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def run(call):
    """The answer of a model of the fixtures as JSON."""

    def answer(model, *args):
        done = call("run", ANSWERS / model, "--tokenizer", TOKENIZER, "--json", *args)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return answer


def flags(options):
    given = []
    if "max_answer_len" in options:
        given += ["--max-answer", options["max_answer_len"]]
    if options.get("handle_impossible_answer"):
        given += ["--allow-no-answer"]
    return given


def same_answer(got, want):
    assert (got["start"], got["end"], got["answer"]) == (want["start"], want["end"], want["answer"])
    assert got["score"] == pytest.approx(want["score"], abs=CLOSE)


@pytest.mark.parametrize("part", range(8))
def test_questions(run, part):
    for case in EXPECTED["questions"][part::8]:
        got = run(case["model"], f"--text={case['text']}", f"--pair={case['pair']}", *flags(case["options"]))
        try:
            same_answer(got, case["answer"])
        except AssertionError as e:
            raise AssertionError(f"{case}: {got}") from e
    empty = [c for c in EXPECTED["questions"] if c["answer"]["answer"] == ""]
    assert len(empty) >= 5, "no question without an answer"


def test_questions_that_leave_windows_no_room_are_refused(run, call):
    refused = 0
    for case in EXPECTED["long_questions"]:
        ask = [f"--text={case['text']}", f"--pair={case['pair']}"]
        if case["answer"] is not None:
            same_answer(run(case["model"], *ask), case["answer"])
            continue
        done = call("run", ANSWERS / case["model"], "--tokenizer", TOKENIZER, *ask)
        assert done.returncode == 2 and "the question has" in done.stderr and len(done.stderr.splitlines()) == 1
        refused += 1
    assert refused > 3


def test_the_wild_question(run):
    known = json.loads((WILD / "expected.json").read_text())
    case = next(v for k, v in known.items() if k.startswith("b05_qa_text"))
    for row in case["rows"]:
        got = run("../wild/b05_qa_text", f"--text={case['question']}", f"--pair={row['context']}")
        assert got["score"] == pytest.approx(row["score"], abs=CLOSE)
        assert (got["start"], got["end"], got["answer"]) == (row["start"], row["end"], row["answer"])


def test_entities(run):
    for case in EXPECTED["entities"]:
        got = run(case["model"], f"--text={case['text']}")
        if case["strategy"] == "simple":
            found = [(e["label"], e["start"], e["end"]) for e in got["spans"]]
            assert found == [(e["entity_group"], e["start"], e["end"]) for e in case["answer"]], case
            assert all(e["text"] == case["text"][e["start"] : e["end"]] for e in got["spans"])
            scores = [e["score"] for e in got["spans"]]
        else:
            # The pipeline leaves out what is outside; its index counts [CLS].
            kept = [(i, t) for i, t in enumerate(got["tokens"], 1) if t["label"] != "O"]
            assert [(i, t["label"]) for i, t in kept] == [(e["index"], e["entity"]) for e in case["answer"]], case
            scores = [t["score"] for _, t in kept]
        assert scores == pytest.approx([e["score"] for e in case["answer"]], abs=2 * CLOSE)


def test_fills(run):
    for case in EXPECTED["fills"]:
        got = run(case["model"], f"--text={case['text']}")
        for blank, want in zip(got["blanks"], case["answer"], strict=True):
            assert [f["id"] for f in blank["fills"]] == [f["token"] for f in want]
            assert [f["score"] for f in blank["fills"]] == pytest.approx([f["score"] for f in want], abs=CLOSE)


def test_classes(run):
    for case in EXPECTED["classes"]:
        ask = ["--ids=" + ",".join(map(str, case["ids"]))] if "ids" in case else [f"--text={case['text']}"]
        ask += [f"--pair={case['pair']}"] if "pair" in case else []
        got = run(case["model"], *ask)
        want = case["answer"][0] if isinstance(case["answer"][0], list) else case["answer"]
        found = [{"label": got["name"], "score": got["value"]}] if got["kind"] == "value" else got["labels"]
        want = {e["label"]: e["score"] for e in want}
        assert {e["label"]: e["score"] for e in found} == pytest.approx(want, abs=NOISE), case


def test_choices(run):
    for case in EXPECTED["choices"]:
        got = run(case["model"], f"--text={case['text']}", *(f"--pair={c}" for c in case["choices"]))
        assert [c["score"] for c in got["choices"]] == pytest.approx(case["answer"], abs=CLOSE)


def test_values_are_compared_by_squared_error(call, tmp_path):
    model = WILD / "b02b_multi_regression"
    rows = [{"input_ids": [2, 17, 45, 3], "label": [1.5, -2]}, {"input_ids": [2, 8, 3], "labels": [0.25, 3.7]}]
    inputs = tmp_path / "rows.jsonl"
    inputs.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "values.onnx"
    assert call("export", model, "-o", out, "--precision", "int4").returncode == 0
    done = call("verify", model, out, "--inputs", inputs, "--json")
    assert done.returncode == 0, done.stderr
    loss = json.loads(done.stdout)
    assert (loss["agreement"], loss["kl"], loss["decisions"]) == (None, None, 0)
    errors = {"reference_squared_error": model, "squared_error": out}
    for name, file in errors.items():
        squares = []
        for row in rows:
            ids = "--ids=" + ",".join(map(str, row["input_ids"]))
            values = [e["score"] for e in json.loads(call("run", file, ids, "--json").stdout)["labels"]]
            squares += [(v - t) ** 2 for v, t in zip(values, row.get("label") or row["labels"], strict=True)]
        assert loss[name] == pytest.approx(sum(squares) / 4, rel=1e-6)
    said = call("verify", model, out, "--inputs", inputs).stdout
    assert "mean squared error" in said and "agreement" not in said
    for flag in (["verify", model, out], ["shrink", model, "--budget", "1MiB", "-o", tmp_path / "x.onnx"]):
        done = call(*flag, "--min-agreement", "0.9")
        assert done.returncode == 2 and "values" in done.stderr
    inputs.write_text('{"input_ids": [2, 3], "label": [1.0]}\n')
    done = call("verify", model, out, "--inputs", inputs)
    assert done.returncode == 2 and "1 values are given as labels, the model has 2" in done.stderr


def test_labels_with_other_names(call, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ["config.json", "model.safetensors"]:
        text = (ANSWERS / "several" / name).read_bytes()
        (other / name).write_bytes(text.replace(b'"glad"', b'"good"') if name == "config.json" else text)
    done = call("verify", ANSWERS / "several", other)
    assert done.returncode == 2 and "--ignore-labels" in done.stderr
    done = call("verify", ANSWERS / "several", other, "--ignore-labels", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["agreement"] == 1.0
    done = call("verify", ANSWERS / "several", ANSWERS / "one", "--ignore-labels")
    assert done.returncode == 2 and "number of labels" in done.stderr


def test_options_of_other_heads_are_refused(call):
    for model, flag in [("several", ["--max-answer", 3]), ("bio", ["--allow-no-answer"]), ("qa", ["--per-token"])]:
        done = call("run", ANSWERS / model, "--ids=2,3", *flag)
        assert done.returncode == 2 and str(flag[0]) in done.stderr
