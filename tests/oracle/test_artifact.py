"""The one file is two truths, ONNX and memory image, and they must not part. docs/format.md is held to real files by a
reader written from it; what other tools do to a file (re-saving, editing) is refused or named; writing is repeatable.
"""

import itertools
import json

import numpy as np
import onnx
import onnx.reference
import pytest
from safetensors.numpy import load_file

import layout
import writer
from bench import PRECISIONS

MODELS = ("albert-deb", "albert-mlm-tiny", "albert-tiny-groups", "albert-seq-tiny")
FORMATS = {"fp32": "f32", "fp16": "f16", "w8": "w8", "int8": "i8", "int8a": "i8a", "int4": "i4"}
LAYER = "{base}encoder.albert_layer_groups.{group}.albert_layers.{inner}."
PARTS = {
    "q": "attention.query",
    "k": "attention.key",
    "v": "attention.value",
    "o": "attention.dense",
    "up": "ffn",
    "down": "ffn_output",
    "attn_norm": "attention.LayerNorm",
    "ffn_norm": "full_layer_layer_norm",
}


def checkpoint_name(name, base):
    """Hugging Face's name of a weight, by the table of docs/format.md."""
    tables = {
        "word": f"{base}embeddings.word_embeddings.weight",
        "position": f"{base}embeddings.position_embeddings.weight",
        "type": f"{base}embeddings.token_type_embeddings.weight",
        "map": f"{base}encoder.embedding_hidden_mapping_in.weight",
        "embed_norm": f"{base}embeddings.LayerNorm.weight",
        "pooler": f"{base}pooler.weight",
        "classifier": "classifier.weight",
        "mlm.dense": "predictions.dense.weight",
        "mlm.norm": "predictions.LayerNorm.weight",
        "mlm.decoder": "predictions.decoder.weight",
    }
    if name == "mlm.decoder.bias":
        return "predictions.bias"
    bias = name.endswith(".bias")
    stem = name.removesuffix(".bias").removesuffix(".weight")
    if stem in tables:
        return tables[stem].removesuffix("weight") + ("bias" if bias else "weight")
    group, inner, part = stem.split(".")
    return LAYER.format(base=base, group=group, inner=inner) + PARTS[part] + (".bias" if bias else ".weight")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_the_format_document_describes_the_bytes(models, name, precision):
    file = layout.read(models.export(name, precision))
    assert [number for number, _ in itertools.groupby(file.order)] == [1, 2, 3, 8, 14, 7]
    assert (file.ir_version, file.producer, file.opset) == (8, "thimble", ("", 17))
    assert [number for number, _ in itertools.groupby(file.graph_order)] == [1, 2, 5, 11, 12, 5]
    graph = file.graph
    assert graph["schema"] == (2 if precision == "int8a" else 1) and graph["opset"] == 17 and graph["seq"] is None
    assert set(graph) == {"schema", "opset", "seq", "config", "weights"}
    assert file.metadata["thimble.formats"] == FORMATS[precision]
    assert len(file.metadata["thimble.source_sha256"]) == 64

    weights = load_file(models.source(name) / "model.safetensors")
    base = "albert." if any(key.startswith("albert.") for key in weights) else ""
    tied = graph["config"]["tied_decoder"]
    tables = {"position", "type"} | (set() if tied else {"word"})
    listed = {weight["name"]: weight for weight in graph["weights"]}
    last = max(tensor.end for tensor in file.initializers)
    seen = set()
    for tensor in file.initializers:
        beside = tensor.name.endswith((".scale", ".mult"))
        mapped = beside or tensor.name in listed or is_vector(tensor.name, base, weights)
        if not mapped:
            assert tensor.order in ([1, 2, 8, 9], [2, 8, 9]), "a constant has no padding"
            continue
        seen.add(tensor.name)
        tail = tensor.end == last
        assert tensor.order in ([1, 2, 8, 9] + [12] * tail, [1, 2, 8, 12, 9] + [12] * tail)
        assert tensor.start % layout.ALIGNMENT == 0
        dtype, width = layout.ELEMENT[tensor.data_type]
        assert tensor.end - tensor.start == int(np.prod(tensor.dims)) * width
        padding = tensor.doc[:-1] if tail else tensor.doc
        assert all(set(doc) <= {0x20} for doc in padding) and sum(map(len, padding)) < 2 * layout.ALIGNMENT
        if tail:
            assert tensor.doc[-1] == bytes(layout.TAIL)
            assert tensor.end + 3 + layout.TAIL == len(file.data), "the tail ends the file"
        if beside:
            assert tensor.data_type == (1 if tensor.name.endswith(".scale") else 2)
            continue
        values = np.frombuffer(tensor.payload(file.data), dtype)
        want = weights[checkpoint_name(tensor.name, base)]
        if tensor.name not in listed:
            assert tensor.data_type == 1 and np.array_equal(values, want)
            continue
        weight = listed[tensor.name]
        assert weight["shape"] == list(want.shape) and weight["format"] == FORMATS[precision]
        rows, cols = want.shape
        if weight["format"] != "f32" and weight["format"] != "f16":
            scales = np.frombuffer(file.tensor(tensor.name + ".scale").payload(file.data), "<f4")
            assert scales.shape == (rows,)
        if weight["format"] == "i4":
            multipliers = np.frombuffer(file.tensor(tensor.name + ".mult").payload(file.data), "<u1")
            numbers, steps = layout.int4(values, multipliers, rows, cols, tensor.name not in tables)
            assert steps.min() >= 1 and steps.max() <= 15
            # Half a step, and what rounding the step to the multiplier's grid clips: 7 halves of the row's scale.
            limit = (0.51 * steps + 3.5) * scales[:, None]
            assert (np.abs(numbers * steps * scales[:, None] - want) <= limit).all()
            continue
        if tensor.name not in tables:
            values, whole = values[positions(weight["format"], rows, cols)], values
            # What the formula does not reach is padding, all zeros.
            assert np.count_nonzero(whole) == np.count_nonzero(values)
        values = values.reshape(rows, cols)
        match weight["format"]:
            case "f32":
                assert np.array_equal(values, want)
            case "f16":
                assert np.array_equal(values, want.astype(np.float16))
            case "w8" | "i8" | "i8a":
                assert values.min() >= -127
                assert np.abs(values * scales[:, None] - want).max() <= 0.51 * scales.max()
    assert set(listed) <= seen


def is_vector(name, base, weights):
    try:
        return checkpoint_name(name, base) in weights
    except (KeyError, ValueError):
        return False


def positions(kind, rows, cols):
    n, k = np.indices((rows, cols))
    return layout.index(kind, n, k, cols).reshape(-1)


@pytest.mark.parametrize("name", MODELS)
def test_onnx_undoes_the_panels(models, name):
    """What the graph multiplies by, as onnx's own reference evaluates it, is the checkpoint's matrix."""
    model = onnx.load(models.export(name))
    weights = load_file(models.source(name) / "model.safetensors")
    base = "albert." if any(key.startswith("albert.") for key in weights) else ""
    proto = onnx.load(models.export(name))
    for weight in json.loads({entry.key: entry.value for entry in model.metadata_props}["thimble.graph"])["weights"]:
        target = weight["name"] + ".w"
        nodes, wanted = [], {target}
        for node in reversed(proto.graph.node):
            if wanted & set(node.output):
                nodes.insert(0, node)
                wanted |= set(node.input)
        if not nodes:
            continue
        tensors = [tensor for tensor in proto.graph.initializer if tensor.name in wanted]
        out = onnx.helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, None)
        graph = onnx.helper.make_graph(nodes, "weight", [], [out], tensors)
        alone = onnx.helper.make_model(graph, opset_imports=proto.opset_import)
        matrix = onnx.reference.ReferenceEvaluator(alone).run(None, {})[0]
        assert np.array_equal(matrix, weights[checkpoint_name(weight["name"], base)].T), weight["name"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ("albert-deb", "albert-mlm-tiny"))
def test_the_same_input_gives_the_same_bytes(thimble, models, tmp_path, name, precision):
    again = tmp_path / "again.onnx"
    thimble.run("export", models.source(name), "-o", again, "--precision", precision)
    assert again.read_bytes() == models.export(name, precision).read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_saved_again_by_onnx_is_refused_with_the_reason(thimble, models, tmp_path, precision):
    path = tmp_path / "saved.onnx"
    onnx.save(onnx.load(models.export("albert-deb", precision)), path)
    for command in (["info", path], ["run", path, "--ids", "2,5,3"], ["bench", path, "--runs", "1"]):
        said = thimble.run(*command, code=2, program=thimble.device)
        assert "re-saved by another tool" in said.stderr and "thimble export" in said.stderr
        assert said.stdout == ""


def test_a_file_saved_again_can_be_exported_again(thimble, models, tmp_path):
    """The refusal names a way out; the way must work."""
    original = models.export("albert-deb")
    saved, mended = tmp_path / "saved.onnx", tmp_path / "mended.onnx"
    onnx.save(onnx.load(original), saved)
    thimble.run("export", saved, "-o", mended)
    thimble.run("run", mended, "--ids", "2,5,3", program=thimble.device)


def edit_node(model):
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.op_type = "LogSoftmax"
    return node.name


def edit_attribute(model):
    node = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    next(a for a in node.attribute if a.name == "epsilon").f = 0.1
    return node.name


def edit_wiring(model):
    node = next(node for node in model.graph.node if node.name == "L1.attn")
    node.input[1] = "hidden"
    return node.name


def edit_constant(model):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "score_scale")
    tensor.raw_data = np.float32(1).tobytes()
    return tensor.name


def edit_metadata(model):
    entry = next(entry for entry in model.metadata_props if entry.key == "thimble.graph")
    entry.value = entry.value.replace('"num_attention_heads":4', '"num_attention_heads":2')
    # The metadata no longer states the split into heads.
    return "heads"


def edit_labels(model):
    entry = next(entry for entry in model.metadata_props if entry.key == "thimble.labels")
    entry.value = entry.value.replace("admin", "nimda")
    return "thimble.labels"


EDITS = (edit_node, edit_attribute, edit_wiring, edit_constant, edit_metadata, edit_labels)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_file_is_named_by_inspect_and_verify(thimble, models, tmp_path, edit):
    original, edited = models.export("albert-deb"), tmp_path / "edited.onnx"
    model = onnx.load(original)
    name = edit(model)
    # Only the edit is wrong: every payload stays aligned.
    edited.write_bytes(writer.aligned(model))
    for command in (["inspect", edited], ["verify", original, edited]):
        done = thimble.run(*command, code=2)
        assert name in done.stdout + done.stderr


def test_a_changed_weight_is_seen_by_verify(thimble, models, tmp_path):
    """Numbers are nobody's second truth: verify measures them."""
    original = models.export("albert-deb")
    file = layout.read(original)
    data = bytearray(file.data)
    tensor = file.tensor("classifier")
    data[tensor.start : tensor.end] = bytes(tensor.end - tensor.start)
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(data)
    thimble.run("inspect", original)
    said = thimble.run("verify", original, changed, "--max-abs", "1e-3", "--json", code=1)
    assert json.loads(said.stdout)["reasons"]
    thimble.run("verify", original, original, "--max-abs", "0")
