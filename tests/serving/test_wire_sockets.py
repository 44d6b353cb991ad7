"""A worker's HTTP over real sockets, with little patience: who waits, drips or does not read is let go."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop
from wire_harness import Engine, head, infer, values

from loopwright.serving.protocols.http import Server
from loopwright.serving.protocols.limits import Limits
from loopwright.serving.protocols.oip import Oip, render

LIMITS = Limits(connections=10, head_s=0.4, request_s=0.8, idle_s=1.0, unread_s=0.6)


async def serve(listening: socket.socket, faults: list[Any], stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: faults.append(context))
    engine: Any = Engine()
    made = Server(loop, engine, Oip(engine, "1", lambda: True), render, limit=LIMITS)
    listener = await loop.create_server(made.connection, sock=listening)
    while not stop.is_set():
        made.sweep()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)
    made.stop()
    listener.close()
    await asyncio.sleep(0)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listening, faults = socket.create_server(("127.0.0.1", 0)), []
    loop, stop = uvloop.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(listening, faults, stop),))
    thread.start()
    yield int(listening.getsockname()[1])
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()
    listening.close()
    assert faults == []


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def say(port: int, *pieces: bytes) -> bytes:
    with connect(port) as client:
        out = b""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                client.sendall(piece)
            while piece := client.recv(1 << 20):
                out += piece
        return out


LAST = head("GET", "/v2/health/live", "Connection: close")


def test_slow_requests_and_silence_have_an_end(port: int) -> None:
    assert say(port, b"GET /v2 HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408")
    assert say(port, infer(values())[:-1]).startswith(b"HTTP/1.1 408")
    assert say(port) == b"" and say(port, b"\r\n\r\n") == b""
    assert say(port, LAST).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("drip", [b"X: y\r\n", b"y"])
def test_a_drip_of_bytes_does_not_keep_a_request_open(port: int, drip: bytes) -> None:
    with connect(port) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nX: ")
        client.settimeout(0.05)
        got = b""
        with contextlib.suppress(ConnectionError):
            while not got:
                client.sendall(drip)
                with contextlib.suppress(TimeoutError):
                    got = client.recv(100)
        assert got.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("short", [0, 13], ids=["whole requests", "requests that are none"])
def test_a_client_that_never_reads_is_let_go_and_others_are_answered_meanwhile(port: int, short: int) -> None:
    with connect(port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.2)
        asks, gone = head("GET", "/v2/models/delay") * 500, False
        asks = asks[: len(asks) - short]
        until = time.monotonic() + 20
        while not gone and time.monotonic() < until:
            try:
                client.send(asks)
            except TimeoutError:
                assert say(port, LAST).startswith(b"HTTP/1.1 200")
            except ConnectionError:
                gone = True
        assert gone


def test_pipelined_requests_are_answered_in_their_order(port: int) -> None:
    ids = [f"r{number}" for number in range(3000)]
    got = say(port, b"".join(infer(values(id=each)) for each in ids) + LAST)
    assert [part.partition(b'"')[0].decode() for part in got.split(b'"id":"')[1:]] == ids
    assert got.endswith(b'{"live":true}')


def test_idle_connections_make_room_and_busy_ones_are_kept(port: int) -> None:
    with contextlib.ExitStack() as held:
        busy = held.enter_context(connect(port))
        busy.sendall(infer(values())[:-1])
        for _ in range(14):
            held.enter_context(connect(port))
        assert say(port, LAST).startswith(b"HTTP/1.1 200")
        busy.sendall(infer(values())[-1:])
        assert busy.recv(100).startswith(b"HTTP/1.1 200")


def test_when_all_are_busy_a_new_client_is_told_to_come_back(port: int) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(10):
            client = held.enter_context(connect(port))
            client.sendall(head("POST", "/v2/models/delay/infer", "Content-Length: 5", "Expect: 100-continue"))
            assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert say(port).startswith(b"HTTP/1.1 503")
