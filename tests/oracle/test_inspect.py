"""`thimble inspect` on other tools' files. The judge of its byte ranges is another parser (ledger.py), of its duplicates
numpy, of its fixes the files that the commands it names write.
"""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench import FIXTURES
from ledger import label

EXPORTED = sorted((FIXTURES / "exported").glob("*.onnx"))
PAYLOAD = {
    "weights", "through_identity", "through_transpose", "through_cast", "through_dequantize",
    "duplicates", "transposed", "unnamed_output", "unneeded", "varints",
}  # fmt: skip
FIELD_OF = {
    "names": {"name"},
    "doc_strings": {"doc"},
    "alignment": {"doc"},
    "metadata": {"metadata"},
    "nodes": {"structure"},
    "shapes": {"structure"},
    "tensor_headers": {"structure"},
    "header": {"structure"},
} | {cause: {"payload", "typed"} for cause in PAYLOAD}


def ask(thimble, path, *args):
    return json.loads(thimble.run("inspect", path, "--json", *args).stdout)["account"]


def covers(account, file=0):
    """The stretches of one file, checked to be disjoint and without gaps."""
    stretches = [s for s in account["stretches"] if s["file"] == file]
    at = 0
    for stretch in stretches:
        assert stretch["start"] == at
        at = stretch["end"]
    assert at == account["files"][file]["bytes"]
    return stretches


def strange(folder):
    """A file with everything the exporters' files lack."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((16, 24)).astype(np.float32)
    tensors = {
        "a": a,
        "a_again": a,
        "a_turned": np.ascontiguousarray(a.T),
        "cast_me": a.astype(np.float16),
        "dead": rng.standard_normal((9, 9)).astype(np.float32),
        "through": rng.standard_normal((24, 24)).astype(np.float32),
        "pooler": rng.standard_normal((24, 24)).astype(np.float32),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    b = rng.integers(-128, 128, (24, 16), np.int8)
    initializers.append(helper.make_tensor("typed", TensorProto.INT8, b.shape, b.flatten().tolist()))
    initializers.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5]))
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h0"]),
        helper.make_node("MatMul", ["x", "a_again"], ["h1"]),
        helper.make_node("Transpose", ["a_turned"], ["back"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "back"], ["h2"]),
        helper.make_node("Cast", ["cast_me"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "wide"], ["h3"]),
        helper.make_node("Sum", ["h0", "h1", "h2", "h3"], ["h"]),
        helper.make_node("Identity", ["through"], ["alias"]),
        helper.make_node("MatMul", ["h", "alias"], ["g"], doc_string='File "/home/somebody/train.py", line 3'),
        helper.make_node("DequantizeLinear", ["typed", "scale"], ["wide8"]),
        helper.make_node("MatMul", ["g", "wide8"], ["logits"]),
        helper.make_node("MatMul", ["g", "pooler"], ["1234"]),
        helper.make_node("MatMul", ["dead", "dead"], ["nobody"]),
    ]
    graph = helper.make_graph(
        nodes,
        "strange",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("logits", 16), ("1234", 24))],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"pkg.torch.stack": 'File "/home/somebody/model.py", line 7'})
    path = folder / "strange.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(params=[*(p.name for p in EXPORTED), "strange"])
def path(request, tmp_path):
    return strange(tmp_path) if request.param == "strange" else FIXTURES / "exported" / request.param


def test_every_byte_has_one_cause_and_it_is_the_fields(thimble, path):
    account, what = ask(thimble, path), label(path.read_bytes())
    sums = {}
    for stretch in covers(account):
        found = set(what[stretch["start"] : stretch["end"]])
        assert found <= FIELD_OF[stretch["cause"]], stretch
        sums[stretch["cause"]] = sums.get(stretch["cause"], 0) + stretch["end"] - stretch["start"]
    assert sums == account["causes"]
    assert sum(sums.values()) == path.stat().st_size
    assert sum(account["payload"].values()) == sum(w in ("payload", "typed") for w in what)


def test_copies_are_what_numpy_finds(thimble, path):
    """Every tensor is a copy, a transpose or needless exactly where plain arrays say so."""
    model = onnx.load(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    arrays |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"}
    account = ask(thimble, path)
    first, seen = {}, set()
    for tensor in account["tensors"]:
        if tensor["name"] not in arrays:
            continue  # an attribute that is no constant, such as ConstantOfShape's
        value = arrays[tensor["name"]]
        key = (value.dtype.str, value.shape, value.tobytes())
        if tensor["cause"] == "unneeded":
            continue
        if tensor["cause"] == "duplicates":
            assert first[key] == tensor["repeats"]
        elif tensor["cause"] == "transposed":
            assert np.array_equal(arrays[tensor["repeats"]], value.T)
        else:
            assert key not in seen, f"{tensor['name']} is a copy"
        first.setdefault(key, tensor["name"])
        seen.add(key)


def test_the_strange_file_is_understood(thimble, tmp_path):
    path = strange(tmp_path)
    account = ask(thimble, path)
    causes = {t["name"]: t["cause"] for t in account["tensors"]}
    assert causes == {
        "a": "weights",
        "a_again": "duplicates",
        "a_turned": "transposed",
        "cast_me": "through_cast",
        "dead": "unneeded",
        "through": "through_identity",
        "pooler": "unnamed_output",
        "typed": "varints",
        "scale": "weights",
    } | {"typed": "varints", "scale": "varints"}
    notes = " ".join(account["notes"])
    assert "/home/somebody" in notes and "Identity" in notes
    assert account["unnamed_outputs"] == ["1234"]


def test_external_data_is_accounted_for(thimble, tmp_path):
    model = onnx.load(FIXTURES / "exported" / "mlm_torch1.8_dyn.onnx")
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=256)
    with open(tmp_path / "m.bin", "ab") as file:
        file.write(bytes(77))
    account = ask(thimble, path)
    covers(account, 0)
    covers(account, 1)
    assert account["causes"]["unreferenced"] >= 77
    assert sum(account["causes"].values()) == sum(f["bytes"] for f in account["files"])
    said = json.loads(thimble.run("inspect", path, "--json").stdout)
    assert said["rest"] + sum(part["bytes"] for part in said["parts"]) == said["total_bytes"]
    (tmp_path / "m.bin").unlink()
    assert any("m.bin" in note for note in ask(thimble, path)["notes"])


def test_fixes_save_what_they_say(thimble, path, tmp_path):
    said = json.loads(thimble.run("inspect", path, "--json").stdout)
    assert said["fixes"], "every one of these files can be made smaller"
    for number, fix in enumerate(said["fixes"]):
        out = tmp_path / f"{number}.onnx"
        words = fix["command"].split()
        words[words.index("OUT.onnx")] = str(out)
        thimble.run(*words[1:])
        assert out.stat().st_size == fix["bytes"] == said["total_bytes"] - fix["saves"]


def test_growth_against_a_checkpoint(thimble, models):
    done = thimble.run("inspect", FIXTURES / "exported" / "groups_torch2.6_dyn.onnx", "--against", models.source("albert-tiny-groups"))
    assert "times that" in done.stdout and "of the growth" in done.stdout


def test_the_page_is_one_file_and_loads_nothing(thimble, tmp_path, path):
    page = tmp_path / "page.html"
    thimble.run("inspect", path, "--html", page)
    text = page.read_text()
    assert "<svg" in text and "src=" not in text and "href=" not in text and "<script" not in text
    import xml.etree.ElementTree as tree

    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    rects = [r for r in tree.fromstring(svg).iter() if r.tag.endswith("rect") and r.get("class") != "frame"]
    area = sum(float(r.get("width")) * float(r.get("height")) for r in rects)
    assert abs(area / (1120 * 520) - 1) < 0.01
