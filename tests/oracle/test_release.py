"""What a release packs, with the programs of this build: unpacked or installed in another place, thimble finds the board's program, and
shells and man find their files. The judges: dpkg-deb, sha256sum, bash and tar.
"""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile

import pytest

from bench import ROOT

# pack-release writes for Debian, and strips nothing: a development build is large.
pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("dpkg-deb", "strip"))) or os.uname().machine != "x86_64", reason="packs for x86_64, with dpkg-deb"
)
TARGET = "x86_64-unknown-linux-musl"
VERSION = next(line.split('"')[1] for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version"))


@pytest.fixture(scope="module")
def packed(thimble, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    programs = {"thimble": thimble.host, "thimble-device": thimble.device}
    for name, program in programs.items():
        subprocess.run(["strip", "-o", folder / name, program], check=True)
    # The heads of programs for 64-bit and 32-bit ARM, as much as thimble looks at.
    boards = {"board": (2, 183), "board32": (1, 40)}
    for name, (bits, machine) in boards.items():
        head = b"\x7fELF" + bytes([bits, 1, 1])
        (folder / name).write_bytes(head.ljust(16, b"\0") + struct.pack("<HH", 2, machine) + bytes(44))
    command = [ROOT / "scripts/pack-release", TARGET, folder / "out", *(folder / name for name in (*programs, *boards))]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [path.rsplit("/", 1)[1] for path in told] == [f"thimble-{VERSION}-{TARGET}.tar.gz", f"thimble_{VERSION}_amd64.deb"]
    return folder / "out"


def unpacked(packed, place, kind):
    """The folder that holds bin, lib and share."""
    if kind == "deb":
        subprocess.run(["dpkg-deb", "-x", next(packed.glob("*.deb")), place], check=True)
        return place / "usr"
    with tarfile.open(next(packed.glob("*.tar.gz"))) as archive:
        archive.extractall(place, filter="data")
    return place / f"thimble-{VERSION}-{TARGET}"


def test_checksums_hold(packed):
    sums = sorted(path.name for path in packed.glob("*.sha256"))
    assert len(sums) == 2
    subprocess.run(["sha256sum", "--check", "--strict", *sums], cwd=packed, check=True)


@pytest.mark.parametrize("kind", ["tar", "deb"])
def test_every_command_works_from_anywhere(packed, tmp_path, kind):
    root = unpacked(packed, tmp_path / "place", kind)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {"PATH": f"{root / 'bin'}:/usr/bin:/bin", "HOME": str(elsewhere)}

    def run(*command):
        return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)

    doctor = json.loads(run("thimble", "doctor", "--json").stdout)
    assert doctor["device_program"] == str(root / "lib/thimble/thimble-device-aarch64")
    assert run("thimble", "export", ROOT / "tests/fixtures/albert-seq-tiny", "-o", "m.onnx").returncode == 0
    done = run("thimble", "package", "m.onnx", "-o", "board.deb", "--maintainer", "Jo Doe <jo@example.org>")
    assert done.returncode == 0 and "lib/thimble/thimble-device-aarch64 (beside thimble)" in done.stderr, done.stderr
    listed = run("thimble", "help").stdout.split("Commands:")[1].split("Options:")[0]
    commands = re.findall(r"^  (\w+) ", listed, re.MULTILINE)
    pages = {path.name.removesuffix(".gz") for path in (root / "share/man/man1").iterdir()}
    assert pages == {"thimble.1", *(f"thimble-{name}.1" for name in commands if name != "help")}
    complete = f"source {root}/share/bash-completion/completions/thimble; COMP_WORDS=(thimble shr); COMP_CWORD=1; _thimble thimble shr thimble; echo ${{COMPREPLY[@]}}"
    assert run("bash", "-c", complete).stdout.split() == ["shrink"]
    for path in ("zsh/vendor-completions/_thimble", "fish/vendor_completions.d/thimble.fish"):
        assert (root / "share" / path).stat().st_size > 1000
    assert (root / "lib/thimble/thimble-device-armv7").read_bytes()[4] == 1
    assert (root / "bin/thimble-device").exists() == (kind == "tar")


def test_the_debian_package_says_what_it_is(packed, tmp_path):
    deb = next(packed.glob("*.deb"))
    fields = dict(
        line.split(": ", 1)
        for line in subprocess.run(["dpkg-deb", "-f", deb], check=True, capture_output=True, text=True).stdout.splitlines()
        if line[0] != " "
    )
    assert (fields["Package"], fields["Version"], fields["Architecture"]) == ("thimble", VERSION, "amd64")
    # Files of a board's package are not in it.
    listed = subprocess.run(["dpkg-deb", "-c", deb], check=True, capture_output=True, text=True).stdout
    assert "root/root" in listed and "usr/bin/thimble\n" in listed and "usr/bin/thimble-device" not in listed
    root = unpacked(packed, tmp_path / "place", "deb")
    subprocess.run(["dpkg-deb", "-e", deb, tmp_path / "control"], check=True)
    subprocess.run(["md5sum", "--check", "--quiet", tmp_path / "control/md5sums"], cwd=root.parent, check=True)
    assert gzip.decompress((root / "share/doc/thimble/changelog.gz").read_bytes()) == (ROOT / "CHANGELOG.md").read_bytes()


def test_wrong_words_are_refused(tmp_path):
    for words, want in (([], "are needed"), (["riscv64", tmp_path, *["/bin/true"] * 4], "no target 'riscv64'")):
        done = subprocess.run([ROOT / "scripts/pack-release", *words], capture_output=True, text=True)
        assert done.returncode == 2 and want in done.stderr


def test_crates_hold_what_they_compile(tmp_path):
    """`cargo install` compiles a crate alone: what it takes from beside its folder must be packed with it."""
    command = ["cargo", "package", "-p", "thimble", "--list", "--allow-dirty", "--offline"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    boards = {f"targets/{path.name}" for path in (ROOT / "targets").glob("*.toml")}
    assert boards and boards <= set(listed) and "LICENSE-MIT" in listed
