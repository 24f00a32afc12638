"""thimble's files for ONNX Runtime (--for onnxruntime) beside what ONNX Runtime's own tools make of the same weights, all run by
ONNX Runtime: time and memory on this machine, instructions on emulated ARM, bytes, and what rounding costs.

    benches/onnxruntime-files [--only speed|memory|arm|quality] [--rounds N] [--plbert FOLDER] [--resume]

ONNX Runtime's own int8 is made two ways: quantize_dynamic (per channel) of the plain graph, and the same after its optimizer for
transformers. The plain graph holds ALBERT's weights once, which its exporters do not see to. Times are one process a run, every
round in another order, one thread; a ratio is taken within a round, to the faster of the two. FOLDER holds PL-BERT as
scripts/plbert makes it. Writes results.json and table.md; --only keeps the other parts' rows, --resume the counts that are there.
"""

import argparse
import itertools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from quality import FIXTURES, ROOT, TUNED, Bench, hidden_states, logits

LENGTHS = (16, 128, 512)
CPUS = ("cortex-a76", "cortex-a72")
THREADS = 1
OWN = ("quantize_dynamic", "optimizer + quantize_dynamic")
# What a session may be told about memory, and what that costs: prepacking copies a weight for each node that reads it.
SETTINGS = {
    "as it comes": {},
    "session.disable_prepacking=1": {"session.disable_prepacking": "1"},
    "session.use_device_allocator_for_initializers=1": {"session.use_device_allocator_for_initializers": "1"},
}
PEER = """
import json, resource, statistics, sys, time
import numpy as np, onnxruntime as ort
file, seq, runs, settings = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
def rss():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS:"))
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
for key, value in settings.items():
    options.add_session_config_entry(key, value)
bare = rss()
session = ort.InferenceSession(file, options, ["CPUExecutionProvider"])
ids = np.array([[2, *(5 + i * 7919 % 29000 for i in range(1, seq - 1)), 3]], dtype=np.int64)
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
feeds = {i.name: feeds[i.name] for i in session.get_inputs()}
times = []
for _ in range(runs):
    start = time.perf_counter()
    session.run(None, feeds)
    times.append((time.perf_counter() - start) * 1e3)
print(json.dumps({"ms": statistics.median(times[len(times) // 4 :]), "session": rss() - bare}))
"""


def own_int8(plain, folder, heads, hidden):
    """ONNX Runtime's own int8 of a plain graph, by name."""
    files = {name: folder / f"{plain.stem}-{i}.onnx" for i, name in enumerate(OWN)}
    options = {"weight_type": QuantType.QInt8, "per_channel": True, "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT}}
    quantize_dynamic(plain, files[OWN[0]], **options)
    fused = folder / f"{plain.stem}-fused.onnx"
    optimizer.optimize_model(str(plain), "bert", num_heads=heads, hidden_size=hidden, opt_level=0).save_model_to_file(str(fused))
    quantize_dynamic(fused, files[OWN[1]], **options)
    for path in files.values():
        shared_once(path)
    return files


def shared_once(path):
    """Keeps equal initializers once: a quantizer makes one for each node that reads a weight."""
    model = onnx.load(path)
    first, names = {}, {}
    for tensor in list(model.graph.initializer):
        key = (tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes())
        names[tensor.name] = first.setdefault(key, tensor.name)
        if names[tensor.name] != tensor.name:
            model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, path)


class Files:
    """albert-base's shape with made weights: thimble's files for ONNX Runtime, and its own."""

    def __init__(self, bench, folder):
        base = folder / "albert-base-rand"
        subprocess.run([bench.thimble.parent / "examples" / "albert_base_rand", base], check=True)
        self.thimble = {}
        for precision in ("fp32", "fp16", "int8", "int4"):
            self.thimble[precision] = folder / f"thimble-{precision}.onnx"
            bench.run("export", base, "-o", self.thimble[precision], "--precision", precision, "--for", "onnxruntime")
        plain = folder / "plain.onnx"
        bench.run("export", base, "-o", plain, "--for", "onnx")
        self.own = own_int8(plain, folder, 12, 768)
        self.all = {f"thimble {name}": path for name, path in self.thimble.items()} | self.own


def once(path, seq, runs, settings):
    done = subprocess.run(
        [sys.executable, "-c", PEER, path, str(seq), str(runs), json.dumps(settings)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def speed(files, rounds):
    rows = []
    for seq in LENGTHS:
        runs = {16: 40, 128: 12, 512: 5}[seq]
        times = {name: [] for name in files.all}
        for number in range(rounds):
            names = list(files.all)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                times[name].append(once(files.all[name], seq, runs, {})["ms"])
        best = min(OWN, key=lambda name: statistics.median(times[name]))
        for name, found in times.items():
            ratios = [a / b for a, b in zip(found, times[best], strict=True)]
            rows.append(
                {"part": "speed", "tokens": seq, "file": name, "bytes": files.all[name].stat().st_size, "best": best}
                | {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            )
            print(rows[-1], flush=True)
    return rows


def memory(files):
    rows = []
    for name in ("thimble int8", "thimble int4", "thimble fp32", *OWN):
        for said, settings in SETTINGS.items():
            found = [once(files.all[name], 16, 20, settings) for _ in range(3)]
            row = {"part": "memory", "file": name, "settings": said, "bytes": files.all[name].stat().st_size}
            row |= {key: statistics.median(f[key] for f in found) for key in ("session", "ms")}
            rows.append(row)
            print(rows[-1], flush=True)
    return rows


def arm(files, folder, counted, save):
    plugin = (folder / "count.so").resolve()
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", ROOT / "benches/count-instructions.c", "-o", plugin], check=True)
    peer = folder / "peer.py"
    peer.write_text(PEER)
    rows = []
    for cpu in CPUS:
        for seq in LENGTHS[:2]:
            for name in ("thimble int8", *OWN):
                known = [row for row in counted if (row["cpu"], row["tokens"], row["file"]) == (cpu, seq, name)]
                if known:
                    rows += known
                    continue

                def total(runs):
                    command = [ROOT / "scripts/python-on-arm", "--cpu", cpu, peer.resolve(), files.all[name].resolve(), seq, runs, "{}"]
                    environment = {**os.environ, "QEMU_EXTRA": f"-plugin {plugin}", "PYTHONHASHSEED": "0"}
                    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
                    found = re.search(r"^instructions: (\d+)$", done.stderr, re.MULTILINE)
                    if done.returncode or not found:
                        sys.exit(f"onnxruntime: {name} on {cpu}\n{done.stderr[-2000:]}")
                    return int(found[1])

                rows.append({"part": "arm", "cpu": cpu, "tokens": seq, "file": name, "instructions": (total(10) - total(2)) // 8})
                print(rows[-1], flush=True)
                save(rows)
    return rows


def quality(bench, folder, plbert):
    """What rounding costs on rows nobody tuned on: trained models as they are and made hard, and PL-BERT."""
    rows = []

    def add(**row):
        rows.append({"part": "quality", **row})
        print(rows[-1], flush=True)

    for name in ("albert-deb", "albert-brackets"):
        ids = np.load(FIXTURES / name / "test_input_ids_i16.npy").astype(np.int64)
        order = np.random.default_rng(1).permutation(len(ids))
        tune, judge = order[:TUNED], order[TUNED:]
        asked = bench.labels(FIXTURES / name)[judge] >= 0
        calibrate = folder / f"{name}.jsonl"
        lines = ({"input_ids": [int(t) for t in ids[i] if t]} for i in sorted(tune))
        calibrate.write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = json.loads((FIXTURES / name / "config.json").read_text())
        for kind in ("as it is", "random", "activations"):
            source = FIXTURES / name if kind == "as it is" else bench.spoiled(FIXTURES / name, kind)
            plain = folder / f"{name}-{kind.replace(' ', '-')}.onnx"
            bench.run("export", source, "-o", plain, "--for", "onnx")
            wanted = logits(plain, ids[judge]).argmax(-1)[asked]
            own = own_int8(plain, folder, config["num_attention_heads"], config["hidden_size"])
            budget = max(path.stat().st_size for path in own.values())
            ours = folder / f"{name}-shrunk.onnx"
            bench.run(
                "shrink", source, "--budget", budget, "-o", ours, "--calibrate", calibrate, "--rows", TUNED, "--for", "onnxruntime"
            )
            for file, path in {"thimble shrink": ours, **own}.items():
                same = logits(path, ids[judge]).argmax(-1)[asked] == wanted
                add(model=name, kind=kind, file=file, bytes=path.stat().st_size, agreement=float(same.mean()))
    if plbert is None:
        plbert = folder / "plbert"
        subprocess.run([sys.executable, ROOT / "scripts/plbert", plbert], check=True)
    data = FIXTURES / "plbert"
    inputs = [np.array([json.loads(line)["input_ids"]]) for line in (data / "rows.jsonl").read_text().splitlines()]
    plain = folder / "plbert-plain.onnx"
    bench.run("export", plbert, "-o", plain, "--for", "onnx")
    reference = hidden_states(plain, inputs)
    own = own_int8(plain, folder, 12, 768)
    ours = folder / "plbert-shrunk.onnx"
    budget = max(path.stat().st_size for path in own.values())
    bench.run("shrink", plbert, "--budget", budget, "-o", ours, "--calibrate", data / "calib.jsonl", "--for", "onnxruntime")
    for file, path in {"thimble shrink": ours, **own}.items():
        error = np.concatenate([(a - b).ravel() for a, b in zip(hidden_states(path, inputs), reference, strict=True)])
        rms = float(np.sqrt((error.astype(np.float64) ** 2).mean()) / np.concatenate(reference).std())
        add(model="plbert", kind="as it is", file=file, bytes=path.stat().st_size, relative_rms=rms)
    return rows


def table(rows):
    parts = {part: [row for row in rows if row["part"] == part] for part in ("speed", "memory", "arm", "quality")}
    lines = [f"ONNX Runtime {ort.__version__}, one thread, albert-base's shape. Made by `benches/onnxruntime-files`.\n"]
    if parts["speed"]:
        lines += ["| file | bytes | " + " | ".join(f"time at {n} tokens" for n in LENGTHS) + " |", "|---|---|" + "---|" * len(LENGTHS)]
        for name in dict.fromkeys(row["file"] for row in parts["speed"]):
            own = [row for row in parts["speed"] if row["file"] == name]
            cells = " | ".join(f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})" for row in own)
            lines.append(f"| {name} | {own[0]['bytes']:,} | {cells} |")
        lines.append("\nTimes are ratios to the faster of ONNX Runtime's own int8: the median of the rounds, the least and the most.\n")
    if parts["memory"]:
        lines += ["| file | settings | RAM of the session, MiB | ms at 16 tokens |", "|---|---|---|---|"]
        lines += [f"| {r['file']} | {r['settings']} | {r['session'] / 2**20:.1f} | {r['ms']:.1f} |" for r in parts["memory"]]
        lines.append("")
    if parts["arm"]:
        lines += ["| CPU | tokens | file | million instructions |", "|---|---|---|---|"]
        lines += [f"| {r['cpu']} | {r['tokens']} | {r['file']} | {r['instructions'] / 1e6:.0f} |" for r in parts["arm"]]
        lines.append("")
    if parts["quality"]:
        lines += ["| model | made hard | file | bytes | agreement | RMS / sd |", "|---|---|---|---|---|---|"]
        for r in parts["quality"]:
            agreement = f"{100 * r['agreement']:.2f} %" if "agreement" in r else ""
            rms = f"{r['relative_rms']:.4f}" if "relative_rms" in r else ""
            lines.append(f"| {r['model']} | {r['kind']} | {r['file']} | {r['bytes']:,} | {agreement} | {rms} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(prog="benches/onnxruntime-files", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="target/debug", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, default="benches/runs", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=["speed", "memory", "arm", "quality"], help="this part; the others' rows stay")
    parser.add_argument("--rounds", type=int, default=7, help="of the times (default %(default)s)")
    parser.add_argument("--plbert", type=pathlib.Path, help="folder of PL-BERT, if it is made already")
    parser.add_argument("--resume", action="store_true", help="keep the counts on emulated ARM that a run before has made; each takes minutes")
    args = parser.parse_args()
    wanted = lambda part: args.only in (None, part)
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    before = json.loads(results.read_text())["rows"] if results.exists() else []
    order = ("speed", "memory", "arm", "quality")
    made = {}

    def save(part, rows):
        """Part by part, and those on emulated ARM count by count: a run of hours that is ended keeps what it has."""
        made[part] = rows
        kept = [row for row in before if row["part"] not in made and (args.only or row["part"] == "arm" and args.resume)]
        whole = sorted([*kept, *itertools.chain(*made.values())], key=lambda row: order.index(row["part"]))
        results.write_text(json.dumps({"onnxruntime": ort.__version__, "rows": whole}, indent=1) + "\n")
        (args.out / "table.md").write_text(table(whole))

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        bench = Bench(args.programs, folder)
        files = None if args.only == "quality" else Files(bench, folder)
        if wanted("speed"):
            save("speed", speed(files, args.rounds))
        if wanted("memory"):
            save("memory", memory(files))
        if wanted("arm"):
            counted = [row for row in before if row["part"] == "arm" and args.resume]
            save("arm", arm(files, folder, counted, lambda rows: save("arm", rows)))
        if wanted("quality"):
            save("quality", quality(bench, folder, args.plbert))
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
