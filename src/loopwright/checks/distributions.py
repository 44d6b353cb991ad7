"""The few distribution functions that checks need, without scipy: normal and Student's t.

Plain floats in and out; tests compare them with scipy.
"""

import math
from collections.abc import Callable
from functools import lru_cache

_TINY = 1e-300
_SPREAD = 3e-15


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the standard normal distribution."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_quantile(p: float) -> float:
    """The z with P(Z <= z) = p, for 0 < p < 1."""
    if p > 0.5:
        return -normal_quantile(1 - p)
    low, high = -39.0, 0.0
    return _root(normal_cdf, p, low, high)


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) of Student's t distribution with `freedom` degrees of freedom."""
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    if t * t < min(freedom, 1):
        middle = 0.5 * incomplete_beta(0.5, freedom / 2, t * t / (freedom + t * t))
        return 0.5 + math.copysign(middle, t)
    tail = 0.5 * incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1 - tail if t > 0 else tail


@lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: float) -> float:
    """The t with P(T <= t) = p, for 0 < p < 1."""
    if p > 0.5:
        return -t_quantile(1 - p, freedom)
    if p == 0.5:
        return 0.0
    low = -1.0
    while t_cdf(low, freedom) > p:
        low *= 2
    return _root(lambda t: t_cdf(t, freedom), p, low, 0.0)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    Source: the continued fraction of DLMF 8.17.22, evaluated by Lentz's method.
    """
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1000):
        m = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _off_zero(1 + term * d)
        c = _off_zero(1 + term / c)
        value *= c * d
        if step and abs(c * d - 1) < _SPREAD:
            break
    return value - 1


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _root(cdf: Callable[[float], float], p: float, low: float, high: float) -> float:
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if cdf(middle) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2
