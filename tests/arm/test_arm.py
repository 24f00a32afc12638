"""The same model and input on x86_64 and on every board's CPU: f32 and f16 agree to 1e-4, int8 within what flipped
roundings cost, and a trained classifier says the same labels. The kernels differ (SDOT on A76, SMULL without it, VMULL in 32 bits).
"""

import json

import numpy as np
import pytest

from arm import CPUS, FIRST, ROOT
from bench import PRECISIONS, ROUNDING, SMALL, cases, gap, real

EXACT = 1e-4
# One rounding that flips on another CPU moves an int8 value by a whole step, and layers carry it on: whole models are
# judged by their spread. Measured between f32 and f64 arithmetic on albert-base's shape: RMS 0.013, cosine 0.9999.
RMS_OF_SD = 0.03
COSINE = 0.999
# A label may change only where the two best logits were this close.
MARGIN = 0.05
ROWS = {"cortex-a76": 400}
ROWS_ON_OTHERS = 60


def assert_alike(ours, theirs, mask, precision, where):
    assert set(ours) == set(theirs)
    for name, reference in theirs.items():
        if precision not in ROUNDING:
            assert gap(ours[name], reference, mask) <= EXACT, f"{where} {name}"
            continue
        a, b = (real(v, mask).astype(np.float64).ravel() for v in (ours[name], reference))
        if a.size < 8:
            # Too few values for a spread: two logits of a tiny head.
            assert np.abs(a - b).max() <= MARGIN, f"{where} {name}: {a} {b}"
            continue
        rms = np.sqrt(np.mean((a - b) ** 2)) / max(b.std(), 1e-12)
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        assert rms <= RMS_OF_SD and cosine >= COSINE, f"{where} {name}: RMS {rms:.4f} of sd, cosine {cosine:.6f}"


# w8 differs from f32 by one product per channel: albert-base's shape, below, is enough of it.
@pytest.mark.parametrize("precision", [precision for precision in PRECISIONS if precision != "w8"])
@pytest.mark.parametrize("model", SMALL)
def test_every_cpu_gives_what_x86_gives(thimble, arms, models, each, model, precision):
    file = models.export(model, precision)
    wanted = [(case, thimble.infer(file, case.feeds)) for case in cases(model)]

    def check(job):
        cpu, (case, reference) = job
        assert_alike(arms[cpu].infer(file, case.feeds), reference, case.feeds["attention_mask"], precision, f"{cpu} {case}")

    # One CPU with each kind of kernel; albert-base's shape, below, passes on every CPU.
    cpus = [cpu for cpu in ("cortex-a53", "cortex-a76", "cortex-a7") if cpu in CPUS]
    each(check, [(cpu, pair) for cpu in cpus for pair in wanted])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_albert_base_gives_what_x86_gives(thimble, arms, models, each, precision):
    file = models.export("albert-base-rand", precision)
    case = next(c for c in cases("albert-base-rand") if c.prefix == "s16")
    wanted = thimble.infer(file, case.feeds)

    def check(cpu):
        assert_alike(arms[cpu].infer(file, case.feeds), wanted, case.feeds["attention_mask"], precision, cpu)

    each(check, CPUS)


def labels_agree(thimble, arm, file, ids):
    """How many labels differ; none may where x86 was sure."""
    feeds = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
    ours, theirs = (program.infer(file, feeds)["logits"] for program in (arm, thimble))
    changed = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
    best = np.sort(theirs, axis=1)
    margins = best[changed, -1] - best[changed, -2]
    assert (margins < MARGIN).all(), f"rows {changed} changed their label, margins {margins}"
    return len(changed)


@pytest.mark.parametrize("cpu", CPUS)
def test_labels_of_the_trained_classifier_stay(thimble, arms, models, each, cpu):
    ids = np.load(ROOT / "models" / "albert-deb" / "test_input_ids_i16.npy").astype(np.int64)
    # Most as the Pi 5; the others take long under emulation and run the kernel without dot products alike.
    ids = ids[: ROWS.get(cpu, ROWS_ON_OTHERS)]
    file = models.export("albert-deb", "int8")
    changed = each(lambda part: labels_agree(thimble, arms[cpu], file, part), np.array_split(ids, 4))
    assert sum(changed) <= max(1, len(ids) // 300), f"{sum(changed)} of {len(ids)} labels changed"


@pytest.mark.parametrize("cpu", CPUS)
def test_the_device_knows_the_cpu_it_runs_on(arms, cpu):
    info = json.loads(arms[cpu].run("info", "--json", program=arms[cpu].device).stdout)
    features = info["board"]["features"]
    assert ("neon" if cpu == "cortex-a7" else "asimd") in features
    assert ("asimddp" in features) == (cpu == "cortex-a76")
    assert info["board"]["emulated"] == "qemu-user"
    assert info["kernels"]["i8"][0] != "portable" and info["kernels"]["f32"][0] != "portable"


@pytest.mark.parametrize("cpu", FIRST)
def test_limits_and_errors_answer_alike(arms, models, cpu):
    arm = arms[cpu]
    file = models.export("albert-seq-tiny", "int8")
    bench = ("bench", file, "--seq", "8", "--runs", "2", "--warmup", "0", "--json")
    report = json.loads(arm.run(*bench, program=arm.device).stdout)
    assert report["schema"] == 1 and report["latency_ms"]["runs"] == 2
    # Under the emulator the figures would be the emulator's, so none is given and a limit on them cannot hold.
    assert report["memory"]["peak_rss"] is None
    arm.run(*bench, "--max-ram", "1GiB", code=1, program=arm.device)
    arm.run(*bench, "--max-p95", "0", code=1, program=arm.device)
    arm.run("run", file, "--ids", "1,2,999999", code=2, program=arm.device)
    arm.run("run", "/nonexistent.onnx", code=2, program=arm.device)
