"""A confidence sequence for the mean of day blocks: it may be looked at after every block.

It is there to find harm; `docs/guides/policy.md` says why it is not asked to permit a promotion.
"""

import math
from collections.abc import Sequence

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """Lower bound, mean and upper bound after `n` blocks."""

    low: float
    mean: float
    high: float
    n: int


def confidence_sequence(
    blocks: Sequence[float], *, alpha: float = 0.05, past_sd: float = 0.03, best_at: int = 7, prior: int = 3
) -> Interval | None:
    """An anytime-valid interval for the mean of blocks; None without a block.

    Source: the one-sided asymptotic confidence sequence by a normal mixture, Waudby-Smith, Arbour, Sinha, Kennedy and
    Ramdas 2024, Annals of Statistics 52; each bound holds at all times together with probability 1 - alpha.

    Args:
        blocks: one figure a block, weighted so that their mean is the mean per row.
        alpha: how often a bound may ever be wrong.
        past_sd: the spread of earlier blocks, which stands in while there are few.
        best_at: the number of blocks at which the interval is narrowest.
        prior: how many blocks `past_sd` is worth.
    """
    n = len(blocks)
    if n == 0:
        return None
    mean = math.fsum(blocks) / n
    around = math.fsum((x - mean) ** 2 for x in blocks)
    variance = (prior * past_sd**2 + around) / (prior + n - 1)
    rho = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / best_at
    grown = n * rho + 1
    half = math.sqrt(variance * 2 * grown / (n * n * rho) * math.log(1 + math.sqrt(grown) / (2 * alpha)))
    return Interval(mean - half, mean, mean + half, n)
