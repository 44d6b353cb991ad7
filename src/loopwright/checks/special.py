"""Special and distribution functions over numpy arrays, without scipy; tests compare them with it."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

_FAR = 12  # from here on the asymptotic series have the digits of a float
_TINY = 1e-300


def polygamma(order: int, x: "Floats") -> "Floats":
    """The digamma function (order 0) and its first two derivatives, for x > 0.

    Source: the recurrence DLMF 5.15.5 up to x >= 12, then the asymptotic series DLMF 5.11.2, differentiated.
    """
    import numpy as np

    x = np.array(x, dtype=np.float64)
    shifted = np.zeros_like(x)
    for _ in range(_FAR):
        low = x < _FAR
        shifted[low] += (1 / x[low], 1 / x[low] ** 2, 2 / x[low] ** 3)[order]
        x[low] += 1
    y = 1 / (x * x)
    if order == 0:
        series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
        value: Floats = np.log(x) - 0.5 / x - series - shifted
    elif order == 1:
        series = 1 + y * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - y * 5 / 66))))
        value = 1 / x * series + 0.5 * y + shifted
    else:
        series = 1 + 1 / x + y * (1 / 2 - y * (1 / 6 - y * (1 / 6 - y * (3 / 10 - y * 5 / 6))))
        value = -y * series - shifted
    return value


def trigamma_inverse(value: float) -> float:
    """The x > 0 at which the trigamma function has a value. Source: Newton's method of Smyth 2004, appendix."""
    import numpy as np

    x = np.array([0.5 + 1 / value])
    for _ in range(50):
        tri = polygamma(1, x)
        step = tri * (1 - tri / value) / polygamma(2, x)
        x = x + step
        if abs(float(step[0] / x[0])) < 1e-10:
            break
    return float(x[0])


def t_sf(t: "Floats", freedom: "Floats") -> "Floats":
    """P(T > t) of Student's t distribution."""
    import numpy as np

    t, freedom = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(freedom, np.float64))
    square = t * t
    half = np.asarray(freedom / 2)
    far = square >= np.minimum(freedom, 1)
    with np.errstate(over="ignore"):
        # near 0 the tail loses digits, far out its complement does
        a, b = np.where(far, half, 0.5), np.where(far, 0.5, half)
        x = np.where(far, freedom, square) / (freedom + square)
    part = 0.5 * incomplete_beta(a, b, x)
    tail = np.where(far, part, 0.5 - part)
    value: Floats = np.where(t >= 0, tail, 1 - tail)
    return value


def incomplete_beta(a: "Floats", b: "Floats", x: "Floats") -> "Floats":
    """The regularised incomplete beta function I_x(a, b) for 0 <= x <= 1.

    Source: the continued fraction of DLMF 8.17.22, evaluated by Lentz's method.
    """
    import numpy as np

    turned = x > (a + 1) / (a + b + 2)
    a, b, x = np.where(turned, b, a), np.where(turned, a, b), np.where(turned, 1 - x, x)
    inside = np.clip(x, _TINY, 1 - 1e-16)
    front = lgamma(a + b) - lgamma(a) - lgamma(b) + a * np.log(inside) + b * np.log1p(-inside)
    c, d = np.ones_like(x), 1 / _off_zero(1 - (a + b) * x / (a + 1))
    value = d.copy()
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _off_zero(1 + term * d), _off_zero(1 + term / c)
            value *= c * d
        if np.all(np.abs(c * d - 1) < 1e-13):
            break
    part = np.where(x <= 0, 0.0, np.exp(front) * value / a)
    found: Floats = np.where(turned, 1 - part, part)
    return found


def lgamma(x: "Floats") -> "Floats":
    """The logarithm of the gamma function for x > 0. Source: Stirling's series, DLMF 5.11.1, after the recurrence."""
    import numpy as np

    x = np.array(x, dtype=np.float64)
    product = np.ones_like(x)
    for _ in range(_FAR):
        low = x < _FAR
        if not low.any():
            break
        product[low] *= x[low]
        x[low] += 1
    y = 1 / (x * x)
    series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / x
    value: Floats = (x - 0.5) * np.log(x) - x + 0.5 * math.log(2 * math.pi) + series - np.log(product)
    return value


def _off_zero(value: "Floats") -> "Floats":
    import numpy as np

    kept: Floats = np.where(np.abs(value) > _TINY, value, _TINY)
    return kept


def beta_binomial_sf(k: int, n: int, a: float, b: float) -> float:
    """P(X >= k) of the beta-binomial distribution: its terms from k on, each from the one before."""
    import numpy as np

    if k <= 0:
        return 1.0
    if k > n:
        return 0.0
    log_first = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + math.lgamma(k + a) + math.lgamma(n - k + b)
    ) - (math.lgamma(n + a + b) + math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    i = np.arange(k, n, dtype=np.float64)
    ratios = (n - i) / (i + 1) * (a + i) / (b + n - i - 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(ratios))])
    top = float(logs.max())
    return min(1.0, math.exp(log_first + top) * float(np.exp(logs - top).sum()))
