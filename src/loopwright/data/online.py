"""Look-ups: from what a caller knows to the features, in two snapshots that workers map read-only.

One is made of a version's rows when it is added, the other of facts, again as they arrive. No DuckDB here.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from loopwright.data import expressions, scalar, snapshot, sql
from loopwright.data.model import AsOf, FeaturesSpec, Join, Window, join_outputs
from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import HOUR, format_time

KEPT_US = 48 * HOUR  # so far back look-ups reach
Kind = str  # int, float, bool, text or time


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs to look up: the declaration, the base columns with their kinds, and the two files."""

    features: FeaturesSpec
    base: tuple[tuple[str, Kind], ...]
    versions: str
    facts: str


def base_columns(spec: FeaturesSpec) -> list[str]:
    """The base columns that features are made of."""
    used = list(spec.columns)
    for out, text in spec.derive:
        used += expressions.columns_of(text, f"derive.{out}")
    for join in spec.joins:
        used += [ours for ours, _ in join.on]
    return list(dict.fromkeys(used))


def kind_of(kind: str) -> Kind:
    """The kind of a DuckDB type, as expressions and look-ups have it."""
    kind = sql.kind_of(kind) if sql.kind_of(kind) != "number" else "int" if sql.is_whole(kind) else "float"
    return kind


def is_static(join: Join) -> bool:
    """Whether a join reads a source that was always known."""
    return join.source.known_column is None


def wanted(join: Join) -> list[str]:
    """The source's columns of a join, in the order of its table."""
    if isinstance(join, Window):
        return list(dict.fromkeys(output.column for output in join.outputs))
    return [theirs for _, theirs in join.columns]


class Lookup:
    """Makes rows of features in one worker."""

    def __init__(self, plan: Plan) -> None:
        spec = plan.features
        self.plan = plan
        self._facts = Path(plan.facts)
        self._mark: tuple[int, int] | None = None
        self._versions = snapshot.File(Path(plan.versions))
        self._floor_us = self._versions.floor_us
        places = {name: (place, kind) for place, (name, kind) in enumerate(plan.base)}
        places.setdefault(spec.at, (len(plan.base), "time"))
        own = [self._own(places[name]) for name in spec.columns]
        own += [_finite(scalar.compile_one(text, f"derive.{out}", places)) for out, text in spec.derive]
        self._own_values = own
        self._keys = [_keyer([places[ours][0] for ours, _ in join.on]) for join in spec.joins]
        self._tables: list[list[snapshot.Table]] = []
        self.refresh()

    def _own(self, place: tuple[int, Kind]) -> scalar.Eval:
        at, kind = place
        return _finite((kind, lambda row: row[at]))

    def refresh(self) -> None:
        """Take the newest snapshot of the facts."""
        try:
            found = os.stat(self._facts)
        except FileNotFoundError:
            if not self._tables:
                self._tables = [[] if table is None else [table] for table in self._versions.tables]
            return
        mark = (found.st_ino, found.st_mtime_ns)
        if mark != self._mark:
            told = snapshot.File(self._facts)
            self._tables = [
                [table for table in pair if table is not None]
                for pair in zip(self._versions.tables, told.tables, strict=True)
            ]
            self._floor_us = max(self._versions.floor_us, told.floor_us)
            self._mark = mark

    def row(self, base: Sequence[Any], at_us: int) -> list[Any]:
        """The features of one request.

        Raises:
            Invalid: the moment lies before all that is kept, or an expression does not fit the values.
        """
        if at_us < self._floor_us:
            message = f"look-ups reach back to {format_time(self._floor_us)}, and this asks for {format_time(at_us)}"
            hint = "send the full row of features"
            raise Invalid(message, code="lookup.too-early", field="parameters.time", hint=hint)
        asked = (*base, at_us)
        try:
            out = [value(asked) for value in self._own_values]
        except scalar.ERRORS as error:
            message = f"the features cannot be computed from these values: {error}"
            raise Invalid(message, code="lookup.values", field="inputs") from None
        for join, keyer, tables in zip(self.plan.features.joins, self._keys, self._tables, strict=True):
            key = keyer(asked)
            if isinstance(join, Window):
                out += _windowed(join, tables, key, at_us)
            elif key is None:
                out += [None] * len(join.columns)
            else:
                out += _latest(join, tables, key, at_us)
        return out


def _keyer(places: list[int]) -> Callable[[Sequence[Any]], bytes | None]:
    def made(row: Sequence[Any]) -> bytes | None:
        values = [row[place] for place in places]
        return None if None in values else snapshot.key_of(values)

    return made


def _latest(join: Join, tables: Sequence[snapshot.Table], key: bytes, at_us: int) -> list[Any]:
    found = snapshot.latest_of(tables, key, at_us)
    width = len(join_outputs(join))
    if found is None:
        return [None] * width
    table, place = found
    within = join.within_us if isinstance(join, AsOf) else None
    if within is not None and at_us - table.held[place] > within:
        return [None] * width
    out: list[Any] = []
    for column, is_text in zip(table.columns, table.is_text, strict=True):
        value = column[place]
        out.append(None if value != value else table.text(value) if is_text else value)
    return out


def _windowed(join: Window, tables: Sequence[snapshot.Table], key: bytes | None, at_us: int) -> list[Any]:
    span = (at_us - join.last_us, at_us)
    names = wanted(join)
    found = [[] if key is None else snapshot.between(tables, key, place, span) for place in range(len(names))]
    return [snapshot.aggregate(output.how, found[names.index(output.column)]) for output in join.outputs]


def _finite(node: scalar.Node) -> scalar.Eval:
    """A value as features hold it: a finite 64-bit float, a text, or null."""
    kind, value = node
    if kind == "text":
        return value
    if kind not in ("int", "float", "bool"):
        raise Invalid(f"a feature of kind {kind}", code="features.type", field="derive")

    def made(row: Sequence[Any]) -> float | None:
        found = value(row)
        if found is None:
            return None
        number = float(found)
        return number if number - number == 0.0 else None

    return made
