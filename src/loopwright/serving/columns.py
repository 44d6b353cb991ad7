"""Prediction rows as columns: from spool rows to a DuckDB table, with the names that sealed files have too."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from loopwright.serving.record import Columns, LogRow

_TYPES = {"float64": "DOUBLE", "int64": "BIGINT", "bool": "BOOLEAN", "string": "VARCHAR"}
_MAKE: dict[str, Callable[[Any], Any]] = {"float64": float, "int64": int, "bool": bool, "string": str}
FIXED = {
    "id": "VARCHAR", "at_us": "BIGINT", "received_us": "BIGINT", "request_id": "VARCHAR", "version": "BIGINT",
    "arm": "BIGINT", "subject": "VARCHAR",
}  # fmt: skip


def quoted(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def version_columns(version: int) -> dict[str, str]:
    """The columns of one version and their types."""
    return {f"score_{version}": "DOUBLE", f"latency_us_{version}": "BIGINT", f"error_{version}": "VARCHAR"}


class Batch(msgspec.Struct):
    """Rows of a spool with what is needed to lay them out.

    Args:
        inputs: type by label of every input that a row has.
        order: for each row, the columns of its values.
    """

    rows: list[LogRow]
    inputs: dict[str, str]
    order: list[Columns]
    versions: list[int]

    def create(self, con: Any, table: str) -> None:
        """Make a table of the rows."""
        columns: dict[str, tuple[str, list[Any]]] = {}
        for name, kind in FIXED.items():
            columns[name] = (kind, [getattr(row, name) for row in self.rows])
        columns.update(self._values())
        for version in self.versions:
            names = version_columns(version)
            parts = ("scores", "latency_us", "errors")
            for (name, kind), part in zip(names.items(), parts, strict=True):
                columns[name] = (kind, [getattr(row, part).get(version) for row in self.rows])
        made = ", ".join(f"UNNEST(?::{kind}[]) AS {quoted(name)}" for name, (kind, _) in columns.items())
        con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT {made}", [data for _, data in columns.values()])

    def _values(self) -> dict[str, tuple[str, list[Any]]]:
        out: dict[str, tuple[str, list[Any]]] = {}
        same = len({*self.order}) == 1
        by_place = list(zip(*(row.values for row in self.rows), strict=True)) if same else []
        labels = {columns: columns.labels for columns in {*self.order}}
        for name, dtype in self.inputs.items():
            if same:
                data = list(by_place[labels[self.order[0]].index(name)])
            else:
                make = _MAKE[dtype]
                places = {c: found.index(name) if name in found else None for c, found in labels.items()}
                found = (
                    None if (place := places[columns]) is None else row.values[place]
                    for row, columns in zip(self.rows, self.order, strict=True)
                )
                data = [None if value is None else make(value) for value in found]
            out[name] = (_TYPES[dtype], data)
        return out


def gather(frames: Iterable[tuple[Columns, list[LogRow]]]) -> Batch:
    """All rows of some frames; where a column's type changes between them, the wider one holds."""
    rows: list[LogRow] = []
    order: list[Columns] = []
    inputs: dict[str, str] = {}
    versions: set[int] = set()
    for columns, part in frames:
        for name, dtype in zip(columns.labels, columns.dtypes, strict=True):
            inputs[name] = _wider(inputs.get(name, dtype), dtype)
        rows += part
        order += [columns] * len(part)
        for row in part:
            versions.update(row.scores, row.errors)
    return Batch(rows=rows, inputs=inputs, order=order, versions=sorted(versions))


def _wider(one: str, other: str) -> str:
    if one == other:
        return one
    return "float64" if {one, other} <= {"float64", "int64", "bool"} else "string"
