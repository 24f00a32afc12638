"""A second ledger of ONNX files: walks the protobuf with its own varints and asks of each byte range which field it is.
Shares no code with thimble; it knows ONNX's field numbers and nothing about causes beyond what a field is.
"""

from layout import varint

# Message kinds and their fields: a name of another kind to walk into, or what the bytes are.
KINDS = {
    "model": {7: "graph", 6: "doc", 14: "metadata", 25: "function"},
    "graph": {1: "node", 2: "name", 5: "tensor", 10: "doc", 11: "value", 12: "value", 13: "value", 15: "sparse", 16: "metadata"},
    "node": {1: "name", 2: "name", 3: "name", 5: "attribute", 6: "doc", 9: "metadata"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 13: "doc", 22: "sparse", 23: "sparse"},
    "tensor": {8: "name", 12: "doc", 16: "metadata", 9: "payload", 4: "typed", 5: "typed", 6: "typed", 7: "typed", 10: "typed", 11: "typed"},
    "sparse": {1: "tensor", 2: "tensor"},
    "value": {1: "name", 3: "doc", 4: "metadata"},
    "function": {
        1: "name", 4: "name", 5: "name", 6: "name", 7: "node", 8: "doc", 11: "attribute", 12: "value", 14: "metadata",
    },  # fmt: skip
}


def label(data):
    """One letter-like code per byte of the file: what the innermost field it belongs to is."""
    what = ["structure"] * len(data)

    def walk(kind, at, end):
        while at < end:
            start = at
            key, at = varint(data, at)
            number, wire = key >> 3, key & 7
            if wire == 2:
                length, at = varint(data, at)
                inner, at = at, at + length
            elif wire == 0:
                inner = at
                _, at = varint(data, at)
            else:
                inner, at = at, at + (4 if wire == 5 else 8)
            assert at <= end
            is_a = KINDS[kind].get(number)
            if is_a in KINDS:
                walk(is_a, inner, at)
            elif is_a == "payload":
                what[inner:at] = ["payload"] * (at - inner)
            elif is_a is not None:
                what[start:at] = [is_a] * (at - start)
        assert at == end

    walk("model", 0, len(data))
    return what
