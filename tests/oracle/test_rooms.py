"""What ARCHITECTURE.md draws holds in the code: imports go down the rooms of a crate, crates know only those below them, and the
device program is built of few crates. (That none of these is there twice is for scripts/supply-chain to check.)
"""

import re
import subprocess

import pytest
from bench import ROOT

CRATES = {"host": "thimble", "device": "thimble_device", "shared": "thimble_shared", "text": "thimble_text"}
# The crates of the workspace that each may name. `text` comes into the device program with its feature of that name.
KNOWS = {"host": {"device", "shared", "text"}, "device": {"shared", "text"}, "shared": set(), "text": {"shared"}}
# What stands above all rooms, and what any room may use.
ENTRY = {"host": {"cli", "main", "lib"}, "device": {"main", "lib"}}
SHARED_BY_ALL = {"host": set(), "device": {"block_cache", "guest_init", "log"}}
# tests/support, which is compiled into tests alone.
OF_TESTS = "test_support"


def arrows():
    """The levels of host and device as ARCHITECTURE.md draws them: `a` → `b`, `c` → `d`, the highest first."""
    text = " ".join((ROOT / "ARCHITECTURE.md").read_text().split())
    drawn = {}
    for crate in ("host", "device"):
        chain = re.search(rf"{crate.title()}: ((?:`\w+`(?:, | → )?)+)", text)
        assert chain, f"ARCHITECTURE.md draws no chain for the {crate}"
        drawn[crate] = [re.findall(r"`(\w+)`", level) for level in chain[1].split(" → ")]
    return drawn


def code_of(file):
    """Its lines without comments and texts, so that a name in them is no import."""
    text = file.read_text()
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:[^"\\]|\\.)*"', blank, text, flags=re.S)


def imports(file):
    """Each `crate::room` of a file with its line; of `use crate::{a::…, b}` every name at the first level."""
    text = code_of(file)
    for match in re.finditer(r"\bcrate::(?:(\w+)|\{)", text):
        line = text.count("\n", 0, match.start()) + 1
        if match[1]:
            yield line, match[1]
            continue
        depth, at, name = 1, match.end(), True
        while depth:
            word = re.compile(r"\w+|.", re.S).match(text, at)
            if word[0] == "{":
                depth += 1
            elif word[0] == "}":
                depth -= 1
            elif word[0] == ",":
                name = depth == 1
            elif name and depth == 1 and word[0].isidentifier():
                yield text.count("\n", 0, at) + 1, word[0]
                name = False
            at = word.end()


def room_of(crate, file):
    return file.relative_to(ROOT / crate / "src").parts[0].removesuffix(".rs")


def exported(crate):
    """Names at the root of a crate, and the rooms they come from."""
    text = code_of(ROOT / crate / "src/lib.rs")
    found = {name: room for name, room in re.findall(r"\bstatic (\w+): (\w+)::", text)}
    for room, names in re.findall(r"\bpub use (\w+)::(\{[^}]*\}|\w+);", text):
        found |= dict.fromkeys(re.findall(r"\w+", names), room)
    return found


@pytest.mark.parametrize("crate", ["host", "device"])
def test_every_room_has_its_place_in_the_map(crate):
    placed = {room for level in arrows()[crate] for room in level} | ENTRY[crate] | SHARED_BY_ALL[crate]
    there = {path.name.removesuffix(".rs") for path in (ROOT / crate / "src").iterdir()}
    assert there - placed == set(), f"{crate}: ARCHITECTURE.md draws no arrow to or from these rooms"
    assert placed - there == set(), f"{crate}: ARCHITECTURE.md draws rooms that are not there"


@pytest.mark.parametrize("crate", ["host", "device"])
def test_imports_go_down_the_rooms(crate):
    height = {room: -at for at, level in enumerate(arrows()[crate]) for room in level}
    root = exported(crate)
    wrong = []
    for file in sorted((ROOT / crate / "src").rglob("*.rs")):
        room = room_of(crate, file)
        if room in ENTRY[crate]:
            continue
        for line, other in imports(file):
            other = root.get(other, other)
            if other in {room, OF_TESTS} | SHARED_BY_ALL[crate]:
                continue
            if room in SHARED_BY_ALL[crate] or other not in height or height[other] >= height[room]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {room} uses {other}")
    assert not wrong, "imports that do not go down:\n" + "\n".join(wrong)


def test_crates_know_those_below_them():
    wrong = []
    for crate, below in KNOWS.items():
        others = {name for other, name in CRATES.items() if other not in below | {crate}}
        for file in sorted((ROOT / crate / "src").rglob("*.rs")):
            for number, line in enumerate(code_of(file).splitlines(), 1):
                wrong += [f"{file.relative_to(ROOT)}:{number}: {name}" for name in others if re.search(rf"\b{name}::", line)]
    assert not wrong, "\n".join(wrong)


def test_the_device_program_is_built_of_few_crates():
    """No host, no clap, no ONNX importer, no network; in the lean program no tokenizer either."""
    tree = ["cargo", "tree", "--locked", "-p", "thimble-device", "-e", "normal", "--prefix", "none", "--format", "{p}"]

    def crates_of(*features):
        done = subprocess.run([*tree, *features], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}

    usual = crates_of()
    assert "thimble-text" in usual, "text is the default"
    refused = {"thimble", "clap", "tract-onnx", "safetensors", "toml", "flate2", "tempfile", "reqwest", "rustls", "hf-hub"}
    assert not usual & refused, f"in the device program: {', '.join(sorted(usual & refused))}"
    crates = crates_of("--no-default-features")
    assert {"thimble-device", "thimble-shared", "tract-core", "lexopt"} <= crates
    banned = {"thimble", "thimble-text", "clap", "tokenizers", "tract-onnx", "safetensors", "regex", "toml", "flate2", "tempfile"}
    banned |= {"tokio", "hyper", "reqwest", "rustls", "openssl", "ureq"}
    assert not crates & banned, f"in the lean device program: {', '.join(sorted(crates & banned))}"


def test_fuzz_targets_and_wheel_share_what_the_workspace_compiled():
    """A crate with other features is another crate, and so is all that depends on it: of tract that is minutes."""
    tree = ["cargo", "tree", "--locked", "-e", "normal,build", "--prefix", "none", "--format", "{p} [{f}]"]

    def crates_of(*selected):
        done = subprocess.run([*tree, *selected], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return {line.removesuffix(" (*)") for line in done.stdout.splitlines() if line.strip()}

    whole = crates_of("--workspace")
    fuzz = crates_of("--workspace", "--features", "thimble-fuzz/libfuzzer") - whole
    assert {line.split()[0] for line in fuzz} == {"arbitrary", "libfuzzer-sys", "thimble-fuzz"}, "\n".join(sorted(fuzz))
    wheel = crates_of("-p", "thimble-python") - whole
    assert not wheel, "\n".join(sorted(wheel))
