"""A second reader of thimble's artifact, written from docs/format.md alone: own varints, `struct`, no protobuf library and
none of thimble's code. If the document is wrong or falls behind the writer, test_artifact.py fails.
"""

import json
import struct
from dataclasses import dataclass, field

import numpy as np

ALIGNMENT = 64
TAIL = 128
ELEMENT = {1: ("<f4", 4), 2: ("<u1", 1), 3: ("<i1", 1), 7: ("<i8", 8), 10: ("<f2", 2)}


@dataclass
class Tensor:
    name: str = ""
    data_type: int = 0
    dims: list = field(default_factory=list)
    start: int = -1
    end: int = -1
    # Field numbers in the order they stand in the file.
    order: list = field(default_factory=list)
    doc: list = field(default_factory=list)

    def payload(self, data):
        return data[self.start : self.end]


@dataclass
class File:
    data: bytes
    order: list = field(default_factory=list)
    ir_version: int = 0
    producer: str = ""
    opset: tuple = ()
    metadata: dict = field(default_factory=dict)
    graph_order: list = field(default_factory=list)
    nodes: list = field(default_factory=list)
    initializers: list = field(default_factory=list)

    @property
    def graph(self):
        return json.loads(self.metadata["thimble.graph"])

    def tensor(self, name):
        return next(tensor for tensor in self.initializers if tensor.name == name)


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data, at, end):
    """(number, wire type, value, start of value) of each field; length-delimited values are (start, end)."""
    while at < end:
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        start = at
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        elif wire == 2:
            length, start = varint(data, at)
            value, at = (start, start + length), start + length
        else:
            raise ValueError(f"wire type {wire} at byte {start}")
        assert at <= end, f"field {number} at byte {start} runs past its message"
        yield number, wire, value, start
    assert at == end


def text(data, span):
    return data[span[0] : span[1]].decode()


def read(path):
    data = path.read_bytes()
    file = File(data)
    for number, _, value, _ in fields(data, 0, len(data)):
        file.order.append(number)
        if number == 1:
            file.ir_version = value
        elif number == 2:
            file.producer = text(data, value)
        elif number == 7:
            read_graph(file, value)
        elif number == 8:
            domain, version = None, None
            for inner, _, part, _ in fields(data, *value):
                domain, version = (text(data, part), version) if inner == 1 else (domain, part)
            file.opset = (domain, version)
        elif number == 14:
            pair = {inner: text(data, part) for inner, _, part, _ in fields(data, *value)}
            file.metadata[pair[1]] = pair[2]
    return file


def read_graph(file, span):
    data = file.data
    for number, _, value, _ in fields(data, *span):
        file.graph_order.append(number)
        if number == 1:
            node = {"inputs": [], "outputs": []}
            for inner, _, part, _ in fields(data, *value):
                if inner in (1, 2):
                    node["inputs" if inner == 1 else "outputs"].append(text(data, part))
                elif inner in (3, 4):
                    node["name" if inner == 3 else "op"] = text(data, part)
            file.nodes.append(node)
        elif number == 5:
            file.initializers.append(read_tensor(data, value))


def read_tensor(data, span):
    tensor = Tensor()
    for number, wire, value, _ in fields(data, *span):
        tensor.order.append(number)
        if number == 1:
            assert wire == 2, "dims are packed"
            at = value[0]
            while at < value[1]:
                dim, at = varint(data, at)
                tensor.dims.append(dim)
        elif number == 2:
            tensor.data_type = value
        elif number == 8:
            tensor.name = text(data, value)
        elif number == 9:
            tensor.start, tensor.end = value
        elif number == 12:
            tensor.doc.append(data[value[0] : value[1]])
    return tensor


def index(format, n, k, inp):
    """Where element (n, k) of a linear weight lies in its payload, in elements: the formula of docs/format.md."""
    if format in ("w8", "i8", "i8a"):
        padded = -(-inp // 16) * 16
        return (n // 8) * 8 * padded + (k // 4) * 32 + (n % 8) * 4 + k % 4
    return (n // 8) * 8 * inp + k * 8 + n % 8


def int4(numbers, multipliers, rows, cols, panels):
    """int4 numbers and their multipliers as `[rows, cols]` each, from the bytes of the two payloads."""
    n, k = np.indices((rows, cols))
    blocks = -(-cols // 32)
    if panels:
        inside = k % 32 // 4 * 32 + n % 8 * 4 + k % 4
        byte = (n // 8 * blocks + k // 32) * 128 + inside % 128
        high = inside >= 128
        multiplier = multipliers[(n // 8 * blocks + k // 32) * 8 + n % 8]
    else:
        byte = (n * blocks + k // 32) * 16 + k % 16
        high = k % 32 >= 16
        multiplier = multipliers[n * blocks + k // 32]
    stored = np.where(high, numbers[byte] >> 4, numbers[byte] & 15)
    return stored.astype(np.int64) - 8, multiplier.astype(np.int64)
