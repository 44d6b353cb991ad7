"""What the data room keeps: declarations, profiles, contracts, findings, and its event kinds.

Declarations here are plain and frozen; the faces that a project's author sees stand in declare.py.
"""

from typing import Any

import msgspec

from loopwright.artifacts.model import Version
from loopwright.kernel.event import EventKind

ALWAYS = "always"
AGGREGATES = ("mean", "sum", "count", "min", "max")
RESERVED = ("id", "time", "at_us", "label", "label_known_us")

Pairs = tuple[tuple[str, str], ...]


class Limit(msgspec.Struct, frozen=True):
    """What a declaration demands of one column: bounds (either may be open), or a list of levels."""

    column: str
    low: float | None = None
    high: float | None = None
    levels: tuple[str, ...] | None = None


class DataSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A source as declared.

    Args:
        key: the columns that say what a row is about.
        time: the column that says when it held.
        known: the column that says when it became known, `always`, or None when nothing was declared.
    """

    name: str
    path: str
    key: tuple[str, ...] = ()
    time: str | None = None
    known: str | None = None
    checks: tuple[Limit, ...] = ()

    @property
    def known_column(self) -> str | None:
        """The column that says when a row became known; None when it is `always` or not declared."""
        return None if self.known in (None, ALWAYS) else self.known


class AsOf(msgspec.Struct, frozen=True, kw_only=True, tag="asof"):
    """The latest row of a source known at the asking time, at most `within_us` old."""

    source: DataSpec
    on: Pairs
    columns: Pairs
    within_us: int | None = None


class Lookup(msgspec.Struct, frozen=True, kw_only=True, tag="lookup"):
    """The row of a source with an equal key, as known at the asking time."""

    source: DataSpec
    on: Pairs
    columns: Pairs


class Aggregate(msgspec.Struct, frozen=True):
    """One output of a window: its name, one of AGGREGATES, and the column it is made from."""

    out: str
    how: str
    column: str


class Window(msgspec.Struct, frozen=True, kw_only=True, tag="window"):
    """Aggregates of the rows that became known in (asking time - last_us, asking time]."""

    source: DataSpec
    on: Pairs
    last_us: int
    outputs: tuple[Aggregate, ...]


Join = AsOf | Lookup | Window


class FeaturesSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Features as declared: columns of a base source, expressions over it, and joins by knowledge time.

    Args:
        at: the base column that holds the asking time.
        columns: base columns taken as they are.
        derive: output -> DuckDB scalar expression over base columns.
    """

    name: str
    base: DataSpec
    at: str
    columns: tuple[str, ...] = ()
    derive: Pairs = ()
    joins: tuple[Join, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The features in order: columns, expressions, then each join's."""
        names = [*self.columns, *(out for out, _ in self.derive)]
        for join in self.joins:
            names += join_outputs(join)
        return tuple(names)

    @property
    def nullable(self) -> tuple[str, ...]:
        """The features that may be unknown when asked for, whatever the rows at hand show: all that are joined."""
        return tuple(out for join in self.joins for out in join_outputs(join))

    @property
    def sources(self) -> tuple[DataSpec, ...]:
        """The sources, the base first, each once."""
        found = {self.base.name: self.base}
        for join in self.joins:
            found.setdefault(join.source.name, join.source)
        return tuple(found.values())


def name_of(file: str) -> str:
    """The name that the versions of a file get by default: the file's, without its ending."""
    text = file.lower()
    for ending in (".gz", ".csv", ".tsv", ".parquet"):
        text = text.removesuffix(ending)
    return text.replace(" ", "-")


def join_outputs(join: Join) -> list[str]:
    """The features that a join makes, in order."""
    if isinstance(join, Window):
        return [output.out for output in join.outputs]
    return [out for out, _ in join.columns]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column as stored: its DuckDB type, and number, text, bool, time or other."""

    name: str
    type: str
    kind: str


class ColumnProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What a column holds; numbers have quantiles, texts with few values have levels with their counts."""

    column: str
    kind: str
    nulls: int
    distinct: int
    low: float | str | None = None
    high: float | str | None = None
    quantiles: dict[str, float] = {}
    levels: dict[str, int] = {}
    non_finite: int = 0


class ColumnRule(msgspec.Struct, frozen=True, kw_only=True):
    """What the contract expects of a column; `declared` when the project said it, proposed when not."""

    column: str
    kind: str
    low: float | None = None
    high: float | None = None
    max_null_share: float = 1.0
    levels: tuple[str, ...] | None = None
    declared: bool = False


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of a version: one a column, and the columns that together tell rows apart."""

    columns: tuple[ColumnRule, ...] = ()
    unique: tuple[str, ...] = ()
    unique_declared: bool = False


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that break the contract: how many, and some of them by row number (from 1), key and value."""

    kind: str
    column: str
    count: int
    message: str
    rows: tuple[dict[str, Any], ...] = ()


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """What `lw add` made or found: the version, what is in it, the proposed contract, and what breaks it."""

    version: Version
    path: str
    format: str
    rows: int
    columns: int
    schema: tuple[Column, ...]
    profile: tuple[ColumnProfile, ...]
    contract: Contract
    findings: tuple[Finding, ...]
    unchanged: bool = False


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """How often a column becomes known only after the asking time, and by how much (median)."""

    column: str
    source: str
    rows: int
    late_share: float
    median_lag_us: int | None


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The file of request rows that was written."""

    path: str
    features: str
    rows: int
    columns: tuple[str, ...]
    first_us: int | None
    last_us: int | None


DATA_ADDED = EventKind(
    "data.added@1", "{subject} was added: {rows} rows, {columns} columns, {findings} kinds of rows break its contract"
)
FEATURES_DECLARED = EventKind("features.declared@1", "the features {subject} were declared: {count} columns")
EVENTS = [DATA_ADDED, FEATURES_DECLARED]
