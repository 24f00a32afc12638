"""What quantizing costs, judged by ONNX Runtime on the files thimble wrote: the solver beside round-to-nearest of the same
size, on trained models, on the same models made hard (scripts/spoil), on albert-base's shape at three budgets, and on
PL-BERT (scripts/plbert), a real model with activation outliers, beside what ONNX Runtime quantizes itself.

    benches/quality [--out DIR] [--only NAME] [--plbert FOLDER]    (a wrapper that finds Python and builds the programs)

FOLDER holds PL-BERT as scripts/plbert makes it, so that nothing is downloaded.

Choices are made on 64 rows; agreement and accuracy count all other rows of the test set. Reference: the fp32 file of the
same checkpoint. Writes results.json and table.md; --only keeps the other models' rows.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import models
import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
TUNED = 64


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def logits(path, ids):
    runtime = session(path)
    feeds = lambda part: {
        "input_ids": part,
        "attention_mask": (part != 0).astype(np.int64),
        "token_type_ids": np.zeros_like(part),
    }
    return np.concatenate([runtime.run(["logits"], feeds(ids[at : at + 100]))[0] for at in range(0, len(ids), 100)])


class Bench:
    def __init__(self, programs, folder):
        self.thimble = pathlib.Path(programs) / "thimble"
        self.folder = pathlib.Path(folder)
        self.rows = []

    def run(self, *args, may_refuse=False):
        """What the program prints, or None where it says a clear no and may."""
        done = subprocess.run([self.thimble, *map(str, args)], capture_output=True, text=True)
        if done.returncode == 1 and may_refuse:
            return None
        if done.returncode:
            sys.exit(f"thimble {' '.join(map(str, args))}: {done.stderr}")
        return done.stdout

    def export(self, source, precision):
        out = self.folder / f"{pathlib.Path(source).name}-{precision}.onnx"
        self.run("export", source, "-o", out, "--precision", precision)
        return out

    def shrink(self, source, budget, calibrate, *more):
        out = self.folder / "shrunk.onnx"
        given = ["--calibrate", calibrate, "--rows", TUNED] if calibrate else []
        start = time.monotonic()
        said = self.run("shrink", source, "--budget", budget, "-o", out, "--json", *given, *more, may_refuse=True)
        return out, said and json.loads(said), time.monotonic() - start

    def spoiled(self, source, kind, seed=0):
        out = self.folder / f"{source.name}-{kind}"
        command = [sys.executable, ROOT / "scripts/spoil", source, out, "--kind", kind, "--seed", str(seed)]
        subprocess.run(command, check=True)
        return out

    def add(self, **row):
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def trained(self, name, kinds, shares):
        """A trained model plain and spoiled, at int8's size and at shares of fp32's."""
        source = FIXTURES / name
        ids = np.load(source / "test_input_ids_i16.npy").astype(np.int64)
        order = np.random.default_rng(1).permutation(len(ids))
        tune, judge = order[:TUNED], order[TUNED:]
        calibrate = self.folder / f"{name}.jsonl"
        lines = ({"input_ids": [int(t) for t in ids[i] if t]} for i in sorted(tune))
        calibrate.write_text("".join(json.dumps(line) + "\n" for line in lines))
        labels = self.labels(source)
        for kind in kinds:
            made = source if kind == "as it is" else self.spoiled(source, kind)
            whole = self.export(made, "fp32")
            reference = logits(whole, ids[judge])
            nearest = self.export(made, "int8")
            budgets = [("int8's size", nearest.stat().st_size)]
            if kind == "as it is":
                budgets += [(f"{share} % of fp32", whole.stat().st_size * share // 100) for share in shares]
            for said, budget in budgets:
                ways = [("solver", []), ("nearest, same budget", ["--nearest"])]
                for way, more in ways:
                    path, plan, seconds = self.shrink(made, budget, calibrate, *more)
                    if plan is None:
                        self.add(model=name, kind=kind, budget=said, way=f"{way}: refused, below the floor")
                        continue
                    self.judge(name, kind, said, way, path, reference, ids[judge], labels[judge], plan, seconds)
                if said == "int8's size":
                    way = "nearest, int8 throughout"
                    self.judge(name, kind, said, way, nearest, reference, ids[judge], labels[judge], None, None)

    @staticmethod
    def labels(source):
        if (source / "test_labels_i16.npy").exists():
            return np.load(source / "test_labels_i16.npy").astype(np.int64)
        lines = (source / "test.jsonl").read_text().splitlines()
        return np.array([json.loads(line)["label"] for line in lines])

    def judge(self, name, kind, budget, way, path, reference, ids, labels, plan, seconds):
        ours = logits(path, ids)
        asked = labels >= 0
        best, wanted = ours.argmax(-1)[asked], reference.argmax(-1)[asked]
        self.add(
            model=name,
            kind=kind,
            budget=budget,
            way=way,
            bytes=path.stat().st_size,
            decisions=int(asked.sum()),
            agreement=float((best == wanted).mean()),
            accuracy=float((best == labels[asked]).mean()),
            reference_accuracy=float((wanted == labels[asked]).mean()),
            formats=plan and {family["name"]: family["format"] for family in plan["families"]},
            seconds=seconds and round(seconds, 1),
        )

    def base(self):
        """albert-base's shape with made weights: cosine of the hidden states on the golden inputs."""
        source = self.folder / "albert-base-rand"
        subprocess.run([self.thimble.parent / "examples" / "albert_base_rand", source], check=True)
        golden = load_file(FIXTURES / "albert-base-rand" / "golden.safetensors")
        for budget in ("12MiB", "9MiB", "7MiB"):
            for way, more in (("solver", []), ("nearest, same budget", ["--nearest"])):
                path, plan, seconds = self.shrink(source, budget, None, *more)
                runtime = session(path)
                cosines = []
                for case in sorted({name.split(".")[0] for name in golden}):
                    feeds = {port.name: golden[f"{case}.{port.name}"] for port in runtime.get_inputs()}
                    ours = runtime.run(["last_hidden_state"], feeds)[0].astype(np.float64)
                    real = feeds["attention_mask"] == 1
                    a, b = ours[real], golden[f"{case}.last_hidden_state"][real].astype(np.float64)
                    cosines.append((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))
                self.add(
                    model="albert-base-rand",
                    kind="as it is",
                    budget=budget,
                    way=way,
                    bytes=path.stat().st_size,
                    cosine=float(np.concatenate(cosines).mean()),
                    formats={family["name"]: family["format"] for family in plan["families"]},
                    seconds=round(seconds, 1),
                )


    def plbert(self, source):
        """PL-BERT on rows nobody tuned on: RMS error of the hidden states over their standard deviation."""
        if source is None:
            source = self.folder / "plbert"
            subprocess.run([sys.executable, ROOT / "scripts/plbert", source], check=True)
        data = FIXTURES / "plbert"
        rows = [np.array([json.loads(line)["input_ids"]]) for line in (data / "rows.jsonl").read_text().splitlines()]
        whole = self.export(source, "fp32")
        reference = hidden_states(whole, rows)
        files = [("fp32's size", f"{name}, nearest", self.export(source, precision), None) for name, precision in (("fp16", "fp16"), ("w8", "w8"), ("int8", "int8"), ("int8a", "int8a"))]
        unpacked = self.folder / "plbert-plain.onnx"
        models.plain(whole, unpacked)
        for per_channel in (True, False):
            made = self.folder / f"plbert-ort-{per_channel}.onnx"
            quantize_dynamic(unpacked, made, weight_type=QuantType.QInt8, per_channel=per_channel)
            files.append(("", f"ONNX Runtime quantize_dynamic per {'channel' if per_channel else 'tensor'}", made, None))
        int8 = (self.folder / f"{source.name}-int8.onnx").stat().st_size
        floor = self.export(source, "int4").stat().st_size
        ways = [(f"solver, {name}", more) for name, more in ABLATION]
        budgets = [("int8's size", int8, ways), ("the floor", floor, [("solver", []), ("nearest", ["--nearest"])])]
        for said, budget, ways in budgets:
            for way, more in ways:
                path, plan, _ = self.shrink(source, budget, data / "calib.jsonl", *more)
                kept = self.folder / f"plbert-{len(files)}.onnx"
                path.rename(kept)
                files.append((said, way, kept, plan))
        for said, way, path, plan in files:
            ours = hidden_states(path, rows)
            error = np.concatenate([(a - b).ravel() for a, b in zip(ours, reference)]).astype(np.float64)
            self.add(
                model="plbert",
                kind="as it is",
                budget=said,
                way=way,
                bytes=path.stat().st_size,
                relative_rms=float(np.sqrt((error**2).mean()) / np.concatenate(reference).std()),
                formats=plan and {family["name"]: family["format"] for family in plan["families"]},
            )


# What each step of preparation gains, one after another: at int8's size, in integer arithmetic unless it says otherwise.
INTEGER = ["--formats", "f32,f16,i8,i4"]
ABLATION = [
    ("nearest", ["--nearest", *INTEGER]),
    ("calibrated", ["--prepare", "calibrate", *INTEGER]),
    ("shift", ["--prepare", "shift", *INTEGER]),
    ("shift, i8a", ["--prepare", "shift", "--formats", "f32,f16,i8,i8a,i4"]),
    ("shift, split, i8a", ["--prepare", "shift,split", "--formats", "f32,f16,i8,i8a,i4"]),
    ("all", ["--prefer", "speed"]),
    ("default", []),
    ("--prefer loss", ["--prefer", "loss"]),
]


def hidden_states(path, rows):
    runtime = session(path)
    feeds = lambda ids: {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return [runtime.run(["last_hidden_state"], feeds(ids))[0][0] for ids in rows]


def table(rows):
    lines = ["| model | made hard | budget | way | bytes | agreement | accuracy (fp32) | cosine | RMS / sd | formats |", "|---|---|---|---|---|---|---|---|---|---|"]
    percent = lambda value: f"{100 * value:.2f} %" if value is not None else ""
    for row in rows:
        accuracy = f"{percent(row['accuracy'])} ({percent(row['reference_accuracy'])})" if "accuracy" in row else ""
        cosine = f"{row['cosine']:.5f}" if "cosine" in row else ""
        rms = f"{row['relative_rms']:.4f}" if "relative_rms" in row else ""
        formats = ", ".join(f"{name} {kind}" for name, kind in (row.get("formats") or {}).items())
        size = f"{row['bytes']:,}" if "bytes" in row else ""
        cells = [row["model"], row["kind"], row["budget"], row["way"], size, percent(row.get("agreement")), accuracy, cosine, rms, formats]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--programs", required=True, help="folder of the built programs")
    args.add_argument("--out", type=pathlib.Path, required=True)
    args.add_argument("--only", choices=["albert-deb", "albert-brackets", "albert-base-rand", "plbert"])
    args.add_argument("--plbert", type=pathlib.Path, help="folder of PL-BERT, if it is made already")
    args = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.programs, folder)
        if args.only in (None, "albert-deb"):
            bench.trained("albert-deb", ["as it is", "powers", "random", "gelu", "spikes", "activations"], [20, 17])
        if args.only in (None, "albert-brackets"):
            bench.trained("albert-brackets", ["as it is", "random", "activations"], [20, 17])
        if args.only in (None, "plbert"):
            bench.plbert(args.plbert)
        if args.only in (None, "albert-base-rand"):
            bench.base()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    rows = bench.rows
    if args.only and results.exists():
        # The other models' rows stay.
        rows = [row for row in json.loads(results.read_text())["rows"] if row["model"] != args.only] + rows
    results.write_text(json.dumps({"onnxruntime": ort.__version__, "rows": rows}, indent=1) + "\n")
    (args.out / "table.md").write_text(table(rows))


if __name__ == "__main__":
    main()
