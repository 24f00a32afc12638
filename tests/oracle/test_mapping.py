"""The model is mapped, not loaded: its weights are pages of the file that every process shares, and what a process keeps
for itself is small. The kernel is the judge (/proc/PID/smaps, status), on an albert-base-shaped int8 model.
"""

import contextlib
import re
import subprocess
import time

import pytest

MIB = 1 << 20


@contextlib.contextmanager
def busy(thimble, model, *options):
    """A device process that has loaded `model` and keeps inferring until the block ends."""
    command = [str(thimble.device), "bench", str(model), "--seq", "16", "--runs", "1000000", "--threads", "1", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        settle(process, model)
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def settle(process, model):
    """Waits until the model's resident pages have stopped growing: every weight has been read."""
    before, still = -1, 0
    for _ in range(600):
        assert process.poll() is None, process.stderr.read()
        now = sum(area["Rss"] for area in of_file(process.pid, model))
        still = still + 1 if now == before and now else 0
        if still == 10:
            return
        before = now
        time.sleep(0.1)
    raise AssertionError("the model's pages never settled")


def areas(pid):
    """The mappings of a process: what each maps, its permissions, and its kernel figures in bytes."""
    found = []
    with open(f"/proc/{pid}/smaps") as lines:
        for line in lines:
            head = re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+ *(.*)$", line)
            if head:
                found.append({"flags": head[1], "path": head[2]})
            elif part := re.match(r"(\w+): +(\d+) kB", line):
                found[-1][part[1]] = int(part[2]) * 1024
    return found


def of_file(pid, path):
    return [area for area in areas(pid) if area["path"] == str(path)]


def status(pid, name):
    with open(f"/proc/{pid}/status") as lines:
        return int(re.search(rf"{name}:\s+(\d+) kB", lines.read())[1]) * 1024


def pss(pid):
    return sum(area["Pss"] for area in areas(pid))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_weights_are_pages_of_the_file(thimble, models, precision):
    model = models.export("albert-base-rand", precision)
    with busy(thimble, model) as pid:
        mapped = of_file(pid, model)
        resident = sum(area["Rss"] for area in mapped)
        anonymous = status(pid, "RssAnon")
        print(f"{precision}: {resident / MIB:.1f} MiB of the file resident, {anonymous / MIB:.2f} MiB anonymous")
        assert mapped and all(area["flags"].startswith("r-") for area in mapped)
        assert sum(area["Anonymous"] + area.get("Private_Dirty", 0) for area in mapped) == 0
        assert sum(area["Size"] for area in mapped) >= model.stat().st_size
        # The linear weights are all read; the word table only where a token asked.
        linear = {"fp32": 4, "fp16": 2, "int8": 1}[precision] * 7_087_872
        assert resident >= linear
        assert anonymous < 4 * MIB


def test_a_second_process_adds_little(thimble, models):
    model = models.export("albert-base-rand", "int8")
    with busy(thimble, model) as first:
        alone = pss(first)
        with busy(thimble, model) as second:
            added = pss(first) + pss(second) - alone
            print(f"first {alone / MIB:.2f} MiB, a second adds {added / MIB:.2f} MiB")
            assert added < 6 * MIB


def test_locked_pages_are_the_same_pages(thimble, models):
    """--lock keeps the file's pages in RAM; it must not copy them."""
    model = models.export("albert-deb", "int8")
    with busy(thimble, model, "--lock") as pid:
        mapped = of_file(pid, model)
        assert sum(area["Locked"] for area in mapped) >= model.stat().st_size - 4096
        assert sum(area["Anonymous"] for area in mapped) == 0


@pytest.mark.parametrize(("precision", "attention"), [("fp32", "f32"), ("int8", "f32"), ("int8", "int8")])
@pytest.mark.parametrize("seq", [16, 128, 512])
def test_activations_take_what_info_says(thimble, models, precision, attention, seq):
    """What the process keeps for itself grows with the tokens as predicted: the kernel counts it (smaps_rollup)."""
    import json

    model = models.export("albert-base-rand", precision, attention=attention)
    info = json.loads(thimble.run("info", model, "--seq", str(seq), "--json", program=thimble.device).stdout)
    bench = ["bench", model, "--seq", str(seq), "--threads", "1", "--runs", "2", "--warmup", "2", "--json"]
    memory = json.loads(thimble.run(*bench, program=thimble.device).stdout)["memory"]
    size = model.stat().st_size
    assert info["seq"] == seq and 0.6 * size < info["predicted"]["file"] <= size
    assert seq < 512 or info["predicted"]["file"] == size, "so many tokens reach every part of the word table"
    assert memory["predicted"]["activations"] <= info["predicted"]["activations"], "info counts every core's scratch"
    # The rest is heap, stacks and what the linker relocates, which no input enlarges: 2.2 MiB, and 0.4 of the tokenizer's code.
    beyond = memory["anon"] - memory["predicted"]["activations"]
    assert 0 < beyond < 3 * MIB, f"{beyond / MIB:.2f} MiB"


@pytest.mark.parametrize("attention", ["f32", "int8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_the_predicted_peak_is_the_measured_one_or_a_tenth_more(thimble, models, tmp_path, precision, attention):
    import json

    # Kernels that keep what is written at once in large pages map all of such a page with one token's row: here they are small, as
    # on the boards' kernels.
    model = tmp_path / "model.onnx"
    whole = models.export("albert-base-rand", precision, attention=attention).read_bytes()
    with open(model, "wb", buffering=0) as file:
        for at in range(0, len(whole), 4096):
            file.write(whole[at : at + 4096])
    told = []
    for seq, threads in [(16, 1), (16, 4), (128, 2), (512, 4)]:
        bench = ["bench", model, "--seq", str(seq), "--threads", str(threads), "--runs", "1", "--warmup", "1", "--json"]
        memory = json.loads(thimble.run(*bench, program=thimble.device).stdout)["memory"]
        told.append((seq, threads, round(sum(memory["predicted"].values()) / memory["peak_rss"], 3), memory))
    # 1.01 to 1.10 where it was measured; kernels differ by some pages. That for AVX2 keeps inputs of 16 bits, where boards' keep 8.
    kernels = json.loads(thimble.run("info", "--json", program=thimble.device).stdout)["kernels"]
    least = 0.93 if kernels["i8"][0] == "avx2" and precision in ("int8", "int4") else 0.97
    assert all(least <= ratio <= 1.13 for _, _, ratio, _ in told), told


def test_a_profile_accounts_for_all_of_the_time(thimble, models):
    import json

    model = models.export("albert-base-rand", "int8")
    profile = json.loads(thimble.run("bench", model, "--seq", "16", "--runs", "1", "--profile", "--json", program=thimble.device).stdout)["profile"]
    assert abs(sum(op["ms"] for op in profile["ops"]) + profile["rest_ms"] - profile["ms"]) < 1e-6 * profile["ms"]
    assert 0 <= profile["rest_ms"] < 0.2 * profile["ms"]
    layers = {}
    for op in profile["ops"]:
        layers.setdefault(op["layer"], set()).add(op["op"])
    within = {"q+k+v", "q+k+v: pack", "attention", "o", "o: pack", "up", "up: pack", "down", "down: pack", "norm"}
    assert {layer: ops for layer, ops in layers.items() if layer is not None} == dict.fromkeys(range(12), within)
    # One thread or several, the linear maps hold most of it.
    assert profile["linear_ms"].keys() >= {"multiply", "rescale", "activate"}
