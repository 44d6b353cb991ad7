"""Checks: what the database says of itself, and what the rooms know of their own files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from loopwright.store.database import Tx
from loopwright.store.space import Space


class Finding(NamedTuple):
    """One thing that is not as it was stored: the part of the store, its name there, what it touches, what to do."""

    part: str
    name: str
    what: str
    touches: tuple[str, ...] = ()
    hint: str = "lw restore"


CheckSource = Callable[[Space], Iterable[Finding]]
_checks: Callable[[], Sequence[CheckSource]] = list


def set_sources(checks: Callable[[], Sequence[CheckSource]]) -> None:
    """Say where the checks of all rooms are to be had; asked only by fsck."""
    global _checks
    _checks = checks


def all_checks() -> Sequence[CheckSource]:
    """The checks of all rooms."""
    return _checks()


def check_database(space: Space) -> Iterator[Finding]:
    """What the database finds when it reads all of itself again.

    SQLite walks its pages and indexes (`integrity_check`); PostgreSQL reads every row, which checks its page checksums
    where it keeps them, and its B-trees where `amcheck` is installed.
    """
    with space.read() as tx:
        told = _sqlite(tx) if space.settings.database is None else _postgres(tx)
        for text in told:
            yield Finding("database", space.database.describe(), text)


def _sqlite(tx: Tx) -> list[str]:
    rows = [str(row[0]) for row in tx.query("PRAGMA integrity_check(20)")]
    return [text for text in rows if text != "ok"]


def _postgres(tx: Tx) -> list[str]:
    tx.execute("SET LOCAL statement_timeout = 0")  # reading a large table again takes its time
    for table in tx.tables():
        tx.value(f"SELECT SUM(LENGTH(CAST(t AS TEXT))) FROM {table} AS t")
    if tx.value("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'") is not None:
        trees = tx.query(
            "SELECT c.oid FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'i' AND a.amname = 'btree' AND n.nspname = current_schema()"
        )
        for row in trees:
            tx.value("SELECT bt_index_check(CAST(? AS OID))", (row[0],))
    return []
