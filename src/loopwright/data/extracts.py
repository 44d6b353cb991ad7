"""Extracts: what a training read of the log and of the facts, as files that can go elsewhere and be read there again.

Each is a table among the results of steps, so that whoever is erased is erased from it.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import codecs
from loopwright.artifacts import service as artifacts
from loopwright.data import queries, sql
from loopwright.data.logged import LogReader
from loopwright.store.database import Tx
from loopwright.store.space import Space

LOG, FACTS = "log.parquet", "facts.parquet"
_COLUMNS = ("seq", "known_us", "time_us", "about", "body", "digest")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """An extract: of which name, up to which moment, its artifact (None: no rows), and the state that was recorded.

    Args:
        first_us: of a log, the time of its first request.
        found: the state when the extract was made; another than `state` where rows have come or gone since.
    """

    name: str
    until_us: int
    digest: str | None
    state: Any
    found: Any
    first_us: int | None = None


def of_log(space: Space, reader: LogReader, part: Part) -> Part:
    """Extract the requests that a training could see, by the reader's own query."""
    with _connected(space) as con, _scratch(space) as folder:
        first_us = reader(space, con, part.name, part.until_us)
        if first_us is None:
            return part
        digest = _kept(space, con, "SELECT * FROM logged ORDER BY at_us, id", folder / LOG)
    return msgspec.structs.replace(part, digest=digest, first_us=first_us)


def of_facts(space: Space, part: Part) -> Part:
    """Extract the facts of a source that a training could see."""
    with space.read() as tx:
        rows = queries.facts_before(tx, part.name, part.until_us)
    if not rows:
        return part
    values = [msgspec.json.decode(row[4], type=dict[str, Any]) for row in rows]
    told = sorted({name for each in values for name in each})
    kinds = ["BIGINT", "BIGINT", "BIGINT", "VARCHAR", "VARCHAR", "VARCHAR"]
    items = [f"UNNEST(?::{kind}[]) AS {name}" for name, kind in zip(_COLUMNS, kinds, strict=True)]
    columns: list[list[Any]] = [list(column) for column in zip(*rows, strict=True)]
    for name in told:  # whose rows they are must be found in them
        items.append(f"UNNEST(?::VARCHAR[]) AS {sql.ident(name if name == 'id' else f'in_{name}')}")
        columns.append([None if each.get(name) is None else str(each[name]) for each in values])
    with _connected(space) as con, _scratch(space) as folder:
        con.execute(f"CREATE TEMP TABLE told AS SELECT {', '.join(items)}", columns)
        digest = _kept(space, con, "SELECT * FROM told ORDER BY seq", folder / FACTS)
    return msgspec.structs.replace(part, digest=digest)


def put_back(space: Space, part: Part) -> None:
    """Enter the facts of an extract, each under its own number, in a Space that has none of the source."""
    if part.digest is None:
        return
    path = artifacts.local_path(space, part.digest, FACTS)
    with _connected(space) as con:
        rows = con.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM read_parquet({sql.literal(str(path))}) ORDER BY seq"
        ).fetchall()

    def enter(tx: Tx) -> None:
        queries.put_facts(tx, part.name, rows)

    space.write(enter)


class Extracted:
    """The port through which data reads logged requests, over extracts instead of a log."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = parts

    def __call__(self, space: Space, con: Any, features: str, until_us: int) -> int | None:
        """Make the view `logged` of an extract, and return the time of its first request."""
        part = self._parts.get(features)
        if part is None or part.digest is None:
            return None
        path = sql.literal(str(artifacts.local_path(space, part.digest, LOG)))
        con.execute(f"CREATE OR REPLACE TEMP VIEW logged AS SELECT * FROM read_parquet({path})")
        return part.first_us

    def state(self, space: Space, features: str, until_us: int) -> Any:
        """The state that was recorded with the training."""
        part = self._parts.get(features)
        return [] if part is None else part.state


def _connected(space: Space) -> Any:
    from loopwright.data import sources  # which imports DuckDB

    return contextlib.closing(sources.connect(space.home / "tmp"))


@contextlib.contextmanager
def _scratch(space: Space) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=space.home / "tmp", prefix="extract-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _kept(space: Space, con: Any, query: str, path: Path) -> str:
    con.execute(f"COPY ({query}) TO {sql.literal(str(path))} (FORMAT parquet, COMPRESSION zstd)")
    return artifacts.put_tree(space, {path.name: path}, kind=codecs.KIND, meta={"extract": path.stem}).digest
