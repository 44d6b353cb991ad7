"""The tables of serving."""

from collections.abc import Iterator

from loopwright.kernel.times import format_time
from loopwright.store.database import Tx
from loopwright.store.roots import Root, digests_in
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
]


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """The sealed files of the prediction log, and what endpoints declare."""
    for row in tx.query("SELECT endpoint, digest, min_at_us FROM prediction_log"):
        yield Root(row["digest"], "log", f"{row['endpoint']} {format_time(row['min_at_us'])[:10]}")
    for row in tx.query("SELECT name, spec FROM endpoints"):
        for digest in digests_in(row["spec"]):
            yield Root(digest, "endpoint", row["name"])


ROOTS = roots
