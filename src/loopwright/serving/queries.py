"""The tables of serving."""

from collections.abc import Iterator

from loopwright.kernel.times import format_time
from loopwright.store.database import Tx
from loopwright.store.roots import Root
from loopwright.store.space import Space

MIGRATIONS = [
    """
    CREATE TABLE endpoints(
      name TEXT PRIMARY KEY, spec TEXT NOT NULL, generation BIGINT NOT NULL, at_us BIGINT NOT NULL);
    CREATE TABLE route_sets(
      generation BIGINT PRIMARY KEY, endpoint TEXT NOT NULL, routes TEXT NOT NULL, actor TEXT NOT NULL, permit TEXT,
      at_us BIGINT NOT NULL);
    CREATE INDEX route_sets_endpoint ON route_sets(endpoint, generation);
    CREATE TABLE prediction_log(
      spool TEXT PRIMARY KEY, endpoint TEXT NOT NULL, digest TEXT NOT NULL, rows BIGINT NOT NULL,
      min_at_us BIGINT NOT NULL, max_at_us BIGINT NOT NULL, at_us BIGINT NOT NULL);
    CREATE INDEX prediction_log_endpoint ON prediction_log(endpoint, min_at_us);
    CREATE TABLE labels(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, ref TEXT NOT NULL, value DOUBLE PRECISION NOT NULL,
      known_at_us BIGINT NOT NULL, received_us BIGINT NOT NULL, UNIQUE (endpoint, ref, known_at_us, value));
    CREATE INDEX labels_known ON labels(endpoint, known_at_us)
    """,
    """
    CREATE TABLE hosts(
      host TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE, name TEXT NOT NULL, until_us BIGINT NOT NULL,
      generation BIGINT NOT NULL, clock_us BIGINT, at_us BIGINT NOT NULL, open_us BIGINT);
    CREATE TABLE subject_keys(name TEXT PRIMARY KEY, secret BLOB NOT NULL)
    """,
]


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """The sealed files of the prediction log."""
    for row in tx.query("SELECT endpoint, digest, min_at_us FROM prediction_log"):
        yield Root(row["digest"], "log", f"{row['endpoint']} {format_time(row['min_at_us'])[:10]}")


ROOTS = roots
