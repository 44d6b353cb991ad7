"""Frames in an append-only file: length, CRC-32, payload. A torn tail is cut off by the reader.

After a power cut a file may end in zeros, which would be frames of nothing: no frame is empty.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_HEAD = struct.Struct("<II")
HEAD_BYTES = _HEAD.size
MAX_PAYLOAD_BYTES = 256 << 20
_BLOCK = 4096


def encode(payload: bytes) -> bytes:
    """The frame of a payload that readers take: it is not empty, and not too large.

    Raises:
        ValueError: it is.
    """
    if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a frame holds 1 to {MAX_PAYLOAD_BYTES} bytes")
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def append(fd: int, payload: bytes) -> int:
    """Append one frame whole and return its size in bytes; in the kernel on return, on disk after an fsync.

    Raises:
        OSError: the file took only a part, which is cut off again.
    """
    frame = encode(payload)
    start = os.lseek(fd, 0, os.SEEK_END)
    written = 0
    try:
        while written < len(frame):
            written += os.write(fd, frame[written:])
    except OSError:
        os.ftruncate(fd, start)
        raise
    return len(frame)


def read_frames(path: Path) -> Iterator[bytes]:
    """The payloads of a file in order, up to its end or to the first torn frame."""
    with open(path, "rb") as stream:
        while len(head := stream.read(_HEAD.size)) == _HEAD.size:
            size, crc = _HEAD.unpack(head)
            if not 0 < size <= MAX_PAYLOAD_BYTES:
                return
            payload = stream.read(size)
            if len(payload) < size or zlib.crc32(payload) != crc:
                return
            yield payload


def find_damage(path: Path) -> int | None:
    """Where a frame starts whose bytes are not what was written, or None; a torn tail is no damage.

    A tail is torn when the file ends before its frame does, or when a power cut left whole blocks of zeros there.
    Damage is a frame that is all there and does not have its checksum, or bytes that are no frame although whole ones
    follow.
    """
    data = path.read_bytes()
    at = 0
    while at + _HEAD.size <= len(data):
        size, crc = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + size
        if end <= len(data):
            if zlib.crc32(memoryview(data)[at + _HEAD.size : end]) != crc:
                return None if end > _written(data) else at
            at = end
            continue
        return at if _frame_follows(data, at + 1) else None
    return None


def _written(data: bytes) -> int:
    """Up to where a file was written before a power cut: what comes after is blocks of nothing but zeros."""
    last = len(data.rstrip(b"\0"))
    return min(len(data), -(-last // _BLOCK) * _BLOCK)


def _frame_follows(data: bytes, start: int) -> bool:
    view = memoryview(data)
    for at in range(start, len(data) - _HEAD.size):
        size, crc = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + size
        if size > 0 and end <= len(data) and zlib.crc32(view[at + _HEAD.size : end]) == crc:
            return True
    return False
