"""HTTP/1.1 of a worker: connections, the door, limits; requests wait for the tick and are answered in their order.

Knows nothing of what is asked: a wire opens, decodes and answers.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools
import msgspec

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import LoopwrightError, Unsupported
from loopwright.serving.engine import Answer, Ask, Engine
from loopwright.serving.protocols import limits, peers
from loopwright.serving.protocols.answers import OK_HEAD, Wire, head, refuse, target
from loopwright.serving.protocols.door import Gatekeeper, Visit
from loopwright.serving.protocols.heads import Heads
from loopwright.serving.protocols.limits import Limits
from loopwright.serving.protocols.oip import Call, Index, Reply

_LINGER_S = 2.0
# What is parsed at a stretch: a client that asks on and on and reads nothing is noticed between two of these.
_BITE_BYTES = 32 << 10
_TOGETHER = 64
_WANTED = {
    b"host", b"origin", b"sec-fetch-site", b"authorization", b"content-length", b"content-type", b"content-encoding",
    b"transfer-encoding", b"expect", b"inference-header-content-length",
}  # fmt: skip
# What a page of another site can send without being asked first.
_FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain")


class Exchange(msgspec.Struct, gc=True):
    """A request whose answer is due in its place on its connection.

    Args:
        reply: what is sent; None until it is known.
        linger: the rest of the request was not read, so let the client finish before the connection is closed.
    """

    connection: "Connection"
    outcome: Ask | Reply
    head_only: bool = False
    keep_alive: bool = True
    http10: bool = False
    reply: Reply | None = None
    linger: bool = False


class Server:
    """All connections of a worker and the requests that wait for the tick."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        engine: Engine,
        wire: Wire,
        render: Callable[[Ask, Answer], bytes],
        limit: Limits | None = None,
        gate: Gatekeeper | None = None,
    ) -> None:
        self.gate = gate
        self._loop = loop
        self._engine = engine
        self._render = render
        self._due: list[Exchange] = []
        self._pending: list[Exchange] = []
        self.heads = Heads(engine)
        engine.settled = self.settled
        self._scheduled = False
        self.wire = wire
        self.limits = limit or Limits()
        self.most = limits.connections(self.limits.connections)
        self.connections: set[Connection] = set()
        self.stopping = False

    def connection(self) -> "Connection":
        """A protocol for a new connection."""
        return Connection(self, self._loop)

    def enter(self, connection: "Connection") -> bool:
        """Take a new connection; when there are too many, those make room that idle or are slow to ask the longest."""
        if len(self.connections) >= self.most:
            now = monotonic_s()
            spare = [c for c in self.connections if c.idle or c.dawdles(now)]
            for other in sorted(spare, key=lambda c: (not c.idle, c.since_s))[: max(1, self.most // 64)]:
                other.drop()
                self.connections.discard(other)
        self.connections.add(connection)
        return len(self.connections) <= self.most

    def add(self, exchange: Exchange) -> None:
        """Let an exchange wait for the end of this tick: all that has arrived is answered together."""
        self._due.append(exchange)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def decode(self, call: Call | Index, body: bytes) -> Ask | Reply:
        """Read the body of a call, unless too many wait already."""
        if len(self._pending) >= self.limits.pending:
            return refuse(503, "server.busy", "too many requests wait for a slow model", "lw status")
        return self.wire.decode(call, body)

    def flush(self) -> None:
        """Answer all that waits, each connection in its order."""
        self._scheduled = False
        due, self._due = self._due, []
        asks = [exchange.outcome for exchange in due if type(exchange.outcome) is not Reply]
        if asks:
            try:
                self._engine.answer(asks, self._render)  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 - whatever it was, every client of the tick gets an answer
                self._loop.call_exception_handler({"message": "a tick failed", "exception": error})
        for exchange in due:
            if type(exchange.outcome) is not Reply and exchange.outcome.pending:  # type: ignore[union-attr]
                self._pending.append(exchange)
            else:
                self.settle(exchange)

    def settled(self) -> None:
        """Send what a slow model has answered meanwhile."""
        pending, self._pending = self._pending, []
        for exchange in pending:
            if exchange.outcome.pending:  # type: ignore[union-attr]
                self._pending.append(exchange)
            else:
                self.settle(exchange)

    def settle(self, exchange: Exchange) -> None:
        """Send the reply of an exchange as soon as those before it on its connection are sent."""
        outcome = exchange.outcome
        exchange.reply = outcome if type(outcome) is Reply else self.wire.reply(outcome)  # type: ignore[arg-type]
        exchange.connection.send()

    def sweep(self) -> None:
        """Close connections on which nothing has been under way, or one thing for too long."""
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
        self._limits = server.limits
        self._loop = loop
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._visit = Visit(server.gate)
        self._deaf = False
        self._owed: deque[Exchange] = deque()
        self._unread_since_s: float | None = None
        self._unfed = b""
        self._whole = b""  # what the parser was given when nothing was under way
        self._ended = False
        self._stuck = (0, 0.0)  # bytes of a last answer that the client did not take yet, and since when so many
        self.since_s = monotonic_s()
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._count = 0
        self._doubled = False
        self._seen_bytes = 0
        self._raw_bytes = 0
        self._in_head = False
        self._busy = False
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._chunks = 0
        self._opened: Call | Index | Reply | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way here."""
        return not self._busy and not self._owed and not self._unfed

    def dawdles(self, now_s: float) -> bool:
        """Whether a request has been arriving here for longer than one takes, and nothing else is under way."""
        return self._busy and not self._owed and not self._unfed and now_s - self.since_s > self._limits.slow_s

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        limits.bound(transport, self._limits.unread_s)
        if not self._server.enter(self):
            self._end(refuse(503, "server.busy", "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._deaf = True
        self._unfed = b""

    def pause_writing(self) -> None:
        self._unread_since_s = monotonic_s()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread_since_s = None
        if self._unfed:
            self._loop.call_soon(self._feed_rest)
        else:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        # A client may close its side once it has sent its last request; it still gets its answers.
        self._server.flush()
        self._ended = True
        return bool(self._owed) or bool(self._unfed)

    def data_received(self, data: bytes) -> None:
        if self._unfed:
            self._unfed += data
        elif len(data) > _BITE_BYTES or len(self._owed) >= self._limits.waiting:
            self._feed_all(data)
        elif not self._again(data):
            self._whole = b"" if self._busy else data
            self._feed(data)
            self._whole = b""

    def _again(self, data: bytes) -> bool:
        """Take a request whose head was parsed before, byte for byte; whether it is one."""
        server = self._server
        if self._busy or self._deaf or server.stopping:
            return False
        known = server.heads.find(data)
        if known is None:
            return False
        self.since_s = monotonic_s()
        refused = self._visit.refused(self._transport, b"POST", known.url, known.headers)
        body = data[-known.size :] if known.size else b""
        exchange = Exchange(self, server.decode(known.call, body) if refused is None else refuse(*refused))
        self._owed.append(exchange)
        server.add(exchange)
        return True

    def _feed_all(self, data: bytes) -> None:
        """Parse what has arrived, bite by bite, as long as the client takes its answers and has not asked too much."""
        for start in range(0, len(data), _BITE_BYTES):
            if len(self._owed) >= _TOGETHER:
                self._server.flush()
            if self._unread_since_s is not None or len(self._owed) >= self._limits.waiting:
                self._unfed = data[start:]
                self._transport.pause_reading()
                return
            self._feed(data[start : start + _BITE_BYTES])

    def _feed_rest(self) -> None:
        data, self._unfed = self._unfed, b""
        self._feed_all(data)
        if not self._unfed and self._unread_since_s is None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._close_when_done()

    def _feed(self, data: bytes) -> None:
        if self._deaf:
            return
        began, in_head = self._busy, self._in_head
        if began:
            self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True
        except httptools.HttpParserCallbackError as error:
            self._loop.call_exception_handler({"message": "a request failed", "exception": error.__context__ or error})
            self._end(refuse(500, "server.failed", "this request could not be handled"))
        except httptools.HttpParserError:
            self._end(refuse(400, "http.form", "this is not HTTP/1.1"))
        if not self._busy or self._deaf:
            return
        if self._in_head:
            if not in_head:
                # The head of a request behind another one in the same bytes is counted from the next bytes on.
                self._raw_bytes = 0 if began else len(data) - data.rfind(b"\r\n\r\n") - 1
            if self._raw_bytes > self._limits.head_bytes:
                self._head_too_large()
        elif (
            b"transfer-encoding" in self._headers
            and self._raw_bytes - self._body_bytes > self._limits.framing_bytes + self._limits.head_bytes
        ):
            self._end(self._too_large())

    # httptools

    def on_message_begin(self) -> None:
        if self._deaf:
            return
        self._reset()
        self._in_head = self._busy = True
        self.since_s = monotonic_s()

    def on_url(self, url: bytes) -> None:
        if not self._deaf:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._deaf:
            return
        self._count += 1
        self._seen_bytes += len(name) + len(value)
        if self._count > self._limits.headers or self._seen_bytes > self._limits.head_bytes:
            self._head_too_large()
            return
        if not self._in_head:  # a trailer: nothing behind the body may change what was asked
            return
        name = name.lower()
        if name in _WANTED:
            if name in self._headers:
                self._doubled = True
            self._headers[name] = value
        elif name in peers.FORWARDED:
            self._headers[b"forwarded"] = b""  # that it was handed on is all that counts

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        if len(self._url) > self._limits.url_bytes:
            self._end(refuse(414, "http.url", f"a path has at most {self._limits.url_bytes} bytes"))
            return
        found = target(self._parser.get_http_version(), self._url, self._headers, self._doubled)
        if type(found) is not bytes:
            self._end(found)  # type: ignore[arg-type]
            return
        self._url = found
        self._opened = self._open()
        length = self._headers.get(b"content-length", b"0").strip()
        if len(length) > 15 or int(length) > self._limits.body_bytes:
            self._end(self._too_large())
            return
        expect = self._headers.get(b"expect")
        if expect is not None:
            self._expected(expect)

    def _expected(self, expect: bytes) -> None:
        if expect.lower() != b"100-continue":
            self._end(refuse(417, "http.expect", "the only expectation that is met is 100-continue"))
        elif type(self._opened) is Reply and self._parser.get_method() != b"GET":
            self._end(self._opened)
        else:
            self._server.flush()
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _open(self) -> Call | Index | Reply:
        headers, method = self._headers, self._parser.get_method()
        refused = self._visit.refused(self._transport, method, self._url, headers)
        if refused is not None:
            return refuse(*refused)
        if headers:
            kind = headers.get(b"content-type")
            if kind is not None and method == b"POST" and kind.partition(b";")[0].strip().lower() in _FORMS:
                hint = "send the header Content-Type: application/json"
                return refuse(415, "http.type", "the body of a request is JSON", hint)
        return self._server.wire.open(method.decode(), self._url.decode("latin-1"), headers)

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._limits.chunks and not self._deaf:
            self._end(self._too_large())

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._end(self._too_large())
        elif type(self._opened) is not Reply:
            if not self._body:
                self._body = body
                return
            if type(self._body) is bytes:
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        opened = self._opened
        if self._deaf or opened is None:
            return
        self._busy = False
        method, parser = self._parser.get_method(), self._parser
        outcome = opened if type(opened) is Reply else self._decode(opened)  # type: ignore[arg-type]
        keep = bool(parser.should_keep_alive()) and not parser.should_upgrade() and not self._server.stopping
        exchange = Exchange(self, outcome, method == b"HEAD", keep, parser.get_http_version() != "1.1")
        if self._whole and keep and not exchange.http10 and method == b"POST" and type(opened) is Call:
            self._server.heads.learn(self._whole, opened, self._url, self._headers)
        self._body = b""
        self._opened = None
        if not keep:
            self._deaf = True
        self._owed.append(exchange)
        self._server.add(exchange)

    def _decode(self, call: Call | Index) -> Ask | Reply:
        body = bytes(self._body)
        encoding = self._headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding != b"identity":
            try:
                body = limits.inflate(body, encoding, self._limits.body_bytes)
            except Unsupported as error:
                return refuse(415, error.code, error.message)
            except LoopwrightError as error:
                return refuse(413 if error.code == "body.large" else 400, error.code, error.message, error.hint)
        return self._server.decode(call, body)

    # answers

    def send(self) -> None:
        """Send the replies that are known, in the order of their requests."""
        owed = self._owed
        while owed and (reply := owed[0].reply) is not None:
            self._write(owed.popleft(), reply)
        if self._unfed and self._unread_since_s is None:
            self._loop.call_soon(self._feed_rest)
        self._close_when_done()

    def _write(self, exchange: Exchange, reply: Reply) -> None:
        """Send one reply; close the connection when it was the last."""
        transport = self._transport
        if transport.is_closing():
            return
        plain = reply.status == 200 and not reply.json_bytes
        if plain and exchange.keep_alive and not exchange.http10 and not exchange.head_only:
            transport.write(OK_HEAD % len(reply.body) + reply.body)
            return
        transport.write(head(reply, exchange.keep_alive, exchange.http10) + (b"" if exchange.head_only else reply.body))
        if exchange.keep_alive:
            return
        if exchange.linger and transport.can_write_eof():
            transport.write_eof()
            self._loop.call_later(_LINGER_S, transport.close)
        else:
            transport.close()

    def _close_when_done(self) -> None:
        if self._ended and not self._owed and not self._unfed and not self._transport.is_closing():
            self._transport.close()

    def _end(self, reply: Reply) -> None:
        """Refuse a request whose rest will not be read: answer, close our side, let the client finish its own."""
        if self._deaf:
            return
        self._deaf, self._busy = True, False
        exchange = Exchange(self, reply, keep_alive=False, linger=True)
        self._owed.append(exchange)
        self._server.add(exchange)
        self._server.flush()

    def _head_too_large(self) -> None:
        most = f"{self._limits.headers} headers and {self._limits.head_bytes} bytes"
        self._end(refuse(431, "http.head", f"the head of a request has at most {most}"))

    def _too_large(self) -> Reply:
        return refuse(413, "body.large", f"a body has at most {self._limits.body_bytes} bytes", "send fewer rows")

    def expire(self, now_s: float) -> None:
        """Give up on a client that is slow to ask, or to read, or has asked nothing for long."""
        limit, passed_s = self._limits, now_s - self.since_s
        if self._unread_since_s is not None and now_s - self._unread_since_s > limit.unread_s:
            limits.cut(self._transport)
        elif self._deaf:
            self._see_off(now_s)
        elif self._busy and not self._unfed and passed_s > (limit.head_s if self._in_head else limit.request_s):
            what, most_s = ("the head of a request", limit.head_s) if self._in_head else ("a request", limit.request_s)
            self._end(refuse(408, "http.timeout", f"{what} must arrive within {most_s:g} s"))
        elif self.idle and passed_s > limit.idle_s:
            self.close()

    def _see_off(self, now_s: float) -> None:
        """Cut a connection that waits for a client to take the last of its answers, and it takes nothing."""
        left = self._transport.get_write_buffer_size()
        if left != self._stuck[0]:
            self._stuck = (left, now_s)
        elif left and now_s - self._stuck[1] > self._limits.unread_s:
            limits.cut(self._transport)

    def close(self) -> None:
        """Close the connection after what has been written."""
        self._transport.close()

    def drop(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
