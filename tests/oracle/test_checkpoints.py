"""Checkpoints as people have them: the values of Hugging Face's own classes for each form that is read, in ONNX Runtime and in
the engine, and the message a person reads for each that is not, from every command that takes a model.
"""

import gzip
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from bench import FIXTURES, ask, session

WILD = FIXTURES / "wild"
EXPECTED = json.loads((WILD / "expected.json").read_text())
LIMIT = 1e-4


def expected(start):
    """The values under the one key of expected.json that begins so."""
    (found,) = (value for key, value in EXPECTED.items() if key.startswith(start))
    return found


LOGITS = expected("logits of a03")["logits"]
PREFIX = "names begin with '{}', which is taken off"
OTHER_CLASS = "architectures names 'AlbertForSentiment': taken for AlbertForSequenceClassification by the tensors present"
# What is named, which output is compared from its first element on, with what, and what is said.
READ = {
    "a03_bin_legacy": ("logits", LOGITS, []),
    "a05_lightning": ("logits", LOGITS, [PREFIX.format("model.albert."), "the weights are those of 'state_dict'"]),
    "a05c_bert_prefix": ("logits", LOGITS, [PREFIX.format("bert.")]),
    "a05d_wrapper": ("logits", LOGITS, [PREFIX.format("encoder.albert.")]),
    "a11_albert_config_json": ("logits", LOGITS, []),
    "a15b_mlm_two_biases": (
        "logits",
        expected("a15b")["logits"],
        ["predictions.bias and predictions.decoder.bias differ: the decoder's counts, as in transformers"],
    ),
    "a18_custom_arch": ("logits", LOGITS, [OTHER_CLASS, "--head NAME"]),
    "a19_lonepatient": ("logits", LOGITS, [PREFIX.format("bert."), "names are another implementation's"]),
    "d10_plbert": (
        "last_hidden_state",
        expected("d10")["last_hidden_state"],
        ["model_params: a training configuration", "module.mask_predictor.weight", "step_1000000.t7 is read"],
    ),
}
# The same bytes under any name are the same model; what it should be was not computed for these.
NAMES = ("model.ckpt", "model.pt", "model.pth", "model.t7")


def feeds():
    ids = np.array([EXPECTED["ids"]], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("name", READ)
def test_what_people_have_gives_hugging_faces_values(thimble, tmp_path, name):
    output, want, said = READ[name]
    out = tmp_path / "model.onnx"
    done = thimble.run("export", WILD / name, "-o", out)
    for words in said:
        assert words in done.stderr, f"{words!r} is not in\n{done.stderr}"
    for ours in (ask(session(out), feeds()), thimble.infer(out, feeds())):
        got = ours[output].reshape(-1)[: len(want)]
        assert np.abs(got - np.array(want)).max() < LIMIT, (got, want)


def test_the_bytes_count_and_not_the_name(thimble, tmp_path):
    made = []
    for name in NAMES:
        out = tmp_path / f"{name}.onnx"
        thimble.run("export", WILD / "d12_ext" / name, "-o", out)
        made.append(ask(session(out), feeds())["logits"])
    assert all(np.array_equal(made[0], other) for other in made[1:])
    # Any name at all, and a folder in which several could be meant.
    config = (WILD / "d12_ext" / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "rust_model.ot").write_bytes((WILD / "d12_ext" / "model.pt").read_bytes())
    thimble.run("export", tmp_path / "rust_model.ot", "-o", tmp_path / "ot.onnx")
    done = thimble.run("export", WILD / "d12_ext", "-o", tmp_path / "x.onnx")
    assert "model.ckpt is read: the 4 files of weights here are the same" in done.stderr
    (tmp_path / "other.bin").write_bytes((WILD / "a05c_bert_prefix" / "pytorch_model.bin").read_bytes())
    done = thimble.run("export", tmp_path, "-o", tmp_path / "x.onnx", code=2)
    assert "2 files of weights are here (other.bin, rust_model.ot): name the one" in done.stderr


def cut(path):
    data = path.read_bytes()
    return data[: len(data) - 100]


def strangers(folder):
    """Files that are no model, by what is said of them."""
    whole = (WILD / "a11_albert_config_json" / "model.safetensors").read_bytes()
    made = {
        "a Git LFS pointer, not the file itself, which has 47376696 bytes; fetch it": (WILD / "a08c_lfs.onnx").read_bytes(),
        "an HTML page": (WILD / "a08e_html.onnx").read_bytes(),
        "ONNX Runtime's own format": (WILD / "onnx" / "e32.ort").read_bytes(),
        "a TorchScript program": (WILD / "d07_ts" / "pytorch_model.bin").read_bytes(),
        f"ends after {len(whole) - 100} of {len(whole)} bytes": whole[:-100],
        "a zip archive that is cut short": cut(WILD / "d12_ext" / "model.pt"),
        "an HDF5 file of Keras": (WILD / "a20_tf_real" / "tf_model.h5").read_bytes()[:4096],
        "a GGUF file": b"GGUF\x03\0\0\0" + bytes(64),
        "a msgpack file of flax": b"\x82\xa6albert\x81\xa1x\xc0",
        "a tokenizer (sentencepiece)": (WILD / "c05_spiece_only" / "spiece.model").read_bytes(),
        "a tokenizer (tokenizer.json)": (WILD / "b05_qa_text" / "tokenizer.json").read_bytes(),
        "a configuration, not the weights": (WILD / "d07_ts" / "config.json").read_bytes(),
        "packed with gzip": gzip.compress(whole[:1000]),
        "a pickle that torch.save did not write": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x8c\x01a\x8c\x01bs.",
        "a text, not a model": b"hello\n",
        "a server's error message": b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>",
        "the index of a TensorFlow checkpoint; thimble export makes": (WILD / "t01_google_tf1" / "model.ckpt-best.index").read_bytes(),
        "arrays of numpy": b"\x93NUMPY\x01\0" + bytes(64),
    }
    archive = folder / "archive"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("weights/readme.txt", "none")
    made["a zip archive that torch.save did not write"] = archive.read_bytes()
    with tarfile.open(archive, "w") as packed:
        packed.add(WILD / "a08c_lfs.onnx", "storages")
    made["a tar archive"] = archive.read_bytes()
    archive.unlink()
    return made


@pytest.fixture(scope="module")
def good(models):
    return models.export("albert-seq-tiny", "int8")


# How each command is given a model.
COMMANDS = {
    "export": lambda bad, good, out: ["export", bad, "-o", out],
    "shrink": lambda bad, good, out: ["shrink", bad, "--budget", "12MiB", "-o", out],
    "verify": lambda bad, good, out: ["verify", good, bad],
    "run": lambda bad, good, out: ["run", bad, "--ids", "2,3"],
    "inspect": lambda bad, good, out: ["inspect", bad],
    "inspect --against": lambda bad, good, out: ["inspect", good, "--against", bad],
    "slim": lambda bad, good, out: ["slim", bad, "-o", out],
    "emulate": lambda bad, good, out: ["emulate", bad, "--target", "pi-4"],
    "deploy": lambda bad, good, out: ["deploy", bad, "--target", "pi-4", "--to", "nobody@nowhere.invalid"],
    "package": lambda bad, good, out: ["package", bad, "-o", out.with_suffix(".deb"), "--maintainer", "Jo <jo@example.org>"],
    "install": lambda bad, good, out: ["install", bad, "--target", "pi-4", "--rootfs", out.parent],
}
ON_THE_BOARD = {"info": [], "run": ["--ids", "2,3"], "bench": ["--runs", "1"], "serve": []}


def test_what_is_no_model_is_told_as_what_it_is(thimble, good, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    wrong = []

    def judge(words, command, program=None):
        done = thimble.run(*command, code=2, program=program)
        if words not in done.stderr or "bad.onnx" not in done.stderr or len(done.stderr.strip().splitlines()) != 1:
            wrong.append(f"{command[0]}: {words!r} is not all of {done.stderr!r}")
        if list(out.iterdir()):
            wrong.append(f"{command[0]}: leaves {list(out.iterdir())}")

    for words, data in strangers(tmp_path).items():
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(data)
        for command in COMMANDS.values():
            judge(words, command(bad, good, out / "out.onnx"))
        for command, extra in ON_THE_BOARD.items():
            judge(words, [command, bad, *extra], thimble.device)
    assert not wrong, "\n".join(wrong)


def test_weights_under_the_name_of_onnx_are_read_where_weights_are(thimble, tmp_path):
    config = (WILD / "a11_albert_config_json" / "albert_config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.onnx").write_bytes((WILD / "a11_albert_config_json" / "model.safetensors").read_bytes())
    thimble.run("run", tmp_path / "model.onnx", "--ids", "2,3")
    done = thimble.run("info", tmp_path / "model.onnx", code=2, program=thimble.device)
    assert "the weights of a checkpoint (safetensors); thimble export makes" in done.stderr


REFUSED = {
    "a05e_whole_module": "it is a whole pickled module (transformers.models.albert.modeling_albert.AlbertForSequenceClassification)",
    "d07_ts": "a TorchScript program, not a state dict",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_and_what_to_do(thimble, tmp_path, name):
    done = thimble.run("export", WILD / name, "-o", tmp_path / "x.onnx", code=2)
    assert REFUSED[name] in done.stderr and "torch.save(" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_names_that_do_not_fit_are_one_short_error(thimble, tmp_path):
    """A head the tensors are not of: the prefix, the first misfits, and how many more."""
    done = thimble.run("export", WILD / "a05c_bert_prefix", "--head", "pretraining", "-o", tmp_path / "x.onnx", code=2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1 and len(lines[0]) < 480, done.stderr
    for words in ("(7 missing; names begin with 'bert.')", "missing predictions.dense.weight [32, 64], ", "; and 3 more; --head NAME"):
        assert words in lines[0]


def test_a_folder_without_weights_says_what_is_there(thimble, tmp_path):
    (tmp_path / "config.json").write_bytes((WILD / "d12_ext" / "config.json").read_bytes())
    (tmp_path / "weights.pkl").write_bytes(b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x8c\x01a\x8c\x01bs.")
    done = thimble.run("export", tmp_path, "-o", tmp_path / "x.onnx", code=2)
    assert "weights.pkl is a pickle that torch.save did not write" in done.stderr
    # A module is told as one under any name.
    (tmp_path / "weights.pkl").write_bytes((WILD / "a05e_whole_module" / "pytorch_model.bin").read_bytes())
    done = thimble.run("export", tmp_path, "-o", tmp_path / "x.onnx", code=2)
    assert "weights.pkl: not a checkpoint thimble reads: it is a whole pickled module" in done.stderr
    # Inputs are no weights.
    (tmp_path / "weights.pkl").unlink()
    (tmp_path / "inputs.safetensors").write_bytes((FIXTURES / "albert-seq-tiny" / "golden.safetensors").read_bytes())
    done = thimble.run("export", tmp_path, "-o", tmp_path / "x.onnx", code=2)
    assert "no checkpoint here" in done.stderr


def test_numbers_of_python_in_a_configuration(thimble, tmp_path):
    source = WILD / "a11_albert_config_json"
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    text = (source / "albert_config.json").read_text().replace('"negative",', "true,", 1).replace('"neutral",', "NaN,", 1)
    (tmp_path / "config.json").write_text(text.replace("{", '{"threshold": -Infinity,', 1))
    said = json.loads(thimble.run("run", tmp_path, "--ids", "2,3", "--json").stdout)
    assert {"True", "nan", "positive"} <= set(json.dumps(said).replace('"', " ").split())


def test_the_head_of_a_safetensors_file_is_what_tells_its_length(thimble, tmp_path):
    """Cut inside its header, a file ends after some of at least so many bytes."""
    whole = (WILD / "a11_albert_config_json" / "model.safetensors").read_bytes()
    (header,) = struct.unpack_from("<Q", whole)
    (tmp_path / "model.safetensors").write_bytes(whole[:100])
    (tmp_path / "config.json").write_bytes((WILD / "d12_ext" / "config.json").read_bytes())
    done = thimble.run("export", tmp_path, "-o", tmp_path / "x.onnx", code=2)
    assert f"ends after 100 of {header + 8} bytes" in done.stderr
