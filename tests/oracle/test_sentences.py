"""Sentence embeddings as SentenceTransformer.encode gives them: ONNX Runtime on the exported file and the engine must both do, in
every way of pooling, alone and padded in a batch; ONNX files that pool are read; the server answers.
"""

import json
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench import FIXTURES, ask, session

SENTENCE, WILD = FIXTURES / "sentence", FIXTURES / "wild"
EXPECTED = json.loads((SENTENCE / "expected.json").read_text())
TEXTS = EXPECTED.pop("texts")
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
OUTPUT = "sentence_embedding"
LIMIT = 1e-4
# Largest difference from the right value, in standard deviations of all right values, or as it is where these are below 1.
# Measured: fp32 1.6e-6, fp16 0.0027, int8 0.078.
TOLERANCES = {"fp32": LIMIT, "fp16": 1e-2, "int8": 0.2}
# Largest difference between ONNX Runtime and the engine, which may round an input of int8 otherwise: measured 0.019.
BETWEEN = {"fp32": LIMIT, "fp16": LIMIT, "int8": 0.06}


def model(case, folder):
    """The folder of a case, put together with its transformer."""
    shutil.copytree(WILD / "d01_sentence_transformers", folder)
    shutil.rmtree(folder / "1_Pooling")
    own = SENTENCE / ("mean" if case in MODES else case)
    shutil.copytree(own, folder, dirs_exist_ok=True)
    if case in MODES:
        path = folder / "1_Pooling" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pooling_mode": case}))
    return folder


def feeds(rows):
    """Rows of ids as one batch, padded to the longest."""
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("case", EXPECTED)
def test_embeddings_are_those_of_sentence_transformers(thimble, tmp_path, case):
    source = model(case, tmp_path / "model")
    texts = [argument for text in TEXTS for argument in ("--text", text)]
    answer = json.loads(thimble.run("run", source, "--json", *texts).stdout)
    rows, want = answer["input_ids"], np.array(EXPECTED[case]["embeddings"], dtype=np.float32)
    assert np.abs(np.array(answer["embeddings"]) - want).max() <= LIMIT
    unit = want / np.linalg.norm(want, axis=1, keepdims=True)
    assert np.abs(np.array(answer["cosines"]) - unit @ unit.T).max() <= LIMIT
    for precision, tolerance in TOLERANCES.items():
        out = tmp_path / f"{precision}.onnx"
        thimble.run("export", source, "-o", out, "--precision", precision)
        onnx.checker.check_model(str(out), full_check=True)
        runtime = session(out)
        assert [port.name for port in runtime.get_outputs()] == [OUTPUT]
        whole = feeds(rows)
        theirs, ours = ask(runtime, whole)[OUTPUT], thimble.infer(out, whole)[OUTPUT]
        for found in (theirs, ours):
            assert found.shape == want.shape
            assert np.abs(found - want).max() <= tolerance * max(1, want.std()), precision
        assert np.abs(theirs - ours).max() <= BETWEEN[precision] * max(1, want.std()), precision
        for row, together in zip(rows, ours):
            assert np.array_equal(thimble.infer(out, feeds([row]))[OUTPUT][0], together), precision


def test_a_row_whose_mask_is_0_throughout_is_a_number(thimble, tmp_path):
    for mode in MODES:
        out = tmp_path / f"{mode}.onnx"
        thimble.run("export", model(mode, tmp_path / mode), "-o", out)
        inputs = feeds([[2, 9, 17, 3], [2, 9, 3]])
        inputs["attention_mask"][1] = 0
        theirs, ours = ask(session(out), inputs)[OUTPUT], thimble.infer(out, inputs)[OUTPUT]
        assert np.isfinite(ours).all() and np.abs(theirs - ours).max() <= LIMIT


class Tail:
    """Nodes behind the last hidden state of an ONNX file that pools, in place of its own."""

    def __init__(self):
        self.proto = onnx.load(WILD / "onnx" / "e09_sentence.onnx")
        nodes = self.proto.graph.node
        last = next(i for i, node in enumerate(nodes) if "token_embeddings" in node.output)
        del nodes[last + 1 :]
        self.hidden, self.count = "token_embeddings", 0
        self.mask = self.node("Cast", self.node("Unsqueeze", "attention_mask", self.ints(-1)), to=TensorProto.FLOAT)

    def node(self, op, *inputs, outputs=1, **attributes):
        self.count += 1
        names = [f"tail_{self.count}_{i}" for i in range(outputs)]
        self.proto.graph.node.append(helper.make_node(op, inputs, names, **attributes))
        return names[0]

    def constant(self, array):
        self.count += 1
        self.proto.graph.initializer.append(numpy_helper.from_array(np.array(array), f"tail_{self.count}"))
        return f"tail_{self.count}"

    def ints(self, *values):
        return self.constant(np.array(values, dtype=np.int64))

    def floats(self, value):
        return self.constant(np.array(value, dtype=np.float32))

    def sum(self, x):
        return self.node("ReduceSum", x, self.ints(1), keepdims=0)

    def cls(self):
        return self.node("Gather", self.hidden, self.constant(np.int64(0)), axis=1)

    def max(self):
        hidden = self.node("Where", self.node("Equal", self.mask, self.floats(0)), self.floats(-1e9), self.hidden)
        return self.node("ReduceMax", hidden, axes=[1], keepdims=0)

    def mean(self):
        count = self.node("Clip", self.sum(self.mask), self.floats(1e-9))
        return self.node("Div", self.sum(self.node("Mul", self.hidden, self.mask)), count)

    def mean_sqrt_len_tokens(self):
        count = self.node("Sqrt", self.node("Clip", self.sum(self.mask), self.floats(1e-9)))
        return self.node("Div", self.sum(self.node("Mul", self.hidden, self.mask)), count)

    def weightedmean(self):
        ones = self.node("Add", self.node("Mul", self.mask, self.floats(0)), self.floats(1))
        weights = self.node("Mul", self.mask, self.node("CumSum", ones, self.constant(np.int64(1))))
        return self.node("Div", self.sum(self.node("Mul", self.hidden, weights)), self.sum(weights))

    def lasttoken(self):
        ones = self.node("Add", self.node("Mul", self.mask, self.floats(0)), self.floats(1))
        places = self.node("Mul", self.mask, self.node("CumSum", ones, self.constant(np.int64(1))))
        at = self.node("ArgMax", places, axis=1, keepdims=1)
        at = self.node("Expand", at, self.ints(1, 1, 64))
        gathered = self.node("GatherElements", self.node("Mul", self.hidden, self.mask), at, axis=1)
        return self.node("Squeeze", gathered, self.ints(1))

    def dense(self, x, inp, out, activation):
        random = np.random.default_rng(inp + out)
        weight, bias = self.floats(random.normal(size=(inp, out)) / 8), self.floats(random.normal(size=out))
        y = self.node("Add", self.node("MatMul", x, weight), bias)
        return self.node(activation, y) if activation else y

    def normalized(self, x):
        return self.node("Div", x, self.node("Clip", self.node("ReduceL2", x, axes=[-1], keepdims=1), self.floats(1e-12)))

    def save(self, value, path):
        self.proto.graph.node.append(helper.make_node("Identity", [value], [OUTPUT]))
        del self.proto.graph.value_info[:]
        onnx.save(self.proto, path)


TAILS = {
    "cls": (lambda t: t.cls(), "cls pooling"),
    "max": (lambda t: t.max(), "max pooling"),
    "mean_sqrt_len_tokens": (lambda t: t.mean_sqrt_len_tokens(), "mean_sqrt_len_tokens pooling"),
    "weightedmean": (lambda t: t.weightedmean(), "weightedmean pooling"),
    "lasttoken": (lambda t: t.lasttoken(), "lasttoken pooling"),
    "several": (
        lambda t: t.normalized(t.node("Concat", t.mean(), t.max(), axis=-1)),
        "mean and max pooling, normalized",
    ),
    "dense": (
        lambda t: t.dense(t.dense(t.mean(), 64, 24, "Tanh"), 24, 12, None),
        "mean pooling, dense 24 tanh, dense 12",
    ),
}


@pytest.mark.parametrize("name", TAILS)
def test_onnx_that_pools_is_read(thimble, tmp_path, name):
    build, said = TAILS[name]
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    tail = Tail()
    tail.save(build(tail), source)
    thimble.run("export", source, "-o", out)
    assert f"head: sentence embedding ({said})" in thimble.run("inspect", out).stdout
    inputs = feeds([[2, 9, 17, 5, 290, 3], [2, 9, 3], [2, 11, 12, 13, 3]])
    assert np.abs(ask(session(source), inputs)[OUTPUT] - ask(session(out), inputs)[OUTPUT]).max() <= LIMIT


def test_another_function_of_hidden_states_is_left_out(thimble, tmp_path):
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    tail = Tail()
    tail.save(tail.node("Mul", tail.mean(), tail.floats(2)), source)
    done = thimble.run("export", source, "-o", out)
    assert "hidden states are made" in done.stderr and "'sentence_embedding' is pooled" in done.stderr
    assert [port.name for port in session(out).get_outputs()] == ["last_hidden_state"]


def test_hidden_states_are_pooled_as_their_folder_says(thimble, tmp_path):
    def folder(case):
        made = tmp_path / case
        shutil.copytree(SENTENCE / case, made)
        (made / "onnx").mkdir()
        proto = onnx.load(WILD / "onnx" / "e09_sentence.onnx")
        hidden = [port for port in proto.graph.output if port.name == "token_embeddings"]
        del proto.graph.output[:]
        proto.graph.output.extend(hidden)
        onnx.save(proto, made / "onnx" / "model.onnx")
        return made

    out, inputs = tmp_path / "out.onnx", feeds([[2, 9, 17, 5, 290, 3], [2, 9, 3]])
    done = thimble.run("export", folder("mean"), "-o", out)
    assert "pools its hidden states: mean pooling" in done.stderr
    theirs = ask(session(WILD / "onnx" / "e09_sentence.onnx"), inputs)[OUTPUT]
    assert np.abs(ask(session(out), inputs)[OUTPUT] - theirs).max() <= LIMIT
    # What takes weights that the file does not have is no embedding.
    done = thimble.run("export", folder("all"), "-o", out)
    assert "dense layers that the file has not" in done.stderr
    assert [port.name for port in session(out).get_outputs()] == ["last_hidden_state"]
    done = thimble.run("export", tmp_path / "all", "-o", out, "--head", "sentence", code=2)
    assert "--head sentence" in done.stderr and "start from the checkpoint" in done.stderr


def test_the_server_and_the_board_answer_it(thimble, tmp_path):
    out = tmp_path / "all.onnx"
    thimble.run("export", model("all", tmp_path / "model"), "-o", out)
    rows = [[2, 9, 17, 3], [2, 9, 17, 5, 300, 3]]
    want = [thimble.infer(out, feeds([row]))[OUTPUT][0] for row in rows]
    requests = [{"id": i, "ids": row} for i, row in enumerate(rows)] + [{"id": 2, "ids": rows[0], "at": [1]}]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([thimble.device, "serve", out], input=lines, capture_output=True, text=True, timeout=60)
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    for i, right in enumerate(want):
        assert np.array_equal(np.array(answers[i]["outputs"][OUTPUT], dtype=np.float32), right)
        assert "argmax" not in answers[i] and "scores" not in answers[i]
    assert "the sentence embedding head has one answer for all of them" in answers[2]["error"]
    shown = thimble.run("info", out, program=thimble.device).stdout
    assert "head: sentence embedding (cls and max and mean" in shown and "dense 24 tanh, normalized" in shown
