"""Masks no tokenizer makes but programs send: holes, left padding, rows of zeros only. The judge is ONNX Runtime, on our
own fp32 file and on what torch exported from Hugging Face's code (tests/fixtures/exported), which states HF's arithmetic.
"""

import numpy as np
import pytest

from bench import FIXTURES, ask, cases, gap, session

LIMIT = 1e-4


def mask_of(kind, shape):
    """A mask [rows, seq] of one kind; rows differ."""
    rows, seq = shape
    mask = np.ones(shape, np.int64)
    for row in range(rows):
        match kind:
            case "holes":
                mask[row, 1 + row :: 3] = 0
            case "left padding":
                mask[row, : 3 + row] = 0
            case "one token":
                mask[row] = 0
                mask[row, (5 + row) % seq] = 1
            case "a zero row among others":
                mask[row, seq - 2 - row :] = 0
                mask[row] *= row != rows - 1
            case "all zero":
                mask[row] = 0
    return mask


KINDS = ("holes", "left padding", "one token", "a zero row among others", "all zero")
MODELS = (
    "albert-choice-tiny",
    "albert-mlm-tiny",
    "albert-pretraining-tiny",
    "albert-qa-tiny",
    "albert-seq-tiny",
    "albert-tiny-groups",
    "albert-tok-tiny",
)
EXPORTED = {"albert-tiny-groups": "groups_torch2.6_dyn.onnx", "albert-mlm-tiny": "mlm_torch1.8_dyn.onnx"}
# The older of the two adds -10000 to masked scores, not the least f32: the same wherever a token is real, but a row of
# zeros only then attends as if nothing were masked.
ADDS_LEAST = {"albert-tiny-groups"}


def feeds_of(name, kind):
    case = next(case for case in cases(name) if case.prefix == "b3s9")
    feeds = dict(case.feeds)
    shape = feeds["input_ids"].shape
    feeds["attention_mask"] = mask_of(kind, (int(np.prod(shape[:-1])), shape[-1])).reshape(shape)
    return feeds


def promised(mask):
    """Where values are promised: where the mask is 1, and everywhere in a row of zeros, which is defined as HF's."""
    zero = mask.sum(axis=-1, keepdims=True) == 0
    return np.where(zero, 1, mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_engine_and_onnx_runtime_agree_on_odd_masks(thimble, models, name, kind):
    path = models.export(name)
    feeds = feeds_of(name, kind)
    theirs, ours = ask(session(path), feeds), thimble.infer(path, feeds)
    assert set(ours) == set(theirs)
    for output, value in theirs.items():
        assert gap(ours[output], value, promised(feeds["attention_mask"])) <= LIMIT, output


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in EXPORTED for kind in KINDS if name in ADDS_LEAST or "zero" not in kind]
)
def test_hugging_faces_own_graph_agrees_on_odd_masks(thimble, models, name, kind):
    feeds = feeds_of(name, kind)
    feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    foreign = session(FIXTURES / "exported" / EXPORTED[name])
    names = [port.name for port in foreign.get_inputs()]
    theirs = foreign.run(None, {name: feeds[name] for name in names})[0]
    path = models.export(name)
    output = "logits" if name == "albert-mlm-tiny" else "last_hidden_state"
    for ours in (thimble.infer(path, feeds), ask(session(path), feeds)):
        assert gap(ours[output], theirs, promised(feeds["attention_mask"])) <= LIMIT


@pytest.mark.parametrize("name", ("albert-tiny-groups", "albert-seq-tiny"))
def test_mask_and_types_may_be_left_out(thimble, models, name):
    path = models.export(name)
    feeds = feeds_of(name, "holes")
    feeds["attention_mask"][:] = 1
    feeds["token_type_ids"] = np.zeros_like(feeds["token_type_ids"])
    whole, bare = thimble.infer(path, feeds), thimble.infer(path, {"input_ids": feeds["input_ids"]})
    for output, value in whole.items():
        assert np.array_equal(value, bare[output]), output
