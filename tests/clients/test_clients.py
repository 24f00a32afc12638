"""Folders that thimble writes for ONNX Runtime, loaded as they are by the tools that people load such folders with: Optimum,
transformers' tokenizers, sentence-transformers and transformers.js. In fp32 each must give Hugging Face's values; in every
format it must give what ONNX Runtime gives from the same file.

scripts/test-clients makes the environment and runs this.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForMaskedLM,
    ORTModelForMultipleChoice,
    ORTModelForQuestionAnswering,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
)
from transformers import AutoTokenizer, pipeline

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/oracle"))
from bench import FIXTURES, Models, Thimble, ask, cases, session  # noqa: E402
from test_sentences import EXPECTED, LIMIT, TEXTS, model as sentence_model  # noqa: E402

HERE = pathlib.Path(__file__).parent
HEADS = {
    "albert-tiny-groups": ORTModelForFeatureExtraction,
    "albert-mlm-tiny": ORTModelForMaskedLM,
    "albert-seq-tiny": ORTModelForSequenceClassification,
    "albert-tok-tiny": ORTModelForTokenClassification,
    "albert-qa-tiny": ORTModelForQuestionAnswering,
    "albert-choice-tiny": ORTModelForMultipleChoice,
    "albert-deb": ORTModelForSequenceClassification,
}
# Formats by the names they are asked for.
PRECISIONS = ("fp32", "fp16", "w8", "int8", "int4")
# Plain, with accents and capitals, long, and with what no vocabulary has.
PLAIN = ["Fast HTTP client library for Ruby", "Élan, ÉCOLE & naïve   CAFÉ — 10 % off", "a " * 90, "日本語 のテキスト 🙂"]


@pytest.fixture(scope="session")
def thimble():
    return Thimble(os.environ["THIMBLE_BIN"])


@pytest.fixture(scope="session")
def models(thimble, tmp_path_factory):
    return Models(thimble, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def folder(thimble, models, tmp_path_factory):
    made, root = {}, tmp_path_factory.mktemp("folders")

    def make(name, precision):
        if (name, precision) not in made:
            out = root / f"{name}-{precision}"
            source = name if isinstance(name, pathlib.Path) else models.source(name)
            thimble.run("export", source, "-o", out, "--precision", precision, "--for", "onnxruntime")
            made[name, precision] = out
        return made[name, precision]

    return make


def javascript(program, *arguments):
    """What a script of transformers.js prints, read as JSON."""
    command = ["node", str(HERE / program), *map(str, arguments)]
    environment = {**os.environ, "NODE_PATH": os.environ["THIMBLE_NODE_MODULES"]}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", HEADS)
def test_optimum_loads_the_folder(folder, name, precision):
    out = folder(name, precision)
    loaded = HEADS[name].from_pretrained(out)
    runtime = session(out / "onnx/model.onnx")
    for case in cases(name):
        theirs = loaded(**case.feeds)
        ours = ask(runtime, case.feeds)
        mask = case.feeds["attention_mask"] == 1
        for output in theirs:
            value = np.asarray(theirs[output])
            assert np.array_equal(value, ours[output]), output
            if precision == "fp32" and output in case.golden:
                apart = np.abs(value - case.golden[output])
                if value.shape[: mask.ndim] == mask.shape:
                    apart = apart[mask]
                assert apart.max() <= 1e-4, output


def test_pipelines_answer_with_labels(folder, models):
    out = folder("albert-deb", "int8")
    classify = pipeline(
        "text-classification",
        model=ORTModelForSequenceClassification.from_pretrained(out),
        tokenizer=AutoTokenizer.from_pretrained(out),
    )
    rows = [json.loads(line) for line in (models.source("albert-deb") / "test.jsonl").read_text().splitlines()[:200]]
    said = [answer["label"] for answer in classify([row["text"] for row in rows], truncation=True)]
    labels = json.loads((out / "config.json").read_text())["id2label"]
    assert np.mean([label == labels[str(row["label"])] for label, row in zip(said, rows, strict=True)]) > 0.75


def test_tokenizers_give_the_ids_of_the_source(folder, models):
    ours = AutoTokenizer.from_pretrained(folder("albert-deb", "int8"))
    theirs = AutoTokenizer.from_pretrained(models.source("albert-deb"))
    for text in PLAIN:
        for pair in (None, "A second text"):
            a, b = ours(text, pair), theirs(text, pair)
            assert a["input_ids"] == b["input_ids"], text
            assert a["token_type_ids"] == b["token_type_ids"], text
    assert ours.model_max_length == json.loads((folder("albert-deb", "int8") / "config.json").read_text())["max_position_embeddings"]


@pytest.mark.parametrize("precision", ("fp32", "int8", "int4"))
def test_transformers_js_classifies(folder, precision):
    out = folder("albert-deb", precision)
    answers = javascript("classify.mjs", out, *PLAIN[:3])
    tokenizer, runtime = AutoTokenizer.from_pretrained(out), session(out / "onnx/model.onnx")
    for text, answer in zip(PLAIN, answers):
        feeds = {k: v.astype(np.int64) for k, v in tokenizer(text, return_tensors="np", truncation=True).items()}
        logits = ask(runtime, feeds)["logits"][0].astype(np.float64)
        scores = np.exp(logits - logits.max())
        assert abs(answer["score"] - (scores / scores.sum()).max()) < 2e-3, text


def test_transformers_js_tells_the_texts_of_a_pair_apart(folder):
    out = folder("albert-deb", "fp32")
    answer = javascript("pair.mjs", out, PLAIN[0], "A second text")
    feeds = AutoTokenizer.from_pretrained(out)(PLAIN[0], "A second text")
    assert answer["input_ids"] == feeds["input_ids"]
    assert answer["token_type_ids"] == feeds["token_type_ids"] and 1 in answer["token_type_ids"]


@pytest.mark.parametrize("case", EXPECTED)
def test_sentence_transformers_loads_the_folder(folder, tmp_path_factory, case):
    from sentence_transformers import SentenceTransformer

    source = sentence_model(case, tmp_path_factory.mktemp("source") / case)
    want = np.array(EXPECTED[case]["embeddings"], dtype=np.float32)
    made = folder(source, "fp32")
    loaded = SentenceTransformer(str(made), backend="onnx", device="cpu")
    assert np.abs(loaded.encode(TEXTS) - want).max() <= LIMIT
    again = AutoTokenizer.from_pretrained(made)
    for text in TEXTS:
        feeds = {k: v.astype(np.int64) for k, v in again(text, return_tensors="np", truncation=True).items()}
        assert set(ask(session(made / "onnx/model.onnx"), feeds)) == {"last_hidden_state", "sentence_embedding"}


def test_transformers_js_embeds(folder, tmp_path_factory):
    source = sentence_model("mean", tmp_path_factory.mktemp("source") / "mean")
    made = folder(source, "fp32")
    # It cuts a long text's ids without keeping [SEP] at the end, as transformers does.
    ids, most = AutoTokenizer.from_pretrained(made), json.loads((made / "tokenizer_config.json").read_text())["model_max_length"]
    short = [i for i, text in enumerate(TEXTS) if len(ids(text)["input_ids"]) <= most]
    assert len(short) >= 4
    want = np.array(EXPECTED["mean"]["embeddings"], dtype=np.float32)[short]
    got = np.array(javascript("embed.mjs", made, *(TEXTS[i] for i in short)), dtype=np.float32)
    assert np.abs(got - want).max() <= LIMIT
