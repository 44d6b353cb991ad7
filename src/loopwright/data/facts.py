"""Facts: rows of declared sources that arrive one by one, each with the moment from which it counts as known.

They stand beside the versions of their source: offline both are read, online only what is still asked for.
"""

import re
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from loopwright.access import service as access
from loopwright.artifacts import names
from loopwright.data import queries, service, sql
from loopwright.data.model import ALWAYS, Column, DataSpec
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.times import DAY, SECOND, format_time, parse_time
from loopwright.store.database import Tx
from loopwright.store.space import Space

KNOWN_AT = "known_at"
PROMISE_US = SECOND  # within which workers look a fact up; before that nobody may count it as known
MAX_TEXT = 10_000
_WHOLE = {f"{sign}{name}": bits - (not sign) for sign in ("", "U")
          for name, bits in (("TINYINT", 8), ("SMALLINT", 16), ("INTEGER", 32), ("BIGINT", 64))}  # fmt: skip
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_UNITS = {"DATE": DAY, "TIMESTAMP_S": SECOND, "TIMESTAMP_MS": 1000}
_LAST_US = 253_370_764_800_000_000  # the start of the year 9999


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows were new, and how many had been told before."""

    accepted: int
    repeated: int


class Fact(msgspec.Struct, frozen=True):
    """One row as it was kept: from when it counts as known, when it held, and its columns (times as microseconds)."""

    seq: int
    known_us: int
    time_us: int | None
    values: dict[str, Any]


_shower: Callable[[Space], object] | None = None


def set_shower(shower: Callable[[Space], object] | None) -> None:
    """Plug in what makes all workers look up in what is known here."""
    global _shower
    _shower = shower


def show(space: Space) -> None:
    """Return when all workers look up in what is known here.

    Raises:
        Timeout: one of them did not in time.
    """
    if _shower is not None:
        _shower(space)


class _Line(msgspec.Struct, frozen=True):
    about: str
    told_us: int | None
    time_us: int | None
    body: str


def add(space: Space, actor: str, name: str, body: bytes) -> Taken:
    """Take NDJSON rows of a declared source, each its columns and perhaps `known_at`: all of them, durably, or none.

    A row counts as known from its `known_at` on, though never before it is here; one told ahead of its time waits.

    Raises:
        Invalid: a line is no row of the source; names the line and the field.
        NotFound: no features were declared over such a source, or no version of it was added.
    """
    access.require(space, actor, "data.add", f"name:{name}")
    with space.read() as tx:
        spec = declaration(tx, name)
    if spec is None:
        raise NotFound(f"no source {name} was declared", code="data.missing", field="name", hint="lw run")
    if spec.known_column is None:
        raise Invalid(
            f"{name} does not say when its rows become known, so none can arrive",
            code="facts.no-known",
            field="name",
            hint=f"lw add {spec.path} for a new version of it" if spec.known == ALWAYS else 'known="COLUMN"',
        )
    version = names.newest(space, name)
    if version is None:
        raise NotFound(f"{name} was never added", code="data.missing", field="name", hint=f"lw add {spec.path}")
    reader = _Reader(spec, service.schema(space, version))
    lines = [reader.line(number, raw) for number, raw in enumerate(body.split(b"\n"), 1) if raw.strip()]
    if not lines:
        raise Invalid("there is no row in the body", code="facts.empty", field="body")
    wait_us = PROMISE_US if space.clock.mode == "wall" else 0
    return space.write(lambda tx: _insert(tx, name, lines, wait_us))


def _insert(tx: Tx, name: str, lines: list[_Line], wait_us: int) -> Taken:
    arrived_us = tx.now_us() + wait_us
    accepted = 0
    for line in lines:
        salt = str(line.told_us)
        if line.told_us is None:  # without a time of its own, what is told again is news when it had changed meanwhile
            last = tx.one(
                "SELECT seq, body FROM facts WHERE name = ? AND about = ? ORDER BY seq DESC LIMIT 1", (name, line.about)
            )
            if last is not None and last["body"] == line.body:
                continue
            salt = "" if last is None else f"after {last['seq']}"
        known_us = arrived_us if line.told_us is None else max(line.told_us, arrived_us)
        accepted += tx.execute(
            "INSERT INTO facts(name, known_us, time_us, about, body, digest) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (name, digest) DO NOTHING",
            (name, known_us, line.time_us, line.about, line.body, _digest(f"{salt}\n{line.body}")),
        )
    return Taken(accepted=accepted, repeated=len(lines) - accepted)


def declaration(tx: Tx, name: str) -> DataSpec | None:
    """A source as a project's features last declared it, or as its newest version was added; None when neither."""
    for features in queries.all_features(tx):
        spec = queries.find_features(tx, features)
        for source in () if spec is None else spec.sources:
            if source.name == name:
                return source
    return queries.newest_declaration(tx, name)


def scan(tx: Tx, name: str, *, since_us: int, until_us: int, held: bool = False) -> list[Fact]:
    """The rows of a source that count as known from a moment in [since, until), by (known_us, seq).

    `held` takes those too that were known before and hold from `since` on.
    """
    since = "known_us >= ?" if not held else "(known_us >= ? OR time_us >= ?)"
    rows = tx.query(
        f"SELECT seq, known_us, time_us, body FROM facts WHERE name = ? AND {since} AND known_us < ?"
        " ORDER BY known_us, seq",
        (name, *([since_us] * (1 + held)), until_us),
    )
    return [Fact(row[0], row[1], row[2], _decode(row[3])) for row in rows]


def after(tx: Tx, name: str, seq: int, until_us: int) -> list[Fact]:
    """The rows of a source that arrived after another, by seq."""
    rows = tx.query(
        "SELECT seq, known_us, time_us, body FROM facts WHERE name = ? AND seq > ? AND known_us < ? ORDER BY seq",
        (name, seq, until_us),
    )
    return [Fact(row[0], row[1], row[2], _decode(row[3])) for row in rows]


def newest(tx: Tx) -> tuple[int, int]:
    """The number of the last row of any source, and how often rows were taken back."""
    last = tx.value("SELECT COALESCE(MAX(seq), 0) FROM facts")
    return int(last), int(tx.value("SELECT COALESCE(SUM(times), 0) FROM facts_taken_back"))


def stirred(tx: Tx) -> tuple[int, ...]:
    """What changes whenever look-ups may have something new to read: facts, or versions of data."""
    return (*newest(tx), int(tx.value("SELECT COUNT(*) FROM data_versions")))


def take_back(tx: Tx, name: str, seqs: Sequence[int]) -> None:
    """Take rows out for good; snapshots are then made anew."""
    for seq in seqs:
        tx.execute("DELETE FROM facts WHERE name = ? AND seq = ?", (name, seq))
    tx.execute(
        "INSERT INTO facts_taken_back(name, times) VALUES (?, 1)"
        " ON CONFLICT (name) DO UPDATE SET times = facts_taken_back.times + 1",
        (name,),
    )


def newest_us(tx: Tx, name: str, *, before_us: int) -> int | None:
    """The last moment before another from which a row of the source counts as known; None without rows."""
    found = tx.value("SELECT MAX(known_us) FROM facts WHERE name = ? AND known_us < ?", (name, before_us))
    return None if found is None else int(found)


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


class _Reader:
    """Reads lines as rows of one source."""

    def __init__(self, spec: DataSpec, schema: tuple[Column, ...]) -> None:
        self._spec = spec
        self._columns = {column.name: column for column in schema}
        self._known = spec.known_column or ""
        self._needed = [*spec.key, *([] if spec.time is None else [spec.time])]
        self._told = KNOWN_AT not in self._columns

    def line(self, number: int, raw: bytes) -> _Line:
        place = f"line {number}"
        try:
            given = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"{place} is no JSON object: {error}", code="facts.line", field=place) from None
        told = given.pop(KNOWN_AT, None) if self._told else None
        values = {name: self._value(place, name, value) for name, value in given.items()}
        for name in self._needed:
            if values.get(name) is None:
                message = f"{place}: {name} is missing, and {self._spec.name} has no row without it"
                raise Invalid(message, code="facts.missing", field=f"{place}, {name}")
        told_us = values.get(self._known) if told is None else _moment(told, f"{place}, {KNOWN_AT}")
        ordered = {name: values[name] for name in self._columns if name in values}
        about = _encode([ordered[name] for name in self._needed]).decode()
        time_us = None if self._spec.time is None else ordered[self._spec.time]
        return _Line(_digest(about), told_us, time_us, _encode(ordered).decode())

    def _value(self, place: str, name: str, value: Any) -> Any:
        column, field = self._columns.get(name), f"{place}, {name[:100]}"
        if column is None:
            message = f"{place}: {self._spec.name} has no column {name[:100]!r}"
            hint = f"its columns are: {', '.join(self._columns)}"
            raise Invalid(message, code="data.unknown-column", field=field, hint=hint)
        if value is None:
            return None
        match column.kind:
            case "number":
                return _number(value, column.type, field)
            case "bool" if type(value) is bool:
                return value
            case "text" if type(value) is str and len(value) <= MAX_TEXT and "\0" not in value:
                return value
            case "time":
                at_us = _moment(value, field)
                return at_us - at_us % _UNITS.get(column.type, 1)
        wanted = {"bool": "true or false", "text": f"text of at most {MAX_TEXT} characters"}.get(column.kind, "absent")
        raise Invalid(f"{field}: {column.type} must be {wanted}", code="facts.value", field=field)


def _number(value: Any, kind: str, field: str) -> float | int:
    """A number as a column of this type would hold it."""
    if type(value) is int and (bits := _WHOLE.get(kind)) is not None:
        if (0 if kind[0] == "U" else -(1 << bits)) <= value < min(1 << bits, 1 << 63):
            return value
    elif type(value) in (int, float) and not sql.is_whole(kind) and abs(value) < 1e308:
        made = float(value)
        if found := _DECIMAL.fullmatch(kind):
            made, limit = round(made, int(found[2])), 10.0 ** (int(found[1]) - int(found[2]))
        else:
            limit = 3.4e38 if kind == "FLOAT" else 1e308
        if abs(made) < limit:
            return float(struct.unpack("f", struct.pack("f", made))[0]) if kind == "FLOAT" else made
    raise Invalid(f"{field}: the value is no {kind}", code="facts.value", field=field)


def _moment(value: Any, field: str) -> int:
    at_us = parse_time(value, field) if type(value) is str and len(value) <= 40 else None
    if at_us is None or not 0 <= at_us < _LAST_US:
        limits = f"{format_time(0)} and {format_time(_LAST_US)}"
        raise Invalid(f"{field} must be an RFC 3339 time between {limits}", code="time.form", field=field)
    return at_us
