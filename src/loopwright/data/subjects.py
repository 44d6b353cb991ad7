"""The rows of a subject in files: by its column, and by the ids of the requests that are about it."""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loopwright.artifacts import codecs
from loopwright.artifacts import service as artifacts
from loopwright.data import sql
from loopwright.data.model import Column
from loopwright.store.erasure import Subject
from loopwright.store.space import Space

ROW_IDS = ("id", "request_id", "__index_0__")  # of requests, in tables that are made here
REFS = "loopwright_refs"
_FRAME = ".parquet"


@contextlib.contextmanager
def opened(space: Space, subject: Subject) -> Iterator[Any]:
    """A DuckDB connection that knows the ids of the subject's requests."""
    from loopwright.data import sources

    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        con.execute(f"CREATE TEMP TABLE {REFS} AS SELECT UNNEST(?::VARCHAR[]) AS ref", [sorted(subject.refs)])
        yield con


def condition(columns: Iterable[Column], subject: Subject, ids: Sequence[str] = ROW_IDS) -> str | None:
    """What a row of the subject fulfils, as SQL; None when no column can tell."""
    terms = []
    for column in columns:
        name = sql.ident(column.name)
        if column.name.removeprefix("in_").removeprefix("ask_") == subject.column:
            equal = f"CAST({name} AS VARCHAR) = {sql.literal(subject.value)}"
            if column.kind == "number":
                equal = f"TRY_CAST({name} AS DOUBLE) = TRY_CAST({sql.literal(subject.value)} AS DOUBLE)"
            terms.append(equal)
        if column.name in ids and subject.refs:
            terms.append(f"CAST({name} AS VARCHAR) IN (SELECT ref FROM {REFS})")
    return f"COALESCE({' OR '.join(terms)}, FALSE)" if terms else None


def holds(values: dict[str, Any], subject: Subject, ids: Sequence[str]) -> bool:
    """Whether a row that is at hand is the subject's."""
    value = values.get(subject.column)
    same = value is not None and same_value(value, subject.value)
    return same or any(str(values[name]) in subject.refs for name in ids if values.get(name) is not None)


def same_value(value: Any, text: str) -> bool:
    """Whether a value is what a text says."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(text) == value
    return str(value) == text


class Frames:
    """The tables among the results of steps: those with rows of a subject, by the digest of the result."""

    def __init__(self, space: Space, subject: Subject) -> None:
        self.space, self.subject = space, subject

    def found(self, con: Any) -> Iterator[tuple[str, dict[str, str], int]]:
        """Digest, files and number of rows of each result that holds some, or that quotes the value."""
        for artifact in artifacts.of_kind(self.space, codecs.KIND):
            files = artifacts.files(self.space, artifact.digest)
            rows = max((self._rows(con, file) for path, file in files.items() if path.endswith(_FRAME)), default=0)
            quoted = any(self.quotes(file) for path, file in files.items() if not path.endswith((_FRAME, ".npy")))
            if rows or quoted:
                yield artifact.digest, files, max(rows, 1)

    def quotes(self, digest: str) -> bool:
        """Whether the bytes of a file hold the value as a word."""
        return self.subject.pattern.search(self.space.blobs.read(digest).decode("utf-8", "replace")) is not None

    def _rows(self, con: Any, digest: str) -> int:
        where = self._where(con, digest)
        return 0 if where is None else int(con.execute(f"SELECT COUNT(*) FROM {where}").fetchone()[0])

    def _where(self, con: Any, digest: str) -> str | None:
        from loopwright.data import sources

        table = f"read_parquet({sql.literal(str(self.space.blobs.path(digest)))})"
        test = condition(sources.schema(con, f"SELECT * FROM {table}"), self.subject)
        return None if test is None else f"{table} WHERE {test}"

    def rows(self, con: Any) -> Iterator[dict[str, Any]]:
        """The rows of the subject in all of these tables."""
        for artifact in artifacts.of_kind(self.space, codecs.KIND):
            for path, file in artifacts.files(self.space, artifact.digest).items():
                where = self._where(con, file) if path.endswith(_FRAME) else None
                if where is not None:
                    yield from as_dicts(con.execute(f"SELECT * FROM {where}"))


def as_dicts(result: Any) -> Iterator[dict[str, Any]]:
    """The rows of a DuckDB answer by the names of its columns."""
    names = [part[0] for part in result.description]
    for row in result.fetchall():
        yield dict(zip(names, row, strict=True))


def plain(value: Any) -> Any:
    """A value as it compares between a table and JSON: numbers as float64, what is not a number as null."""
    if isinstance(value, int | float):
        return None if math.isnan(value) else float(value)
    return value if value is None or isinstance(value, str) else json.dumps(value, default=str)


def without(con: Any, reading: str, test: str, path: Path, delimiter: str) -> int:
    """Write the rows that do not fulfil a condition to a file of its ending; returns how many they are."""
    name, place = path.name.lower(), sql.literal(str(path))
    if name.endswith(".parquet"):
        kept, options = f"SELECT * FROM {reading} WHERE NOT {test}", "FORMAT parquet, COMPRESSION zstd"
    else:
        # texts stay as they are written, whatever they are read as: the rows are known by their places
        raw = reading.removesuffix(")") + ", all_varchar = true)"
        gone = f"SELECT _row FROM (SELECT row_number() OVER () AS _row, {test} AS _hit FROM {reading}) WHERE _hit"
        rows = f"SELECT row_number() OVER () AS _row, * FROM {raw}"
        kept = f"SELECT * EXCLUDE (_row) FROM ({rows}) WHERE _row NOT IN ({gone}) ORDER BY _row"
        zipped = "gzip" if name.endswith(".gz") else "none"
        options = f"FORMAT csv, HEADER true, DELIMITER {sql.literal(delimiter)}, COMPRESSION {zipped}"
    return int(con.execute(f"COPY ({kept}) TO {place} ({options})").fetchone()[0])
