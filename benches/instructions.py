"""Counts aarch64 instructions of one inference under qemu-user: the total of a process with more runs less that with one, so
that loading cancels out (run it by benches/instructions). One thread. Writes benches/runs/DATE-aarch64-emulated/, and with --docs
docs/instructions.md, too. Rows that the same commit counted earlier that day stay.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys

from models import ROOT, TARGET, ids_of, make_models, python_peers, sh

PEERS = ROOT / "benches" / "peers"


def peers_of(files):
    """Each peer's script and its file for a number format."""
    return {
        "ONNX Runtime": ("ort.py", {"int8": files["quantized"], "fp32": files["plain"]}),
        "LiteRT": ("litert.py", {"int8": files["litert-int8"], "fp32": files["litert-fp32"]}),
        "CTranslate2": ("ct2.py", {"int8": files["ctranslate2-int8"]}),
    }


def total(command, plugin):
    env = dict(os.environ, QEMU_EXTRA=f"-plugin {plugin}", PYTHONHASHSEED="0")
    done = subprocess.run([str(c) for c in command], env=env, capture_output=True, text=True)
    found = re.search(r"^instructions: (\d+)$", done.stderr, re.MULTILINE)
    if done.returncode or not found:
        sys.exit(f"instructions: {' '.join(map(str, command))[:200]}\n{done.stderr[-2000:]}")
    return int(found[1])


def place_of(row):
    """Where a row stands in the table."""
    order = ["int8", "int4", "fp16", "fp32"]
    return order.index(row["precision"]), row["seq"], row["cpu"]


def main():
    parser = argparse.ArgumentParser(prog="benches/instructions", description=__doc__)
    parser.add_argument("--seq", default="16", help="sequence lengths, with commas (default %(default)s)")
    parser.add_argument("--cpu", default="cortex-a76,cortex-a72,cortex-a53", help="default %(default)s")
    parser.add_argument("--precision", default="int8,int4,fp16,fp32", help="of thimble's files (default %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="without the peers (they need root on Debian, see scripts/python-on-arm)")
    parser.add_argument("--docs", action="store_true", help="also write docs/instructions.md")
    args = parser.parse_args()
    work = TARGET / "compare"
    work.mkdir(parents=True, exist_ok=True)
    plugin = (TARGET / "count-instructions.so").resolve()
    sh("cc", "-O2", "-shared", "-fPIC", ROOT / "benches" / "count-instructions.c", "-o", plugin)
    files = make_models(work)
    lengths = [int(n) for n in args.seq.split(",")]
    # The same weights as each peer wants them; in fp16 none of them runs faster than in fp32.
    peers = {} if args.no_peer else peers_of(files | python_peers(work, lengths))
    rows = []
    for precision in args.precision.split(","):
        for seq in lengths:
            for cpu in args.cpu.split(","):
                arm = [ROOT / "scripts" / "device-on-arm", "--cpu", cpu]
                run = lambda n: [*arm, "bench", files[precision], "--seq", seq, "--warmup", 0, "--runs", n, "--threads", 1, "--json"]  # noqa: E731
                row = {"precision": precision, "cpu": cpu, "seq": seq, "thimble": total(run(2), plugin) - total(run(1), plugin)}
                # Python itself does not count alike twice: the difference must be large beside that.
                more = max(1, 128 // seq)
                for name, (script, kinds) in peers.items():
                    if precision in kinds:
                        python = [ROOT / "scripts" / "python-on-arm", "--cpu", cpu, (PEERS / script).resolve(), kinds[precision].resolve()]
                        given = [*python, "--ids", ",".join(map(str, ids_of(seq))), "--warmup", 0, "--runs"]
                        row[name] = (total([*given, 1 + more], plugin) - total([*given, 1], plugin)) // more
                rows.append(row)
                print(row, file=sys.stderr)
    out = ROOT / "benches" / "runs" / f"{datetime.date.today()}-aarch64-emulated"
    out.mkdir(parents=True, exist_ok=True)
    qemu = sh("qemu-aarch64", "--version").splitlines()[0]
    commit = sh("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip()
    pinned = (ROOT / "scripts" / "python-on-arm").read_text()
    pins = {"ONNX Runtime": "ort", "LiteRT": "litert", "CTranslate2": "ctranslate2"}
    versions = {name: re.search(rf"\b{pin}=(\S+)", pinned)[1] for name, pin in pins.items()}
    told = {"schema": 2, "date": str(datetime.date.today()), "commit": commit, "qemu": qemu, "versions": versions, "rows": rows}
    earlier = out / "instructions.json"
    if earlier.exists():
        before = json.loads(earlier.read_text())
        counted = {place_of(row) for row in rows}
        if all(before[key] == told[key] for key in ("commit", "qemu", "versions")):
            rows = sorted(rows + [row for row in before["rows"] if place_of(row) not in counted], key=place_of)
    told["rows"] = rows
    earlier.write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        f"# Instructions per inference, albert-base's shape, one thread, {told['date']}, commit {commit}\n",
        f"{qemu}; the total of a process with more runs less that with one. {', '.join(' '.join(pair) for pair in versions.items())}: their own "
        "aarch64 wheels on the same weights, ONNX Runtime's int8 by quantize_dynamic. CTranslate2 computes another embedding (docs/comparison.md). "
        "A count is no time: it has no cycles, caches or DRAM. In brackets thimble's count divided by theirs. "
        "Made by `benches/instructions`.\n",
        "| arithmetic | CPU | tokens | thimble, million | " + " | ".join(f"{name}, million" for name in versions) + " |",
        "|---|---|---|---|" + "---|" * len(versions),
    ]
    for row in rows:
        theirs = [f"{row[name] / 1e6:.1f} ({row['thimble'] / row[name]:.2f})" if name in row else "" for name in versions]
        lines.append(f"| {row['precision']} | {row['cpu']} | {row['seq']} | {row['thimble'] / 1e6:.1f} | " + " | ".join(theirs) + " |")
    table = "\n".join(lines) + "\n"
    (out / "instructions.md").write_text(table)
    if args.docs:
        (ROOT / "docs" / "instructions.md").write_text(table)
    print("\n".join(lines))
    print(f"wrote {out}/instructions.json and .md", file=sys.stderr)


main()
