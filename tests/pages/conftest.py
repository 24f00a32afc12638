"""What the tests of pages need: the pages, made by the real program from fixtures, and a browser to look at them with.

THIMBLE_BIN is the folder of the host's programs; scripts/test-pages sets it.
"""

import json
import os
import pathlib
import subprocess

import pytest
from browser import Browser, program

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
DEB = ROOT / "models" / "albert-deb"


def thimble(*args):
    binary = pathlib.Path(os.environ["THIMBLE_BIN"]) / "thimble"
    done = subprocess.run([binary, *map(str, args)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def browser():
    path = program()
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium, or name a browser in THIMBLE_BROWSER")
    window = Browser(path)
    yield window
    window.close()


def report(file, threads, runs, **more):
    """A bench report with every figure a page draws."""
    runs = sorted(runs)
    rank = lambda share: runs[min(len(runs) - 1, int(share * len(runs)))]  # noqa: E731
    formats = {"word": "i4", "0.0.up": "i8a", "0.0.down": "f16", "0.0.q": "f32"}
    vectors = {f"{n}.{inner}.attn_norm.weight": 512 for n in range(6) for inner in range(3)}
    value = {
        "schema": 1,
        "model": {"file": file, "sha256": file.encode().hex().ljust(64, "0")[:64], "bytes": 1_234_567, "formats": formats,
                  "weights": {"word": 300_000 * threads, "0.0.up": 120_000, "0.0.down": 240_000, "0.0.q": 64_000} | vectors},
        "board": {"model": None, "features": ["asimd"], "cores": 4, "mem_total": 1 << 30, "page_size": 4096},
        "engine": {"version": "0", "tract": "0", "kernels": [], "threads": threads, "locked": False},
        "load_ms": 1.0, "first_inference_ms": 2.0,
        "latency_ms": {"seq": 128, "runs": len(runs), "warmup": 1, "mean": sum(runs) / len(runs), "sd": 0.1, "min": runs[0], "p50": rank(0.5),
                       "p90": rank(0.9), "p95": rank(0.95), "p99": rank(0.99), "max": runs[-1], "samples": runs},
        "memory": {"baseline_rss": 1 << 20, "peak_rss": 12_345_678 * threads, "anon": 2_000_000, "file": 8_000_000},
        "faults": {"major": 0, "minor": 3}, "thermal": {},
        "warnings": [f"load average was {threads}.4 before the bench: other programs compete for the 4 cores"],
        "verdict": {"fits": threads < 4, "reasons": [] if threads < 4 else ["p95 of 47.70 ms is over --max-p95 40 ms"]},
    }  # fmt: skip
    return value | more


def reports(folder):
    """A history of one board, a board with a sensor, and an emulated one without times."""
    runs = [20 + (i * 37 % 29) for i in range(60)]
    history = folder / "history.jsonl"
    with history.open("w") as out:
        for day in range(1, 5):
            value = report("model-of-a-long-name-for-the-kitchen.onnx", 1, [ms * (1 + day / 40) for ms in runs])
            entry = {"schema": 1, "time": f"2026-11-2{day}T08:30:00Z", "board": "kitchen", "report": value}
            out.write(json.dumps(entry) + "\n")
    watts = {"sensor": "ina3221 VDD_IN", "watts": 6.25, "idle_watts": 4.0, "mj_per_inference": 31.25, "readings": 40}
    lab = report("small.onnx", 4, runs, energy=watts)
    (folder / "lab.json").write_text(json.dumps({"schema": 1, "board": "the board in the laboratory at the window", "report": lab}))
    virtual = report("small.onnx", 2, runs)
    times = virtual["latency_ms"]
    virtual["latency_ms"] = {key: None if isinstance(value, float) else value for key, value in times.items()} | {"samples": []}
    virtual["latency_ms"] |= {key: None for key in ("min", "p50", "p90", "p95", "p99", "max")}
    virtual["board"]["emulated"] = "qemu-system"
    (folder / "of-no-meaning.json").write_text(json.dumps({"schema": 1, "target": "pi-4", "report": virtual}))
    return [history, folder / "lab.json", folder / "of-no-meaning.json"]


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """Every page and drawing by name: thimble's own, and the drawings of docs/."""
    folder = tmp_path_factory.mktemp("pages")
    os.environ["THIMBLE_CACHE"] = str(folder / "cache")
    made = {}

    def inspected(name, file, *more):
        made[name] = folder / f"{name}.html"
        thimble("inspect", file, "--html", made[name], *more)

    int8, mixed = folder / "int8.onnx", folder / "mixed.onnx"
    thimble("export", DEB, "-o", int8, "--precision", "int8")
    rows = ["--calibrate", DEB / "test.jsonl", "--rows", "8"]
    thimble("shrink", DEB, "--budget", "620KiB", *rows, "--nearest", "--formats", "f32,f16,i8a,i4", "-o", mixed)
    inspected("inspect-int8", int8)
    inspected("inspect-mixed", mixed)
    inspected("inspect-exported", FIXTURES / "exported" / "mlm_torch1.8_dyn.onnx", "--against", FIXTURES / "albert-mlm-tiny")
    inspected("inspect-long-names", FIXTURES / "exported" / "groups_torch2.6_dyn.onnx")
    made["report"] = folder / "report.html"
    thimble("report", *reports(folder), "--html", made["report"])
    tiny = FIXTURES / "albert-seq-tiny"
    made["frontier"], made["frontier-svg"] = folder / "frontier.html", folder / "frontier.svg"
    drawn = ["--html", made["frontier"], "--svg", made["frontier-svg"]]
    thimble("shrink", tiny, "--frontier", "--points", "6", "--baseline", "--budget", "40KiB", "--min-agreement", "0.5", "--dry-run", *drawn)
    made["frontier-alone"] = folder / "alone.html"
    thimble("shrink", tiny, "--frontier", "--points", "4", "--html", made["frontier-alone"])
    return made | {f"docs/{path.name}": path for path in sorted((ROOT / "docs").glob("*.svg"))}
