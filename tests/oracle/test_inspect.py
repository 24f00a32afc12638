"""`thimble inspect` on other tools' files. The judge of its byte ranges is another parser (ledger.py), of its duplicates
numpy, of its fixes the files that the commands it names write.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

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
        words = shlex.split(fix["command"])
        words[words.index("OUT.onnx")] = str(out)
        thimble.run(*words[1:])
        assert out.stat().st_size == fix["bytes"] == said["total_bytes"] - fix["saves"]


def test_what_it_is_held_against_goes_by_its_bytes(thimble, models, tmp_path):
    path = FIXTURES / "exported" / "groups_torch2.6_dyn.onnx"
    against = lambda other, **how: thimble.run("inspect", path, "--json", "--against", other, **how)  # noqa: E731
    weights = models.source("albert-tiny-groups") / "model.safetensors"
    same, model = tmp_path / "anything.bin", tmp_path / "onnx" / "model.onnx"
    shutil.copy(path, same)
    model.parent.mkdir()
    shutil.copy(path, model)
    for other, wanted in ((same, path), (tmp_path, path), (weights, weights)):
        assert json.loads(against(other).stdout)["against_bytes"] == wanted.stat().st_size
    strangers = {
        "vocab.txt": (b"[PAD]\n[UNK]\n", "a text"),
        "model.bin": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "a Git LFS pointer"),
        "model.safetensors": (weights.read_bytes()[:-7], "cut short"),
        "weights.npy": (b"\x93NUMPY\x01\x00", "arrays of numpy"),
    }
    for name, (data, words) in strangers.items():
        (tmp_path / name).write_bytes(data)
        done = against(tmp_path / name, code=2)
        assert words in done.stderr and name in done.stderr, done.stderr
        (tmp_path / name).unlink()


def test_growth_against_a_checkpoint(thimble, models):
    """Factor and shares, worked out again from the sizes of the two files and the independent parser's payloads."""
    path = FIXTURES / "exported" / "groups_torch2.6_dyn.onnx"
    checkpoint = models.source("albert-tiny-groups")
    weights = (checkpoint / "model.safetensors").stat().st_size
    said = json.loads(thimble.run("inspect", path, "--json", "--against", checkpoint).stdout)
    growth, causes = said["growth"], said["account"]["causes"]
    more = path.stat().st_size - weights
    assert more > 0 and said["against_bytes"] == weights
    assert growth["bytes"] == more and growth["factor"] == pytest.approx(path.stat().st_size / weights)
    substance = {"weights", "varints"} | {cause for cause in causes if cause.startswith("through_")}
    assert {c: s["bytes"] for c, s in growth["causes"].items()} == {c: n for c, n in causes.items() if c not in substance}
    assert growth["weights"]["bytes"] == sum(causes.get(c, 0) for c in substance) - weights
    parts = [growth["weights"], *growth["causes"].values()]
    assert sum(part["bytes"] for part in parts) == more
    for part in parts:
        assert part["share"] == pytest.approx(part["bytes"] / more)
    # Names are what this file has grown by.
    names = sum(w == "name" for w in label(path.read_bytes()))
    assert growth["causes"]["names"]["bytes"] == names > more / 4
    text = thimble.run("inspect", path, "--against", checkpoint).stdout
    assert f"this file is {path.stat().st_size / weights:.3f} times that" in text
    (row,) = [line for line in text.splitlines() if line.startswith("names of values")]
    assert row.endswith(f"{names / more:.1%}".replace("%", " %"))
    # Held against itself nothing has grown.
    same = json.loads(thimble.run("inspect", path, "--json", "--against", path).stdout)["growth"]
    assert same["factor"] == 1 and same["bytes"] == 0 and all(s["share"] is None for s in same["causes"].values())


def saved(path, nodes, inputs, outputs, tensors=(), functions=(), **graph):
    graph = helper.make_graph(nodes, "made", inputs, outputs, list(tensors), **graph)
    opsets = [helper.make_opsetid("", 21), *([helper.make_opsetid("own", 1)] if functions else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))
    path.write_bytes(model.SerializeToString())
    return path


def adds_up(thimble, path):
    """Every byte has one cause, the fields' own; gives what was said."""
    account, what = ask(thimble, path), label(path.read_bytes())
    for stretch in covers(account):
        assert set(what[stretch["start"] : stretch["end"]]) <= FIELD_OF[stretch["cause"]], stretch
    held = {}
    for stretch in account["stretches"]:
        if "tensor" in stretch:
            held[stretch["tensor"]] = held.get(stretch["tensor"], 0) + stretch["end"] - stretch["start"]
    assert all(t["bytes"] == held.get(i, 0) for i, t in enumerate(account["tensors"]))
    assert sum(account["payload"].values()) == sum(held.values())
    return account


def port(name, shape=("n", 16)):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def test_numbers_of_sparse_tensors_functions_and_lists_are_payload(thimble, tmp_path):
    array = lambda name, *shape: numpy_helper.from_array(np.ones(shape, np.float32), name)  # noqa: E731
    sparse = helper.make_sparse_tensor(array("sparse", 30), numpy_helper.from_array(np.arange(30), "at"), [16, 16])
    function = helper.make_function(
        "own", "scaled", ["v"], ["w"],
        [helper.make_node("Constant", [], ["c"], value=array("", 16)), helper.make_node("Mul", ["v", "c"], ["w"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    path = saved(
        tmp_path / "made.onnx",
        [
            helper.make_node("MatMul", ["x", "sparse"], ["h"]),
            helper.make_node("scaled", ["h"], ["g"], domain="own"),
            helper.make_node("Anything", ["g"], ["y"], domain="own", list=[array("l0", 3), array("l1", 5)]),
        ],
        [port("x")], [port("y")], functions=[function], sparse_initializer=[sparse],
    )  # fmt: skip
    account = adds_up(thimble, path)
    numbers = 30 * 4 + 30 * 8 + 16 * 4 + 3 * 4 + 5 * 4
    assert account["causes"]["weights"] == numbers
    assert account["payload"] == {"f32": numbers - 30 * 8, "i64": 30 * 8}


def test_text_is_no_number_in_the_wrong_place(thimble, tmp_path):
    words = helper.make_tensor("words", TensorProto.STRING, [2], [b"some", b"text"])
    path = saved(tmp_path / "made.onnx", [helper.make_node("Gather", ["words", "i"], ["y"])], [port("i")], [port("y")], [words])
    account = adds_up(thimble, path)
    assert "varints" not in account["causes"] and account["payload"] == {"string": 4 + 4 + 2 * 2}


@pytest.mark.parametrize(
    ("kind", "name", "count", "taken"),
    [("FLOAT4E2M1", "f4e2m1", 9, 5), ("UINT4", "u4", 7, 4), ("INT4", "i4", 8, 4), ("FLOAT8E4M3FN", "f8e4m3fn", 7, 7),
     ("FLOAT8E5M2FNUZ", "f8e5m2fnuz", 3, 3), ("BFLOAT16", "bf16", 3, 6)],
)  # fmt: skip
def test_small_element_types_have_their_size(thimble, tmp_path, kind, name, count, taken):
    code = getattr(TensorProto, kind)
    tensors = [TensorProto(name=n, data_type=code, dims=[count], raw_data=bytes(range(taken))) for n in ("a", "b")]
    nodes = [helper.make_node("Cast", [n], [f"{n}f"], to=TensorProto.FLOAT) for n in ("a", "b")]
    path = saved(tmp_path / "made.onnx", [*nodes, helper.make_node("Add", ["af", "bf"], ["y"])], [], [port("y")], tensors)
    account = adds_up(thimble, path)
    assert account["payload"] == {name: 2 * taken}
    # Only a tensor whose size is known can be found to be a copy.
    assert account["causes"]["duplicates"] == taken


def outside(name, dims, location, offset, length=None):
    t = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": offset} | ({} if length is None else {"length": length})
    for key, value in entries.items():
        t.external_data.add(key=key, value=str(value))
    return t


def test_shared_data_counts_once_by_whatever_name_it_goes(thimble, tmp_path):
    (tmp_path / "m.bin").write_bytes(np.random.default_rng(1).standard_normal(512).astype(np.float32).tobytes())
    tensors = [outside("a", [16, 16], "m.bin", 0, 1024), outside("b", [256], "./m.bin", 0), outside("c", [128], "m.bin", 512, 512)]
    nodes = [helper.make_node("Reshape", [n, "to"], [f"{n}r"]) for n in "abc"] + [helper.make_node("Sum", ["ar", "br", "cr"], ["y"])]
    path = saved(tmp_path / "made.onnx", nodes, [port("to")], [port("y")], tensors)
    account = adds_up(thimble, path)
    covers(account, 1)
    assert [f["bytes"] for f in account["files"]] == [path.stat().st_size, 2048]
    assert {t["name"]: t["bytes"] for t in account["tensors"]} == {"a": 1024, "b": 0, "c": 0}
    assert account["causes"]["unreferenced"] == 1024
    said = json.loads(thimble.run("inspect", path, "--json").stdout)
    assert said["rest"] + sum(part["bytes"] for part in said["parts"]) == said["total_bytes"]


def test_what_is_printed_can_be_pasted_and_controls_no_terminal(thimble, tmp_path):
    """Names with blanks, quotes, commands and escape codes: the commands do what they say, nothing else."""
    folder = tmp_path / "it's; touch pwned $(touch pwned) \x1b[31m"
    folder.mkdir()
    path = folder / "my model.onnx"
    rng = np.random.default_rng(2)
    array = lambda name: numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), name)  # noqa: E731
    saved(
        path,
        [helper.make_node("MatMul", ["x", "w\x1b[2J"], ["a b'$(touch pwned)"]), helper.make_node("MatMul", ["x", "v"], ["tanh_1"])],
        [port("x")],
        [port("a b'$(touch pwned)"), port("tanh_1")],
        [array("w\x1b[2J"), array("v")],
    )
    text = thimble.run("inspect", path).stdout
    assert not [c for c in text if ord(c) < 32 and c != "\n"], text
    page = tmp_path / "page.html"
    thimble.run("inspect", path, "--html", page)
    said = json.loads(thimble.run("inspect", path, "--json").stdout)
    assert any("--outputs" in fix["command"] for fix in said["fixes"])
    for fix in said["fixes"]:
        done = subprocess.run(["bash", "-c", fix["command"]], cwd=tmp_path, env=os.environ | {"PATH": f"{thimble.host.parent}:/usr/bin:/bin"})
        assert done.returncode == 0 and (tmp_path / "OUT.onnx").stat().st_size == fix["bytes"]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("external", (False, True), ids=("one file", "two files"))
def test_a_file_of_thimble_s_that_onnx_has_saved_again_is_explained(thimble, models, tmp_path, external):
    path = tmp_path / "again.onnx"
    own = models.export("albert-seq-tiny")
    places = {"save_as_external_data": True, "location": "again.bin", "size_threshold": 0} if external else {}
    onnx.save(onnx.load(own), path, **places)
    said = json.loads(thimble.run("inspect", path, "--json").stdout)
    assert said["kind"] == ("onnx" if external else "thimble")
    assert said["total_bytes"] == sum(p.stat().st_size for p in tmp_path.glob("again*"))
    (note,) = [n for n in said["account"]["notes"] if "saved this file of thimble's again" in n]
    # The way back that it names is one.
    for command in re.findall(r"thimble (?:slim|export) \S+ -o \w+\.onnx(?: --one-file)?", note):
        thimble.run(*(str(tmp_path / w) if w.isupper() or w.startswith(("OUT", "ONE")) else w for w in shlex.split(command)[1:]))
    assert (tmp_path / "OUT.onnx").read_bytes() == pathlib.Path(own).read_bytes()


def test_the_page_is_one_file_and_loads_nothing(thimble, tmp_path, path):
    page = tmp_path / "page.html"
    thimble.run("inspect", path, "--html", page)
    text = page.read_text()
    assert 'class="map"' in text and "src=" not in text and "href=" not in text and "<script" not in text
    # Both layouts are full, in percent of their sides.
    for prefix in ("", "n"):
        sides = re.findall(rf'class="tile [^>]*--{prefix}w:([\d.]+)%;--{prefix}h:([\d.]+)%', text)
        assert len(sides) == text.count('class="tile ')
        assert abs(sum(float(w) * float(h) for w, h in sides) / 1e4 - 1) < 0.01


def test_the_page_of_thimble_s_own_file_says_formats_and_what_names_mean(thimble, models, tmp_path):
    page = tmp_path / "page.html"
    path = models.export("albert-deb", "int4")
    said = json.loads(thimble.run("inspect", path, "--json", "--html", page).stdout)
    text = page.read_text()
    for part in said["parts"]:
        row = re.search(rf'<code>{re.escape(part["name"])}</code> <small>(.*?), [\d×]+</small>.*?<span class="chip \w+">(\w+)</span>.*?</tr>', text, re.S)
        assert row and row[2] == part["format"] and f'{part["bytes"]:,}' in row[0], part["name"]
    assert "attention query" in text and "stored once and run 6 times" in text
    assert "reached only through" not in text, "thimble's own order of weights is no defect"


def test_the_page_says_what_share_of_the_growth_each_cause_has(thimble, tmp_path):
    path, page = FIXTURES / "exported" / "mlm_torch1.8_dyn.onnx", tmp_path / "page.html"
    told = json.loads(thimble.run("inspect", path, "--against", FIXTURES / "albert-mlm-tiny", "--json", "--html", page).stdout)
    text = page.read_text()
    assert "of the growth</th>" in text and told["growth"]["bytes"] > 0
    for cause in told["growth"]["causes"].values():
        assert f'data-head="of the growth">{cause["share"] * 100:.1f} %</td></tr>' in text
    assert f'{told["growth"]["weights"]["share"] * 100:.1f} % of the growth' in text
    thimble.run("inspect", path, "--html", page)
    assert "growth" not in page.read_text()
