"""The e-process for a rate: hardly ever wrong while the rate keeps its limit, and quick when it does not."""

import math
import random

import pytest

from loopwright.checks.eprocess import Counts, evidence, rate_evidence

ALPHA, PER_LOOK = 0.01, 60


def _stopped(rate: float, most: float, looks: int, draw: random.Random, *, from_look: int = 0) -> int | None:
    """After how many calls from `from_look` on the evidence stands against a stream; None when it never does."""
    windows: list[Counts] = []
    for look in range(looks):
        now = rate if look >= from_look else most / 2
        failed = sum(draw.random() < now for _ in range(PER_LOOK))
        windows.append(Counts(failed, PER_LOOK, look in (0, from_look)))
        if evidence(windows, most) >= -math.log(ALPHA):
            return (look + 1 - from_look) * PER_LOOK
    return None


def test_evidence_of_a_mixture_is_at_most_one_in_the_mean_at_the_limit() -> None:
    """Exactly: over all outcomes of 40 calls at the limit, and of 40 below it."""
    for rate in (0.05, 0.02):
        terms = [
            math.comb(40, k) * rate**k * (1 - rate) ** (40 - k) * math.exp(rate_evidence(k, 40, 0.05, (1.0, 30.0)))
            for k in range(41)
        ]
        assert math.fsum(terms) <= 1 + 1e-9
    assert math.fsum(
        math.comb(40, k) * 0.05**k * 0.95 ** (40 - k) * math.exp(rate_evidence(k, 40, 0.05, (1.0, 30.0)))
        for k in range(41)
    ) == pytest.approx(1)


def test_a_rate_at_its_limit_is_hardly_ever_stopped_however_often_it_is_looked_at() -> None:
    draw = random.Random(11)
    wrong = sum(_stopped(0.0016, 0.0016, 40, draw) is not None for _ in range(300))
    assert wrong / 300 <= 2 * ALPHA


def test_two_per_cent_are_found_within_500_calls_also_when_they_begin_late() -> None:
    draw = random.Random(12)
    for begins in (0, 24):
        found = [_stopped(0.02, 0.0016, begins + 10, draw, from_look=begins) for _ in range(200)]
        within = sum(calls is not None and calls <= 500 for calls in found) / 200
        assert within >= 0.85


def test_no_window_says_nothing() -> None:
    assert evidence([], 0.01) == 0.0


def test_many_calls_that_keep_their_limit_are_no_evidence() -> None:
    for calls in (1_000, 100_000, 10_000_000):
        for rate in (0.0, 0.001, 0.03, 0.05):
            assert rate_evidence(int(rate * calls), calls, 0.05, (1.0, 1.0)) < 0
    assert rate_evidence(6_000, 100_000, 0.05, (1.0, 1.0)) > 30
