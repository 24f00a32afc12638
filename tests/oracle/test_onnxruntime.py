"""Files made for ONNX Runtime (--for onnxruntime) and for any reader of ONNX (--for onnx): ONNX Runtime must give Hugging Face's
values from the fp32 file, and from every other file what the engine gives from the same weights in the same arithmetic.
"""

import json

import numpy as np
import onnx
import pytest

from bench import FIXTURES, PRECISIONS, ROUNDING, SMALL, ask, assert_close, cases, session

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


def test_a_folder_is_read_back_whole_and_written_again(thimble, models, tmp_path):
    source, out = models.source("albert-deb"), tmp_path / "small"
    for precision in ("int8", "fp32"):
        thimble.run("export", source, "-o", f"{out}/", "--precision", precision, "--for", "onnxruntime")
    texts = ("run", "--text", "a parser for tables", "--json")
    ours, theirs = (json.loads(thimble.run(texts[0], model, *texts[1:]).stdout) for model in (out, source))
    assert ours["input_ids"] == theirs["input_ids"]
    again = tmp_path / "again"
    thimble.run("export", out, "-o", again, "--for", "onnx")
    assert (again / "tokenizer.json").exists()
    said = thimble.run("export", models.source("albert-seq-tiny"), "-o", out, "--for", "onnxruntime", code=2).stderr
    assert "another model's" in said
    (tmp_path / "file").write_text("mine")
    said = thimble.run("export", source, "-o", tmp_path / "file", "--for", "onnxruntime", code=2).stderr
    assert "is a file" in said and (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_not_written_leaves_nothing(thimble, models, tmp_path):
    out = tmp_path / "deep"
    limits = f"ulimit -f 100; exec {thimble.host} export {models.source('albert-deb')} -o {out} --for onnxruntime"
    thimble.run("-c", limits, code=2, program="bash")
    assert not out.exists()


def test_one_label_without_a_problem_type_is_no_regression(thimble, tmp_path):
    for name, problem in (("one", None), ("one_regression", "regression")):
        out = tmp_path / name
        thimble.run("export", FIXTURES / "answers" / name, "-o", out, "--for", "onnxruntime")
        assert json.loads((out / "config.json").read_text()).get("problem_type") == problem


@pytest.mark.parametrize("precision", ("fp32", "int8", "int4"))
def test_an_id_that_no_table_has_is_refused(made, precision):
    runtime = session(made("albert-deb", precision, "onnxruntime"))
    for ids, types in (([2, 17, 4000, 3], [0] * 4), ([2, 17, 45, 3], [0, 2, 0, 0])):
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, 4), np.int64), "token_type_ids": np.array([types])}
        with pytest.raises(Exception, match="out of data bounds|indices element"):
            ask(runtime, feeds)


def test_shrink_for_another_runtime(thimble, models, tmp_path):
    source, out = models.source("albert-deb"), tmp_path / "small.onnx"
    calibrate = ("--calibrate", source / "test.jsonl", "--rows", "32")
    arguments = ("shrink", source, "--budget", "400kB", "-o", out, *calibrate, "--for", "onnxruntime")
    plan = json.loads(thimble.run(*arguments, "--formats", "i8,i4", "--json").stdout)
    assert out.stat().st_size <= 400_000
    assert formats(out) <= {"i8t", "w4"}
    assert plan["bytes"] == out.stat().st_size
    for option in (("--max-ram", "8MB"), ("--target", "pi-4")):
        assert "no board runs" in thimble.run(*arguments, *option, code=2).stderr
    said = thimble.run("package", out, "-o", tmp_path / "x.deb", code=2).stderr
    assert "made for onnxruntime" in said
