"""Profiles: one window of rows as small counts that add up, from which drift is judged without the rows.

A scheme says how the columns are binned; profiles of one scheme can be added over shards, hours and days.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.checks.distributions import normal_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

BINS = 48  # of equal share in the first reference
TAILS = 8  # of equal width beyond it on each side, for what comes later
OWN_LEVELS = 64
KNOWN_LEVELS = 1000
MOST_JOINT = 40


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """How one column is binned.

    Args:
        edges: of the bins of a numeric column; beyond the outermost is far out of range.
        levels: of a text column, most frequent first; the first 64 have a count of their own.
        open: the text column had so many levels that none counts as new.
        normal: by bin of a numeric column the normal score of its middle rank in the first reference.
    """

    name: str
    edges: tuple[float, ...] = ()
    levels: tuple[str, ...] | None = None
    open: bool = False
    normal: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many counts the column takes: nulls, far out or new, then its bins or levels and the other levels."""
        if self.levels is not None:
            return 2 + min(len(self.levels), OWN_LEVELS) + 1
        return 2 + len(self.edges) + 1


class Scheme(msgspec.Struct, frozen=True, kw_only=True):
    """How the columns of a window are binned."""

    columns: tuple[Column, ...]

    @property
    def joint(self) -> list[Column]:
        """The numeric columns whose normal scores are multiplied with each other."""
        return [column for column in self.columns if column.levels is None][:MOST_JOINT]

    def parts(self) -> list[tuple[Column, int]]:
        """Each column with the place of its first count."""
        out, place = [], 0
        for column in self.columns:
            out.append((column, place))
            place += column.width
        return out


class Profile(msgspec.Struct, frozen=True):
    """One window: its rows, the counts of all columns in a row, and the sums of products of normal scores."""

    n: int
    counts: "Floats"
    products: "Floats"


def column(name: str, values: "Floats") -> Column:
    """The bins of a column from the rows of the first reference: numbers as floats, texts as objects."""
    import numpy as np

    if values.dtype == object:
        counts: dict[str, int] = {}
        for value in values.tolist():
            if value is not None:
                counts[value] = counts.get(value, 0) + 1
        order = sorted(counts, key=lambda level: (-counts[level], level))
        return Column(name=name, levels=tuple(order[:KNOWN_LEVELS]), open=len(order) > KNOWN_LEVELS)
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return Column(name=name, edges=(0.0,), normal=(0.0, 0.0))
    least, middle, most = (float(x) for x in np.quantile(known, [0.0005, 0.5, 0.9995]))
    low = max(float(known.min()), least - 3 * (middle - least))  # one wild value must not stretch the range
    high = min(float(known.max()), most + 3 * (most - middle))
    span = high - low or max(abs(high), 1.0)
    inner = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])
    steps = span * np.arange(TAILS + 1) / TAILS
    edges = np.unique(np.concatenate([low - steps, inner, high + steps]))
    bins = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1) / len(known)
    rank = np.clip(np.cumsum(bins) - bins / 2, 1e-4, 1 - 1e-4)
    scores = np.array([normal_quantile(float(u)) for u in rank])
    scores -= float((scores * bins).sum())
    scores /= math.sqrt(max(float((scores**2 * bins).sum()), 1e-12))
    return Column(name=name, edges=tuple(edges.tolist()), normal=tuple(scores.tolist()))


def profile(scheme: Scheme, table: Mapping[str, "Floats"]) -> Profile:
    """The profile of a window; a column that the window lacks counts as all null."""
    import numpy as np

    n = len(next(iter(table.values()))) if table else 0
    parts: list[Floats] = []
    joint: list[Floats] = []
    for item in scheme.columns:
        values = table.get(item.name)
        if values is None:
            values = np.full(n, None if item.levels is not None else np.nan)
        if item.levels is not None:
            parts.append(_level_counts(item, values))
            continue
        null, bins = np.isnan(values), np.searchsorted(item.edges, values, side="right")
        found = np.bincount(bins[~null], minlength=len(item.edges) + 1)
        parts.append(np.concatenate([[null.sum(), found[0] + found[-1]], found]))
        if len(joint) < MOST_JOINT:
            joint.append(np.where(null, 0.0, np.asarray(item.normal)[np.where(null, 0, bins)]))
    scores = np.stack([np.ones(n), *joint])
    products = (scores @ scores.T)[np.triu_indices(len(scores))]
    counts = np.concatenate(parts) if parts else np.zeros(0)
    return Profile(n, counts.astype(np.uint32), products.astype(np.float64))


def _level_counts(item: Column, values: "Floats") -> "Floats":
    import numpy as np

    assert item.levels is not None
    own = min(len(item.levels), OWN_LEVELS)
    place = {level: number for number, level in enumerate(item.levels)}
    counts = np.zeros(item.width)
    seen: dict[Any, int] = {}
    for value in values.tolist():
        seen[value] = seen.get(value, 0) + 1
    for value, times in seen.items():
        found = None if value is None else place.get(value)
        if value is None:
            counts[0] += times
        elif found is None and not item.open:
            counts[1] += times
        else:
            counts[2 + (own if found is None or found >= own else found)] += times
    return counts


def encode(found: Profile) -> bytes:
    """A profile as bytes: rows, counts as 32-bit numbers, sums as doubles."""
    return msgspec.msgpack.encode(
        (found.n, found.counts.astype("<u4").tobytes(), found.products.astype("<f8").tobytes())
    )


def decode(body: bytes) -> Profile:
    """The profile that `encode` wrote."""
    import numpy as np

    n, counts, products = msgspec.msgpack.decode(body, type=tuple[int, bytes, bytes])
    return Profile(n, np.frombuffer(counts, "<u4"), np.frombuffer(products, "<f8"))


def merged(one: Profile, other: Profile) -> Profile:
    """Two windows of one scheme as one."""
    return Profile(one.n + other.n, one.counts + other.counts, one.products + other.products)
