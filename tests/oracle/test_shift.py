"""Hidden states whose mean was taken out before they are rounded: a model that gives them away adds it again, in one Add that
ONNX Runtime and the engine both perform, and its pooler makes up for it in its bias.
"""

import json

import onnx
import pytest

from bench import ask, cases, gap, real, session


@pytest.fixture(scope="module")
def shifted(thimble, models, tmp_path_factory):
    out = tmp_path_factory.mktemp("shift") / "shifted.onnx"
    ask_for = ["shrink", models.source("albert-tiny-groups"), "--budget", "1MiB", "-o", out, "--json"]
    # w8 rounds weights only, so both runtimes give the same numbers.
    said = json.loads(thimble.run(*ask_for, "--formats", "w8", "--prepare", "shift").stdout)
    return out, said


def test_the_file_states_the_shift(shifted):
    out, said = shifted
    assert said["preparation"]["shifted"] == "everywhere"
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    graph = json.loads(metadata["thimble.graph"])
    assert graph["schema"] == 2 and graph["config"]["hidden_shift"]
    readers = [node for node in model.graph.node if "hidden_shift" in node.input]
    assert [node.op_type for node in readers] == ["Add"] and list(readers[0].output) == ["last_hidden_state"]


@pytest.mark.parametrize("case", cases("albert-tiny-groups"), ids=str)
def test_engine_and_onnx_runtime_give_hugging_faces_hidden_states_back(thimble, shifted, case):
    out, _ = shifted
    mask = case.feeds["attention_mask"]
    ours, theirs = thimble.infer(out, case.feeds), ask(session(out), case.feeds)
    for name, golden in case.golden.items():
        scale = real(golden, mask).std()
        assert gap(ours[name], theirs[name], mask) <= 1e-3 * scale, name
        # Rounded weights, no more: a shift that was not given back would be as large as the values.
        assert gap(theirs[name], golden, mask) <= 0.1 * scale, name


def test_a_shifted_file_is_read_and_written_again(thimble, shifted, tmp_path):
    out, _ = shifted
    again = tmp_path / "again.onnx"
    thimble.run("export", out, "-o", again)
    assert again.read_bytes() == out.read_bytes()
    said = json.loads(thimble.run("inspect", out, "--json").stdout)
    assert said
