"""What the wire says of itself, and what it refuses: each with its status, nothing kept, the connection usable."""

import gzip
import json
import socket
import struct
import threading
from typing import Any

import pytest
from worker_harness import AT, VALUES, Running, ask, post, stored

from loopwright.serving import predictions
from loopwright.store.space import Space

# The wire knows no database: once is enough.
pytestmark = pytest.mark.parametrize("ground", ["sqlite"], indirect=True)


def bent(**change: Any) -> dict[str, Any]:
    """A request whose tensor `wind` is changed."""
    body = ask()
    body["inputs"][0] = {**body["inputs"][0], **change}
    return body


def without(key: str) -> dict[str, Any]:
    body = ask()
    del body["inputs"][0][key]
    return body


BAD: dict[str, tuple[Any, str]] = {
    "wrong datatype": (bent(datatype="BYTES"), "wind"),
    "wrong type": (bent(data=["12.5"]), "wind"),
    "boolean for a number": (bent(data=[True]), "wind"),
    "fraction for a whole number": (ask({**VALUES, "hour": 7.5}), "hour"),
    "whole number beyond 64 bits": (ask({**VALUES, "hour": 2**63}), "hour"),
    "number for text": (ask({**VALUES, "dest": 7}), "dest"),
    "number for a boolean": (ask({**VALUES, "wet": 1}), "wet"),
    "forbidden null": (ask({**VALUES, "hour": None}), "hour"),
    "missing column": (ask({k: v for k, v in VALUES.items() if k != "wet"}), "wet"),
    "unknown column": (ask({**VALUES, "extra": 1.0}), "extra"),
    "column twice": ({**ask(), "inputs": [*ask()["inputs"], ask()["inputs"][0]]}, "wind"),
    "wrong shape": (bent(shape=[2]), "wind"),
    "no rows": (bent(shape=[0], data=[]), "wind"),
    "negative shape": (bent(shape=[-1]), "wind"),
    "matrix": (bent(shape=[1, 2], data=[[1.0, 2.0]]), "wind"),
    "too many rows": (bent(shape=[10_001], data=[1.0] * 10_001), "wind"),
    "differing length": (ask({**VALUES, "hour": [7, 8]}), "hour"),
    "data not a list": (bent(data=12.5), "wind"),
    "no data": (without("data"), "wind"),
    "no datatype": (without("datatype"), "wind"),
    "no name": (without("name"), "inputs"),
    "no inputs": ({"id": "x"}, "inputs"),
    "inputs not a list": ({"inputs": {"wind": 1}}, "inputs"),
    "an input that is no object": ({"inputs": [1]}, "inputs"),
    "body not an object": ([1, 2], "body"),
    "infinite by size": (b'{"inputs":[{"name":"wind","datatype":"FP64","shape":[1],"data":[1e999]}]}', "wind"),
    "not a number": (b'{"inputs":[{"name":"wind","datatype":"FP64","shape":[1],"data":[NaN]}]}', "wind"),
    "infinite": (b'{"inputs":[{"name":"wind","datatype":"FP64","shape":[1],"data":[-Infinity]}]}', "wind"),
    "id not text": ({**ask(), "id": 7}, "id"),
    "id zero": ({**ask(), "id": 0}, "id"),
    "id too long": (ask(id="x" * 257), "id"),
    "id with a line break": (ask(id="a\nb"), "id"),
    "id like a row of a batch": (ask(id="a/0"), "id"),
    "parameters not an object": ({**ask(), "parameters": [1]}, "parameters"),
    "time not a time": (ask(time="yesterday"), "parameters.time"),
    "time before all times": (ask(time="0001-01-01T00:00:00Z"), "parameters.time"),
    "time after all times": (ask(time="9999-12-31T23:59:59-23:00"), "parameters.time"),
    "time not text": (ask(time=1364810400), "parameters.time"),
    "subject without kind": (ask(subject="17"), "parameters.subject"),
    "subject not text": (ask(subject=17), "parameters.subject"),
    "unknown output": ({**ask(), "outputs": [{"name": "class"}]}, "outputs"),
}


def test_bad_requests_name_the_field_and_leave_nothing_behind(worker: Running, ready: Space) -> None:
    before = stored(ready)
    for name, (body, field) in BAD.items():
        answer = worker.http.post(
            "/v2/models/delay/infer", content=body if isinstance(body, bytes) else json.dumps(body).encode()
        )
        said = answer.json()
        assert (answer.status_code, said["field"]) == (422, field), (name, said)
        assert said["error"] == said["message"] and said["code"], name
    rows = worker.infer(ask({**VALUES, "hour": [1, 2, None]} | {k: [v] * 3 for k, v in VALUES.items() if k != "hour"}))
    assert "row 2" in rows.json()["error"]
    assert stored(ready) == before
    assert worker.infer(ask()).status_code == 200


MALFORMED = [
    *(b"", b"{", b'{"inputs": [}', b"\xff\xfe", b'"\\ud800"', b"[" * 3000, b"NaN NaN", b'{"id": NaN'),
    b'{"inputs":[{"name":"wind","data":[' + b"1" * 5000 + b"]}], NaN}",
    json.dumps(ask()).encode()[:-1] + b', "note": NaN}',
    json.dumps(ask(note="\ud800")).encode()[:-1] + b', "note": NaN}',
]


def test_malformed_json_is_400(worker: Running, ready: Space) -> None:
    before = stored(ready)
    for body in MALFORMED:
        answer = worker.http.post("/v2/models/delay/infer", content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "body.json"), body
    assert stored(ready) == before


PATHS = [
    ("POST", "/v2/models/nobody/infer", 404),
    ("GET", "/v2/models/nobody", 404),
    ("GET", "/v2/models/nobody/ready", 404),
    ("GET", "/v2/models/delay/versions/9", 404),
    ("GET", "/v2/models/delay/versions/9/ready", 404),
    ("POST", "/v2/models/delay/versions/x/infer", 404),
    ("GET", "/", 404),
    ("GET", "/v2/models/%2e%2e/infer/..", 404),
    ("GET", "/v2/models/delay/infer", 405),
    ("PUT", "/v2/models/delay/infer", 405),
    ("POST", "/v2/models/delay", 405),
    ("OPTIONS", "/v2/health/live", 405),
]


def test_unknown_paths_and_methods(worker: Running) -> None:
    for method, path, status in PATHS:
        answer = worker.http.request(method, path, content=b"{}" if method in ("POST", "PUT") else None)
        assert answer.status_code == status, (method, path)
        assert (status == 405) == ("allow" in answer.headers)
        assert answer.json()["error"]


FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


def test_the_door(worker: Running, ready: Space) -> None:
    before = stored(ready)
    for headers in FOREIGN:
        answer = worker.infer(ask(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "door.refused"), headers
        assert worker.http.get("/v2/models/delay", headers=headers).status_code == 403
    assert stored(ready) == before
    own = {"Host": f"localhost:{worker.port}", "Origin": f"http://localhost:{worker.port}", "Sec-Fetch-Site": "none"}
    assert worker.infer(ask(), headers=own).status_code == 200


def test_a_large_body_is_refused_before_it_is_read(worker: Running, ready: Space) -> None:
    head = b"POST /v2/models/delay/infer HTTP/1.1\r\nHost: localhost\r\n"
    got = worker.raw(head + b"Content-Length: 16777217\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413") and b"Connection: close" in got
    got = worker.raw(head + b"Content-Length: 16777217\r\nExpect: 100-continue\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413")
    piece = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as client:
        client.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        sender = threading.Thread(target=lambda: [client.send(piece) for _ in range(17)], daemon=True)
        sender.start()
        assert client.recv(65536).startswith(b"HTTP/1.1 413")
    assert list((ready.home / "spool").iterdir()) == []
    assert worker.infer(ask()).status_code == 200


def test_chunked_bodies_and_expectations(worker: Running) -> None:
    body = json.dumps(ask(id="c")).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:300], body[300:])) + b"0\r\n\r\n"
    head = b"POST /v2/models/delay/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert worker.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as client:
        client.sendall(head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    assert worker.raw(head + b"Content-Length: 2\r\nExpect: a miracle\r\n\r\n{}").startswith(b"HTTP/1.1 417")


def test_old_clients_heads_and_broken_requests(worker: Running) -> None:
    got = worker.raw(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200") and b"Connection: close" in got and got.endswith(b'{"live":true}')
    got = worker.raw(b"HEAD /v2/models/delay HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and b"Content-Length: " in head and body == b""
    assert worker.raw(b"GET / HTTP/1.1\r\n\r\n", close=True).startswith(b"HTTP/1.1 400")
    assert worker.raw(b"hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert worker.raw(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 414")
    assert worker.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000).startswith(b"HTTP/1.1 431")
    two = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"
    assert worker.raw(post(b"", two.decode().strip())).startswith(b"HTTP/1.1 400")
    upgrade = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert worker.raw(upgrade).startswith(b"HTTP/1.1 200")
    assert worker.raw(b"GET http://localhost/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n", close=True).startswith(
        b"HTTP/1.1 200"
    )
    half = post(ask(id="half"))
    assert worker.raw(half, close=True).startswith(b"HTTP/1.1 200")
    assert worker.raw(half[:-40], close=True) == b""


def test_requests_in_small_pieces(worker: Running) -> None:
    data = post(ask(id="slow"), "Connection: close")
    with socket.create_connection(("127.0.0.1", worker.port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(0, len(data), 11):
            client.sendall(data[place : place + 11])
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_refused_bodies_leave_the_connection_usable(worker: Running) -> None:
    sent = post(b"x" * 100_000, path="/v2/models/nobody/infer") + post(b"{") + post(ask(), host="evil.example")
    got = worker.raw(sent + post(ask(), "Connection: close"))
    assert [got.count(b"HTTP/1.1 %d" % status) for status in (404, 400, 403, 200)] == [1, 1, 1, 1]


def test_metadata(worker: Running) -> None:
    about = {"name": "loopwright", "version": "0.1.0", "extensions": ["binary_tensor_data"]}
    assert worker.http.get("/v2").json() == about
    assert worker.http.get("/v2/health/ready").json() == {"ready": True}
    assert worker.http.get("/v2/models/delay/ready").json() == {"name": "delay", "ready": True}
    assert worker.http.get("/v2/models/delay/versions/2/ready").json() == {"name": "delay", "ready": True}
    about = worker.http.get("/v2/models/delay").json()
    assert (about["name"], about["versions"]) == ("delay", ["1", "2"])
    assert {t["name"]: (t["datatype"], t["shape"], t["parameters"]["nullable"]) for t in about["inputs"]} == {
        "wind": ("FP64", [-1], True), "dest": ("BYTES", [-1], True),
        "hour": ("INT64", [-1], False), "wet": ("BOOL", [-1], False),
    }  # fmt: skip
    assert about["outputs"] == [{"name": "probability", "datatype": "FP64", "shape": [-1]}]


def test_binary_and_compressed_requests_are_logged_like_any_other(worker: Running, ready: Space) -> None:
    body = json.dumps(ask({**VALUES, "wind": 3.5}, id="packed")).encode()
    sent = {"Inference-Header-Content-Length": str(len(body)), "Content-Encoding": "gzip"}
    first = worker.http.post("/v2/models/delay/infer", content=gzip.compress(body), headers=sent)
    assert first.status_code == 200
    again = worker.infer({**json.loads(body), "parameters": {"time": AT, "binary_data_output": True}})
    size = int(again.headers["Inference-Header-Content-Length"])
    said = json.loads(again.content[:size])
    assert said["parameters"] == first.json()["parameters"]
    assert struct.unpack("<d", again.content[size:]) == tuple(first.json()["outputs"][0]["data"])
    assert predictions.find(ready, "packed").inputs["wind"] == 3.5


def test_no_user_text_in_events(worker: Running, ready: Space) -> None:
    worker.infer(ask({**VALUES, "dest": "secret-town"}, id="secret-id", subject="name=secret-person"))
    assert predictions.find(ready, "secret-id").inputs["dest"] == "secret-town"
    with ready.read() as tx:
        assert "secret" not in repr([tuple(row) for row in tx.query("SELECT * FROM events")])
    assert AT.startswith("2013")
