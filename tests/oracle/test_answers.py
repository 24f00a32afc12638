"""Answers against Hugging Face's pipelines: `tests/fixtures/answers/expected.json` holds what transformers 4.57 answers, and
`make.py` beside it says how. Scores agree within 1e-5, spans exactly."""

import json
import random
import subprocess

import numpy as np
import pytest

from bench import FIXTURES
from test_serve import line, piped

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


def test_labels_that_are_scored_otherwise(call, tmp_path):
    for model, kinds in [
        ("several", ["multi_label_classification", "regression"]),
        ("independent", ["single_label_classification", "regression"]),
    ]:
        config = json.loads((ANSWERS / model / "config.json").read_text())
        for kind in kinds:
            other = tmp_path / model / kind
            other.mkdir(parents=True)
            (other / "config.json").write_text(json.dumps(config | {"problem_type": kind}))
            (other / "model.safetensors").write_bytes((ANSWERS / model / "model.safetensors").read_bytes())
            done = call("verify", ANSWERS / model, other)
            assert done.returncode == 2 and "the score of a label is" in done.stderr and "--ignore-labels" in done.stderr
            assert call("verify", ANSWERS / model, other, "--ignore-labels").returncode == 0


def test_options_of_other_heads_are_refused(call):
    for model, flag in [("several", ["--max-answer", 3]), ("bio", ["--allow-no-answer"]), ("qa", ["--per-token"])]:
        done = call("run", ANSWERS / model, "--ids=2,3", *flag)
        assert done.returncode == 2 and str(flag[0]) in done.stderr


def softmax(logits):
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return powers / powers.sum()


def exported(call, model, folder):
    out = folder / "m.onnx"
    done = call("export", ANSWERS / model, "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def served(thimble, model, requests, *options):
    return {a["id"]: a for a in piped(thimble, model, b"".join(map(line, requests)), *options)}


def test_the_server_answers_ids_as_the_pipeline_would(thimble, call, tmp_path):
    """Of ids alone the best span of tokens is known: the softmaxes go over the context and [CLS]."""
    rows = []
    for number, (question, context) in enumerate([(4, 20), (9, 40), (1, 1)]):
        random.seed(number)
        first, second = ([random.randrange(5, 500) for _ in range(n)] for n in (question, context))
        ids = [2, *first, 3, *second, 3]
        rows.append({"id": number, "ids": ids, "types": [0] * (question + 2) + [1] * (context + 1), "max_answer": 6})
    model = exported(call, "qa", tmp_path)
    answers = served(thimble, model, rows)
    for row in rows:
        answer, begin, last = answers[row["id"]], row["types"].index(1), len(row["ids"]) - 1
        scores = []
        for name in ["start_logits", "end_logits"]:
            logits = np.array(answer["outputs"][name])
            kept = [0, *range(begin, last)]
            scores.append(dict(zip(kept, softmax(logits[kept]))))
        start, end = scores
        spans = [(start[a] * end[b], a, b) for a in range(begin, last) for b in range(a, min(a + 6, last))]
        score, a, b = max(spans)
        found = answer["answer"]
        assert (found["first"], found["last"]) == (a, b)
        assert found["score"] == pytest.approx(score, abs=1e-7)
        assert found["no_answer_score"] == pytest.approx(start[0] * end[0], abs=1e-7)
    refusals = [{"id": "z", "ids": [2, 5, 3], "max_answer": 0}, {"id": "n", "ids": [2]}]
    refused = served(thimble, model, refusals)
    assert "max_answer" in refused["z"]["error"] and refused["n"]["answer"] is None


def test_the_server_scores_classes_and_tags(thimble, call, tmp_path):
    ids = [2, 17, 45, 120, 8, 299, 3]
    want = {"several": softmax, "one": lambda x: 1 / (1 + np.exp(-np.array(x))), "values": None}
    for model, score in want.items():
        (tmp_path / model).mkdir()
        path = exported(call, model, tmp_path / model)
        answers = served(thimble, path, [{"id": 1, "ids": ids}, {"id": 2, "ids": ids, "max_answer": 3}])
        answer, logits = answers[1], answers[1]["outputs"]["logits"]
        assert "question answering" in answers[2]["error"]
        if score is None:
            assert "scores" not in answer and "argmax" not in answer
        else:
            assert answer["scores"] == pytest.approx(list(score(logits)), abs=1e-7)
        told = json.loads(call("run", path, "--ids=" + ",".join(map(str, ids)), "--json").stdout)
        assert sorted(e["score"] for e in told["labels"]) == pytest.approx(sorted(answer.get("scores", logits)), abs=1e-6)
    path = exported(call, "bio", tmp_path)
    random.seed(1)
    ids = [2, *(random.randrange(5, 500) for _ in range(50)), 3]
    answer = served(thimble, path, [{"id": 1, "ids": ids}])[1]
    told = json.loads(call("run", path, "--ids=" + ",".join(map(str, ids)), "--json").stdout)
    assert answer["labels"] == [t["label"] for t in told["tokens"]]
    spans = [{k: s[k] for k in ["label", "score", "first", "last"]} for s in told["spans"]]
    assert answer["spans"] == spans and len(spans) > 1


def test_the_server_answers_texts_as_the_pipeline_does(thimble, call, tmp_path):
    model = exported(call, "qa", tmp_path)
    options = ["--tokenizer", TOKENIZER, "--tokens", 8192]
    probe = served(thimble, model, [{"id": 0, "text": "a", "pair": "b"}])
    if "token ids only" in probe[0].get("error", ""):
        pytest.skip("thimble-device is the lean one")
    cases = [c for c in EXPECTED["questions"] if c["model"] == "qa" and len(c["pair"]) < 600]
    requests = []
    for number, case in enumerate(cases):
        asked = {"id": number, "text": case["text"], "pair": case["pair"]}
        if "max_answer_len" in case["options"]:
            asked["max_answer"] = case["options"]["max_answer_len"]
        if case["options"].get("handle_impossible_answer"):
            asked["no_answer"] = True
        requests.append(asked)
    answers = served(thimble, model, requests, *options)
    for number, case in enumerate(cases):
        got, want = answers[number]["answer"], case["answer"]
        assert (got["start"], got["end"], got["text"]) == (want["start"], want["end"], want["answer"]), case
        assert got["score"] == pytest.approx(want["score"], abs=CLOSE)
    many = {"id": 0, "text": "?", "pair": "word " * 2000}
    assert "windows" in served(thimble, model, [many], *options)[0]["error"]
    path = exported(call, "bio", tmp_path)
    cases = [c for c in EXPECTED["entities"] if c["model"] == "bio" and c["strategy"] == "simple"]
    answers = served(thimble, path, [{"id": i, "text": c["text"]} for i, c in enumerate(cases)], *options)
    for number, case in enumerate(cases):
        found = [(s["label"], s["start"], s["end"]) for s in answers[number]["spans"]]
        assert found == [(e["entity_group"], e["start"], e["end"]) for e in case["answer"]]
