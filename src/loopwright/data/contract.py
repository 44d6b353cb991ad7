"""The contract a version is proposed, and the rows that break it.

A range is drawn so wide that a file without errors breaks it about once in a thousand columns; see `tail_limit`.
"""

import math
from collections.abc import Sequence

from loopwright.data.model import ColumnProfile, ColumnRule, Contract, DataSpec

FALSE_ALARMS = 0.001  # chance that the extreme of an honest column with a power tail lies outside its range
TAIL_SHARE = 0.01
TAIL_MOST = 1000
TAIL_LEAST = 10
GLITCH_SHARE = 0.0005
GLITCH_LEAST = 3
GLITCH_MOST = 100
FEW_ROWS = 50
LEVELS_MOST = 100
NULL_MARGIN = 0.01


def tail_rows(rows: int) -> int:
    """How many extreme values `tail_limit` needs of a column with so many rows."""
    return _tail(rows) + _glitches(rows) + 1


def tail_limit(distances: Sequence[float], rows: int) -> float | None:
    """How far from the median a value may lie on one side, from the largest distances, falling.

    Hill's estimator of the tail index over the largest 1 % and Weissman's extrapolation to the distance that one of
    `rows` values passes with chance FALSE_ALARMS (Hill 1975, Ann. Stat. 3; Weissman 1978, JASA 73); never less than
    twice the largest distance that is kept. Tails lighter than a power law only make it wider. A few extreme values
    (at most GLITCH_SHARE of the rows) are left out while they lie beyond the limit that the others draw, so that
    they do not hide each other. None: too few values to say.
    """
    if rows < FEW_ROWS:
        return None
    tail, most = _tail(rows), _glitches(rows)
    limit, left_out = None, 0
    while left_out <= most:
        found = _limit(distances[left_out : left_out + tail + 1])
        if found is not None and (left_out == 0 or distances[left_out - 1] > found):
            limit = found
        left_out += 1
    return limit


def _limit(distances: Sequence[float]) -> float | None:
    positive = [distance for distance in distances if distance > 0]
    if len(positive) <= TAIL_LEAST:
        return None
    *tail, threshold = positive
    index = math.fsum(math.log(distance / threshold) for distance in tail) / len(tail)
    spread = index * math.log(len(tail) / FALSE_ALARMS)
    return max(2 * tail[0], threshold * math.exp(min(spread, 700.0)))


def _tail(rows: int) -> int:
    return min(TAIL_MOST, max(TAIL_LEAST + 1, int(rows * TAIL_SHARE)))


def _glitches(rows: int) -> int:
    return min(GLITCH_MOST, max(GLITCH_LEAST, int(rows * GLITCH_SHARE)))


def propose(profile: ColumnProfile, rows: int, highest: Sequence[float], lowest: Sequence[float]) -> ColumnRule:
    """The rule proposed for a column; `highest` and `lowest` are its extreme values, outermost first."""
    share = profile.nulls / rows if rows else 0.0
    most_null = min(1.0, 3 * share + NULL_MARGIN)
    levels = None
    if profile.kind == "text" and profile.levels and len(profile.levels) == profile.distinct:
        levels = tuple(sorted(profile.levels))
    low = high = None
    if profile.kind == "number" and highest and lowest:
        low, high = _range(profile, rows - profile.nulls, highest, lowest)
    return ColumnRule(
        column=profile.column, kind=profile.kind, low=low, high=high, max_null_share=round(most_null, 6), levels=levels
    )


def _range(profile: ColumnProfile, rows: int, highest: Sequence[float], lowest: Sequence[float]) -> tuple[float, float]:
    middle = profile.quantiles["0.5"]
    least, most = lowest[0], highest[0]
    span = most - least
    above = tail_limit([value - middle for value in highest], rows)
    below = tail_limit([middle - value for value in lowest], rows)
    high = most + span if above is None else middle + above
    low = least - span if below is None else middle - below
    return (0.0 if least == 0 else _round(low, up=False)), _round(high, up=True)


def _round(value: float, *, up: bool) -> float:
    """Three figures are enough for a wide range; rounded outward."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return float(f"{(math.ceil if up else math.floor)(value / unit) * unit:.12g}")


def declared(proposed: Contract, spec: DataSpec, *, key_tells_apart: bool) -> Contract:
    """The contract with what the project declared in place of what was proposed.

    A key that does not nearly tell the rows apart by itself does so together with time and known-at.
    """
    limits = {limit.column: limit for limit in spec.checks}
    rules = []
    for rule in proposed.columns:
        limit = limits.get(rule.column)
        if limit is not None:
            rule = ColumnRule(
                column=rule.column,
                kind=rule.kind,
                low=limit.low,
                high=limit.high,
                max_null_share=rule.max_null_share,
                levels=limit.levels,
                declared=True,
            )
        rules.append(rule)
    if not spec.key:
        return Contract(columns=tuple(rules), unique=proposed.unique)
    unique = dict.fromkeys(spec.key)
    for column in (spec.time, spec.known_column):
        if column is not None and not key_tells_apart:
            unique[column] = None
    return Contract(columns=tuple(rules), unique=tuple(unique), unique_declared=True)
