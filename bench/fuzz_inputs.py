"""Inputs for the fuzzer: how a sound one is spoilt, the words of HTTP and of predictions, and sound requests."""

from __future__ import annotations

import json
import random
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "serving"))

from wire_harness import head, infer, values

Rng = random.Random
_NUMBERS = [b"0", b"1", b"-1", b"255", b"256", b"65536", b"2147483648", b"4294967296", b"9223372036854775807", b"1e9"]
_MOST_BYTES = 20_000
_ODD = [
    json.dumps(value)
    for value in (
        *(None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, 2**64, 0.5, -0.0, 1e308, "", "a", "a/0", "wind", "X"),
        *(
            "probability",
            "FP64",
            "FP16",
            "INT64",
            "UINT8",
            "BYTES",
            "BOOL",
            "FP8",
            [],
            {},
            [1],
            [[1.0]],
            [None],
            [1, 3],
        ),
        *([1, 3], [10001], [-1], [0, 3], {"name": "X"}, {"binary_data_size": 12}, {"binary_data": True}, "\0"),
        *(
            "\u00e9" * 300,
            [1] * 11,
            [[1, 2], [3]],
            "k=v",
            "2013-04-01T10:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "0001-01-01",
            [0.5] * 6,
        ),
        *([True] * 3, ["1"], [[[]]]),
    )
]
HTTP_WORDS = [
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"\r\n",
    ),
    *(b"\n", b"\r", b"\0", b"0\r\n\r\n", b"1;a=b\r\nx\r\n", b"ffffffffffffffff\r\n", b"Expect: 100-continue\r\n"),
    *(b"Host: localhost\r\n", b"Host: evil\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"),
    *(
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"HTTP/0.9",
        b"PRI * HTTP/2.0",
        b"CONNECT ",
        b"OPTIONS * ",
        b"HEAD ",
        b"PUT ",
        b"%2e%2e",
    ),
    *(b"http://localhost/", b"//", b"/..", b"%25", b"%00", b"%ff", b"?", b"#", b";", b"Content-Encoding: gzip\r\n"),
    *(b"Inference-Header-Content-Length: 10\r\n", b"Origin: null\r\n", b"Sec-Fetch-Site: cross-site\r\n"),
    *(b"Authorization: Bearer x\r\n", b"Authorization: Basic eDp5\r\n", b"Cookie: lw_session=x\r\n", b"X: y\r\n" * 60),
    *(b"Content-Type: text/plain\r\n", b"Content-Type: application/json\r\n", b" folded\r\n", b"\t", b"a" * 9000),
]
JSON_WORDS = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity"),
    *(b"1e999", b"-0", b"0.1", b"1e-400", b"18446744073709551616", b"-9223372036854775809", b"0" * 400, b"9" * 5000),
    *(
        b'"\\ud800"',
        b'"\\u0000"',
        b"\xff",
        b"\xed\xa0\x80",
        b"[" * 600,
        b'{"a":' * 300,
        b'"id"',
        b'"inputs"',
        b'"name"',
    ),
    *(
        b'"shape"',
        b'"datatype"',
        b'"data"',
        b'"parameters"',
        b'"outputs"',
        b'"binary_data_size"',
        b'"time"',
        b'"subject"',
    ),
    *(
        b'"BYTES"',
        b'"FP16"',
        b'"FP64"',
        b'"INT64"',
        b'"BOOL"',
        b'"UINT64"',
        b"[1]",
        b"[-1]",
        b"[10001]",
        b"[1,3]",
        b"[]",
    ),
    *(b'"wind"', b'"2013-04-01T10:00:00Z"', b'"9999-12-31T23:59:59-23:59"', b'"binary_data_output"', b'"kind=value"'),
]


def mutate(rng: Rng, seeds: list[bytes], words: list[bytes]) -> bytes:
    """A seed with one to eight changes of a kind each."""
    roll = rng.random
    data = bytearray(seeds[int(roll() * len(seeds))])
    while True:
        size = len(data)
        at = int(roll() * (size + 1))
        kind = int(roll() * 9)
        if kind == 0 and size:
            data[at - 1] ^= 1 << int(roll() * 8)
        elif kind == 1 and size:
            data[at - 1] = int(roll() * 256)
        elif kind == 2:
            del data[at : at + 1 + int(roll() * roll() * 30)]
        elif kind == 3:
            data[at:at] = data[at : at + 1 + int(roll() * roll() * 60)] * (1 + int(roll() * 3))
        elif kind == 4:
            data[at:at] = words[int(roll() * len(words))]
        elif kind == 5:
            other = seeds[int(roll() * len(seeds))]
            cut = int(roll() * (len(other) + 1))
            data[at:] = other[cut:]
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            word = words[int(roll() * len(words))]
            data[at : at + len(word)] = word
        else:
            _number(rng, data, at)
        if roll() < 0.35 or len(data) > _MOST_BYTES:
            return bytes(data)


def _number(rng: Rng, data: bytearray, at: int) -> None:
    """Another number in the place of the next one."""
    start = next((place for place in range(at, min(len(data), at + 200)) if 48 <= data[place] <= 57), None)
    if start is None:
        return
    end = start
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    data[start:end] = _NUMBERS[int(rng.random() * len(_NUMBERS))]


def bodies_of_predictions() -> list[bytes]:
    grid = {
        "id": "g",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [2, 3], "data": [1.0, 2, 3, 4, 5.5, None]}],
    }
    nested = {"inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 3], "data": [[1.0, 2.0, 3.0]]}]}
    more = values(
        parameters={"time": "2013-04-01T10:00:00Z", "subject": "passenger=17", "binary_data_output": True},
        outputs=[{"name": "probability", "parameters": {"binary_data": False}}],
    )
    return [json.dumps(body, separators=(",", ":")).encode() for body in (values(), more, grid, nested)]


def binary_body() -> tuple[bytes, int]:
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]}
    start = json.dumps(body).encode()
    return start + struct.pack("<3f", 1, 2, 3), len(start)


def http_seeds() -> list[bytes]:
    bodies = bodies_of_predictions()
    chunked = (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (bodies[0][:9], bodies[0][9:])) + b"0\r\nX: y\r\n\r\n"
    )
    binary, size = binary_body()
    grid = "/v2/models/grid/infer"
    return [
        *(infer(body) for body in bodies[:2]),
        *(infer(body, path=grid) for body in bodies[2:]),
        infer(binary, f"Inference-Header-Content-Length: {size}", path=grid),
        infer(zlib.compress(bodies[0]), "Content-Encoding: deflate"),
        head("POST", "/v2/models/delay/infer", "Transfer-Encoding: chunked") + chunked,
        head("GET", "/v2/models/delay/versions/1/ready"),
        head("GET", "http://localhost/v2/health/live", "Connection: close"),
        head("POST", "/v2/repository/index", "Content-Length: 2", "Expect: 100-continue") + b"{}",
        b"GET /v2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        head() * 3,
    ]


def bend(rng: Rng, seed: bytes) -> bytes:
    """A JSON document with one to three of its values replaced, left out or written twice."""
    document: Any = json.loads(seed)
    for _ in range(1 + int(rng.random() * 3)):
        _bend(rng, document)
    return json.dumps(document).encode()


def _bend(rng: Rng, at: Any) -> None:
    while at:
        keys = list(at) if type(at) is dict else range(len(at))
        key = keys[int(rng.random() * len(keys))]
        if isinstance(at[key], dict | list) and at[key] and rng.random() < 0.75:
            at = at[key]
            continue
        what = rng.random()
        if what < 0.7:
            at[key] = json.loads(_ODD[int(rng.random() * len(_ODD))])
        elif what < 0.85:
            del at[key]
        elif type(at) is list:
            at.append(json.loads(json.dumps(at[key])))
        else:
            at["parameters"] = {"binary_data_size": 12, "binary_data_output": True, "time": at[key]}
        return


def http_json(rng: Rng, bodies: list[bytes]) -> bytes:
    """A sound request with a bent body."""
    endpoint = ("delay", "grid", "mixed")[int(rng.random() * 3)]
    return infer(bend(rng, bodies[int(rng.random() * len(bodies))]), path=f"/v2/models/{endpoint}/infer")


def mend_length(rng: Rng, data: bytes) -> bytes:
    """The Content-Length of a request set to what follows its head."""
    start, blank, body = data.partition(b"\r\n\r\n")
    return re.sub(rb"(?i)(content-length: *)\d+", rb"\g<1>%d" % len(body), start, count=1) + blank + body


def cut(rng: Rng, data: bytes) -> list[bytes]:
    """The input as it may arrive: whole, or in pieces."""
    if rng.random() < 0.7 or len(data) < 2:
        return [data]
    places = sorted(int(rng.random() * len(data)) for _ in range(1 + int(rng.random() * 3)))
    return [data[low:high] for low, high in zip([0, *places], [*places, len(data)], strict=True)]
