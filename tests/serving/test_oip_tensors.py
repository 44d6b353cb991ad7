"""Tensors of the Open Inference Protocol in all their forms, and what of them is refused; the protocol alone."""

import json
import struct
from typing import Any

import pytest
from wire_harness import Wire, head, infer, values

GRID, MIXED, DELAY = (f"/v2/models/{name}/infer" for name in ("grid", "mixed", "delay"))


def matrix(data: list[Any], rows: int, width: int = 3, datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "X", "datatype": datatype, "shape": [rows, width], "data": data}], **more}


def asked(body: dict[str, Any] | bytes, path: str, *lines: str) -> list[list[Any]]:
    """The rows that the engine was asked for."""
    wire = Wire()
    got = wire.say(infer(body, *lines, path=path))
    assert got.startswith(b"HTTP/1.1 200"), got
    return [list(row) for ask in wire.engine.asked for row in ask.rows]


def refused(body: dict[str, Any] | bytes, path: str, *lines: str) -> tuple[int, str, str]:
    wire = Wire()
    got = wire.say(infer(body, *lines, path=path))
    said = json.loads(got.partition(b"\r\n\r\n")[2])
    assert said["error"] == said["message"] and wire.engine.asked == []
    return int(got[9:12]), said["code"], said["field"]


def test_a_matrix_is_all_columns_in_their_order() -> None:
    rows = [[1.5, 2.5, 3.5], [4.0, 5.0, 6.0]]
    flat = [1.5, 2.5, 3.5, 4.0, 5.0, 6.0]
    for data in (flat, rows):
        assert asked(matrix(data, 2), GRID) == rows
    assert asked(matrix([1, 2, 3], 1, datatype="INT64"), GRID) == [[1.0, 2.0, 3.0]]
    assert asked(matrix([1, 2.5, None], 1), GRID) == [[1.0, 2.5, None]]
    made = asked(matrix([1.5, 7.0, 1.0, None, 8, 0], 2, datatype="FP64"), MIXED)
    assert made == [[1.5, 7, True], [None, 8, False]]
    assert [type(value) for value in made[0]] == [float, int, bool]
    assert asked(matrix([True, False, True], 1, datatype="BOOL"), MIXED) == [[1.0, 0, True]]


@pytest.mark.parametrize(
    ("body", "path", "field"),
    [
        (matrix([1.0, 2.0], 1, 2), GRID, "X"),
        (matrix([1.0, 2.0, 3.0], 2), GRID, "X"),
        (matrix([[1.0, 2.0], [3.0]], 1), GRID, "X"),
        (matrix([[1.0, 2.0, 3.0], [4.0, 5.0]], 2), GRID, "X"),
        (matrix([1.0, 2.0, "3"], 1), GRID, "f2"),
        (matrix([None, 2.0, 3.0], 1), GRID, "f0"),
        (matrix([1.0, 10**400, 3.0], 1), GRID, "f1"),
        (matrix([1.0, [2.0], 3.0], 1), GRID, "f1"),
        (matrix([1.0, 7.5, True], 1), MIXED, "hour"),
        (matrix([1.0, 2.0**63, True], 1), MIXED, "hour"),
        (matrix([1.0, 7, 2], 1), MIXED, "wet"),
        (matrix([], 0), GRID, "X"),
        (matrix([1.0], -1), GRID, "X"),
        (matrix([0.0] * 30_003, 10_001), GRID, "X"),
        (matrix([1.0, 2.0, 3.0], 1, datatype="BYTES"), GRID, "X"),
        (matrix([1.0, 2.0, 3.0], 1, datatype="FP8"), GRID, "X"),
        (matrix([1.0, "a", 3, True], 1, 4), DELAY, "dest"),
        ({"inputs": [{"name": 7, "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}]}, GRID, "inputs"),
        ({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3], "data": 7}]}, GRID, "X"),
        ({"inputs": [{"name": "X", "datatype": ["FP32"], "shape": [1, 3], "data": [1.0] * 3}]}, GRID, "X"),
        ({"inputs": [{"name": "X", "datatype": "FP32", "shape": [True, 3], "data": [1.0] * 3}]}, GRID, "X"),
    ],
)
def test_a_matrix_that_does_not_fit_names_what_is_wrong(body: dict[str, Any], path: str, field: str) -> None:
    status, _, said = refused(body, path)
    assert (status, said) == (422, field)


def test_a_matrix_with_infinite_values_is_refused() -> None:
    for token in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        body = json.dumps(matrix([1.5, 2.5, 3.5], 1)).encode().replace(b"2.5", token)
        assert refused(body, GRID)[0] == 422


def with_bytes(tensors: list[tuple[str, str, list[int], bytes]], **more: Any) -> tuple[bytes, str]:
    """A request with binary inputs, and its header."""
    inputs = [
        {"name": n, "datatype": d, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for n, d, shape, data in tensors
    ]
    start = json.dumps({"inputs": inputs, **more}).encode()
    return start + b"".join(data for *_, data in tensors), f"Inference-Header-Content-Length: {len(start)}"


def texts(*values: str) -> bytes:
    return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)


def test_binary_tensors_of_every_datatype() -> None:
    nan = float("nan")
    for code, float_type in (("d", "FP64"), ("f", "FP32"), ("e", "FP16")):
        for hour_code, hour in (("q", "INT64"), ("i", "INT32"), ("h", "INT16"), ("b", "INT8"),
                                ("Q", "UINT64"), ("I", "UINT32"), ("H", "UINT16"), ("B", "UINT8")):  # fmt: skip
            body, line = with_bytes(
                [
                    ("wind", float_type, [2], struct.pack(f"<2{code}", 1.5, nan)),
                    ("dest", "BYTES", [2, 1], texts("JFK", "Orléans")),
                    ("hour", hour, [2], struct.pack(f"<2{hour_code}", 7, 8)),
                    ("wet", "BOOL", [2], b"\1\0"),
                ]
            )
            assert asked(body, DELAY, line) == [[1.5, "JFK", 7, True], [None, "Orléans", 8, False]]
    body, line = with_bytes([("X", "FP16", [1, 3], struct.pack("<3e", 0.5, 1.5, 2.5))])
    assert asked(body, GRID, line) == [[0.5, 1.5, 2.5]]


def test_binary_and_json_tensors_stand_side_by_side() -> None:
    mixed = values()
    mixed["inputs"][0] = {"name": "wind", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    start = json.dumps(mixed).encode()
    line = f"Inference-Header-Content-Length: {len(start)}"
    assert asked(start + struct.pack("<d", 2.5), DELAY, line) == [[2.5, "JFK", 7, True]]
    whole = json.dumps(values()).encode()
    assert asked(whole, DELAY, f"Inference-Header-Content-Length: {len(whole)}") == [[1.5, "JFK", 7, True]]


BAD_BYTES: dict[str, tuple[tuple[str, str, list[int], bytes], int]] = {
    "half a number": (("X", "FP64", [1, 3], b"x" * 23), 400),
    "too few numbers": (("X", "FP32", [1, 3], b"x" * 8), 422),
    "another size": (("X", "FP64", [1, 3], struct.pack("<3f", 1, 2, 3)), 400),
    "infinite": (("X", "FP32", [1, 3], struct.pack("<3f", 1, float("inf"), 3)), 422),
    "a forbidden null": (("X", "FP32", [1, 3], struct.pack("<3f", float("nan"), 2, 3)), 422),
    "no datatype": (("X", "", [1, 3], b"x" * 24), 422),
    "text that is cut off": (("X", "BYTES", [1, 3], b"\5\0\0\0ab"), 400),
    "a length that is cut off": (("X", "BYTES", [1, 3], b"\5\0"), 400),
    "text past 32 bits": (("X", "BYTES", [1, 3], b"\xff\xff\xff\xff"), 400),
    "text that is no UTF-8": (("X", "BYTES", [1, 3], b"\1\0\0\0\xff"), 400),
    "text for numbers": (("X", "BYTES", [1, 3], texts("1", "2", "3")), 422),
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_binary_tensors_that_do_not_fit(name: str) -> None:
    tensor, status = BAD_BYTES[name]
    body, line = with_bytes([tensor])
    assert refused(body, GRID, line)[0] == status


def test_binary_bodies_are_what_their_headers_say() -> None:
    body, _ = with_bytes([("X", "FP32", [1, 3], struct.pack("<3f", 1, 2, 3))])
    size = len(body) - 12
    for announced in (size + 1, size - 1, 0, len(body), len(body) + 1, 10**14):
        assert refused(body, GRID, f"Inference-Header-Content-Length: {announced}")[0] == 400
    for text in ("-1", "+1", "x", "1e3", "9" * 20, "", "１"):
        sent = infer(body, path=GRID).replace(
            b"\r\n\r\n", f"\r\nInference-Header-Content-Length: {text}\r\n\r\n".encode(), 1
        )
        assert Wire().statuses(sent) == [400], text
    assert refused(body[:size], GRID)[:2] == (422, "input.form") or refused(body[:size], GRID)[0] == 422
    for announced_bytes in (11, 13, -1, True, "12", 12.0, 10**30, None):
        start = json.dumps(
            {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3],
                         "parameters": {"binary_data_size": announced_bytes}}]}
        ).encode()  # fmt: skip
        line = f"Inference-Header-Content-Length: {len(start)}"
        assert refused(start + struct.pack("<3f", 1, 2, 3), GRID, line)[0] == 400
    both = matrix([1.0, 2.0, 3.0], 1)
    both["inputs"][0]["parameters"] = {"binary_data_size": 12}
    start = json.dumps(both).encode()
    line = f"Inference-Header-Content-Length: {len(start)}"
    assert refused(start + struct.pack("<3f", 1, 2, 3), GRID, line)[0] == 400


def answered(got: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the bytes behind it of an answer with binary outputs."""
    start, _, body = got.partition(b"\r\n\r\n")
    lines = dict(line.split(": ") for line in start.decode().split("\r\n")[1:])
    assert lines["Content-Type"] == "application/octet-stream"
    size = int(lines["Inference-Header-Content-Length"])
    return json.loads(body[:size]), body[size:]


def test_outputs_are_binary_when_the_request_or_the_output_says_so() -> None:
    wire, data = Wire(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    yes, no = {"binary_data_output": True}, {"binary_data_output": False}
    own: Any = [{"name": "probability", "parameters": {"binary_data": True}}]
    not_own: Any = [{"name": "probability", "parameters": {"binary_data": False}}]
    for more in ({"parameters": yes}, {"outputs": own}, {"parameters": no, "outputs": own}):
        doc, behind = answered(wire.say(infer(matrix(data, 2, id="b", **more), path=GRID)))
        assert behind == struct.pack("<2d", 0.5, 0.5) and doc["id"] == "b"
        assert doc["outputs"] == [{"name": "probability", "datatype": "FP64", "shape": [2],
                                   "parameters": {"binary_data_size": 16}}]  # fmt: skip
    for more in ({"parameters": no}, {"outputs": not_own}, {"parameters": yes, "outputs": not_own}, {"outputs": []}):
        got = wire.say(infer(matrix(data, 2, **more), path=GRID))
        assert json.loads(got.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [0.5, 0.5]


@pytest.mark.parametrize(
    "more",
    [
        {"outputs": [{"name": "other"}]},
        {"outputs": [{"name": "probability"}] * 2},
        {"outputs": {"name": "probability"}},
        {"outputs": ["probability"]},
        {"outputs": [{"name": "probability", "parameters": {"classification": 2}}]},
        {"outputs": [{"name": "probability", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "probability", "parameters": 1}]},
        {"parameters": {"binary_data_output": "yes"}},
    ],
)
def test_outputs_that_are_not_there_are_refused(more: dict[str, Any]) -> None:
    assert refused(matrix([1.0, 2.0, 3.0], 1, **more), GRID)[0] == 422


def test_the_repository_is_listed_and_moved_by_gates_only() -> None:
    wire = Wire()

    def post(path: str, body: bytes = b"{}") -> tuple[int, Any]:
        got = wire.say(head("POST", path, f"Content-Length: {len(body)}") + body)
        return int(got[9:12]), json.loads(got.partition(b"\r\n\r\n")[2])

    wire.engine.targets["grid"].versions[0].predictor = None
    status, listed = post("/v2/repository/index")
    assert status == 200
    assert {(m["name"], m["version"], m["state"]) for m in listed} == {
        ("delay", "1", "READY"), ("grid", "1", "UNAVAILABLE"), ("mixed", "1", "READY"),
    }  # fmt: skip
    assert {m["name"] for m in post("/v2/repository/index", b'{"ready":true}')[1]} == {"delay", "mixed"}
    assert post("/v2/repository/index", b"")[0] == 200
    for body in (b"[]", b'{"ready":1}', b"{", b"null"):
        assert post("/v2/repository/index", body)[0] in (400, 422)
    for verb in ("load", "unload"):
        status, said = post(f"/v2/repository/models/delay/{verb}")
        assert (status, said["code"], said["hint"]) == (403, "repository.gated", "lw deploy delay")
        assert post(f"/v2/repository/models/nobody/{verb}")[0] == 404
    assert post("/v2/repository/models/delay/burn")[0] == 404
    assert wire.statuses(head("GET", "/v2/repository/index")) == [405]


def test_versions_are_asked_for_by_number() -> None:
    wire = Wire()
    assert wire.statuses(infer(values(), path="/v2/models/delay/versions/1/infer")) == [200]
    assert wire.engine.asked[0].pinned == 1
    for version in ("2", "01", "1.0", "%31%30", "latest", ""):
        assert wire.statuses(infer(values(), path=f"/v2/models/delay/versions/{version}/infer")) == [404]
    assert wire.statuses(infer(values(), path="/v2/models/del%61y/versions/%31/infer")) == [200]
