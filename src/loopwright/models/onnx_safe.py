"""What may be served of an ONNX file: plain operators and weights of its own, nothing that reads elsewhere.

Walks the file's protobuf fields by itself, so that a worker needs no onnx package and nothing is run to find out.
Source: onnx.proto3 (field numbers) and the protobuf encoding.
"""

from collections.abc import Iterator

from loopwright.kernel.errors import Corrupt, Unsupported

MAX_BYTES = 256 << 20
DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml")
_MAX_DEPTH = 16
_VARINT, _LONG, _BYTES, _SHORT = 0, 1, 2, 5

# message -> field number -> what its bytes are
_MODEL = {7: "graph", 8: "opset", 20: "refused training", 25: "refused functions"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_NODE = {5: "attribute", 7: "domain"}
_ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_INNER: dict[str, dict[int, str]] = {
    "model": _MODEL,
    "graph": _GRAPH,
    "node": _NODE,
    "attribute": _ATTRIBUTE,
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "refused data outside the file", 14: "location"},
    "opset": {1: "domain"},
}


def check(data: bytes) -> None:
    """Refuse a file that a worker should not load.

    Raises:
        Corrupt: it is no ONNX file.
        Unsupported: it is too large, or holds operators of another domain, functions, or data outside itself.
    """
    if len(data) > MAX_BYTES:
        message = f"an ONNX model has at most {MAX_BYTES >> 20} MB, not {len(data) >> 20}"
        raise Unsupported(message, code="model.size", hint="use fewer or smaller trees")
    if not _walk(memoryview(data), "model", 0):
        raise Corrupt("the package's file is no ONNX model", code="model.onnx", hint="lw fsck")


def _walk(data: memoryview, kind: str, depth: int) -> bool:
    """Look through one message; whether it holds a graph."""
    if depth > _MAX_DEPTH:
        raise Unsupported("the ONNX model nests graphs too deep", code="model.onnx")
    inner, graph = _INNER[kind], False
    for number, value in _fields(data):
        what = inner.get(number)
        if what is None:
            continue
        graph = graph or what == "graph"
        if what.startswith("refused ") or (what == "location" and value != 0):
            raise Unsupported(
                f"an ONNX model with {what.removeprefix('refused ')} is not served", code="model.onnx", field="fitted"
            )
        if isinstance(value, int):
            continue
        if what == "domain":
            _check_domain(bytes(value))
        else:
            _walk(value, what, depth + 1)
    return graph


def _check_domain(domain: bytes) -> None:
    if domain not in DOMAINS:
        named = domain.decode("utf-8", "replace")[:100]
        message = f"the ONNX model has operators of {named!r}; only those of ONNX itself are served"
        raise Unsupported(message, code="model.domain", field="fitted")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message; bytes for nested messages and texts, numbers for the rest."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in (_LONG, _SHORT):
            size = 8 if wire == _LONG else 4
        else:
            raise _broken()
        if place + size > end:
            raise _broken()
        if wire == _BYTES:
            yield number, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise _broken()
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _broken()


def _broken() -> Corrupt:
    return Corrupt("the package's file is no whole ONNX model", code="model.onnx", hint="lw fsck")
