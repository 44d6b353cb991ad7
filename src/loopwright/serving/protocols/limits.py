"""How much of a connection and of a request a worker takes, and the unpacking of compressed bodies within it.

Knows no protocol above HTTP.
"""

import contextlib
import resource
import socket
import struct
import zlib
from typing import Any

import msgspec

from loopwright.kernel.errors import Invalid, Unsupported

_SPARE_FILES = 128
_SMALL_BYTES, _RATIO = 1 << 20, 100  # rows of numbers shrink to a tenth at best; what shrinks more is made to
_WINDOW = {b"gzip": zlib.MAX_WBITS | 16, b"x-gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may take up.

    Args:
        body_bytes: of a body, and of what comes out of a compressed one.
        framing_bytes: of a chunked body beside its data: sizes, extensions, trailers.
        waiting: requests of one connection that have no answer yet; no more are read before one has.
        pending: requests of all connections that slow models are at work on; more are told to come back.
        head_s: from the first byte of a request to the end of its head.
        request_s: from the first byte of a request to its last.
        slow_s: a request that takes longer to arrive gives way when all places are taken.
        idle_s: without a request under way.
        unread_s: in which the client takes nothing of what was answered.
    """

    connections: int = 4096
    body_bytes: int = 16 << 20
    head_bytes: int = 64 << 10
    headers: int = 100
    url_bytes: int = 8 << 10
    chunks: int = 16_384
    framing_bytes: int = 1 << 20
    waiting: int = 256
    pending: int = 20_000
    head_s: float = 10.0
    request_s: float = 30.0
    slow_s: float = 1.0
    idle_s: float = 75.0
    unread_s: float = 30.0


def connections(wanted: int) -> int:
    """How many connections this process can hold, after asking the system for as many open files as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _SPARE_FILES))


def bound(transport: Any, unread_s: float) -> None:
    """Have the kernel give up, as we do, on a client that reads nothing: also after we have closed the connection."""
    made = transport.get_extra_info("socket")
    if made is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):  # not TCP, or gone already
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_s * 1000))


def cut(transport: Any) -> None:
    """Reset a connection whose client reads nothing: what it was not sent yet leaves the kernel too."""
    made = transport.get_extra_info("socket")
    if made is not None:
        with contextlib.suppress(OSError):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def inflate(body: bytes, encoding: bytes, limit_bytes: int) -> bytes:
    """Unpack a body; never more of it than the limit, or than a hundred times what came, is made.

    Raises:
        Unsupported: the encoding is not gzip or deflate.
        Invalid: the body is not whole in that encoding, or too large unpacked (code `body.large`).
    """
    window = _WINDOW.get(encoding)
    if window is None:
        message = "the encodings of a body that are read are gzip and deflate"
        raise Unsupported(message, code="http.encoding", field="Content-Encoding")
    limit_bytes = min(limit_bytes, max(_SMALL_BYTES, _RATIO * len(body)))
    unpacker = zlib.decompressobj(window)
    try:
        out = unpacker.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise Invalid("the body is not what its encoding says", code="body.encoding", field="body") from None
    if len(out) > limit_bytes:
        message = f"a body has at most {limit_bytes} bytes unpacked"
        raise Invalid(message, code="body.large", field="body", hint="send fewer rows")
    if not unpacker.eof or unpacker.unused_data:
        raise Invalid("the body is not what its encoding says", code="body.encoding", field="body")
    return out
