"""SQLite behind the gate: one writer thread a process, durable group commits, read-only snapshots.

Writes are fsynced before they return (WAL, synchronous=FULL). Checkpoints and the last close happen only in the gate.
"""

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Corrupt, LoopwrightError, Unavailable
from loopwright.store.database import Statements, refusal
from loopwright.store.gate import Gate
from loopwright.store.writer import Write, Writer

_PRAGMAS = (
    *("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY"),
    "secure_delete=ON",  # what is deleted is overwritten: an erasure must not leave it in free pages
)
_REFUSED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
COMPACT_S = 10.0  # how long readers of an old snapshot may keep the WAL from being emptied
_LITTLE_BYTES = 128 << 10  # what the shared memory of a WAL and a frame may want at once


def _is_refusal(error: BaseException) -> bool:
    """Whether the disk refused, and not the statement was wrong."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSED


def _told(path: Path, error: BaseException) -> Unavailable:
    """SQLite says "disk I/O error" also where the disk is full: the disk is asked."""
    full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    with suppress(OSError):
        full = full or shutil.disk_usage(path.parent).free < _LITTLE_BYTES
    return refusal(OSError(f"no space left on the disk of {path}" if full else f"{path}: {error}"))


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Inside, what the disk of a database refuses is told with its path.

    Raises:
        Unavailable: it refused.
    """
    try:
        yield
    except sqlite3.Error as error:
        # a write in a read-only snapshot is a mistake of ours, not the disk's
        if _is_refusal(error) and getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_READONLY:
            raise _told(path, error) from None
        raise


class SqliteTx(Statements):
    """A transaction of SQLite."""

    def __init__(self, connection: sqlite3.Connection, replay: bool) -> None:
        self._connection = connection
        self.replay = replay

    def _run(self, sql: str, args: Sequence[Any]) -> sqlite3.Cursor:
        return self._connection.execute(sql, args)

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement once a row and return the number of rows changed."""
        return self._connection.executemany(sql, rows).rowcount

    def machine_us(self) -> int:
        """The machine's time."""
        return machine_us()

    def copy_to(self, into: sqlite3.Connection) -> None:
        """Copy the whole database, as this transaction sees it, in one step."""
        self._connection.backup(into)

    def next_number(self, table: str, column: str) -> int | None:
        """SQLite takes a number back with the transaction that it was given in."""
        return None

    def has_table(self, name: str) -> bool:
        """Whether a table is there."""
        return self.value("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)) is not None

    def tables(self) -> list[str]:
        """The names of all tables, in order."""
        return [
            row[0]
            for row in self.query(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
            )
        ]


class SqliteDatabase(Writer):
    """One SQLite file, shared by any number of processes on a machine."""

    def __init__(self, path: Path, gate: Gate) -> None:
        self.path = path
        self.gate = gate
        self.replay = False
        self._left: list[Any] = []
        super().__init__()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._local = threading.local()
        self._readers: list[tuple[threading.Thread, sqlite3.Connection]] = []
        with self.gate:
            self._connection = self._connect()

    @property
    def there(self) -> bool:
        """Whether the file has not been taken away."""
        return self.path.exists()

    def describe(self) -> str:
        """What it is and where."""
        return f"SQLite {self.path.name}"

    def make(self, *, create: bool) -> None:
        """The file was made when it was opened."""

    def _own(self) -> None:
        if self._pid != os.getpid() and not self._closed:
            self._left += [self._connection, self._readers]  # SQLite forbids to use or close them here
            self.gate.reopen()
            self._restart()
            self._start()

    def _connect(self) -> sqlite3.Connection:
        with suppress(OSError):  # a new one is its owner's alone; what else is wrong SQLite says below
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        except sqlite3.OperationalError as error:
            raise self._refusal(error) from None
        connection.row_factory = sqlite3.Row
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise self._refusal(error) from None
            raise Corrupt(f"{self.path.name} is no database: {error}", hint="lw restore") from None
        return connection

    def _commit(self, batch: list[Write]) -> bool:
        stop = False
        try:
            with self.gate:
                self._connection.execute("BEGIN IMMEDIATE")
                stop = self._drain(batch)
                self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - told to the threads that wait; without this one they wait for ever
            self._undo()
            for job in batch:
                job.error = job.error or self._refusal(error)
        return stop

    def _attempt(self, job: Write) -> None:
        self._connection.execute("SAVEPOINT step")
        try:
            job.result = job.fn(SqliteTx(self._connection, self.replay))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            job.error = self._refusal(error) if _is_refusal(error) else error
            self._connection.execute("ROLLBACK TO step")
        self._connection.execute("RELEASE step")

    def _refusal(self, error: BaseException) -> Unavailable:
        return _told(self.path, error) if _is_refusal(error) else refusal(error)

    def _undo(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            with suppress(LoopwrightError):  # the next write tries again
                self._connection = self._connect()

    @contextmanager
    def read(self) -> Iterator[SqliteTx]:
        """A read-only snapshot; hold it for less than a second."""
        self._own()
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            connection.execute("PRAGMA query_only=ON")
            self._local.connection = connection
            with self._lock:
                gone = [held for thread, held in self._readers if not thread.is_alive()]
                self._readers = [(thread, held) for thread, held in self._readers if thread.is_alive()]
                self._readers.append((threading.current_thread(), connection))
            for held in gone:
                held.close()
        if connection.in_transaction:
            yield SqliteTx(connection, self.replay)
            return
        with told(self.path):
            try:
                connection.execute("BEGIN")
                yield SqliteTx(connection, self.replay)
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    def version(self) -> int:
        """A number that changes when another connection has committed (SQLite's data_version of this thread)."""
        with self.read():
            pass
        return int(self._local.connection.execute("PRAGMA data_version").fetchone()[0])

    def compact(self, tables: Sequence[str]) -> bool:
        """Write the file anew without what was deleted and empty the WAL; False when a reader held it too long."""
        self._own()
        until, gate, busy = monotonic_s() + COMPACT_S, Gate(self.gate.path), True  # a lock of its own, for this thread
        try:
            with gate, closing(self._connect()) as connection, told(self.path):
                connection.execute("VACUUM")
            while busy and monotonic_s() < until:
                with gate, closing(self._connect()) as connection, told(self.path):
                    busy = bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
                time.sleep(0.02 if busy else 0)
        finally:
            gate.close()
        return not busy

    def close(self) -> None:
        """Finish the writes that wait, then close every connection inside the gate."""
        if self._finish():
            with self.gate:
                for connection in [*(held for _, held in self._readers), self._connection]:
                    connection.close()
            self.gate.close()
