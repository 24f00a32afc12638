"""The documentation against the repository and the real programs. Commands in fenced blocks run on small fixtures, or are listed
here with the reason why not and are parsed by the program; options, scripts, tests, files and links named in prose exist.
"""

import functools
import itertools
import json
import math
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from bench import FIXTURES, ROOT

PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benches/README.md", ROOT / "models/README.md"]
)
PROGRAMS = ("thimble", "thimble-device")
# A changelog names what once was.
CURRENT = [page for page in PAGES if page != "CHANGELOG.md"]

# What stands for a name of a page. The paths are links in the folder where its commands run; the page's own outputs come first.
STANDS_FOR = {
    "models": ROOT / "models",
    "checkpoint": FIXTURES / "albert-mlm-tiny",
    "model.onnx": FIXTURES / "exported/mlm_torch1.8_dyn.onnx",
    "requests.jsonl": b'{"id": 1, "ids": [2, 17, 3]}\n',
}
# Fenced commands that do not run here, by how they begin, and why.
SKIPPED = {
    "README.md": {
        "cargo install": "builds what this test runs; tests/oracle/test_release.py looks at what the crates hold",
        "scripts/cross-build": "needs a cross compiler; scripts/test-aarch64 runs it",
        "thimble deploy": "needs a board; tests/server/test_server.py",
        "scripts/test": "runs this test",
    },
    "CONTRIBUTING.md": {
        "cargo": "the Rust suite runs it",
        "scripts/test": "runs this test",
        "THIMBLE_BIN=": "runs a test beside this one",
    },
    "docs/boards.md": {
        "scripts/cross-build": "needs a cross compiler; scripts/test-aarch64 runs it",
        "thimble emulate": "boots a virtual board; tests/board/test_emulate.py",
        "thimble deploy": "needs a board; tests/board/test_deploy.py",
        "thimble targets --probe": "needs a board; host/tests/manners.rs has a stand-in",
        "thimble targets kitchen.toml": "describes what --probe wrote",
        "xz": "another program's",
        "thimble install": "needs an SD-card image; tests/board/test_image.py",
    },
    "docs/clients.md": {
        "thimble-device serve deb.onnx --socket": "runs for ever; tests/oracle/test_serve_clients.py asks it",
        "python3": "asks a server; tests/oracle/test_serve_clients.py runs it",
        "node": "asks a server; tests/oracle/test_serve_clients.py runs it",
        "cc": "compiles the C client; tests/oracle/test_serve_clients.py runs it",
        "./ask": "asks a server; tests/oracle/test_serve_clients.py runs it",
    },
    "docs/library.md": {
        "scripts/c-library": "tests/bindings/test_docs.py runs it",
        "export PKG_CONFIG_PATH": "tests/bindings/test_docs.py runs it",
        "cc": "compiles the page's C program; tests/bindings/test_docs.py does",
        "LD_LIBRARY_PATH": "runs the page's C program; tests/bindings/test_docs.py does",
        "./ask-static": "runs the page's C program; tests/bindings/test_docs.py does",
    },
    "docs/python.md": {
        "scripts/python-wheel": "scripts/test-bindings runs it",
        "pip": "installs the wheel; scripts/test-bindings does",
        "thimble --version": "the wheel's program; tests/bindings/test_docs.py runs it",
    },
    "docs/getting-started.md": {
        "git clone": "this is the clone",
        "cargo install": "builds what this test runs; tests/oracle/test_release.py looks at what the crates hold",
        "scripts/cross-build": "needs a cross compiler; scripts/test-aarch64 runs it",
        "thimble deploy": "needs a board; tests/server/test_server.py",
        "thimble ask": "needs a board; tests/server/test_server.py",
        "scripts/debian-board": "boots a virtual board; tests/server/test_server.py",
    },
    "docs/models.md": {
        "pip": "installs TensorFlow",
        "python": "needs TensorFlow",
        "thimble export speech.onnx": "needs a speech model; tests/oracle/test_import.py makes one",
        "thimble slim speech.onnx": "needs a speech model; tests/oracle/test_slim.py cuts graphs",
    },
    "docs/onnx-runtime.md": {
        "thimble shrink ./plbert": "needs a speech model; benches/graft makes one",
        "thimble graft kokoro": "needs a speech model; benches/graft runs it, tests/oracle/test_graft.py smaller ones",
    },
    "docs/serve.md": {
        "thimble-device serve deb.onnx --socket": "runs for ever; the Python program of the page asks it below",
        "echo": "needs socat",
        "thimble-device ask": "needs a server; tests/oracle/test_passed_socket.py",
        "thimble package": "needs the program for the board; tests/board/test_package.py",
        "thimble deploy": "needs a board; tests/server/test_server.py",
        "thimble ask": "needs a board; tests/server/test_server.py",
    },
}
# Options that belong to other programs, and options of scripts that are named without the script.
FOREIGN = {
    "--profile": "cargo, and thimble-device bench",
    "--test": "cargo",
    "--workspace": "cargo",
    "--nocapture": "cargo's test programs",
    "--all-targets": "cargo",
    "--lib": "cargo",
    "--check": "cargo fmt",
    "--example": "cargo",
    "--bins": "cargo",
    "--path": "cargo install",
    "--local-dir": "hf download",
    "--request": "the clients of clients/",
    "--ping": "the clients of clients/",
    "--cflags": "pkg-config",
    "--libs": "pkg-config",
    "--static": "pkg-config",
}


def text_of(page):
    return (ROOT / page).read_text()


def blocks(page):
    """Fenced blocks: language and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.S | re.M)


def prose(page):
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.S | re.M)


def spans(page):
    """Inline code, tables included."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`]+)`", prose(page))]


def commands(page):
    """Lines of the page's shell blocks, joined where they go on, without comments."""
    for language, text in blocks(page):
        if language in ("sh", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                line = re.sub(r"(^|\s)#.*", "", line).strip().removeprefix("$ ")
                if line:
                    yield " ".join(line.split())


def words(command):
    """A command's words up to a redirection, a pipe or another command."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if set(word) <= set("();<>|&"):
            break
        found.append(word)
    return found


def reason(page, command):
    return next((why for start, why in SKIPPED.get(page, {}).items() if command.startswith(start)), None)


@pytest.fixture(scope="module")
def options(thimble):
    """The options of each program's command, as its help lists them."""

    @functools.cache
    def of(program, command):
        if program == "thimble":
            done = thimble.run(command, "--help")
            return frozenset(re.findall(r"^\s+(?:-\w, )?(--[\w-]+)", done.stdout, re.M)) | {"--help"}
        done = thimble.run(command, "--help", program=thimble.device)
        return frozenset(re.findall(r"^  (?:-\w, )?(--[\w-]+)", done.stdout, re.M))

    return of


def program_of(thimble, name):
    return {"thimble": thimble.host, "thimble-device": thimble.device}[name]


@pytest.mark.parametrize("page", [page for page in PAGES if any(True for _ in commands(page))])
def test_commands_of_a_page_run(thimble, tmp_path, page):
    """In the order of the page, in one folder, so that a command finds what the ones before it made."""
    for name, what in STANDS_FOR.items():
        if isinstance(what, bytes):
            (tmp_path / name).write_bytes(what)
        else:
            (tmp_path / name).symlink_to(what)
    if page == "docs/serve.md":
        thimble.run("export", ROOT / "models/albert-deb", "-o", tmp_path / "deb.onnx")
    path = os.pathsep.join([str(thimble.host.parent), os.environ["PATH"]])
    ran = 0
    for command in commands(page):
        if reason(page, command):
            continue
        assert words(command)[0] in PROGRAMS, f"{page}: '{command}' neither runs here nor is it in SKIPPED"
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{page}: {command}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        ran += 1
    listed = [command for command in commands(page) if reason(page, command)]
    assert ran + len(listed) == len(list(commands(page)))


@pytest.mark.parametrize("page", SKIPPED)
def test_skipped_commands_are_parsed_by_the_program(thimble, page):
    """A command that does not run still has arguments that the program takes: with --help at their end it reads all before it."""
    there = list(commands(page))
    for start in SKIPPED[page]:
        assert any(command.startswith(start) for command in there), f"SKIPPED lists '{start}', and {page} has no such command"
    for command in there:
        called = words(command)
        if reason(page, command) and called[0] in PROGRAMS:
            called = [word.replace("…", "x") for word in called]
            thimble.run(*called[1:], "--help", program=program_of(thimble, called[0]))


@pytest.mark.parametrize("page", CURRENT)
def test_options_in_the_text_exist(options, page):
    """Behind a program and its command: options of that command. Alone: options of any command or script."""
    scripts = {path.name: path for folder in ("scripts", "benches") for path in (ROOT / folder).iterdir() if path.is_file()}
    hosts = re.findall(r"^    ([A-Z]\w*)\((?:Box<)?cmd::", (ROOT / "host/src/cli.rs").read_text(), re.M)
    known = {("thimble", name.lower()) for name in hosts} | {("thimble-device", name) for name in ("info", "run", "bench", "serve", "ask")}
    every = frozenset().union(*(options(*pair) for pair in known), FOREIGN)
    written = "\n".join(path.read_text(errors="replace") for path in scripts.values())
    fenced = [line for _, text in blocks(page) for line in re.findall(r"^\$ ([^#\n]*)", text, re.M)]
    for span in [*spans(page), *fenced, *commands(page)]:
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span))
        if not named:
            continue
        called = re.match(r"(thimble(?:-device)?) ([\w|]+)", span)
        script = re.match(r"(?:THIMBLE_\w+=\S+ )?(scripts|benches)/([\w-]+)", span)
        if called:
            # COMMAND stands for any of them.
            program, subcommands = called[1], called[2].split("|")
            if subcommands == ["COMMAND"]:
                subcommands = [name for of, name in known if of == program]
            unknown = [name for name in subcommands if (program, name) not in known]
            assert not unknown, f"{page}: {program} has no command {unknown[0]} ({span})"
            taken = frozenset().union(*(options(program, name) for name in subcommands))
        elif script:
            own = scripts[script[2]]
            helper = own.with_suffix(".py")
            source = own.read_text() + (helper.read_text() if helper.is_file() else "")
            # Options behind a bare -- and those of cargo are handed on.
            taken = every | {name for name in named if name in source}
        else:
            taken = every | {name for name in named if name in written}
            if re.match(r"(cargo|pip|hf|python|systemctl|apt)\b", span):
                continue
        assert named <= taken, f"{page}: no option {', '.join(sorted(named - taken))} ({span})"


@pytest.mark.parametrize("page", CURRENT)
def test_files_tests_and_links_exist(page):
    folder = (ROOT / page).parent
    whole = text_of(page)
    for span in [*spans(page), *commands(page)]:
        for name in re.findall(r"(?<![\w/.-])(?:scripts|benches|bindings|tests|host|device|shared|text|fuzz|targets|docs|models|clients)/[\w./-]+", span):
            name = name.rstrip("./")
            if name.startswith("target/") or re.search(r"/(DATE|OUT|NAME)", name):
                continue
            # Rooms of ARCHITECTURE.md leave out src and the ending.
            crate, _, rest = name.partition("/")
            places = [ROOT / name, ROOT / crate / "src" / rest, ROOT / crate / "src" / f"{rest}.rs"]
            assert any(place.exists() for place in places), f"{page}: there is no {name} ({span})"
        for test in re.findall(r"--test (\w+)", span):
            places = [ROOT / crate / "tests" / f"{test}{end}" for crate in ("host", "device") for end in (".rs", "/main.rs")]
            assert any(place.exists() for place in places), f"{page}: there is no test {test} ({span})"
    for name in re.findall(r"\b(?:host|device|shared|text)/(?:src|tests)/[\w./]+", whole):
        name = name.rstrip(".")
        # NAME stands for a file that a reader would add.
        assert "NAME" in name or (ROOT / name).exists() or (ROOT / f"{name}.rs").exists(), f"{page}: there is no {name}"
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (folder / name) if name else ROOT / page
        assert file.exists(), f"{page}: the link to {target} leads nowhere"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{page}: {file.name} has no heading #{anchor}"


def close(a, b):
    """The same JSON, floats within what kernels differ by, and times and sizes left out."""
    if isinstance(a, dict):
        steady = [key for key in a if key not in ("ms", "rss_bytes", "queue", "uptime_s", "clients", "text", "model")]
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in steady)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-5)
    return a == b


def test_requests_of_the_serve_page_get_its_answers(thimble, models):
    page = "docs/serve.md"
    named = {"deb": "albert-deb", "mlm": "albert-mlm-tiny", "choice": "albert-choice-tiny", "tok": "albert-tok-tiny"}

    def answer(model, request):
        return json.loads(thimble.run("serve", models.export(named[model]), program=thimble.device, input=request + "\n").stdout)

    takes_text = answer("deb", '{"op": "ping"}')["text"]
    asked = 0
    for _, text in blocks(page):
        lines = text.splitlines()
        for line, said in itertools.pairwise(lines):
            if serving := re.match(r"\$ thimble-device(-lean)? serve (\w+)\.onnx", line):
                lean, model = bool(serving[1]), serving[2]
            # A request with a text is answered by one program and refused by the lean one.
            if line.startswith("> ") and ('"text"' not in line or lean != takes_text):
                got, wanted = answer(model, line[2:]), json.loads(said.removeprefix("< "))
                assert close(wanted, got), f"{page}: {line}\nsays {wanted}\nis   {got}"
                asked += 1
    assert asked >= 9


def test_the_program_of_the_serve_page_is_answered(thimble, models, tmp_path):
    (source,) = [text for language, text in blocks("docs/serve.md") if language == "python"]
    socket = tmp_path / "deb.sock"
    assert "/run/deb.sock" in source
    server = subprocess.Popen(
        [thimble.device, "serve", models.export("albert-deb"), "--socket", socket], stderr=subprocess.PIPE, text=True
    )
    try:
        assert "serving" in server.stderr.readline()
        source = source.replace("/run/deb.sock", str(socket))
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stderr.close()
