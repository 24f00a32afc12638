"""The Debian package and the installed files, before Debian's own judges."""

import gzip
import hashlib
import subprocess

import pytest
from conftest import BIN, DEVICE, thimble

MAINTAINER = "Test <test@example.org>"


@pytest.fixture(scope="module")
def package(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("deb") / "thimble-model_0.1.0_arm64.deb"
    thimble("package", model, "-o", out, "--device-program", DEVICE, "--maintainer", MAINTAINER, "--max-ram", "64MiB", "--measure")
    return out


def folder_of(model):
    """Where a package puts it: two versions lie side by side while one takes the other's place."""
    return f"usr/share/thimble/{hashlib.sha256(model.read_bytes()).hexdigest()[:16]}"


def accepted(root, units, at):
    """In systemd's eyes. It looks for the programs that units start, and that of the board is none here."""
    at.mkdir()
    for unit in units:
        text = (root / "usr/lib/systemd/system" / unit).read_text()
        (at / unit).write_text(text.replace("/usr/bin/thimble-device", "/bin/sh"))
    judged = subprocess.run(["systemd-analyze", "verify", *[at / unit for unit in units]], capture_output=True, text=True)
    assert judged.returncode == 0 and not judged.stderr.strip(), judged.stderr


def test_dpkg_reads_it_and_the_files_are_whole(package, model, tmp_path):
    field = lambda name: subprocess.check_output(["dpkg-deb", "-f", package, name], text=True).strip()  # noqa: E731
    assert (field("Package"), field("Architecture")) == ("thimble-model", "arm64")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    folder = tmp_path / folder_of(model)
    assert (folder / "deb.onnx").read_bytes() == model.read_bytes() and (folder / "deb.tokenizer.json").exists()
    program = tmp_path / "usr/bin/thimble-device"
    assert program.read_bytes() == DEVICE.read_bytes() and program.stat().st_mode & 0o777 == 0o755
    control = tmp_path / "DEBIAN"
    subprocess.run(["dpkg-deb", "-e", package, control], check=True)
    for script in ("postinst", "prerm", "postrm"):
        subprocess.run(["sh", "-n", control / script], check=True)
    names = ["thimble.socket", "thimble.service", "thimble-check.service"]
    units = [tmp_path / "usr/lib/systemd/system" / name for name in names]
    assert all("MemoryMax=67108864\n" in unit.read_text() for unit in units[1:])
    start = f"ExecStart=/usr/bin/thimble-device serve /{folder_of(model)}/deb.onnx --sha256 "
    assert start in units[1].read_text()
    accepted(tmp_path, names, tmp_path / "judged")
    subprocess.run(["md5sum", "-c", "--quiet", control / "md5sums"], cwd=tmp_path, check=True)
    # dpkg gives files their names in the archive's order: no unit before what it names.
    listed = subprocess.check_output(["dpkg-deb", "-c", package], text=True).splitlines()
    files = [line.split()[-1] for line in listed if not line.endswith("/")]
    assert [file.rsplit("/", 1)[-1] for file in files[-3:]] == ["thimble-check.service", "thimble.service", "thimble.socket"]


def test_the_measuring_unit_comes_only_where_it_is_asked_for(model, tmp_path):
    out = tmp_path / "x.deb"
    thimble("package", model, "-o", out, "--device-program", DEVICE, "--maintainer", MAINTAINER)
    listed = subprocess.check_output(["dpkg-deb", "-c", out], text=True)
    assert "thimble.socket" in listed and "thimble-check" not in listed


def test_the_manual_page_is_one(package, tmp_path):
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    page = gzip.decompress((tmp_path / "usr/share/man/man1/thimble-device.1.gz").read_bytes()).decode()
    assert page.startswith(".TH THIMBLE") and "thimble\\-device serve FILE" in page


def test_dpkg_installs_it_in_an_arm64_root(package, model, tmp_path):
    root = tmp_path / "root"
    for directory in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "usr", "etc"):
        (root / directory).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    (root / "var/lib/dpkg/arch").write_text("arm64\n")
    dpkg = ["dpkg", "--root", root, "--force-architecture", "--force-script-chrootless", "--force-not-root"]
    subprocess.run([*dpkg, "-i", package], check=True, capture_output=True)
    shown = subprocess.check_output(["dpkg-query", "--root", root, "-W", "-f", "${Status}", "thimble-model"], text=True)
    assert shown == "install ok installed"
    assert (root / "usr/bin/thimble-device").exists()
    # Both own the program and the unit: a package of another name waits until this one is gone.
    other = tmp_path / "other.deb"
    thimble("package", model, "-o", other, "--name", "thimble-other", "--device-program", DEVICE, "--maintainer", MAINTAINER)
    refused = subprocess.run([*dpkg, "-i", other], capture_output=True, text=True)
    assert refused.returncode != 0 and "thimble-model:arm64 conflicts with thimble-board" in refused.stderr, refused.stderr
    assert (root / folder_of(model) / "deb.onnx").exists()
    subprocess.run([*dpkg, "-r", "thimble-model"], check=True, capture_output=True)
    subprocess.run([*dpkg, "-i", other], check=True, capture_output=True)
    shown = subprocess.check_output(["dpkg-query", "--root", root, "-W", "-f", "${Package} ${db:Status-Status}\n"], text=True)
    assert "thimble-other installed" in shown, shown
    assert (root / "usr/bin/thimble-device").exists()
    subprocess.run([*dpkg, "-r", "thimble-other"], check=True, capture_output=True)
    assert not (root / folder_of(model) / "deb.onnx").exists()


def test_an_input_is_not_written_over(model, tmp_path):
    for name, kind in [("program", "--device-program"), ("deb.tokenizer.json", None)]:
        file = tmp_path / name
        file.write_bytes((model.with_name(name) if kind is None else DEVICE).read_bytes())
        before = file.read_bytes()
        own = [kind, file] if kind else ["--device-program", DEVICE]
        copy = tmp_path / "deb.onnx"
        copy.write_bytes(model.read_bytes())
        done = thimble("package", copy, "-o", file, *own, "--maintainer", MAINTAINER, code=2)
        assert "is an input" in done.stderr and file.read_bytes() == before


def test_lintian_has_nothing_to_say(package):
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "error,warning", package], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout


def test_the_same_input_gives_the_same_package(package, model, tmp_path):
    again = tmp_path / "again.deb"
    options = ["--device-program", DEVICE, "--maintainer", MAINTAINER, "--max-ram", "64MiB", "--measure"]
    thimble("package", model, "-o", again, *options)
    digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()  # noqa: E731
    assert digest(again) == digest(package)


def test_a_mounted_root_gets_everything_and_systemd_accepts_the_units(model, tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=raspbian\n")
    for _ in range(2):
        done = thimble("install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE, "--measure")
    assert "answers at /run/thimble.sock" in done.stdout and "measures at boot" in done.stdout
    units = root / "usr/lib/systemd/system"
    assert (root / "usr/share/thimble/deb.tokenizer.json").exists()
    for target, unit in (("multi-user", "thimble.service"), ("sockets", "thimble.socket"), ("multi-user", "thimble-check.service")):
        assert (root / f"etc/systemd/system/{target}.target.wants/{unit}").is_symlink()
    assert not list(root.rglob("*.part"))
    # A model that is not the one that was installed is neither measured nor served.
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert all(f" --sha256 {digest}" in (units / name).read_text() for name in ("thimble.service", "thimble-check.service"))
    # The smallest pi-4 has 1 GiB: half of it.
    assert "MemoryMax=" in (units / "thimble.service").read_text()
    accepted(root, ["thimble.socket", "thimble.service", "thimble-check.service"], tmp_path / "judged")


def test_a_narrow_umask_shuts_nobody_out(model, tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").touch()
    command = [BIN / "thimble", "install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE]
    subprocess.run(command, check=True, capture_output=True, umask=0o077)
    made = [path for path in root.rglob("*") if path.is_dir() and path != root / "etc"]
    assert len(made) >= 6 and {path.stat().st_mode & 0o777 for path in made} == {0o755}
    files = {path.name: path.stat().st_mode & 0o777 for path in (root / "usr").rglob("*") if path.is_file()}
    assert files.pop("thimble-device") == 0o755 and set(files.values()) == {0o644}


def test_a_root_of_another_architecture_is_refused(model, tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").touch()
    (root / "usr/bin").mkdir(parents=True)
    # As a board sees it: the absolute link leads to its own shell, not to this machine's.
    (root / "bin").symlink_to("/usr/bin")
    (root / "usr/bin/sh").symlink_to("dash")
    program = bytearray(DEVICE.read_bytes()[:64])
    program[4], program[18] = 1, 40
    (root / "usr/bin/dash").write_bytes(program)
    done = thimble("install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE, code=1)
    assert "the system there runs armv7 (32-bit ARM)" in done.stdout and not (root / "usr/lib").exists() and not (root / "usr/share").exists()
    (root / "usr/bin/dash").write_bytes(DEVICE.read_bytes())
    thimble("install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE)
    assert (root / "usr/share/thimble/deb.onnx").exists()


def test_a_root_that_leads_elsewhere_is_refused_untouched(model, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir(parents=True)
    (root / "etc/os-release").touch()
    outside.mkdir()
    (root / "usr").symlink_to(outside)
    done = thimble("install", model, "--rootfs", root, "--target", "pi-4", "--device-program", DEVICE, code=2)
    assert "through a link" in done.stderr and not list(outside.iterdir())
    assert "os-release" in thimble("install", model, "--rootfs", outside, "--target", "pi-4", "--device-program", DEVICE, code=2).stderr
    assert "this machine" in thimble("install", model, "--rootfs", "/", "--target", "pi-4", "--device-program", DEVICE, code=2).stderr
