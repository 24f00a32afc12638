"""ALBERT as a LiteRT graph (.tflite), written tensor by tensor: LiteRT's own converters start from PyTorch or TensorFlow code and copy
the shared layer; here each weight stands in the file once. Linear maps are int8 per channel with inputs rounded per token when it
runs ("dynamic range"), as LiteRT's converters write them; the word table is int8, everything else f32.

    litert_graph.py CHECKPOINT TOKENS OUT.tflite [--fp32]

CHECKPOINT is a Hugging Face folder with one group of shared layers. Shapes are fixed, since XNNPACK takes no others.
"""

import json
import pathlib
import sys

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from safetensors.numpy import load_file

OPERATOR, TYPE, OPTIONS = schema.BuiltinOperator, schema.TensorType, schema.BuiltinOptions
TYPES = {np.dtype("f4"): TYPE.FLOAT32, np.dtype("i4"): TYPE.INT32, np.dtype("i1"): TYPE.INT8}


class Graph:
    def __init__(self):
        self.buffers, self.tensors, self.operators, self.codes = [schema.BufferT()], [], [], []

    def tensor(self, shape, kind, buffer=0, quantization=None):
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer, tensor.quantization = list(shape), kind, buffer, quantization
        tensor.name = f"t{len(self.tensors)}"
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, value, quantization=None):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        self.buffers.append(buffer)
        return self.tensor(value.shape, TYPES[value.dtype], len(self.buffers) - 1, quantization)

    def int8(self, value, channels):
        """Rounded symmetrically, with one scale a row or one in all."""
        largest = np.abs(value).max(axis=1, keepdims=True) if channels else np.abs(value).max(keepdims=True)
        scale = (np.maximum(largest, 1e-12) / 127).astype("f4")
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = scale.ravel(), np.zeros(scale.size, np.int64)
        return self.constant(np.clip(np.rint(value / scale), -127, 127).astype("i1"), quantization), quantization

    def add(self, operator, inputs, shape, kind=TYPE.FLOAT32, options=None, quantization=None, **fields):
        if operator not in self.codes:
            self.codes.append(operator)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs = self.codes.index(operator), list(inputs)
        made.outputs = [self.tensor(shape, kind, quantization=quantization)]
        if options:
            made.builtinOptionsType = getattr(OPTIONS, options)
            made.builtinOptions = getattr(schema, options + "T")()
            for name, value in fields.items():
                setattr(made.builtinOptions, name, value)
        self.operators.append(made)
        return made.outputs[0]

    def write(self, inputs, outputs):
        model, sub = schema.ModelT(), schema.SubGraphT()
        sub.tensors, sub.operators, sub.inputs, sub.outputs, sub.name = self.tensors, self.operators, inputs, outputs, "main"
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [sub], self.buffers, []
        for code in self.codes:
            made = schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode, made.version = code, min(code, 127), VERSIONS.get(code, 1)
            model.operatorCodes.append(made)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


# Versions in which LiteRT's operators learned what is used of them here.
VERSIONS = {OPERATOR.FULLY_CONNECTED: 9, OPERATOR.GATHER: 2, OPERATOR.DEQUANTIZE: 2, OPERATOR.BATCH_MATMUL: 1, OPERATOR.TRANSPOSE: 1}


def build(folder, tokens, whole=False):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    weights = {name.removeprefix("albert."): value for name, value in load_file(folder / "model.safetensors").items()}
    width, heads, layers = (config[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    if config.get("num_hidden_groups", 1) != 1 or config.get("inner_group_num", 1) != 1 or config["hidden_act"] != "gelu_new":
        sys.exit(f"litert_graph: {folder}: one group of one layer with gelu_new is what this script writes")
    size, inner, eps = width // heads, config["intermediate_size"], np.array([config["layer_norm_eps"]], "f4")
    g = Graph()
    shape = lambda *sizes: g.constant(np.array(sizes, "i4"))  # noqa: E731
    last, epsilon = shape(-1), g.constant(eps)
    ids, mask, types = (g.tensor((1, tokens), TYPE.INT32) for _ in range(3))

    def linear(name, out):
        weight, bias = weights[name + ".weight"], g.constant(weights[name + ".bias"])
        made = g.constant(weight) if whole else g.int8(weight, channels=True)[0]
        given = {"keepNumDims": True, "asymmetricQuantizeInputs": False}
        return lambda x: g.add(OPERATOR.FULLY_CONNECTED, (x, made, bias), (1, tokens, out), options="FullyConnectedOptions", **given)

    def norm(name, columns):
        gamma, beta = g.constant(weights[name + ".weight"]), g.constant(weights[name + ".bias"])

        def apply(x):
            mean = g.add(OPERATOR.MEAN, (x, last), (1, tokens, 1), options="ReducerOptions", keepDims=True)
            squares = g.add(OPERATOR.SQUARED_DIFFERENCE, (x, mean), (1, tokens, columns))
            variance = g.add(OPERATOR.MEAN, (squares, last), (1, tokens, 1), options="ReducerOptions", keepDims=True)
            inverse = g.add(OPERATOR.RSQRT, (plus(variance, epsilon, (1, tokens, 1)),), (1, tokens, 1))
            centred = g.add(OPERATOR.SUB, (x, mean), (1, tokens, columns), options="SubOptions")
            return plus(times(times(centred, inverse, (1, tokens, columns)), gamma, (1, tokens, columns)), beta, (1, tokens, columns))

        return apply

    plus = lambda a, b, out: g.add(OPERATOR.ADD, (a, b), out, options="AddOptions")  # noqa: E731
    times = lambda a, b, out: g.add(OPERATOR.MUL, (a, b), out, options="MulOptions")  # noqa: E731

    words, columns = weights["embeddings.word_embeddings.weight"], config["embedding_size"]
    if whole:
        x = g.add(OPERATOR.GATHER, (g.constant(words), ids), (1, tokens, columns), options="GatherOptions")
    else:
        table, scale = g.int8(words, channels=False)
        rows = g.add(OPERATOR.GATHER, (table, ids), (1, tokens, columns), TYPE.INT8, "GatherOptions", scale)
        x = g.add(OPERATOR.DEQUANTIZE, (rows,), (1, tokens, columns), options="DequantizeOptions")
    kinds = g.constant(weights["embeddings.token_type_embeddings.weight"])
    x = plus(x, g.add(OPERATOR.GATHER, (kinds, types), (1, tokens, columns), options="GatherOptions"), (1, tokens, columns))
    x = plus(x, g.constant(weights["embeddings.position_embeddings.weight"][None, :tokens]), (1, tokens, columns))
    x = linear("encoder.embedding_hidden_mapping_in", width)(norm("embeddings.LayerNorm", columns)(x))

    # 0 where a token counts, a large negative number elsewhere.
    seen = g.add(OPERATOR.CAST, (mask,), (1, tokens), options="CastOptions", inDataType=TYPE.INT32, outDataType=TYPE.FLOAT32)
    seen = g.add(OPERATOR.RESHAPE, (seen, shape(1, 1, 1, tokens)), (1, 1, 1, tokens))
    hidden = times(g.add(OPERATOR.SUB, (g.constant(np.array([1], "f4")), seen), (1, 1, 1, tokens), options="SubOptions"), g.constant(np.array([-1e9], "f4")), (1, 1, 1, tokens))

    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    query, key, value = (linear(f"{layer}.attention.{name}", width) for name in ("query", "key", "value"))
    dense, up, down = linear(f"{layer}.attention.dense", width), linear(f"{layer}.ffn", inner), linear(f"{layer}.ffn_output", width)
    first, second = norm(f"{layer}.attention.LayerNorm", width), norm(f"{layer}.full_layer_layer_norm", width)
    split, joined, order = shape(1, tokens, heads, size), shape(1, tokens, width), shape(0, 2, 1, 3)
    root = g.constant(np.array([1 / np.sqrt(size)], "f4"))
    by_head, square = (1, heads, tokens, size), (1, heads, tokens, tokens)

    def heads_of(x):
        return g.add(OPERATOR.TRANSPOSE, (g.add(OPERATOR.RESHAPE, (x, split), (1, tokens, heads, size)), order), by_head)

    for _ in range(layers):
        q, k, v = (heads_of(part(x)) for part in (query, key, value))
        scores = g.add(OPERATOR.BATCH_MATMUL, (times(q, root, by_head), k), square, options="BatchMatMulOptions", adjY=True)
        shares = g.add(OPERATOR.SOFTMAX, (plus(scores, hidden, square),), square, options="SoftmaxOptions", beta=1.0)
        context = g.add(OPERATOR.BATCH_MATMUL, (shares, v), by_head, options="BatchMatMulOptions")
        context = g.add(OPERATOR.TRANSPOSE, (context, order), (1, tokens, heads, size))
        context = g.add(OPERATOR.RESHAPE, (context, joined), (1, tokens, width))
        x = first(plus(dense(context), x, (1, tokens, width)))
        gelu = g.add(OPERATOR.GELU, (up(x),), (1, tokens, inner), options="GeluOptions", approximate=True)
        x = second(plus(down(gelu), x, (1, tokens, width)))
    return g.write([ids, mask, types], [x])


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--fp32"]
    if len(given) != 3:
        sys.exit(__doc__)
    pathlib.Path(given[2]).write_bytes(build(given[0], int(given[1]), "--fp32" in sys.argv))
