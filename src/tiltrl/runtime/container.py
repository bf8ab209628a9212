"""What is inside an ONNX file, read without onnx: its metadata, and whether it is one file and one plain graph.

onnxruntime would follow a tensor to another file and run graphs within graphs. An exported policy has neither, so
anything of the kind is refused before onnxruntime sees a byte. Only that much of the protobuf encoding is read here:
https://protobuf.dev/programming-guides/encoding, with the numbers of fields from onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 14: "metadata"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor"},
}
_INNER, _SPARSE, _ELSEWHERE = "a graph within its graph", "sparse tensors", "weights in another file"
_REFUSED: Mapping[str, Mapping[int, str]] = {
    "model": {20: "instructions for training", 25: "functions"},
    "graph": {15: _SPARSE},
    "attribute": {6: _INNER, 11: _INNER, 22: _SPARSE, 23: _SPARSE},
    "tensor": {13: _ELSEWHERE, 14: _ELSEWHERE},
}
_VARINT, _EIGHT, _SIZED, _FOUR = 0, 1, 2, 5
_KEY, _VALUE = 1, 2


def metadata(content: bytes) -> dict[str, str]:
    """The metadata of an ONNX model.

    Raises:
        ValueError: it is no model, is cut short, or holds what no exported policy does; says which.
    """
    found: dict[str, str] = {}
    graphs = 0
    todo = [("model", memoryview(content))]
    while todo:
        kind, message = todo.pop()
        for number, value in _fields(message):
            if what := _REFUSED.get(kind, {}).get(number):
                if value != 0:  # 0 says that a tensor's data is in its place
                    raise ValueError(f"it holds {what}")
            inner = _INSIDE.get(kind, {}).get(number)
            if inner is None or isinstance(value, int):
                continue
            if inner == "metadata":
                entry = {n: str(text, "utf-8") for n, text in _fields(value) if not isinstance(text, int)}
                found[entry.get(_KEY, "")] = entry.get(_VALUE, "")
            else:
                graphs += inner == "graph"
                todo.append((inner, value))
    if not graphs:
        raise ValueError("it holds no graph")
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message; numbers of fixed size, which nothing here asks for, are bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if tag >= 1 << 32:  # other readers would take its last 32 bits, and so see another field
            raise ValueError("it is no protobuf message")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _SIZED:
            size, at = _varint(message, at)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            raise ValueError("it is no protobuf message")
        if size > len(message) - at:
            raise ValueError("it is cut short")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("it is no protobuf message")
