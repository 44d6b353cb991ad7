"""The parsers that read what others wrote, each as a target: seeds, words of its language, and one input fed to it.

A target raises what is a fault; errors of loopwright and answers that refuse are what a parser is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_inputs import (
    HTTP_WORDS,
    JSON_WORDS,
    Rng,
    bend,
    binary_body,
    bodies_of_predictions,
    cut,
    http_json,
    http_seeds,
    mend_length,
)  # fmt: skip
from wire_harness import Transport, Wire

from loopwright.artifacts import service as artifacts
from loopwright.audit import checkpoint
from loopwright.kernel.errors import LoopwrightError
from loopwright.serving import labels, record
from loopwright.serving.protocols.oip import Call, Reply
from loopwright.serving.record import Columns, LogRow
from loopwright.store import frames, ledger

_STATUS = re.compile(rb"HTTP/1\.[01] (\d\d\d) ")
_SECRET = b"Traceback (most recent"


class Fault(Exception):
    """A parser did what it must never do."""


def _check_answers(sent: bytes) -> None:
    """No answer may say that the server failed, or show its insides."""
    if b"500" in _STATUS.findall(sent) or _SECRET in sent:
        raise Fault(f"answered {sent[:300]!r}")


class Target:
    """One parser.

    Args:
        seeds: sound inputs to start from.
        words: what its language knows.
    """

    name = ""
    seeds: list[bytes]
    words: list[bytes]

    def mend(self, rng: Rng, data: bytes) -> bytes:
        """A mutated input with its lengths or sums set right, so that what is behind them is reached too."""
        return data

    def feed(self, rng: Rng, data: bytes) -> None:
        """Parse one input."""

    def settle(self) -> None:
        """Finish what is under way."""

    def close(self) -> None:
        """Leave nothing behind."""


class DataPlane(Target):
    """The HTTP of a worker, door and protocol included."""

    name = "http"

    def __init__(self) -> None:
        self.seeds, self.words = http_seeds(), HTTP_WORDS + JSON_WORDS
        self._wire, self._bodies = Wire(), bodies_of_predictions()

    def mend(self, rng: Rng, data: bytes) -> bytes:
        return mend_length(rng, data) if rng.random() < 0.6 else http_json(rng, self._bodies)

    def feed(self, rng: Rng, data: bytes) -> None:
        wire = self._wire
        connection, transport = wire.connect()
        for piece in cut(rng, data):
            if transport.closing:
                break
            connection.data_received(piece)
            wire.loop.turn()
        connection.eof_received()
        connection.connection_lost(None)
        wire.loop.turn()
        wire.engine.asked.clear()
        if wire.loop.faults:
            faults, wire.loop.faults = wire.loop.faults, []
            raise Fault(repr(faults[0])) from faults[0].get("exception")
        _check_answers(bytes(transport.sent))
        if len(transport.sent) > 1000 * len(data) + 10_000:
            raise Fault(f"{len(data)} bytes were answered by {len(transport.sent)}")


class Json(Target):
    """The body of a prediction, with and without binary tensors behind it."""

    name = "json"

    def __init__(self) -> None:
        wire = Wire()
        self.words = JSON_WORDS
        self._oip = wire.server.wire
        self._targets = list(wire.engine.targets.values())
        binary, self._size = binary_body()
        self.seeds = [*bodies_of_predictions(), binary]

    def mend(self, rng: Rng, data: bytes) -> bytes:
        return bend(rng, self.seeds[int(rng.random() * 4)])

    def feed(self, rng: Rng, data: bytes) -> None:
        target = self._targets[int(rng.random() * 3)]
        size = None
        if rng.random() < 0.3:
            size = data.rfind(b"}") + 1 if rng.random() < 0.8 else int(rng.random() * len(data) * 1.2)
        made = self._oip.decode(Call(target, None, size), data)
        if isinstance(made, Reply):
            if made.status >= 500 or _SECRET in made.body:
                raise Fault(f"answered {made.status} {made.body[:300]!r}")
            json.loads(made.body)
        elif not made.rows or any(len(row) != len(target.fields) for row in made.rows):
            raise Fault(f"rows of another form: {made.rows!r}"[:300])


class Spool(Target):
    """Frames of a spool and the rows in them."""

    name = "spool"

    def __init__(self) -> None:
        columns = Columns(("wind", "dest"), ("float64", "string"))
        rows = [
            LogRow("pred_" + "0" * 28, 1, 2, "a", 1, 1, None, [1.5, "JFK"]),
            LogRow("p", 5, 6, "b", None, 2, "s", []),
        ]
        for row in rows:
            row.scores, row.errors, row.latency_us = {1: 0.5}, {2: "no"}, {1: 9}
        start, some = frames.encode(record.header(columns)), frames.encode(record.rows_payload(rows))
        self.seeds = [start + some, start + some * 3, start, some]
        self.words = [
            b"\x00" * 8,
            b"\xff" * 8,
            b"\xdc\xff\xff",
            b"\xdd\xff\xff\xff\xff",
            b"\xdf\xff\xff\xff\xff",
            b"\xc1",
        ]
        self.words += [
            b"\x90",
            b"\x91" * 600,
            b"\xc0",
            b"\x80",
            b"\xc6\xff\xff\xff\xff",
            b"\xcb" + b"\xff" * 8,
            b"\xd9\x05a",
        ]
        folder = Path("/dev/shm")
        self._path = (folder if folder.is_dir() else Path("/tmp")) / f"fuzz-{random.SystemRandom().getrandbits(60):x}"

    def mend(self, rng: Rng, data: bytes) -> bytes:
        """Every frame with the sum and the length that it should have."""
        out, at = b"", 0
        while at + frames.HEAD_BYTES < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            payload = data[at + 8 : at + 8 + size]
            out += frames.encode(payload) if payload else b""
            at += 8 + max(1, size)
        return out

    def feed(self, rng: Rng, data: bytes) -> None:
        path = self._path
        path.write_bytes(data)
        for read in (lambda: list(record.read(path)), lambda: record.count(path, 4), lambda: frames.find_damage(path)):
            with contextlib.suppress(LoopwrightError):
                read()
        if record.whole_bytes(path) > len(data):
            raise Fault("frames of more bytes than there are")

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class Tree(Target):
    """The listing of a tree."""

    name = "tree"

    def __init__(self) -> None:
        digest = "blake3:" + "a1" * 32
        listings = [{"a": (digest, 1)}, {"a/b.txt": (digest, 12), "a/c": (digest, 0), "z": (digest, 2**60)}, {}]
        try:
            self.seeds = [artifacts.encode_tree(listing) for listing in listings]
            artifacts.decode_tree(self.seeds[1])
        except LoopwrightError:
            digest = "a1" * 32
            self.seeds = [
                artifacts.encode_tree({path: (digest, size) for path, (_, size) in one.items()}) for one in listings
            ]
            artifacts.decode_tree(self.seeds[1])
        self.words = [b"l", b"s", b"i", b":", b"../", b"/", b"\\", b"\0", b"-1", b"99999999999999999999", b"l1:" * 500]
        self.words += [b"9" * 30, b"a/b", b".", b"\xff", digest.encode()]

    def feed(self, rng: Rng, data: bytes) -> None:
        try:
            listing = artifacts.decode_tree(data)
        except LoopwrightError:
            return
        if artifacts.encode_tree(listing) != data:
            raise Fault("two listings for one tree")


class _Rows:
    """A transaction that holds one row."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = row

    def query(self, sql: str, args: Any = ()) -> list[Any]:
        return [self._row]


class Events(Target):
    """A row of the ledger, and the sentence that is made of it."""

    name = "events"

    def __init__(self) -> None:
        from loopwright import house

        house.plug()
        self._kinds = sorted(ledger.decision_kinds()) or ["version.registered@1"]
        data = [{"kind": "model", "number": 3}, {"versions": [1, 2], "verdict": {"outcome": "pass"}}, {"a": None}]
        self.seeds = [json.dumps(one).encode() for one in data]
        self.words = [*JSON_WORDS, b'"versions"', b'"verdict"', b"{0}", b"{subject.__class__}", b"{!r:>99999999}"]

    def feed(self, rng: Rng, data: bytes) -> None:
        kind = self._kinds[int(rng.random() * len(self._kinds))]
        row = {"seq": 1, "at_us": 1, "known_at_us": 1, "actor": "local:0", "kind": kind, "subject": "endpoint:delay",
               "data": data.decode("utf-8", "replace"), "cause": None}  # fmt: skip
        tx: Any = _Rows(row)
        try:
            for event in ledger.read(tx):
                ledger.sentence(event)
        except LoopwrightError:
            return


class Labels(Target):
    """NDJSON of labels."""

    name = "labels"

    def __init__(self) -> None:
        line = b'{"id":"a","label":1,"known_at":"2013-04-01T12:00:00Z"}'
        self.seeds = [line, line + b"\n" + b'{"id":"pred_1/0","label":true}\n', b'{"id":"b","label":0.0}\r\n\r\n']
        self.words = [*JSON_WORDS, b"\n", b"\r\n", b'"known_at"', b'"label"', b"1e308", b"1e301", b"\xef\xbb\xbf"]

    def feed(self, rng: Rng, data: bytes) -> None:
        try:
            made = labels.read(data, "binary" if rng.random() < 0.5 else "regression")
        except LoopwrightError:
            return
        if not all(value - value == 0 for _, value, _ in made):
            raise Fault("a label that is no number was taken")


class Checkpoint(Target):
    """The text of a checkpoint, and of a public key."""

    name = "checkpoint"

    def __init__(self) -> None:
        text = checkpoint.body("loopwright/space", 12, b"\1" * 32, "seal 3")
        note = checkpoint.sign(text, "loopwright", b"\7" * 32)
        self._key = checkpoint.public_text("loopwright", b"\2" * 32)
        self.seeds = [note.encode(), self._key.encode(), (note + note.rpartition("\n\n")[2]).encode()]
        self.words = [
            b"\n",
            b"\n\n",
            b"\xe2\x80\x94 ",
            b"+",
            b"=",
            b"AAAA",
            b"-1",
            b"9" * 30,
            b"\r\n",
            b"\0",
            b"\xff",
            b"a" * 900,
        ]

    def feed(self, rng: Rng, data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        for read in (
            lambda: checkpoint.signed_by(checkpoint.parse(text), self._key),
            lambda: checkpoint.read_public(text),
        ):
            with contextlib.suppress(LoopwrightError):
                read()


class ControlPlane(Target):
    """The HTTP of control: parser, limits and door, before an application that reads JSON."""

    name = "control"

    def __init__(self) -> None:
        import uvicorn
        from starlette.requests import ClientDisconnect, Request
        from uvicorn.server import ServerState

        from loopwright.faces import door, http
        from loopwright.faces.listener import Listener
        from loopwright.serving.protocols.door import bearer

        class Gate(door.Gate):
            async def actor(self, scope: Any, headers: Any) -> str:
                shown = headers.get("authorization")
                if shown is not None and bearer(shown.encode("latin-1")) != "right":
                    raise http.errors.Forbidden("no such token")
                door.cookies(headers)
                return "local:0" if door.is_loopback(headers.get("host", "")) else "anonymous"

        async def application(scope: Any, receive: Any, send: Any) -> None:
            try:
                made = http.answer(http.body_fields(await Request(scope, receive).body()))
            except LoopwrightError as error:
                made = http.refusal(error)
            except ClientDisconnect:
                return
            await made(scope, receive, send)

        space: Any = None
        app = door.Door(
            application, Gate(space, hosts=["localhost"]), [("GET", "/v2"), ("POST", "/v2/models/delay/infer")]
        )
        self._config = uvicorn.Config(app, http=Listener, ws="none", lifespan="off", log_level="error", log_config=None)
        self._config.load()
        self._state, self._listener = ServerState(), Listener
        self.seeds, self.words = http_seeds(), HTTP_WORDS + JSON_WORDS
        self._under_way: list[tuple[Any, Transport]] = []
        self._faults: list[Any] = []
        self._loop: Any = asyncio.new_event_loop()
        # Nothing that is to happen seconds later may hold on to a connection that is gone in milliseconds.
        never = asyncio.TimerHandle(0.0, lambda: None, (), self._loop)
        self._loop.call_later = lambda *args, **more: never
        self._loop.set_exception_handler(lambda loop, context: self._faults.append(context))
        self._told = told = logging.Handler(logging.ERROR)
        told.emit = lambda note: self._faults.append(note.exc_info or note.getMessage())  # type: ignore[method-assign]
        logging.getLogger("uvicorn.error").addHandler(told)

    def mend(self, rng: Rng, data: bytes) -> bytes:
        return mend_length(rng, data)

    def feed(self, rng: Rng, data: bytes) -> None:
        connection = self._listener(self._config, self._state, {}, self._loop)
        transport: Any = Transport()
        transport.protocol = connection
        connection.connection_made(transport)
        for piece in cut(rng, data):
            if not transport.closing:
                connection.data_received(piece)
        self._under_way.append((connection, transport))
        if len(self._under_way) >= 100:
            self.settle()

    def settle(self) -> None:
        self._loop.run_until_complete(self._finish())
        under_way, self._under_way = self._under_way, []
        for connection, transport in under_way:
            connection.connection_lost(None)
            _check_answers(bytes(transport.sent))
        self._loop.run_until_complete(self._finish(closing=True))
        if self._state.tasks:
            raise Fault("a request is still under way though its connection is gone")
        if self._faults:
            faults, self._faults = self._faults, []
            raise Fault(repr(faults[0])[:500])

    def close(self) -> None:
        logging.getLogger("uvicorn.error").removeHandler(self._told)
        self._loop.close()

    async def _finish(self, closing: bool = False) -> None:
        """Let the application answer; what waits for more of its body waits until the connection is gone."""
        for _ in range(400 if closing else 12):
            if not self._state.tasks:
                return
            await asyncio.sleep(0)


TARGETS: dict[str, Callable[[], Target]] = {
    one.name: one for one in (DataPlane, ControlPlane, Json, Spool, Tree, Events, Labels, Checkpoint)
}
