"""The rows of the prediction log as they stand in a spool: frames of msgpack, a header before the rows it is for."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from loopwright.kernel.errors import Corrupt
from loopwright.kernel.ids import base32, number_of
from loopwright.store import frames

FORMAT = 1
_HEADER, _ROWS = 0, 1
MOST_BYTES = 32 << 20  # of a frame, unless one row alone has more
# What unpacking raises over bytes that are no rows; the sum of a frame says that these bytes were written so.
_ODD = (msgspec.MsgspecError, ValueError, TypeError, IndexError, RecursionError)
_PAIRS = [base32(number, 2) for number in range(1024)]


class Columns(msgspec.Struct, frozen=True, array_like=True):
    """Names and types of the inputs, in the order in which the rows hold their values.

    Args:
        asked: how many of the last ones are what the caller knew, from which the others were looked up.
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    asked: int = 0

    @property
    def labels(self) -> list[str]:
        """The names that the columns have in the log."""
        first = len(self.names) - self.asked
        return [f"in_{name}" if place < first else f"ask_{name}" for place, name in enumerate(self.names)]


class LogRow(msgspec.Struct, array_like=True, gc=False):
    """One answer.

    Args:
        version: what answered; None when nothing could.
        arm: what the request's hash had picked; another than `version` when it failed and the champion answered.
        scores, errors, latency_us: of every version in the routes that was asked.
    """

    id: str
    at_us: int
    received_us: int
    request_id: str
    version: int | None
    arm: int
    subject: str | None
    values: Sequence[Any]
    scores: dict[int, float] = {}
    errors: dict[int, str] = {}
    latency_us: dict[int, int] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode_rows = msgspec.msgpack.Decoder(list[LogRow]).decode
_decode = msgspec.msgpack.Decoder().decode


def header(columns: Columns) -> bytes:
    """The payload of a header frame."""
    return _encode([_HEADER, FORMAT, columns])


def rows_payload(rows: Sequence[LogRow]) -> bytes:
    """The payload of a frame of rows; the times come first, so that a reader can pass over it."""
    times = [row.at_us for row in rows]
    return _encode([_ROWS, min(times), max(times), _encode(rows)])


def payloads(rows: Sequence[LogRow]) -> list[bytes]:
    """The payload of the rows, or several when one would be more than a reader takes at once."""
    payload = rows_payload(rows)
    if len(payload) <= MOST_BYTES or len(rows) == 1:
        return [payload]
    half = len(rows) // 2
    return payloads(rows[:half]) + payloads(rows[half:])


def read(
    path: Path, since_us: int | None = None, until_us: int | None = None
) -> Iterator[tuple[Columns, list[LogRow]]]:
    """The rows of a spool up to its torn tail, a list for each frame; frames outside the times are passed over.

    Raises:
        Corrupt: a frame is whole and holds no rows.
    """
    try:
        yield from _read(path, since_us, until_us)
    except _ODD:
        raise _no_rows(path) from None


def _read(path: Path, since_us: int | None, until_us: int | None) -> Iterator[tuple[Columns, list[LogRow]]]:
    columns = Columns((), ())
    for payload in frames.read_frames(path):
        kind, *rest = _decode(payload)
        if kind == _HEADER:
            columns = msgspec.convert(rest[1], Columns)
            continue
        low, high, packed = rest
        if (since_us is None or high >= since_us) and (until_us is None or low < until_us):
            yield columns, _decode_rows(packed)


def _no_rows(path: Path) -> Corrupt:
    return Corrupt(f"{path.name} holds a frame that is no part of a prediction log", code="log.frame", hint="lw fsck")


def count(path: Path, until_us: int) -> int:
    """How many rows of a spool lie before a moment; a frame that lies before it whole is not unpacked.

    Raises:
        Corrupt: a frame is whole and holds no rows.
    """
    try:
        return sum(_count(payload, until_us) for payload in frames.read_frames(path))
    except _ODD:
        raise _no_rows(path) from None


def _count(payload: bytes, until_us: int) -> int:
    kind, *rest = _decode(payload)
    if kind == _HEADER or rest[0] >= until_us:
        return 0
    return _length(rest[2]) if rest[1] < until_us else sum(row.at_us < until_us for row in _decode_rows(rest[2]))


def first_us(path: Path) -> int | None:
    """The earliest moment of a spool's rows; no frame is unpacked."""
    heads = (_decode(payload) for payload in frames.read_frames(path))
    return min((head[1] for head in heads if head[0] != _HEADER), default=None)


def _length(packed: bytes) -> int:
    """The number of items of a msgpack array, read from its head."""
    if packed[0] & 0xF0 == 0x90:
        return packed[0] & 0x0F
    return int.from_bytes(packed[1:3] if packed[0] == 0xDC else packed[1:5])


def whole_bytes(path: Path) -> int:
    """The size of a spool up to its torn tail."""
    return sum(len(payload) + frames.HEAD_BYTES for payload in frames.read_frames(path))


def spool_id(slot: int, epoch_us: int) -> str:
    """The id of a spool: the worker's slot and the moment at which the spool was opened."""
    return _PAIRS[slot] + base32(epoch_us, 11)


def opened_us(spool: str) -> int:
    """The moment that a spool's id names."""
    return number_of(spool[2:])


def prediction_id(received_us: int, spool: str, count: int) -> str:
    """An id that sorts by time and names the spool that holds it and its place among the answers there."""
    return f"pred_{base32(received_us // 1000, 9)}{spool}{base32(count, 6)}"


class Ids:
    """Makes the prediction ids of one spool; the same as `prediction_id`, without its cost."""

    def __init__(self, spool: str) -> None:
        self._spool = spool
        self._count = 0
        self._tick_ms = -1
        self._prefix = ""

    def next(self, received_us: int) -> str:
        """The next id."""
        tick_ms = received_us // 1000
        if tick_ms != self._tick_ms:
            self._tick_ms, self._prefix = tick_ms, f"pred_{base32(tick_ms, 9)}{self._spool}"
        count = self._count
        self._count = count + 1
        return self._prefix + _PAIRS[count >> 20 & 1023] + _PAIRS[count >> 10 & 1023] + _PAIRS[count & 1023]


def spool_of(prediction: str) -> str | None:
    """The spool that a prediction's id names, or None when the text is no such id."""
    body, _, row = prediction.partition("/")
    if len(body) != 33 or not body.startswith("pred_") or not body[5:].isalnum() or not (row.isdigit() or not row):
        return None
    return body[14:27]
