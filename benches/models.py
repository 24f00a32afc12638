"""The models the benchmarks run: albert-base's shape with seeded weights, as thimble writes it and as its peers want it."""

import os
import pathlib
import shutil
import subprocess

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
HOST = TARGET / "release" / "thimble"
FOLDABLE = {"Transpose", "Reshape", "Slice", "Identity", "Cast", "Squeeze", "Unsqueeze"}


def sh(*command, **options):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **options).stdout


def ids_of(seq):
    return [2, *(5 + i * 7919 % 29000 for i in range(1, seq - 1)), 3]


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
        sh("cargo", "build", "--release", "--locked", "-q", "-p", "thimble", "--example", "albert_base_rand", cwd=ROOT)
        sh(HOST.parent / "examples" / "albert_base_rand", base, cwd=ROOT)
    files = {}
    for precision in ("fp32", "fp16", "int8", "int4"):
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


def normal_weights(folder):
    """int8 and int4 files of albert-base with its matrices drawn as transformers draws them, normal with a deviation of 0.02. The seeded
    ones are spread evenly, so that many more are large: SMULL's chains of four products fit trained weights and these, but not those."""
    base, drawn = folder / "albert-base", folder / "albert-base-normal"
    random = np.random.default_rng(7)
    weights = load_file(base / "model.safetensors")
    for name, weight in sorted(weights.items()):
        if weight.ndim == 2:
            weights[name] = random.normal(0, 0.02, weight.shape).astype(np.float32)
    drawn.mkdir(exist_ok=True)
    save_file(weights, drawn / "model.safetensors")
    shutil.copy(base / "config.json", drawn)
    files = {}
    for precision in ("int8", "int4"):
        files[precision] = folder / f"thimble-normal-{precision}.onnx"
        sh(HOST, "export", drawn, "-o", files[precision], "--precision", precision)
    return files


def python_peers(folder, lengths):
    """The same weights for the peers from PyPI, which THIMBLE_PEERS has: LiteRT's graphs, one a length with `{}` in its place, and a
    CTranslate2 model."""
    python, scripts, base = os.environ["THIMBLE_PEERS"], ROOT / "benches" / "peers", folder / "albert-base"
    files = {}
    for name, options in (("int8", []), ("fp32", ["--fp32"])):
        files[f"litert-{name}"] = folder / f"litert-{name}-{{}}.tflite"
        for tokens in lengths:
            file = str(files[f"litert-{name}"]).replace("{}", str(tokens))
            if not pathlib.Path(file).exists():
                sh(python, scripts / "litert_graph.py", base, tokens, file, *options)
    files["ctranslate2-int8"] = folder / "ctranslate2-int8"
    if not (files["ctranslate2-int8"] / "model.bin").exists():
        sh(python, scripts / "ctranslate2_model.py", base, files["ctranslate2-int8"], "int8")
    return files
