"""Heads of requests that were parsed before: a client that asks again sends the same bytes but for the body.

What a head means depends on its bytes and on the routes alone, so the same bytes are not parsed anew; who may come in
is asked each time, and only requests that are here whole, and were answered as plain as can be, are remembered.
"""

from collections.abc import Mapping

import msgspec

from loopwright.serving.engine import Engine
from loopwright.serving.protocols.oip import Call

END = b"\r\n\r\n"
_MOST = 256
_LONGEST = 2048
# With any of these a request is more than its head and as many bytes as the head says.
_ODD = (b"transfer-encoding", b"content-encoding", b"expect")


class Known(msgspec.Struct, frozen=True, gc=False):
    """What a head asks for, and the size of the body behind it."""

    call: Call
    url: bytes
    headers: Mapping[bytes, bytes]
    size: int


class Heads:
    """The heads that a worker has met under its routes, which its engine gets as a new mapping when they change."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[bytes, Known] = {}
        self._targets = engine.targets

    def find(self, data: bytes) -> Known | None:
        """What is known of the request that is these bytes, when they are exactly one request."""
        targets = self._engine.targets
        if targets is not self._targets:
            self._known.clear()
            self._targets = targets
            return None
        end = data.find(END) + len(END)
        known = self._known.get(data[:end])
        return known if known is not None and len(data) - end == known.size else None

    def learn(self, data: bytes, call: Call, url: bytes, headers: Mapping[bytes, bytes]) -> None:
        """Remember the head of a whole POST of HTTP/1.1 on a connection that goes on."""
        end = data.find(END) + len(END)
        size = headers.get(b"content-length", b"").strip()
        whole = size.isdigit() and int(size) == len(data) - end
        if not whole or end > _LONGEST or any(name in headers for name in _ODD):
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[data[:end]] = Known(call, url, dict(headers), int(size))
