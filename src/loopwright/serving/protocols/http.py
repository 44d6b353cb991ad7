"""HTTP/1.1 of a worker: connections, the door, limits; requests wait for the tick and are answered in their order.

Knows nothing of what is asked: a wire opens, decodes and answers.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import httptools
import msgspec
import orjson

from loopwright.kernel.clock import monotonic_s
from loopwright.serving.engine import Answer, Ask, Engine
from loopwright.serving.protocols.door import refusal
from loopwright.serving.protocols.oip import Call, Reply

MAX_BODY_BYTES = 16 << 20
MAX_HEAD_BYTES = 64 << 10
MAX_URL_BYTES = 8 << 10
MAX_CONNECTIONS = 4096
REQUEST_TIMEOUT_S = 30.0
_LINGER_S = 2.0
_REASONS = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 417: "Expectation Failed", 422: "Unprocessable Content",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
_WANTED = {
    b"host", b"origin", b"sec-fetch-site", b"content-length", b"content-encoding", b"expect",
    b"inference-header-content-length",
}  # fmt: skip
_OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class Wire(Protocol):
    """A protocol on top of HTTP."""

    def open(self, method: str, path: str) -> Call | Reply:
        """What a method and path ask for."""

    def decode(self, call: Call, body: bytes) -> Ask | Reply:
        """Read the body of a call."""

    def reply(self, ask: Ask) -> Reply:
        """The reply to an answered Ask."""


class Exchange(msgspec.Struct, gc=True):
    """A request whose answer is due in its place on its connection."""

    connection: "Connection"
    outcome: Ask | Reply
    head_only: bool
    keep_alive: bool
    http10: bool


def refuse(status: int, code: str, message: str, hint: str | None = None) -> Reply:
    """A reply that says why a request is not taken."""
    body = {"error": message, "code": code, "message": message, "field": None, "hint": hint}
    return Reply(status, orjson.dumps(body))


class Server:
    """All connections of a worker and the requests that wait for the tick."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, wire: Wire, render: Callable[[Ask, Answer], bytes]
    ) -> None:
        self._loop = loop
        self._engine = engine
        self._render = render
        self._due: list[Exchange] = []
        self._scheduled = False
        self.wire = wire
        self.connections: set[Connection] = set()
        self.stopping = False

    def connection(self) -> "Connection":
        """A protocol for a new connection."""
        return Connection(self, self._loop)

    def add(self, exchange: Exchange) -> None:
        """Let an exchange wait for the end of this tick: all that has arrived is answered together."""
        self._due.append(exchange)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Answer all that waits, each connection in its order."""
        self._scheduled = False
        due, self._due = self._due, []
        asks = [exchange.outcome for exchange in due if type(exchange.outcome) is Ask]
        if asks:
            try:
                self._engine.answer(asks, self._render)
            except Exception as error:  # noqa: BLE001 - whatever it was, every client of the tick gets an answer
                self._loop.call_exception_handler({"message": "a tick failed", "exception": error})
        for exchange in due:
            outcome = exchange.outcome
            reply = self.wire.reply(outcome) if type(outcome) is Ask else outcome
            exchange.connection.write(exchange, reply)  # type: ignore[arg-type]

    def sweep(self) -> None:
        """Close connections on which a request has been under way for too long."""
        now = monotonic_s()
        for connection in list(self.connections):
            connection.expire(now)

    def stop(self) -> None:
        """Answer what waits and close all connections."""
        self.stopping = True
        self.flush()
        for connection in list(self.connections):
            connection.close()


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._known: tuple[Any, ...] | None = None
        self._deaf = False
        self._head_bytes = 0
        self._since_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._doubled = False
        self._seen_bytes = 0
        self._in_head = False
        self._busy = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._opened: Call | Reply | None = None

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.connections.add(self)
        if len(self._server.connections) > MAX_CONNECTIONS:
            self._end(refuse(503, "server.busy", "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._deaf = True

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def eof_received(self) -> bool:
        # A client may close its side once it has sent its last request; it still gets its answers.
        self._server.flush()
        return False

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        in_head = self._in_head
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True
        except httptools.HttpParserCallbackError as error:
            self._loop.call_exception_handler({"message": "a request failed", "exception": error.__context__ or error})
            self._end(refuse(500, "server.failed", "this request could not be handled"))
            return
        except httptools.HttpParserError:
            self._end(refuse(400, "http.form", "this is not HTTP/1.1"))
            return
        if self._in_head:
            self._head_bytes = self._head_bytes + len(data) if in_head else len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._end(refuse(431, "http.head", f"the head of a request has at most {MAX_HEAD_BYTES} bytes"))

    # httptools

    def on_message_begin(self) -> None:
        self._reset()
        self._in_head = self._busy = True
        self._since_s = monotonic_s()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._seen_bytes += len(name) + len(value)
        name = name.lower()
        if name in _WANTED:
            if name in self._headers:
                self._doubled = True
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        if len(self._url) > MAX_URL_BYTES:
            self._end(refuse(414, "http.url", f"a path has at most {MAX_URL_BYTES} bytes"))
            return
        if self._seen_bytes > MAX_HEAD_BYTES:
            self._end(refuse(431, "http.head", f"the head of a request has at most {MAX_HEAD_BYTES} bytes"))
            return
        self._opened = self._open()
        length = self._headers.get(b"content-length", b"0")
        if len(length) > 15 or int(length) > MAX_BODY_BYTES:
            self._end(_too_large())
            return
        expect = self._headers.get(b"expect")
        if expect is not None:
            self._expected(expect)

    def _expected(self, expect: bytes) -> None:
        if expect.lower() != b"100-continue":
            self._end(refuse(417, "http.expect", "the only expectation that is met is 100-continue"))
        elif isinstance(self._opened, Reply) and self._parser.get_method() != b"GET":
            self._end(self._opened)
        else:
            self._server.flush()
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _open(self) -> Call | Reply:
        headers = self._headers
        if self._doubled or (b"host" not in headers and self._parser.get_http_version() == "1.1"):
            return refuse(400, "http.host", "a request names one host, and each header once")
        if headers:
            door = (headers.get(b"host"), headers.get(b"origin"), headers.get(b"sec-fetch-site"))
            if door != self._known:
                reason = refusal(*(None if part is None else part.decode("latin-1") for part in door))
                if reason is not None:
                    return refuse(403, "door.refused", reason)
                self._known = door
            if b"inference-header-content-length" in headers:
                hint = "send tensors as JSON (binary_data=False)"
                return refuse(415, "tensor.binary", "binary tensors are not served", hint)
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                return refuse(415, "http.encoding", "a compressed body is not read")
        path = self._url.decode("latin-1")
        if path.startswith("http://"):  # the absolute form, which every server must take (RFC 9112, 3.2.2)
            path = "/" + path.partition("//")[2].partition("/")[2]
        return self._server.wire.open(self._parser.get_method().decode(), path)

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._end(_too_large())
        elif type(self._opened) is Call:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self._busy = False
        opened = self._opened
        if self._deaf or opened is None:
            return
        method, parser = self._parser.get_method(), self._parser
        if type(opened) is Call:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            outcome: Ask | Reply = self._server.wire.decode(opened, body)
        else:
            outcome = opened  # type: ignore[assignment]
        keep = bool(parser.should_keep_alive()) and not parser.should_upgrade() and not self._server.stopping
        exchange = Exchange(self, outcome, method == b"HEAD", keep, parser.get_http_version() != "1.1")
        self._body = []
        self._opened = None
        if not keep:
            self._deaf = True
        self._server.add(exchange)

    # answers

    def write(self, exchange: Exchange, reply: Reply) -> None:
        """Send a reply; close the connection when it was the last."""
        if self._transport.is_closing():
            return
        if reply.status == 200 and exchange.keep_alive and not exchange.http10 and not exchange.head_only:
            self._transport.write(_OK_HEAD % len(reply.body) + reply.body)
            return
        self._transport.write(_head(reply, exchange) + (b"" if exchange.head_only else reply.body))
        if not exchange.keep_alive:
            self._transport.close()

    def _end(self, reply: Reply) -> None:
        """Refuse a request whose rest will not be read: answer, close our side, let the client finish its own."""
        if self._deaf:
            return
        self._deaf, self._busy = True, False
        self._server.flush()
        if self._transport.is_closing():
            return
        self._transport.write(_head(reply, Exchange(self, reply, False, False, False)) + reply.body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(_LINGER_S, self._transport.close)

    def expire(self, now_s: float) -> None:
        """Give up on a request that has been coming for too long."""
        if self._busy and not self._deaf and now_s - self._since_s > REQUEST_TIMEOUT_S:
            self._end(refuse(408, "http.timeout", f"a request must arrive within {REQUEST_TIMEOUT_S:g} s"))

    def close(self) -> None:
        """Close the connection after what has been written."""
        self._transport.close()


def _too_large() -> Reply:
    return refuse(413, "body.large", f"a body has at most {MAX_BODY_BYTES} bytes", "send fewer rows")


def _head(reply: Reply, exchange: Exchange) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}", "Content-Type: application/json"]
    lines.append(f"Content-Length: {len(reply.body)}")
    if reply.allow:
        lines.append(f"Allow: {reply.allow}")
    if reply.status == 503:
        lines.append("Retry-After: 1")
    if not exchange.keep_alive:
        lines.append("Connection: close")
    elif exchange.http10:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
