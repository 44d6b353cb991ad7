"""Frames in an append-only file: length, CRC-32, payload. A torn tail is cut off by the reader."""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_HEAD = struct.Struct("<II")
MAX_PAYLOAD_BYTES = 256 << 20


def encode(payload: bytes) -> bytes:
    """The frame of a payload."""
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
            if size > MAX_PAYLOAD_BYTES:
                return
            payload = stream.read(size)
            if len(payload) < size or zlib.crc32(payload) != crc:
                return
            yield payload
