"""The port to a database: what a transaction and a database answer, whichever driver stands behind.

SQL is the dialect that SQLite and PostgreSQL share, with `?` for arguments; adapters are sqlite.py and postgres.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar, cast

import msgspec

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import LoopwrightError, Unavailable

S = TypeVar("S")
T = TypeVar("T")


class Row(Protocol):
    """A row of an answer: `row["column"]` or `row[0]`."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...
    def keys(self) -> Sequence[str]:
        """The names of its columns."""
        ...


def as_struct(kind: Callable[..., S], row: Row, **read: Any) -> S:
    """A row as a record of a kind; `read` holds the fields that no column holds as they are."""
    names: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]
    return kind(**{name: row[name] for name in names if name not in read}, **read)


def as_text(value: Any) -> str:
    """A value as the JSON that a column holds; equal values give equal texts."""
    return msgspec.json.encode(value, order="deterministic").decode()


class Tx(Protocol):
    """A transaction: the only way to the tables. `replay` says that a replay drives the Space's time."""

    replay: bool

    def execute(self, sql: str, args: Sequence[Any] = (), /) -> int:
        """Run a statement and return the number of rows that it changed."""
        ...

    def executemany(self, sql: str, rows: Sequence[Sequence[Any]], /) -> int:
        """Run a statement once a row and return the number of rows changed."""
        ...

    def query(self, sql: str, args: Sequence[Any] = (), /) -> list[Row]:
        """All rows of a query."""
        ...

    def one(self, sql: str, args: Sequence[Any] = (), /) -> Row | None:
        """The first row of a query, or None."""
        ...

    def value(self, sql: str, args: Sequence[Any] = (), /) -> Any:
        """The first column of the first row, or None."""
        ...

    def now_us(self) -> int:
        """The Space's time inside this transaction."""
        ...

    def machine_us(self) -> int:
        """The machine time of the database: one clock for all hosts that share it."""
        ...

    def next_number(self, table: str, column: str) -> int | None:
        """What to give a new row of a table whose numbers may have no holes; None = the database sees to it."""
        ...

    def has_table(self, name: str) -> bool:
        """Whether a table is there."""
        ...

    def tables(self) -> list[str]:
        """The names of all tables, in order."""
        ...


class Statements(ABC):
    """What the transactions of both databases do alike; each brings how a statement is run, and the rest of `Tx`."""

    replay: bool

    @abstractmethod
    def _run(self, sql: str, args: Sequence[Any]) -> Any:
        """The driver's cursor of a statement."""

    def execute(self, sql: str, args: Sequence[Any] = ()) -> int:
        """Run a statement and return the number of rows that it changed."""
        return int(self._run(sql, args).rowcount)

    def query(self, sql: str, args: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query; `row["column"]` or `row[0]`."""
        return cast(list[Row], self._run(sql, args).fetchall())

    def one(self, sql: str, args: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, or None."""
        return cast(Row | None, self._run(sql, args).fetchone())

    def value(self, sql: str, args: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self._run(sql, args).fetchone()
        return None if row is None else row[0]

    def now_us(self) -> int:
        """The Space's time inside this transaction."""
        if self.replay:
            return int(self.value("SELECT now_us FROM clock"))
        return machine_us()


class Database(Protocol):
    """One database, shared by any number of processes; a write is durable before it returns."""

    replay: bool

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        ...

    @property
    def there(self) -> bool:
        """Whether what it is kept in has not been taken away."""
        ...

    def describe(self) -> str:
        """What it is and where, without a secret."""
        ...

    def make(self, *, create: bool) -> None:
        """See that there is a place for the tables, and make it when asked.

        Raises:
            NotFound: there is none, and `create` is not set.
        """
        ...

    def write(self, fn: Callable[[Tx], T], /) -> T:
        """Run `fn` in one durable transaction; what it raises undoes all of it.

        Raises:
            Unavailable: the database refused the commit or is gone; nothing was kept.
        """
        ...

    def read(self) -> AbstractContextManager[Tx]:
        """A read-only snapshot; hold it for less than a second."""
        ...

    def version(self) -> int:
        """A number that changes when anybody has committed, asked for again in the same thread."""
        ...

    def compact(self, tables: Sequence[str], /) -> bool:
        """Write what is kept anew, so that nothing deleted is left in its files; False when some may be."""
        ...

    def close(self) -> None:
        """Finish the writes that wait, then close every connection."""
        ...


def refusal(error: BaseException) -> Unavailable:
    """What a refusing database is told as."""
    return Unavailable(f"the database refused: {error}", code="store.write", hint="lw status")


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
