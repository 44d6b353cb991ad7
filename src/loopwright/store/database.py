"""SQLite behind the gate: one writer thread a process, durable group commits, read-only snapshots.

Writes are fsynced before they return (WAL, synchronous=FULL). Checkpoints and the last close happen only in the gate.
"""

import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Corrupt, LoopwrightError, Unavailable
from loopwright.store.gate import Gate

T = TypeVar("T")
Row = sqlite3.Row
DRAIN_S = 0.020
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY")
_REFUSED = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


class Tx:
    """A transaction: the only way to the tables. `replay` says that a replay drives the Space's time."""

    def __init__(self, connection: sqlite3.Connection, replay: bool) -> None:
        self._connection = connection
        self.replay = replay

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Run a statement and return the number of rows that it changed."""
        return self._connection.execute(sql, args).rowcount

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement once a row and return the number of rows changed."""
        return self._connection.executemany(sql, rows).rowcount

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query; `row["column"]` or `row[0]`."""
        return cast(list[Row], self._connection.execute(sql, args).fetchall())

    def one(self, sql: str, args: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        return cast(Row | None, self._connection.execute(sql, args).fetchone())

    def value(self, sql: str, args: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self._connection.execute(sql, args).fetchone()
        return None if row is None else row[0]

    def now_us(self) -> int:
        """The Space's time inside this transaction."""
        if self.replay:
            return int(self.value("SELECT now_us FROM clock"))
        return machine_us()


class _Write:
    __slots__ = ("done", "error", "fn", "result")

    def __init__(self, fn: Callable[[Tx], Any]) -> None:
        self.fn = fn
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """One SQLite file, shared by any number of processes on a machine."""

    def __init__(self, path: Path, gate: Gate) -> None:
        self.path = path
        self.gate = gate
        self.replay = False
        self._closed = False
        self._left: list[Any] = []
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._readers: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None
        with self.gate:
            self._connection = self._connect()

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    def _own(self) -> None:
        """In a forked process: open the database anew; the writer thread and the locks stayed behind."""
        if self._pid != os.getpid() and not self._closed:
            self._left += [self._connection, self._readers]  # SQLite forbids to use or close them here
            self.gate.reopen()
            self._start()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        except sqlite3.OperationalError as error:
            raise _refusal(error) from None
        connection.row_factory = sqlite3.Row
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.DatabaseError as error:
            connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise _refusal(error) from None
            raise Corrupt(f"{self.path.name} is no database: {error}", hint="lw fsck") from None
        return connection

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one durable transaction; what it raises undoes all of it.

        Raises:
            Unavailable: the disk or the database refused the commit; nothing was kept.
        """
        if threading.current_thread() is self._writer:
            raise RuntimeError("a write inside a write: pass the transaction on")
        self._own()
        job = _Write(fn)
        with self._lock:
            if self._closed:
                raise Unavailable("the Space is closed", code="store.closed")
            if self._writer is None:
                self._writer = threading.Thread(target=self._run, name="loopwright-writer", daemon=True)
                self._writer.start()
            self._queue.put(job)
        job.done.wait()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            batch = [job]
            stop = self._commit(batch)
            for done in batch:
                done.done.set()
            if stop:
                return

    def _commit(self, batch: list[_Write]) -> bool:
        """Run one batch in one commit; True when the queue was closed meanwhile."""
        stop = False
        try:
            with self.gate:
                self._connection.execute("BEGIN IMMEDIATE")
                until = monotonic_s() + DRAIN_S
                self._attempt(batch[0])
                while monotonic_s() < until and not stop:
                    try:
                        job = self._queue.get_nowait()
                    except queue.Empty:
                        break
                    if job is None:
                        stop = True
                    else:
                        batch.append(job)
                        self._attempt(job)
                self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - told to the threads that wait; without this one they wait for ever
            self._undo()
            for job in batch:
                job.error = job.error or _refusal(error)
        return stop

    def _attempt(self, job: _Write) -> None:
        self._connection.execute("SAVEPOINT step")
        try:
            job.result = job.fn(Tx(self._connection, self.replay))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            refused = isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _REFUSED
            job.error = _refusal(error) if refused else error
            self._connection.execute("ROLLBACK TO step")
        self._connection.execute("RELEASE step")

    def _undo(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            with suppress(LoopwrightError):  # the next write tries again
                self._connection = self._connect()

    @contextmanager
    def read(self) -> Iterator[Tx]:
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
            yield Tx(connection, self.replay)
            return
        connection.execute("BEGIN")
        try:
            yield Tx(connection, self.replay)
        finally:
            connection.execute("COMMIT")

    def version(self) -> int:
        """A number that changes when another connection has committed (SQLite's data_version of this thread)."""
        with self.read():
            pass
        return int(self._local.connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Finish the writes that wait, then close every connection inside the gate."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            writer = self._writer
            self._queue.put(None)
        if writer is not None and writer is not threading.current_thread():
            writer.join()
        with self.gate:
            for connection in [*(held for _, held in self._readers), self._connection]:
                connection.close()


def _refusal(error: BaseException) -> Unavailable:
    return Unavailable(f"the database refused: {error}", code="store.write", hint="lw doctor")


def run_scripts(tx: Tx, room: str, scripts: Sequence[str]) -> None:
    """Apply the migrations of a room that this database has not seen; forward only.

    Raises:
        LoopwrightError: the database is newer than this code.
    """
    done = int(tx.value("SELECT COALESCE(MAX(number), 0) FROM migrations WHERE room = ?", (room,)))
    if done > len(scripts):
        raise LoopwrightError(
            f"this store was written by a newer loopwright ({room} {done}, this one knows {len(scripts)})",
            code="store.newer",
            hint="pip install --upgrade loopwright",
        )
    for number, script in enumerate(scripts[done:], done + 1):
        for statement in script.split(";"):
            if statement.strip():
                tx.execute(statement)
        tx.execute("INSERT INTO migrations(room, number, at_us) VALUES (?, ?, ?)", (room, number, machine_us()))
