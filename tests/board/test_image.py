"""`thimble install --image`: a raw SD-card image made with sfdisk and mke2fs, judged by e2fsck, debugfs and, where this
system lets us, the kernel's own mount."""

import hashlib
import os
import random
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import BIN, DEVICE, thimble

SECTOR = 512
# Start and sectors of a boot partition and a root partition.
BOOT, ROOT = (2048, 8192), (16384, 81920)
UNIT = "thimble.service"
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def tool(*args, **kw):
    kw = {"check": True, **kw}
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, env={**os.environ, "PATH": PATH}, **kw)


def debugfs(image, command, offset=ROOT[0] * SECTOR):
    return tool("debugfs", "-R", command, f"{image}?offset={offset}").stdout


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A small arm64 root: the device program is the only aarch64 program at hand, so it plays the shell."""
    tree = tmp_path_factory.mktemp("tree")
    for directory in ("usr/bin", "usr/share", "etc/systemd/system/multi-user.target.wants", "usr/lib/systemd/system", "boot"):
        (tree / directory).mkdir(parents=True)
    (tree / "bin").symlink_to("/usr/bin")
    (tree / "usr/bin/sh").symlink_to("dash")
    (tree / "usr/bin/dash").write_bytes(DEVICE.read_bytes())
    (tree / "etc/os-release").write_text("ID=raspbian\n")
    # A directory of many files: its index must survive.
    for number in range(400):
        (tree / f"usr/lib/systemd/system/a-unit-with-a-long-name-{number}.service").touch()
    return tree


def make(path, tree, table="dos", kind="ext4", spoil=None):
    system = path.with_suffix(".fs")
    tool("mke2fs", "-q", "-t", kind, "-E", "root_owner=0:0", "-d", tree, system, f"{ROOT[1] * SECTOR // 1024}k")
    if spoil:
        spoil(system)
    with path.open("wb") as out:
        out.truncate((ROOT[0] + ROOT[1] + 4096) * SECTOR)
    types = {"dos": ("c", "83"), "gpt": ("uefi", "linux")}[table]
    layout = f"label: {table}\nstart={BOOT[0]},size={BOOT[1]},type={types[0]}\nstart={ROOT[0]},size={ROOT[1]},type={types[1]}\n"
    tool("sfdisk", "-q", path, input=layout)
    tool("dd", f"if={system}", f"of={path}", f"bs={SECTOR}", f"seek={ROOT[0]}", "conv=notrunc,sparse", "status=none")
    system.unlink()
    return path


def install(model, image, *args, code=0):
    return thimble("install", model, "--image", image, "--target", "pi-4", "--device-program", DEVICE, *args, code=code)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def expected(model):
    return {
        "usr/bin/thimble-device": (DEVICE, 0o755),
        "usr/share/thimble/deb.onnx": (model, 0o644),
        "usr/share/thimble/deb.tokenizer.json": (model.with_name("deb.tokenizer.json"), 0o644),
    }


def check(image, model, tmp_path):
    """The partition, cut out with dd, in e2fsck's and debugfs's eyes."""
    alone = tmp_path / "alone"
    tool("dd", f"if={image}", f"of={alone}", f"bs={SECTOR}", f"skip={ROOT[0]}", f"count={ROOT[1]}", "conv=sparse", "status=none")
    sound = tool("e2fsck", "-fn", alone, check=False)
    assert sound.returncode == 0, sound.stdout
    for path, (source, mode) in expected(model).items():
        out = tmp_path / "out"
        tool("debugfs", "-R", f"dump /{path} {out}", alone)
        assert out.read_bytes() == source.read_bytes(), path
        stat = tool("debugfs", "-R", f"stat /{path}", alone).stdout
        assert re.search(rf"Type: regular +Mode: +0{mode:o} ", stat) and re.search(r"User: +0 +Group: +0 ", stat), stat
    for target, name in (("multi-user.target", UNIT), ("sockets.target", "thimble.socket")):
        link = tool("debugfs", "-R", f"stat /etc/systemd/system/{target}.wants/{name}", alone).stdout
        assert f'Fast link dest: "/usr/lib/systemd/system/{name}"' in link
    unit = tool("debugfs", "-R", f"cat /usr/lib/systemd/system/{UNIT}", alone).stdout
    assert "ExecStart=" in unit and "deb.onnx" in unit
    assert "ID=raspbian" in tool("debugfs", "-R", "cat /etc/os-release", alone).stdout
    listed = tool("debugfs", "-R", "ls -p /usr/lib/systemd/system", alone).stdout
    assert listed.count("a-unit-with-a-long-name") == 400
    return alone


def kernel_mounts(alone, model, at):
    """Where this system lets us."""
    at.mkdir()
    if tool("mount", "-o", "loop,ro", alone, at, check=False).returncode != 0:
        return
    try:
        for path, (source, mode) in expected(model).items():
            assert (at / path).read_bytes() == source.read_bytes() and (at / path).stat().st_mode & 0o777 == mode
    finally:
        tool("umount", at)


@pytest.mark.parametrize("table,kind", [("dos", "ext4"), ("gpt", "ext2")])
def test_an_image_gets_what_a_mounted_root_gets(model, tree, tmp_path, table, kind):
    image = make(tmp_path / "it's a card? 1.img", tree, table, kind)
    image.chmod(0o640)
    before = image.read_bytes()
    for _ in range(2):
        assert "into partition 2 of" in install(model, image).stdout
        alone = check(image, model, tmp_path)
    after = image.read_bytes()
    first, last = ROOT[0] * SECTOR, (ROOT[0] + ROOT[1]) * SECTOR
    assert (before[:first], before[last:]) == (after[:first], after[last:]), "only the partition has changed"
    assert image.stat().st_mode & 0o777 == 0o640 and not list(tmp_path.glob(".thimble*"))
    # The same files as a mounted root gets.
    root = tmp_path / "mounted"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").touch()
    thimble("install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE)
    unit = (root / f"usr/lib/systemd/system/{UNIT}").read_text()
    assert tool("debugfs", "-R", f"cat /usr/lib/systemd/system/{UNIT}", alone).stdout == unit
    kernel_mounts(alone, model, tmp_path / "mnt")
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and "systemd" not in str(p)}
    assert files == {*expected(model), "etc/os-release"}


def test_a_bare_file_system_is_an_image_too(model, tree, tmp_path):
    image = tmp_path / "root.ext4"
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, image, f"{ROOT[1] // 2}k")
    install(model, image)
    assert tool("e2fsck", "-fn", image, check=False).returncode == 0
    assert "deb.onnx" in tool("debugfs", "-R", "ls /usr/share/thimble", image).stdout


def foreign(machine, bits):
    def spoil(system):
        program = bytearray(DEVICE.read_bytes()[:64])
        program[4], program[18] = bits, machine
        (system.parent / "sh").write_bytes(program)
        script = system.parent / "script"
        script.write_text(f"cd /usr/bin\nrm dash\nwrite {system.parent}/sh dash\n")
        tool("debugfs", "-w", "-f", script, system)

    return spoil


def unclean(file):
    """At its place in an open image."""
    file.seek(1024 + 58, os.SEEK_CUR)
    file.write(b"\0\0")


def unclean_system(system):
    with system.open("r+b") as file:
        unclean(file)


def damaged(system):
    """The root directory's link count is wrong: only e2fsck sees that."""
    tool("debugfs", "-w", "-R", "sif / links_count 77", system)


def full(system):
    filler = system.parent / "filler"
    filler.write_bytes(random.Random(1).randbytes(23 << 20))
    tool("debugfs", "-w", "-R", f"write {filler} filler", system)


def link_in_the_way(system):
    tool("debugfs", "-w", "-R", "symlink /usr/share/thimble /etc", system)


@pytest.mark.parametrize(
    "spoil,code,part",
    [
        (foreign(40, 1), 1, "32-bit ARM"),
        (foreign(62, 2), 1, "x86-64"),
        (lambda s: tool("debugfs", "-w", "-R", "rm /usr/bin/dash", s), 2, "/bin/sh"),
        (lambda s: tool("debugfs", "-w", "-R", "rm /etc/os-release", s), 2, "os-release"),
        (full, 1, "free"),
        (unclean_system, 2, "cleanly"),
        (damaged, 2, "e2fsck"),
        (link_in_the_way, 1, "symlink"),
    ],
    ids=["arm32", "x86", "no-shell", "no-root", "full", "unclean", "damaged", "link"],
)
def test_what_does_not_fit_is_refused_and_the_image_untouched(model, tree, tmp_path, spoil, code, part):
    image = make(tmp_path / "card.img", tree, spoil=spoil)
    before = digest(image)
    done = install(model, image, code=code)
    told = done.stdout if code == 1 else done.stderr
    assert part in told and len(told.strip().splitlines()) == 1, told
    assert digest(image) == before and not list(tmp_path.glob(".thimble*"))


def test_partitions_are_named_and_hostile_images_are_one_error(model, tree, tmp_path):
    image = make(tmp_path / "card.img", tree)
    for args, part in [(("--partition", 7), "it has 1, 2"), (("--partition", 1), "no ext4")]:
        assert part in install(model, image, *args, code=2).stderr
    assert "partition 2" in install(model, image, "--partition", 2).stdout
    whole = image.read_bytes()
    for name, data, part in [
        ("cut.img", whole[: ROOT[0] * SECTOR + 9000], "is it whole"),
        ("no-table.img", b"\0" * 70000, "no partition table"),
        ("empty.img", b"", "no partition table"),
        ("card.img.xz", b"\xfd7zXZ\0" + whole[:5000], "xz -dk"),
        ("card.img.gz", b"\x1f\x8b" + whole[:5000], "gzip -dk"),
    ]:
        bad = tmp_path / name
        bad.write_bytes(data)
        told = install(model, bad, code=2).stderr
        assert part in told and name in told and len(told.strip().splitlines()) == 1, told
        assert bad.read_bytes() == data
    assert "os-release" in thimble("install", model, "--rootfs", tmp_path, "--target", "pi-4", "--device-program", DEVICE, code=2).stderr
    assert "regular file" in install(model, tmp_path, code=2).stderr
    thimble("install", model, "--rootfs", tmp_path, "--image", image, "--target", "pi-4", code=2)
    thimble("install", model, "--target", "pi-4", code=2)


def test_two_installs_at_once_are_both_in_the_image(model, tree, tmp_path):
    image = make(tmp_path / "card.img", tree)
    second = tmp_path / "second.onnx"
    second.write_bytes(model.read_bytes())
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda file: install(file, image), (model, second)))
    listed = debugfs(image, "ls /usr/share/thimble")
    assert "deb.onnx" in listed and "second.onnx" in listed, listed
    assert all("into partition 2" in done.stdout for done in told)
    assert not list(tmp_path.glob(".thimble*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_image_stays_its_owners(model, tree, tmp_path):
    image = make(tmp_path / "card.img", tree)
    os.chown(image, 1234, 5678)
    image.chmod(0o660)
    install(model, image)
    stat = image.stat()
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o777) == (1234, 5678, 0o660)


def test_a_masked_unit_stays_masked_and_it_is_said(model, tree, tmp_path):
    mask = f"etc/systemd/system/{UNIT}"
    image = make(tmp_path / "card.img", tree, spoil=lambda s: tool("debugfs", "-w", "-R", f"symlink /{mask} /dev/null", s))
    root = tmp_path / "root"
    (root / mask).parent.mkdir(parents=True)
    (root / "etc/os-release").touch()
    (root / mask).symlink_to("/dev/null")
    rooted = thimble("install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE)
    for done in (install(model, image), rooted):
        assert "was masked" in done.stdout and "answers at" not in done.stdout
    assert os.readlink(root / mask) == "/dev/null" and '"/dev/null"' in debugfs(image, f"stat /{mask}")


def test_two_roots_must_be_told_apart(model, tree, tmp_path):
    image = make(tmp_path / "card.img", tree)
    system = tmp_path / "second"
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, system, "40960k")
    with image.open("ab") as out:
        at = out.tell() // SECTOR
        out.write(system.read_bytes())
    tool("sfdisk", "-q", "--append", image, input=f"start={at},size={81920},type=83\n")
    assert "--partition: 2, 3" in install(model, image, code=2).stderr
    install(model, image, "--partition", 3)
    assert "deb.onnx" in debugfs(image, "ls /usr/share/thimble", at * SECTOR)
    assert "thimble" not in debugfs(image, "ls /usr/share")
    # One that was not unmounted cleanly may be the one that was meant.
    with image.open("r+b") as file:
        file.seek(at * SECTOR)
        unclean(file)
    before = digest(image)
    assert "--partition: 2, 3" in install(model, image, code=2).stderr
    assert "cleanly" in install(model, image, "--partition", 3, code=2).stderr and digest(image) == before
    install(model, image, "--partition", 2)


def test_a_shell_behind_a_long_link_is_found(model, tree, tmp_path):
    def long(system):
        (system.parent / "script").write_text(f"cd /usr/bin\nrm sh\nsymlink sh /usr/{'./' * 40}bin/dash\n")
        tool("debugfs", "-w", "-f", system.parent / "script", system)

    image = make(tmp_path / "card.img", tree, spoil=long)
    assert "Fast link" not in debugfs(image, "stat /usr/bin/sh")
    assert "into partition 2" in install(model, image).stdout


@pytest.mark.parametrize("end", ["kill -9 $$", "echo no memory >&2; exit 8"])
def test_a_check_that_did_not_happen_is_not_damage(model, tree, tmp_path, end):
    image = make(tmp_path / "card.img", tree)
    fake = tmp_path / "bin/e2fsck"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\n{end}\n")
    fake.chmod(0o755)
    before = digest(image)
    done = thimble("install", model, "--image", image, "--target", "pi-4", "--device-program", DEVICE, code=2,
                   env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"})  # fmt: skip
    assert "e2fsck: could not check" in done.stderr and "damaged" not in done.stderr, done.stderr
    assert digest(image) == before


def kill_at_random(command, times, whole):
    """Starts `command` again and again and kills it at moments spread over its usual time; `whole` looks after each."""
    begin = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    usual = time.monotonic() - begin
    moments = random.Random(7)
    killed = 0
    for _ in range(times):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(moments.uniform(0, usual))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            killed += 1
        child.wait()
        whole()
    assert killed > 0, "nothing was ever killed"


KILLS = int(os.environ.get("THIMBLE_KILLS", "6"))


def test_a_killed_install_leaves_the_old_image_or_the_new(model, tree, tmp_path):
    image = make(tmp_path / "card.img", tree)
    old = digest(image)
    pristine = image.read_bytes()
    seen = set()

    def whole():
        seen.add(digest(image) == old)
        if digest(image) != old:
            check(image, model, tmp_path)
            image.write_bytes(pristine)

    command = [BIN / "thimble", "install", model, "--image", image, "--target", "pi-4", "--device-program", DEVICE]
    kill_at_random([str(c) for c in command], KILLS, whole)
    assert True in seen
    # What the killed ones left beside it is cleared by the next that ends.
    install(model, image)
    assert not list(tmp_path.glob(".thimble*"))


def test_a_killed_package_or_install_leaves_whole_files(model, tmp_path):
    out = tmp_path / "x.deb"
    command = [BIN / "thimble", "package", model, "-o", out, "--device-program", DEVICE, "--maintainer", "T <t@example.org>"]
    subprocess.run(command, check=True, capture_output=True)
    good = digest(out)
    out.write_bytes(b"old")
    old = digest(out)

    def package_is_whole():
        assert digest(out) in (old, good)

    kill_at_random([str(c) for c in command], KILLS, package_is_whole)
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").touch()

    def files_are_whole():
        there = [path for path in expected(model) if (root / path).exists()]
        for path in there:
            assert (root / path).read_bytes() == expected(model)[path][0].read_bytes()
        # The unit never comes before what it starts.
        if (root / "usr/lib/systemd/system" / UNIT).exists():
            assert len(there) == 3
        subprocess.run(["rm", "-rf", root / "usr", root / "etc/systemd"], check=True)

    command = [BIN / "thimble", "install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE]
    kill_at_random([str(c) for c in command], KILLS, files_are_whole)
