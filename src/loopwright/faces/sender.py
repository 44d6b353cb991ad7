"""A lean HTTP/1.1 client for many small requests: keep-alive connections, one request under way on each.

Runs on the event loop that it is used in. A connection that is reset under a request sends it once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Unavailable

ANSWER_S = 120.0
_WATCH_S = 5.0

Answered = Callable[[Any, int, bytes], None]
Pace = Callable[[Any], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One connection; it opens itself when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self.sent_s = 0.0
        self._parser: Any = None
        self._body: list[bytes] = []

    async def send(self, payload: bytes) -> tuple[int, bytes]:
        """Send one request and wait for its status and body.

        Raises:
            ConnectionError: the connection was lost before the answer.
        """
        loop = asyncio.get_running_loop()
        if self.transport is None or self.transport.is_closing():
            await loop.create_connection(lambda: self, self.host, self.port)
        assert self.transport is not None
        self.waiter = loop.create_future()
        self.sent_s = monotonic_s()
        self.transport.write(payload)
        return await self.waiter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio."""
        self.transport = cast(asyncio.Transport, transport)  # that of uvloop is no subclass of it
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """asyncio."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionResetError(f"the answer is not HTTP: {error}"))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        self.transport = None
        self._fail(ConnectionResetError("the connection was lost"))

    def on_message_begin(self) -> None:
        """httptools."""
        self._body = []

    def on_body(self, body: bytes) -> None:
        """httptools."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """httptools."""
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        waiter, self.waiter = self.waiter, None
        if not keep:
            self.close()
        if waiter is not None and not waiter.done():
            waiter.set_result((status, b"".join(self._body)))

    def _fail(self, error: Exception) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def close(self) -> None:
        """Close the connection; what waits on it fails."""
        if self.transport is not None:
            self.transport.abort()
            self.transport = None


class Sender:
    """A handful of connections that share the work."""

    def __init__(self, url: str, connections: int) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._all = [Connection(self.host, self.port) for _ in range(connections)]
        self.repeated = 0

    def head(self, verb: str, path: str) -> bytes:
        """The lines of a request up to the value of its content-length, for `payload`."""
        return (
            f"{verb} {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
            f"content-type: application/json\r\ncontent-length: "
        ).encode()

    @staticmethod
    def payload(head: bytes, body: bytes) -> bytes:
        """A whole request."""
        return b"%b%d\r\n\r\n%b" % (head, len(body), body)

    async def run(self, items: Iterable[tuple[Any, bytes]], answered: Answered, pace: Pace | None = None) -> None:
        """Send every (key, payload) and hand key, status and body to `answered`; status 0 = no answer came.

        `pace` is an async function of the key, awaited before its request is sent.

        Raises:
            Unavailable: nobody listens there any more.
        """
        source = iter(items)

        async def work(connection: Connection) -> None:
            for key, payload in source:
                if pace is not None:
                    await pace(key)
                answered(key, *await self._twice(connection, payload))

        watch = asyncio.ensure_future(self._watch())
        works = [asyncio.ensure_future(work(connection)) for connection in self._all]
        try:
            await asyncio.gather(*works)
        finally:
            watch.cancel()
            for task in works:
                task.cancel()

    async def one(self, payload: bytes) -> tuple[int, bytes]:
        """Send one request and wait for its answer."""
        return await self._twice(self._all[0], payload)

    async def _twice(self, connection: Connection, payload: bytes) -> tuple[int, bytes]:
        for attempt in (1, 2):
            try:
                return await connection.send(payload)
            except ConnectionRefusedError:
                gone = f"nobody answers at {self.host}:{self.port}"
                raise Unavailable(gone, code="up.silent", hint="lw up") from None
            except OSError:
                self.repeated += attempt == 1
        return 0, b""

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            for connection in self._all:
                if connection.waiter is not None and monotonic_s() - connection.sent_s > ANSWER_S:
                    connection.close()
                    connection._fail(TimeoutError("no answer came"))

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.close()
