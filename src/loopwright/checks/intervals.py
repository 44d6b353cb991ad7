"""Intervals for rates and for means of day blocks; plain floats in and out."""

import math
from collections.abc import Sequence
from itertools import pairwise

from loopwright.checks.distributions import normal_quantile, t_quantile

_PRIOR, _FOLLOW = 7, 0.3


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a rate from `hits` of `n`. Source: Wilson 1927, JASA 22."""
    if n <= 0:
        return 0.0, 1.0
    z = normal_quantile(0.5 + confidence / 2)
    rate, spread = hits / n, z * z / n
    centre = (rate + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(rate * (1 - rate) / n + spread / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def block_interval(blocks: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval for the mean of blocks, each block one observation; None under two blocks.

    Rows of one day hang together, so the spread between days decides, never the number of rows.
    """
    n = len(blocks)
    if n < 2:
        return None
    mean = math.fsum(blocks) / n
    variance = math.fsum((x - mean) ** 2 for x in blocks) / (n - 1)
    half = t_quantile(0.5 + confidence / 2, n - 1) * math.sqrt(variance / n)
    return mean - half, mean + half


def ratio_interval(
    sums: Sequence[float], counts: Sequence[float], confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """A mean per row (or other unit) and its interval from block sums and counts: (low, mean, high); None without rows.

    Source: the ratio estimator by clusters, Cochran 1977, section 6.3; Student's t over the blocks. One block
    alone has no interval: low and high are then the mean.
    """
    total, n = math.fsum(sums), sum(counts)
    if n <= 0:
        return None
    mean, k = total / n, len(counts)
    if k < 2:
        return mean, mean, mean
    variance = math.fsum((s - mean * c) ** 2 for s, c in zip(sums, counts, strict=True)) * k / (k - 1)
    half = t_quantile(0.5 + confidence / 2, k - 1) * math.sqrt(variance) / n
    return mean - half, mean, mean + half


def moderated_interval(
    window: Sequence[float], past: Sequence[float], *, prior_sd: float, level: float
) -> tuple[float, float, float]:
    """Low, mean and high for the mean of the last blocks, each bound wrong with chance 1 - `level`.

    Their spread is that of the window and the blocks before it, drawn to `prior_sd` by 7 blocks' worth, so that a
    window of few blocks may speak; blocks that follow each other count less, their correlation drawn to 0.3 likewise.
    Sources: Student's t with an inverse chi-square prior (Smyth 2004, section 6.1); the variance of the mean of an
    autoregression (Priestley 1981, section 5.3.2).
    """
    h, mean = len(window), math.fsum(window) / len(window)
    parts = [(list(window), mean)]
    if len(past) > 1:
        parts.append((list(past), math.fsum(past) / len(past)))
    rest = [[x - centre for x in blocks] for blocks, centre in parts]
    square = math.fsum(x * x for part in rest for x in part)
    product = math.fsum(a * b for part in rest for a, b in pairwise(part))
    freedom = sum(len(part) - 1 for part in rest) + _PRIOR
    variance = (square + _PRIOR * prior_sd**2) / freedom
    follow = (product + _FOLLOW * _PRIOR * prior_sd**2) / (square + _PRIOR * prior_sd**2) if variance else 0.0
    follow = min(max(follow, 0.0), 0.8)
    widening = 1 + 2 * math.fsum((1 - k / h) * follow**k for k in range(1, h))
    half = t_quantile(level, freedom) * math.sqrt(variance * widening / h)
    return mean - half, mean, mean + half
