"""The check of slices on made-up days of known truth: how often it refuses equal models, and what it sees."""

from typing import Any

import numpy as np
import pytest

from loopwright.checks.gains import Pair
from loopwright.checks.slices import Slice, judge, shown
from loopwright.kernel.verdict import Verdict

LIMITS: dict[str, Any] = {"min_n": 300, "min_days": 5, "worse": 0.10}


def _world(draw: np.random.Generator, worse: list[float], days: int = 7, a_day: int = 100) -> list[Slice]:
    """Slices of which each loses so much more; days are of unequal size and hardness, and shift all rows of a day."""
    out = []
    common = draw.normal(0, 0.02, days)
    for number, share in enumerate(worse):
        pairs = []
        for day, (n, hard, own) in enumerate(
            zip(draw.poisson(a_day, days), np.exp(draw.normal(0, 0.3, days)), draw.normal(0, 0.02, days), strict=True)
        ):
            mine = draw.gamma(0.7, 0.45 / 0.7, n) * hard
            theirs = mine * (1 + share) + common[day] + own + draw.normal(0, 0.25, n)
            pairs.append(Pair(day=f"{day:02d}", n=int(n), loss_a=float(mine.sum()), loss_b=float(theirs.sum())))
        out.append(Slice(column="c", level=str(number), pairs=pairs))
    return out


def _refused(worse: list[float], seed: int, repeats: int, days: int = 7) -> float:
    draw = np.random.default_rng(seed)
    found = [judge(_world(draw, worse, days), 0, "m@1", **LIMITS) for _ in range(repeats)]
    return float(np.mean([verdict.outcome == "fail" for verdict in found]))


def test_equal_models_are_not_refused() -> None:
    assert _refused([0.0] * 20, 1, 200) <= 0.01


def test_models_at_the_limit_in_every_slice_are_refused_in_one_case_of_twenty_at_most() -> None:
    assert _refused([0.10] * 20, 2, 300) <= 0.05


@pytest.mark.parametrize(
    ("slices", "days", "least"), [(5, 7, 0.9), (20, 7, 0.6), (20, 14, 0.99)], ids=["few", "many", "longer"]
)
def test_one_slice_that_is_30_percent_worse_is_seen(slices: int, days: int, least: float) -> None:
    assert _refused([0.30] + [0.0] * (slices - 1), 3, 150, days) >= least


def _slice(level: str | None, n: int, losses: list[tuple[float, float]]) -> Slice:
    pairs = [Pair(day=f"2013-04-{day + 8:02d}", n=n, loss_a=a * n, loss_b=b * n) for day, (a, b) in enumerate(losses)]
    return Slice(column="carrier", level=level, pairs=pairs)


def _six(level: str | None, share: float, n: int = 60) -> Slice:
    return _slice(level, n, [(0.5, 0.5 * (1 + share) + (0.001 if day % 2 else -0.001)) for day in range(6)])


def _judged(*slices: Slice) -> Verdict:
    return judge(slices, 3, "delay@2", **LIMITS)


def test_the_worst_slice_is_told_with_its_figures() -> None:
    verdict = _judged(_six("AA", 0.3), _six("UA", 0.2), _six(None, 0.0), _six("OO", 0.9, n=40))
    assert verdict.outcome == "fail"
    assert verdict.reason.startswith(
        "worse by more than 10 % in carrier = AA: 30 % higher loss than delay@2 in 360 rows of 6 days (+29."
    )
    assert verdict.reason.count("one of 2 such of 3 slices judged") == 1
    assert verdict.evidence["shown"] == ["carrier = AA", "carrier = UA"]
    assert verdict.evidence["interval"][0] > 0.1
    assert (verdict.evidence["judged"], verdict.evidence["few_rows"], verdict.evidence["few_days"]) == (3, 4, 0)


def test_a_level_of_no_value_is_a_slice_too() -> None:
    assert "carrier = (no value)" in _judged(_six(None, 0.4)).reason


def test_too_few_rows_or_days_are_counted_and_not_judged() -> None:
    few = _slice("AA", 200, [(0.5, 0.9)] * 4)
    verdict = _judged(few, _slice("UA", 200, [(0.0, 0.9)] * 6))
    assert verdict.outcome == "pass"
    assert verdict.reason == "no slice to judge: 3 with under 300 rows and 2 with too few days are not judged"


def test_holm_goes_on_when_a_slice_is_shown() -> None:
    def at(level: str, spread: float) -> Slice:
        return _slice(level, 60, [(0.5, 0.65 + spread * (1 if day % 2 else -1)) for day in range(6)])

    clear, near = at("clear", 0.001), at("near", 0.098)
    alone = [one.level for one in shown([near], 0.10)]
    both = [one.level for one in shown([clear, near], 0.10)]
    assert near.worse(0.025)[0] <= 0.10 < near.worse(0.05)[0]  # not at once, only after the other
    assert alone == ["near"]
    assert both == ["clear", "near"]
