"""Counts aarch64 instructions of one inference under qemu-user: the total of a process with more runs less that with one, so
that loading cancels out (run it by benches/instructions). One thread. Writes benches/runs/DATE-aarch64-emulated/, and with --docs
docs/instructions.md, too. Rows that the same commit counted earlier that day stay; counts of peers stay as long as their versions, their
files and the emulator do.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys

from models import ROOT, TARGET, ids_of, make_models, normal_weights, python_peers, sh

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


def fingerprint(files):
    """SHA-256 of what the peers run, by name."""
    every = [path for file in files for path in ([*file.rglob("*")] if file.is_dir() else file.parent.glob(file.name.replace("{}", "*")))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(every) if path.is_file()}


def same_peers(before, told):
    """Whether two runs' peers are the same: versions, emulator, and the files that both ran."""
    files = before.get("files", {})
    return all(before.get(key) == told[key] for key in ("schema", "qemu", "versions")) and all(
        files.get(name, digest) == digest for name, digest in told["files"].items()
    )


def counted(told):
    """Rows of earlier runs with the same peers."""
    rows = {}
    for earlier in sorted((ROOT / "benches" / "runs").glob("*-aarch64-emulated/instructions.json")):
        before = json.loads(earlier.read_text())
        if same_peers(before, told):
            rows.update({place_of(row): row for row in before["rows"]})
    return rows


def main():
    parser = argparse.ArgumentParser(prog="benches/instructions", description=__doc__)
    parser.add_argument("--seq", default="16", help="sequence lengths, with commas (default %(default)s)")
    parser.add_argument("--cpu", default="cortex-a76,cortex-a72,cortex-a53", help="default %(default)s")
    parser.add_argument("--precision", default="int8,int4,fp16,fp32", help="of thimble's files (default %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="without the peers (they need root on Debian, see scripts/python-on-arm)")
    parser.add_argument("--only-peers", action="store_true", help="the peers alone, for a later run to take their counts")
    parser.add_argument("--docs", action="store_true", help="also write docs/instructions.md")
    args = parser.parse_args()
    work = TARGET / "compare"
    work.mkdir(parents=True, exist_ok=True)
    plugin = (TARGET / "count-instructions.so").resolve()
    sh("cc", "-O2", "-shared", "-fPIC", ROOT / "benches" / "count-instructions.c", "-o", plugin)
    files = make_models(work)
    normal = {} if args.only_peers else normal_weights(work)
    lengths = [int(n) for n in args.seq.split(",")]
    # The same weights as each peer wants them; in fp16 none of them runs faster than in fp32.
    peers = {} if args.no_peer else peers_of(files | python_peers(work, lengths))
    pinned = (ROOT / "scripts" / "python-on-arm").read_text()
    pins = {"ONNX Runtime": "ort", "LiteRT": "litert", "CTranslate2": "ctranslate2"}
    told = {
        "schema": 3,
        "date": str(datetime.date.today()),
        "commit": sh("git", "rev-parse", "--short", "HEAD", cwd=ROOT).strip(),
        "qemu": sh("qemu-aarch64", "--version").splitlines()[0],
        "versions": {name: re.search(rf"\b{pin}=(\S+)", pinned)[1] for name, pin in pins.items()},
        "files": fingerprint([file for _, kinds in peers.values() for file in kinds.values()]),
    }
    known = counted(told)
    rows = []
    for precision in args.precision.split(","):
        for seq in lengths:
            for cpu in args.cpu.split(","):
                row = {"precision": precision, "cpu": cpu, "seq": seq}
                arm = [ROOT / "scripts" / "device-on-arm", "--cpu", cpu, "bench", "--seq", seq, "--warmup", 0, "--threads", 1, "--json"]
                ours = lambda file: total([*arm, file, "--runs", 2], plugin) - total([*arm, file, "--runs", 1], plugin)  # noqa: E731
                if not args.only_peers:
                    row["thimble"] = ours(files[precision])
                    if precision in normal:
                        row["normal"] = ours(normal[precision])
                # Python itself does not count alike twice: the difference must be large beside that.
                more = max(1, 128 // seq)
                for name, (script, kinds) in peers.items():
                    if precision in kinds and (count := known.get(place_of(row), {}).get(name)):
                        row[name] = count
                    elif precision in kinds:
                        python = [ROOT / "scripts" / "python-on-arm", "--cpu", cpu, (PEERS / script).resolve(), kinds[precision].resolve()]
                        given = [*python, "--ids", ",".join(map(str, ids_of(seq))), "--warmup", 0, "--runs"]
                        row[name] = (total([*given, 1 + more], plugin) - total([*given, 1], plugin)) // more
                rows.append(row)
                print(row, file=sys.stderr)
    write(told, rows, docs=args.docs)


def write(told, rows, docs):
    """Puts the rows beside those that the same commit counted earlier that day, and those with thimble's count into a table."""
    out = ROOT / "benches" / "runs" / f"{told['date']}-aarch64-emulated"
    out.mkdir(parents=True, exist_ok=True)
    file = out / "instructions.json"
    if file.exists():
        before = json.loads(file.read_text())
        places = {place_of(row) for row in rows}
        stay = [row for row in before["rows"] if place_of(row) not in places] if same_peers(before, told) else []
        if before["commit"] != told["commit"]:
            stay = [{key: count for key, count in row.items() if key not in ("thimble", "normal")} for row in stay]
        rows = sorted(rows + stay, key=place_of)
        told["files"] = before.get("files", {}) | told["files"]
    file.write_text(json.dumps(told | {"rows": rows}, indent=1) + "\n")
    versions = told["versions"]
    lines = [
        f"# Instructions per inference, albert-base's shape, one thread, {told['date']}, commit {told['commit']}\n",
        f"{told['qemu']}; the total of a process with more runs less that with one. {', '.join(' '.join(pair) for pair in versions.items())}: their own "
        "aarch64 wheels on the same weights, ONNX Runtime's int8 by quantize_dynamic. CTranslate2 computes another embedding (docs/comparison.md). "
        "A count is no time: it has no cycles, caches or DRAM. In brackets thimble's count divided by theirs. "
        "The seeded weights are spread evenly, thimble's worst case on a CPU without dot products (A72, A53); normal ones are drawn as "
        "transformers draws them. Made by `benches/instructions`.\n",
        "| arithmetic | CPU | tokens | thimble, million | of normal weights | " + " | ".join(f"{name}, million" for name in versions) + " |",
        "|---|---|---|---|---|" + "---|" * len(versions),
    ]
    for row in (row for row in rows if "thimble" in row):
        theirs = [f"{row[name] / 1e6:.1f} ({row['thimble'] / row[name]:.2f})" if name in row else "" for name in versions]
        drawn = f"{row['normal'] / 1e6:.1f}" if "normal" in row else ""
        lines.append(f"| {row['precision']} | {row['cpu']} | {row['seq']} | {row['thimble'] / 1e6:.1f} | {drawn} | " + " | ".join(theirs) + " |")
    table = "\n".join(lines) + "\n"
    (out / "instructions.md").write_text(table)
    if docs:
        (ROOT / "docs" / "instructions.md").write_text(table)
    print("\n".join(lines))
    print(f"wrote {out}/instructions.json and .md", file=sys.stderr)


main()
