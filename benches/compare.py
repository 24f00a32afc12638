"""Compares thimble with ONNX Runtime, stock tract and rten on albert-base's shape, on this machine (run it by benches/compare).

Same weights, same ids, one thread each, one process at a time. Every round runs every contender once, in an order that
turns from round to round; ratios are taken within a round and given with their spread over the rounds. Raw results and
a Markdown table go to benches/runs/DATE-HOST/. Milliseconds and MiB (1024²).
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
HERE = ROOT / "benches"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PROFILE = os.environ.get("THIMBLE_PROFILE", "dist")
HOST, DEVICE = TARGET / "release" / "thimble", TARGET / PROFILE / "thimble-device"
PEERS = TARGET / "peers" / "release"
FOLDABLE = {"Transpose", "Reshape", "Slice", "Identity", "Cast", "Squeeze", "Unsqueeze"}
MIB = 1 << 20


def sh(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **options).stdout


def plain(source, out):
    """The same model with each weight as one row-major initializer, as exporters write it: what peers are used to, and
    what quantize_dynamic needs to see a weight as a weight."""
    model = onnx.load(source)
    graph = model.graph
    known = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    uses = {}
    kept = []
    for node in graph.node:
        if node.op_type in FOLDABLE and node.input and all(name in known for name in node.input if name):
            inputs = {name: known[name] for name in node.input if name}
            ports = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items()]
            result = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UNDEFINED, None)
            one = onnx.helper.make_model(
                onnx.helper.make_graph([node], "one", ports, [result]), opset_imports=model.opset_import
            )
            known[node.output[0]] = ReferenceEvaluator(one).run(None, inputs)[0]
        else:
            kept.append(node)
            uses.update((name, True) for name in node.input)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.initializer[:]
    graph.initializer.extend(onnx.numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in known.items() if n in uses)
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, out)


def make_models(folder):
    base = folder / "albert-base"
    if not (base / "model.safetensors").exists():
        # The development profile: a release build of the host's tests' dependencies takes minutes for a second's work.
        sh("cargo", "run", "--locked", "-q", "-p", "thimble", "--example", "albert_base_rand", "--", base, cwd=ROOT)
    files = {}
    for precision in ("fp32", "fp16", "int8"):
        files[precision] = folder / f"thimble-{precision}.onnx"
        sh(HOST, "export", base, "-o", files[precision], "--precision", precision)
    files["plain"] = folder / "plain-fp32.onnx"
    plain(files["fp32"], files["plain"])
    files["quantized"] = folder / "ort-int8.onnx"
    quantize_dynamic(files["plain"], files["quantized"], weight_type=QuantType.QInt8, per_channel=True)
    # quantize_dynamic writes inner shapes in symbols that stock tract cannot reconcile with a fixed length.
    quantized = onnx.load(files["quantized"])
    del quantized.graph.value_info[:]
    onnx.save(quantized, files["quantized"])
    return files


class Contender:
    def __init__(self, name, precision, command, file):
        self.name, self.precision, self.command, self.file = name, precision, [str(c) for c in command], file
        self.thimble = "bench" in self.command

    def key(self):
        return f"{self.name} {self.precision}"

    def once(self, ids, runs, warmup, output=None):
        given = [*self.command, str(self.file), "--ids", ",".join(map(str, ids)), "--warmup", str(warmup), "--runs", str(runs)]
        if not self.thimble:
            given += ["--output", str(output)] if output else []
            line = json.loads(sh(*given, env={**os.environ, "RTEN_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}))
            line["p50"] = statistics.median(line["ms"])
            return line
        report = json.loads(sh(*given, "--threads", "1", "--json"))
        latency, memory = report["latency_ms"], report["memory"]
        return {
            "peer": "thimble",
            "version": report["engine"]["version"],
            "kernels": report["engine"]["kernels"],
            "load_ms": report["load_ms"],
            "first_ms": report["first_inference_ms"],
            "latency_ms": latency,
            "p50": latency["p50"],
            "baseline_rss": memory["baseline_rss"],
            "peak_rss": memory["peak_rss"],
            "anon": memory["anon"],
        }

    def output(self, ids, folder):
        raw = folder / "output"
        if not self.thimble:
            self.once(ids, 1, 0, raw)
            return np.fromfile(raw, "<f4")
        sh(DEVICE, "run", self.file, "--ids", ",".join(map(str, ids)), "--output", raw)
        return load_file(raw)["last_hidden_state"].ravel()


def contenders(files):
    thimble = [DEVICE, "bench"]
    ort = [sys.executable, HERE / "peers" / "ort.py"]
    return [
        Contender("thimble", "int8", thimble, files["int8"]),
        Contender("thimble", "fp16", thimble, files["fp16"]),
        Contender("thimble", "fp32", thimble, files["fp32"]),
        Contender("ONNX Runtime", "int8", ort, files["quantized"]),
        Contender("ONNX Runtime, thimble's file", "int8", ort, files["int8"]),
        Contender("ONNX Runtime", "fp32", ort, files["plain"]),
        Contender("stock tract", "int8", [PEERS / "peer-tract"], files["quantized"]),
        Contender("stock tract, thimble's file", "int8", [PEERS / "peer-tract"], files["int8"]),
        Contender("stock tract", "fp32", [PEERS / "peer-tract"], files["plain"]),
        Contender("rten", "int8", [PEERS / "peer-rten"], files["quantized"]),
        Contender("rten", "fp32", [PEERS / "peer-rten"], files["plain"]),
    ]


def cpu_model():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()


def ids_of(seq):
    return [2, *(5 + i * 7919 % 29000 for i in range(1, seq - 1)), 3]


def difference(ours, reference):
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    rms = float(np.sqrt(np.mean((ours - reference) ** 2)) / reference.std())
    return {"rms_of_sd": rms, "cosine": float(ours @ reference / np.sqrt((ours @ ours) * (reference @ reference)))}


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(everyone, results, seq):
    by_round = lambda c: results[c.key()]["rounds"]  # noqa: E731
    lines = [
        f"\n### {seq} tokens\n",
        "| engine | arithmetic | file MiB | p50 ms, median of rounds (min–max) | × thimble's same arithmetic (min–max) "
        "| load ms | peak RSS MiB | of it, beyond the bare process | RMS to ONNX Runtime fp32, of sd |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in everyone:
        if "failed" in results[c.key()]:
            lines.append(f"| {c.name} | {c.precision} | {c.file.stat().st_size / MIB:.1f} | did not run: {results[c.key()]['failed']} | | | | | |")
            continue
        own = next(t for t in everyone if t.thimble and t.precision == c.precision)
        ratios = [a["p50"] / b["p50"] for a, b in zip(by_round(c), by_round(own), strict=True)]
        median = lambda key: statistics.median(r[key] for r in by_round(c))  # noqa: E731
        lines.append(
            f"| {c.name} | {c.precision} | {c.file.stat().st_size / MIB:.1f} | {spread([r['p50'] for r in by_round(c)])} "
            f"| {'1' if c.thimble else spread(ratios)} | {median('load_ms'):.1f} | {median('peak_rss') / MIB:.1f} "
            f"| {(median('peak_rss') - median('baseline_rss')) / MIB:.1f} | {results[c.key()]['difference']['rms_of_sd']:.2g} |"
        )
    return lines


def main():
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", default="16,128", help="sequence lengths, with commas (default 16,128)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="timed runs per process")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--only", help="contenders whose name contains this, besides thimble")
    parser.add_argument("--out", help="folder of the results (default benches/runs/DATE-HOST)")
    args = parser.parse_args()

    work = TARGET / "compare"
    work.mkdir(parents=True, exist_ok=True)
    files = make_models(work)
    everyone = [c for c in contenders(files) if not args.only or c.thimble or args.only.lower() in c.name.lower()]
    host = f"{platform.machine()}-{os.cpu_count()}cores"
    out = pathlib.Path(args.out) if args.out else HERE / "runs" / f"{datetime.date.today()}-{host}"
    out.mkdir(parents=True, exist_ok=True)
    raw = {
        "schema": 1,
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": sh("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip(),
        "profile": PROFILE,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "arguments": vars(args),
        "seq": {},
    }
    versions, text = {}, []
    for seq in map(int, args.seq.split(",")):
        ids = ids_of(seq)
        results = {c.key(): {"rounds": []} for c in everyone}
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            judge = next((c for c in everyone if c.key() == "ONNX Runtime fp32"), everyone[2])
            reference = judge.output(ids, folder)
            for c in everyone:
                try:
                    results[c.key()]["difference"] = difference(c.output(ids, folder), reference)
                except (subprocess.CalledProcessError, ValueError) as error:
                    said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                    results[c.key()]["failed"] = " ".join(said)[:200] if said else "no message"
        running = [c for c in everyone if "failed" not in results[c.key()]]
        for turn in range(args.rounds):
            shift = turn * 3 % len(running)
            order = running[shift:] + running[:shift]
            for c in order if turn % 2 == 0 else reversed(order):
                line = c.once(ids, args.runs, args.warmup)
                line["load_average"] = os.getloadavg()[0]
                versions[line["peer"]] = line["version"]
                results[c.key()]["rounds"].append(line)
            print(f"{seq} tokens: round {turn + 1} of {args.rounds}", file=sys.stderr)
        raw["seq"][seq] = results
        text += table(everyone, results, seq)
    raw["versions"] = versions
    loads = [line["load_average"] for results in raw["seq"].values() for r in results.values() for line in r["rounds"]]
    head = [
        f"# thimble and its peers, albert-base's shape, {datetime.date.today()}\n",
        f"{raw['cpu']}, {raw['cores']} cores, Linux {raw['kernel']}; commit {raw['commit']}; "
        + ", ".join(f"{peer} {version}" for peer, version in versions.items())
        + f". One thread; {args.rounds} rounds of {args.runs} runs after {args.warmup}; made by `benches/compare`.\n",
        f"Load average while measuring: {min(loads):.1f} to {max(loads):.1f}"
        + ("; the machine was busy with other work: read the ratios, not the times.\n" if min(loads) > 1.5 else ".\n"),
        "int8 of ONNX Runtime, tract and rten: `quantize_dynamic` (per channel, QInt8) of the fp32 model with plain row-major weights, "
        "the repair by hand that makes it quantise every layer; its activations are quantised per tensor, thimble's per token.",
    ]
    result = "\n".join(head + text) + "\n"
    (out / "compare.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "compare.md").write_text(result)
    print(result, end="")
    print(f"wrote {out}/compare.json and compare.md", file=sys.stderr)


main()
