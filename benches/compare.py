"""Compares thimble with ONNX Runtime, LiteRT, CTranslate2, stock tract and rten on albert-base's shape, on this machine (run it by
benches/compare).

Same weights, same ids, as many threads each, one process at a time. Every round runs every contender once, in an order that
turns from round to round; ratios are taken within a round and given with their spread over the rounds. Raw results and
a Markdown table go to benches/runs/DATE-HOST/, with --docs a page and a plot to docs/ too. Milliseconds and MiB (1024²).
"""

import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from models import ROOT, TARGET, ids_of, make_models, python_peers, sh
from safetensors.numpy import load_file

sys.path.insert(0, str(ROOT / "scripts"))
import drawing  # noqa: E402

HERE = ROOT / "benches"
PROFILE = os.environ.get("THIMBLE_PROFILE", "dist")
DEVICE = TARGET / PROFILE / "thimble-device"
PEERS = TARGET / "peers" / "release"
MIB = 1 << 20


class Contender:
    def __init__(self, name, precision, command, file):
        self.name, self.precision, self.command, self.file = name, precision, [str(c) for c in command], file
        self.thimble = "bench" in self.command
        # Its layers are ALBERT's, its embedding is not (peers/ctranslate2_model.py).
        self.another = name == "CTranslate2"

    def key(self):
        return f"{self.name} {self.precision}"

    def size(self, tokens):
        path = pathlib.Path(str(self.file).replace("{}", str(tokens)))
        return sum(part.stat().st_size for part in path.iterdir()) if path.is_dir() else path.stat().st_size

    def once(self, ids, runs, warmup, threads=1, output=None):
        given = [*self.command, str(self.file), "--ids", ",".join(map(str, ids)), "--warmup", str(warmup), "--runs", str(runs)]
        if not self.thimble:
            given += ["--output", str(output)] if output else []
            line = json.loads(sh(*given, env={**os.environ, "RTEN_NUM_THREADS": str(threads), "THREADS": str(threads), "RUST_BACKTRACE": "0"}))
            line["p50"] = statistics.median(line["ms"])
            return line
        report = json.loads(sh(*given, "--threads", str(threads), "--json"))
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
            self.once(ids, 1, 0, output=raw)
            return np.fromfile(raw, "<f4")
        sh(DEVICE, "run", self.file, "--ids", ",".join(map(str, ids)), "--output", raw)
        return load_file(raw)["last_hidden_state"].ravel()


def contenders(files):
    thimble = [DEVICE, "bench"]
    ort = [sys.executable, HERE / "peers" / "ort.py"]
    litert, ctranslate2 = ([os.environ["THIMBLE_PEERS"], HERE / "peers" / script] for script in ("litert.py", "ct2.py"))
    return [
        Contender("thimble", "int8", thimble, files["int8"]),
        Contender("thimble", "fp16", thimble, files["fp16"]),
        Contender("thimble", "fp32", thimble, files["fp32"]),
        Contender("ONNX Runtime", "int8", ort, files["quantized"]),
        Contender("ONNX Runtime, thimble's file", "int8", ort, files["int8"]),
        Contender("ONNX Runtime", "fp32", ort, files["plain"]),
        Contender("LiteRT", "int8", litert, files["litert-int8"]),
        Contender("LiteRT", "fp32", litert, files["litert-fp32"]),
        Contender("CTranslate2", "int8", ctranslate2, files["ctranslate2-int8"]),
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


def difference(ours, reference):
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    rms = float(np.sqrt(np.mean((ours - reference) ** 2)) / reference.std())
    return {"rms_of_sd": rms, "cosine": float(ours @ reference / np.sqrt((ours @ ours) * (reference @ reference)))}


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def error(difference):
    return f"{difference['rms_of_sd']:.2g}" if difference else "another embedding"


def batches(file, counts, seq, runs, rounds):
    """Median ms per sequence of thimble's int8 at each batch size, each in turn."""
    taken = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            report = json.loads(sh(DEVICE, "bench", file, "--seq", seq, "--batch", count, "--threads", 1, "--runs", runs, "--json"))
            taken[count].append(report["latency_ms"]["p50"] / count)
    return taken


# The color is that of the number format, the kind of line that of the engine: whether it is thimble.
SERIES = {"thimble int8": ("i8", True), "thimble fp32": ("f32", True), "ONNX Runtime int8": ("i8", False), "ONNX Runtime fp32": ("f32", False)}


def plot(raw):
    """p50 against sequence length on one thread, both axes logarithmic; below it, ms per sequence against batch size."""
    points = {name: [] for name in SERIES}
    for run in raw["runs"]:
        for name in points:
            rounds = run["results"].get(name, {}).get("rounds")
            if run["threads"] == 1 and rounds:
                points[name].append((run["seq"], statistics.median(r["p50"] for r in rounds)))
    points = {name: sorted(p) for name, p in points.items() if p}
    xs, ys = zip(*[p for line in points.values() for p in line], strict=True)
    width, height, left, right, top, bottom = 810, 450, 72, 216, 50, 50
    low, high = math.log(min(ys) * 0.8), math.log(max(ys) * 1.2)
    first, last = math.log(min(xs)), math.log(max(max(xs), min(xs) + 1))
    x = lambda v: left + (math.log(v) - first) / (last - first) * (width - left - right)  # noqa: E731
    y = lambda v: height - bottom - (math.log(v) - low) / (high - low) * (height - top - bottom)  # noqa: E731
    counts = {int(count): statistics.median(taken) for count, taken in raw.get("batch", {}).items()}
    whole = height + (len(counts) * 22 + 50 if counts else 0)
    body = []
    for tick in [t for decade in (0.1, 1, 10, 100, 1000) for t in (decade, 2 * decade, 5 * decade)]:
        if low <= math.log(tick) <= high:
            body.append(drawing.line(left, y(tick), width - right, y(tick)))
            body.append(drawing.text(left - 8, y(tick) + 4.5, f"{tick:g} ms", "e", "soft"))
    body += [drawing.line(x(seq), top, x(seq), height - bottom) for seq in sorted(set(xs))]
    body += [drawing.text(x(seq), height - bottom + 20, seq, "m", "soft") for seq in sorted(set(xs))]
    body.append(drawing.text((left + width - right) / 2, height - 8, "tokens", "m", "soft"))
    labels = []
    for name, line in sorted(points.items(), key=lambda item: -item[1][-1][1]):
        tone, ours = SERIES[name]
        body += drawing.curve([(x(a), y(b)) for a, b in line], tone, ours)
        labels.append(max(y(line[-1][1]), labels[-1] + 18 if labels else 0))
        at = width - right + 22
        body += drawing.sample(at, labels[-1], tone, ours)
        body.append(drawing.text(at + 46, labels[-1] + 4.5, name))
    if counts:
        body.append(drawing.text(16, height + 26, "thimble int8, 64 tokens, one thread: ms per sequence in batches", "b"))
    for row, (count, ms) in enumerate(sorted(counts.items())):
        down, long = height + 38 + 22 * row, ms / max(counts.values()) * (width - left - right)
        body.append(drawing.bar(left, down, long, 16, "i8"))
        body.append(drawing.text(left - 8, down + 12.5, f"of {count}", "e", "soft"))
        body.append(drawing.text(left + long + 6, down + 12.5, f"{ms:.1f} ms"))
    return drawing.svg(width, whole, "Median time of one inference by length, one thread", body)


def scaling(raw):
    """thimble on several threads against itself on one, per round."""
    alone = {run["seq"]: run["results"] for run in raw["runs"] if run["threads"] == 1}
    lines = []
    for run in raw["runs"]:
        if run["threads"] == 1 or run["seq"] not in alone:
            continue
        for name in ("thimble int8", "ONNX Runtime int8"):
            one, many = alone[run["seq"]].get(name, {}).get("rounds"), run["results"].get(name, {}).get("rounds")
            if one and many:
                ratio = spread([a["p50"] / b["p50"] for a, b in zip(one, many, strict=True)])
                lines.append(f"| {name} | {run['seq']} | {run['threads']} | {ratio} |")
    head = ["\n### Threads\n", "| engine | tokens | threads | times as fast as on one (min–max) |", "|---|---|---|---|"]
    return head + lines if lines else []


def where(file, seq):
    """Where thimble's time goes, milliseconds of one inference on one thread; the parts add up to the whole."""
    profile = json.loads(sh(DEVICE, "bench", file, "--seq", str(seq), "--threads", "1", "--profile", "--json"))["profile"]
    parts = {f"linear maps: {kind}": ms for kind, ms in profile["linear_ms"].items()}
    for op in profile["ops"]:
        name = "linear maps: quantize and pack" if op["op"].endswith(": pack") else op["op"] if op["op"] in ("attention", "norm", "embed") else None
        if name:
            parts[name] = parts.get(name, 0) + op["ms"]
    return parts | {"the rest": profile["ms"] - sum(parts.values())}


def profile_table(columns):
    lines = ["\n### Where thimble's time goes, int8, one thread\n", "ms and share of one inference (`thimble-device bench --profile`).\n"]
    lines += ["| | " + " | ".join(f"{seq} tokens" for seq in columns) + " |", "|---|" + "---|" * len(columns)]
    for part in dict.fromkeys(name for parts in columns.values() for name in parts):
        cells = [f"{parts.get(part, 0):.2f}, {100 * parts.get(part, 0) / sum(parts.values()):.1f} %" for parts in columns.values()]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return lines


def table(everyone, results, seq, threads):
    by_round = lambda c: results[c.key()]["rounds"]  # noqa: E731
    lines = [
        f"\n### {seq} tokens, {threads} thread{'s' if threads > 1 else ''}\n",
        "| engine | arithmetic | file MiB | p50 ms, median of rounds (min–max) | × thimble's same arithmetic (min–max) "
        "| load ms | peak RSS MiB | of it, beyond the bare process | RMS to ONNX Runtime fp32, of sd |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in everyone:
        if c.key() not in results:
            continue
        if "failed" in results[c.key()]:
            lines.append(f"| {c.name} | {c.precision} | {c.size(seq) / MIB:.1f} | did not run: {results[c.key()]['failed']} | | | | | |")
            continue
        own = next(t for t in everyone if t.thimble and t.precision == c.precision)
        ratios = [a["p50"] / b["p50"] for a, b in zip(by_round(c), by_round(own), strict=True)]
        median = lambda key: statistics.median(r[key] for r in by_round(c))  # noqa: E731
        lines.append(
            f"| {c.name} | {c.precision} | {c.size(seq) / MIB:.1f} | {spread([r['p50'] for r in by_round(c)])} "
            f"| {'1' if c.thimble else spread(ratios)} | {median('load_ms'):.1f} | {median('peak_rss') / MIB:.1f} "
            f"| {(median('peak_rss') - median('baseline_rss')) / MIB:.1f} | {error(results[c.key()]['difference'])} |"
        )
    whole = {c.thimble: results[c.key()]["rounds"] for c in everyone if c.key() in results and c.precision == "int8" and c.name in ("thimble", "ONNX Runtime")}
    if len(whole) == 2:
        shares = [a["peak_rss"] / (b["peak_rss"] - b["bare_rss"]) for a, b in zip(whole[True], whole[False], strict=True)]
        lines.append(f"\nint8: the whole of thimble's process is {spread(shares)} of what ONNX Runtime's grows by, its library included.")
    return lines


def main():
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq", default="16,64,128,256,512", help="sequence lengths, with commas (default %(default)s)")
    parser.add_argument("--all-at", default="16,128", help="lengths at which every contender runs; elsewhere thimble, ONNX Runtime, LiteRT and rten (default %(default)s)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default %(default)s); stock tract runs on one only")
    parser.add_argument("--batch", default="1,2,4,8", help="batch sizes of thimble's own cost (default %(default)s, at 64 tokens)")
    parser.add_argument("--docs", action="store_true", help="also write docs/speed.md and docs/speed.svg")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=20, help="timed runs per process")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--only", help="contenders whose name contains this, besides thimble")
    parser.add_argument("--out", help="folder of the results (default benches/runs/DATE-HOST)")
    parser.add_argument("--plot", help="measure nothing: print the plot of this compare.json")
    args = parser.parse_args()
    if args.plot:
        print(plot(json.loads(pathlib.Path(args.plot).read_text())), end="")
        return

    work = TARGET / "compare"
    work.mkdir(parents=True, exist_ok=True)
    files = make_models(work)
    lengths = [int(n) for n in args.seq.split(",") if n]
    files |= python_peers(work, lengths)
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
        "files": {c.key(): {seq: c.size(seq) for seq in lengths} for c in everyone},
        "arguments": vars(args),
        "runs": [],
    }
    versions, text = {}, []
    counts = lambda text: [int(n) for n in text.split(",") if n]  # noqa: E731
    everywhere = set(counts(args.all_at))
    for seq in counts(args.seq):
        ids = ids_of(seq)
        judged, failed = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            judge = next((c for c in everyone if c.key() == "ONNX Runtime fp32"), everyone[2])
            reference = judge.output(ids, folder)
            here = [c for c in everyone if seq in everywhere or c.name in ("thimble", "ONNX Runtime", "LiteRT", "rten")]
            for c in here:
                try:
                    output = c.output(ids, folder)
                    judged[c.key()] = None if c.another else difference(output, reference)
                except (subprocess.CalledProcessError, ValueError) as error:
                    said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
                    failed[c.key()] = " ".join(said)[:200] if said else "no message"
        for threads in counts(args.threads):
            many = [c for c in here if threads == 1 or not c.name.startswith("stock tract")]
            results = {c.key(): {"rounds": [], "difference": judged.get(c.key())} for c in many}
            for key in failed.keys() & results.keys():
                results[key]["failed"] = failed[key]
            running = [c for c in many if c.key() not in failed]
            for turn in range(args.rounds):
                shift = turn * 3 % len(running)
                order = running[shift:] + running[:shift]
                for c in order if turn % 2 == 0 else reversed(order):
                    line = c.once(ids, args.runs, args.warmup, threads)
                    line["load_average"] = os.getloadavg()[0]
                    versions[line["peer"]] = line["version"]
                    results[c.key()]["rounds"].append(line)
                print(f"{seq} tokens, {threads} threads: round {turn + 1} of {args.rounds}", file=sys.stderr)
            raw["runs"].append({"seq": seq, "threads": threads, "results": results})
            text += table(everyone, results, seq, threads)
    text += scaling(raw)
    if counts(args.batch):
        raw["batch"] = batches(files["int8"], counts(args.batch), 64, args.runs, args.rounds)
        text += ["\n### Batches of thimble's int8, 64 tokens, one thread\n", "| sequences | ms per sequence, median of rounds (min–max) |", "|---|---|"]
        text += [f"| {count} | {spread(taken)} |" for count, taken in raw["batch"].items()]
    raw["where"] = {seq: where(files["int8"], seq) for seq in counts(args.seq)}
    text += profile_table(raw["where"])
    raw["versions"] = versions
    loads = [line["load_average"] for run in raw["runs"] for r in run["results"].values() for line in r["rounds"]]
    head = [
        f"# thimble and its peers, albert-base's shape, {datetime.date.today()}\n",
        f"{raw['cpu']}, {raw['cores']} cores, Linux {raw['kernel']}; commit {raw['commit']}; "
        + ", ".join(f"{peer} {version}" for peer, version in versions.items())
        + f". {args.rounds} rounds of {args.runs} runs after {args.warmup}; made by `benches/compare`.\n",
        f"Load average while measuring: {min(loads):.1f} to {max(loads):.1f}"
        + ("; the machine was busy with other work: read the ratios, not the times.\n" if min(loads) > 1.5 else ".\n"),
        "int8 of ONNX Runtime, tract and rten is `quantize_dynamic` (per channel, QInt8) of the fp32 model with plain row-major weights; "
        "this manual repair makes it quantize every layer. It quantizes activations per tensor, thimble and LiteRT per token. LiteRT's "
        "graph is written tensor by tensor, with each weight once (`benches/peers/litert_graph.py`). CTranslate2 reads no ALBERT: it runs "
        "a BERT with ALBERT's layers and a word table as wide as they are.",
    ]
    result = "\n".join(head + text) + "\n"
    (out / "compare.json").write_text(json.dumps(raw, indent=1) + "\n")
    (out / "compare.md").write_text(result)
    picture = plot(raw)
    (out / "compare.svg").write_text(picture)
    if args.docs:
        (ROOT / "docs" / "speed.svg").write_text(picture)
        page = ROOT / "docs" / "speed.md"
        # What another command counted stands at the end, and stays.
        kept = "".join(page.read_text().partition("\n## 32-bit ARM\n")[1:])
        page.write_text(result.replace("\n", "\n\n![p50 against tokens](speed.svg)\n", 1) + kept)
    print(result, end="")
    print(f"wrote {out}/compare.json, .md and .svg", file=sys.stderr)


main()
