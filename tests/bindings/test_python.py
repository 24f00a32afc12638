"""The wheel in an environment of its own: models answer what `serve` answers, commands give what `--json` prints, and everything that
no caller should give ends in an exception with words.
"""

import gc
import json
import pathlib
import pickle
import signal
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time

import numpy as np
import pytest
import thimble
from conftest import ROOT

DEB = ROOT / "models/albert-deb"
TEXT = "Perl module to parse ISO 8601 dates"
IDS = [2, 119, 50, 13, 343, 3]


def without(line, *names):
    return {name: value for name, value in json.loads(line).items() if name not in names}


def close(mine, theirs):
    """The same JSON; a batch may differ from one request in the last bits."""
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(close(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(close, mine, theirs))
    return mine == (pytest.approx(theirs, rel=1e-4, abs=1e-5) if isinstance(mine, float) else theirs)


@pytest.fixture(scope="module")
def deb(models):
    with thimble.load(models.export("albert-deb"), threads=1) as model:
        yield model


def test_answers_are_those_of_serve(deb, models, serve):
    asked = [
        ({"text": TEXT}, lambda: deb(TEXT)),
        ({"text": TEXT, "pair": "written in C"}, lambda: deb(TEXT, "written in C")),
        ({"ids": IDS}, lambda: deb(ids=IDS)),
        ({"ids": IDS, "types": [0, 0, 0, 1, 1, 1]}, lambda: deb(ids=np.array(IDS), types=[0, 0, 0, 1, 1, 1])),
    ]
    lines = serve(models.export("albert-deb"), *[json.dumps(request) for request, _ in asked])
    # One at a time, as they are computed here.
    for (request, ask), _ in zip(asked, lines, strict=True):
        (line,) = serve(models.export("albert-deb"), json.dumps(request))
        assert ask() == without(line, "id", "ms"), request


def test_a_batch_answers_in_order(deb):
    texts = [TEXT, "", "a library to parse dates", "x " * 2000, "Größe 漢字 🦀"]
    pairs = [None, "b", None, None, "c"]
    alone = [deb(text) if pair is None else deb(text, pair) for text, pair in zip(texts, pairs)]
    assert close(deb(texts, pairs), alone)
    assert alone[3]["truncated"] is True
    assert deb([]) == []
    several = [IDS, IDS[:3], [2, 3]]
    assert close(deb(ids=several), [deb(ids=row) for row in several])
    assert close(deb(ids=np.array([IDS, IDS])), [deb(ids=IDS)] * 2)


HEADS = [
    ("albert-mlm-tiny", {"ids": [2, 17, 4, 3], "at": [2], "top": 3}),
    ("albert-mlm-tiny", {"ids": [2, 17, 3], "full": True, "at": [1]}),
    ("albert-choice-tiny", {"choices": [[2, 17, 3], [2, 9, 11, 3]]}),
    ("albert-qa-tiny", {"ids": [2, 17, 9, 3, 21, 8, 3], "types": [0, 0, 0, 0, 1, 1, 1], "max_answer": 2}),
    ("albert-tok-tiny", {"ids": [2, 17, 3]}),
    ("albert-tiny-groups", {"ids": [2, 17, 3], "at": [0]}),
    ("wild/d01_sentence_transformers", {"ids": [2, 17, 3]}),
]


@pytest.mark.parametrize(("name", "request_"), HEADS)
def test_every_head_answers_as_serve_does(models, serve, name, request_):
    path = models.export(name)
    (line,) = serve(path, json.dumps(request_))
    with thimble.load(path) as model:
        assert model(**request_) == without(line, "id", "ms")


def test_tensors_have_the_names_shapes_and_numbers_of_the_answers(deb, models):
    outputs = deb.run([IDS, IDS])
    assert list(outputs) == deb.outputs == ["logits"]
    assert outputs["logits"].shape == (2, 12) and outputs["logits"].dtype == np.float32
    assert close(outputs["logits"][0].tolist(), deb(ids=IDS)["outputs"]["logits"])
    outputs["logits"][0, 0] = 7  # It is the caller's own.

    padded = np.array([IDS + [0, 0], IDS + [0, 0]], dtype=np.int32)
    mask = padded != 0
    assert np.allclose(deb.run(padded, mask, np.zeros_like(padded))["logits"], deb.run([IDS, IDS])["logits"], atol=1e-4)
    with thimble.load(models.export("albert-tiny-groups", "fp32")) as model:
        outputs = model.run(np.asfortranarray(np.array([[2, 17, 3], [2, 9, 3]])))
        assert outputs["last_hidden_state"].shape[:2] == (2, 3)
        assert not np.allclose(outputs["last_hidden_state"][0], outputs["last_hidden_state"][1])
    with thimble.load(models.export("albert-choice-tiny")) as model:
        assert model.run([[[2, 17, 3], [2, 9, 3]]])["logits"].shape == (1, 2)


def test_embeddings_are_arrays(models):
    path = models.export("wild/d01_sentence_transformers", "fp32")
    with thimble.load(path) as model:
        if not model.takes_text:
            pytest.skip("the fixture has no tokenizer")
        texts = ["a small board", "x", "another board that is larger"]
        rows = model.embed(texts)
        assert rows.shape == (3, model("x")["outputs"]["sentence_embedding"].__len__()) and rows.dtype == np.float32
        assert np.allclose(rows[1], model.embed("x"), atol=1e-5)
        assert np.allclose(rows[1], model("x")["outputs"]["sentence_embedding"], atol=1e-5)
        assert model.embed([]).shape == (0, rows.shape[1])


def test_a_model_says_what_it_is(deb):
    assert deb.head == "sequence classification" or "classif" in deb.head
    assert len(deb.labels) == 12 and "perl" in deb.labels and deb.vocabulary == 4000
    assert deb.takes_text and deb.threads == 1 and deb.positions >= 128
    assert set(deb.formats.values()) <= {"i8", "f32", "int8", "fp32"}, deb.formats
    assert repr(deb).startswith("<thimble.Model '") and "bytes>" in repr(deb)


def test_a_closed_model_says_so(models):
    model = thimble.load(pathlib.Path(models.export("albert-seq-tiny")))
    with model:
        model(ids=[2, 3])
    assert model.closed and "closed" in repr(model)
    model.close()
    for call in (lambda: model(ids=[2, 3]), lambda: model.run([[2, 3]])):
        with pytest.raises(ValueError, match="the model is closed"):
            call()


def test_a_model_is_not_pickled(deb):
    with pytest.raises(TypeError, match="load the file in each process"):
        pickle.dumps(deb)


def bad_calls():
    surrogate = "a\ud800"
    vocabulary = "must be 0 to 3999"
    return [
        (lambda m: m(surrogate), UnicodeEncodeError, "surrogates not allowed"),
        (lambda m: m("x", surrogate), UnicodeEncodeError, "surrogates not allowed"),
        (lambda m: m(["x", surrogate]), UnicodeEncodeError, "surrogates not allowed"),
        (lambda m: m(b"x"), Exception, "text is int, a str is needed"),
        (lambda m: m([1]), TypeError, "text is int"),
        (lambda m: m("x", 1), TypeError, "pair is int"),
        (lambda m: m(), TypeError, "give a text, or ids"),
        (lambda m: m("x", ids=[2]), TypeError, "give one"),
        (lambda m: m(pair="x"), TypeError, "goes with a text"),
        (lambda m: m("x", types=[0]), TypeError, "types go with ids"),
        (lambda m: m(["x"], ["y", "z"]), ValueError, "as many"),
        (lambda m: m(["x"], "y"), ValueError, "as many"),
        (lambda m: m("x", colour=3), TypeError, "no option 'colour'"),
        (lambda m: m("x", max_answer=3), thimble.InputError, "question answering"),
        (lambda m: m("x", choices=["a"]), thimble.InputError, "multiple choice"),
        (lambda m: m("x", top=3), thimble.InputError, "masked LM"),
        (lambda m: m("x", at=[0]), thimble.InputError, "at"),
        (lambda m: m(ids=[]), thimble.InputError, "ids is empty"),
        (lambda m: m(ids=[[]]), thimble.InputError, "ids is empty"),
        (lambda m: m(ids=[2, 4000]), thimble.InputError, vocabulary),
        (lambda m: m(ids=[[2, 3], [2, -1]]), thimble.InputError, "request 1: ids"),
        (lambda m: m(ids=[2, 1 << 70]), thimble.InputError, "ids|64|number"),
        (lambda m: m(ids=[2.5]), TypeError, "integer"),
        (lambda m: m(ids=[2] * 600), thimble.InputError, "positions end at"),
        (lambda m: m(ids=[2] * 100_000), thimble.InputError, "more than|positions"),
        (lambda m: m(ids=[2, 3], types=[0]), thimble.InputError, "types has 1 values"),
        (lambda m: m(ids=[[2, 3]], types=[]), ValueError, "types has 0 rows"),
        (lambda m: m.run([2, 3]), thimble.InputError, r"shape \[2\]"),
        (lambda m: m.run([]), thimble.InputError, r"shape \[0\]"),
        (lambda m: m.run(np.zeros((0, 4), int)), thimble.InputError, r"shape \[0, 4\]"),
        (lambda m: m.run(np.zeros((1, 0), int)), thimble.InputError, r"shape \[1, 0\]"),
        (lambda m: m.run(np.zeros((1, 1, 4), int)), thimble.InputError, "this model takes"),
        (lambda m: m.run([[2.0, 3.0]]), thimble.InputError, "whole numbers"),
        (lambda m: m.run([["a"]]), thimble.InputError, "whole numbers"),
        (lambda m: m.run([[2, 4000]]), thimble.InputError, vocabulary),
        (lambda m: m.run(np.array([[2, 1 << 63]], dtype=np.uint64)), thimble.InputError, "64 bits"),
        (lambda m: m.run([[2, 3]], [[1]]), thimble.InputError, "attention_mask has shape"),
        (lambda m: m.run([[2, 3]], [[1, 2]]), thimble.InputError, "attention_mask"),
        (lambda m: m.run([[2, 3]], None, [[0, 9]]), thimble.InputError, "token_type_ids"),
        (lambda m: m.run([[2] * 600]), thimble.InputError, "positions end at"),
        (lambda m: m.embed("x"), thimble.InputError, "gives no embeddings"),
    ]


@pytest.mark.parametrize("number", range(len(bad_calls())))
def test_what_no_caller_should_give_is_refused(deb, number):
    call, kind, words = bad_calls()[number]
    with pytest.raises(kind, match=words):
        call(deb)
    assert deb(TEXT)["label"] == "perl"


def test_files_that_are_no_models_are_refused(models, tmp_path):
    whole = models.export("albert-deb").read_bytes()
    cases = {"empty.onnx": b"", "text.onnx": b"no model", "cut.onnx": whole[: len(whole) // 2], "head.onnx": whole[:100]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        for copy in (False, True):
            with pytest.raises(thimble.Error, match=name):
                thimble.load(tmp_path / name, copy=copy)
    for path, kind in [("a\ud800", UnicodeEncodeError), ("no.onnx", FileNotFoundError), ("no.onnx", thimble.Error), (tmp_path, thimble.Error), ("a\0b", Exception)]:
        with pytest.raises(kind):
            thimble.load(path)
    with pytest.raises(FileNotFoundError, match="no.json"):
        thimble.load(models.export("albert-deb"), tokenizer="no.json")
    for threads in (0, -1, 257, 1 << 70):
        with pytest.raises((ValueError, OverflowError)):
            thimble.load(models.export("albert-deb"), threads=threads)
    with thimble.load(models.export("albert-seq-tiny")) as model, pytest.raises(thimble.InputError, match="no tokenizer"):
        model("x")


def test_a_model_that_changes_under_way_is_an_error(models, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(models.export("albert-seq-tiny").read_bytes())
    with thimble.load(path) as mapped, thimble.load(path, copy=True) as copied:
        before = copied(ids=[2, 17, 3])
        time.sleep(0.02)
        with open(path, "r+b") as file:
            file.write(b"\x08")
        with pytest.raises(thimble.Error, match="written to while it was in use"):
            mapped(ids=[2, 17, 3])
        assert copied(ids=[2, 17, 3]) == before


def test_another_models_tokenizer_is_told_as_a_warning(models, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(models.export("albert-deb").read_bytes())
    (tmp_path / "model.tokenizer.json").write_text("{}")
    with pytest.warns(UserWarning, match="is not the tokenizer the model was written with"):
        model = thimble.load(path)
    assert not model.takes_text


def test_threads_share_a_model_and_the_lock_is_given_up(deb):
    want, wrong = deb(TEXT), []
    ticks = 0

    def ask():
        for _ in range(20):
            if deb(TEXT) != want:
                wrong.append(1)
            try:
                deb(ids=[-1])
                wrong.append(1)
            except thimble.InputError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ticks += 1
        time.sleep(0)
    assert not wrong and ticks > 10


def test_memory_stays_as_it_is(deb):
    def resident():
        gc.collect()
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1])

    for _ in range(50):
        deb.run([IDS])
    before = resident()
    for _ in range(2000):
        deb.run([IDS])
        deb(ids=IDS)
    assert resident() - before < 2000, "pages of 4 KiB"


def program_json(folder, *arguments):
    done = subprocess.run([folder / "thimble", *map(str, arguments), "--json"], capture_output=True, text=True)
    return json.loads(done.stdout)


def test_export_and_inspect_give_what_the_program_prints(folder, tmp_path):
    made = thimble.export(DEB, tmp_path / "a.onnx", precision="int4", opset=18, seq=16)
    theirs = program_json(folder, "export", DEB, "-o", tmp_path / "b.onnx", "--precision", "int4", "--opset", "18", "--seq", "16")
    assert made["model"]["bytes"] == theirs["model"]["bytes"] and made["vanished"] == []
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert made["tokenizer"]["file"] == str(tmp_path / "a.tokenizer.json")
    assert thimble.inspect(tmp_path / "a.onnx", against=DEB) == program_json(folder, "inspect", tmp_path / "a.onnx", "--against", DEB)


def test_export_takes_the_arithmetic_of_attention(tmp_path):
    made = thimble.export(DEB, tmp_path / "a.onnx", precision="int8", attention="int8")
    assert thimble.inspect(made["model"]["file"])["attention"] == "int8"
    thimble.export(tmp_path / "a.onnx", tmp_path / "b.onnx", attention="f32")
    assert "attention" not in thimble.inspect(tmp_path / "b.onnx")
    with pytest.raises(ValueError, match="int4"):
        thimble.export(DEB, tmp_path / "c.onnx", attention="int4")


def test_verify_gives_what_the_program_prints(folder, models):
    small = models.export("albert-deb", "int4")
    mine = thimble.verify(DEB, small, rows=16, inputs=DEB / "test.jsonl", min_agreement=0.5)
    assert mine == program_json(folder, "verify", DEB, small, "--rows", 16, "--inputs", DEB / "test.jsonl", "--min-agreement", 0.5)
    assert mine["reasons"] == []
    assert thimble.verify(DEB, small, rows=4, max_abs=0)["reasons"]


def test_shrink_gives_what_the_program_prints_and_tells_how_far_it_is(folder, tmp_path):
    told = []
    options = {"budget": "400KiB", "calibrate": DEB / "test.jsonl", "rows": 16, "nearest": True, "formats": ["int8", "int4"]}
    mine = thimble.shrink(DEB, tmp_path / "small.onnx", **options, progress=lambda *step: told.append(step))
    same = ["--budget", "400KiB", "--calibrate", DEB / "test.jsonl", "--rows", 16, "--nearest", "--formats", "int8,int4"]
    theirs = program_json(folder, "shrink", DEB, "-o", tmp_path / "theirs.onnx", *same)
    assert mine == theirs and mine["written"] and mine["bytes"] <= 400 << 10
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "theirs.onnx").read_bytes()
    stages = {}
    for stage, done, total in told:
        assert isinstance(stage, str) and 0 <= done <= total
        assert done >= stages.get(stage, 0) or done == 0
        stages[stage] = done
    assert any("sensitivities" in stage for stage in stages) and len(stages) > 2
    with thimble.load(tmp_path / "small.onnx") as model:
        assert model(TEXT)["label"] == "perl"


def test_what_does_not_fit_is_refused_with_the_answer(tmp_path):
    with pytest.warns(UserWarning, match="no --calibrate"):
        with pytest.raises(thimble.Refused, match="below") as refused:
            thimble.shrink(DEB, tmp_path / "small.onnx", budget=1000, rows=4)
    assert refused.value.answer["verdict"] == "over budget" and not list(tmp_path.iterdir())


def test_wrong_arguments_and_files_of_commands(tmp_path, models):
    (tmp_path / "text.onnx").write_text("no model")
    out = tmp_path / "out.onnx"
    cases = [
        (lambda: thimble.export(DEB, out, precision="int5"), ValueError, "int5"),
        (lambda: thimble.export(DEB, out, opset=3), Exception, "3"),
        (lambda: thimble.export("no-such-model", out), FileNotFoundError, "no-such-model"),
        (lambda: thimble.export(DEB, tmp_path / "no/dir/out.onnx"), thimble.Error, "no/dir"),
        (lambda: thimble.export(DEB, DEB / "model.safetensors"), thimble.Error, "model.safetensors"),
        (lambda: thimble.export("--help", out), FileNotFoundError, "--help"),
        (lambda: thimble.shrink(DEB, out), thimble.Error, "say how small: --budget"),
        (lambda: thimble.shrink(DEB, out, budget="twelve"), ValueError, "twelve"),
        (lambda: thimble.shrink(DEB, out, budget=0), ValueError, "0 bytes"),
        (lambda: thimble.shrink(DEB, out, budget="1MiB", formats=["int8", "a,b"]), ValueError, "comma"),
        (lambda: thimble.shrink(DEB, out, budget="1MiB", calibrate="no.jsonl"), FileNotFoundError, "no.jsonl"),
        (lambda: thimble.shrink(DEB, out, budget="1MiB", target="no-board"), thimble.Error, "no-board"),
        (lambda: thimble.verify(DEB, models.export("albert-qa-tiny")), thimble.Error, "cannot be compared"),
        (lambda: thimble.verify(DEB, DEB, rows=0), ValueError, "rows"),
        (lambda: thimble.inspect(tmp_path / "text.onnx"), thimble.Error, "text.onnx"),
        (lambda: thimble.inspect("no.onnx"), FileNotFoundError, "no.onnx"),
        (lambda: thimble.inspect("a\ud800\ud800"), UnicodeEncodeError, "surrogates"),
        (lambda: thimble.shrink(DEB, out, budget="1MiB", colour=3), TypeError, "colour"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words) as raised:
            call()
        assert "\n" not in str(raised.value), raised.value
    assert not out.exists()


def test_an_exception_in_the_callback_ends_the_work(tmp_path):
    class Enough(Exception):
        pass

    def progress(stage, done, total):
        raise Enough(stage)

    with pytest.raises(Enough):
        thimble.shrink(DEB, tmp_path / "small.onnx", budget="400KiB", calibrate=DEB / "test.jsonl", progress=progress)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_shrink_without_half_files(tmp_path):
    # What a shell starts behind the scenes ignores SIGINT, and so would Python.
    source = f"""
        import signal, thimble
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def progress(stage, done, total):
            print(stage, flush=True)
        try:
            thimble.shrink({str(DEB)!r}, "small.onnx", budget="400KiB", calibrate={str(DEB / "test.jsonl")!r}, rows=500, progress=progress)
        except KeyboardInterrupt:
            print("interrupted")
        model = thimble.export({str(DEB)!r}, "after.onnx")
        print("goes on")
    """
    running = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    running.stdout.readline()
    time.sleep(0.3)
    begin = time.monotonic()
    running.send_signal(signal.SIGINT)
    rest = running.stdout.read()
    assert running.wait(60) == 0 and "interrupted\ngoes on" in rest, rest
    assert time.monotonic() - begin < 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.onnx", "after.tokenizer.json"]


def test_a_signal_of_the_program_is_left_alone(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGBUS)]
    thimble.shrink(DEB, tmp_path / "small.onnx", budget="1MiB", calibrate=DEB / "test.jsonl", rows=4, nearest=True, formats=["int8"])
    status = pathlib.Path("/proc/self/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    assert caught >> (signal.SIGINT - 1) & 1 and not caught >> (signal.SIGTERM - 1) & 1
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGBUS)]


def test_notes_are_logged(tmp_path, caplog):
    with caplog.at_level("INFO", logger="thimble"):
        thimble.export(DEB, tmp_path / "a.onnx")
        rows = tmp_path / "rows.csv"
        rows.write_text("text,label\nPerl module,perl\nA library,python\n")
        thimble.verify(DEB, tmp_path / "a.onnx", inputs=rows)
    assert any("rows.csv" in record.message for record in caplog.records), caplog.text


def script():
    return pathlib.Path(sysconfig.get_path("scripts")) / "thimble"


@pytest.mark.parametrize("command", [[str(script())], [sys.executable, "-m", "thimble"]])
def test_the_wheel_has_the_program(command, folder, tmp_path):
    def run(program, *arguments):
        return subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)

    mine, theirs = run(command, "--help"), run([folder / "thimble"], "--help")
    assert mine.returncode == 0 and mine.stdout == theirs.stdout
    assert run(command, "--version").stdout.splitlines()[0] == f"thimble {thimble.__version__}"
    done = run(command, "export", DEB, "-o", "a.onnx")
    assert done.returncode == 0 and (tmp_path / "a.onnx").exists()
    done = run(command, "run", "a.onnx", "--text", TEXT, "--json")
    assert json.loads(done.stdout)["labels"][0]["label"] == "perl"
    done = run(command, "inspect", "no.onnx")
    assert done.returncode == 2 and done.stderr.startswith("error: no.onnx")
    assert run(command, "shrnk").returncode == 2
    assert run(command, "shrink", DEB, "--budget", "9", "--rows", "4", "--dry-run").returncode == 1


def test_ctrl_c_ends_the_program_as_ever(tmp_path):
    command = [script(), "shrink", DEB, "--budget", "400KiB", "-o", "small.onnx", "--calibrate", DEB / "test.jsonl", "--rows", "500"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while "preparing" not in running.stderr.readline():
        pass
    running.send_signal(signal.SIGINT)
    words = running.stderr.read()
    assert running.wait(30) == -signal.SIGINT and "interrupted: no file was written" in words
    assert not list(tmp_path.iterdir())


def mypy(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *arguments], capture_output=True, text=True, cwd=cwd)


def test_types_hold(tmp_path):
    """The package, and a program that uses it, where one line is wrong on purpose."""
    done = mypy("-p", "thimble", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    (tmp_path / "user.py").write_text(
        textwrap.dedent(
            """
            import numpy as np
            import numpy.typing as npt
            import thimble

            def far(stage: str, done: int, total: int) -> None:
                print(stage, done, total)

            answer = thimble.shrink("a", "b.onnx", budget="1MiB", progress=far)
            with thimble.load("b.onnx", threads=1) as model:
                one = model("text", "pair")
                label: str = one["label"]
                several = model(["a", "b"])
                labels = [each["label"] for each in several]
                logits: npt.NDArray[np.float32] = model.run([[2, 3]])["logits"]
                rows: npt.NDArray[np.float32] = model.embed(["a"])
            try:
                thimble.export("a", "b", precision="int8")
            except thimble.Refused as refused:
                print(refused.answer["reasons"])
            """
        )
    )
    done = mypy("user.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    (tmp_path / "wrong.py").write_text('import thimble\nthimble.load("a", threads="two")\nthimble.shrink("a", budgte=3)\n')
    done = mypy("wrong.py", cwd=tmp_path)
    assert done.returncode == 1 and "wrong.py:2" in done.stdout and "wrong.py:3" in done.stdout, done.stdout


def test_every_option_of_the_commands_is_an_argument(folder):
    """What is no argument here is named, with the reason."""
    import inspect as reflection
    import re

    left_out = {"help", "json", "quiet", "verbose"}
    for name in ("export", "shrink", "verify", "inspect"):
        shown = subprocess.run([folder / "thimble", name, "--help"], capture_output=True, text=True).stdout
        options = set(re.findall(r"^\s+(?:-\w, )?--([\w-]+)", shown, re.M)) - left_out
        arguments = set(reflection.signature(getattr(thimble, name)).parameters)
        options = {"runtime" if option == "for" else option.replace("-", "_") for option in options}
        assert options <= arguments, f"{name}: {options - arguments}"


def test_everything_has_a_docstring():
    for name in thimble.__all__:
        assert name == "__version__" or getattr(thimble, name).__doc__, name
    for name, value in vars(thimble.Model).items():
        if not name.startswith("_"):
            assert (value.fget if isinstance(value, property) else value).__doc__, name


