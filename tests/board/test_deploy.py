"""`thimble deploy` against a virtual board: real ssh, a real kernel, real disks; only the clock is not the board's."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import BIN, DEVICE, thimble


class Proxy:
    """Forwards connections to the board and cuts one whenever as many bytes have gone out as `cuts` says next."""

    def __init__(self, port, cuts):
        self.board, self.next, self.cuts = port, iter(cuts), 0
        self.left = next(self.next)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.board))
            threading.Thread(target=self.pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, False), daemon=True).start()

    def pump(self, source, sink, counted):
        try:
            while data := source.recv(16384):
                if counted:
                    self.left -= len(data)
                    if self.left < 0:
                        self.cuts += 1
                        self.left = next(self.next, float("inf"))
                        break
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def left_behind(board, directory):
    return [name for name in board.run(f"ls -A {directory}").split() if name.endswith(".part")]


def test_first_time_then_nothing_is_sent_twice(board, model):
    first, _ = board.deploy(model, "--dir", "/root/first")
    tokenizer = model.with_name("deb.tokenizer.json")
    whole = sum(f.stat().st_size for f in (DEVICE, model, tokenizer))
    assert first["sent"] == whole and first["breaks"] == 0
    report = first["report"]
    assert report["model"]["bytes"] == model.stat().st_size
    assert report["board"]["cpu_part"] == "0xd08" and report["board"]["emulated"] == "qemu-system"
    assert report["latency_ms"]["p50"] is None, "an emulator's time is no time"
    assert report["memory"]["peak_rss"] > report["memory"]["anon"] > 0
    assert any("2 cores" in line for line in first["against_target"])
    assert first["against_last"] == []

    again, _ = board.deploy(model, "--dir", "/root/first")
    assert again["sent"] == 0
    assert any("peak" in line for line in again["against_last"]), "compared with the last report"
    lines = (board.directory / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["board"] for line in lines[-2:]] == ["board", "board"]
    shown = thimble("report", board.directory / "history.jsonl").stdout
    assert shown.count("deb.onnx") == len(lines)


@pytest.fixture
def talkative(board):
    """A login that greets on both streams before every command, with what could be taken for an answer."""
    board.run("printf 'echo \"Welcome! 17\"; echo have; echo \"{}\"; echo no mail >&2\\n' > /root/.ssh/rc")
    yield
    board.run("rm -f /root/.ssh/rc")


def test_a_cut_link_is_taken_up_where_it_broke(board, model, talkative):
    proxy = Proxy(board.port, cuts=[3_000_000] + [400_000] * 6)
    config = board.directory / "cut_config"
    config.write_text(board.config.read_text().replace(f"Port {board.port}\n", f"Port {proxy.port}\n"))
    done, _ = board.deploy(model, "--dir", "/root/cut", config=config)
    assert proxy.cuts == 7, "more often than it is tried without progress"
    assert done["breaks"] == 7
    whole = sum(f.stat().st_size for f in (DEVICE, model, model.with_name("deb.tokenizer.json")))
    assert done["sent"] == whole, "no byte went over twice"
    assert left_behind(board, "/root/cut") == []


def test_a_damaged_half_is_sent_anew(board, model):
    board.deploy(model, "--dir", "/root/damaged")
    half = f".deb.onnx.{hashlib.sha256(model.read_bytes()).hexdigest()[:16]}.part"
    board.run(f"cd /root/damaged && rm deb.onnx && head -c 5000 /dev/urandom > {half}")
    done, _ = board.deploy(model, "--dir", "/root/damaged")
    assert done["report"]["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert left_behind(board, "/root/damaged") == []


def test_a_model_is_copied_where_that_is_asked_and_named_where_it_is_cut(board, model):
    done, _ = board.deploy(model, "--dir", "/root/copied", "--copy")
    report, size = done["report"], model.stat().st_size
    predicted = report["memory"]["predicted"]
    assert report["engine"]["copied"] and (predicted["file"], predicted["copy"]) == (0, size)
    for option, code, said in [("", 2, "thimble-device: m.onnx: was cut short"), ("--copy", 0, "")]:
        # It has been running for a while when the model goes.
        told = board.run(
            f"cd /root/copied; cp deb.onnx m.onnx; ./thimble-device bench m.onnx {option} --seq 8 --time 12 --runs 1000000 --json "
            "> out 2> said & sleep 6; : > m.onnx; wait $!; echo $?; cat said out"
        )
        assert int(told.split()[0]) == code and said in told and ("verdict" in told) == (code == 0)


def test_a_full_disk_is_refused_before_anything_is_sent(board, model):
    told, _ = board.deploy(model, "--dir", "/small/x", code=1)
    assert "free in /small/x" in told["reason"]
    assert board.run("ls -A /small/x").split() == []


def test_a_board_of_another_architecture_is_refused(board, model):
    told, _ = board.deploy(model, "--dir", "/root/other", host="old", code=1)
    assert told["reason"].startswith("the board is armv6l, an ARM before version 7"), told
    assert "\n" not in told["reason"] and board.run("ls /root/other 2>&1; true").count("No such file") == 1


def test_too_little_ram_is_refused(board, albert_base):
    # Enough is left for sshd, too little for a model of 45 MiB.
    available = int(board.run("sed -n 's/^MemAvailable: *//p' /proc/meminfo").split()[0]) // 1024
    board.run(f"mkdir -p /fill && mount -t tmpfs -o size=100% fill /fill && dd if=/dev/zero of=/fill/x bs=1M count={available - 30}")
    try:
        told, _ = board.deploy(albert_base("fp32"), "--dir", "/root/ram", code=1)
        assert "RAM" in told["reason"]
        assert board.run("ls -A /root/ram").split() == []
    finally:
        board.run("umount /fill")


def test_a_killed_bench_is_not_laid_on_memory_without_a_reason(board, model):
    board.deploy(model, "--dir", "/root/first")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(board.deploy, model, "--dir", "/root/first", runs=100_000, code=2)
        board.run("for n in $(seq 200); do sleep 0.2; pid=$(pidof thimble-device) && kill -9 $pid && break; done")
        told, _ = running.result()
    assert "signal 9" in told["error"] and "no such kill" in told["error"], told


def test_a_limit_of_time_is_not_judged_on_an_emulator(board, model):
    told, _ = board.deploy(model, "--dir", "/root/first", "--max-p95", "0.001")
    assert told["fits"] is True and told["report"]["verdict"]["reasons"] == []


def test_what_cannot_be_is_refused_before_anything_is_touched(model, tmp_path):
    """The host does not exist: a word of it would mean that it was asked."""
    for args, part in [
        (["--max-p95", "nan"], "--max-p95"),
        (["--max-p95", "-1"], "--max-p95"),
        (["--runs", "0"], "--runs"),
        (["--threads", "0"], "--threads"),
        (["--seq", "100000"], "--seq"),
        (["--dir", ""], "--dir"),
        (["--dir", "a\nb"], "--dir"),
        (["--dir", "a\\b"], "--dir"),
        (["--dir", "a "], "--dir"),
        (["--ssh-config", "missing"], "--ssh-config"),
        (["--history", "missing/h.jsonl"], "missing/h.jsonl"),
        (["--history", "."], "directory"),
        (["--history", model], "is an input"),
    ]:
        done = thimble("deploy", model, "--target", "pi-4", "--to", "nowhere.invalid", "--device-program", DEVICE,
                       *[f"{args[0]}={args[1]}"], code=2, cwd=tmp_path)  # fmt: skip
        assert part in done.stderr and "nowhere" not in done.stderr, done.stderr
    assert os.listdir(tmp_path) == []


def test_limits_are_judged_on_the_board(board, model):
    told, _ = board.deploy(model, "--dir", "/root/first", "--max-ram", "1MiB", code=1)
    assert told["fits"] is False and "--max-ram" in told["report"]["verdict"]["reasons"][0]


def test_keep_needs_systemd(board, model):
    told, _ = board.deploy(model, "--dir", "/root/first", "--keep", code=1)
    assert "systemd" in told["reason"]


@pytest.fixture
def systemctl(board):
    """The virtual board has no systemd: a directory that says it has, and a systemctl that writes down how it is called."""
    board.run(
        "mkdir -p /run/systemd/system /etc/systemd/system && rm -f /calls && "
        "printf '#!/bin/sh\\necho \"$@\" >> /calls\\n' > /bin/systemctl && chmod 755 /bin/systemctl"
    )
    yield
    board.run("rm -rf /run/systemd /bin/systemctl /etc/systemd/system/thimble-check.service")


def test_keep_leaves_an_enabled_unit_that_measures(board, model, systemctl, tmp_path):
    board.deploy(model, "--dir", "/root/first", "--keep", "--max-ram", "64MiB")
    assert board.run("cat /calls").splitlines() == ["daemon-reload", "enable thimble-check.service"]
    assert board.run("ls -l /etc/systemd/system/thimble-check.service").startswith("-rw-r--r--")
    assert left_behind(board, "/root/first") == left_behind(board, "/etc/systemd/system") == []
    unit = tmp_path / "thimble-check.service"
    unit.write_text(board.run("cat /etc/systemd/system/thimble-check.service"))
    assert "MemoryMax=67108864\n" in unit.read_text() and "User=root\n" in unit.read_text()
    judged = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert judged.returncode == 0 and not judged.stderr.strip(), judged.stderr
    # What the unit starts, started as systemd would on that board.
    command = re.search("^ExecStart=(.*)$", unit.read_text(), re.M)[1]
    assert "--seq 8 --runs 3 --max-ram 67108864" in command, "it measures at boot what was measured now"
    board.run(f"mkdir -p /state && STATE_DIRECTORY=/state {command}")
    report = json.loads(board.run("cat /state/report.json"))
    assert report["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest() and report["verdict"]["fits"]


def test_keep_tells_when_systemctl_fails(board, model, systemctl):
    board.run("printf '#!/bin/sh\\necho Failed to enable unit >&2; exit 1\\n' > /bin/systemctl")
    told, done = board.deploy(model, "--dir", "/root/first", "--keep", code=2)
    assert "Failed to enable unit" in told["error"] and "Failed to enable unit" in done.stderr
    assert told["kept"] is False and told["report"]["memory"]["peak_rss"] > 0, "what was measured is told"
    assert json.loads((board.directory / "history.jsonl").read_text().splitlines()[-1])["report"] == told["report"]
    assert left_behind(board, "/root/first") == left_behind(board, "/etc/systemd/system") == []


def test_keep_unmasks_nothing(board, model, systemctl):
    board.run("ln -s /dev/null /etc/systemd/system/thimble-check.service")
    told, _ = board.deploy(model, "--dir", "/root/masked", "--keep", code=1)
    assert "unmask" in told["reason"] and board.run("ls -A /root/masked").split() == []
    assert board.run("readlink /etc/systemd/system/thimble-check.service").strip() == "/dev/null"


def test_keep_takes_no_directory_that_a_unit_would_misread(board, model, systemctl):
    told, _ = board.deploy(model, "--dir", "/root/a 'b' %n", "--keep", code=1)
    assert "--dir" in told["reason"] and board.run("ls /etc/systemd/system").split() == []


@pytest.mark.parametrize("directory", ["/tmp/x", "/var/tmp/x"])
def test_keep_takes_no_directory_that_a_unit_does_not_see(board, model, systemctl, directory):
    told, _ = board.deploy(model, "--dir", directory, "--keep", code=1)
    assert "--dir outside of /tmp" in told["reason"] and board.run(f"ls -A {directory}").split() == []


def test_a_bench_waits_for_another_and_says_so(board, model):
    board.deploy(model, "--dir", "/root/first")
    board.run("cd /root/first && (flock -x 8; sleep 8) 8>> .bench.lock > /dev/null 2>&1 < /dev/null &")
    _, done = board.deploy(model, "--dir", "/root/first")
    assert "another deploy measures there; waiting" in done.stderr


def test_two_deploys_at_once_do_not_harm_each_other(board, model, tmp_path):
    # The program is there: what they send both is the model, which goes over in a moment.
    board.deploy(model, "--dir", "/root/first")
    board.run("mkdir -p /root/both && cp /root/first/thimble-device /root/both")

    def one(number):
        return thimble(
            "deploy", model, "--target", "pi-4", "--to", "board", "--ssh-config", board.config, "--device-program", DEVICE,
            "--history", tmp_path / "h.jsonl", "--dir", "/root/both", "--seq", 8, "--runs", 3, "--json",
        )  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        told = [json.loads(done.stdout)["boards"][0] for done in pool.map(one, range(2))]
    for one in told:
        assert one["report"]["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert left_behind(board, "/root/both") == []
    sums = board.run("cd /root/both && sha256sum deb.onnx thimble-device").split()
    assert sums[::2] == [hashlib.sha256(f.read_bytes()).hexdigest() for f in (model, DEVICE)]
    assert len((tmp_path / "h.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["-rf.onnx", "it's.onnx", 'a"b.onnx', "a\nb.onnx", "a b.onnx", "$(id).onnx", "thimble-device"])
def test_a_name_that_means_something_to_a_shell_is_refused(model, name, tmp_path):
    """By deploy, package and install alike, before anything is touched."""
    odd = tmp_path / name
    shutil.copy(model, odd)
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/os-release").touch()
    for args in [
        ("deploy", "--target", "pi-4", "--to", "nowhere.invalid", "--history", tmp_path / "h.jsonl"),
        ("package", "-o", tmp_path / "x.deb", "--maintainer", "T <t@example.org>"),
        ("install", "--target", "pi-4", "--rootfs", tmp_path / "root"),
    ]:
        told = thimble(*args, "--device-program", DEVICE, "--", odd, code=2).stderr
        assert len(told.strip().splitlines()) == 1 and "name" in told, told
    assert sorted(p.name for p in tmp_path.rglob("*") if p != odd) == ["etc", "os-release", "root"]


def test_hostile_inventories_are_one_error(model, tmp_path):
    for text, part in [
        ("-oProxyCommand=touch${IFS}pwned thimble_target=pi-4", "host name"),
        ("x ansible_host=-oProxyCommand=id thimble_target=pi-4", "cannot be where a board is"),
        ("x ansible_user=-oProxyCommand=id thimble_target=pi-4", "cannot be where a board is"),
        ("x ansible_user=pi ansible_host=-F/etc/passwd thimble_target=pi-4", "cannot be where a board is"),
        ("x ansible_host=$(id) thimble_target=pi-4", "cannot be where a board is"),
        ("x ansible_host='a b' thimble_target=pi-4", "cannot be where a board is"),
        ("x ansible_ssh_common_args='-o ProxyCommand=id' thimble_target=pi-4", "ansible_ssh_common_args is not read here"),
        ("x ansible_host= thimble_target=pi-4", "no value"),
        ("x ansible_ssh_host=-oProxyCommand=id thimble_target=pi-4", "cannot be where a board is"),
        ("x ansible_port=-1 thimble_target=pi-4", "no port"),
        ("x thimble_target=pi-9", "x: no target 'pi-9'"),
        ("x", "no thimble_target"),
        ("", "names no host"),
    ]:
        inventory = tmp_path / "hosts"
        inventory.write_text(text + "\n")
        done = thimble("deploy", model, "--inventory", inventory, "--device-program", DEVICE,
                       "--history", tmp_path / "h.jsonl", code=2, cwd=tmp_path)  # fmt: skip
        assert part in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert os.listdir(tmp_path) == ["hosts"]


def test_an_inventory_does_many_boards(board, model, tmp_path):
    inventory = tmp_path / "hosts"
    inventory.write_text("[pis]\nboard\nwrong ansible_host=old\n[pis:vars]\nthimble_target=pi-4\n")
    done = thimble(
        "deploy", model, "--inventory", inventory, "--ssh-config", board.config, "--device-program", DEVICE,
        "--history", tmp_path / "h.jsonl", "--dir", "/root/first", "--seq", 8, "--runs", 3, code=1,
    )  # fmt: skip
    assert "wrong: no, 1 of 2 done" in done.stderr and "board: fits, 2 of 2 done" in done.stderr, done.stderr
    assert "everything was there already" in done.stdout and "wrong: no: the board is armv" in done.stdout
    assert len((tmp_path / "h.jsonl").read_text().splitlines()) == 1


def test_a_report_is_kept_before_the_last_board_is_done(board, model, tmp_path):
    board.deploy(model, "--dir", "/root/first")
    history = tmp_path / "h.jsonl"
    # Takes a connection and says nothing.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        inventory = tmp_path / "hosts"
        port = silent.getsockname()[1]
        inventory.write_text(f"board thimble_target=pi-4\nsilent:{port} ansible_host=127.0.0.1 thimble_target=pi-4\n")
        args = ["deploy", model, "--inventory", inventory, "--ssh-config", board.config, "--device-program", DEVICE,
                "--history", history, "--dir", "/root/first", "--seq", 8, "--runs", 3]  # fmt: skip
        running = subprocess.Popen([BIN / "thimble", *map(str, args)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            assert b"board: fits, 1 of 2 done" in running.stderr.readline()
            assert running.poll() is None and len(history.read_text().splitlines()) == 1
        finally:
            running.kill()
            running.wait()


@pytest.mark.parametrize("host", ["nowhere.invalid", "-oProxyCommand=id"])
def test_a_board_that_cannot_be_reached_is_an_error(board, model, host, tmp_path):
    done = thimble("deploy", model, "--target", "pi-4", f"--to={host}", "--device-program", DEVICE,
                   "--history", tmp_path / "h.jsonl", code=2)  # fmt: skip
    assert host in done.stderr and not (tmp_path / "h.jsonl").exists()


def bench_under(board, files):
    """The device program on the board with a made-up /sys of these files."""
    written = "".join(f"mkdir -p /tree/{f.rsplit('/', 1)[0]}; printf '{text}' > /tree/{f}; " for f, text in files.items())
    run = "mount --bind /tree /sys && ./thimble-device bench deb.onnx --seq 8 --runs 3 --json"
    try:
        return json.loads(board.run(f"{written} cd /root/first && unshare -m sh -c '{run}'"))
    finally:
        board.run("rm -rf /tree")


def test_power_is_read_where_there_is_a_sensor(board, model):
    board.deploy(model, "--dir", "/root/first")
    chip = "class/hwmon/hwmon3"
    report = bench_under(
        board,
        {
            f"{chip}/name": "ina3221\\n",
            f"{chip}/in1_label": "VDD_IN\\n",
            f"{chip}/in1_input": "5000\\n",
            f"{chip}/curr1_input": "1240\\n",
        },
    )
    energy, mean = report["energy"], report["latency_ms"]["mean"]
    assert energy["sensor"] == "ina3221 VDD_IN" and energy["readings"] > 0
    assert abs(energy["watts"] - 6.2) < 1e-9 and abs(energy["idle_watts"] - 6.2) < 1e-9
    assert abs(energy["mj_per_inference"] - 6.2 * mean) < 1e-6 * mean, "a watt for a millisecond"


def test_a_sys_of_nonsense_stops_nothing(board, model):
    board.deploy(model, "--dir", "/root/first")
    cpu = "devices/system/cpu/cpu0"
    names = [
        f"{cpu}/cpufreq/scaling_governor", f"{cpu}/cpufreq/scaling_cur_freq", f"{cpu}/cpufreq/cpuinfo_max_freq",
        f"{cpu}/regs/identification/midr_el1", "devices/platform/soc/soc:firmware/get_throttled",
        "class/thermal/thermal_zone0/temp", "class/thermal/cooling_device0/type", "class/hwmon/hwmon0/name",
        "class/hwmon/hwmon0/in1_input", "fs/cgroup/memory.max",
    ]  # fmt: skip
    for nonsense in ["", r"\377\376 \033[31m\n", r"<unknown>\n-1\n"]:
        report = bench_under(board, dict.fromkeys(names, nonsense))
        told = report["board"]
        assert report["energy"] is None and report["thermal"]["throttled"] is None and report["thermal"]["end_c"] is None
        assert told["governor"] is None and told["mhz"] is None and told["mhz_max"] is None and told["cgroup_limit"] is None
