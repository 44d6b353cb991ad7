"""Recorded requests and labels, from any Parquet or CSV file, kept sorted in DuckDB and taken out by time.

Requests: `id`, `time`, then the endpoint's inputs. Labels: `id`, `label`, `known_at`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from loopwright.kernel.errors import Invalid, NotFound

_SQL_TYPES = {
    "FP64": "DOUBLE",
    "FP32": "DOUBLE",
    "INT64": "BIGINT",
    "INT32": "BIGINT",
    "BOOL": "BOOLEAN",
    "BYTES": "VARCHAR",
}
_TIMES = ("TIMESTAMP", "DATE", "VARCHAR")
_CSV, _PARQUET = (".csv", ".tsv", ".gz"), (".parquet", ".pq")
_MEMORY = "512MB"


class Input(msgspec.Struct, frozen=True):
    """One input of the endpoint, as its metadata names it."""

    name: str
    datatype: str


class Request(NamedTuple):
    """One recorded request."""

    id: str
    at_us: int
    values: tuple[Any, ...]


class Label(NamedTuple):
    """One recorded label."""

    id: str
    value: Any
    known_us: int


class Span(NamedTuple):
    """What a file of requests covers between two moments."""

    requests: int
    first_us: int
    last_us: int
    last_known_us: int


class Recording:
    """The requests and labels of two files, checked."""

    def __init__(self, requests: Path, labels: Path, inputs: Sequence[Input]) -> None:
        self.inputs = list(inputs)
        self._db = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": _MEMORY})
        self._db.execute("SET TimeZone = 'UTC'")
        self.left_out = self._load_requests(requests)
        self._load_labels(labels)

    def _load_requests(self, path: Path) -> list[str]:
        have = self._columns(path, ["id", "time", *(i.name for i in self.inputs)])
        wanted = {"id": "CAST(id AS VARCHAR)", "at_us": self._moment(path, "time", have["time"])}
        for item in self.inputs:
            kind = _SQL_TYPES.get(item.datatype)
            if kind is None:
                raise Invalid(f"input {item.name!r} has the type {item.datatype}, which no file holds", field=item.name)
            self._check_cast(path, item.name, kind)
            wanted[item.name] = f"CAST({_quoted(item.name)} AS {kind})"
        self._check_there(path, ["id", "time"])
        self._check_once(path)
        picked = ", ".join(f"{sql} AS {_quoted(name)}" for name, sql in wanted.items())
        self._db.execute(f"CREATE TABLE recorded_requests AS SELECT {picked} FROM {_source(path)} ORDER BY at_us, id")
        used = {"id", "time", *(i.name for i in self.inputs)}
        return [name for name in have if name not in used]

    def _load_labels(self, path: Path) -> None:
        have = self._columns(path, ["id", "label", "known_at"])
        self._check_there(path, ["id", "known_at"])
        known = self._moment(path, "known_at", have["known_at"])
        label = "CAST(label AS DOUBLE)" if have["label"].startswith("DECIMAL") else "label"
        self._db.execute(
            f"CREATE TABLE read_labels AS SELECT CAST(id AS VARCHAR) AS id, {label} AS label, {known} AS known_us"
            f" FROM {_source(path)} WHERE label IS NOT NULL"
        )
        # a label that was known before it was asked for is sent with its request
        self._db.execute(
            "CREATE TABLE recorded_labels AS SELECT id, label, known_us, greatest(known_us, at_us + 1) AS due_us, at_us"
            " FROM read_labels JOIN recorded_requests USING (id) ORDER BY due_us, id, known_us"
        )
        self._db.execute("DROP TABLE read_labels")

    def _columns(self, path: Path, needed: Sequence[str]) -> dict[str, str]:
        if not path.is_file():
            raise NotFound(f"no file {path}", code="replay.file", field=str(path))
        try:
            rows = self._db.execute(f"DESCRIBE SELECT * FROM {_source(path)}").fetchall()
        except duckdb.Error as error:
            first = str(error).split("\n")[0]
            raise Invalid(f"{path} cannot be read: {first}", code="replay.file", field=str(path)) from None
        have = {row[0]: row[1] for row in rows}
        for name in needed:
            if name not in have:
                listed = ", ".join(have)
                raise Invalid(f"{path} has no column {name!r}; it has {listed}", code="replay.column", field=name)
        return have

    def _moment(self, path: Path, column: str, kind: str) -> str:
        """SQL that gives a column's moments in microseconds."""
        if not kind.startswith(_TIMES):
            raise Invalid(
                f"{path}: column {column!r} holds {kind}, not times such as 2013-04-01T04:00:00Z",
                code="replay.type",
                field=column,
            )
        self._check_cast(path, column, "TIMESTAMPTZ")
        return f"epoch_us(CAST({_quoted(column)} AS TIMESTAMPTZ))"

    def _check_cast(self, path: Path, column: str, kind: str) -> None:
        name = _quoted(column)
        self._refuse_row(
            path, column, f"TRY_CAST({name} AS {kind}) IS NULL AND {name} IS NOT NULL", f"is not of the type {kind}"
        )

    def _check_there(self, path: Path, columns: Sequence[str]) -> None:
        for column in columns:
            self._refuse_row(path, column, f"{_quoted(column)} IS NULL", "is empty")

    def _refuse_row(self, path: Path, column: str, condition: str, why: str) -> None:
        row = self._db.execute(
            f"SELECT n, value FROM (SELECT row_number() OVER () AS n, CAST({_quoted(column)} AS VARCHAR) AS value,"
            f" {condition} AS bad FROM {_source(path)}) WHERE bad ORDER BY n LIMIT 1"
        ).fetchone()
        if row is not None:
            shown = "" if row[1] is None else f" {row[1]!r}"
            raise Invalid(f"{path}: column {column!r}, row {row[0]}:{shown} {why}", code="replay.value", field=column)

    def _check_once(self, path: Path) -> None:
        row = self._db.execute(
            f"SELECT CAST(id AS VARCHAR), count(*) FROM {_source(path)}"
            " GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
        ).fetchone()
        if row is not None:
            raise Invalid(f"{path}: column 'id': {row[0]!r} stands in {row[1]} rows", code="replay.value", field="id")

    def span(self, from_us: int, to_us: int | None) -> Span:
        """What the requests with from <= time < to cover, and when the last of their labels is known."""
        to = 2**62 if to_us is None else to_us
        bounds = [from_us, to]
        within = "at_us >= ? AND at_us < ?"
        found = self._row(f"SELECT count(*), min(at_us), max(at_us) FROM recorded_requests WHERE {within}", bounds)
        known = self._row(f"SELECT max(due_us) FROM recorded_labels WHERE {within}", bounds)
        return Span(found[0], found[1] or from_us, found[2] or from_us, known[0] or from_us)

    def _row(self, sql: str, args: list[int]) -> tuple[Any, ...]:
        row = self._db.execute(sql, args).fetchone()
        assert row is not None
        return row

    def missing(self, from_us: int, to_us: int, logged: Sequence[str]) -> int:
        """How many requests with from <= time < to are not among the logged ids."""
        sql = (
            "SELECT count(*) FROM recorded_requests WHERE at_us >= ? AND at_us < ?"
            " AND id NOT IN (SELECT unnest(?::VARCHAR[]))"
        )
        row = self._db.execute(sql, [from_us, to_us, list(logged)]).fetchone()
        assert row is not None
        return int(row[0])

    def requests(self, from_us: int, to_us: int) -> list[Request]:
        """The requests with from <= time < to, by time and id."""
        rows = self._db.execute(
            "SELECT * FROM recorded_requests WHERE at_us >= ? AND at_us < ? ORDER BY at_us, id", [from_us, to_us]
        ).fetchall()
        return [Request(row[0], row[1], row[2:]) for row in rows]

    def labels(self, after_us: int, to_us: int, asked: tuple[int, int]) -> list[Label]:
        """The labels with after < known_at <= to, of requests with asked[0] <= time < asked[1]."""
        rows = self._db.execute(
            "SELECT id, label, known_us FROM recorded_labels"
            " WHERE due_us > ? AND due_us <= ? AND at_us >= ? AND at_us < ? ORDER BY due_us, id, known_us",
            [after_us, to_us, *asked],
        ).fetchall()
        return [Label(*row) for row in rows]


def _source(path: Path) -> str:
    text = "'" + str(path).replace("'", "''") + "'"
    if path.suffix in _CSV:
        return f"read_csv({text}, header = true, sample_size = -1)"
    if path.suffix in _PARQUET:
        return f"read_parquet({text})"
    raise Invalid(f"{path} is neither .parquet nor .csv", code="replay.file", field=str(path))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
