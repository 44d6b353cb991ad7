"""Verdicts: what passes, what fails, and what a person reads."""

import pytest

from loopwright.checks import verdicts
from loopwright.checks.gains import Pair, gain
from loopwright.checks.sequence import confidence_sequence


def _pairs(share: float, days: int = 6, n: int = 900, loss: float = 0.5) -> list[Pair]:
    return [
        Pair(day=f"2013-04-{day + 8:02d}", n=n, loss_a=loss * n, loss_b=loss * n * (1 - share), b=2)
        for day in range(days)
    ]


def test_gain_weighs_days_by_their_rows() -> None:
    pairs = [Pair(day="2013-04-08", n=100, loss_a=50, loss_b=60), Pair(day="2013-04-09", n=300, loss_a=150, loss_b=120)]
    found = gain(pairs)
    assert found is not None
    assert found.per_row == pytest.approx(20 / 400)
    assert sum(found.blocks) / 2 == pytest.approx(found.per_row)
    assert found.share == pytest.approx(0.1)
    assert gain([Pair(day="2013-04-08", n=0, loss_a=0, loss_b=0)]) is None


def test_better_reads_as_a_sentence() -> None:
    verdict = verdicts.better("log_loss", gain(_pairs(0.019)), by=0.01, min_days=5, who="delay@2")
    assert verdict.outcome == "pass"
    assert verdict.reason == "1.9 % lower log loss than delay@2 over 6 days (needs 1 %)"


def test_better_refuses_a_small_gain_and_too_few_days() -> None:
    assert verdicts.better("log_loss", gain(_pairs(0.009)), by=0.01, min_days=5, who="x").outcome == "fail"
    few = verdicts.better("log_loss", gain(_pairs(0.2, days=4)), by=0.01, min_days=5, who="x")
    assert few.outcome == "fail"
    assert "4 days" in few.reason
    none = verdicts.better("log_loss", None, by=0.01, min_days=5, who="x")
    assert "0 days" in none.reason


def test_floor_of_a_score_that_rises_and_one_that_falls() -> None:
    assert verdicts.floor("auc", 0.68, 0.74, n=900, where="March").outcome == "pass"
    assert verdicts.floor("auc", 0.68, 0.66, n=900, where="March").outcome == "fail"
    assert verdicts.floor("log_loss", 0.5, 0.46, n=900, where="March").outcome == "pass"
    assert verdicts.floor("log_loss", 0.5, 0.56, n=900, where="March").outcome == "fail"
    assert not verdicts.floor("auc", 0.68, None, n=0, where="March").passed


def test_a_column_unknown_at_the_asking_time_is_named() -> None:
    verdict = verdicts.known_in_time(["temp", "leak"], ["temp", "wind"], "asked")
    assert verdict.outcome == "fail"
    assert verdict.reason.startswith("leak:")
    assert verdicts.known_in_time(["temp"], ["temp", "wind"], "asked").passed


@pytest.mark.parametrize(
    ("calls", "p95", "champion", "outcome"),
    [
        (19, 900_000, 10, "pass"),  # too few calls
        (20, 900_000, 10, "fail"),
        (20, 40_000, 10, "pass"),  # slow beside the champion, under the limit
        (20, 60_000, 30_000, "pass"),  # over the limit, no slower than the champion
        (20, 60_000, None, "fail"),
        (20, None, 10, "pass"),
    ],
)
def test_fast_fails_only_above_both(calls: int, p95: int | None, champion: int | None, outcome: str) -> None:
    assert verdicts.fast(calls, p95, champion, limit_us=50_000).outcome == outcome


def test_no_harm_waits_for_labels() -> None:
    ask = {"limit": 0.05, "min_rows": 50, "who": "delay@1"}
    assert verdicts.no_harm("log_loss", None, **ask).outcome == "unknown"
    assert verdicts.no_harm("log_loss", gain(_pairs(0.0, days=1, n=49)), **ask).outcome == "unknown"
    assert verdicts.no_harm("log_loss", gain(_pairs(-0.09, days=1)), **ask).outcome == "pass"
    assert verdicts.no_harm("log_loss", gain(_pairs(-0.11, days=1)), **ask).outcome == "fail"


def test_not_worse_is_silent_before_five_blocks() -> None:
    bad = [-0.2] * 7
    assert verdicts.not_worse(confidence_sequence(bad[:4]), min_blocks=5, who="x").outcome == "unknown"
    assert verdicts.not_worse(confidence_sequence(bad[:5]), min_blocks=5, who="x").outcome == "fail"
    assert verdicts.not_worse(confidence_sequence([0.0] * 7), min_blocks=5, who="x").outcome == "pass"


def test_together_tells_every_reason_against() -> None:
    slow = verdicts.fast(30, 9000, 10, limit_us=50)
    low = verdicts.floor("auc", 0.7, 0.6, n=10, where="days")
    bad = [low, verdicts.fast(30, 10, 10, limit_us=50), slow]
    verdict = verdicts.together("canary", bad, ready="fine")
    assert verdict.outcome == "fail"
    assert low.reason in verdict.reason
    assert slow.reason in verdict.reason
    assert verdicts.together("canary", bad[1:2], ready="fine").reason == "fine"
