"""`thimble slim`: the judges are onnx.checker and ONNX Runtime, whose outputs must not change by a bit."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench import FIXTURES
from test_inspect import strange

EXPORTED = sorted(p.name for p in (FIXTURES / "exported").glob("*.onnx"))
FLAGS = ([], ["--short-names"], ["--strip-metadata", "--one-file", "--short-names"])


def said(path, feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})


def albert_feeds(rng, shape=(2, 12)):
    mask = np.ones(shape, np.int64)
    mask[1, 7:] = 0
    return {"input_ids": rng.integers(5, 90, shape), "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}


def same_bits(before, after, feeds):
    for a, b in zip(said(before, feeds), said(after, feeds), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def port(name, shape=("n", 16), kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def built(path, nodes, inputs, outputs, tensors=(), opset=17, ir=8, **saving):
    """A model of `nodes`, the first of which carries text to be saved."""
    nodes[0].doc_string = "d" * 3000
    graph = helper.make_graph(nodes, "built", inputs, outputs, list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.save(model, path, **saving)
    return path


def size(path):
    return sum(p.stat().st_size for p in path.parent.glob(path.name + "*"))


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("name", EXPORTED)
def test_exports_get_smaller_and_say_the_same(thimble, tmp_path, name, flags):
    before, after = FIXTURES / "exported" / name, tmp_path / "after.onnx"
    done = json.loads(thimble.run("slim", before, "-o", after, "--json", *flags).stdout)
    assert size(after) == done["after"] < done["before"] == before.stat().st_size
    onnx.checker.check_model(str(after), full_check=True)
    feeds = albert_feeds(np.random.default_rng(1))
    if name.startswith("choice"):
        feeds = {key: value[None] for key, value in feeds.items()}
    same_bits(before, after, feeds)
    again = tmp_path / "again.onnx"
    thimble.run("slim", after, "-o", again, *flags)
    assert size(again) <= size(after)


def test_the_strange_file(thimble, tmp_path):
    before, after = strange(tmp_path), tmp_path / "after.onnx"
    thimble.run("slim", before, "-o", after)
    onnx.checker.check_model(str(after), full_check=True)
    x = {"x": np.random.default_rng(2).standard_normal((5, 16)).astype(np.float32)}
    same_bits(before, after, x)
    kept = {t.name for t in onnx.load(after).graph.initializer}
    assert kept == {"a", "cast_me", "through", "pooler", "typed", "scale"}
    only = tmp_path / "only.onnx"
    thimble.run("slim", before, "-o", only, "--outputs", "logits")
    assert said(only, x)[0].tobytes() == said(before, x)[0].tobytes()
    assert "pooler" not in {t.name for t in onnx.load(only).graph.initializer}
    assert "1234" in thimble.run("slim", before, "-o", only, "--outputs", "nothing", code=2).stderr


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_names_read_inside_nested_graphs_are_kept_right(thimble, tmp_path, flags):
    """An If whose branches read outer weights, one of them a copy, one under an alias, and define names of their own."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((16, 16)).astype(np.float32)
    value = helper.make_tensor_value_info
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w_again"], ["inner"]), helper.make_node("Neg", ["inner"], ["t"])],
        "then", [], [value("t", TensorProto.FLOAT, ["n", 16])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("MatMul", ["x", "alias"], ["v0"]), helper.make_node("Add", ["v0", "v0"], ["e"])],
        "else", [], [value("e", TensorProto.FLOAT, ["n", 16])],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["w"], ["alias"], name="hands_it_on"),
            helper.make_node("MatMul", ["x", "w"], ["y0"]),
            helper.make_node("If", ["which"], ["y1"], then_branch=then, else_branch=other),
            helper.make_node("Add", ["y0", "y1"], ["y"]),
        ],
        "nested",
        [value("x", TensorProto.FLOAT, ["n", 16]), value("which", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(w, "w_again")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    thimble.run("slim", before, "-o", after, *flags)
    onnx.checker.check_model(str(after), full_check=True)
    assert len(onnx.load(after).graph.initializer) == 1
    x = rng.standard_normal((3, 16)).astype(np.float32)
    for which in (True, False):
        same_bits(before, after, {"x": x, "which": np.array(which)})


def test_an_initializer_that_is_an_input_stays(thimble, tmp_path):
    """Its value is a default that a caller may replace: a copy of it is no copy."""
    w = np.random.default_rng(5).standard_normal((16, 16)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("MatMul", ["h", "v"], ["y"], doc_string="a" * 999),
        ],
        "defaults",
        [value("x", TensorProto.FLOAT, ["n", 16]), value("w", TensorProto.FLOAT, [16, 16])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(w, "v")],
    )
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), before)
    thimble.run("slim", before, "-o", after)
    same_bits(before, after, {"x": w[:3], "w": w.T.copy()})


@pytest.mark.parametrize("flags", ([], ["--one-file"]), ids=("two files", "one file"))
def test_external_data(thimble, tmp_path, flags):
    model = onnx.load(FIXTURES / "exported" / "mlm_torch1.8_dyn.onnx")
    before, after = tmp_path / "m.onnx", tmp_path / "after.onnx"
    onnx.save(model, before, save_as_external_data=True, location="m.bin", size_threshold=64)
    thimble.run("slim", before, "-o", after, *flags)
    onnx.checker.check_model(str(after), full_check=True)
    assert (tmp_path / "after.onnx.data").exists() == (not flags)
    assert size(after) < before.stat().st_size + (tmp_path / "m.bin").stat().st_size
    same_bits(before, after, albert_feeds(np.random.default_rng(6)))
    # The output must not replace what it is read from, data included.
    thimble.run("slim", before, "-o", before, code=2)
    after.with_suffix(".onnx.data").unlink(missing_ok=True)
    (tmp_path / "m.bin").unlink()
    done = thimble.run("slim", before, "-o", tmp_path / "none.onnx", code=2)
    assert "m.bin" in done.stderr and not (tmp_path / "none.onnx").exists()


def test_thimbles_own_files_are_refused(thimble, models, tmp_path):
    """Their weights lie where a board reads them in place."""
    refused = thimble.run("slim", models.export("albert-seq-tiny"), "-o", tmp_path / "after.onnx", code=2)
    assert "thimble shrink" in refused.stderr and not (tmp_path / "after.onnx").exists()


def test_a_nested_graph_s_own_value_is_not_read_for_an_outer_one(thimble, tmp_path):
    """A Loop whose state goes by the name of an outer tensor, and whose body reads a copy of that tensor and an alias."""
    rng = np.random.default_rng(8)
    w = rng.standard_normal((16, 16)).astype(np.float32) * 0.1
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_"]),
            helper.make_node("MatMul", ["w1", "w2"], ["p"]),
            helper.make_node("Add", ["p", "alias"], ["state"]),
        ],
        "body",
        [port("i", [], TensorProto.INT64), port("on", [], TensorProto.BOOL), port("w1", None)],
        [port("on_", [], TensorProto.BOOL), port("state", None)],
    )
    before = built(
        tmp_path / "before.onnx",
        [
            helper.make_node("Identity", ["w1"], ["alias"]),
            helper.make_node("MatMul", ["x", "w1"], ["y0"]),
            helper.make_node("Loop", ["rounds", "", "y0"], ["y"], body=body),
        ],
        [port("x")],
        [port("y")],
        [numpy_helper.from_array(w, name) for name in ("w1", "w2")] + [numpy_helper.from_array(np.array(2), "rounds")],
    )
    for flags in FLAGS:
        after = tmp_path / "after.onnx"
        thimble.run("slim", before, "-o", after, *flags)
        same_bits(before, after, {"x": rng.standard_normal((16, 16)).astype(np.float32)})


def test_identities_in_any_order_lead_to_the_value(thimble, tmp_path):
    """ONNX Runtime takes nodes in any order, so a chain of Identities may stand backwards."""
    rng = np.random.default_rng(9)
    chain = [helper.make_node("Identity", [a], [b]) for a, b in (("d", "e"), ("c", "d"), ("b", "c"), ("a", "b"))]
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    built(
        before,
        [helper.make_node("Relu", ["e"], ["y"]), *chain, helper.make_node("MatMul", ["x", "w"], ["a"])],
        [port("x")],
        [port("y")],
        [numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), "w")],
    )
    thimble.run("slim", before, "-o", after)
    assert "Identity" not in {n.op_type for n in onnx.load(after).graph.node}
    same_bits(before, after, {"x": rng.standard_normal((3, 16)).astype(np.float32)})


def test_an_input_goes_with_its_default(thimble, tmp_path):
    """Before IR 4 every initializer is an input too; one that nothing reads must not turn into an input to be given."""
    rng = np.random.default_rng(10)
    tensors = [numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), name) for name in ("w", "dead")]
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    for ir in (3, 8):
        built(
            before,
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            [port("x"), port("w", [16, 16]), port("dead", [16, 16])],
            [port("y")],
            tensors,
            opset=8,
            ir=ir,
        )
        thimble.run("slim", before, "-o", after)
        onnx.checker.check_model(str(after), full_check=True)
        assert [i.name for i in onnx.load(after).graph.input] == ["x", "w"]
        feeds = {"x": rng.standard_normal((3, 16)).astype(np.float32)}
        session = [ort.InferenceSession(str(p), providers=["CPUExecutionProvider"]) for p in (before, after)]
        assert session[0].run(None, feeds)[0].tobytes() == session[1].run(None, feeds)[0].tobytes()


@pytest.mark.parametrize("flags", ([], ["--one-file"]), ids=("two files", "one file"))
def test_external_data_of_attributes_and_nested_graphs(thimble, tmp_path, flags):
    rng = np.random.default_rng(11)
    weight = {n: numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), n) for n in ("k", "t", "w")}
    then = helper.make_graph([helper.make_node("MatMul", ["h", "t"], ["a"])], "then", [], [port("a", None)], [weight["t"]])
    other = helper.make_graph([helper.make_node("Neg", ["h"], ["b"])], "else", [], [port("b", None)])
    before, after = tmp_path / "before.onnx", tmp_path / "elsewhere" / "after.onnx"
    after.parent.mkdir()
    built(
        before,
        [
            helper.make_node("MatMul", ["x", "w"], ["g"]),
            helper.make_node("Constant", [], ["k"], value=weight["k"]),
            helper.make_node("MatMul", ["g", "k"], ["h"]),
            helper.make_node("If", ["which"], ["y"], then_branch=then, else_branch=other),
        ],
        [port("x"), port("which", [], TensorProto.BOOL)],
        [port("y")],
        [weight["w"]],
        save_as_external_data=True,
        location="before.bin",
        size_threshold=0,
        convert_attribute=True,
    )
    thimble.run("slim", before, "-o", after, *flags)
    assert (tmp_path / "elsewhere" / "after.onnx.data").exists() == (not flags)
    text = after.read_bytes()
    assert b"before.bin" not in text and (b"after.onnx.data" in text) == (not flags)
    feeds = {"x": rng.standard_normal((3, 16)).astype(np.float32)}
    for which in (True, False):
        same_bits(before, after, feeds | {"which": np.array(which)})


def test_data_that_many_tensors_share_is_not_left_behind(thimble, tmp_path):
    """In one file it would take more than in two, so there is nothing to save; a bare copy would lack its numbers."""
    rng = np.random.default_rng(12)
    (tmp_path / "w.bin").write_bytes(rng.standard_normal(8192).astype(np.float32).tobytes())

    def held(name, dims):
        t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": "w.bin", "offset": "0", "length": "32768"}.items():
            t.external_data.add(key=key, value=value)
        return t

    before, after = tmp_path / "before.onnx", tmp_path / "elsewhere" / "after.onnx"
    after.parent.mkdir()
    built(
        before,
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Reshape", ["b", "shape"], ["c"]),
            helper.make_node("MatMul", ["h", "c"], ["y"]),
        ],
        [port("x", ("n", 32))],
        [port("y", ("n", 32))],
        [held("a", [32, 256]), held("b", [8192]), numpy_helper.from_array(np.array([256, 32]), "shape")],
    )
    same_bits(before, before, {"x": rng.standard_normal((3, 32)).astype(np.float32)})
    refused = thimble.run("slim", before, "-o", after, "--one-file", code=2)
    assert "nothing to save" in refused.stderr and not list(after.parent.iterdir())


def test_external_data_without_a_length(thimble, tmp_path):
    """ONNX Runtime then reads as many bytes as the dims ask for."""
    rng = np.random.default_rng(13)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    built(
        before,
        [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])],
        [port("x")],
        [port("y")],
        [numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), name) for name in "ab"],
        save_as_external_data=True,
        location="before.bin",
        size_threshold=0,
    )
    model = onnx.load(before, load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [(e.key, e.value) for e in tensor.external_data if e.key != "length"]
        del tensor.external_data[:]
        for key, value in kept:
            tensor.external_data.add(key=key, value=value)
    before.write_bytes(model.SerializeToString())
    thimble.run("slim", before, "-o", after)
    same_bits(before, after, {"x": rng.standard_normal((3, 16)).astype(np.float32)})


def test_a_transposed_copy_stays_where_transpose_does_not_take_its_type(thimble, tmp_path):
    rng = np.random.default_rng(14)
    numbers = rng.integers(0, 100, (40, 16)).astype(np.uint8)
    tensors = [
        helper.make_tensor("a", TensorProto.FLOAT8E4M3FN, (40, 16), numbers.tobytes(), raw=True),
        helper.make_tensor("b", TensorProto.FLOAT8E4M3FN, (16, 40), np.ascontiguousarray(numbers.T).tobytes(), raw=True),
    ]
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    built(
        before,
        [
            helper.make_node("Cast", ["a"], ["af"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["b"], ["bf"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["x", "bf"], ["h"]),
            helper.make_node("MatMul", ["h", "af"], ["y"]),
        ],
        [port("x")],
        [port("y")],
        tensors,
        opset=19,
        ir=9,
    )
    thimble.run("slim", before, "-o", after)
    onnx.checker.check_model(str(after), full_check=True)
    same_bits(before, after, {"x": rng.standard_normal((3, 16)).astype(np.float32)})
