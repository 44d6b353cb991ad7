"""Tables that look-ups read: sorted by key and moment, in a file that many processes map and nobody changes.

Keys are typed bytes found by bisection of their hashes; numbers are 64-bit floats with NaN for null.
"""

import math
import mmap
import os
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

Value = float | str | None
Held = tuple[int, int, int, tuple[Value, ...]]  # from when it counts, when it held, from when it was known, values
FOREVER_US = 1 << 62
_HEAD = struct.Struct("<8sQ")
_MAGIC = b"lwsnap1\n"
_FEW_KEYS = 512


class Meta(msgspec.Struct, frozen=True):
    """What stands in one table: counts, and where its bytes begin."""

    keys: int
    rows: int
    dated: bool
    is_text: tuple[bool, ...]
    texts: int
    offset: int


class Head(msgspec.Struct, frozen=True):
    """What a file says of itself: the earliest moment that may be asked about, and the table of each join, if any."""

    floor_us: int
    tables: tuple[Meta | None, ...]


def key_of(values: Sequence[Any]) -> bytes:
    """The values of a key as bytes that are equal when DuckDB calls the values equal."""
    if len(values) == 1:
        return _typed(values[0])
    parts = [_typed(value) for value in values]
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _typed(value: Any) -> bytes:
    if type(value) is str:
        return b"t" + value.encode()
    if type(value) is bool:
        return b"b1" if value else b"b0"
    if type(value) is float and not value.is_integer():
        return b"f" + struct.pack(">d", value)
    return b"i%d" % int(value)


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest())


def rising(rows: Sequence[tuple[int, int, int, int, tuple[Value, ...]]]) -> list[Held]:
    """Of (counts from, -held, -known, order, values), sorted, the rows that are ever the latest."""
    out: list[Held] = []
    for at, held, known, _, values in rows:
        if not out or (at > out[-1][0] and -held >= out[-1][1]):
            out.append((at, -held, -known, values))
    return out


class Run:
    """The rows of one key by the moments from which they count; a window needs no more than these and the values."""

    def __init__(self, width: int) -> None:
        self.at, self.held, self.known = array("q"), array("q"), array("q")
        self.columns = [array("d") for _ in range(width)]

    def extend(self, other: "Run") -> None:
        """Put the rows of another behind these."""
        self.at.extend(other.at)
        self.held.extend(other.held)
        self.known.extend(other.known)
        for mine, its in zip(self.columns, other.columns, strict=True):
            mine.extend(its)

    def insert(self, at_us: int, values: Sequence[Value]) -> None:
        """Put a row of a window in its place."""
        place = bisect_right(self.at, at_us)
        self.at.insert(place, at_us)
        for column, value in zip(self.columns, values, strict=True):
            column.insert(place, math.nan if value is None else float(value))

    def cut(self, first_us: int) -> None:
        """Let go of the rows up to a moment."""
        place = bisect_right(self.at, first_us)
        if place:
            del self.at[:place]
            for column in self.columns:
                del column[:place]


def run_of(rows: Sequence[Held], width: int, texts: dict[str, int]) -> Run:
    """Rows as a run; a text is its place among all texts of the table."""
    run = Run(width)
    for at, held, known, values in rows:
        run.at.append(at)
        run.held.append(held)
        run.known.append(known)
        for column, value in zip(run.columns, values, strict=True):
            if isinstance(value, str):
                value = texts.setdefault(value, len(texts))
            column.append(math.nan if value is None else value)
    return run


class Writer:
    """Puts tables one behind the other and makes the bytes of a file of them."""

    def __init__(self, floor_us: int) -> None:
        self._floor_us = floor_us
        self._tables: list[Meta | None] = []
        self._parts: list[bytes] = []
        self._size = 0

    def skip(self) -> None:
        """A join that has no table in this file."""
        self._tables.append(None)

    def table(self, rows: Mapping[bytes, "Run"], is_text: Sequence[bool], texts: Sequence[str] = ()) -> None:
        """A table of rows by key; says which columns hold texts, by their place among `texts`."""
        order = sorted((_hash(key), key) for key in rows)
        whole = Run(len(is_text))
        starts, places, blob = array("q", [0]), array("q", [0]), bytearray()
        for _, key in order:
            whole.extend(rows[key])
            starts.append(len(whole.at))
            blob += key
            places.append(len(blob))
        text_blob, text_places = bytearray(), array("q", [0])
        for text in texts:
            text_blob += text.encode()
            text_places.append(len(text_blob))
        dated = len(whole.held) == len(whole.at)
        self._tables.append(Meta(len(order), len(whole.at), dated, tuple(is_text), len(texts), self._size))
        numbers: list[Any] = [array("Q", [number for number, _ in order]), starts, places, whole.at]
        numbers += [whole.held, whole.known] if dated else []
        for part in (*numbers, *whole.columns, text_places, blob, text_blob):
            self._add(bytes(part))

    def _add(self, part: bytes) -> None:
        self._parts += [part, bytes(-len(part) % 8)]
        self._size += len(part) + -len(part) % 8

    def encoded(self) -> bytes:
        """The file's bytes."""
        head = msgspec.msgpack.encode(Head(self._floor_us, tuple(self._tables)))
        return b"".join([_HEAD.pack(_MAGIC, len(head)), head, bytes(-len(head) % 8), *self._parts])


class Table:
    """One table of a mapped file."""

    def __init__(self, view: memoryview, meta: Meta) -> None:
        self._place = meta.offset
        keys, rows = meta.keys, meta.rows
        self._hashes = self._numbers(view, "Q", keys)
        self._starts = self._numbers(view, "q", keys + 1)
        self._keys = self._numbers(view, "q", keys + 1)
        self.at = self._numbers(view, "q", rows)
        self.held = self._numbers(view, "q", rows) if meta.dated else self.at
        self.known = self._numbers(view, "q", rows) if meta.dated else self.at
        self.columns = [self._numbers(view, "d", rows) for _ in meta.is_text]
        self.is_text = meta.is_text
        self._texts = self._numbers(view, "q", meta.texts + 1)
        self._blob = view[self._place : self._place + self._keys[keys]]
        self._place += self._keys[keys] + -self._keys[keys] % 8
        self._text_blob = view[self._place : self._place + self._texts[meta.texts]]
        self._few: dict[bytes, tuple[int, int]] | None = None
        if keys <= _FEW_KEYS:
            self._few = {self._key(place): (self._starts[place], self._starts[place + 1]) for place in range(keys)}

    def _numbers(self, view: memoryview, code: str, count: int) -> Any:
        start = self._place
        self._place += count * 8
        return view[start : self._place].cast(code)  # type: ignore[call-overload]

    def _key(self, place: int) -> bytes:
        return bytes(self._blob[self._keys[place] : self._keys[place + 1]])

    def find(self, key: bytes) -> tuple[int, int] | None:
        """The first row of a key and the row after its last."""
        if self._few is not None:
            return self._few.get(key)
        number = _hash(key)
        place = bisect_left(self._hashes, number)
        while place < len(self._hashes) and self._hashes[place] == number:
            if self._key(place) == key:
                return self._starts[place], self._starts[place + 1]
            place += 1
        return None

    def text(self, code: float) -> str:
        """The text that a column's number stands for."""
        place = int(code)
        return str(self._text_blob[self._texts[place] : self._texts[place + 1]], "utf-8")

    def latest(self, key: bytes, at_us: int) -> int:
        """The last row of a key that counts at a moment; -1 when there is none."""
        found = self.find(key)
        if found is None:
            return -1
        place = bisect_right(self.at, at_us, *found) - 1
        return place if place >= found[0] else -1


class File:
    """A mapped file and its tables."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            view = memoryview(mmap.mmap(stream.fileno(), size, prot=mmap.PROT_READ))
        magic, length = _HEAD.unpack_from(view)
        if magic != _MAGIC:
            raise ValueError(f"{path.name} is no snapshot")
        head = msgspec.msgpack.decode(view[_HEAD.size : _HEAD.size + length], type=Head)
        body = view[_HEAD.size + length + -length % 8 :]
        self.floor_us = head.floor_us
        self.tables = [None if meta is None else Table(body, meta) for meta in head.tables]


def latest_of(tables: Sequence[Table], key: bytes, at_us: int) -> tuple[Table, int] | None:
    """The row that is the latest at a moment among the tables; of equal ones that of the first."""
    best: tuple[Table, int] | None = None
    score = (0, 0, 0)
    for table in tables:
        place = table.latest(key, at_us)
        if place >= 0:
            made = (table.held[place], table.at[place], table.known[place])
            if best is None or made > score:
                best, score = (table, place), made
    return best


def between(tables: Sequence[Table], key: bytes, column: int, span: tuple[int, int]) -> list[float]:
    """The values, without nulls, of the rows of a key known in (since, until]."""
    values: list[float] = []
    for table in tables:
        found = table.find(key)
        if found is not None:
            low = bisect_right(table.at, span[0], *found)
            values += table.columns[column][low : bisect_right(table.at, span[1], low, found[1])]
    total = sum(values)
    return values if total == total else [value for value in values if value == value]


def aggregate(how: str, values: Sequence[float]) -> float | None:
    """One aggregate; sums are exact and rounded once, and null when they are beyond all numbers."""
    if how == "count":
        return float(len(values))
    return _AGGREGATES[how](values) if values else None


def _total(values: Sequence[float]) -> float | None:
    try:
        return math.fsum(values)
    except OverflowError:
        return None


def _mean(values: Sequence[float]) -> float | None:
    total = _total(values)
    return None if total is None else total / len(values)


_AGGREGATES: dict[str, Callable[[Sequence[float]], float | None]] = {
    "sum": _total, "mean": _mean, "min": min, "max": max,
}  # fmt: skip
