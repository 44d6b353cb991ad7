"""Files as DuckDB tables: the connection, the two formats, and what each can get wrong. Knows no Space."""

import re
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from loopwright.data import sql
from loopwright.data.model import Column
from loopwright.kernel.errors import Invalid, Unsupported

ENDINGS = {".csv": "csv", ".csv.gz": "csv", ".tsv": "csv", ".tsv.gz": "csv", ".parquet": "parquet"}
NULL_TEXTS = ("", "NA", "NaN", "nan", "NULL", "null")
MEMORY_LIMIT = "2GB"
_DELIMITERS = (",", ";", "\t", "|")
_QUOTED = re.compile(r'"[^"]*"')


def connect(temporary: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that gives the same answer every time: one thread, UTC, nothing downloaded."""
    con = duckdb.connect(
        config={
            "threads": "1",
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": str(temporary),
            # a small file may unpack to more than the disk has, which the database and the prediction log need too
            "max_temp_directory_size": f"{shutil.disk_usage(temporary).free // 2}B",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
    )
    con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return con


def format_of(path: Path) -> str:
    """`csv` or `parquet`, by the file's ending.

    Raises:
        Unsupported: it has another.
    """
    for ending, name in ENDINGS.items():
        if path.name.lower().endswith(ending):
            return name
    raise Unsupported(
        f"{path.name} is neither CSV nor Parquet",
        code="data.format",
        field="path",
        hint=f"a source ends with one of {', '.join(ENDINGS)}",
    )


def reading(path: Path, kind: str, delimiter: str = ",") -> str:
    """The table function that reads a file."""
    if kind == "parquet":
        return f"read_parquet({sql.literal(str(path))})"
    nulls = ", ".join(sql.literal(text) for text in NULL_TEXTS)
    compression = "gzip" if _zipped(path) else "none"
    return (
        f"read_csv({sql.literal(str(path))}, delim={sql.literal(delimiter)}, quote='\"', escape='\"', header=true,"
        f" skip=0, sample_size=-1, nullstr=[{nulls}], compression='{compression}')"
    )


def delimiter_of(path: Path) -> str:
    """The delimiter of a CSV file: the one that its first line holds most of outside quotes; else a comma."""
    import gzip

    with gzip.open(path, "rb") if _zipped(path) else open(path, "rb") as stream:
        first = stream.readline(1 << 20).decode("utf-8", "replace")
    return max(_DELIMITERS, key=_QUOTED.sub("", first).count)


def _zipped(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def schema(con: duckdb.DuckDBPyConnection, relation: str) -> tuple[Column, ...]:
    """The columns of a table or of a query."""
    rows = con.execute(f"DESCRIBE {relation}").fetchall()
    return tuple(Column(name=row[0], type=row[1], kind=sql.kind_of(row[1])) for row in rows)


def load(con: duckdb.DuckDBPyConnection, table: str, source: str, columns: Sequence[str] | None = None) -> None:
    """Read a file into a temporary table; its rowid is the row's place in the file."""
    wanted = "*" if columns is None else ", ".join(sql.ident(column) for column in columns)
    con.execute(f"CREATE TEMP TABLE {sql.ident(table)} AS SELECT {wanted or '1 AS _'} FROM {source}")


@contextmanager
def told(what: str, field: str) -> Any:
    """Turn what DuckDB says of somebody's file or expression into an Invalid that names it."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        text = str(error).split("\n\nLINE")[0]
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        reason = " ".join(line for line in lines[:4] if not line.startswith("Possible Solution"))[:300]
        hint = "save the file as UTF-8" if "utf-8" in reason.lower() or "unicode" in reason.lower() else None
        raise Invalid(f"{what}: {reason}", code="data.unreadable", field=field, hint=hint) from None
