"""`thimble-device run` on texts: the board prints what `thimble run` prints. The lean program says that it takes token ids only."""

import json

import pytest
from bench import FIXTURES, ROOT

WORDS = "Perl module to parse ISO 8601 dates"


def board(thimble, *args, **kw):
    return thimble.run("run", *args, program=thimble.device, **kw)


def is_lean(thimble):
    version = thimble.run("--version", program=thimble.device).stdout
    assert ("with text" in version) != ("lean" in version)
    return "lean" in version


def test_a_text_is_answered_as_on_the_desk_or_refused(thimble, models):
    model = models.export("albert-deb")
    if is_lean(thimble):
        for option in (["--text", WORDS], ["--texts", "-"]):
            done = board(thimble, model, *option, code=2, input="")
            assert "token ids only" in done.stderr and not done.stdout
        return
    for text in ([WORDS], [WORDS * 60], ["\x7f \U0001f600"], [WORDS, "--pair", "rubygem"]):
        for form in ([], ["--json"]):
            asked = [model, "--text", *text, *form]
            desk, there = thimble.run("run", *asked), board(thimble, *asked)
            assert there.stdout == desk.stdout
            assert ("was cut" in there.stderr) == ("was cut" in desk.stderr) == (text == [WORDS * 60])


def test_what_nobody_said_is_told(thimble, models):
    model = models.export("albert-deb")
    assert "the tokens are made up" in board(thimble, model).stderr
    assert not board(thimble, model, "--ids", "2,17,3").stderr
    if is_lean(thimble):
        return
    assert "a text is empty or blank" in board(thimble, model, "--text", " ").stderr
    asked = '{"id": "blank", "text": " "}\n{"id": "perl", "text": "perl"}\n'
    answers = map(json.loads, thimble.run("serve", model, program=thimble.device, input=asked).stdout.splitlines())
    empty = {answer["id"]: answer.get("empty", False) for answer in answers}
    assert empty == {"blank": True, "perl": False}
    info = json.loads(thimble.run("info", model, "--json", program=thimble.device).stdout)["predicted"]
    assert info["tokenizer"] > 1 << 20


def test_each_line_of_a_file_of_texts_is_answered(thimble, models, tmp_path):
    if is_lean(thimble):
        pytest.skip("the lean program takes no texts")
    model = models.export("albert-deb")
    texts = [WORDS, "ruby gem for tables", "a game with cards"]
    alone = [json.loads(board(thimble, model, "--text", text, "--json").stdout) for text in texts]
    lines = f"{texts[0]}\r\n\n{texts[1]}\n   \n{texts[2]}"
    file = tmp_path / "texts"
    file.write_text(lines, newline="")
    for given in (file, "-"):
        told = board(thimble, model, "--texts", given, "--json", input=lines)
        assert [json.loads(line) for line in told.stdout.splitlines()] == alone
    shown = board(thimble, model, "--texts", file).stdout.splitlines()
    assert [line for line in shown if not line.startswith("  ")] == texts
    file.write_bytes(b"a\nb\xff\n")
    assert "line 2 is no UTF-8" in board(thimble, model, "--texts", file, code=2).stderr
    file.write_bytes(b"a" * (1 << 20) + b"b")
    assert "line 1 is longer than" in board(thimble, model, "--texts", file, code=2).stderr
    assert "missing" in board(thimble, model, "--texts", tmp_path / "missing", code=2).stderr


def test_what_does_not_go_together_is_refused(thimble, models):
    if is_lean(thimble):
        pytest.skip("the lean program takes no texts")
    model, choice = models.export("albert-deb"), models.export("albert-choice-tiny")
    tokenizer = ["--tokenizer", ROOT / "models/albert-deb/tokenizer.json"]
    for args, part in [
        ((model, "--text", "a", "--text", "b"), "only sentence embeddings are compared"),
        ((model, "--text", "a", "--pair", "b", "--pair", "c"), "--pair was given 2 times"),
        ((choice, "--text", "a"), "needs the tokenizer that lies beside the model"),
        ((model, "--text", "a", "--tokenizer", FIXTURES / "missing.json"), "missing.json"),
        ((model, "--text", "a", "--tokenizer", model), "not a tokenizer"),
        ((choice, "--text", "a", *tokenizer), "--pair once per choice"),
    ]:
        told = board(thimble, *args, code=2)
        assert part in told.stderr and len(told.stderr.strip().splitlines()) <= 2, told.stderr
