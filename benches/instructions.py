"""Counts aarch64 instructions of one inference under qemu-user: the total of a process with two runs less that with one, so
that loading cancels out (run it by benches/instructions). One thread. Writes benches/runs/DATE-aarch64-emulated/.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys

from models import ROOT, TARGET, make_models, sh

PEER = """
import sys, numpy as np, onnxruntime as ort
file, seq, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(file, options, ["CPUExecutionProvider"])
ids = np.array([[2, *(5 + i * 7919 % 29000 for i in range(1, seq - 1)), 3]], dtype=np.int64)
feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
feeds = {i.name: feeds[i.name] for i in session.get_inputs()}
for _ in range(runs):
    session.run(None, feeds)
"""


def total(command, plugin):
    env = dict(os.environ, QEMU_EXTRA=f"-plugin {plugin}")
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True)
    found = re.search(r"^instructions: (\d+)$", done.stderr, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"instructions: {' '.join(map(str, command))[:200]}\n{done.stderr[-2000:]}")
    return int(found[1])


def main():
    parser = argparse.ArgumentParser(prog="benches/instructions", description=__doc__)
    parser.add_argument("--seq", default="16", help="sequence lengths, with commas (default %(default)s)")
    parser.add_argument("--cpu", default="cortex-a76,cortex-a72,cortex-a53", help="default %(default)s")
    parser.add_argument("--precision", default="int8,fp16,fp32", help="of thimble's files (default %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="without ONNX Runtime (needs root on Debian, see scripts/ort-on-arm)")
    args = parser.parse_args()
    work = TARGET / "compare"
    work.mkdir(parents=True, exist_ok=True)
    plugin = (TARGET / "count-instructions.so").resolve()
    sh("cc", "-O2", "-shared", "-fPIC", ROOT / "benches" / "count-instructions.c", "-o", plugin)
    files = make_models(work)
    peer = work / "peer.py"
    peer.write_text(PEER)
    # ONNX Runtime's files of the same weights: quantize_dynamic's for int8; none for fp16, which it does not run faster.
    peers = {} if args.no_peer else {"int8": files["quantized"], "fp32": files["plain"]}
    rows = []
    for precision in args.precision.split(","):
        for seq in map(int, args.seq.split(",")):
            for cpu in args.cpu.split(","):
                arm = [ROOT / "scripts" / "device-on-arm", "--cpu", cpu]
                run = lambda n: [*arm, "bench", files[precision], "--seq", seq, "--warmup", 0, "--runs", n, "--threads", 1, "--json"]  # noqa: E731
                row = {"precision": precision, "cpu": cpu, "seq": seq, "thimble": total(run(2), plugin) - total(run(1), plugin)}
                if precision in peers:
                    ort = [ROOT / "scripts" / "ort-on-arm", "--cpu", cpu, peer.resolve(), peers[precision].resolve(), seq]
                    row["onnxruntime"] = total([*ort, 2], plugin) - total([*ort, 1], plugin)
                rows.append(row)
                print(row, file=sys.stderr)
    out = ROOT / "benches" / "runs" / f"{datetime.date.today()}-aarch64-emulated"
    out.mkdir(parents=True, exist_ok=True)
    qemu = sh("qemu-aarch64", "--version").splitlines()[0]
    commit = sh("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip()
    version = re.search(r"^ort=(\S+)", (ROOT / "scripts" / "ort-on-arm").read_text(), re.MULTILINE)[1]
    told = {"schema": 1, "date": str(datetime.date.today()), "commit": commit, "qemu": qemu, "onnxruntime": version, "rows": rows}
    (out / "instructions.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        f"# Instructions per inference, albert-base's shape, one thread, {told['date']}, commit {commit}\n",
        f"{qemu}; the total with two runs less the total with one. ONNX Runtime {version}: its own aarch64 wheel on the same "
        "weights, int8 by quantize_dynamic. Made by `benches/instructions`.\n",
        "| arithmetic | CPU | tokens | thimble, million | ONNX Runtime, million | thimble / ONNX Runtime |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        theirs = row.get("onnxruntime")
        lines.append(
            f"| {row['precision']} | {row['cpu']} | {row['seq']} | {row['thimble'] / 1e6:.1f} "
            + (f"| {theirs / 1e6:.1f} | {row['thimble'] / theirs:.2f} |" if theirs else "| | |")
        )
    (out / "instructions.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"wrote {out}/instructions.json and .md", file=sys.stderr)


main()
