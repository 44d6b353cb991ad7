"""The ledger: append-only events, written in the transaction of the state that they tell of."""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from loopwright.kernel import event as events
from loopwright.kernel.errors import Corrupt
from loopwright.kernel.event import Event, EventKind
from loopwright.store.database import Row, Tx, as_struct

_kinds: Callable[[], Mapping[str, EventKind]] = dict


def set_kinds(kinds: Callable[[], Mapping[str, EventKind]]) -> None:
    """Say where the event kinds of all rooms are to be had; asked only when a sentence is wanted."""
    global _kinds
    _kinds = kinds


def kind_of(event: Event) -> EventKind | None:
    """The kind of an event, when a room publishes it."""
    return _kinds().get(event.kind)


def sentence(event: Event) -> str:
    """The event as a sentence that a person reads."""
    return events.sentence(kind_of(event), event)


def decision_kinds() -> list[str]:
    """The kinds that their rooms mark as decisions, in order."""
    return sorted(name for name, kind in _kinds().items() if kind.decision)


def append(
    tx: Tx,
    actor: str,
    kind: EventKind,
    subject: str,
    data: dict[str, Any],
    *,
    cause: int | None = None,
    at_us: int | None = None,
) -> int:
    """Write one event and return its sequence number; `at_us` is when it held, the Space's time by default."""
    now = tx.now_us()
    row = tx.one(
        "INSERT INTO events(seq, at_us, known_at_us, actor, kind, subject, data, cause)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING seq",
        (
            tx.next_number("events", "seq"),
            now if at_us is None else at_us,
            now,
            actor,
            kind.name,
            subject,
            events.to_json(data),
            cause,
        ),
    )
    assert row is not None
    return int(row["seq"])


def read(
    tx: Tx,
    *,
    after: int = 0,
    kinds: Sequence[str] | None = None,
    subject: str | None = None,
    limit: int = 1000,
) -> list[Event]:
    """Events after a sequence number, oldest first; of some kinds or of one subject when asked."""
    sql, args = "SELECT * FROM events WHERE seq > ?", [after]
    more: list[Any] = list(args)
    if kinds is not None:
        sql += f" AND kind IN ({','.join('?' * len(kinds))})"
        more += kinds
    if subject is not None:
        sql += " AND subject = ?"
        more.append(subject)
    return [_event(row) for row in tx.query(sql + " ORDER BY seq LIMIT ?", [*more, limit])]


def get(tx: Tx, seq: int) -> Event | None:
    """One event, or None."""
    row = tx.one("SELECT * FROM events WHERE seq = ?", (seq,))
    return None if row is None else _event(row)


def last_seq(tx: Tx) -> int:
    """The newest sequence number; 0 when there is no event."""
    return int(tx.value("SELECT COALESCE(MAX(seq), 0) FROM events"))


def last_of(tx: Tx, subject: str, kinds: Sequence[EventKind]) -> str | None:
    """The kind of the newest event of a subject that is of one of some kinds."""
    marks = ",".join("?" * len(kinds))
    sql = f"SELECT kind FROM events WHERE subject = ? AND kind IN ({marks}) ORDER BY seq DESC LIMIT 1"
    found = tx.value(sql, (subject, *(kind.name for kind in kinds)))
    return None if found is None else str(found)


def count(tx: Tx) -> int:
    """How many events there are."""
    return int(tx.value("SELECT COUNT(*) FROM events"))


# An event as one line, the same on every database: its numbers and the lengths of its texts, then the texts.
_LINE = (
    "CAST(seq AS TEXT) || ',' || CAST(at_us AS TEXT) || ',' || CAST(known_at_us AS TEXT) || ','"
    " || COALESCE(CAST(cause AS TEXT), '') || ',' || CAST(length(actor) AS TEXT) || ',' || CAST(length(kind) AS TEXT)"
    " || ',' || CAST(length(subject) AS TEXT) || ',' || CAST(length(data) AS TEXT) || ' '"
    " || actor || kind || subject || data"
)


def lines(tx: Tx, *, after: int, upto: int | None = None, limit: int | None = None) -> tuple[list[int], list[str]]:
    """The numbers and the canonical lines of the events behind one number, up to another, oldest first.

    A line that is no text any more is told as one that no event can have.
    """
    where, args = " FROM events WHERE seq > ?", [after]
    if upto is not None:
        where += " AND seq <= ?"
        args.append(upto)
    where += " ORDER BY seq"
    if limit is not None:
        where += " LIMIT ?"
        args.append(limit)
    try:
        rows = tx.query(f"SELECT seq, {_LINE} AS line{where}", args)
    except sqlite3.OperationalError:  # bytes that are no UTF-8, which only SQLite lets into a text
        rows = tx.query(f"SELECT seq, CAST({_LINE} AS BLOB) AS line{where}", args)
        return [row[0] for row in rows], [_odd(row[1]) for row in rows]
    return [row[0] for row in rows], [row[1] for row in rows]


def _odd(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return "no text: " + line.decode("utf-8", "backslashreplace")


def _event(row: Row) -> Event:
    data: Any = None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = msgspec.json.decode(row["data"])
    if not isinstance(data, dict):
        message = f"event {row['seq']} does not hold what was written"
        raise Corrupt(message, code="event.corrupt", hint="lw audit --verify")
    return as_struct(Event, row, data=data)


def quoting(tx: Tx, value: str) -> list[Event]:
    """The events whose data hold a text, oldest first; none should, where the text is a value of somebody's row."""
    rows = tx.query("SELECT * FROM events WHERE data LIKE ? ORDER BY seq", (f"%{value}%",))
    return [_event(row) for row in rows]
