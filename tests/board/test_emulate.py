"""`thimble emulate`: what a real kernel counts on a virtual board."""

import json

import pytest
from conftest import BIN, DEVICE, thimble

MIB = 1 << 20


def emulate(file, *args, code=0):
    told = thimble("emulate", file, "--device-program", DEVICE, "--json", *args, code=code)
    return json.loads(told.stdout)


@pytest.mark.parametrize("storage", ["disk", "initramfs"])
def test_memory_is_counted_and_time_is_not(model, storage, tmp_path):
    out = tmp_path / "report.json"
    told = emulate(model, "--target", "pi-5", "--ram", "256MiB", "--seq", 8, "--storage", storage, "-o", out)
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


def test_too_little_ram_is_a_clear_no_with_what_it_wanted(model):
    told = emulate(model, "--target", "pi-zero-2w", "--ram", "44MiB", "--seq", 8, code=1)
    assert told["fits"] is False and told["shortage"]["kernel_said"]
    assert told["report"]["memory"]["peak_rss"] > 0, "how much it wanted, measured where there is enough"


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
    assert 0.8 < sum(need.values()) / memory["peak_rss"] < 1.3, (need, memory)


def test_errors_name_what_to_do(model, tmp_path):
    for args, part in [
        (["--target", "pi-9"], "pi-zero-2w"),
        (["--target", "pi-4", "--kernel", model], "arm64 kernel"),
        (["--target", "pi-4", "--device-program", BIN / "thimble"], "cross-build"),
    ]:
        done = thimble("emulate", model, *args, code=2)
        assert part in done.stderr, done.stderr
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"no model")
    assert "junk.onnx" in thimble("emulate", junk, "--target", "pi-4", code=2).stderr
