"""Erasure: what each room answers of a subject, and what is kept of what was taken away.

A blob that is erased leaves a tombstone: it reads as erased, never as missing, and its bytes are not taken again.
Nothing here holds a subject's value: only keyed hashes and counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from loopwright.kernel.errors import Erased
from loopwright.kernel.times import format_time

if TYPE_CHECKING:
    from loopwright.store.database import Row, Tx
    from loopwright.store.space import Space

MASK = "[erased]"
TEXT_CHARACTERS = 4  # a shorter value says nothing in a free text: it is looked for in columns and as a JSON string
Hasher = Callable[[str], str]


class Found(NamedTuple):
    """Rows of a subject in one place: a kind of place, its name, how many, and the digest of what holds them."""

    place: str
    name: str
    rows: int
    digest: str | None = None


class Subject:
    """Whose rows are to be found: `column=value`, and the ids of the requests that are about it.

    Args:
        refs: those ids.
        labels: by name of features, the data in which the truths of their requests arrive.
        rows: its rows in tables and logs, to know copies by that say not whose they are.
    """

    def __init__(self, column: str, value: str, hasher: Hasher) -> None:
        self.column, self.value, self.hasher = column, value, hasher
        self.text = f"{column}={value}"
        self.refs: frozenset[str] = frozenset()
        self.labels: Mapping[str, frozenset[str]] = {}
        self.rows: Sequence[dict[str, Any]] = ()

    @cached_property
    def hash(self) -> str:
        """The keyed hash by which the log knows it."""
        return self.hasher(self.text)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The value as a word of a text, or, where it is too short for that, as a whole JSON string."""
        word = re.escape(self.value)
        return re.compile(rf"(?<!\w){word}(?!\w)" if len(self.value) >= TEXT_CHARACTERS else f'(?<="){word}(?=")')

    def masked(self, text: str) -> str:
        """A text without the value."""
        return self.pattern.sub(MASK, text)


class Holdings(Protocol):
    """What a room answers: for which tables and files it speaks, what it holds of a subject, and that it forgets it.

    `forget` may be killed at any point and is then asked again; what it takes away it counts in the same transaction.
    """

    room: str
    tables: tuple[str, ...]

    def refs(self, space: Space, subject: Subject) -> Iterable[str]:
        """The ids of requests that are about the subject."""

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """What is held; nothing is changed."""

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Take it away."""


class Texts:
    """The holdings of a room whose tables hold no rows of subjects, but texts or JSON that may quote a value.

    Args:
        columns: by table, its key and the columns of text; what stands in no column holds no value of anybody.
    """

    def __init__(
        self, room: str, tables: Sequence[str], columns: Mapping[str, tuple[str, tuple[str, ...]]] | None = None
    ) -> None:
        self.room, self.tables, self._columns = room, tuple(tables), columns or {}

    def refs(self, space: Space, subject: Subject) -> Iterable[str]:
        """None: no row is about a subject."""
        return ()

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """The rows whose texts hold the value."""
        found = []
        with space.read() as tx:
            for table in self._columns:
                if rows := self._rows(tx, table, subject):
                    found.append(Found("table", table, len(rows)))
        return found

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Put a mask in the value's place."""
        for table in self._columns:
            space.write(lambda tx, table=table: self._mask(tx, table, subject, erasure))  # type: ignore[misc]

    def _rows(self, tx: Tx, table: str, subject: Subject) -> list[tuple[Row, dict[str, str]]]:
        key, columns = self._columns[table]
        like = " OR ".join(f"{column} LIKE ? ESCAPE '!'" for column in columns)
        part = "%" + re.sub(r"([!%_])", r"!\1", subject.value) + "%"
        out = []
        for row in tx.query(f"SELECT {key}, {', '.join(columns)} FROM {table} WHERE {like}", [part] * len(columns)):
            texts = {column: row[column] for column in columns if isinstance(row[column], str)}
            fresh = {column: subject.masked(text) for column, text in texts.items()}
            changed = {column: text for column, text in fresh.items() if text != texts[column]}
            if changed:
                out.append((row, changed))
        return out

    def _mask(self, tx: Tx, table: str, subject: Subject, erasure: str) -> None:
        key = self._columns[table][0]
        names = [name.strip() for name in key.split(",")]
        rows = self._rows(tx, table, subject)
        for row, changed in rows:
            sets = ", ".join(f"{column} = ?" for column in changed)
            where = " AND ".join(f"{name} = ?" for name in names)
            tx.execute(f"UPDATE {table} SET {sets} WHERE {where}", [*changed.values(), *(row[n] for n in names)])
        count(tx, erasure, Found("table", table, len(rows)))


_holdings: Callable[[], Sequence[Holdings]] = list


def set_holdings(holdings: Callable[[], Sequence[Holdings]]) -> None:
    """Say where the holdings of all rooms are to be had, in the order in which they forget."""
    global _holdings
    _holdings = holdings


def all_holdings() -> Sequence[Holdings]:
    """What every room answers, in the order in which they forget."""
    return _holdings()


class Tombstone(NamedTuple):
    """What stands in the place of an erased blob."""

    digest: str
    successor: str | None
    rows: int
    at_us: int


def bury(tx: Tx, erasure: str, found: Found, successor: str | None = None) -> None:
    """Put a tombstone in a blob's place; its bytes go when the transaction is kept (`sweep`)."""
    assert found.digest is not None
    added = tx.execute(
        "INSERT INTO tombstones(digest, successor, erasure, rows, at_us) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (digest) DO NOTHING",
        (found.digest, successor, erasure, found.rows, tx.now_us()),
    )
    if added:
        count(tx, erasure, found)


def count(tx: Tx, erasure: str, found: Found) -> None:
    """Count what an erasure takes away, in the transaction that does."""
    if found.rows:
        tx.execute(
            "INSERT INTO erased_counts(erasure, place, name, n) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (erasure, place, name) DO UPDATE SET n = erased_counts.n + excluded.n",
            (erasure, found.place, found.name, found.rows),
        )


def tombstone(tx: Tx, digest: str) -> Tombstone | None:
    """What stands in a blob's place, or None when it was not erased."""
    row = tx.one("SELECT digest, successor, rows, at_us FROM tombstones WHERE digest = ?", (digest,))
    return None if row is None else Tombstone(*row)


def tombstones(tx: Tx) -> dict[str, str | None]:
    """All erased digests, and what each was replaced by."""
    return {row[0]: row[1] for row in tx.query("SELECT digest, successor FROM tombstones ORDER BY digest")}


def require_kept(tx: Tx, digest: str, what: str = "") -> None:
    """Go on only when a blob was not erased.

    Raises:
        Erased: it was; the message says when, and what has taken its place.
    """
    found = tombstone(tx, digest)
    if found is None:
        return
    instead = f"; without those rows it is {found.successor}" if found.successor else ""
    raise Erased(
        f"{what or f'blob {digest}'} held rows that were erased at {format_time(found.at_us)}{instead}",
        code="erased",
        hint="lw audit erasures",
    )


def latest(tx: Tx, digest: str) -> str:
    """What a digest has become by erasures; itself when nothing of it was erased."""
    seen = set()
    while (found := tombstone(tx, digest)) is not None and found.successor is not None and digest not in seen:
        seen.add(digest)
        digest = found.successor
    return digest


def sweep(space: Space) -> int:
    """Take away the bytes of every blob that has a tombstone, here and in the store; returns how many were left."""
    with space.read() as tx:
        gone = tombstones(tx)
    local = getattr(space.blobs, "local", space.blobs)
    left = [digest for digest in gone if local.has(digest) or space.blobs.has(digest)]
    for digest in left:
        space.blobs.delete(digest)
        local.delete(digest)
    return len(left)


def forget_refs(tx: Tx, erasure: str, hashes: Iterable[str]) -> None:
    """Remember by their keyed hashes which ids were erased."""
    tx.executemany(
        "INSERT INTO erased_refs(hash, erasure) VALUES (?, ?) ON CONFLICT (hash) DO NOTHING",
        [(each, erasure) for each in hashes],
    )


def has_refs(tx: Tx) -> bool:
    """Whether any id was ever erased."""
    return tx.one("SELECT 1 FROM erased_refs LIMIT 1") is not None


def is_erased_ref(tx: Tx, hashed: str) -> bool:
    """Whether the id of a hash was erased."""
    return tx.one("SELECT 1 FROM erased_refs WHERE hash = ?", (hashed,)) is not None


def erasures(tx: Tx) -> int:
    """How often an erasure has begun or ended: what remembers rows elsewhere forgets when this grows."""
    return int(tx.value("SELECT COUNT(*) + COUNT(ended_us) FROM erasures") or 0)


def begun(tx: Tx, subject: str) -> str | None:
    """The erasure of a subject, by its keyed hash, that was begun and did not end."""
    found = tx.value("SELECT id FROM erasures WHERE subject = ? AND ended_us IS NULL", (subject,))
    return None if found is None else str(found)


def begin(tx: Tx, erasure: str, subject: str, actor: str) -> None:
    """Begin an erasure; it goes on, whoever is killed, until it is ended."""
    tx.execute(
        "INSERT INTO erasures(id, subject, actor, began_us) VALUES (?, ?, ?, ?)", (erasure, subject, actor, tx.now_us())
    )


def end(tx: Tx, erasure: str, receipt: str) -> None:
    """End an erasure with its receipt."""
    tx.execute("UPDATE erasures SET ended_us = ?, receipt = ? WHERE id = ?", (tx.now_us(), receipt, erasure))


def receipts(tx: Tx) -> list[str]:
    """The receipts of all erasures that ended, oldest first."""
    rows = tx.query("SELECT receipt FROM erasures WHERE receipt IS NOT NULL ORDER BY ended_us, id")
    return [str(row["receipt"]) for row in rows]


def counts(tx: Tx, erasure: str) -> list[Found]:
    """What an erasure has taken away so far."""
    rows = tx.query("SELECT place, name, n FROM erased_counts WHERE erasure = ? ORDER BY place, name", (erasure,))
    return [Found(row["place"], row["name"], row["n"]) for row in rows]


HOLDINGS = Texts(
    "store",
    ("events", "clock", "leases", "migrations", "tombstones", "erasures", "erased_counts", "erased_refs"),
)
