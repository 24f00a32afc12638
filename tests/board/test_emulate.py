"""`thimble emulate`: what a real kernel counts on a virtual board."""

import json
import os
import shutil
import signal
import stat
import subprocess
import time

import pytest
from conftest import BIN, DEVICE, ROOT, thimble

MIB = 1 << 20


def emulate(file, *args, code=0, **kw):
    told = thimble("emulate", file, "--device-program", DEVICE, "--json", *args, code=code, **kw)
    return json.loads(told.stdout)


@pytest.mark.parametrize("storage", ["disk", "initramfs"])
def test_memory_is_counted_and_time_is_not(model, storage, tmp_path):
    out = tmp_path / "report.json"
    # Blanks, commas and question marks mean something to qemu and mke2fs.
    odd = tmp_path / "a b,readonly=off?c"
    odd.mkdir()
    file = shutil.copy(model, odd / "d, e.onnx")
    told = emulate(file, "--target", "pi-5", "--ram", "256MiB", "--seq", 8, "--storage", storage, "-o", out,
                   env={**os.environ, "TMPDIR": str(odd)})  # fmt: skip
    report = told["report"]
    assert told["fits"] and told["shortage"] is None and told["storage"] == storage
    assert report == json.loads(out.read_text())
    assert report["board"]["cpu_part"] == "0xd0b" and "asimddp" in report["board"]["features"]
    assert report["board"]["mem_total"] < 256 * MIB and report["board"]["emulated"] == "qemu-system"
    assert report["load_ms"] is None and report["latency_ms"]["p50"] is None and report["latency_ms"]["samples"] == []
    memory = report["memory"]
    assert 0 < memory["anon"] + memory["file"] <= memory["peak_rss"] < 30 * MIB
    # The kernel here has 4 KiB pages, a Pi 5 has 16: said, not hidden.
    assert any("16.0 KiB" in line for line in told["not_shown"])


def test_too_little_ram_is_a_clear_no_with_what_it_wanted(model, tmp_path):
    out = tmp_path / "report.json"
    told = emulate(model, "--target", "pi-zero-2w", "--ram", "44MiB", "--seq", 8, "-o", out, code=1)
    assert told["fits"] is False and told["shortage"]["kernel_said"]
    assert told["wanted"] > 0, "measured where there is enough"
    assert told["report"] is None and not out.exists(), "there is no report of a board it does not fit"


def test_a_limit_that_does_not_hold_is_a_no(model):
    told = emulate(model, "--target", "pi-4", "--ram", "256MiB", "--seq", 8, "--max-ram", "1MiB", code=1)
    assert told["shortage"] is None and "--max-ram" in told["report"]["verdict"]["reasons"][0]


def test_albert_base_runs_in_96_mib_kernel_included(albert_base):
    albert_base = albert_base("int8")
    told = emulate(albert_base, "--target", "pi-zero-2w", "--ram", "96MiB", "--seq", 128)
    memory = told["report"]["memory"]
    assert told["fits"] and memory["peak_rss"] < 24 * MIB
    # The prediction that deploy and targets go by.
    need = json.loads(thimble("targets", "--json").stdout)["albert_base_int8"]
    # A bench has ids, and opens no tokenizer.
    del need["tokenizer"]
    assert 1 <= sum(need.values()) / memory["peak_rss"] <= 1.1, (need, memory)


def test_the_least_ram_is_found_and_the_report_is_of_the_board_that_was_asked_for(model):
    told = emulate(model, "--target", "pi-zero-2w", "--ram", "128MiB", "--seq", 8, "--find-min-ram")
    ran, failed = ([b["ram"] for b in told["boots"] if b["fits"] is fits] for fits in (True, False))
    assert told["least_ram"] == min(ran) < 72 * MIB and max(failed) == told["least_ram"] - 2 * MIB
    assert told["ram"] == 128 * MIB and 90 * MIB < told["report"]["board"]["mem_total"] < 128 * MIB


def test_errors_name_what_to_do(model, tmp_path):
    for args, part in [
        (["--target", "pi-9"], "pi-zero-2w"),
        (["--target", "pi-4", "--seq", "100000"], "--seq 100000"),
        (["--target", "pi-4", "--kernel", model], "arm64 kernel"),
        (["--target", "pi-4", "--device-program", BIN / "thimble"], "cross-build"),
    ]:
        named = [] if "--device-program" in args else ["--device-program", DEVICE]
        done = thimble("emulate", model, *args, *named, code=2)
        assert part in done.stderr, done.stderr
    mine = tmp_path / "mine.toml"
    text = shutil.copy(ROOT / "targets/pi-4.toml", mine).read_text()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for args, part in [
        (["--target", mine, "-o", mine], "is an input"),
        (["--target", "pi-4", "-o", model.with_name("deb.tokenizer.json")], "is an input"),
        (["--target", "pi-4", "--kernel", pipe], "no regular file"),
        (["--target", "pi-4", "--device-program", pipe], "no regular file"),
    ]:
        named = [] if "--device-program" in args else ["--device-program", DEVICE]
        assert part in thimble("emulate", model, *args, *named, code=2).stderr
    assert mine.read_text() == text
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"no model")
    assert "junk.onnx" in thimble("emulate", junk, "--target", "pi-4", code=2).stderr


@pytest.mark.parametrize("storage", ["disk", "initramfs"])
def test_gnu_cpio_unpacks_what_the_kernel_is_given(model, storage, tmp_path):
    """In qemu's place stands a script that keeps the initramfs: our cpio writer before GNU cpio."""
    kept, bin_ = tmp_path / "initramfs", tmp_path / "bin"
    bin_.mkdir()
    fake = bin_ / "qemu-system-aarch64"
    fake.write_text(f'#!/bin/sh\nwhile [ "$1" != -initrd ]; do shift; done\ncp "$2" "{kept}"\n')
    fake.chmod(0o755)
    path = f"{bin_}:{os.environ['PATH']}"
    thimble("emulate", model, "--target", "pi-4", "--device-program", DEVICE, "--storage", storage, code=2,
            env={**os.environ, "PATH": path})  # fmt: skip
    archive = kept.read_bytes()
    listed = subprocess.run(["cpio", "-it", "--quiet"], input=archive, capture_output=True, check=True)
    assert not listed.stderr, "GNU cpio has nothing to say against it"
    names = listed.stdout.decode().splitlines()
    assert len(names) == len(set(names)) and {"init", "thimble-device", "dev/console", "thimble/arguments"} <= set(names)
    out = tmp_path / "out"
    out.mkdir()
    # Device nodes are root's to make.
    wanted = [] if os.geteuid() == 0 else ["[!d]*", "d[!e]*"]
    done = subprocess.run(["cpio", "-idm", "--quiet", *wanted], input=archive, cwd=out, capture_output=True, check=True)
    assert not done.stderr
    program = out / "thimble-device"
    assert program.read_bytes() == DEVICE.read_bytes() and program.stat().st_mode & 0o777 == 0o755
    assert os.readlink(out / "init") == "thimble-device"
    if storage == "initramfs":
        assert (out / "model/deb.onnx").read_bytes() == model.read_bytes()
    else:
        loaded = (out / "thimble/modules").read_text().split()
        assert loaded and all((out / name.lstrip("/")).stat().st_size > 0 for name in loaded)
    if os.geteuid() == 0:
        console = (out / "dev/console").stat()
        assert stat.S_ISCHR(console.st_mode) and (os.major(console.st_rdev), os.minor(console.st_rdev)) == (5, 1)
    # The kernel wants names relative, so that nothing lands outside; and the same input gives the same bytes.
    assert not [name for name in names if name.startswith("/") or ".." in name.split("/")]


@pytest.mark.parametrize(
    "script,part",
    [
        ("exit 0", "does not start on the virtual board"),
        ("echo Kernel panic - not syncing: no init", "no init"),
        ("echo \"$0: cannot set up guest memory: Cannot allocate memory\" >&2; exit 1", "guest memory"),
        ("kill -9 $$", "this machine has too little memory"),
    ],
    ids=["silent", "panic", "no-memory", "killed"],
)
def test_what_befalls_the_emulator_is_an_error_not_a_no(model, script, part, tmp_path):
    fake = tmp_path / "qemu-system-aarch64"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    done = thimble("emulate", model, "--target", "pi-4", "--ram", "64MiB", "--device-program", DEVICE, "--find-min-ram",
                   code=2, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})  # fmt: skip
    assert part in done.stderr and "fit" not in done.stdout, done.stderr


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_emulate_ends_the_emulator(model, way, tmp_path):
    fake, told, temporary = tmp_path / "qemu-system-aarch64", tmp_path / "told", tmp_path / "tmp"
    temporary.mkdir()
    fake.write_text(f'#!/bin/sh\necho $$ > "{told}.part" && mv "{told}.part" "{told}"\nexec sleep 300\n')
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    args = ["emulate", model, "--target", "pi-4", "--device-program", DEVICE]
    running = subprocess.Popen([BIN / "thimble", *map(str, args)], env=env, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    emulator = int(told.read_text())
    running.send_signal(way)
    assert running.wait(20) == -way
    # Its process may still wait for somebody to ask how it ended.
    gone = lambda: not os.path.exists(f"/proc/{emulator}") or ") Z " in open(f"/proc/{emulator}/stat").read()  # noqa: E731
    while not gone() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone()
    if way == signal.SIGTERM:
        assert os.listdir(temporary) == []


def test_kernels_are_known_by_what_they_are(model, tmp_path):
    """Packages of one name, in a cache that remembers; in qemu's place stands a program that says nothing."""
    fake = tmp_path / "qemu-system-aarch64"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "THIMBLE_CACHE": str(tmp_path / "cache")}
    for version, magic, part in [
        ("1", b"ARM\x64", "vmlinuz-1 does not start"),
        ("2", b"ARM\x64", "vmlinuz-2 does not start"),
        ("1", b"ARM\x64", "vmlinuz-1 does not start"),
        ("3", b"x86!", "holds no arm64 kernel"),
    ]:
        tree = tmp_path / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "boot").mkdir(parents=True)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            f"Package: k\nVersion: {version}\nArchitecture: arm64\nMaintainer: T <t@example.org>\nDescription: k\n"
        )
        (tree / f"boot/vmlinuz-{version}").write_bytes(bytes(56) + magic + bytes(4))
        # The same package twice, whatever the clock says.
        build = ["dpkg-deb", "-b", tree, tmp_path / "linux-image_6.1.90.deb"]
        subprocess.run(build, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1"})
        done = thimble("emulate", model, "--target", "pi-4", "--kernel", tmp_path / "linux-image_6.1.90.deb",
                       "--device-program", DEVICE, code=2, env=env)  # fmt: skip
        assert part in done.stderr, done.stderr
    # The fourth is there too, unpacked and of no use; nothing is half there.
    assert len(os.listdir(tmp_path / "cache")) == 3


@pytest.mark.parametrize("ram", ["30MiB", "40MiB", "42MiB"])
def test_a_kernel_that_cannot_even_boot_says_so_soon(model, ram, tmp_path):
    begin = time.monotonic()
    bigger = tmp_path / "small.toml"
    text = (ROOT / "targets/pi-zero-2w.toml").read_text().splitlines()
    # A board of so little RAM: only a kernel that does not say why it stops is booted with more.
    text = [line for line in text if not line.startswith(("ram_", "name"))]
    size = int(ram.removesuffix("MiB")) * MIB
    figure = f'ram_total = {{ value = {size}, source = "made up", confidence = "unverified" }}'
    bigger.write_text("\n".join([*text[:1], 'name = "small"', *text[1:], figure]) + "\n")
    told = emulate(model, "--target", bigger, "--seq", 8, code=1)
    assert told["shortage"]["during"] == "boot" and told["shortage"]["kernel_said"], told
    assert time.monotonic() - begin < 50, "sooner than a minute of silence"
