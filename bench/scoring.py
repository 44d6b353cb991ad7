"""The bench's own scoring of a prediction log: losses, what was recovered, what each promotion brought.

Takes plain arrays; trusts nothing that the product says about itself beyond the logged scores and labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CLIP = 1e-6


def row_loss(labels: Array, scores: Array) -> Array:
    """Log loss of each row; NaN where there is no score."""
    p = np.clip(scores.astype(float), CLIP, 1 - CLIP)
    return -np.where(labels > 0.5, np.log(p), np.log1p(-p))


def choose(scores: Mapping[int, Array], versions: Array) -> Array:
    """Row by row the score of the version named for the row; NaN where it gave none."""
    out = np.full(len(versions), np.nan)
    for version, values in scores.items():
        rows = versions == version
        out[rows] = values[rows]
    return out


def newest(scores: Mapping[int, Array]) -> Array:
    """Row by row the highest version that scored; 0 where none did."""
    count = len(next(iter(scores.values())))
    out = np.zeros(count, dtype=np.int64)
    for version in sorted(scores):
        out[~np.isnan(scores[version])] = version
    return out


def newest_since(at_us: Array, starts_us: Mapping[int, int], first: int = 1) -> Array:
    """Row by row the newest version whose start is not after the row; `first` before any start."""
    out = np.full(len(at_us), first, dtype=np.int64)
    for version, start in sorted(starts_us.items()):
        out[at_us >= start] = version
    return out


@dataclass(frozen=True)
class Pooled:
    """Mean log loss over the same labelled rows, three ways."""

    rows: int
    frozen: float
    weekly: float
    served: float

    @property
    def recovered(self) -> float:
        """The share of the gap between frozen and weekly that what was served closed."""
        return (self.frozen - self.served) / (self.frozen - self.weekly)


def pooled(labels: Array, frozen: Array, weekly: Array, served: Array) -> Pooled:
    """Pool rows that have a label; a missing score makes the figure NaN instead of being left out."""
    has = ~np.isnan(labels)
    y = labels[has]
    means = [float(np.mean(row_loss(y, s[has]))) for s in (frozen, weekly, served)]
    return Pooled(int(has.sum()), *means)


def auc(labels: Array, scores: Array) -> float:
    """The share of pairs of a positive and a negative that are in the right order; ties count half."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positive = labels > 0.5
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(labels) - n)))


@dataclass(frozen=True)
class Promotion:
    """A champion that was replaced, and when."""

    at_us: int
    old: int
    new: int


@dataclass(frozen=True)
class Gain:
    """How much less the new champion loses a row than the old one would have."""

    promotion: Promotion
    mean: float
    rows: int
    missing: int
    days: float


DAY_US = 86_400_000_000


def gain(p: Promotion, at_us: Array, labels: Array, scores: Mapping[int, Array], *, days: int, end_us: int) -> Gain:
    """The gain on labelled rows asked from the promotion on, for at most `days`, where both versions scored."""
    until = min(p.at_us + days * DAY_US, end_us)
    rows = (at_us >= p.at_us) & (at_us < until) & ~np.isnan(labels)
    empty = np.full(len(at_us), np.nan)
    loss_old = row_loss(labels[rows], scores.get(p.old, empty)[rows])
    loss_new = row_loss(labels[rows], scores.get(p.new, empty)[rows])
    both = ~np.isnan(loss_old) & ~np.isnan(loss_new)
    mean = float(np.mean(loss_old[both] - loss_new[both])) if both.any() else float("nan")
    return Gain(p, mean, int(both.sum()), int((~both).sum()), round((until - p.at_us) / DAY_US, 2))
