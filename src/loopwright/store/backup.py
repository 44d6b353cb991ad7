"""Backup: a database as one SQLite file, taken in one snapshot while others write, and back into any database.

The file has today's tables or older ones, whatever the database that it was taken from stood at.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from loopwright.kernel.errors import Conflict, Corrupt
from loopwright.kernel.files import fresh_file, fsync_folder
from loopwright.store.database import Database, Tx, run_scripts
from loopwright.store.sqlite import SqliteTx, told

Rooms = Mapping[str, Sequence[str]]
FILE = "space.db"
# what only holds of the processes that live now; a copy must not speak for them
FLEETING = ("leases", "hosts", "login_failures")
_BATCH = 2000
MIGRATIONS_TABLE = (
    "CREATE TABLE IF NOT EXISTS migrations("
    "room TEXT NOT NULL, number INTEGER NOT NULL, at_us BIGINT NOT NULL, PRIMARY KEY (room, number))"
)


def applied(tx: Tx) -> dict[str, int]:
    """How far each room's migrations have come; empty in a database that has none of our tables."""
    if not tx.has_table("migrations"):
        return {}
    return {row[0]: row[1] for row in tx.query("SELECT room, MAX(number) FROM migrations GROUP BY room")}


def copy_out(database: Database, target: Path, rooms: Rooms) -> None:
    """Write the database into a new SQLite file, as it stands at one moment; on disk and whole on return.

    `rooms` are the migrations that make the tables where the driver cannot copy its own pages.
    """
    with fresh_file(target) as fresh:
        with told(fresh), closing(sqlite3.connect(fresh, isolation_level=None)) as into, database.read() as tx:
            os.chmod(fresh, 0o600)
            if isinstance(tx, SqliteTx):
                tx.copy_to(into)
            else:
                _fill(tx, SqliteTx(into, False), rooms)
            into.execute("PRAGMA journal_mode=DELETE")
        fd = os.open(fresh, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    fsync_folder(target.parent)


def _fill(source: Tx, into: SqliteTx, rooms: Rooms) -> None:
    stands = applied(source)
    into.execute("PRAGMA synchronous=OFF")  # the whole file is synced at its end
    into.execute("BEGIN")
    into.execute(MIGRATIONS_TABLE)
    for room, scripts in rooms.items():
        run_scripts(into, room, scripts[: stands.get(room, 0)])
    _copy_rows(source, into)
    into.execute("COMMIT")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[SqliteTx]:
    """A copy, read-only, in one transaction.

    Raises:
        Corrupt: the file is no such copy.
    """
    try:
        place = f"{path.absolute().as_uri()}?mode=ro"
        # read by the caller, or by the one thread that writes into another database while the caller waits
        with closing(sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)) as found:
            found.row_factory = sqlite3.Row
            tx = SqliteTx(found, False)
            tx.execute("BEGIN")
            tx.replay = tx.value("SELECT mode FROM clock") == "replay"
            yield tx
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"{path.name} is no copy of a database: {error}", code="backup.database") from None


def bring(source: Tx, into: Database, rooms: Rooms, mark: str) -> None:
    """Put the rows of a copy that stands at today's migrations into an empty PostgreSQL schema, all or none.

    `mark` names the copy: rows that it put there before, in a restore that was killed, are taken as they are.

    Raises:
        Conflict: the schema holds tables already.
    """

    def fill(tx: Tx) -> None:
        if tx.tables():
            if _marked(tx) == mark:
                return
            raise Conflict(
                f"{into.describe()} holds tables already",
                code="restore.schema",
                field="schema",
                hint="lw restore --schema with a new name",
            )
        tx.execute(MIGRATIONS_TABLE)
        for room, scripts in rooms.items():
            run_scripts(tx, room, scripts)
        _copy_rows(source, tx)
        _set_counters(tx)
        tx.execute(f"COMMENT ON SCHEMA {_schema(tx)} IS '{mark}'")

    into.write(fill)


def unmark(database: Database) -> None:
    """Forget the copy that a schema was filled from: from now on it lives."""

    def change(tx: Tx) -> None:
        if not isinstance(tx, SqliteTx) and _marked(tx) is not None:
            tx.execute(f"COMMENT ON SCHEMA {_schema(tx)} IS NULL")

    database.write(change)


def _schema(tx: Tx) -> str:
    return str(tx.value("SELECT quote_ident(current_schema())"))


def _marked(tx: Tx) -> str | None:
    found = tx.value("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = current_schema()")
    return None if found is None else str(found)


def _copy_rows(source: Tx, into: Tx) -> None:
    there = set(source.tables())
    for table in into.tables():
        into.execute(f"DELETE FROM {table}")
        if table not in there or table in FLEETING:
            continue
        for rows in _read(source, table):
            columns = list(rows[0].keys())
            places = ", ".join("?" * len(columns))
            sql = f"INSERT INTO {table}({', '.join(columns)}) VALUES ({places})"
            into.executemany(sql, [tuple(row) for row in rows])


def _read(tx: Tx, table: str) -> Iterator[list[Any]]:
    """The rows of a table in pieces, each behind the last by the table's key."""
    key = key_of(tx, table)
    if not key:
        rows = tx.query(f"SELECT * FROM {table}")
        if rows:
            yield rows
        return
    order = ", ".join(key)
    behind = f" WHERE ({order}) > ({', '.join('?' * len(key))})"
    last: tuple[Any, ...] = ()
    while rows := tx.query(f"SELECT * FROM {table}{behind if last else ''} ORDER BY {order} LIMIT {_BATCH}", last):
        yield rows
        last = tuple(rows[-1][column] for column in key)


def key_of(tx: Tx, table: str) -> list[str]:
    """The columns of a table's primary key, in order."""
    if isinstance(tx, SqliteTx):
        found = tx.query("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,))
    else:
        found = tx.query(
            "SELECT a.attname FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number"
            " WHERE i.indrelid = to_regclass(quote_ident(?)) AND i.indisprimary ORDER BY k.place",
            (table,),
        )
    return [row[0] for row in found]


def _set_counters(tx: Tx) -> None:
    """Let the numbers that PostgreSQL gives go on behind those that were brought."""
    owned = tx.query(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND is_identity = 'YES'"
    )
    for row in owned:
        table, column = row[0], row[1]
        tx.value(
            f"SELECT setval(pg_get_serial_sequence(?, ?), COALESCE((SELECT MAX({column}) FROM {table}), 0) + 1, false)",
            (table, column),
        )


def brought_forward(path: Path, rooms: Rooms) -> None:
    """Bring a copy, which is the caller's own, to today's migrations.

    Raises:
        LoopwrightError: it was written by a newer loopwright.
    """
    with told(path), closing(sqlite3.connect(path, isolation_level=None)) as found:
        found.row_factory = sqlite3.Row
        tx = SqliteTx(found, False)
        tx.execute("BEGIN IMMEDIATE")
        for room, scripts in rooms.items():
            run_scripts(tx, room, scripts)
        for table in FLEETING:
            if tx.has_table(table):
                tx.execute(f"DELETE FROM {table}")
        tx.execute("COMMIT")
