"""Recorded requests, labels and facts, from any Parquet or CSV file, kept sorted in DuckDB and taken out by time.

Requests: `id`, `time`, then the endpoint's inputs, or what it can look them up by. Labels: `id`, `label`, `known_at`.
Facts: columns of their source, with the one that says when a row became known, or `known_at`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from loopwright.data import facts as facts_of
from loopwright.faces.client import Client
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.ids import valid_name
from loopwright.project import server
from loopwright.store import space as spaces

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
_SERVED_S = 30.0


class Input(msgspec.Struct, frozen=True):
    """One input of the endpoint, as its metadata names it."""

    name: str
    datatype: str


class Request(NamedTuple):
    """One recorded request, and whom it is about, as K=V."""

    id: str
    at_us: int
    subject: str | None
    values: tuple[Any, ...]


class Files(NamedTuple):
    """The files of a recording; facts by source: the file, and the column that says when a row became known."""

    requests: Path
    labels: Path
    facts: Mapping[str, tuple[Path, str]] = {}
    subject: str | None = None


class Asked(NamedTuple):
    """What an endpoint takes: its full row, and, when it looks features up, what they can be looked up by."""

    full: list[Input]
    lookup: list[Input]


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
    """What some files hold, checked."""

    def __init__(self, files: Files, asked: Asked) -> None:
        self._db = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": _MEMORY})
        self._db.execute("SET TimeZone = 'UTC'")
        self.inputs = asked.full
        self.left_out = self._load_requests(files.requests, asked.lookup, files.subject)
        self._load_labels(files.labels)
        self.facts = {name: self._load_facts(place, *of) for place, (name, of) in enumerate(files.facts.items())}

    def _load_requests(self, path: Path, lookup: list[Input], subject: str | None) -> list[str]:
        have = self._columns(path, ["id", "time", *([] if subject is None else [subject])])
        if lookup and any(i.name not in have for i in self.inputs) and all(i.name in have for i in lookup):
            self.inputs = lookup
        self._columns(path, [i.name for i in self.inputs])
        about = "NULL" if subject is None else f"{_literal(subject + '=')} || CAST({_quoted(subject)} AS VARCHAR)"
        moment = self._moment(path, "time", have["time"])
        wanted = {"id": "CAST(id AS VARCHAR)", "at_us": moment, "lw.subject": about}
        for item in self.inputs:
            kind = _SQL_TYPES.get(item.datatype)
            if kind is None:
                raise Invalid(f"input {item.name!r} has the type {item.datatype}, which no file holds", field=item.name)
            self._check_cast(path, item.name, kind)
            wanted[item.name] = _as_told(item.name, have[item.name]) or f"CAST({_quoted(item.name)} AS {kind})"
        self._check_there(path, ["id", "time"])
        self._check_once(path)
        picked = ", ".join(f"{sql} AS {_quoted(name)}" for name, sql in wanted.items())
        self._db.execute(f"CREATE TABLE recorded_requests AS SELECT {picked} FROM {_source(path)} ORDER BY at_us, id")
        used = {"id", "time", subject, *(i.name for i in self.inputs)}
        return [name for name in have if name not in used]

    def _load_facts(self, place: int, path: Path, known: str) -> str:
        """Make a table of moments and rows as they are told, and return its name."""
        have = self._columns(path, [known])
        self._check_there(path, [known])
        columns = ", ".join(
            f"{_as_told(name, kind) or _quoted(name)} AS {_quoted(name)}" for name, kind in have.items()
        )
        self._db.execute(
            f'CREATE TABLE recorded_facts_{place} AS SELECT {self._moment(path, known, have[known])} AS "lw.known",'
            f' row_number() OVER () AS "lw.place", {columns} FROM {_source(path)} ORDER BY 1, 2'
        )
        return f"recorded_facts_{place}"

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

    def missing(self, from_us: int, to_us: int, logged: Sequence[str]) -> list[str]:
        """The requests with from <= time < to that are not among the logged ids."""
        sql = (
            "SELECT id FROM recorded_requests WHERE at_us >= ? AND at_us < ?"
            " AND id NOT IN (SELECT unnest(?::VARCHAR[])) ORDER BY id"
        )
        return [row[0] for row in self._db.execute(sql, [from_us, to_us, list(logged)]).fetchall()]

    def requests(self, from_us: int, to_us: int) -> list[Request]:
        """The requests with from <= time < to, by time and id."""
        rows = self._db.execute(
            "SELECT * FROM recorded_requests WHERE at_us >= ? AND at_us < ? ORDER BY at_us, id", [from_us, to_us]
        ).fetchall()
        return [Request(row[0], row[1], row[2], row[3:]) for row in rows]

    def told(self, from_us: int, to_us: int) -> dict[str, list[tuple[int, bytes]]]:
        """By source, the rows that become known with from <= time < to: when, and the row as a line of JSON."""
        return {name: self._told(table, from_us, to_us) for name, table in self.facts.items()}

    def _told(self, table: str, from_us: int, to_us: int) -> list[tuple[int, bytes]]:
        found = self._db.execute(
            f'SELECT * FROM {table} WHERE "lw.known" >= ? AND "lw.known" < ? ORDER BY "lw.known", "lw.place"',
            [from_us, to_us],
        )
        columns = [column[0] for column in found.description or ()][2:]
        return [(row[0], msgspec.json.encode(dict(zip(columns, row[2:], strict=True)))) for row in found.fetchall()]

    def labels(self, after_us: int, to_us: int, asked: tuple[int, int]) -> list[Label]:
        """The labels with after < known_at <= to, of requests with asked[0] <= time < asked[1]."""
        rows = self._db.execute(
            "SELECT id, label, known_us FROM recorded_labels"
            " WHERE due_us > ? AND due_us <= ? AND at_us >= ? AND at_us < ? ORDER BY due_us, id, known_us",
            [after_us, to_us, *asked],
        ).fetchall()
        return [Label(*row) for row in rows]


def asked_by(where: server.Running, endpoint: str) -> Asked:
    """What the endpoint's requests carry, by its metadata.

    Raises:
        NotFound: the endpoint is not served.
    """
    data = Client(where.data_url)
    until = monotonic_s() + _SERVED_S
    try:
        while True:
            status, body = data.request("GET", f"/v2/models/{endpoint}")
            if status < 400:
                break
            if status == 404 or monotonic_s() > until:
                raise NotFound(
                    f"no endpoint {endpoint!r} is served here", code="endpoint.missing", field="endpoint",
                    hint=f"lw deploy {endpoint}",
                )  # fmt: skip
    finally:
        data.close()
    document = msgspec.json.decode(body, type=dict[str, Any])
    lookup = document.get("parameters", {}).get("lookup", {}).get("inputs", [])
    return Asked(*([Input(item["name"], item["datatype"]) for item in found] for found in (document["inputs"], lookup)))


def files_of(root: Path, requests: str, labels: str, facts: Sequence[str], subject: str | None) -> Files:
    """The files of a replay, with the column of each file of facts that says when a row became known.

    Raises:
        Invalid: what is said of facts is not NAME=FILE, or no source of that name says when its rows become known.
    """
    found = {}
    with contextlib.closing(spaces.open_at(root)) as space, space.read() as tx:
        for given in facts:
            name, separates, path = given.partition("=")
            spec = facts_of.declaration(tx, valid_name(name, "facts")) if separates else None
            if spec is None or spec.known_column is None:
                why = f"no source {name!r} says when its rows become known" if separates else "it is not NAME=FILE"
                raise Invalid(f"--facts {given}: {why}", code="replay.facts", field="facts", hint="lw run")
            found[name] = (Path(path), spec.known_column)
    return Files(Path(requests), Path(labels), found, subject)


def _as_told(name: str, kind: str) -> str | None:
    """SQL that gives a time as RFC 3339, as it is sent; None when the column holds no times."""
    if not kind.startswith("TIMESTAMP"):
        return None
    return f"strftime(CAST({_quoted(name)} AS TIMESTAMPTZ) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _source(path: Path) -> str:
    text = _literal(str(path))
    if path.suffix in _CSV:
        return f"read_csv({text}, header = true, sample_size = -1)"
    if path.suffix in _PARQUET:
        return f"read_parquet({text})"
    raise Invalid(f"{path} is neither .parquet nor .csv", code="replay.file", field=str(path))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
