"""Evidence against `at most so many fail`, which may be looked at after every call: an e-process for a rate.

An e-process is at most 1 in the mean at any time while its hypothesis holds, so it reaches 1 / alpha with probability
alpha at most, however often it is looked at. docs/guides/policy.md says what the guards find by it, and how fast.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from loopwright.checks.distributions import incomplete_beta

_TINY = 1e-300
_STARTS = 64  # later starts have no weight left


class Counts(msgspec.Struct, frozen=True):
    """Failed ones among some calls; `first` marks the window with which a phase begins."""

    failed: float
    calls: float
    first: bool = False


@lru_cache(maxsize=8192)
def rate_evidence(failed: float, calls: float, most: float, prior: tuple[float, float]) -> float:
    """The logarithm of the evidence that more than the share `most` of all calls fails.

    Source: the mixture of likelihood ratios over a beta prior cut off at `most` (Robbins 1970, Annals of Mathematical
    Statistics 41; for a null that is an interval, Ramdas, Grunwald, Vovk and Shafer 2023, Statistical Science 38).

    Args:
        most: the greatest share that is no fault, above 0 and below 1.
        prior: parameters of the beta distribution of faulty rates.
    """
    a, b = prior
    if failed <= most * calls and incomplete_beta(b + calls - failed, a + failed, 1 - most) < _TINY:
        return math.log(_TINY)  # no rate above `most` explains it as well as `most` does, by more than can be written
    after = _log_beta(a + failed, b + calls - failed) + _log_above(a + failed, b + calls - failed, most)
    before = _log_beta(a, b) + _log_above(a, b, most)
    return after - before - failed * math.log(most) - (calls - failed) * math.log1p(-most)


def evidence(windows: Sequence[Counts], most: float, prior: tuple[float, float] = (1.0, 30.0)) -> float:
    """The logarithm of the evidence of some windows together that a rate is, or has come, above `most`.

    A fault may begin at any window, so there is one bet for each, whose weights add up to at most 1 (Shin, Ramdas and
    Rinaldo 2024, e-detectors): a quarter for each of three phases that begin, the rest for the windows in between.
    """
    failed = calls = 0.0
    found = []
    for place, window in reversed(list(enumerate(windows))):
        failed, calls = failed + window.failed, calls + window.calls
        if window.first or place < _STARTS:
            weight = 0.25 if window.first else 0.25 / _STARTS
            found.append(math.log(weight) + rate_evidence(failed, calls, most, prior))
    if not found:
        return 0.0
    top = max(found)
    return top + math.log(math.fsum(math.exp(value - top) for value in found))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_above(a: float, b: float, x: float) -> float:
    """The logarithm of the probability above x under a beta distribution."""
    return math.log(max(incomplete_beta(b, a, 1 - x), _TINY))
