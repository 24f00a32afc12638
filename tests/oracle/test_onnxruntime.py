"""Files made for ONNX Runtime (--for onnxruntime) and for any reader of ONNX (--for onnx): ONNX Runtime must give Hugging Face's
values from the fp32 file, and from every other file what the engine gives from the same weights in the same arithmetic.
"""

import json

import numpy as np
import onnx
import pytest

from bench import PRECISIONS, ROUNDING, SMALL, ask, assert_close, cases, session

RUNTIMES = ("onnxruntime", "onnx")
# int8 and int4 by the names they have where the arithmetic is what ONNX Runtime is fast at.
SUITED = {"int8": "i8t", "int8a": "i8t", "int4": "w4"}


@pytest.fixture(scope="session")
def made(thimble, models, tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("rows"), {}

    def make(name, precision, runtime):
        key = (name, precision, runtime)
        if key not in files:
            out = folder / f"{name}-{precision}-{runtime}.onnx"
            thimble.run("export", models.source(name), "-o", out, "--precision", precision, "--for", runtime)
            files[key] = out
        return files[key]

    return make


def formats(path):
    text = next(p.value for p in onnx.load(path).metadata_props if p.key == "thimble.graph")
    return {weight["format"] for weight in json.loads(text)["weights"]}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", [*SMALL, "albert-deb"])
def test_fp32_gives_hugging_faces_values(made, name, runtime):
    path = made(name, "fp32", runtime)
    for case in cases(name):
        wanted = {"logits": case.golden["logits"]} if name == "albert-deb" else case.golden
        assert_close(ask(session(path), case.feeds), wanted, case.feeds["attention_mask"], 1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "fp32"])
@pytest.mark.parametrize("name", SMALL)
def test_the_engine_computes_what_the_file_states(thimble, made, tmp_path, name, precision, runtime):
    path = made(name, precision, runtime)
    assert formats(path) == {SUITED.get(precision, formats(path).pop())}
    board = tmp_path / "board.onnx"
    thimble.run("export", path, "-o", board)
    assert formats(board) == formats(path)
    # One range for all tokens takes in those of padding, which the engine leaves out.
    whole = [case for case in cases(name) if (case.feeds["attention_mask"] == 1).all()]
    case = (whole or cases(name))[0]
    feeds = {key: value[:1] for key, value in case.feeds.items()}
    if not (feeds["attention_mask"] == 1).all():
        feeds["attention_mask"] = np.ones_like(feeds["attention_mask"])
    limit = ROUNDING.get("int8" if formats(path) == {"i8t"} else "", 1e-4)
    assert_close(ask(session(path), feeds), thimble.infer(board, feeds), feeds["attention_mask"], limit)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_standard_form_is_valid_onnx_of_the_default_operators(made, precision):
    path = made("albert-seq-tiny", precision, "onnx")
    onnx.checker.check_model(str(path), full_check=True)
    assert [entry.domain for entry in onnx.load(path).opset_import] == [""]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_its_weights_are_stored_once(made, models, precision):
    path = made("albert-deb", precision, "onnxruntime")
    assert path.stat().st_size <= 1.01 * models.export("albert-deb", precision).stat().st_size
    names = [tensor.name for tensor in onnx.load(path).graph.initializer]
    assert len(names) == len(set(names))


def test_a_board_says_what_to_do_with_it(thimble, made, tmp_path):
    path = made("albert-seq-tiny", "int8", "onnxruntime")
    said = thimble.run("info", path, code=2, program=thimble.device).stderr
    assert "made for onnxruntime" in said and "thimble export" in said and said.count("\n") == 1
    board = tmp_path / "board.onnx"
    thimble.run("export", path, "-o", board)
    thimble.run("info", board, program=thimble.device)


def test_every_command_that_takes_a_model_takes_it(thimble, made):
    path = made("albert-seq-tiny", "int8", "onnxruntime")
    thimble.run("verify", path, path)
    said = json.loads(thimble.run("inspect", path, "--json").stdout)
    assert said["kind"] != "onnx" and not said["differences"]
    thimble.run("run", path, "--ids", "2,17,3")
    assert "is a thimble file" in thimble.run("slim", path, "-o", path.with_suffix(".slim.onnx"), code=2).stderr


def test_a_changed_node_is_told(thimble, made, tmp_path):
    model = onnx.load(made("albert-seq-tiny", "int8", "onnxruntime"))
    node = next(n for n in model.graph.node if n.op_type == "SkipLayerNormalization")
    node.attribute[0].f = 0.5
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    assert "contradict" in thimble.run("export", path, "-o", tmp_path / "out.onnx", code=2).stderr


def test_a_folder_has_what_hugging_faces_tools_read(thimble, models, tmp_path):
    out = tmp_path / "small"
    thimble.run("export", models.source("albert-deb"), "-o", out, "--precision", "int8", "--for", "onnxruntime")
    config = json.loads((out / "config.json").read_text())
    theirs = json.loads((models.source("albert-deb") / "config.json").read_text())
    for field in ("architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "id2label", "hidden_act"):
        assert config[field] == theirs[field], field
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    assert (tokenizer["cls_token"], tokenizer["pad_token"], tokenizer["mask_token"]) == ("[CLS]", "<pad>", "[MASK]")
    case = cases("albert-deb")[0]
    assert set(ask(session(out / "onnx/model.onnx"), case.feeds)) == {"logits"}
    assert (out / "tokenizer.json").exists()
