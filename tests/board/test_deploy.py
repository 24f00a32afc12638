"""`thimble deploy` against a virtual board: real ssh, a real kernel, real disks; only the clock is not the board's."""

import hashlib
import json
import socket
import threading

import pytest
from conftest import DEVICE, thimble


class Proxy:
    """Forwards connections to the board and cuts the first one after `most` bytes have gone out."""

    def __init__(self, port, most):
        self.board, self.left, self.cuts = port, most, 0
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
                if counted and self.cuts == 0:
                    self.left -= len(data)
                    if self.left < 0:
                        self.cuts += 1
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


def test_a_cut_link_is_taken_up_where_it_broke(board, model):
    proxy = Proxy(board.port, most=4_000_000)
    config = board.directory / "cut_config"
    config.write_text(board.config.read_text().replace(f"Port {board.port}\n", f"Port {proxy.port}\n"))
    done, _ = board.deploy(model, "--dir", "/root/cut", config=config)
    assert proxy.cuts == 1 and done["breaks"] == 1
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


def test_a_full_disk_is_refused_before_anything_is_sent(board, model):
    told, _ = board.deploy(model, "--dir", "/small/x", code=1)
    assert "free in /small/x" in told["reason"]
    assert board.run("ls -A /small/x").split() == []


def test_a_board_of_another_architecture_is_refused(board, model):
    told, _ = board.deploy(model, "--dir", "/root/other", host="board32", code=1)
    assert "64-bit" in told["reason"] and "armv" in told["reason"]
    assert board.run("ls -A /root/other").split() == []


def test_too_little_ram_is_refused(board, albert_base):
    # Enough is left for sshd, too little for a model of 45 MiB.
    available = int(board.run("sed -n 's/^MemAvailable: *//p' /proc/meminfo").split()[0]) // 1024
    board.run(f"mkdir -p /fill && mount -t tmpfs -o size=100% fill /fill && dd if=/dev/zero of=/fill/x bs=1M count={available - 40}")
    try:
        told, _ = board.deploy(albert_base("fp32"), "--dir", "/root/ram", code=1)
        assert "RAM" in told["reason"]
        assert board.run("ls -A /root/ram").split() == []
    finally:
        board.run("umount /fill")


def test_limits_are_judged_on_the_board(board, model):
    told, _ = board.deploy(model, "--dir", "/root/first", "--max-ram", "1MiB", code=1)
    assert told["fits"] is False and "--max-ram" in told["report"]["verdict"]["reasons"][0]


def test_keep_needs_systemd(board, model):
    told, _ = board.deploy(model, "--dir", "/root/first", "--keep", code=1)
    assert "systemd" in told["reason"]


def test_an_inventory_does_many_boards(board, model, tmp_path):
    inventory = tmp_path / "hosts"
    inventory.write_text("[pis]\nboard\nwrong ansible_host=board32\n[pis:vars]\nthimble_target=pi-4\n")
    done = thimble(
        "deploy", model, "--inventory", inventory, "--ssh-config", board.config, "--device-program", DEVICE,
        "--history", tmp_path / "h.jsonl", "--dir", "/root/first", "--seq", 8, "--runs", 3, code=1,
    )  # fmt: skip
    assert "everything was there already" in done.stdout and "wrong: no: the board is armv" in done.stdout
    assert len((tmp_path / "h.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("host", ["nowhere.invalid", "-oProxyCommand=id"])
def test_a_board_that_cannot_be_reached_is_an_error(board, model, host, tmp_path):
    done = thimble("deploy", model, "--target", "pi-4", f"--to={host}", "--device-program", DEVICE,
                   "--history", tmp_path / "h.jsonl", code=2)  # fmt: skip
    assert host in done.stderr and not (tmp_path / "h.jsonl").exists()
