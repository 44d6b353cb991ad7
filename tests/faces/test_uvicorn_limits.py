"""What no client can do to control: each case over a real socket, to uvicorn with the parser that control has."""

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from loopwright.faces import processes
from loopwright.faces.listener import Limits, Listener
from loopwright.project import server


class Hasty(Listener):
    """A listener whose patience and places are few."""

    limits = Limits(
        connections=8, head_s=0.6, request_s=1.2, idle_s=1.2, unread_s=1.0,
        framing_bytes=5000, head_bytes=10_000, chunks=100, waiting=16, slow_s=0.2,
    )  # fmt: skip


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the path and the size of the body; `/large` with much, `/slow` after a while."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        if message["type"] == "http.disconnect":
            return
    body = b"%b %d\n" % (scope["raw_path"], size)
    if scope["path"] == "/large":
        body = body.ljust(4 << 20)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    [listening], _ = processes.listen(0)
    config = uvicorn.Config(echo, lifespan="off", log_level="critical", http=Hasty, loop="uvloop", ws="none")
    made = uvicorn.Server(config)
    thread = threading.Thread(target=made.run, args=([listening],))
    thread.start()
    yield int(listening.getsockname()[1])
    made.should_exit = True
    thread.join()


def say(port: int, *pieces: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
        out = b""
        with contextlib.suppress(ConnectionError):
            while piece := client.recv(1 << 20):
                out += piece
        return out


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


LAST = head("GET", "/last", "Connection: close")
CHUNKED = head("POST", "/x", "Transfer-Encoding: chunked")
REFUSED: dict[str, tuple[bytes, int]] = {
    "length and chunks": (head("POST", "/x", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "two lengths": (head("POST", "/x", "Content-Length: 2", "Content-Length: 2") + b"{}", 400),
    "another coding": (head("POST", "/x", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
    "chunked twice": (head("POST", "/x", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "chunked for an old client": (b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "a folded header": (head("GET", "/x", "X: a\r\n b"), 400),
    "bare line feeds": (b"GET /x HTTP/1.1\nHost: a\n\n", 400),
    "a NUL": (head("GET", "/x", "X: a\0b"), 400),
    "two hosts": (head("GET", "/x", "Host: b"), 400),
    "no host": (b"GET /x HTTP/1.1\r\n\r\n", 400),
    "two credentials": (head("GET", "/x", "Authorization: Bearer a", "Authorization: Bearer b"), 400),
    "another host in the target": (head("GET", "http://b/x"), 400),
    "a tunnel": (head("CONNECT", "a:1"), 400),
    "the server itself": (head("OPTIONS", "*"), 400),
    "HTTP/2": (b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100, 400),
    "nonsense": (b"hello\r\n\r\n", 400),
    "many headers": (head("GET", "/x", *[f"X-{n}: y" for n in range(100)]), 431),
    "a long header": (head("GET", "/x", "X: " + "y" * 11_000), 431),
    "a head without end": (b"GET /x HTTP/1.1\r\nX: " + b"y" * 50_000, 431),
    "a long path": (head("GET", "/" + "x" * 8200), 414),
    "many trailers": (CHUNKED + b"0\r\n" + b"X: y\r\n" * 200, 431),
    "tiny chunks": (CHUNKED + b"1\r\n \r\n" * 200, 413),
    "a long extension": (CHUNKED + b"1;" + b"x" * 40_000, 413),
    "an endless chunk size": (CHUNKED + b"0" * 40_000, 413),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_ends_the_connection_and_reaches_nothing(port: int, name: str) -> None:
    sent, status = REFUSED[name]
    got = say(port, sent + LAST)
    assert got.startswith(b"HTTP/1.1 %d " % status), got
    assert b"/last" not in got and got.count(b"HTTP/1.1 ") == 1
    assert b"content-type: application/json\r\nx-content-type-options: nosniff" in got


def test_what_is_sound_is_answered_in_order(port: int) -> None:
    chunks = CHUNKED + b"3;a=b\r\nabc\r\n0\r\nHost: evil\r\n\r\n"
    got = say(port, b"\r\n" + head("GET", "/1?q") + chunks + head("GET", "http://A/2") + head("GET", "/%2e%2f") + LAST)
    assert [line for line in got.split(b"\n") if line.startswith(b"/")] == [
        b"/1 0",
        b"/x 3",
        b"/2 0",
        b"/%2e%2f 0",
        b"/last 0",
    ]
    upgrade = head("GET", "/u", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    assert b"/u 0\n" in say(port, upgrade)
    many = say(port, head("GET", "/n") * 1000 + LAST)
    assert many.count(b"/n 0\n") == 1000 and many.endswith(b"/last 0\n")


def test_those_before_a_refused_request_are_answered(port: int) -> None:
    got = say(port, head("GET", "/1") + head("GET", "/2") + b"nonsense\r\n\r\n" + LAST)
    assert b"/1 0\n" in got and b"/last" not in got
    got = say(port, head("GET", "/1"), head("GET", "/2") + CHUNKED + b"1\r\n \r\n" * 200 + LAST)
    assert b"/1 0\n" in got and b"/last" not in got


def test_slow_heads_slow_bodies_and_silence_have_an_end(port: int) -> None:
    began = time.monotonic()
    assert say(port, b"GET /x HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408")
    assert say(port, head("POST", "/x", "Content-Length: 10") + b"12").startswith(b"HTTP/1.1 408")
    assert say(port) == b"" and say(port, b"\r\n\r\n") == b""
    assert time.monotonic() - began < 30


def test_a_drip_of_bytes_does_not_keep_a_request_open(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /x HTTP/1.1\r\n")
        client.settimeout(0.1)
        got = b""
        with contextlib.suppress(ConnectionError):
            while not got:
                client.sendall(b"X: y\r\n")
                with contextlib.suppress(TimeoutError):
                    got = client.recv(100)
        assert got.startswith(b"HTTP/1.1 408")


def test_a_client_that_never_reads_is_let_go(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(ConnectionError):
            for _ in range(200):
                client.sendall(head("GET", "/large"))
                time.sleep(0.05)


def test_idle_connections_make_room_and_busy_ones_stay(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(12)]
    try:
        assert b"/last 0" in say(port, LAST)
    finally:
        for client in idle:
            client.close()


def test_those_who_are_slow_to_ask_cannot_take_all_places(port: int) -> None:
    slow = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(8)]
    try:
        for client in slow:
            client.sendall(b"GET /x HTTP/1.1\r\n")
        until = time.monotonic() + 5
        while b"/last 0" not in say(port, LAST):
            assert time.monotonic() < until
    finally:
        for client in slow:
            client.close()


def test_control_itself_has_these_limits(served: tuple[Any, server.Running]) -> None:
    port = int(served[1].control_url.rsplit(":", 1)[1])
    host = f"Host: 127.0.0.1:{port}"
    many = "\r\n".join(["GET /health HTTP/1.1", host, *[f"X-{n}: y" for n in range(100)], "", ""])
    assert say(port, many.encode()).startswith(b"HTTP/1.1 431")
    two = f"GET /health HTTP/1.1\r\n{host}\r\n{host}\r\n\r\n"
    assert say(port, two.encode()).startswith(b"HTTP/1.1 400")
    lines = (
        "POST /v2/repository/index HTTP/1.1",
        host,
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        "",
        "0\r\n\r\n",
    )
    assert say(port, "\r\n".join(lines).encode()).startswith(b"HTTP/1.1 400")
    fine = f"GET /health HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n"
    assert say(port, fine.encode()).startswith(b"HTTP/1.1 200")


def test_control_hands_predictions_on_as_they_are(served: tuple[Any, server.Running]) -> None:
    port = int(served[1].control_url.rsplit(":", 1)[1])
    host = f"Host: 127.0.0.1:{port}"

    def get(path: str) -> bytes:
        return say(port, f"GET {path} HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n".encode())

    assert get("/v2/models/t%69ny").startswith(b"HTTP/1.1 200") and get("/v2").startswith(b"HTTP/1.1 200")
    assert get("/v2/models/t%2569ny").startswith(b"HTTP/1.1 404")
    x = {"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}
    shop = {"name": "shop", "datatype": "BYTES", "shape": [1], "data": ["north"]}
    wanted = {"time": "2020-01-25T05:00:00Z", "binary_data_output": True}
    document = json.dumps({"parameters": wanted, "inputs": [x, shop]}).encode()
    lines = (
        "POST /v2/models/tiny/infer HTTP/1.1", host, "Connection: close", "Content-Type: application/octet-stream",
        f"Content-Length: {len(document) + 8}", f"Inference-Header-Content-Length: {len(document)}", "", "",
    )  # fmt: skip
    got = say(port, "\r\n".join(lines).encode() + document + struct.pack("<d", 0.5))
    assert got.startswith(b"HTTP/1.1 200") and b"inference-header-content-length: " in got
    assert 0 < struct.unpack("<d", got[-8:])[0] < 1
