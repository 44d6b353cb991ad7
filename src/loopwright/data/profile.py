"""Looks into a file: schema, profile, proposed contract, and the rows that break a contract. Knows no Space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from loopwright.data import contract as rules
from loopwright.data import sources, sql
from loopwright.data.model import Column, ColumnProfile, ColumnRule, Contract, DataSpec, Finding
from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import format_time

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
ROWS_SHOWN = 5
NEAR_UNIQUE = 0.99
_X = '"lw.x"'


class Look:
    """An open look at one file, as table `t`."""

    def __init__(self, con: duckdb.DuckDBPyConnection, path: Path) -> None:
        self.format = sources.format_of(path)
        self.delimiter = "," if self.format == "parquet" else sources.delimiter_of(path)
        self._con = con
        with sources.told(f"{path.name} cannot be read", "path"):
            sources.load(con, "t", sources.reading(path, self.format, self.delimiter))
        self.schema = sources.schema(con, "t")
        self.rows = int(self._value("SELECT count(*) FROM t"))
        self._least = self.rows * NEAR_UNIQUE
        if not self.rows:
            raise Invalid(f"{path.name} has no rows", code="data.empty", field="path")

    def _value(self, query: str) -> Any:
        row = self._con.execute(query).fetchone()
        return None if row is None else row[0]

    def _column(self, name: str) -> Column:
        return next(column for column in self.schema if column.name == name)

    def profile(self) -> tuple[ColumnProfile, ...]:
        """What each column holds."""
        return tuple(self._profile(column) for column in self.schema)

    def _profile(self, column: Column) -> ColumnProfile:
        name = sql.ident(column.name)
        if column.kind in ("number", "bool"):
            return self._numbers(column)
        nulls, distinct = self._pair(f"SELECT count(*) - count({name}), count(DISTINCT {name}) FROM t")
        low = high = None
        levels: dict[str, int] = {}
        if column.kind == "time":
            moment = sql.moment(column.name, column.type, column.name)
            first, last = self._pair(f"SELECT min({moment}), max({moment}) FROM t")
            low, high = (None if at is None else format_time(at) for at in (first, last))
        elif column.kind == "text" and distinct <= rules.LEVELS_MOST and distinct * 2 <= self.rows:
            text = f"CAST({name} AS VARCHAR)"
            found = self._con.execute(f"SELECT {text}, count(*) FROM t WHERE {name} IS NOT NULL GROUP BY 1 ORDER BY 1")
            levels = {str(level): int(count) for level, count in found.fetchall()}
        return ColumnProfile(
            column=column.name, kind=column.kind, nulls=nulls, distinct=distinct, low=low, high=high, levels=levels
        )

    def _numbers(self, column: Column) -> ColumnProfile:
        name, value = sql.ident(column.name), sql.number(sql.ident(column.name), column.type)
        missing = f"{name} IS NULL"
        if column.type in ("FLOAT", "DOUBLE"):
            missing += f" OR isnan({name})"
        row = self._con.execute(
            f"SELECT count(*) FILTER ({missing}), count(*) - count({_X}), count(DISTINCT {_X}), min({_X}),"
            f" max({_X}), quantile_disc({_X}, {list(QUANTILES)}) FROM (SELECT {name}, {value} AS {_X} FROM t)"
        ).fetchone()
        nulls, unusable, distinct, low, high, quantiles = row or (0, 0, 0, None, None, None)
        shown = {} if low is None else {str(q): at for q, at in zip(QUANTILES, quantiles, strict=True)}
        return ColumnProfile(
            column=column.name,
            kind=column.kind,
            nulls=nulls,
            distinct=distinct,
            low=low,
            high=high,
            quantiles=shown,
            non_finite=unusable - nulls,
        )

    def _pair(self, query: str) -> tuple[Any, Any]:
        row = self._con.execute(query).fetchone()
        return (None, None) if row is None else (row[0], row[1])

    def contract(self, profile: Sequence[ColumnProfile]) -> Contract:
        """The contract proposed for the file."""
        columns = tuple(self._rule(column, found) for column, found in zip(self.schema, profile, strict=True))
        return Contract(columns=columns, unique=self._key(profile))

    def _rule(self, column: Column, profile: ColumnProfile) -> ColumnRule:
        if column.kind != "number":
            return rules.propose(profile, self.rows, (), ())
        value, most = sql.number(sql.ident(column.name), column.type), rules.tail_rows(self.rows)
        ends = []
        for order in ("DESC", "ASC"):
            found = self._con.execute(
                f"SELECT {_X} FROM (SELECT {value} AS {_X} FROM t) WHERE {_X} IS NOT NULL"
                f" ORDER BY {_X} {order} LIMIT {most}"
            )
            ends.append([row[0] for row in found.fetchall()])
        return rules.propose(profile, self.rows, *ends)

    def _key(self, profile: Sequence[ColumnProfile]) -> tuple[str, ...]:
        """The columns that tell rows apart (but for a few): one, or a text or integer together with a time."""
        least = self._least
        single = [p.column for p in profile if p.nulls == 0 and p.distinct >= least and p.kind in ("text", "number")]
        for name in filter(self._names_things, single):
            return (name,)
        times = [p for p in profile if p.kind == "time" and p.nulls == 0]
        things = [p for p in profile if p.nulls == 0 and p.kind in ("text", "number") and self._names_things(p.column)]
        for time in times:
            if time.distinct >= least:
                return (time.column,)
            for thing in things:
                if thing.distinct * time.distinct >= least and self.tells_apart((thing.column, time.column)):
                    return (thing.column, time.column)
        return ()

    def _names_things(self, name: str) -> bool:
        column = self._column(name)
        return column.kind == "text" or sql.is_whole(column.type)

    def tells_apart(self, columns: Sequence[str]) -> bool:
        """Whether columns tell the rows apart, but for a few."""
        names = ", ".join(sql.ident(column) for column in columns)
        return bool(columns) and self._value(f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM t)") >= self._least

    def findings(self, contract: Contract) -> tuple[Finding, ...]:
        """The rows that break a contract, by kind and column."""
        found: list[Finding] = []
        for rule in contract.columns:
            if rule.column not in contract.unique or rule.declared:
                found += self._breaks(rule, contract.unique)
        if contract.unique:
            found += self._missing(contract.unique)
            found += self._repeated(contract.unique)
        return tuple(found)

    def _breaks(self, rule: ColumnRule, key: tuple[str, ...]) -> list[Finding]:
        column = self._column(rule.column)
        name, found = sql.ident(rule.column), []
        if rule.kind in ("number", "bool"):
            value = sql.number(name, column.type)
            tests = [] if rule.low is None else [f"{value} < {rule.low!r}"]
            tests += [] if rule.high is None else [f"{value} > {rule.high!r}"]
            if tests:
                outside = f"outside {_bounds(rule)}"
                found += self._finding("range", rule.column, " OR ".join(tests), key, outside)
            if column.type in ("FLOAT", "DOUBLE"):
                found += self._finding("non-finite", rule.column, f"isinf({name})", key, "infinite")
        if rule.declared and rule.levels is not None:
            levels = ", ".join(sql.literal(level) for level in rule.levels)
            test = f"{name} IS NOT NULL AND CAST({name} AS VARCHAR) NOT IN ({levels})"
            found += self._finding("level", rule.column, test, key, f"not one of {', '.join(rule.levels)}")
        return found

    def _finding(self, kind: str, column: str, test: str, key: tuple[str, ...], what: str) -> list[Finding]:
        count = int(self._value(f"SELECT count(*) FROM t WHERE {test}"))
        if not count:
            return []
        rows = self._rows(test, [*key, *([column] if column not in key else [])])
        first = rows[0]
        where = ", ".join(f"{name} {first[name]}" for name in ("row", *key) if name != column)
        more = f" and {count - 1} more" if count > 1 else ""
        message = f"{column} = {first[column]} ({where}){more}: {what}"
        return [Finding(kind=kind, column=column, count=count, message=message, rows=tuple(rows))]

    def _rows(self, test: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        shown = ", ".join(self._shown(column) for column in columns)
        cursor = self._con.execute(f"SELECT rowid + 1, {shown} FROM t WHERE {test} ORDER BY rowid LIMIT {ROWS_SHOWN}")
        return [dict(zip(("row", *columns), _plain(row), strict=True)) for row in cursor.fetchall()]

    def _shown(self, column: str) -> str:
        """A value as a finding shows it: times as microseconds (written later), the rest as it is."""
        found = self._column(column)
        if found.kind == "time":
            return f"{{'at_us': {sql.moment(column, found.type, column)}}}"
        return sql.ident(column) if found.kind in ("number", "bool") else f"CAST({sql.ident(column)} AS VARCHAR)"

    def _missing(self, key: tuple[str, ...]) -> list[Finding]:
        found = []
        for column in key:
            count = int(self._value(f"SELECT count(*) FROM t WHERE {sql.ident(column)} IS NULL"))
            if count:
                rows = tuple(self._rows(f"{sql.ident(column)} IS NULL", key))
                message = f"{column} is part of the key and missing in {count} rows (row {rows[0]['row']})"
                found.append(Finding(kind="missing-key", column=column, count=count, message=message, rows=rows))
        return found

    def _repeated(self, key: tuple[str, ...]) -> list[Finding]:
        names = ", ".join(sql.ident(column) for column in key)
        whole = " AND ".join(f"{sql.ident(column)} IS NOT NULL" for column in key)
        repeats = (
            f"SELECT rowid FROM t WHERE {whole} QUALIFY row_number() OVER (PARTITION BY {names} ORDER BY rowid) > 1"
        )
        count = int(self._value(f"SELECT count(*) FROM ({repeats})"))
        if not count:
            return []
        rows = self._rows(f"rowid IN ({repeats})", key)
        shown = "; ".join(", ".join(f"{name} {row[name]}" for name in key) + f" (row {row['row']})" for row in rows)
        more = "" if count <= len(rows) else f" and {count - len(rows)} more"
        message = f"{count} rows repeat the key {', '.join(key)}: {shown}{more}"
        return [Finding(kind="duplicate-key", column=", ".join(key), count=count, message=message, rows=tuple(rows))]


def require_columns(schema: Sequence[Column], spec: DataSpec, name: str) -> None:
    """Go on only when a schema has the columns that a declaration names, and times where it needs them.

    Raises:
        Invalid: it has not; the message names the column.
    """
    kinds = {column.name: column for column in schema}
    named = [("key", column) for column in spec.key]
    named += [(role, column) for role, column in (("time", spec.time), ("known", spec.known_column)) if column]
    named += [(f"checks.{limit.column}", limit.column) for limit in spec.checks]
    for role, column in named:
        if column not in kinds:
            raise Invalid(
                f"{name} has no column {column}, which is declared as its {role}",
                code="data.unknown-column",
                field=role,
                hint=f"its columns are: {', '.join(kinds)}",
            )
        if role in ("time", "known"):
            sql.moment(column, kinds[column].type, f"{name}.{column}")


def _bounds(rule: ColumnRule) -> str:
    low = "-inf" if rule.low is None else f"{rule.low:g}"
    high = "inf" if rule.high is None else f"{rule.high:g}"
    return f"[{low}, {high}]" + ("" if rule.declared else ", the range proposed from the other rows")


def _plain(row: Sequence[Any]) -> list[Any]:
    out = []
    for value in row:
        if isinstance(value, dict):
            value = None if value["at_us"] is None else format_time(value["at_us"])
        elif value is not None and not isinstance(value, int | float | str | bool):
            value = float(value)
        out.append(value)
    return out
