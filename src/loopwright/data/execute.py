"""The offline executor: a declaration of features as DuckDB SQL, each row as it could be known when asked.

The same bytes give the same table, to the last bit: one thread, every order total, and sums of fractions taken over
two scaled 128-bit integers a value, so that no sum depends on the order of its terms or on its neighbours.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import msgspec

from loopwright.artifacts.model import Version
from loopwright.data import expressions, facts, online, service, sources, sql
from loopwright.data.model import (
    AsOf,
    DataSpec,
    FeaturesSpec,
    Join,
    Lateness,
    Lookup,
    Pairs,
    Window,
    join_outputs,
)
from loopwright.data.opened import FOREVER_US as FOREVER_US
from loopwright.data.opened import TOLD, Asked, Opened
from loopwright.data.opened import Span as Span
from loopwright.data.profile import require_columns
from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import format_duration
from loopwright.store.space import Space

LATE_SHARE = 0.01
_BITS = 96  # of a scaled value's whole part, and as many of the rest; 2^31 of them still fit into 127
_REST = 2.0**_BITS
_SMALL = 2.0**31  # whole numbers below it are summed without any rounding
_ROUNDED = "lw_rounded"
_I, _ID, _AT, _KNOWN, _TIME, _ROW = ('"lw.i"', '"lw.id"', '"lw.at"', '"lw.known"', '"lw.time"', '"lw.row"')


class Executor:
    """Builds the table `features` (id, at_us, the features) of one declaration in one connection.

    A source is its version in use and the facts that count as known before `facts_us`.
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        space: Space,
        spec: FeaturesSpec,
        facts_us: int = FOREVER_US,
        version: Callable[[Space, DataSpec], Version] = service.current_version,
        asked: Asked | None = None,
    ) -> None:
        self.con = con
        self.spec = spec
        self._space = space
        self._version = version
        self._asked = asked
        self._sources: dict[str, Opened] = {} if asked is None else {spec.base.name: asked.base}
        for number, source in enumerate(spec.sources[asked is not None :]):
            self._sources[source.name] = self.open(source, f"lw.source.{number}", self._needs(source), facts_us)
        self._base = self._sources[spec.base.name]
        for join in spec.joins:
            self._match(join)

    def open(self, source: DataSpec, table: str, needs: Sequence[str], facts_us: int) -> Opened:
        """Read the columns that are needed of a source's version in use, then of its facts, into a table.

        Raises:
            Invalid: the source lacks one of them.
        """
        version = self._version(self._space, source)
        columns = {column.name: column for column in service.schema(self._space, version)}
        opened = Opened(source, sql.ident(table), columns)
        require_columns(tuple(columns.values()), source, source.name)
        for name in needs:
            opened.column(name)
        since_us, limit = self._since(source), ""
        if since_us > -FOREVER_US:
            limit = f" WHERE {opened.known()} >= {since_us}"
            limit += f" OR {opened.moment(source.time)} >= {since_us}" if source.time is not None else ""
        sources.load(self.con, table, service.reading(self._space, version) + limit, needs)
        return msgspec.structs.replace(opened, told=self._tell(opened, needs, facts_us))

    def _tell(self, opened: Opened, needs: Sequence[str], facts_us: int) -> bool:
        """Put a source's facts behind the rows of its version, each with the moment from which it counts as known."""
        with self._space.read() as tx:
            since_us = self._since(opened.spec)
            found = facts.scan(tx, opened.spec.name, since_us=since_us, until_us=facts_us, held=True)
        if not found or opened.spec.known_column is None:
            return False
        self.con.execute(f"ALTER TABLE {opened.table} ADD COLUMN {TOLD} BIGINT")
        items = [f"UNNEST(?::BIGINT[]) AS {TOLD}"]
        data: list[list[Any]] = [[fact.known_us for fact in found]]
        for name in needs:
            column = opened.columns[name]
            kind = {"time": "BIGINT", "text": "VARCHAR"}.get(column.kind, column.type)
            item = f"UNNEST(?::{kind}[])"
            items.append((f"make_timestamp({item})" if column.kind == "time" else item) + f" AS {sql.ident(name)}")
            data.append([fact.values.get(name) for fact in found])
        with sources.told(f"the facts of {opened.spec.name} do not fit its newest version", opened.spec.name):
            self.con.execute(f"INSERT INTO {opened.table} BY NAME SELECT {', '.join(items)}", data)
        return True

    def _since(self, source: DataSpec) -> int:
        """The moment such that no row known and held before it can matter to the requests."""
        if self._asked is None or source.known_column is None:
            return -FOREVER_US
        spans = [
            join.last_us if isinstance(join, Window) else getattr(join, "within_us", None)
            for join in self.spec.joins
            if join.source.name == source.name
        ]
        longest = max((FOREVER_US if span is None else span for span in spans), default=FOREVER_US)
        return -FOREVER_US if longest == FOREVER_US else self._asked.since_us - longest

    def _match(self, join: Join) -> None:
        """Go on only when the columns that a join compares are of one kind."""
        source = self._sources[join.source.name]
        for ours, theirs in join.on:
            mine, other = self._base.column(ours), source.column(theirs)
            if mine.kind != other.kind or mine.kind == "other":
                raise Invalid(
                    f"{self.spec.base.name}.{ours} ({mine.type}) cannot be matched with"
                    f" {source.spec.name}.{theirs} ({other.type})",
                    code="features.on-type",
                    field=ours,
                )

    def _needs(self, source: DataSpec) -> list[str]:
        """The columns of a source that the declaration uses."""
        needs = [column for column in (source.time, source.known_column) if column is not None]
        if source.name == self.spec.base.name:
            needs += [*source.key, self.spec.at, *self._base_columns()]
        for join in self.spec.joins:
            if join.source.name == source.name:
                needs += [theirs for _, theirs in join.on]
                needs += [o.column for o in join.outputs] if isinstance(join, Window) else [c for _, c in join.columns]
        return list(dict.fromkeys(needs))

    def _base_columns(self) -> list[str]:
        return online.base_columns(self.spec)

    def build(self, span: Span) -> None:
        """Make the table `features`.

        Raises:
            Invalid: a column is not known at the asking time, or an expression does not fit the columns.
        """
        self.make_base(span)
        if self._asked is None:
            self.refuse_late()
        self.con.execute(f"DELETE FROM base WHERE {_AT} < {span.since_us}")
        for number, join in enumerate(self.spec.joins):
            self._join(number, join, span)
        parts = [self._own()]
        for number, join in enumerate(self.spec.joins):
            parts += [[f"j{number}.{sql.ident(out)}" for out in join_outputs(join)]]
        chosen = ", ".join(part for group in parts for part in group)
        joined = " ".join(f"JOIN j{number} USING ({_I})" for number in range(len(self.spec.joins)))
        with sources.told(f"the features {self.spec.name} cannot be computed", "derive"):
            self.con.execute(
                f"CREATE TEMP TABLE features AS SELECT {_ID} AS id, {_AT} AS at_us, {chosen}"
                f" FROM base {joined} ORDER BY {_AT}, {_ID}"
            )

    def make_base(self, span: Span) -> None:
        """Make the table `base`: the requests before the span ends, with what was known of their own columns."""
        base, key = self._base, sql.ident(self.spec.base.key[0])
        at, known = base.moment(self.spec.at), base.known()
        kept = ", ".join(
            f"CASE WHEN {_KNOWN} <= {_AT} AND {_KNOWN} < {span.known_before_us} THEN {self._plain(name)} END"
            f" AS {sql.ident(name)}"
            for name in self._base_columns()
        )
        self.con.execute(
            f"CREATE TEMP TABLE base AS SELECT row_number() OVER (ORDER BY {_AT}, {_ID}) AS {_I}, * FROM ("
            f"SELECT {_ID}, {_AT}, {_KNOWN}{', ' if kept else ''}{kept} FROM ("
            f"SELECT rowid AS {_ROW}, CAST({key} AS VARCHAR) AS {_ID}, {at} AS {_AT}, {known} AS {_KNOWN}, *"
            f" FROM {base.table}) WHERE {_ID} IS NOT NULL AND {_AT} < {span.until_us}"
            f" QUALIFY row_number() OVER (PARTITION BY {_ID} ORDER BY {_ROW}) = 1)"
        )

    def _plain(self, name: str) -> str:
        """A base column as look-ups take it: whole numbers and fractions of 64 bits, moments in UTC."""
        wanted = {"int": "BIGINT", "float": "DOUBLE", "time": "TIMESTAMP", "text": "VARCHAR"}
        column = self._base.column(name)
        to = wanted.get(online.kind_of(column.type))
        huge = column.type.upper() in ("HUGEINT", "UHUGEINT", "UBIGINT")
        return sql.ident(name) if to is None or huge else f"CAST({sql.ident(name)} AS {to})"

    def _own(self) -> list[str]:
        """The base's own columns and the expressions over them, as select items."""
        items = []
        for name in self.spec.columns:
            items.append((f"base.{sql.ident(name)}", self._base.column(name).type, name))
        for out, text in self.spec.derive:
            text = expressions.quoted(text, f"derive.{out}", "base.")
            with sources.told(f"derive.{out} does not fit the columns of {self.spec.base.name}", f"derive.{out}"):
                (found,) = sources.schema(self.con, f"SELECT ({text}) AS x FROM base")
            items.append((f"({text})", found.type, out))
        return [f"{_value(expression, kind, out)} AS {sql.ident(out)}" for expression, kind, out in items]

    # knowledge time

    def lateness(self) -> list[Lateness]:
        """For each column that is read by a key: how often it is known only after the asking time."""
        out = []
        if self.spec.base.known_column is not None and (used := self._base_columns()):
            late, rows, lag = self._late(f"SELECT {_KNOWN} - {_AT} AS lag FROM base")
            out += [self._lateness(self.spec.base, name, late, rows, lag) for name in used]
        for join in self.spec.joins:
            if isinstance(join, Lookup) and join.source.known_column is not None:
                source = self._sources[join.source.name]
                first = f"SELECT {_keys(join.on)}, min({source.known()}) AS {_KNOWN} FROM {source.table} GROUP BY ALL"
                late, rows, lag = self._late(
                    f"SELECT s.{_KNOWN} - base.{_AT} AS lag FROM base JOIN ({first}) s ON {_equal(join.on)}"
                )
                out += [self._lateness(join.source, theirs, late, rows, lag) for _, theirs in join.columns]
        return out

    def _late(self, lags: str) -> tuple[int, int, int | None]:
        row = self.con.execute(
            f"SELECT count(*) FILTER (lag IS NULL OR lag > 0), count(*), quantile_disc(lag, 0.5) FILTER (lag > 0)"
            f" FROM ({lags})"
        ).fetchone()
        return (0, 0, None) if row is None else (row[0], row[1], row[2])

    def _lateness(self, source: DataSpec, column: str, late: int, rows: int, lag: int | None) -> Lateness:
        share = late / rows if rows else 0.0
        return Lateness(column=column, source=source.name, rows=rows, late_share=share, median_lag_us=lag)

    def refuse_late(self) -> None:
        """Go on only when what is read by a key is known when asked, but for LATE_SHARE of the rows.

        Raises:
            Invalid: a column is not; the message names it, the share of rows and the median lag.
        """
        for found in self.lateness():
            if found.late_share > LATE_SHARE:
                lag = "never" if found.median_lag_us is None else f"{_about(found.median_lag_us)} later (median)"
                raise Invalid(
                    f"{found.source}.{found.column} is not known at the asking time: in {found.late_share:.1%} of"
                    f" {found.rows:,} rows it becomes known {lag}",
                    code="features.known-late",
                    field=found.column,
                    hint="join it with lw.asof or lw.window, which take only what was known, or leave it out",
                )

    # joins

    def _join(self, number: int, join: Join, span: Span) -> None:
        source = self._sources[join.source.name]
        if isinstance(join, Window):
            query = self._window(join, source, span)
        elif isinstance(join, Lookup) and source.spec.known_column is None:
            query = self._static(join, source)
        else:
            query = self._asof(join, source, span)
        self.con.execute(f"CREATE TEMP TABLE j{number} AS {query}")

    def _static(self, join: Lookup, source: Opened) -> str:
        """Equal keys of a source that was always known; the first row of a key counts."""
        facts = (
            f"SELECT {_keys(join.on)}, {self._taken(join.columns, source)} FROM {source.table}"
            f" WHERE {_whole(join.on)} QUALIFY row_number() OVER (PARTITION BY {_theirs(join.on)} ORDER BY rowid) = 1"
        )
        outs = ", ".join(f"s.{_held(out)} AS {sql.ident(out)}" for out, _ in join.columns)
        return f"SELECT base.{_I}, {outs} FROM base LEFT JOIN ({facts}) s ON {_equal(join.on)}"

    def _rising(self, join: AsOf | Lookup, source: Opened, span: Span) -> str:
        """Of each key the rows that are ever the latest known: by time, then by knowledge, then the first.

        A row counts from max(time, known) on, unless a row for a later time counts already; so the rows that are ever
        the latest rise in both, and one as-of join finds them.
        """
        known, spec = source.known(), source.spec
        time = known if spec.time is None else source.moment(spec.time)
        keys = ", ".join(_key(ours) for ours, _ in join.on)
        facts = (
            f"SELECT {_keys(join.on)}, {known} AS {_KNOWN}, {time} AS {_TIME},"
            f" greatest({known}, {time}) AS {_AT}, rowid AS {_ROW}, {self._taken(join.columns, source)}"
            f" FROM {source.table} WHERE {_whole(join.on)} AND {known} < {span.known_before_us} AND {time} IS NOT NULL"
            f" AND greatest({known}, {time}) < {span.until_us}"
        )
        best = (
            f"SELECT * FROM ({facts}) QUALIFY row_number() OVER (PARTITION BY {keys}, {_AT}"
            f" ORDER BY {_TIME} DESC, {_KNOWN} DESC, {_ROW}) = 1"
        )
        return (
            f"SELECT * FROM ({best}) QUALIFY {_TIME} >= coalesce(max({_TIME}) OVER (PARTITION BY {keys} ORDER BY {_AT}"
            f" ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), {_TIME})"
        )

    def _asof(self, join: AsOf | Lookup, source: Opened, span: Span) -> str:
        """The latest row known at the asking time."""
        rising = self._rising(join, source, span)
        fresh = ""
        if isinstance(join, AsOf) and join.within_us is not None:
            fresh = f"base.{_AT} - s.{_TIME} <= {join.within_us}"
        outs = ", ".join(
            (f"CASE WHEN {fresh} THEN s.{_held(out)} END" if fresh else f"s.{_held(out)}") + f" AS {sql.ident(out)}"
            for out, _ in join.columns
        )
        on = _equal(join.on)
        return f"SELECT base.{_I}, {outs} FROM base ASOF LEFT JOIN ({rising}) s ON {on} AND base.{_AT} >= s.{_AT}"

    def held(self, join: Join, floor_us: int) -> list[tuple[Any, ...]]:
        """What a look-up from a moment on can need of a join's source: key, (counts from, held, known), values."""
        source = self._sources[join.source.name]
        keys = ", ".join(self._plain_key(source, theirs) for _, theirs in join.on)
        if isinstance(join, Window):
            names = online.wanted(join)
            values = ", ".join(self._there(source, name) for name in names)
            known = source.known()
            query = (
                f"SELECT {keys}, {known}, {known}, {known}, {values} FROM {source.table} WHERE {_whole(join.on)}"
                f" AND {known} > {floor_us - join.last_us} ORDER BY {known}, rowid"
            )
        elif isinstance(join, Lookup) and source.spec.known_column is None:
            values, never = self._taken(join.columns, source), f"CAST({-FOREVER_US} AS BIGINT)"
            query = (
                f"SELECT {keys}, {never}, {never}, {never}, {values} FROM {source.table} WHERE {_whole(join.on)}"
                f" QUALIFY row_number() OVER (PARTITION BY {_theirs(join.on)} ORDER BY rowid) = 1"
            )
        else:
            ours = ", ".join(_key(name) for name, _ in join.on)
            values = ", ".join(f"r.{_held(out)}" for out, _ in join.columns)
            keys = ", ".join(self._plain_key(source, theirs, _key(name)) for name, theirs in join.on)
            query = (
                f"SELECT {keys}, {_AT}, {_TIME}, {_KNOWN}, {values} FROM ({self._rising(join, source, Span())}) r"
                f" QUALIFY coalesce(lead({_AT}) OVER (PARTITION BY {ours} ORDER BY {_AT}), {FOREVER_US}) > {floor_us}"
                f" ORDER BY {_AT}"
            )
        return self.con.execute(query).fetchall()

    def _plain_key(self, source: Opened, name: str, held: str = "") -> str:
        """A key column as a whole number, a fraction, a truth value, a text or a moment."""
        column, place = source.column(name), held or sql.ident(name)
        match online.kind_of(column.type):
            case "int":
                return f"TRY_CAST({place} AS BIGINT)"
            case "float":
                return f"CAST({place} AS DOUBLE)"
            case "time":
                return f"epoch_us(CAST({place} AS TIMESTAMP))"
        return place if column.kind == "bool" else f"CAST({place} AS VARCHAR)"

    def _there(self, source: Opened, name: str) -> str:
        """A column that a window reads as a number; of what is none, 1 where it is not null."""
        kind = source.column(name)
        if kind.kind in ("number", "bool"):
            return sql.number(sql.ident(name), kind.type)
        return f"CASE WHEN {sql.ident(name)} IS NOT NULL THEN 1.0::DOUBLE END"

    def _window(self, join: Window, source: Opened, span: Span) -> str:
        """Aggregates over (at - last, at] of knowledge time, by one ordered pass over requests and facts together."""
        scales = {name: self._scale(source, name) for name in {o.column for o in join.outputs if o.how != "count"}}
        if any(scale != 1.0 for scale in scales.values()):
            with contextlib.suppress(duckdb.NotSupportedError):  # the connection has it already
                self.con.create_function(_ROUNDED, _rounded, ["HUGEINT", "HUGEINT"], "DOUBLE")
        columns = list(dict.fromkeys(output.column for output in join.outputs))
        facts_items, base_items, outs = [], [], []
        for place, name in enumerate(columns):
            column = source.column(name)
            there = sql.number(sql.ident(name), column.type) if column.kind in ("number", "bool") else sql.ident(name)
            facts_items.append(f"{there} IS NOT NULL AS n{place}")
            base_items.append(f"false AS n{place}")
            if name in scales:
                whole = f"trunc({there} * {scales[name]!r})"
                rest = f"({there} * {scales[name]!r} - {whole}) * {_REST!r}"
                facts_items += [f"{there} AS x{place}", f"CAST({whole} AS HUGEINT) AS h{place}"]
                facts_items.append(f"CAST({rest} AS HUGEINT) AS r{place}")
                base_items += [f"CAST(NULL AS DOUBLE) AS x{place}", f"CAST(NULL AS HUGEINT) AS h{place}"]
                base_items.append(f"CAST(NULL AS HUGEINT) AS r{place}")
        for output in join.outputs:
            made = _aggregate(output.how, columns.index(output.column), scales.get(output.column, 1.0))
            outs.append(f"{made} AS {sql.ident(output.out)}")
        keys = ", ".join(_key(ours) for ours, _ in join.on)
        known = source.known()
        facts = (
            f"SELECT NULL AS {_I}, {known} AS {_AT}, {_keys(join.on)}, {', '.join(facts_items)}"
            f" FROM {source.table} WHERE {_whole(join.on)} AND {known} < {span.known_before_us}"
            f" AND {known} > {max(span.since_us - join.last_us, -FOREVER_US)} AND {known} < {span.until_us}"
        )
        ours = ", ".join(f"{sql.ident(name)} AS {_key(name)}" for name, _ in join.on)
        asked = f"SELECT {_I}, {_AT}, {ours}, {', '.join(base_items)} FROM base"
        return (
            f"SELECT {_I}, {', '.join(outs)} FROM ({asked} UNION ALL {facts}) WINDOW w AS (PARTITION BY {keys}"
            f" ORDER BY {_AT} RANGE BETWEEN {join.last_us - 1} PRECEDING AND CURRENT ROW) QUALIFY {_I} IS NOT NULL"
        )

    def _scale(self, source: Opened, name: str) -> float:
        """The power of two that turns a column's values into integers of at most _BITS bits; 1 for whole numbers."""
        column = source.column(name)
        if column.kind not in ("number", "bool"):
            raise Invalid(
                f"{source.spec.name}.{name} holds {column.type}; a window can only count it",
                code="features.window-type",
                field=name,
            )
        if column.kind == "bool" or sql.is_whole(column.type):
            return 1.0
        value = sql.number(sql.ident(name), column.type)
        ((largest, whole),) = self.con.execute(
            f"SELECT coalesce(max(abs({value})), 1.0), coalesce(bool_and({value} = trunc({value})), true)"
            f" FROM {source.table}"
        ).fetchall()
        if whole and largest < _SMALL:
            return 1.0
        return float(2.0 ** max(-900, min(900, _BITS - math.frexp(largest)[1])))

    def _taken(self, columns: Pairs, source: Opened) -> str:
        return ", ".join(
            f"{_value(sql.ident(theirs), source.column(theirs).type, out)} AS {_held(out)}" for out, theirs in columns
        )


def _aggregate(how: str, place: int, scale: float) -> str:
    count = f"count(*) FILTER (n{place}) OVER w"
    if how == "count":
        return f"CAST({count} AS DOUBLE)"
    if how in ("min", "max"):
        return f"{how}(x{place}) OVER w"
    if scale == 1.0:
        total = f"CAST(sum(h{place}) OVER w AS DOUBLE)"
        return total if how == "sum" else f"{total} / nullif({count}, 0)"
    whole, rest = f"sum(h{place}) OVER w", f"sum(r{place}) OVER w"
    exact = f"{rest} = 0 AND abs({whole}) < {1 << 53}"
    made = f"CASE WHEN {exact} THEN CAST({whole} AS DOUBLE) ELSE {_ROUNDED}({whole}, {rest}) END / {scale!r}"
    total = f"CASE WHEN isfinite({made}) THEN {made} END"
    return total if how == "sum" else f"{total} / nullif({count}, 0)"


def _rounded(whole: int, rest: int) -> float:
    """A sum in two parts, rounded once."""
    return ((whole << _BITS) + rest) / (1 << _BITS)


def _value(expression: str, kind: str, out: str) -> str:
    """A feature as it is kept: a DOUBLE or a text.

    Raises:
        Invalid: it is neither a number, a truth value nor a text.
    """
    match sql.kind_of(kind):
        case "number" | "bool":
            return sql.number(expression, kind)
        case "text":
            return f"CAST({expression} AS VARCHAR)"
    raise Invalid(
        f"the feature {out} is of type {kind}; features are numbers and texts",
        code="features.type",
        field=out,
        hint="derive a number from it, such as date_diff('minute', a, b)",
    )


def _key(name: str) -> str:
    """The key of a fact, under a name that no column has."""
    return sql.ident(f"lw.key.{name}")


def _held(name: str) -> str:
    """The value of a fact, likewise."""
    return sql.ident(f"lw.value.{name}")


def _keys(on: Pairs) -> str:
    return ", ".join(f"{sql.ident(theirs)} AS {_key(ours)}" for ours, theirs in on)


def _theirs(on: Pairs) -> str:
    return ", ".join(sql.ident(theirs) for _, theirs in on)


def _whole(on: Pairs) -> str:
    return " AND ".join(f"{sql.ident(theirs)} IS NOT NULL" for _, theirs in on)


def _equal(on: Pairs) -> str:
    return " AND ".join(f"base.{sql.ident(ours)} = s.{_key(ours)}" for ours, _ in on)


def _about(span_us: int) -> str:
    """A span to the minute, or to the second when it is short."""
    unit = 60_000_000 if abs(span_us) >= 3_600_000_000 else 1_000_000
    return format_duration(span_us // unit * unit or span_us)
