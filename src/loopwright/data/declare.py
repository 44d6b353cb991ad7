"""What a project's author writes: lw.data, lw.features, lw.asof, lw.lookup, lw.window.

Declaring reads no file and opens no Space; everything that can be wrong in the words themselves is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.data import expressions
from loopwright.data.model import (
    AGGREGATES,
    ALWAYS,
    RESERVED,
    Aggregate,
    AsOf,
    DataSpec,
    FeaturesSpec,
    Join,
    Limit,
    Lookup,
    Pairs,
    Window,
    name_of,
)
from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.kernel.times import parse_duration

if TYPE_CHECKING:
    import pandas as pd

    from loopwright.artifacts.model import Version
    from loopwright.store.space import Space

Words = str | Sequence[str]
Named = Words | Mapping[str, str]


class Data(DataSpec, frozen=True, kw_only=True):
    """A source that a project declares; made by `lw.data`."""

    def version(self, space: Space | None = None) -> Version:
        """The version that is used now: the file's, added if it has changed; in a job the newest that was added."""
        from loopwright.data import service
        from loopwright.store.space import current

        return service.current_version(space or current(), self)

    def fingerprint(self, space: Space, until_us: int) -> dict[str, Any]:
        """What a cached result depends on: the declaration and the bytes."""
        from loopwright.data import service

        return service.fingerprint(space, self, until_us)


class Features(FeaturesSpec, frozen=True, kw_only=True):
    """Features that a project declares; made by `lw.features`."""

    def rows(
        self, space: Space | None = None, *, since: str | int, until: str | int, known_before: str | int | None = None
    ) -> pd.DataFrame:
        """The feature rows asked for in [since, until), as each could be known when asked: id, time, features."""
        from loopwright.data import training
        from loopwright.store.space import current

        return training.rows(space or current(), self, since=since, until=until, known_before=known_before)

    def training(
        self, *, labels: DataSpec, target: str, until: str | int = "now", columns: Sequence[str] | None = None
    ) -> tuple[pd.DataFrame, pd.Series]:
        """Features and labels of every request whose label was known before `until`, sorted by (time, id).

        Raises:
            Invalid: a source or column is not known at the asking time, or a column is no feature.
        """
        from loopwright.data import training
        from loopwright.store.space import current

        wanted = None if columns is None else tuple(columns)
        return training.table(current(), self, training.Ask(labels, target, until, wanted))

    def fingerprint(self, space: Space, until_us: int) -> dict[str, Any]:
        """What a cached result depends on: the declarations, the bytes of every source, and the log so far."""
        from loopwright.data import service

        return service.features_fingerprint(space, self, until_us)

    def require(self, columns: Sequence[str]) -> None:
        """Go on only when every column is one of these features.

        Raises:
            Invalid: one is not; the message names it.
        """
        from loopwright.data import service

        service.require(self, columns)


def data(
    path: str,
    *,
    key: Words,
    time: str | None = None,
    known: str | None = None,
    name: str | None = None,
    checks: Mapping[str, Sequence[float | str | None]] | None = None,
) -> Data:
    """Declare a source: a CSV or Parquet file, versioned whenever it changes.

    Args:
        path: relative to the project's folder.
        key: the column or columns that say what a row is about.
        time: the column that says when a row held.
        known: the column that says when a row became known, or "always".
        name: the name of its versions; by default the file's, without its ending.
        checks: column -> (low, high), either may be None, or a list of levels.

    Raises:
        Invalid: a word is not what it must be; `field` names it.
    """
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise Invalid(f"a source needs a path, not {path!r}", code="data.path", field="path")
    if name is None:
        name = name_of(PurePath(path).name)
    valid_name(name)
    keys = _words(key, "key")
    for field, column in (("time", time), ("known", known)):
        if column is not None and (not isinstance(column, str) or not column):
            raise Invalid(f"{name}: {field} must name a column, not {column!r}", code="data.column", field=field)
    limits = tuple(_limit(name, column, given) for column, given in (checks or {}).items())
    return Data(name=name, path=path, key=keys, time=time, known=known, checks=limits)


def asof(source: DataSpec, *, on: Named, columns: Named, within: str | None = None) -> AsOf:
    """The latest row of `source` known at the asking time, for an equal `on`; older than `within` is unknown.

    Raises:
        Invalid: the source does not say when its rows become known.
    """
    _source(source, "asof")
    if source.known == ALWAYS and source.time is None:
        raise Invalid(
            f"{source.name} is always known and has no time, so there is no latest row",
            code="features.no-time",
            field="source",
            hint=f"lw.lookup({source.name}, ...), or declare its time",
        )
    within_us = None if within is None else _span(within, "within")
    return AsOf(source=source, on=_pairs(on, "on"), columns=_pairs(columns, "columns"), within_us=within_us)


def lookup(source: DataSpec, *, on: Named, columns: Named) -> Lookup:
    """The row of `source` with an equal `on`, as known at the asking time.

    Raises:
        Invalid: the source does not say when its rows become known.
    """
    _source(source, "lookup")
    return Lookup(source=source, on=_pairs(on, "on"), columns=_pairs(columns, "columns"))


def window(source: DataSpec, *, on: Named, last: str, **outputs: tuple[str, str]) -> Window:
    """Aggregates over the rows of `source` that became known in the last `last` before the asking time.

    Each output is `name=("mean" | "sum" | "count" | "min" | "max", column)`.

    Raises:
        Invalid: the source has no known-at column, or an output is no such pair.
    """
    _source(source, "window")
    if source.known_column is None:
        raise Invalid(
            f"{source.name} is always known; a window needs the column that says when each row became known",
            code="features.no-known",
            field="source",
            hint=f'lw.data("{source.path}", ..., known="COLUMN")',
        )
    if not outputs:
        raise Invalid(f"the window over {source.name} has no outputs", code="features.empty", field="outputs")
    made = []
    for out, given in outputs.items():
        pair = tuple(given) if isinstance(given, list | tuple) else ()
        if len(pair) != 2 or pair[0] not in AGGREGATES or not isinstance(pair[1], str):
            raise Invalid(
                f"{out} must be (how, column) with how one of {', '.join(AGGREGATES)}, not {given!r}",
                code="features.aggregate",
                field=out,
            )
        made.append(Aggregate(out, pair[0], pair[1]))
    return Window(source=source, on=_pairs(on, "on"), last_us=_span(last, "last"), outputs=tuple(made))


def features(
    name: str,
    base: DataSpec,
    *,
    at: str = "asked_at",
    columns: Words = (),
    joins: Sequence[Join] = (),
    derive: Mapping[str, str] | None = None,
) -> Features:
    """Declare features: what is asked about (`base`), when (`at`), and what is known about it then.

    Args:
        base: one row a request; its key is the request id.
        at: the base column that holds the asking time.
        columns: base columns to take as they are.
        joins: `lw.asof`, `lw.lookup` and `lw.window` of other sources.
        derive: feature -> scalar SQL expression over base columns.

    Raises:
        Invalid: a source says not when its rows become known, a name is used twice, an expression is not allowed.
    """
    valid_name(name)
    _source(base, "features")
    if len(base.key) != 1:
        raise Invalid(
            f"{base.name} is the base of {name} and needs one key column, the request id",
            code="features.key",
            field="key",
        )
    expressed = tuple((derive or {}).items())
    for out, text in expressed:
        expressions.columns_of(text, f"derive.{out}")
    taken = _words(columns, "columns", empty=True)
    made = Features(name=name, base=base, at=at, columns=taken, derive=expressed, joins=tuple(joins))
    _validate(made)
    return made


def _validate(spec: FeaturesSpec) -> None:
    if not spec.outputs:
        raise Invalid(f"{spec.name} has no columns", code="features.empty", field="columns")
    seen: set[str] = set()
    for out in spec.outputs:
        low = out.lower()  # DuckDB tells names apart without their case
        if low in RESERVED or low in seen or out.startswith("_") or '"' in out:
            why = "is used twice" if low in seen else f"is reserved ({', '.join(RESERVED)}, names with _ in front)"
            raise Invalid(f"{spec.name}: the feature name {out} {why}", code="features.name", field=out)
        seen.add(low)
    named: dict[str, DataSpec] = {}
    for source in (spec.base, *(join.source for join in spec.joins)):
        if msgspec.structs.astuple(named.setdefault(source.name, source)) != msgspec.structs.astuple(source):
            raise Invalid(
                f"{spec.name}: two different sources are called {source.name}",
                code="data.name-taken",
                field="name",
                hint=f'lw.data("{source.path}", ..., name="ANOTHER")',
            )


def _source(source: Any, verb: str) -> None:
    if not isinstance(source, DataSpec):
        raise Invalid(f"lw.{verb} takes what lw.data made, not {source!r}", code="features.source", field="source")
    if source.known is None:
        raise Invalid(
            f"{source.name} declares no known-at, so nobody can say which of its rows could be known when asked",
            code="features.no-known",
            field=source.name,
            hint=f'lw.data("{source.path}", ..., known="COLUMN") or known="{ALWAYS}"',
        )


def _words(given: Any, field: str, *, empty: bool = False) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else None
    if words is None or not all(isinstance(word, str) and word for word in words) or not (words or empty):
        raise Invalid(f"{field} must be one or more column names, not {given!r}", code="data.columns", field=field)
    if len(set(words)) != len(words):
        raise Invalid(f"{field} names a column twice: {', '.join(words)}", code="data.columns", field=field)
    return words


def _pairs(given: Named, field: str) -> Pairs:
    """Names as (ours, the source's) pairs; a mapping is base -> source for `on`, feature -> source for columns."""
    if not isinstance(given, Mapping):
        return tuple((word, word) for word in _words(given, field))
    _words(list(given), field)
    for theirs in given.values():
        _words([theirs], field)
    return tuple(given.items())


def _span(text: str, field: str) -> int:
    span = parse_duration(text, field)
    if span <= 0:
        raise Invalid(f"{field} must be longer than nothing", code="duration.form", field=field)
    return span


def _limit(name: str, column: str, given: Any) -> Limit:
    values = list(given) if isinstance(given, list | tuple | set | frozenset) else []
    texts = [value for value in values if isinstance(value, str)]
    numbers = [v for v in values if v is None or (isinstance(v, int | float) and not isinstance(v, bool))]
    if texts and len(texts) == len(values):
        return Limit(column, levels=tuple(sorted(set(texts))))
    if len(values) == 2 and len(numbers) == 2 and numbers != [None, None]:
        low, high = (None if v is None else float(v) for v in numbers)
        if low is None or high is None or low <= high:
            return Limit(column, low=low, high=high)
    raise Invalid(
        f"{name}: the check of {column} must be (low, high) or a list of levels, not {given!r}",
        code="data.check",
        field=f"checks.{column}",
    )
