"""A head that was parsed before is not parsed anew, and means the same as if it were."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httptools
import orjson
import pytest
from engine_harness import Later, Transport, serve
from worker_harness import VALUES, ask, make_model, post

from loopwright.models.runtime import Predictor
from loopwright.serving.engine import Engine
from loopwright.serving.protocols import heads
from loopwright.serving.protocols.door import Gatekeeper, Refusal
from loopwright.serving.protocols.http import Connection, Server
from loopwright.serving.protocols.oip import Oip, render


@pytest.fixture(scope="module")
def real() -> Predictor:
    return make_model(1).load()


class Line:
    """A server, and one connection whose parser counts what it is fed."""

    def __init__(self, home: Path, real: Predictor) -> None:
        self.engine = Engine(home, 0, lambda work: work())
        self.engine.subject_key = b"k" * 32
        serve(self.engine, real)
        self.server = Server(Later(), self.engine, Oip(self.engine, "1", lambda: True), render)  # type: ignore[arg-type]
        self.parsed = 0
        self.connection, self.transport = self.connect()

    def connect(self) -> tuple[Connection, Transport]:
        connection, transport = self.server.connection(), Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        line = self

        class Parser:
            def __init__(self) -> None:
                self._real = httptools.HttpRequestParser(connection)

            def feed_data(self, data: bytes) -> None:
                line.parsed += 1
                self._real.feed_data(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

        connection._parser = Parser()  # type: ignore[assignment]
        return connection, transport

    def send(self, data: bytes) -> tuple[int, Any]:
        """The status and body of the last answer to some bytes."""
        self.transport.out = b""
        self.connection.data_received(data)
        self.server.flush()
        if not self.transport.out:
            return 0, None
        last = self.transport.out[self.transport.out.rindex(b"HTTP/1.1 ") :]
        return int(last[9:12]), orjson.loads(last.partition(b"\r\n\r\n")[2])


@pytest.fixture
def line(tmp_path: Path, real: Predictor) -> Iterator[Line]:
    made = Line(tmp_path, real)
    yield made
    made.engine.close()


def test_the_same_head_with_another_body_is_answered_for_that_body(line: Line) -> None:
    sent = [ask({**VALUES, "hour": hour}) for hour in (7, 8, 9, 3)]
    first = [line.send(post(body))[1]["outputs"] for body in sent]
    assert line.parsed == 1
    other, transport = line.connect()
    line.connection, line.transport = other, transport
    assert [line.send(post(body, "X-Other: 1"))[1]["outputs"] for body in sent] == first
    assert line.parsed == 2


def test_what_is_not_one_whole_request_goes_to_the_parser(line: Line) -> None:
    whole = post(ask())
    assert line.send(whole)[0] == 200 and line.parsed == 1
    assert line.send(whole[:-5])[0] == 0 and line.send(whole[-5:])[0] == 200
    assert line.send(whole + whole)[0] == 200
    assert line.transport.out.count(b"200 OK") == 2
    assert line.send(whole[:40])[0] == 0 and line.send(whole[40:])[0] == 200
    assert line.parsed == 6
    assert line.send(whole)[0] == 200 and line.parsed == 6


def test_a_body_that_is_wrong_is_refused_behind_a_known_head(line: Line) -> None:
    good = post(ask())
    assert line.send(good)[0] == 200
    size = len(good.partition(b"\r\n\r\n")[2])
    bad = good[: len(good) - size] + b"{" * size
    assert line.send(bad)[0] == 400 and line.parsed == 1


ODD = ["Connection: close", "Expect: 100-continue", "Content-Encoding: gzip", "X-Long: " + "x" * 2048]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:12])
def test_odd_heads_are_parsed_each_time(line: Line, odd: str) -> None:
    for _ in range(2):
        line.send(post(ask(), odd))
        if line.transport.closed:
            line.connection, line.transport = line.connect()
    assert line.parsed == 2


def test_other_routes_mean_that_heads_are_read_anew(line: Line, real: Predictor) -> None:
    whole = post(ask())
    assert [line.send(whole)[0], line.send(whole)[0], line.parsed] == [200, 200, 1]
    line.engine.targets = {}
    assert line.send(whole)[0] == 404
    serve(line.engine, real)
    assert line.send(whole)[0] == 200 and line.send(whole)[0] == 200


def test_the_door_is_asked_behind_a_known_head_too(line: Line, tmp_path: Path) -> None:
    whole = post(ask())
    assert line.send(whole)[0] == line.send(whole)[0] == 200

    class Closed(Gatekeeper):
        def peer(self, transport: Any) -> Any:
            return None

        def enter(self, peer: Any, headers: Any) -> Any:
            return Refusal(403, "door.refused", "not today")

    line.server.gate = Closed(tmp_path)
    line.connection, line.transport = line.connect()
    assert line.send(whole)[0] == 403


def test_the_heads_that_are_remembered_are_few(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "_MOST", 8)
    for n in range(40):
        assert line.send(post(ask(), f"X-Number: {n}"))[0] == 200
    assert len(line.server.heads._known) <= 8
