"""An encoder of thimble's in the place of the ALBERT in somebody's graph: ONNX Runtime must give the same from both, whoever wrote
the graph and whatever says in it which tokens are real.
"""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench import FIXTURES, ask, cases, session

# The graph, and the checkpoint whose encoder goes in.
GRAPHS = {
    "exported/groups_torch2.6_dyn.onnx": "albert-tiny-groups",
    "exported/mlm_torch2.6_nofold.onnx": "albert-mlm-tiny",
    "exported/mlm_torch1.8_dyn.onnx": "albert-mlm-tiny",
    "exported/pretraining_torch2.6.onnx": "albert-pretraining-tiny",
    "exported/qa_torch2.6.onnx": "albert-qa-tiny",
    "exported/seq_torch2.6_half.onnx": "albert-seq-tiny",
    "exported/seq_torch2.6_opset20.onnx": "albert-seq-tiny",
    "exported/seq_torch2.6_sdpa.onnx": "albert-seq-tiny",
    "exported/seq_torch2.6_static.onnx": "albert-seq-tiny",
    "exported/tok_torch2.6_opset18.onnx": "albert-tok-tiny",
    "optimised/mlm_attention.onnx": "albert-mlm-tiny",
    "optimised/mlm_multihead.onnx": "albert-mlm-tiny",
    "optimised/seq_lengths.onnx": "albert-seq-tiny",
}


@pytest.fixture(scope="session")
def encoder(thimble, models, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("encoders"), {}

    def make(name, precision="fp32", runtime="onnxruntime"):
        key = (name, precision, runtime)
        if key not in made:
            made[key] = folder / ("-".join(key) + ".onnx")
            arguments = ("--precision", precision, "--for", runtime, "--head", "none")
            thimble.run("export", models.source(name), "-o", made[key], *arguments)
        return made[key]

    return make


def feeds(path, name):
    """Padded rows as the graph wants them."""
    given = next(case.feeds for case in cases(name) if not (case.feeds["attention_mask"] == 1).all())
    wanted = {}
    for port in onnx.load(path).graph.input:
        kind = helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        value = given.get(port.name)
        if value is None:
            # How many tokens of each row are real.
            value = given["attention_mask"].sum(1)
        dims = [dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for axis, size in enumerate(dims):
            if size and size > value.shape[axis]:
                pads = [(0, size - n if i == axis else 0) for i, n in enumerate(value.shape)]
                value = np.pad(value, pads)
            elif size:
                value = value.take(range(size), axis)
        wanted[port.name] = value.astype(kind)
    return wanted


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_graph_gives_the_same(thimble, encoder, tmp_path, graph):
    path, name, out = FIXTURES / graph, GRAPHS[graph], tmp_path / "out.onnx"
    said = json.loads(thimble.run("graft", path, "--encoder", encoder(name), "-o", out, "--json").stdout)
    assert said["after"] == out.stat().st_size
    inputs = feeds(path, name)
    before, after = ask(session(path), inputs), ask(session(out), inputs)
    assert set(before) == set(after)
    limit = 2e-2 if "half" in graph else 1e-4
    mask = next((v for k, v in inputs.items() if "mask" in k), None)
    for output, value in before.items():
        apart = np.abs(after[output].astype(np.float32) - value.astype(np.float32))
        if mask is not None and value.shape[:2] == mask.shape:
            apart = apart[mask == 1]
        assert apart.max() <= limit, output
    nodes = {node.op_type for node in onnx.load(out).graph.node}
    assert "MultiHeadAttention" in nodes


@pytest.mark.parametrize("precision", ("int8", "int4"))
def test_a_shrunk_encoder_makes_the_graph_small(thimble, encoder, tmp_path, precision):
    path, out = FIXTURES / "exported/seq_torch2.6_sdpa.onnx", tmp_path / "out.onnx"
    small = encoder("albert-seq-tiny", precision)
    thimble.run("graft", path, "--encoder", small, "-o", out)
    assert out.stat().st_size < small.stat().st_size + 20_000
    inputs = feeds(path, "albert-seq-tiny")
    a, b = ask(session(path), inputs)["logits"], ask(session(out), inputs)["logits"]
    assert np.abs(a - b).max() < 0.3 * np.abs(a).std() + 0.3


def test_the_standard_form_passes_the_checker(thimble, encoder, tmp_path):
    path, out = FIXTURES / "exported/seq_torch2.6_sdpa.onnx", tmp_path / "out.onnx"
    thimble.run("graft", path, "--encoder", encoder("albert-seq-tiny", "int8", "onnx"), "-o", out)
    onnx.checker.check_model(str(out), full_check=True)
    # What cannot be larger than before is written over nothing that was read.
    thimble.run("graft", path, "--encoder", encoder("albert-seq-tiny", "int8", "onnx"), "-o", path, code=2)


def larger(path, out, read_inside):
    """A graph around an ALBERT: its hidden states leave doubled, and perhaps those of a layer within as well."""
    model = onnx.load(path)
    norms = [node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization"]
    # The embedding's, then two a layer.
    hidden, inside = norms[-1], norms[-3] if read_inside else norms[-1]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    model.graph.node.extend([helper.make_node("Mul", [hidden, "two"], ["twice"]), helper.make_node("ReduceMean", [inside], ["mean"])])
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("twice", "mean"))
    onnx.save(model, out)


def test_an_albert_inside_a_larger_graph(thimble, encoder, tmp_path):
    path = FIXTURES / "exported/tok_torch2.6_opset18.onnx"
    big, out, small = tmp_path / "big.onnx", tmp_path / "out.onnx", encoder("albert-tok-tiny")
    larger(path, big, read_inside=False)
    thimble.run("graft", big, "--encoder", small, "-o", out)
    inputs = feeds(big, "albert-tok-tiny")
    before, after = ask(session(big), inputs), ask(session(out), inputs)
    mask = inputs["attention_mask"] == 1
    assert np.abs(before["twice"] - after["twice"])[mask].max() <= 2e-4
    larger(path, big, read_inside=True)
    assert "a hidden state within the ALBERT" in thimble.run("graft", big, "--encoder", small, "-o", out, code=2).stderr


REFUSALS = {
    "a board's file": ("exported/seq_torch2.6_sdpa.onnx", ("albert-seq-tiny", "int8", "board"), "--for onnxruntime"),
    "an old operator set": ("exported/seq_torch2.6_opset11.onnx", ("albert-seq-tiny", "fp32", "onnxruntime"), "operator set 11"),
    "choices": ("exported/choice_torch2.6.onnx", ("albert-choice-tiny", "fp32", "onnxruntime"), "[batch, choices, seq]"),
    "another network": ("exported/seq_torch2.6_sdpa.onnx", ("albert-deb", "fp32", "onnxruntime"), "hidden_size"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_does_not_fit_is_refused(thimble, encoder, tmp_path, why):
    graph, small, words = REFUSALS[why]
    out = tmp_path / "out.onnx"
    said = thimble.run("graft", FIXTURES / graph, "--encoder", encoder(*small), "-o", out, code=2).stderr
    assert words in said and not out.exists()


def test_an_encoder_without_hidden_states_is_refused(thimble, models, tmp_path):
    small, out = tmp_path / "small.onnx", tmp_path / "out.onnx"
    thimble.run("export", models.source("albert-seq-tiny"), "-o", small, "--for", "onnxruntime")
    graph = FIXTURES / "exported/seq_torch2.6_sdpa.onnx"
    assert "--head none" in thimble.run("graft", graph, "--encoder", small, "-o", out, code=2).stderr


def test_of_two_alberts_one_must_be_named(thimble, encoder, tmp_path):
    path, big, out = FIXTURES / "exported/tok_torch2.6_opset18.onnx", tmp_path / "big.onnx", tmp_path / "out.onnx"
    first, second = onnx.load(path), onnx.load(path)
    both = onnx.compose.merge_models(first, second, io_map=[], prefix1="a/", prefix2="b/")
    onnx.save(both, big)
    small = encoder("albert-tok-tiny", "int8")
    said = thimble.run("graft", big, "--encoder", small, "-o", out, code=2).stderr
    assert "holds 2 ALBERTs" in said and not out.exists()
    at = said.split("end in '")[1].split("'")[0]
    thimble.run("graft", big, "--encoder", small, "-o", out, "--at", at)
    inputs = {f"{side}{name}": value for name, value in feeds(path, "albert-tok-tiny").items() for side in ("a/", "b/")}
    before, after = ask(session(big), inputs), ask(session(out), inputs)
    moved = {name for name in before if np.abs(before[name] - after[name]).max() > 1e-6}
    assert moved == {f"{at.split('/')[0]}/logits"}


def test_names_of_nested_graphs_are_not_taken(thimble, encoder, tmp_path):
    path, big, out = FIXTURES / "exported/tok_torch2.6_opset18.onnx", tmp_path / "big.onnx", tmp_path / "out.onnx"
    model = onnx.load(path)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["logits"], ["thimble/input_ids"])], "inner", [], [helper.make_tensor_value_info("thimble/input_ids", TensorProto.FLOAT, None)]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("If", ["always"], ["chosen"], then_branch=inner, else_branch=inner))
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, big)
    thimble.run("graft", big, "--encoder", encoder("albert-tok-tiny"), "-o", out)
    inputs = feeds(path, "albert-tok-tiny")
    mask = inputs["attention_mask"] == 1
    assert np.abs(ask(session(big), inputs)["chosen"] - ask(session(out), inputs)["chosen"])[mask].max() <= 1e-4
    assert [entry.domain for entry in onnx.load(out).opset_import].count("com.microsoft") == 1
