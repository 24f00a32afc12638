"""The C library: programs in C and C++ are built against it, shared and static, and answer what `serve` answers; every function takes
what no caller should give; nothing leaks.
"""

import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT

C = ROOT / "bindings/c"
INCLUDE = [f"-I{C / 'include'}", f"-I{ROOT / 'clients/c'}"]
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-D_POSIX_C_SOURCE=200809L"]
# A static library says what it needs of the system: docs/library.md and the pkg-config file list the same.
SYSTEM = ["-lm", "-lpthread", "-ldl"]
TEXT = "Perl module to parse ISO 8601 dates"


def close(mine, theirs):
    """The same JSON; a batch may differ from one request in the last bits."""
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(close(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list):
        return len(mine) == len(theirs) and all(map(close, mine, theirs))
    return mine == (pytest.approx(theirs, rel=1e-4, abs=1e-5) if isinstance(mine, float) else theirs)


def without(line, *names):
    return {name: value for name, value in json.loads(line).items() if name not in names}


def compile_c(out, sources, *flags, compiler="gcc", standard="-std=c99"):
    done = subprocess.run([compiler, standard, *STRICT, *INCLUDE, *map(str, sources), *flags, "-o", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def library(folder, tmp_path_factory):
    """The libraries where a system would have them."""
    place = tmp_path_factory.mktemp("lib")
    shutil.copy(folder / "libthimble.so", place / "libthimble.so.0")
    (place / "libthimble.so").symlink_to("libthimble.so.0")
    (place / "libthimble.a").symlink_to(folder / "libthimble.a")
    return place


@pytest.fixture(scope="module")
def build(library, tmp_path_factory):
    """Builds a program against the library: shared, static, or with no shared library at all."""
    place = tmp_path_factory.mktemp("programs")

    def build(source, how="shared", *flags, **options):
        link = {
            "shared": [f"-L{library}", f"-Wl,-rpath,{library}", "-lthimble", "-lm", "-lpthread"],
            "static": [str(library / "libthimble.a"), *SYSTEM],
            "alone": ["-static", str(library / "libthimble.a"), *SYSTEM],
        }[how]
        return compile_c(place / f"{source.stem}-{how}-{len(flags)}", [source], *flags, *link, **options)

    return build


@pytest.mark.parametrize("how", ["shared", "static", "alone"])
def test_the_example_answers_as_serve_does(build, models, serve, how):
    program, model = build(C / "examples/answer.c", how), models.export("albert-deb")
    (line,) = serve(model, json.dumps({"text": TEXT}))
    done = subprocess.run([program, model, TEXT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, answer = done.stdout.splitlines()
    assert json.loads(answer) == without(line, "id", "ms")
    assert first == f"perl {max(json.loads(answer)['scores']):.6f}"

    (line,) = serve(model, json.dumps({"text": TEXT, "pair": "written in C"}))
    done = subprocess.run([program, model, TEXT, "written in C"], capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[1]) == without(line, "id", "ms")

    ids = [2, 119, 50, 13, 343, 3]
    (line,) = serve(model, json.dumps({"ids": ids}))
    done = subprocess.run([program, model, "--ids", ",".join(map(str, ids))], capture_output=True, text=True)
    shapes, _, answer = done.stdout.splitlines()
    assert json.loads(answer) == without(line, "id", "ms")
    assert shapes == f"logits 1 12: {json.loads(answer)['outputs']['logits'][0]:g} ..."


def test_the_example_says_what_is_wrong(build, models, tmp_path):
    program, model = build(C / "examples/answer.c"), models.export("albert-deb")
    (tmp_path / "text.onnx").write_text("no model")
    cases = [
        ([model, "--ids", "2,999999"], 1, "input_ids[1] is 999999, must be 0 to 3999"),
        ([model, "--ids", ",".join(["5"] * 600)], 1, "positions end at"),
        ([model, "--ids", "2,x"], 2, "'2,x' is no list of ids"),
        (["no.onnx", "x"], 2, "no.onnx: No such file"),
        ([tmp_path / "text.onnx", "x"], 2, "text.onnx: "),
        ([models.export("albert-seq-tiny"), "x"], 1, "no tokenizer"),
        ([model, b"\xff"], 2, "text is not UTF-8 at byte 1"),
        ([model], 2, "usage: "),
    ]
    for arguments, code, words in cases:
        done = subprocess.run([program, *arguments], capture_output=True)
        assert done.returncode == code and words in done.stderr.decode() and not done.stdout, (arguments, done)
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("how", ["shared", "static"])
def test_no_argument_breaks_the_library(build, models, tmp_path, how):
    done = subprocess.run([build(ROOT / "tests/bindings/attacks.c", how), models.export("albert-deb"), tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 100 and done.stderr == ""


def test_nothing_leaks_and_no_byte_is_read_that_is_not_ours(build, models, tmp_path):
    """With the sanitizers of gcc: memory of the C program and of the library, which allocates with malloc."""
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    program = build(ROOT / "tests/bindings/attacks.c", "shared", *flags)
    # The library's code has no checks of its own there; its allocations are checked all the same.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1"}
    done = subprocess.run([program, models.export("albert-deb"), tmp_path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_valgrind_finds_no_error(build, models):
    if not shutil.which("valgrind"):
        pytest.skip("valgrind is not installed")
    program = build(C / "examples/answer.c", "shared")
    check = ["valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite,indirect"]
    model = models.export("albert-seq-tiny", "fp32")
    done = subprocess.run([*check, program, model, "--ids", "2,17,3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_program_in_c_plus_plus(build, models, tmp_path):
    source = tmp_path / "plain.cpp"
    source.write_text(
        """
        #include "thimble.h"
        #include "thimble_client.h"
        #include <cstdio>
        int main(int, char **argv) {
            thimble_options options = THIMBLE_OPTIONS_INIT;
            options.threads = 1;
            thimble_model *model = nullptr;
            if (thimble_model_open(argv[1], &options, &model) != THIMBLE_SUCCESS) return 1;
            thimble_answers *answers = nullptr;
            int code = thimble_answer_json(model, R"({"ids": [2, 17, 3]})", &answers);
            std::puts(code ? thimble_last_error() : thimble_answers_json(answers, 0));
            thimble_answers_free(answers);
            thimble_model_close(model);
            return code;
        }
        """
    )
    program = build(source, "shared", compiler="g++", standard="-std=c++11")
    done = subprocess.run([program, models.export("albert-seq-tiny")], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["outputs"]["logits"]


# A request of each head, as it is asked in JSON; `None` where the answer has no word, score or embedding.
HEADS = [
    ("albert-mlm-tiny", {"ids": [2, 17, 4, 3], "at": [2], "top": 3}),
    ("albert-choice-tiny", {"choices": [[2, 17, 3], [2, 9, 11, 3]]}),
    ("albert-qa-tiny", {"ids": [2, 17, 9, 3, 21, 8, 3], "types": [0, 0, 0, 0, 1, 1, 1]}),
    ("albert-tok-tiny", {"ids": [2, 17, 3]}),
    ("albert-tiny-groups", {"ids": [2, 17, 3], "at": [0]}),
    ("albert-pretraining-tiny", {"ids": [2, 17, 3], "at": [1]}),
    ("wild/d01_sentence_transformers", {"ids": [2, 17, 3]}),
]


def test_every_head_answers_json_as_serve_does(build, models, serve, tmp_path):
    source = tmp_path / "json.c"
    source.write_text(
        """
        #include "thimble.h"
        #include <stdio.h>
        int main(int argc, char **argv) {
            thimble_model *model = NULL;
            thimble_answers *answers = NULL;
            size_t size = 0;
            if (argc != 3 || thimble_model_open(argv[1], NULL, &model) || thimble_answer_json(model, argv[2], &answers)) {
                puts(thimble_last_error());
                return 1;
            }
            (void)thimble_answers_embedding(answers, 0, &size);
            printf("%s\\n%ld %g %zu\\n", thimble_answers_json(answers, 0), (long)thimble_answers_choice(answers, 0),
                   thimble_answers_score(answers, 0), size);
            thimble_answers_free(answers);
            thimble_model_close(model);
            return 0;
        }
        """
    )
    program = build(source)
    for name, request in HEADS:
        model = models.export(name)
        (line,) = serve(model, json.dumps(request))
        done = subprocess.run([program, model, json.dumps(request)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        answer, facts = done.stdout.splitlines()
        assert json.loads(answer) == without(line, "id", "ms"), name
        choice, score, size = facts.split()
        assert (name == "albert-choice-tiny") == (int(choice) >= 0), facts
        assert (score == "nan") == (name not in ("albert-choice-tiny", "albert-qa-tiny")), (name, facts)
        assert (int(size) > 0) == (name == "wild/d01_sentence_transformers"), facts


def test_only_the_functions_of_the_header_are_exported(folder):
    shown = subprocess.run(["nm", "-D", "--defined-only", folder / "libthimble.so"], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in shown.stdout.splitlines()}
    header = (C / "include/thimble.h").read_text()
    assert names and all(f"{name}(" in header for name in names), names
    loader = subprocess.run(["readelf", "-d", folder / "libthimble.so"], capture_output=True, text=True, check=True).stdout
    assert "[libthimble.so.0]" in loader
