"""The HTTP of control: uvicorn's parser with the limits that it lacks, on heads, framing, connections and patience.

Knows no route; what is refused here never reaches the application.
"""

import asyncio
from collections import deque
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loopwright.kernel.clock import monotonic_s
from loopwright.serving.protocols import peers
from loopwright.serving.protocols.limits import bound, cut

_SWEEP_S = 1.0
_BITE_BYTES = 16 << 10
_LINGER_S = 2.0
_PHRASES = {
    400: "Bad Request", 408: "Request Timeout", 413: "Content Too Large", 414: "URI Too Long",
    431: "Request Header Fields Too Large", 501: "Not Implemented", 503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}  # fmt: skip
# A request carries these once; of two, one reader might take the first and another the last.
_SINGLE = frozenset(
    (b"host", b"origin", b"sec-fetch-site", b"content-type", b"content-encoding", b"authorization", b"expect")
)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client of control may take up; how large a body may be is for the application to say, which reads it.

    Args:
        framing_bytes: of a chunked body beside its data: sizes, extensions, trailers.
        chunks: that many may be small; more must hold `chunk_bytes` on average.
        waiting: requests that are parsed ahead of the one that is answered.
        head_s: from the first byte of a request to the end of its head.
        slow_s: a head that takes longer gives way when all places are taken.
        request_s: from the first byte of a request to its last, and longer at `body_bytes_s`.
        idle_s: without a request under way.
        unread_s: in which the client takes nothing of what was answered.
    """

    connections: int = 512
    head_bytes: int = 64 << 10
    headers: int = 100
    url_bytes: int = 8 << 10
    framing_bytes: int = 1 << 20
    chunks: int = 1024
    chunk_bytes: int = 64
    waiting: int = 64
    head_s: float = 10.0
    slow_s: float = 1.0
    request_s: float = 60.0
    body_bytes_s: int = 64 << 10
    idle_s: float = 75.0
    unread_s: float = 30.0


class Listener(HttpToolsProtocol):
    """One client's connection to control."""

    limits = Limits()

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        # The server's own: nothing behind a request that ends the connection is looked at.
        self.parser = httptools.HttpRequestParser(self)
        self._since_s = monotonic_s()
        self._unread_since_s: float | None = None
        self._in_head = self._coming = self._begun = self._deaf = False
        self._seen_bytes = self._count = self._chunks = self._raw_bytes = self._body_bytes = 0
        self._unfed = b""
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        bound(transport, self.limits.unread_s)
        self.app_state = {**self.app_state, peers.KEY: peers.of_transport(transport)}  # asked of the kernel once
        self._watch = self.loop.call_later(_SWEEP_S, self._look)
        if len(self.connections) > self.limits.connections:
            self._make_room()
        if len(self.connections) > self.limits.connections:
            self.refuse(503, "server.busy", "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._deaf, self._unfed = True, b""
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Let go of the connections that idle, or are slow to ask, the longest."""
        now = monotonic_s()
        spare = [
            c for c in self.connections if isinstance(c, Listener) and c is not self and (c.idle or c.dawdles(now))
        ]
        for other in sorted(spare, key=lambda c: (not c.idle, c._since_s))[: max(1, self.limits.connections // 64)]:
            other.transport.abort()
            self.connections.discard(other)

    def dawdles(self, now_s: float) -> bool:
        """Whether the head of a request has been arriving here for too long, and nothing else is under way."""
        before = self.cycle is None or self.cycle.response_complete
        return self._in_head and not self.pipeline and before and now_s - self._since_s > self.limits.slow_s

    @property
    def idle(self) -> bool:
        """Whether no request is under way here."""
        return not self._coming and not self.pipeline and (self.cycle is None or self.cycle.response_complete)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._unfed:
            self._unfed += data
            return
        for start in range(0, len(data), _BITE_BYTES):
            if len(self.pipeline) >= self.limits.waiting:
                self._unfed = data[start:]
                self.flow.pause_reading()
                return
            self._feed(data[start : start + _BITE_BYTES])

    def on_response_complete(self) -> None:
        more = bool(self.pipeline)
        super().on_response_complete()
        if self._deaf and not more:
            self.transport.close()
        if self._unfed and not self._deaf and not self.transport.is_closing():
            self.loop.call_soon(self._feed_rest)

    def _feed_rest(self) -> None:
        data, self._unfed = self._unfed, b""
        if data and not self.transport.is_closing():
            self.data_received(data)

    def _feed(self, data: bytes) -> None:
        if self._deaf:
            return
        coming, in_head = self._coming, self._in_head
        if coming:
            self._raw_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # what was asked is answered in HTTP/1.1
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, httptools.HttpParserInvalidURLError):
                self.loop.call_exception_handler({"message": "a request failed", "exception": error.__context__})
            self.refuse(400, "http.form", "this is not HTTP/1.1")
        except httptools.HttpParserError:
            self.refuse(400, "http.form", "this is not HTTP/1.1")
        if not self._coming or self._deaf:
            return
        if self._in_head:
            if not in_head:
                # The head of a request behind another one in the same bytes is counted from the next bytes on.
                self._raw_bytes = 0 if coming else len(data) - data.rfind(b"\r\n\r\n") - 1
            if self._raw_bytes > self.limits.head_bytes:
                self._head_too_large()
        elif self._raw_bytes - self._body_bytes * 9 // 8 > self.limits.framing_bytes + self.limits.head_bytes:
            self._too_fine()

    # httptools

    def on_message_begin(self) -> None:
        if self._deaf:
            return
        self._in_head = self._coming = True
        self._begun = False
        self._since_s = monotonic_s()
        self._seen_bytes = self._count = self._chunks = self._raw_bytes = self._body_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._deaf:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._deaf:
            return
        self._count += 1
        self._seen_bytes += len(name) + len(value)
        if self._count > self.limits.headers or self._seen_bytes > self.limits.head_bytes:
            self._head_too_large()
        elif self._in_head:  # a trailer is counted and dropped
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        refused = self._unsound()
        if refused is not None:
            self.refuse(*refused)
            return
        super().on_headers_complete()
        self._begun = True

    def _unsound(self) -> tuple[int, str, str] | None:
        """Why a head is refused that another reader might take in another way."""
        version = self.parser.get_http_version()
        names = [name for name, _ in self.headers]
        coding = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if version not in ("1.1", "1.0"):
            return 505, "http.version", "this server speaks HTTP/1.1"
        if coding and (version == "1.0" or coding != [b"chunked"]):
            return 501, "http.transfer", "the only transfer coding that is read is chunked"
        if len(self.url) > self.limits.url_bytes:
            return 414, "http.url", f"a path has at most {self.limits.url_bytes} bytes"
        single = [name for name in names if name in _SINGLE]
        if len(single) != len(set(single)) or (version == "1.1" and b"host" not in names):
            return 400, "http.host", "a request names one host, and each header once"
        if not self.url.startswith(b"/"):
            scheme, _, rest = self.url.partition(b"://")
            authority, slash, path = rest.partition(b"/")
            host = next((value for name, value in self.headers if name == b"host"), b"")
            if scheme.lower() not in (b"http", b"https") or authority.lower() != host.lower():
                return 400, "http.target", "the target of a request is a path, or names the same host"
            self.url = slash + path
        return None

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self.limits.chunks and self._body_bytes < self._chunks * self.limits.chunk_bytes:
            self._too_fine()

    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            self._body_bytes += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        self._coming = False
        if not self.parser.should_keep_alive():
            self._deaf = True
        super().on_message_complete()

    # refusals

    def _head_too_large(self) -> None:
        most = f"{self.limits.headers} headers and {self.limits.head_bytes} bytes"
        self.refuse(431, "http.head", f"the head of a request has at most {most}")

    def _too_fine(self) -> None:
        self.refuse(413, "body.chunks", "the chunks of this body are more framing than data")

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, unless it is at work on earlier requests; then close."""
        if self._deaf or self.transport.is_closing():
            return
        cycle = self.cycle if self._coming and self._begun else None
        self._deaf, self._coming, self._unfed = True, False, b""
        if cycle is not None and cycle.response_started:
            self.transport.close()
            return
        before = [pair for pair in self.pipeline if pair[0] is not cycle]
        if before or (self.cycle is not None and self.cycle is not cycle and not self.cycle.response_complete):
            self.pipeline = deque(before)  # these are answered first, and then the connection ends
            return
        if cycle is not None and self.pipeline:
            self.pipeline.clear()
            return
        if cycle is not None:
            cycle.disconnected = True  # its handler waits for a body that will not come
            cycle.message_event.set()
        document = msgspec.json.encode({"code": code, "message": message, "field": None, "hint": None})
        lines = [
            f"HTTP/1.1 {status} {_PHRASES[status]}",
            "content-type: application/json",
            "x-content-type-options: nosniff",
            f"content-length: {len(document)}",
            *(["retry-after: 1"] if status == 503 else []),
            "connection: close",
        ]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + document)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    # patience

    def pause_writing(self) -> None:
        self._unread_since_s = monotonic_s()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since_s = None
        super().resume_writing()

    def _look(self) -> None:
        self._watch = self.loop.call_later(_SWEEP_S, self._look)
        self.expire(monotonic_s())

    def expire(self, now_s: float) -> None:
        """Give up on a client that is slow to ask, or to read, or has asked nothing for long."""
        limits, passed_s = self.limits, now_s - self._since_s
        if self._unread_since_s is not None and now_s - self._unread_since_s > limits.unread_s:
            cut(self.transport)
        elif self._deaf:
            return
        elif self._coming and passed_s > (most_s := self._most_s()):
            self.refuse(408, "http.timeout", f"a request must arrive within {most_s:.0f} s")
        elif self.idle and passed_s > limits.idle_s:
            self.transport.close()

    def _most_s(self) -> float:
        """How long the request under way may take to arrive, by what has arrived of it."""
        limits = self.limits
        return limits.head_s if self._in_head else limits.request_s + self._body_bytes / limits.body_bytes_s
