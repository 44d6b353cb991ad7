"""Slices: whether a model is much worse than the champion for one level of a column, though not on the whole."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from loopwright.checks.gains import Pair
from loopwright.checks.intervals import ratio_interval
from loopwright.checks.verdicts import percent
from loopwright.kernel.verdict import Verdict

_ALPHA = 0.05


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """One level of a column (None: no value), with its paired days."""

    column: str
    level: str | None
    pairs: list[Pair]

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.column} = {'(no value)' if self.level is None else self.level}"

    @property
    def n(self) -> int:
        """Its rows."""
        return sum(pair.n for pair in self.pairs)

    def worse(self, alpha: float) -> tuple[float, float, float]:
        """Low, mean and high of what it lost more, as a share of the champion's loss; a bound errs with `alpha`.

        The days are the units: rows of one day may hang together as they like.
        """
        more, before = [p.loss_b - p.loss_a for p in self.pairs], [p.loss_a for p in self.pairs]
        return ratio_interval(more, before, 1 - 2 * alpha) or (0.0, 0.0, 0.0)


def shown(slices: Sequence[Slice], worse: float, alpha: float = _ALPHA) -> list[Slice]:
    """The slices whose loss is shown to lie more than a share above the champion's, in error for any with `alpha`.

    Sources: the ratio estimator by clusters (Cochran 1977, section 6.3); the step-down rule of Holm 1979.
    """
    out, left = list[Slice](), list(slices)
    while new := [one for one in left if one.worse(alpha / len(left))[0] > worse]:
        out, left = out + new, [one for one in left if one not in new]
    return out


def judge(slices: Sequence[Slice], few: int, who: str, *, worse: float, min_n: int, min_days: int) -> Verdict:
    """Whether no slice is shown to be worse than allowed; those of too few rows or days are counted, not judged.

    Args:
        few: slices of too few rows that are not among `slices`.
        who: the champion; a slice in which it lost nothing has no share of its loss, and is not judged either.
    """
    large = [one for one in slices if one.n >= min_n]
    enough = [one for one in large if len(one.pairs) >= max(2, min_days)]
    judged = [one for one in enough if math.fsum(pair.loss_a for pair in one.pairs) > 0]
    rows, days = few + len(slices) - len(large), len(large) - len(judged)
    evidence: dict[str, Any] = {"worse": worse, "judged": len(judged), "few_rows": rows, "few_days": days}
    left_out = f"{rows} with under {min_n} rows and {days} with too few days are not judged"
    if not judged:
        return Verdict(outcome="pass", check="slices", reason=f"no slice to judge: {left_out}", evidence=evidence)
    bad, level = shown(judged, worse), _ALPHA / len(judged)
    worst = max(judged, key=lambda one: one.worse(level)[0])
    low, mean, high = worst.worse(level)
    seen = [pair.day for pair in worst.pairs]
    evidence |= {"slice": worst.name, "column": worst.column, "days": seen, "n": worst.n, "value": round(mean, 6)}
    evidence |= {"interval": [round(low, 6), round(high, 6)], "shown": [one.name for one in bad]}
    way = f"{percent(abs(mean))} {'higher' if mean >= 0 else 'lower'} loss than {who}"
    figures = f"{worst.name}: {way} in {worst.n} rows of {len(seen)} days ({low * 100:+.1f} to {high * 100:+.1f} %)"
    reason = f"worse by more than {percent(worse)} in {figures}, one of {len(bad)} such of {len(judged)} slices judged"
    if not bad:
        reason = f"none of {len(judged)} slices is shown to be worse by over {percent(worse)}; the worst: {figures}"
    reason += f"; {left_out}"
    return Verdict(outcome="fail" if bad else "pass", check="slices", reason=reason, evidence=evidence)
