"""Writes small data files, and says what a Space holds, for the tests of this folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from loopwright.kernel import canonical
from loopwright.store.space import Space


def write_parquet(path: Path, columns: dict[str, str], rows: Sequence[Sequence[Any]]) -> Path:
    """A Parquet file with typed columns; the rows keep their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(config={"threads": "1"})
    typed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
    con.execute(f"CREATE TABLE t ({typed})")
    if rows:
        con.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(columns))})", [list(row) for row in rows])
    con.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    con.close()
    return path


def digest_of(space: Space) -> str:
    """A digest over all tables and blobs of a Space."""
    with space.read() as tx:
        rows = {table: [list(row) for row in tx.query(f"SELECT * FROM {table}")] for table in tx.tables()}
    return canonical.digest([rows, list(space.blobs.all())])


@pytest.fixture
def parquet() -> Callable[..., Path]:
    """Writes a Parquet file."""
    return write_parquet


@pytest.fixture
def held() -> Callable[[Space], str]:
    """Says what a Space holds."""
    return digest_of
