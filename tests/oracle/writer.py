"""Writes an onnx ModelProto so that the large payloads stay where a board can map them: for tests that spoil one thing in a
file and must not spoil the alignment too. Follows docs/format.md; serialises everything but the layout with onnx itself.
"""

ALIGNMENT = 64


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


def aligned(model):
    tensors = list(model.graph.initializer)
    rest = type(model)()
    rest.CopyFrom(model)
    del rest.graph.initializer[:]
    graph = rest.graph.SerializeToString()
    rest.ClearField("graph")
    head = rest.SerializeToString()
    # The width of the graph's own length decides where everything lies.
    for width in range(1, 6):
        at = len(head) + 1 + width
        body = bytearray(graph)
        for place, tensor in enumerate(tensors):
            tail = delimited(12, bytes(128)) if place + 1 == len(tensors) else b""
            body += placed(tensor, at + len(body), tail)
        if len(varint(len(body))) == width:
            return head + delimited(7, bytes(body))
    raise AssertionError("no width fits")


def placed(tensor, at, tail):
    bare = type(tensor)()
    bare.CopyFrom(tensor)
    bare.ClearField("raw_data")
    bare.ClearField("doc_string")
    fields = bare.SerializeToString()
    raw = delimited(9, tensor.raw_data)
    payload = len(raw) - len(tensor.raw_data)
    for padding in [b""] + [delimited(12, b" " * spaces) for spaces in range(2 * ALIGNMENT)]:
        whole = delimited(5, fields + padding + raw + tail)
        start = len(whole) - len(tail) - len(raw) + payload
        if (at + start) % ALIGNMENT == 0:
            return whole
    raise AssertionError("some padding aligns")
