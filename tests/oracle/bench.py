"""The workbench of the oracle tests: runs thimble's programs as a user would, exports each artifact once, reads the
golden cases of Hugging Face, and asks ONNX Runtime. Nothing here knows thimble's code; only its command line.
"""

import dataclasses
import functools
import pathlib
import subprocess
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PRECISIONS = ("fp32", "fp16", "w8", "int8", "int8a", "int4")
# Formats whose linear maps round their inputs, and how far, in standard deviations, one flipped rounding has moved the
# outputs of a tiny model: measured 0.009 and 0.045, the same between two opsets in ONNX Runtime as against the engine.
ROUNDING = {"int8": 0.02, "int8a": 0.02, "int4": 0.08}
OPSETS = range(13, 19)

# Every model with golden values; albert-base-rand's weights are made, the others lie in their folders.
GOLDEN = (
    "albert-base-rand",
    "albert-choice-tiny",
    "albert-deb",
    "albert-mlm-tiny",
    "albert-pretraining-tiny",
    "albert-qa-tiny",
    "albert-seq-tiny",
    "albert-tiny-groups",
    "albert-tok-tiny",
)
SMALL = tuple(name for name in GOLDEN if name != "albert-base-rand")


class Thimble:
    """The two programs."""

    def __init__(self, folder):
        folder = pathlib.Path(folder).resolve()
        self.host = folder / "thimble"
        self.device = folder / "thimble-device"
        for program in (self.host, self.device):
            assert program.is_file(), f"{program} is missing"

    def example(self, name):
        return self.device.parent / "examples" / name

    def run(self, *args, code=0, program=None, **options):
        """Runs the host program (or another) and insists on its exit code."""
        command = [str(program or self.host), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
        assert done.returncode == code, (
            f"{' '.join(command)}\nended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
        )
        return done

    def infer(self, model, feeds):
        """What the engine says, by output name."""
        with tempfile.TemporaryDirectory() as folder:
            into, out = f"{folder}/in.safetensors", f"{folder}/out.safetensors"
            save_file({name: np.ascontiguousarray(value) for name, value in feeds.items()}, into)
            self.run("run", model, "--input", into, "--output", out, program=self.device)
            return load_file(out)


class Models:
    """Checkpoints by name, and the artifacts made of them, each made once."""

    def __init__(self, thimble, folder):
        self.thimble = thimble
        self.folder = folder
        self.made = {}

    def source(self, name):
        if name != "albert-base-rand":
            return FIXTURES / name
        if name not in self.made:
            folder = self.folder / name
            example = self.thimble.example("albert_base_rand")
            # Where it lies beside the programs; otherwise in the development profile, which the Rust tests have built.
            cargo = ["cargo", "run", "--locked", "-q", "-p", "thimble", "--example", "albert_base_rand", "--"]
            command = [str(example)] if example.is_file() else cargo
            subprocess.run([*command, str(folder)], cwd=ROOT, check=True, timeout=1200)
            self.made[name] = folder
        return self.made[name]

    def export(self, name, precision="fp32", opset=None, seq=None, attention=None):
        key = (name, precision, opset, seq, attention)
        if key not in self.made:
            out = self.folder / ("-".join(str(part) for part in key if part is not None) + ".onnx")
            extra = [] if opset is None else ["--opset", opset]
            extra += [] if seq is None else ["--seq", seq]
            extra += [] if attention is None else ["--attention", attention]
            self.thimble.run("export", self.source(name), "-o", out, "--precision", precision, *extra)
            self.made[key] = out
        return self.made[key]


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case: what goes in and what Hugging Face said."""

    model: str
    prefix: str
    feeds: dict
    golden: dict

    def __str__(self):
        return f"{self.model}-{self.prefix}"


def cases(model):
    tensors = load_file(FIXTURES / model / "golden.safetensors")
    found = []
    for prefix in sorted({name.split(".")[0] for name in tensors}):
        case = {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}
        feeds = {name: case.pop(name) for name in INPUTS}
        if "choice" in model:
            # The stored rows are the choices of one question.
            feeds = {name: value[None] for name, value in feeds.items()}
        found.append(Case(model, prefix, feeds, case))
    return found


def all_cases(names=GOLDEN):
    return [case for name in names for case in cases(name)]


@functools.cache
def saturates():
    """Whether ONNX Runtime's products of uint8 with int8 saturate here: on x86 without VNNI pairs of them share 16 bits."""
    ports = [helper.make_tensor_value_info(name, kind, [1, count]) for name, kind, count in (("x", TensorProto.UINT8, 32), ("y", TensorProto.INT32, 8))]
    weight = numpy_helper.from_array(np.full((32, 8), 127, np.int8), "w")
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "products", ports[:1], ports[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    found = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": np.full((1, 32), 255, np.uint8)})[0]
    return bool((found != 32 * 255 * 127).any())


def weights_from_128(model):
    """The same integers as uint8 with zero point 128, which no kernel saturates."""
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    users = [node for node in model.graph.node if node.op_type == "MatMulInteger" and len(node.input) == 3]
    users = [node for node in users if known.get(node.input[1], TensorProto()).data_type == TensorProto.INT8]
    if not users:
        return
    for name in {node.input[1] for node in users}:
        wide = numpy_helper.to_array(known[name]).astype(np.int16) + 128
        known[name].CopyFrom(numpy_helper.from_array(wide.astype(np.uint8), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(128, np.uint8), "zero of weights"))
    for node in users:
        node.input.append("zero of weights")


def session(model, outputs=None):
    """An ONNX Runtime session on a file, a ModelProto or bytes; `outputs` names inner values to return as well."""
    if outputs:
        proto = onnx.load(model)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        model = proto
    options = ort.SessionOptions()
    if saturates():
        if isinstance(model, bytes):
            model = onnx.load_from_string(model)
        elif not isinstance(model, onnx.ModelProto):
            model = onnx.load(model)
        weights_from_128(model)
        if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
            # What is not fused is computed in f32.
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, ["CPUExecutionProvider"])


def ask(session, feeds):
    """What ONNX Runtime says, by output name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def real(value, mask):
    """The values anyone promises: those of positions whose mask is 1, or all of a value that has no positions."""
    if value.shape[: mask.ndim] == mask.shape:
        return value[mask == 1]
    return value


def gap(ours, theirs, mask):
    """Largest difference over the promised values."""
    assert ours.shape == theirs.shape, f"{ours.shape} against {theirs.shape}"
    a, b = real(ours, mask).astype(np.float64), real(theirs, mask).astype(np.float64)
    assert np.isfinite(a).all()
    return float(np.abs(a - b).max(initial=0))


def assert_close(ours, theirs, mask, limit):
    assert set(theirs) <= set(ours), f"outputs {sorted(ours)}, expected {sorted(theirs)}"
    for name, value in theirs.items():
        difference = gap(ours[name], value, mask)
        assert difference <= limit, f"{name} differs by {difference:.3g}, more than {limit:g}"
