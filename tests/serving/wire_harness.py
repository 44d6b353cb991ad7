"""The HTTP of a worker without a worker: the real parser, door and protocol over an engine that always says 0.5."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from loopwright.models.model import Field, Signature
from loopwright.serving.engine import Answer, Ask
from loopwright.serving.protocols.http import Connection, Server
from loopwright.serving.protocols.limits import Limits
from loopwright.serving.protocols.oip import Oip, render
from loopwright.serving.record import Columns
from loopwright.serving.scoring import Served, Target

FIELDS = (
    Field("wind", "float64", True),
    Field("dest", "string", True),
    Field("hour", "int64", False),
    Field("wet", "bool", False),
)
NUMBERS = tuple(Field(f"f{place}", "float64", place == 2) for place in range(3))
MIXED = (Field("wind", "float64", True), Field("hour", "int64", True), Field("wet", "bool", True))


def target(name: str, fields: tuple[Field, ...]) -> Target:
    """An endpoint with one version."""
    predictor: Any = object()
    signature = Signature(fields, "probability")
    return Target(
        name=name,
        log="best-effort",
        versions=[Served(version=1, weight=1.0, live=True, predictor=predictor, signature=signature)],
        fields=fields,
        required=frozenset(field.name for field in fields),
        columns=Columns(tuple(f.name for f in fields), tuple(f.dtype for f in fields)),
        packers=[],
    )


class Engine:
    """Answers 0.5 to whatever is asked; holds its answers back while `hold` is set."""

    def __init__(self) -> None:
        made = (target("delay", FIELDS), target("grid", NUMBERS), target("mixed", MIXED))
        self.targets = {each.name: each for each in made}
        self.subject_key = b"k" * 32
        self.asked: list[Ask] = []
        self.hold = False
        self.held: list[Ask] = []
        self.settled: Callable[[], None] = lambda: None
        self._render: Any = None

    def answer(self, asks: Sequence[Ask], render: Callable[[Ask, Answer], bytes]) -> None:
        """Answer all, or hold them back."""
        self._render = render
        self.asked += asks
        for ask in asks:
            if self.hold:
                ask.pending = True
                self.held.append(ask)
            else:
                self._answer(ask)

    def _answer(self, ask: Ask) -> None:
        answer = Answer("answered", 1, "probability", [0.5] * len(ask.rows), "pred_" + "0" * 28)
        answer.body = self._render(ask, answer)
        ask.answer, ask.pending = answer, False

    def release(self) -> None:
        """Answer what was held back."""
        held, self.held, self.hold = self.held, [], False
        for ask in held:
            self._answer(ask)
        self.settled()


class Loop:
    """Runs what is to run soon when told; keeps what went wrong."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.faults: list[dict[str, Any]] = []

    def call_soon(self, act: Callable[..., Any], *args: Any) -> None:
        self.soon.append((act, args))

    def call_later(self, after_s: float, act: Callable[..., Any], *args: Any) -> None:
        return

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    def turn(self) -> None:
        """One turn of the loop."""
        soon, self.soon = self.soon, []
        for act, args in soon:
            act(*args)


class Transport:
    """Takes what is written; tells the protocol to pause when the client does not read."""

    def __init__(self, reads: bool = True, high_bytes: int = 64 << 10) -> None:
        self.protocol: Any = None
        self.sent = bytearray()
        self.reads = reads
        self.high_bytes = high_bytes
        self.full = self.closing = self.aborted = self.eof = self.paused = False

    def write(self, data: bytes) -> None:
        self.sent += data
        if not self.reads and not self.full and len(self.sent) > self.high_bytes:
            self.full = True
            self.protocol.pause_writing()

    def drained(self) -> bytes:
        """The client reads all that was sent."""
        out, self.sent = bytes(self.sent), bytearray()
        if self.full:
            self.full = False
            self.protocol.resume_writing()
        return out

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0 if self.reads else len(self.sent)


class Wire:
    """A server without sockets, and connections to it."""

    def __init__(self, limit: Limits | None = None) -> None:
        self.loop = Loop()
        self.engine = Engine()
        loop, engine = self._as_any(self.loop), self._as_any(self.engine)
        self.server = Server(loop, engine, Oip(engine, "1.0", lambda: True), render, limit)

    @staticmethod
    def _as_any(value: Any) -> Any:
        return value

    def connect(self, **more: Any) -> tuple[Connection, Transport]:
        """A new connection and its transport."""
        connection, transport = self.server.connection(), Transport(**more)
        transport.protocol = connection
        connection.connection_made(self._as_any(transport))
        return connection, transport

    def say(self, *pieces: bytes) -> bytes:
        """What comes back on a new connection for some bytes that arrive in pieces; nothing may have failed inside."""
        connection, transport = self.connect()
        for piece in pieces:
            if not transport.closing:
                connection.data_received(piece)
            self.loop.turn()
        connection.connection_lost(None)
        assert self.loop.faults == []
        return bytes(transport.sent)

    def statuses(self, *pieces: bytes) -> list[int]:
        """The statuses of all that comes back."""
        return [int(part[:3]) for part in self.say(*pieces).split(b"HTTP/1.1 ")[1:]]


def head(method: str = "GET", path: str = "/v2", *lines: str) -> bytes:
    """The head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


def infer(body: bytes | dict[str, Any], *lines: str, path: str = "/v2/models/delay/infer") -> bytes:
    """A request with a body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, f"Content-Length: {len(data)}", *lines) + data


def values(**change: Any) -> dict[str, Any]:
    """The body of a request for `delay`, one row."""
    row = {"wind": ("FP64", 1.5), "dest": ("BYTES", "JFK"), "hour": ("INT64", 7), "wet": ("BOOL", True)}
    tensors = [{"name": n, "datatype": d, "shape": [1], "data": [v]} for n, (d, v) in row.items()]
    return {"id": "a", "inputs": tensors, **change}
