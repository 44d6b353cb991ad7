"""Canonical bytes and BLAKE3 digests; the rules and vectors stand in docs/spec/identity-1.md."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

_CHUNK = 1 << 20


def hasher() -> Any:
    """A fresh BLAKE3 hasher with `update(bytes)` and `hexdigest()`."""
    from blake3 import blake3

    return blake3()


def digest_bytes(data: bytes) -> str:
    """BLAKE3-256 of bytes, as 64 hexadecimal digits."""
    from blake3 import blake3

    return blake3(data).hexdigest()


def digest_file(path: Path) -> str:
    """BLAKE3-256 of a file's bytes, read in pieces."""
    made = hasher()
    with open(path, "rb") as stream:
        while piece := stream.read(_CHUNK):
            made.update(piece)
    return str(made.hexdigest())


def digest(value: Any) -> str:
    """BLAKE3-256 of `encode(value)`."""
    return digest_bytes(encode(value))


def encode(value: Any) -> bytes:
    """The canonical bytes of a value: equal values give equal bytes, values of two types never do.

    Takes None, bool, int, float, str, bytes, lists, tuples, mappings with str keys and msgspec structs.

    Raises:
        TypeError: another type is in it.
    """
    out: list[bytes] = []
    _put(value, out)
    return b"".join(out)


def _put(value: Any, out: list[bytes]) -> None:
    match value:
        case None:
            out.append(b"n")
        case True | False:
            out.append(b"t" if value else b"f")
        case int():
            _sized(b"i", str(int(value)).encode(), out)
        case float():
            _sized(b"d", _float(value), out)
        case str():
            _sized(b"s", value.encode(), out)
        case bytes() | bytearray():
            _sized(b"b", bytes(value), out)
        case list() | tuple():
            out.append(b"l%d:" % len(value))
            for item in value:
                _put(item, out)
        case Mapping():
            out.append(b"m%d:" % len(value))
            for key in sorted(value):
                if not isinstance(key, str):
                    raise TypeError(f"a canonical mapping has text keys, not {type(key).__name__}")
                _sized(b"s", key.encode(), out)
                _put(value[key], out)
        case msgspec.Struct():
            _put(msgspec.structs.asdict(value), out)
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical bytes")


def _sized(mark: bytes, body: bytes, out: list[bytes]) -> None:
    out.append(mark + b"%d:" % len(body) + body)


def _float(value: float) -> bytes:
    if math.isnan(value):
        return b"nan"
    return float(value).hex().encode()
