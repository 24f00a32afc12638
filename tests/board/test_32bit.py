"""Boards with a system of 32 bits: which program they get, and that it runs there: a virtual Cortex-A7 with Debian's kernel of 32 bits,
and a system of 32 bits on a 64-bit kernel."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from conftest import BIN, DEVICE, thimble, with_devices

DEVICE_ARMV7 = Path(os.environ["THIMBLE_DEVICE_ARMV7"])
BOTH = (("thimble-device-aarch64", DEVICE), ("thimble-device-armv7", DEVICE_ARMV7))

MIB = 1 << 20
MAINTAINER = "Test <test@example.org>"


def sent(*files):
    return sum(file.stat().st_size for file in files)


def test_a_board_of_32_bits_is_measured_and_asked_again(board32, model, tmp_path):
    env = with_devices(tmp_path, *BOTH)
    first, done = board32.deploy(model, "--dir", "/root/first", target="pi-2b", program=None, env=env)
    assert first["sent"] == sent(DEVICE_ARMV7, model, model.with_name("deb.tokenizer.json"))
    assert "thimble-device-armv7" in done.stderr and "aarch64" not in done.stderr, done.stderr
    report = first["report"]
    assert report["board"]["cpu_part"] == "0xc07" and report["board"]["emulated"] == "qemu-system"
    assert "neon" in report["board"]["features"] and not any("lacks" in line for line in first["against_target"])
    assert report["memory"]["peak_rss"] > report["memory"]["anon"] > 0
    assert board32.deploy(model, "--dir", "/root/first", target="pi-2b", program=None, env=env)[0]["sent"] == 0
    # It answers there what it answers here; the last digit is another kernel's.
    text = "Perl module to parse ISO 8601 dates"
    there = board32.run(f"cd /root/first && ./thimble-device run deb.onnx --text '{text}'").split()
    here = thimble("run", model, "--text", text).stdout.split()
    assert there[0] == here[0] == "perl" and abs(float(there[1]) - float(here[1])) < 0.1, (there, here)


def test_the_program_that_is_named_must_start_there(board32, model):
    told, done = board32.deploy(model, "--dir", "/root/other", target="pi-2b", code=1)
    assert "the board runs armv7 (32-bit ARM)" in told["reason"] and "is for aarch64" in told["reason"], told
    assert "\n" not in told["reason"] and "No such file" in board32.run("ls /root/other 2>&1; true")


def test_a_program_that_is_missing_is_told_with_what_builds_it(board32, model, tmp_path):
    # A thimble that has no target directory around it, where the missing one may lie.
    own = shutil.copy(BIN / "thimble", tmp_path)
    done = subprocess.run(
        [own, "deploy", model, "--target", "pi-2b", "--to", "board", "--ssh-config", board32.config, "--dir", "/root/other"],
        env=with_devices(tmp_path, BOTH[0]), cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "no device program for armv7 (32-bit ARM)" in done.stderr, done.stderr
    assert "scripts/cross-build --target armv7-unknown-linux-gnueabihf --install" in done.stderr
    assert "No such file" in board32.run("ls /root/other 2>&1; true")


def test_a_system_of_32_bits_on_a_64_bit_kernel_gets_its_own_program_or_the_other(mixed_board, model, tmp_path):
    board = mixed_board
    assert board.run("uname -m").strip() == "aarch64"
    told, done = board.deploy(model, "--dir", "/root/own", target="pi-4", program=None, env=with_devices(tmp_path, *BOTH))
    assert told["sent"] == sent(DEVICE_ARMV7, model, model.with_name("deb.tokenizer.json"))
    assert "it runs armv7 (32-bit ARM), and gets the program for it" in done.stderr, done.stderr
    # Named, the program for the kernel runs as well; both give the same model's report.
    other, _ = board.deploy(model, "--dir", "/root/other", target="pi-4")
    assert other["sent"] == sent(DEVICE, model, model.with_name("deb.tokenizer.json"))
    assert other["report"]["model"] == told["report"]["model"]


def test_a_board_of_32_bits_is_emulated(model, albert_base, tmp_path):
    out = tmp_path / "report.json"
    named = ["--device-program", DEVICE_ARMV7, "--json"]
    told = json.loads(thimble("emulate", model, "--target", "pi-2b", "--ram", "128MiB", "--seq", 8, "-o", out, *named).stdout)
    report = told["report"]
    assert told["fits"] and told["storage"] == "disk" and report == json.loads(out.read_text())
    assert report["board"]["cpu_part"] == "0xc07" and report["board"]["mem_total"] < 128 * MIB
    for ram, code, part in [("4GiB", 2, "to 3.0 GiB"), ("20MiB", 1, "")]:
        done = thimble("emulate", model, "--target", "pi-2b", "--ram", ram, "--seq", 8, *named, code=code)
        assert part in done.stderr, done.stderr
    # The prediction that deploy and targets go by.
    told = json.loads(thimble("emulate", albert_base("int8"), "--target", "pi-2b", "--ram", "128MiB", "--seq", 128, *named).stdout)
    memory = told["report"]["memory"]
    predicted = {name: part for name, part in memory["predicted"].items() if name != "tokenizer"}
    assert 1 <= sum(predicted.values()) / memory["peak_rss"] <= 1.1, memory


def test_emulate_takes_the_program_and_the_kernel_of_the_target(model, tmp_path):
    done = thimble("emulate", model, "--target", "pi-2b", "--device-program", DEVICE, code=2)
    assert "is a program for aarch64 (64-bit ARM), not for armv7" in done.stderr and "cross-build --target armv7-" in done.stderr
    image = tmp_path / "vmlinuz-1"
    image.write_bytes(bytes(56) + b"ARM\x64" + bytes(4))
    done = thimble("emulate", model, "--target", "pi-2b", "--kernel", image, "--device-program", DEVICE_ARMV7, code=2)
    assert "is not an armhf kernel image" in done.stderr


def field(package, name):
    return subprocess.check_output(["dpkg-deb", "-f", package, name], text=True).strip()


def test_a_package_is_for_the_architecture_that_is_named(model, tmp_path):
    env = with_devices(tmp_path, *BOTH)
    for options, debian, program in [
        ([], "arm64", DEVICE),
        (["--architecture", "arm64"], "arm64", DEVICE),
        (["--architecture", "armhf"], "armhf", DEVICE_ARMV7),
        (["--device-program", DEVICE_ARMV7], "armhf", DEVICE_ARMV7),
    ]:
        out, tree = tmp_path / "model.deb", tmp_path / f"tree-{debian}"
        thimble("package", model, "-o", out, "--maintainer", MAINTAINER, *options, env=env)
        assert field(out, "Architecture") == debian
        subprocess.run(["dpkg-deb", "-x", out, tree], check=True)
        assert (tree / "usr/bin/thimble-device").read_bytes() == program.read_bytes()
    named = ["--device-program", DEVICE, "--architecture", "armhf"]
    done = thimble("package", model, "-o", out, "--maintainer", MAINTAINER, *named, code=2)
    assert "is a program for aarch64 (64-bit ARM), not for armv7" in done.stderr, done.stderr
    done = thimble("package", model, "-o", out, "--maintainer", MAINTAINER, "--architecture", "amd64", code=2)
    assert "arm64 (64-bit ARM) or armhf (32-bit ARM)" in done.stderr, done.stderr


def test_lintian_and_dpkg_take_the_package_of_32_bits_where_it_belongs(model, tmp_path):
    out = tmp_path / "thimble-model_0.1.0_armhf.deb"
    thimble("package", model, "-o", out, "--device-program", DEVICE_ARMV7, "--maintainer", MAINTAINER, "--measure")
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", out], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout
    for architecture, code in [("armhf", 0), ("arm64", 1)]:
        root = tmp_path / architecture
        for directory in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "usr", "etc"):
            (root / directory).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        (root / "var/lib/dpkg/arch").write_text(f"{architecture}\n")
        # This machine's own architecture is dpkg's; of the foreign ones the root takes those that it lists.
        dpkg = ["dpkg", "--root", root, "--force-script-chrootless", "--force-not-root"]
        done = subprocess.run([*dpkg, "-i", out], capture_output=True, text=True)
        assert (done.returncode != 0) == bool(code), done.stderr
        assert code == 0 or "package architecture (armhf) does not match system" in done.stderr
    # What dpkg cannot tell apart: Raspberry Pi OS has packages of that name on an ARM before version 7, too.
    control = tmp_path / "control"
    subprocess.run(["dpkg-deb", "-e", out, control], check=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    for machine, code in [("armv6l", 1), ("armv7l", 0), ("aarch64", 0)]:
        (tools / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
        (tools / "uname").chmod(0o755)
        done = subprocess.run(["/bin/sh", control / "preinst", "install"], env={"PATH": str(tools)}, capture_output=True, text=True)
        assert done.returncode == code and len(done.stderr.splitlines()) == code, done.stderr
        assert code == 0 or "this board is armv6l" in done.stderr


def root_of(path, shell):
    (path / "etc").mkdir(parents=True)
    (path / "etc/os-release").touch()
    (path / "bin").mkdir()
    # The device program is the only program for that architecture at hand, so it plays the shell.
    (path / "bin/sh").write_bytes(shell.read_bytes())
    return path


def test_a_mounted_root_gets_the_program_for_its_shell(model, tmp_path):
    env = with_devices(tmp_path, *BOTH)
    for name, program in BOTH:
        root = root_of(tmp_path / name, program)
        thimble("install", model, "--rootfs", root, "--target", "pi-zero-2w", env=env)
        assert (root / "usr/bin/thimble-device").read_bytes() == program.read_bytes()
    root = root_of(tmp_path / "named", DEVICE_ARMV7)
    done = thimble("install", model, "--rootfs", root, "--target", "pi-2b", "--device-program", DEVICE, code=1)
    assert "the system there runs armv7 (32-bit ARM)" in done.stdout and len(done.stdout.splitlines()) == 1, done.stdout
    assert not (root / "usr").exists()
    # Without a shell that tells, the target does.
    bare = tmp_path / "bare"
    (bare / "etc").mkdir(parents=True)
    (bare / "etc/os-release").touch()
    thimble("install", model, "--rootfs", bare, "--target", "pi-2b", env=env)
    assert (bare / "usr/bin/thimble-device").read_bytes() == DEVICE_ARMV7.read_bytes()
