"""The table of the loop, and reading and writing it."""

import msgspec

from loopwright.loop.model import Cycle
from loopwright.store.database import Row, Tx, as_struct

MIGRATIONS = [
    """
    CREATE TABLE cycles(
      endpoint TEXT NOT NULL, moment_us BIGINT NOT NULL, state TEXT NOT NULL, outcome TEXT NOT NULL,
      version INTEGER, cause BIGINT, PRIMARY KEY (endpoint, moment_us))
    """,
    """
    CREATE TABLE outbox(
      id TEXT PRIMARY KEY, channel TEXT NOT NULL, kind TEXT NOT NULL, episode BIGINT NOT NULL, about BIGINT NOT NULL,
      state TEXT NOT NULL, attempts INTEGER NOT NULL, due_us BIGINT NOT NULL, made_us BIGINT NOT NULL, done_us BIGINT,
      error TEXT NOT NULL);
    CREATE INDEX outbox_due ON outbox(state, due_us);
    CREATE INDEX outbox_episode ON outbox(channel, episode);
    CREATE TABLE outbox_cursor(name TEXT PRIMARY KEY, seq BIGINT NOT NULL)
    """,
]
_FIELDS = Cycle.__struct_fields__
_TRAININGS = ("", "trained", "unchanged", "failed")


def put(tx: Tx, cycle: Cycle) -> None:
    """Write a cycle as it stands now."""
    tx.execute(
        f"INSERT INTO cycles({', '.join(_FIELDS)}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, moment_us)"
        " DO UPDATE SET state = excluded.state, outcome = excluded.outcome, version = excluded.version,"
        " cause = excluded.cause",
        msgspec.structs.astuple(cycle),
    )


def last(tx: Tx, endpoint: str) -> Cycle | None:
    """The newest cycle of an endpoint."""
    row = tx.one("SELECT * FROM cycles WHERE endpoint = ? ORDER BY moment_us DESC LIMIT 1", (endpoint,))
    return None if row is None else _cycle(row)


def at(tx: Tx, endpoint: str, moment_us: int) -> Cycle | None:
    """The cycle of a moment."""
    row = tx.one("SELECT * FROM cycles WHERE endpoint = ? AND moment_us = ?", (endpoint, moment_us))
    return None if row is None else _cycle(row)


def trainings(tx: Tx, endpoint: str, after_us: int) -> list[int]:
    """The moments later than one at which a training was begun by a trigger, oldest first."""
    marks = ", ".join("?" * len(_TRAININGS))
    rows = tx.query(
        f"SELECT moment_us FROM cycles WHERE endpoint = ? AND moment_us > ? AND outcome IN ({marks})"
        " ORDER BY moment_us",
        (endpoint, after_us, *_TRAININGS),
    )
    return [int(row["moment_us"]) for row in rows]


def _cycle(row: Row) -> Cycle:
    return as_struct(Cycle, row)
