"""Feature rows and training tables as pandas frames, and request rows as files."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec

from loopwright.access.service import local_actor
from loopwright.data import logged, prepare, service, sources, sql
from loopwright.data.execute import Executor, Span
from loopwright.data.model import DataSpec, FeaturesSpec, Lateness, Written
from loopwright.kernel.errors import Conflict, Invalid, Unsupported
from loopwright.kernel.files import fresh_file
from loopwright.kernel.times import HOUR, format_time, parse_time
from loopwright.store.space import Space

if TYPE_CHECKING:
    import pandas as pd


class Ask(msgspec.Struct, frozen=True):
    """What a training asks for: labels, the label's column, until when it may know, and which features (None: all)."""

    labels: DataSpec
    target: str
    until: str | int = "now"
    columns: tuple[str, ...] | None = None


def moment(space: Space, given: str | int, field: str) -> int:
    """A time given as microseconds, RFC 3339, or `now` (on the wall clock the last full hour).

    Raises:
        Invalid: it is none of these.
    """
    if given == "now":
        now = space.clock.now_us()
        return now if space.clock.mode == "replay" else now - now % HOUR
    return given if isinstance(given, int) else parse_time(given, field)


def rows(
    space: Space,
    spec: FeaturesSpec,
    *,
    since: str | int,
    until: str | int,
    known_before: str | int | None = None,
) -> "pd.DataFrame":
    """The feature rows asked for in [since, until): columns time and the features, index id, sorted by (time, id)."""
    pandas = _pandas()
    span = _span(space, since, until, known_before)
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        Executor(con, space, spec, span.facts_us).build(span)
        frame = con.execute("SELECT id, make_timestamp(at_us) AS time, * EXCLUDE (id, at_us) FROM features").df()
    return _shaped(pandas, frame, spec.outputs).set_index("id")


def write_rows(space: Space, spec: FeaturesSpec, *, since: str | int, until: str | int, out: Path) -> Written:
    """Write the request rows of [since, until) to a Parquet or CSV file: id, time, then the features; whole or not.

    Raises:
        Invalid: the file's folder does not exist, or its ending is neither.
    """
    kind = sources.format_of(out)
    if not out.parent.is_dir():
        raise Invalid(f"no folder {out.parent}", code="data.no-folder", field="out")
    span = _span(space, since, until, None)
    con = sources.connect(space.home / "tmp")
    options = "FORMAT parquet, COMPRESSION zstd" if kind == "parquet" else "FORMAT csv, HEADER true"
    with contextlib.closing(con), fresh_file(out) as fresh:
        Executor(con, space, spec, span.facts_us).build(span)
        con.execute(
            f"COPY (SELECT id, make_timestamp(at_us) AS time, * EXCLUDE (id, at_us) FROM features)"
            f" TO {sql.literal(str(fresh))} ({options})"
        )
        found = con.execute("SELECT count(*), min(at_us), max(at_us) FROM features").fetchone() or (0, None, None)
    return Written(
        path=str(out), features=spec.name, rows=found[0], columns=spec.outputs, first_us=found[1], last_us=found[2]
    )


def lateness(space: Space, spec: FeaturesSpec) -> list[Lateness]:
    """For each column of the features that is read by a key: how often it is known only after the asking time."""
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        executor = Executor(con, space, spec)
        executor.make_base(Span())
        return executor.lateness()


def table(space: Space, spec: FeaturesSpec, ask: Ask) -> tuple["pd.DataFrame", "pd.Series"]:
    """Features and labels of every request whose label was known before `until`, sorted by (time, id).

    Before the first served request the rows are made from the sources; from then on they are the logged requests.

    Raises:
        Invalid: the labels do not say when they become known, or a column asked for is no feature.
    """
    pandas = _pandas()
    columns = spec.outputs if ask.columns is None else ask.columns
    service.require(spec, columns)
    until_us = moment(space, ask.until, "until")
    service.declare_features(space, local_actor(), spec)
    prepare.warm(space, spec)
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        whole = _history(con, space, spec, ask, until_us)
        names = ", ".join(sql.ident(name) for name in columns)
        frame = con.execute(f'SELECT id, {names}, "lw.label" FROM training ORDER BY at_us, id').df().set_index("id")
    y = frame.pop("lw.label").rename(ask.target)
    if whole:
        y = y.astype("int64")
    elif y.dtype != "float64":
        y = y.astype("category")
    x = _shaped(pandas, frame, columns)
    nullable = [name for name in columns if name in spec.nullable]
    x.attrs["loopwright"] = {
        "features": spec.name,
        "until_us": until_us,
        "columns": list(columns),
        "nullable": nullable,
    }
    return x, y


def _history(con: duckdb.DuckDBPyConnection, space: Space, spec: FeaturesSpec, ask: Ask, until_us: int) -> bool:
    """Make the table `training` (id, at_us, features, lw.label); True when the labels are integers."""
    reader = logged.log_reader()
    first_us = None if reader is None else reader(space, con, spec.name, until_us)
    history_us = until_us if first_us is None else min(first_us, until_us)
    span = Span(until_us=history_us, known_before_us=until_us)
    executor = Executor(con, space, spec, span.facts_us)
    executor.build(span)
    whole, label = _labels(executor, ask, until_us)
    names = ", ".join(sql.ident(name) for name in spec.outputs)
    con.execute(
        'CREATE TEMP TABLE training AS SELECT f.*, l.label AS "lw.label" FROM features f JOIN labels_known l'
        " ON f.id = l.ref WHERE l.label IS NOT NULL"
    )
    if first_us is not None:
        _require_logged(con, spec)
        con.execute(
            f"INSERT INTO training SELECT id, at_us, {names}, {label} FROM logged"
            f" WHERE at_us < {until_us} AND label IS NOT NULL AND label_known_us < {until_us}"
        )
    return whole


def _labels(executor: Executor, ask: Ask, until_us: int) -> tuple[bool, str]:
    """Make `labels_known` (ref, label): of each request the label known last, of equal ones the first in the file."""
    spec = ask.labels
    if not isinstance(spec, DataSpec) or spec.known_column is None:
        name = getattr(spec, "name", spec)
        raise Invalid(
            f"the labels {name} declare no known-at column, so nobody can say which were known at a training",
            code="features.no-known",
            field="labels",
            hint='lw.data(..., known="COLUMN")',
        )
    if len(spec.key) != 1:
        raise Invalid(f"the labels {spec.name} need one key column, the request id", code="data.key", field="labels")
    source = executor.open(
        spec, "lw.labels", list(dict.fromkeys([spec.key[0], spec.known_column, ask.target])), until_us
    )
    target = source.column(ask.target)
    whole = target.kind == "bool" or (target.kind == "number" and sql.is_whole(target.type))
    value = "VARCHAR" if target.kind == "text" else "DOUBLE"
    known, key = source.known(), sql.ident(spec.key[0])
    made = f"CAST({sql.ident(ask.target)} AS {value})"
    if target.kind in ("bool", "number"):
        made = sql.number(sql.ident(ask.target), target.type)  # what is not finite is no label
    executor.con.execute(
        f"CREATE TEMP TABLE labels_known AS SELECT CAST({key} AS VARCHAR) AS ref, {made} AS label FROM {source.table}"
        f" WHERE {key} IS NOT NULL AND {known} < {until_us}"
        f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {known} DESC, rowid) = 1"
    )
    return whole, f"CAST(label AS {value})"


def _require_logged(con: duckdb.DuckDBPyConnection, spec: FeaturesSpec) -> None:
    there = {column.name for column in sources.schema(con, "logged")}
    missing = [name for name in spec.outputs if name not in there]
    if missing:
        raise Conflict(
            f"requests were served from {spec.name} without {', '.join(missing)}",
            code="features.not-logged",
            field=missing[0],
            hint="give the changed features a new name; their rows then come from the sources",
        )


def _span(space: Space, since: str | int, until: str | int, known_before: str | int | None) -> Span:
    first, last = moment(space, since, "since"), moment(space, until, "until")
    if first >= last:
        raise Invalid(
            f"since ({format_time(first)}) must lie before until ({format_time(last)})",
            code="time.order",
            field="since",
        )
    if known_before is None:
        return Span(first, last)
    return Span(first, last, moment(space, known_before, "known_before"))


def _shaped(pandas: Any, frame: "pd.DataFrame", columns: Sequence[str]) -> "pd.DataFrame":
    """Texts as categories with their levels in order; numbers are float64 as they come."""
    for name in columns:
        if frame[name].dtype != "float64":
            values = frame[name].astype(object)
            levels = sorted({value for value in values if isinstance(value, str)})
            frame[name] = pandas.Categorical(values, categories=levels)
    return frame


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise Unsupported(
            "feature tables are pandas frames, and pandas is not installed",
            code="data.pandas",
            extra="demo",
            hint="pip install pandas",
        ) from None
    return pandas
