"""ALBERT out of other tools' ONNX files. The judges: Hugging Face's golden values, the checkpoint's own numbers byte for
byte, and files that are no ALBERT, are another, or are broken, each of which must be refused in one clear line.
"""

import json
import os
import pathlib
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

import layout
from bench import FIXTURES, ask, assert_close, cases, real, session
from ledger import label
from test_errors import one_clear_line

EXPORTED = {
    "choice_torch2.6.onnx": "albert-choice-tiny",
    "groups_torch2.6_dyn.onnx": "albert-tiny-groups",
    "mlm_torch1.8_dyn.onnx": "albert-mlm-tiny",
    "mlm_torch2.6_nofold.onnx": "albert-mlm-tiny",
    "pretraining_torch2.6.onnx": "albert-pretraining-tiny",
    "qa_torch2.6.onnx": "albert-qa-tiny",
    "seq_torch2.6_half.onnx": "albert-seq-tiny",
    "seq_torch2.6_nofold.onnx": "albert-seq-tiny",
    "seq_torch2.6_opset11.onnx": "albert-seq-tiny",
    "seq_torch2.6_opset20.onnx": "albert-seq-tiny",
    "seq_torch2.6_sdpa.onnx": "albert-seq-tiny",
    "seq_torch2.6_static.onnx": "albert-seq-tiny",
    "tok_torch2.6_opset18.onnx": "albert-tok-tiny",
}
# Exports too large to lie here, in the folder that THIMBLE_EXPORTED names; scripts/export-with-torch makes them.
ELSEWHERE = {
    "deb_torch1.8_dyn.onnx": "albert-deb",
    "deb_torch2.6_legacy_dyn.onnx": "albert-deb",
    "deb_torch2.15_dynamo.onnx": "albert-deb",
}
LARGE = [name for name in ELSEWHERE if (pathlib.Path(os.environ.get("THIMBLE_EXPORTED", "")) / name).is_file()]
HALF = {"seq_torch2.6_half.onnx"}
# Fixed at 2 × 12 tokens, with one token type looked up already.
STATIC = {"seq_torch2.6_static.onnx"}


def test_every_exported_file_is_listed():
    assert {p.name for p in (FIXTURES / "exported").glob("*.onnx")} == set(EXPORTED)


def exported(name):
    return pathlib.Path(os.environ["THIMBLE_EXPORTED"]) / name if name in LARGE else FIXTURES / "exported" / name


def golden(thimble, path, model, limit=1e-4, only=None):
    """thimble's engine on an imported file, against Hugging Face."""
    for case in cases(model):
        feeds = dict(case.feeds)
        if only and not only(feeds):
            continue
        ours = thimble.infer(path, feeds)
        wanted = {name: value for name, value in case.golden.items() if name in ours}
        assert wanted
        assert_close(ours, wanted, feeds["attention_mask"], limit)


def same_payloads(ours, checkpoint):
    """Every tensor is the checkpoint's, byte for byte."""
    ours, theirs = layout.read(ours), layout.read(checkpoint)
    for spec in ours.graph["weights"]:
        name = spec["name"]
        assert ours.tensor(name).payload(ours.data) == theirs.tensor(name).payload(theirs.data), name


@pytest.mark.parametrize("name", [*EXPORTED, *LARGE])
def test_exported_files_are_imported_and_are_the_checkpoint(thimble, models, tmp_path, name):
    model = (EXPORTED | ELSEWHERE)[name]
    out = tmp_path / "out.onnx"
    done = thimble.run("export", exported(name), "-o", out)
    assert "agree" in done.stderr
    wanted = layout.read(models.export(model)).graph["config"]
    config = layout.read(out).graph["config"]
    # The graph knows no label names; what no output needs is not in the file.
    told = {"labels", "pooler"} | ({"type_vocab_size", "max_position_embeddings"} if name in STATIC else set())
    told |= {"layer_norm_eps"} if name in HALF else set()
    assert {k: v for k, v in config.items() if k not in told} == {k: v for k, v in wanted.items() if k not in told}
    assert len(config["labels"]) == len(wanted["labels"])
    if name in HALF:
        golden(thimble, out, model, limit=2e-2)
        assert {w["format"] for w in layout.read(out).graph["weights"]} == {"f16"}
    elif name in STATIC:
        fits = lambda feeds: feeds["input_ids"].shape == (2, 12) and not feeds["token_type_ids"].any()  # noqa: E731
        golden_static(thimble, out, model, fits)
    else:
        golden(thimble, out, model)
        same_payloads(out, models.export(model))


def golden_static(thimble, out, model, fits):
    """Its one token type is type 0: golden cases with others say nothing of it, so the checkpoint itself is asked."""
    case = next(c for c in cases(model) if c.feeds["input_ids"].shape == (2, 12))
    feeds = dict(case.feeds) | {"token_type_ids": np.zeros((2, 12), np.int64)}
    assert fits(feeds)
    reference = out.parent / "reference.onnx"
    thimble.run("export", FIXTURES / model, "-o", reference)
    assert_close(thimble.infer(out, feeds), thimble.infer(reference, feeds), feeds["attention_mask"], 1e-4)


@pytest.mark.parametrize("name", ("seq_torch2.6_opset11.onnx", "mlm_torch1.8_dyn.onnx", "groups_torch2.6_dyn.onnx"))
def test_without_names_the_structure_is_enough(thimble, models, tmp_path, name):
    """Every name but the inputs' is lost."""
    proto = onnx.load(FIXTURES / "exported" / name)
    graph = proto.graph
    names = {i.name: i.name for i in graph.input} | {o.name: f"result{i}" for i, o in enumerate(graph.output)}
    fresh = lambda old: names.setdefault(old, f"t{len(names)}") if old else ""  # noqa: E731
    for tensor in graph.initializer:
        tensor.name = fresh(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [fresh(n) for n in node.input]
        node.output[:] = [fresh(n) for n in node.output]
    for output in graph.output:
        output.name = names[output.name]
    del graph.value_info[:]
    bare, out = tmp_path / "bare.onnx", tmp_path / "out.onnx"
    onnx.save(proto, bare)
    thimble.run("export", bare, "-o", out)
    golden(thimble, out, EXPORTED[name])
    same_payloads(out, models.export(EXPORTED[name]))


@pytest.mark.parametrize("kind", ("external", "slim", "short names", "typed", "pre-processed", "int32 inputs"))
@pytest.mark.parametrize("name", ("seq_torch2.6_opset11.onnx", "seq_torch2.6_sdpa.onnx"))
def test_files_other_tools_have_worked_on(thimble, models, tmp_path, name, kind):
    source, worked, out = FIXTURES / "exported" / name, tmp_path / "worked.onnx", tmp_path / "out.onnx"
    proto = onnx.load(source)
    match kind:
        case "external":
            onnx.save(proto, worked, save_as_external_data=True, location="worked.bin", size_threshold=0)
        case "slim":
            thimble.run("slim", source, "-o", worked)
        case "short names":
            thimble.run("slim", source, "-o", worked, "--short-names")
        case "typed":
            for tensor in proto.graph.initializer:
                value = numpy_helper.to_array(tensor)
                tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, value.shape, value.flatten().tolist()))
            onnx.save(proto, worked)
        case "pre-processed":
            quant_pre_process(str(source), str(worked), skip_symbolic_shape=True)
        case "int32 inputs":
            for port in proto.graph.input:
                port.type.tensor_type.elem_type = TensorProto.INT32
            casts = [helper.make_node("Cast", [i.name], [f"{i.name}_wide"], to=TensorProto.INT64) for i in proto.graph.input]
            wide = {i.name: f"{i.name}_wide" for i in proto.graph.input}
            for node in proto.graph.node:
                node.input[:] = [wide.get(n, n) for n in node.input]
            nodes = [*casts, *proto.graph.node]
            del proto.graph.node[:]
            proto.graph.node.extend(nodes)
            onnx.save(proto, worked)
    thimble.run("export", worked, "-o", out)
    golden(thimble, out, "albert-seq-tiny")
    same_payloads(out, models.export("albert-seq-tiny"))


def with_words(name, count, path):
    """An exported file with a vocabulary of `count` words; the new ones are drawn like the old. Gives the checkpoint's bytes."""
    proto = onnx.load(FIXTURES / "exported" / name)
    table = next(t for t in proto.graph.initializer if t.name.endswith("word_embeddings.weight"))
    words = numpy_helper.to_array(table)
    new = np.random.default_rng(3).standard_normal((count - len(words), words.shape[1])).astype(np.float32) * words.std()
    table.CopyFrom(numpy_helper.from_array(np.concatenate([words, new]), table.name))
    onnx.save(proto, path)
    return (FIXTURES / EXPORTED[name] / "model.safetensors").stat().st_size + new.nbytes


def shrunk_is_close(path, feeds, wanted, limit):
    """ONNX Runtime on the small file; the limit is in standard deviations of what is wanted."""
    results = ask(session(path), feeds)
    for output, value in results.items():
        a, b = real(value, feeds["attention_mask"]), real(wanted[output], feeds["attention_mask"])
        assert a.shape == b.shape
        assert np.sqrt(np.mean((a - b) ** 2)) <= limit * b.std(), output
    assert results


# The tiny models are mostly graph: their floor lies above a third of the checkpoint, and they are asked to go there.
@pytest.mark.long
@pytest.mark.parametrize("name", [*EXPORTED, *LARGE])
def test_shrink_to_a_third_of_the_checkpoint_or_to_the_floor(thimble, models, tmp_path, name):
    """Judged by Hugging Face's values, and for the static file by the checkpoint's own."""
    model = (EXPORTED | ELSEWHERE)[name]
    budget = third = (FIXTURES / model / "model.safetensors").stat().st_size // 3
    out = tmp_path / "small.onnx"
    command = ["shrink", exported(name), "-o", out, "--rows", 8, "--nearest", "--budget"]
    if name in EXPORTED:
        refused = thimble.run(*command, third, code=1)
        assert "below the floor" in refused.stdout and not out.exists()
        budget = int(re.search(r"nearest that fits: --budget (\d+)", refused.stdout)[1])
        assert third < budget
        # It is the floor: a byte less is refused.
        thimble.run(*command, budget - 1, code=1)
    thimble.run(*command, budget)
    # Below it only with w8, which has fewer nodes and is taken where integer arithmetic is not good.
    assert out.stat().st_size <= budget
    judged = 0
    for case in cases(model):
        feeds, wanted = case.feeds, case.golden
        if name in STATIC:
            feeds = feeds | {"token_type_ids": np.zeros_like(feeds["input_ids"])}
            if feeds["input_ids"].shape != (2, 12):
                continue
            wanted = ask(session(models.export(model)), feeds)
        # Most floors are f16; that of groups is int8 and int4.
        shrunk_is_close(out, feeds, wanted, 0.25 if name.startswith("groups") else 0.05)
        judged += 1
    assert judged


def test_shrink_to_a_third_where_the_weights_are_most_of_the_file(thimble, tmp_path):
    """Judged by ONNX Runtime on the exported file itself."""
    source, out = tmp_path / "source.onnx", tmp_path / "small.onnx"
    third = with_words("groups_torch2.6_dyn.onnx", 40000, source) // 3
    thimble.run("shrink", source, "-o", out, "--rows", 8, "--budget", third)
    assert out.stat().st_size <= third
    ids = np.random.default_rng(4).integers(0, 40000, (4, 12))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    given = session(source)
    values = given.run(None, {i.name: feeds[i.name] for i in given.get_inputs()})
    # The pooler's output has a number for a name in the exported file.
    wanted = dict(zip((o.name for o in session(out).get_outputs()), values, strict=True))
    shrunk_is_close(out, feeds, wanted, 0.1)


def test_shrink_verify_and_run_take_them(thimble, models, tmp_path):
    source = FIXTURES / "exported" / "groups_torch2.6_dyn.onnx"
    budget = (FIXTURES / "albert-tiny-groups" / "model.safetensors").stat().st_size * 6 // 10
    out = tmp_path / "small.onnx"
    thimble.run("shrink", source, "--budget", budget, "-o", out)
    assert out.stat().st_size <= budget
    thimble.run("verify", FIXTURES / "exported" / "mlm_torch1.8_dyn.onnx", models.source("albert-mlm-tiny"), "--max-abs", "1e-4")
    said = thimble.run("run", FIXTURES / "exported" / "seq_torch2.6_sdpa.onnx", "--ids", "2,7,9,3", "--json")
    assert json.loads(said.stdout)["schema"] == 1


def test_labels_and_tokenizer_beside_the_file_are_taken(thimble, tmp_path):
    """optimum leaves config.json and tokenizer.json beside model.onnx."""
    folder = tmp_path / "optimum"
    folder.mkdir()
    shutil.copy(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx", folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "no", "1": "maybe", "2": "yes"}}))
    out = tmp_path / "out.onnx"
    thimble.run("export", folder / "model.onnx", "-o", out)
    assert layout.read(out).graph["config"]["labels"] == ["no", "maybe", "yes"]


def test_quantised_files_are_refused_by_name(thimble, tmp_path):
    path = tmp_path / "int8.onnx"
    quantize_dynamic(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx", path, weight_type=QuantType.QInt8)
    done = thimble.run("export", path, "-o", tmp_path / "out.onnx", code=2)
    one_clear_line(done, "int8.onnx", "already quantized", "nodes such as")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("layer", (1, 2, 3))
def test_a_file_that_computes_something_else_is_refused_at_its_layer(thimble, tmp_path, layer):
    """The scores of one layer are divided by another number: same structure, same weights, another function."""
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    made = {n.output[0]: n for n in proto.graph.node}
    softmaxes = [n for n in proto.graph.node if n.op_type == "Softmax"]
    divide = made[made[softmaxes[layer - 1].input[0]].input[0]]
    assert divide.op_type == "Div"
    proto.graph.initializer.append(numpy_helper.from_array(np.array(40.0, np.float32), "other"))
    divide.input[1] = "other"
    path = tmp_path / "other.onnx"
    onnx.save(proto, path)
    one_clear_line(thimble.run("export", path, "-o", tmp_path / "out.onnx", code=2), "other.onnx", f"part at layer {layer}")
    assert not (tmp_path / "out.onnx").exists()


def strangers():
    value = helper.make_tensor_value_info
    rng = np.random.default_rng(8)
    array = lambda name, *shape: numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)  # noqa: E731

    def conv():
        nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1] * 4) for i in range(6)]
        ports = [value("x0", TensorProto.FLOAT, [1, 3, 8, 8])], [value("x6", TensorProto.FLOAT, [1, 3, 8, 8])]
        return helper.make_graph(nodes, "conv", *ports, [array(f"w{i}", 3, 3, 3, 3) for i in range(6)])

    def lookup():
        nodes = [helper.make_node("Gather", ["table", "input_ids"], ["y"])]
        ports = [value("input_ids", TensorProto.INT64, ["b", "s"])], [value("y", TensorProto.FLOAT, ["b", "s", 4])]
        return helper.make_graph(nodes, "lookup", *ports, [array("table", 9, 4)])

    return {"conv": (conv(), "convolutional"), "lookup": (lookup(), "Gather")}


@pytest.mark.parametrize("kind", ("conv", "lookup"))
def test_what_is_no_albert_is_said_to_be_none(thimble, tmp_path, kind):
    graph, word = strangers()[kind]
    path = tmp_path / "stranger.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    one_clear_line(thimble.run("export", path, "-o", tmp_path / "out.onnx", code=2), "no ALBERT", word)
    thimble.run("inspect", path)


BROKEN = ("header", "cut in a node", "operator", "name", "short payload", "NaN", "outside", "missing data", "dims", "permutation", "huge")


def broken(kind, name, folder):
    """One broken variant of an exported file, and a word the error must hold."""
    source = FIXTURES / "exported" / name
    path = folder / "broken.onnx"
    data = bytearray(source.read_bytes())
    proto = onnx.load(source)
    weight = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
    match kind:
        case "header":
            data[0] = 0xFF
            path.write_bytes(data)
            return path, "broken.onnx", True
        case "cut in a node":
            what = label(data)
            at = what.index("name")
            path.write_bytes(data[: at + 3])
            return path, "broken.onnx", True
        case "operator":
            next(n for n in proto.graph.node if n.op_type == "Softmax").op_type = "Hardmax"
            word = "part at layer 1"
        case "name":
            linear = [n for n in proto.graph.node if n.op_type == "MatMul"][-1]
            linear.input[0] = "nowhere"
            word = "broken.onnx"
        case "short payload":
            weight.raw_data = weight.raw_data[:-4]
            word = weight.name
        case "NaN":
            weight.raw_data = b"\xff" * len(weight.raw_data)
            word = "NaN"
        case "outside" | "missing data":
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            place = "../secret.bin" if kind == "outside" else "gone.bin"
            weight.external_data.add(key="location", value=place)
            word = "outside" if kind == "outside" else "gone.bin"
        case "permutation":
            attention = next(n for n in proto.graph.node if n.op_type == "Transpose" and len(n.attribute[0].ints) == 4)
            attention.attribute[0].ints[0] = 1
            word = "permutation"
        case "huge":
            shape = numpy_helper.from_array(np.array([1 << 40, -1, 2, 12]), "endless")
            proto.graph.initializer.append(shape)
            next(n for n in proto.graph.node if n.op_type == "Reshape" and n.output[0] != "").input[1] = "endless"
            word = "endless"
        case "dims":
            weight.dims[0] += 1
            word = weight.name
    path.write_bytes(proto.SerializeToString())
    return path, word, False


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", ("seq_torch2.6_opset11.onnx", "mlm_torch1.8_dyn.onnx", "groups_torch2.6_dyn.onnx", "seq_torch2.6_half.onnx"))
def test_one_thing_broken_is_one_clear_error(thimble, tmp_path, name, kind):
    path, word, unreadable = broken(kind, name, tmp_path)
    out = tmp_path / "out.onnx"
    done = thimble.run("export", path, "-o", out, code=2)
    one_clear_line(done, word)
    assert len([line for line in done.stderr.splitlines() if not line.startswith("note:")]) == 1, done.stderr
    if unreadable:
        one_clear_line(thimble.run("inspect", path, code=2), word)
        one_clear_line(thimble.run("slim", path, "-o", out, code=2), word)
    assert not out.exists()


@pytest.mark.long
@pytest.mark.parametrize("name", ("mlm_torch1.8_dyn.onnx", "qa_torch2.6.onnx", "seq_torch2.6_half.onnx"))
def test_no_single_byte_makes_anything_fall_over(thimble, tmp_path, name):
    """Bytes of every kind of field, flipped one at a time: an answer or one error line, never a panic."""
    import subprocess

    data = (FIXTURES / "exported" / name).read_bytes()
    what = np.array(label(data))
    rng = np.random.default_rng(9)
    places = np.concatenate([rng.choice(np.flatnonzero(what == kind), 14) for kind in sorted(set(what))])
    path, out = tmp_path / "flipped.onnx", tmp_path / "out.onnx"
    for at in places:
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        for command in (["inspect", path], ["slim", path, "-o", out], ["export", path, "-o", out]):
            done = subprocess.run([thimble.host, *command], capture_output=True, text=True, timeout=120)
            assert done.returncode in (0, 2), (at, command, done.stderr)
            assert "panicked" not in done.stderr
            if done.returncode == 2:
                one_clear_line(done, "flipped.onnx")


def hostile(kind):
    """An exported file with one absurdity, and a word of the answer; none where the rest of the file still is ALBERT."""
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    graph = proto.graph
    match kind:
        case "endless inputs" | "large inputs":
            for port in graph.input:
                for dim, size in zip(port.type.tensor_type.shape.dim, (10**4, 10**6) if kind == "large inputs" else (1 << 62, 1 << 62), strict=True):
                    dim.dim_value = size
            return proto, "tokens"
        case "long list":
            graph.input.extend(helper.make_tensor_value_info(f"p{i}", TensorProto.INT64, ["b", "s"]) for i in range(20000))
            return proto, "its inputs"
        case "long name":
            for node in graph.node:
                node.op_type = "A" * 10000
            return proto, "no ALBERT"
        case "dead tensors":
            graph.initializer.extend(numpy_helper.from_array(np.zeros(2, np.float32), f"i{i}") for i in range(100_000))
            return proto, None
        case "products of products":
            made = {n.output[0]: n for n in graph.node}
            scores = next(n for n in graph.node if n.op_type == "MatMul" and all(i in made for i in n.input))
            names = [scores.input[0], *(f"product{i}" for i in range(60))]
            extra = [helper.make_node("Mul", [a, a], [b]) for a, b in zip(names, names[1:])]
            scores.input[0] = names[-1]
            at = list(graph.node).index(scores)
            nodes = [*graph.node[:at], *extra, *graph.node[at:]]
            del graph.node[:]
            graph.node.extend(nodes)
            return proto, "part at layer 1"


@pytest.mark.parametrize("kind", ("endless inputs", "large inputs", "long list", "long name", "dead tensors", "products of products"))
def test_absurd_files_are_answered_soon_and_shortly(thimble, tmp_path, kind):
    proto, word = hostile(kind)
    path, out = tmp_path / "absurd.onnx", tmp_path / "out.onnx"
    path.write_bytes(proto.SerializeToString())
    done = thimble.run("export", path, "-o", out, code=0 if word is None else 2)
    assert out.exists() == (word is None)
    if word:
        one_clear_line(done, "absurd.onnx", word)
        assert len(done.stderr) < 2500


def of_its_own_accord(kind):
    """The small classifier, computing something else than ALBERT where few inputs would show it."""
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    graph = proto.graph
    made = {out: node for node in graph.node for out in node.output}
    stored = {t.name: t for t in graph.initializer}
    if kind == "mask of one row ignored":
        for port in graph.input:
            port.type.tensor_type.shape.dim[0].dim_value, port.type.tensor_type.shape.dim[1].dim_value = 1, 16
        (least,) = [n for n in made.values() if n.op_type == "Constant" and numpy_helper.to_array(n.attribute[0].t).min(initial=0) < -1e30]
        least.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(0, np.float32)))
    elif kind == "late positions wrap":
        constants = [n.attribute[0].t for n in made.values() if n.op_type == "Constant"]
        ids = [t for t in (*stored.values(), *constants) if t.data_type == TensorProto.INT64 and np.prod(t.dims) > 16]
        (places,) = [t for t in ids if np.array_equal(numpy_helper.to_array(t).ravel(), np.arange(np.prod(t.dims)))]
        values = numpy_helper.to_array(places).copy()
        values[0, 16:] = np.arange(values.shape[1] - 16)
        places.CopyFrom(numpy_helper.from_array(values, places.name))
    else:
        # The mask is what is not padding, by the ids below 1; nothing shows unless that id comes up.
        graph.input.remove(next(port for port in graph.input if port.name == "attention_mask"))
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "first"))
        own = [
            helper.make_node("Less", ["input_ids", "first"], ["is_pad"]),
            helper.make_node("Not", ["is_pad"], ["is_real"]),
            helper.make_node("Cast", ["is_real"], ["attention_mask"], to=TensorProto.INT64),
        ]
        nodes = [*own, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    return proto


@pytest.mark.parametrize("kind", ("mask of one row ignored", "late positions wrap", "mask from the ids"))
def test_what_few_inputs_would_show_is_shown(thimble, tmp_path, kind):
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(of_its_own_accord(kind), source)
    done = thimble.run("export", source, "-o", out, code=2)
    assert "part at" in done.stderr and not out.exists()


@pytest.mark.parametrize("between", ("Identity", "Cast"))
def test_the_kind_of_gelu_is_seen_through_plumbing(thimble, tmp_path, between):
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset20.onnx")
    nodes = []
    for node in proto.graph.node:
        if node.op_type == "Relu":
            extra = {"to": TensorProto.FLOAT} if between == "Cast" else {}
            nodes.append(helper.make_node(between, [node.input[0]], [node.input[0] + ".on"], **extra))
            node = helper.make_node("Gelu", [node.input[0] + ".on"], [node.output[0]], approximate="tanh")
        nodes.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    thimble.run("export", source, "-o", out)
    ids = np.arange(24).reshape(2, 12) + 5
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    taken = {port.name for port in proto.graph.input}
    (theirs,) = ask(session(source), {name: feeds[name] for name in taken}).values()
    (ours,) = ask(session(out), feeds).values()
    assert np.abs(theirs - ours).max() < 1e-5


def rounded_to_bf16(proto):
    """The file as model.bfloat16() makes it: every f32 number, cast and fill is bf16."""
    def narrow(tensor):
        if tensor.data_type == TensorProto.FLOAT:
            bits = numpy_helper.to_array(tensor).astype(np.float32).view(np.uint32)
            tensor.raw_data = ((bits + 0x8000) >> 16).astype(np.uint16).tobytes()
            tensor.data_type = TensorProto.BFLOAT16

    for tensor in proto.graph.initializer:
        narrow(tensor)
    for node in proto.graph.node:
        for attribute in node.attribute:
            narrow(attribute.t)
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
    return proto


def test_bf16_weights_are_read_as_they_are(thimble, models, tmp_path):
    source, out = tmp_path / "bf16.onnx", tmp_path / "out.onnx"
    proto = rounded_to_bf16(onnx.load(FIXTURES / "exported" / "seq_torch2.6_nofold.onnx"))
    # The smallest f32 number is none of bf16's.
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.t.data_type == TensorProto.BFLOAT16 and attribute.t.raw_data == b"\x80\xff":
                attribute.t.raw_data = b"\x7f\xff"
    onnx.save(proto, source)
    thimble.run("export", source, "-o", out)
    stored = {t.name: t for t in proto.graph.initializer}
    ours, reference = layout.read(out), layout.read(models.export("albert-seq-tiny"))
    word = next(t for name, t in stored.items() if name.endswith("word_embeddings.weight"))
    widened = (np.frombuffer(word.raw_data, np.uint16).astype(np.uint32) << 16).tobytes()
    assert bytes(ours.tensor("word").payload(ours.data)) == widened
    assert bytes(reference.tensor("word").payload(reference.data)) != widened
    golden(thimble, out, "albert-seq-tiny", limit=5e-2)


@pytest.mark.parametrize("kind", ("FLOAT", "BOOL", "FLOAT16"))
def test_masks_of_other_types_are_masks(thimble, models, tmp_path, kind):
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    port = next(i for i in proto.graph.input if i.name == "attention_mask")
    port.type.tensor_type.elem_type = getattr(TensorProto, kind)
    for node in proto.graph.node:
        node.input[:] = ["mask_wide" if n == "attention_mask" else n for n in node.input]
    nodes = [helper.make_node("Cast", ["attention_mask"], ["mask_wide"], to=TensorProto.INT64), *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    done = thimble.run("export", source, "-o", out)
    assert "its mask is" in done.stderr
    golden(thimble, out, "albert-seq-tiny")
    same_payloads(out, models.export("albert-seq-tiny"))


def test_what_is_not_taken_is_said_precisely(thimble, tmp_path):
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    port = next(i for i in proto.graph.input if i.name == "attention_mask")
    port.CopyFrom(helper.make_tensor_value_info("attention_mask", TensorProto.FLOAT, ["b", 1, "s", "s"]))
    onnx.save(proto, source)
    one_clear_line(thimble.run("export", source, "-o", out, code=2), "attention_mask", "f32 of 4 dimensions", "0 and 1")
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    onnx.save(proto, source)
    one_clear_line(thimble.run("export", source, "-o", out, code=2), "weights are f64", "bf16")
    assert not out.exists()


def test_a_dead_quantiser_quantises_nothing(thimble, models, tmp_path):
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    proto.graph.initializer.extend(
        [helper.make_tensor("left", TensorProto.INT8, [4], [1, 2, 3, 4]), helper.make_tensor("over", TensorProto.FLOAT, [], [0.5])]
    )
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["left", "over"], ["nobody"]))
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    thimble.run("export", source, "-o", out)
    same_payloads(out, models.export("albert-seq-tiny"))


def costly(kind):
    """A small file whose mask is computed by way of something large, times nothing; and a word of the refusal."""
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    graph = proto.graph
    if kind == "long":
        for port in graph.input:
            port.type.tensor_type.shape.dim[0].dim_value, port.type.tensor_type.shape.dim[1].dim_value = 1, 60000
        return proto, "numbers"
    array = lambda name, values: numpy_helper.from_array(np.array(values, np.int64), name)  # noqa: E731
    fill = lambda name: helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=helper.make_tensor("", TensorProto.FLOAT, [1], [1]))  # noqa: E731
    shapes, nodes, word = {}, [], "numbers"
    match kind:
        case "outer product":
            shapes = {"a": [1 << 20, 1], "b": [1, 1 << 20]}
            nodes = [fill("a"), fill("b"), helper.make_node("MatMul", ["a", "b"], ["large"])]
        case "products":
            shapes, word = {"a": [1000, 1000]}, "multiplications"
            nodes = [fill("a"), *(helper.make_node("MatMul", [f"p{i}" if i else "a", "a"], [f"p{i + 1}"]) for i in range(300))]
            nodes.append(helper.make_node("Identity", ["p300"], ["large"]))
        case "stretched mask":
            shapes = {"to": [1, 1]}
            graph.initializer.append(array("to", [4096, 4096, 1, 1]))
            nodes = [helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT), helper.make_node("Expand", ["m", "to"], ["large"])]
        case "chain":
            word = "nodes"
            nodes = [helper.make_node("Cast", ["attention_mask"], ["n0"], to=TensorProto.FLOAT)]
            nodes += [helper.make_node("Neg", [f"n{i}"], [f"n{i + 1}"]) for i in range(20000)]
            nodes.append(helper.make_node("Identity", ["n20000"], ["large"]))
        case "loop":
            word = "no ALBERT has"
            body = helper.make_graph(
                [helper.make_node("Identity", ["on"], ["on_"]), helper.make_node("Neg", ["v"], ["v_"])], "body",
                [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
                [helper.make_tensor_value_info("on_", TensorProto.BOOL, []), helper.make_tensor_value_info("v_", TensorProto.FLOAT, None)],
            )  # fmt: skip
            graph.initializer.append(array("rounds", 1 << 40))
            shapes = {"a": [1]}
            nodes = [fill("a"), helper.make_node("Loop", ["rounds", "", "a"], ["large"], body=body)]
    graph.initializer.extend(array(f"{name}_shape", shape) for name, shape in shapes.items())
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    for node in graph.node:
        node.input[:] = ["mask_after_all" if n == "attention_mask" else n for n in node.input]
    nodes += [
        helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Cast", ["zero"], ["zero_i"], to=TensorProto.INT64),
        helper.make_node("Add", ["attention_mask", "zero_i"], ["mask_after_all"]),
    ]
    nodes = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return proto, word


@pytest.mark.parametrize("kind", ("long", "outer product", "products", "stretched mask", "chain", "loop"))
def test_a_small_file_cannot_cost_minutes(thimble, tmp_path, kind):
    """Nor gigabytes: the program may map no more than four."""
    import resource
    import subprocess

    proto, word = costly(kind)
    path, out = tmp_path / "costly.onnx", tmp_path / "out.onnx"
    path.write_bytes(proto.SerializeToString())
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # noqa: E731
    done = subprocess.run([thimble.host, "export", path, "-o", out], capture_output=True, text=True, timeout=60, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    one_clear_line(done, "costly.onnx", word)
    assert not out.exists()


def spoilt(kind):
    """The grouped model with one thing spoilt, and words of what is to be said of it."""
    proto = onnx.load(FIXTURES / "exported" / "groups_torch2.6_dyn.onnx")
    graph = proto.graph
    array = lambda name, values, kind=np.int64: numpy_helper.from_array(np.array(values, kind), name)  # noqa: E731
    if kind == "last positions":
        stored = {t.name: t for t in graph.initializer}
        gather = next(n for n in graph.node if n.op_type == "Gather" and list(stored.get(n.input[0], array("", 0)).dims)[:1] == [40])
        graph.initializer.append(array("cap", 36))
        capped = helper.make_node("Min", [gather.input[1], "cap"], ["capped"])
        gather.input[1] = "capped"
        graph.node.insert(list(graph.node).index(gather), capped)
        return proto, ("part at the embedding",)
    graph.initializer.append(array("first", [0]))
    (output,) = [o.name for o in graph.output][:1]
    graph.node.append(helper.make_node("Unsqueeze", [output, "first"], ["wider"]))
    graph.node.append(helper.make_node("Cast", ["wider"], ["narrow"], to=TensorProto.FLOAT16))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("narrow", TensorProto.FLOAT16, None))
    return proto, ("'narrow' has 4 dimensions; here last_hidden_state has 3", "'narrow' is f16; here last_hidden_state is f32")


def test_the_last_positions_are_compared_too(thimble, tmp_path):
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    proto, words = spoilt("last positions")
    onnx.save(proto, source)
    one_clear_line(thimble.run("export", source, "-o", out, code=2), "source.onnx", *words)
    assert not out.exists()


def test_an_output_that_changes_its_shape_or_type_is_named(thimble, tmp_path):
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    proto, words = spoilt("output")
    onnx.save(proto, source)
    said = thimble.run("export", source, "-o", out).stderr
    for word in words:
        assert word in said


def test_a_place_left_over_beside_the_numbers_is_ignored(thimble, tmp_path):
    """Tools bring external data into the file and leave the entries that said where it was: DEFAULT means they say nothing."""
    proto = onnx.load(FIXTURES / "exported" / "groups_torch2.6_dyn.onnx")
    table = next(t for t in proto.graph.initializer if t.name.endswith("word_embeddings.weight"))
    stale = numpy_helper.to_array(table)[::-1].copy()
    (tmp_path / "stale.bin").write_bytes(stale.tobytes())
    for key, value in {"location": "stale.bin", "offset": "0", "length": str(stale.nbytes)}.items():
        table.external_data.add(key=key, value=value)
    table.data_location = TensorProto.DEFAULT
    source, out, slim, clean = (tmp_path / f"{n}.onnx" for n in ("source", "out", "slim", "clean"))
    source.write_bytes(proto.SerializeToString())
    thimble.run("export", source, "-o", out)
    thimble.run("export", FIXTURES / "exported" / "groups_torch2.6_dyn.onnx", "-o", clean)
    same_payloads(out, clean)
    done = json.loads(thimble.run("slim", source, "-o", slim, "--json").stdout)
    assert done["before"] == source.stat().st_size and done["external"] is None
    kept = {t.name: t for t in onnx.load(slim).graph.initializer}
    assert numpy_helper.to_array(kept[table.name]).tobytes() == stale[::-1].tobytes()
    told = json.loads(thimble.run("inspect", source, "--json").stdout)
    assert told["total_bytes"] == source.stat().st_size


def small_graph(kind):
    """A few nodes that begin like an ALBERT, with a stored shape that no such place has."""
    numbers = lambda name, shape: numpy_helper.from_array(np.ones(shape, np.float32), name)  # noqa: E731
    tensors = [numbers("table", (10, 8)), numbers("scale", 8), numbers("shift", 8)]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["rows"])]
    at = "rows"
    if kind == "scale without dimensions":
        tensors[1:] = [numbers("scale", ()), numbers("shift", ())]
    if kind == "narrow batch":
        tensors.append(numbers("narrow", (2, 10, 2)))
        nodes.append(helper.make_node("Add", ["rows", "narrow"], ["sum"]))
        at = "sum"
    nodes.append(helper.make_node("LayerNormalization", [at, "scale", "shift"], ["normed"]))
    if kind == "narrow batch":
        tensors.extend([numbers("map", (8, 8)), numbers("bias", 8)])
        nodes += [helper.make_node("MatMul", ["normed", "map"], ["mapped"]), helper.make_node("Add", ["mapped", "bias"], ["out"])]
    else:
        nodes.append(helper.make_node("Identity", ["normed"], ["out"]))
    ports = [helper.make_tensor_value_info(n, k, s) for n, k, s in (("ids", TensorProto.INT64, ["b", "s"]), ("out", TensorProto.FLOAT, None))]
    graph = helper.make_graph(nodes, "small", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", ("scale without dimensions", "narrow batch"))
def test_shapes_out_of_place_are_no_panic(thimble, tmp_path, kind):
    source, out = tmp_path / "small.onnx", tmp_path / "out.onnx"
    onnx.save(small_graph(kind), source)
    thimble.run("inspect", source)
    one_clear_line(thimble.run("export", source, "-o", out, code=2), "small.onnx", "no ALBERT")
    assert not out.exists()


def test_an_export_that_is_not_proven_is_promised_under_that_condition(thimble, tmp_path):
    """A softmax of scores times 1.7 has ALBERT's structure, and only the proof tells."""
    proto = onnx.load(FIXTURES / "exported" / "groups_torch2.6_dyn.onnx")
    graph = proto.graph
    softmax = [n for n in graph.node if n.op_type == "Softmax"][2]
    graph.initializer.append(numpy_helper.from_array(np.array(1.7, np.float32), "sharper"))
    graph.node.insert(list(graph.node).index(softmax), helper.make_node("Mul", [softmax.input[0], "sharper"], ["sharp"]))
    next(n for n in graph.node if n.op_type == "Softmax" and n.output[0] == softmax.output[0]).input[0] = "sharp"
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    onnx.save(proto, source)
    exports = [f for f in json.loads(thimble.run("inspect", source, "--json").stdout)["fixes"] if f["command"].startswith("thimble export")]
    assert exports and all("if the file proves to be that ALBERT" in f["what"] for f in exports)
    assert "part at" in thimble.run("export", source, "-o", out, code=2).stderr


def test_a_map_without_elements_is_no_map(thimble, tmp_path):
    """2⁴⁰ rows of no columns take no bytes in the file, and would take terabytes of label names."""
    proto = onnx.load(FIXTURES / "exported" / "seq_torch2.6_opset11.onnx")
    gemm = [n for n in proto.graph.node if n.op_type == "Gemm"][-1]
    weight = next(t for t in proto.graph.initializer if t.name == gemm.input[1])
    weight.CopyFrom(TensorProto(name=weight.name, data_type=TensorProto.FLOAT, dims=[1 << 40, 0], raw_data=b""))
    source, out = tmp_path / "source.onnx", tmp_path / "out.onnx"
    source.write_bytes(proto.SerializeToString())
    thimble.run("inspect", source)
    one_clear_line(thimble.run("export", source, "-o", out, code=2), "source.onnx", "logits")
    assert not out.exists()
