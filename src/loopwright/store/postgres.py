"""PostgreSQL: one schema a Space, one writer at a time over all hosts, read-only snapshots.

A lock that ends with its transaction takes the place of the gate: events commit in the order of their numbers.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast
from zlib import crc32

import psycopg
from psycopg import errors as told
from psycopg.rows import BaseRowFactory

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound, Unavailable
from loopwright.store.database import Statements
from loopwright.store.dialect import adapters, row_maker, translate
from loopwright.store.notices import Notices
from loopwright.store.writer import Write, Writer

Connection = psycopg.Connection[Any]
READERS = 8  # connections that a process reads with at once
CONNECT_S = 5
WAIT_S = 30
_IDLE_KEPT = 4
_LOCK = 0x6C77  # the first half of the key of the writers' lock; the second is the schema's
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SESSION = {
    "statement_timeout": "60s",
    "lock_timeout": f"{WAIT_S}s",
    "idle_in_transaction_session_timeout": f"{WAIT_S}s",  # a holder that stands still lets everybody else go on
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "synchronous_commit": "on",
}
_REFUSED = (told.OperationalError, told.ReadOnlySqlTransaction, told.InsufficientPrivilege)


class PostgresTx(Statements):
    """A transaction of PostgreSQL; `wrote` says whether it ran a statement that may change something."""

    def __init__(self, connection: Connection, replay: bool) -> None:
        self._connection = connection
        self.replay = replay
        self.wrote = False

    def _run(self, sql: str, args: Sequence[Any]) -> psycopg.Cursor[Any]:
        text, writes = translate(sql)
        self.wrote |= writes
        cursor = psycopg.RawCursor(self._connection)
        try:
            return cursor.execute(text, args)
        except (told.DataError, UnicodeEncodeError) as error:
            if isinstance(error, UnicodeEncodeError) or "NUL" in str(error):
                raise Invalid("a text holds a character that no database keeps", code="store.text") from None
            raise

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement once a row and return the number of rows changed."""
        with self._connection.pipeline():
            made = [self._run(sql, args) for args in rows]
        return sum(cursor.rowcount for cursor in made)

    def machine_us(self) -> int:
        """The server's time: one clock for all hosts."""
        return int(self.value("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"))

    def next_number(self, table: str, column: str) -> int | None:
        """One more than the newest, read under the writers' lock: a sequence does not take back what was undone."""
        return int(self.value(f"SELECT COALESCE(MAX({column}), 0) + 1 FROM {table}"))

    def has_table(self, name: str) -> bool:
        """Whether a table is there."""
        return self.value("SELECT to_regclass(quote_ident(?))", (name,)) is not None

    def tables(self) -> list[str]:
        """The names of all tables, in order."""
        return [
            row[0]
            for row in self.query("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1")
        ]


class PostgresDatabase(Writer):
    """One schema of a PostgreSQL database, shared by any number of processes and hosts.

    Args:
        url: `postgresql://user@host:port/db`, without a password.
        schema: the schema's name, checked before.
        password: kept out of everything that can be shown; without one the driver looks where it always does.
    """

    def __init__(self, url: str, schema: str, password: str | None = None) -> None:
        self.url = url
        self.schema = schema
        self._password = password
        self.replay = False
        self._left: list[Any] = []
        self._row_maker = cast("BaseRowFactory[Any]", row_maker)
        super().__init__()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._local = threading.local()
        self._idle: list[Connection] = []
        self._room = threading.BoundedSemaphore(READERS)
        self._connection: Connection | None = None
        self._life = ""  # of the server, when the writer's connection was made
        self._notices = Notices(self._connect, self.channel)

    @property
    def channel(self) -> str:
        """Where commits of this Space are told."""
        return f"loopwright_{crc32(self.schema.encode()):08x}"

    @property
    def there(self) -> bool:
        """A server does not go away with a folder."""
        return True

    def describe(self) -> str:
        """What it is and where, without a secret."""
        return f"PostgreSQL {self.url}, schema {self.schema}"

    def _own(self) -> None:
        if self._pid != os.getpid() and not self._closed:
            self._left += [self._connection, self._idle, self._local, self._notices]  # the parent's: not to be closed
            self._restart()
            self._start()

    def _connect(self) -> Connection:
        options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        try:
            return psycopg.connect(
                self.url,
                autocommit=True,
                row_factory=self._row_maker,
                connect_timeout=CONNECT_S,
                application_name="loopwright",
                options=f"{options} -c search_path={self.schema}",
                keepalives_idle=5,
                keepalives_interval=3,
                keepalives_count=3,
                tcp_user_timeout=1000 * WAIT_S,
                password=self._password,
                context=adapters(),
            )
        except psycopg.Error as error:
            raise self._gone(error) from None

    def _gone(self, error: BaseException) -> Unavailable:
        text = " ".join(str(error).split()) or type(error).__name__
        if self._password:
            text = text.replace(self._password, "...")
        return Unavailable(f"the database refused: {text}", code="store.write", hint="lw status")

    def make(self, *, create: bool) -> None:
        """See that the schema is there, and make it when asked.

        Raises:
            NotFound: it is not, and `create` is not set.
        """
        with self.read() as tx:
            if tx.value("SELECT 1 FROM pg_namespace WHERE nspname = ?", (self.schema,)) is not None:
                return
        if not create:
            raise NotFound(
                f"no loopwright project in schema {self.schema} of {self.url}",
                code="space.missing",
                hint="lw init, or lw restore to bring one here",
            )
        self.write(lambda tx: tx.execute(f"CREATE SCHEMA IF NOT EXISTS {self.schema}"))

    # -- writing

    def _begin(self) -> tuple[Connection, str]:
        """Begin a transaction that no other writer of this Space is beside; the connection and its number."""
        for attempt in (1, 2):
            connection = self._writing()
            try:
                connection.execute("BEGIN")
                break
            except psycopg.OperationalError as error:  # it was lost while nothing was under way: nothing is in doubt
                self._drop()
                if attempt == 2:
                    raise self._gone(error) from None
        key = crc32(self.schema.encode()) - (1 << 31)
        connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK}, {key})")
        return connection, _one(connection, "SELECT CAST(pg_current_xact_id() AS TEXT)")

    def _writing(self) -> Connection:
        """The writer's connection, made anew when it was lost.

        A server that crashed gives numbers of transactions that it has forgotten to others. It begins its statistics
        anew then, which tells one life of it from the next.
        """
        if self._connection is None:
            made = self._connect()
            try:
                self._life = _one(made, "SELECT CAST(stats_reset AS TEXT) FROM pg_stat_bgwriter")
            except psycopg.Error as error:
                made.close()
                raise self._gone(error) from None
            self._connection = made
        return self._connection

    def _commit(self, batch: list[Write]) -> bool:
        stop, number, kept = False, None, False
        try:
            connection, begun = self._begin()
            self._wrote = False
            stop = self._drain(batch)
            if self._wrote:
                connection.execute(f"NOTIFY {self.channel}")
            number = begun
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - told to the threads that wait; without this one they wait for ever
            failure: LoopwrightError = error if isinstance(error, LoopwrightError) else self._gone(error)
            self._undo()
            if number is not None:
                kept, failure = self._outcome(number, failure)
            for job in batch:
                job.error = job.error if kept else job.error or failure
        return stop

    def _outcome(self, number: str, failure: LoopwrightError) -> tuple[bool, LoopwrightError]:
        """Whether a commit whose answer was lost was kept: the server knows it by its number."""
        until, life = monotonic_s() + WAIT_S, self._life
        while monotonic_s() < until:
            try:
                found = _one(self._writing(), f"SELECT pg_xact_status('{number}'::xid8)")
            except told.InvalidParameterValue:
                return False, failure  # the server crashed before the number reached its disk, and so did the commit
            except (LoopwrightError, psycopg.Error):
                self._drop()
            else:
                if found == "committed" and self._life != life:
                    break  # ours, or that of another whom the server gave the number after its crash
                if found != "in progress":
                    return found == "committed", failure
            time.sleep(0.1)
        text = "the database went away in the middle of a commit and did not say since whether it was kept"
        return False, Unavailable(text, code="store.unknown", retry_after_s=WAIT_S, hint="lw events, before a repeat")

    def _attempt(self, job: Write) -> None:
        assert self._connection is not None
        self._connection.execute("SAVEPOINT step")
        tx = PostgresTx(self._connection, self.replay)
        try:
            job.result = job.fn(tx)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            job.error = self._gone(error) if _is_refusal(error, self._connection) else error
            self._connection.execute("ROLLBACK TO step")
        else:
            self._wrote |= tx.wrote
        self._connection.execute("RELEASE step")

    def _undo(self) -> None:
        try:
            if self._connection is not None and not self._connection.closed:
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._drop()
        if self._connection is not None and self._connection.closed:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    # -- reading

    @contextmanager
    def read(self) -> Iterator[PostgresTx]:
        """A read-only snapshot; hold it for less than a second.

        Raises:
            Unavailable: the server does not answer.
        """
        self._own()
        held = getattr(self._local, "tx", None)
        if held is not None:
            yield held
            return
        if self._closed:
            raise Unavailable("the Space is closed", code="store.closed")
        if not self._room.acquire(timeout=WAIT_S):
            raise Unavailable("too many readers at once", code="store.busy")
        try:
            connection = self._reader()
            self._local.tx = PostgresTx(connection, self.replay)
            try:
                yield self._local.tx
            except psycopg.Error as error:
                if isinstance(error, told.ReadOnlySqlTransaction) or not _is_refusal(error, connection):
                    raise
                raise self._gone(error) from None
            finally:
                self._local.tx = None
                self._give_back(connection)
        finally:
            self._room.release()

    def _reader(self) -> Connection:
        """A connection in a snapshot; those that were lost while they lay idle are thrown away."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            fresh = connection is None
            if connection is None:
                connection = self._connect()
            try:
                connection.execute(_BEGIN_READ)
                return connection
            except psycopg.OperationalError as error:
                connection.close()
                if fresh:
                    raise self._gone(error) from None

    def _give_back(self, connection: Connection) -> None:
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()
        with self._lock:
            if not connection.closed and not self._closed and len(self._idle) < _IDLE_KEPT:
                self._idle.append(connection)
                return
        connection.close()

    # -- hearing of others' commits

    def version(self) -> int:
        """A number that changes when anybody has committed."""
        self._own()
        return self._notices.count()

    def compact(self, tables: Sequence[str]) -> bool:
        """Write tables anew without what was deleted; the server's own log keeps it until it is recycled."""
        connection = self._connect()
        try:
            connection.execute("SET statement_timeout = 0")
            for table in tables:
                connection.execute(f"VACUUM FULL {table}")
        except psycopg.Error as error:
            raise self._gone(error) from None
        finally:
            connection.close()
        return True

    def close(self) -> None:
        """Finish the writes that wait, then close every connection."""
        if self._pid == os.getpid() and self._finish():
            with self._lock:
                idle, self._idle = self._idle, []
            for connection in idle:
                connection.close()
            self._drop()
            self._notices.close()


def _is_refusal(error: BaseException, connection: Connection) -> bool:
    """Whether it is the server that refuses or is gone, and not what was asked that is wrong."""
    return isinstance(error, _REFUSED) or (isinstance(error, psycopg.Error) and connection.closed)


def _one(connection: Connection, sql: str) -> str:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return str(row[0])
