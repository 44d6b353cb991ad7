"""The special functions over arrays against scipy's."""

import numpy as np
import pytest
from scipy import special as reference
from scipy import stats

from loopwright.checks import special

X = np.array([1e-3, 0.1, 0.5, 1, 2.5, 7, 11.9, 12, 50, 1e4, 1e6])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_polygamma(order: int) -> None:
    np.testing.assert_allclose(special.polygamma(order, X), reference.polygamma(order, X), rtol=1e-12)


def test_lgamma_and_the_inverse_of_trigamma() -> None:
    np.testing.assert_allclose(special.lgamma(X), reference.gammaln(X), rtol=1e-12, atol=1e-12)
    for value in (1e-3, 0.37, 4.0, 50.0):
        assert float(reference.polygamma(1, special.trigamma_inverse(value))) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("freedom", [2, 2.5, 4, 10, 30, 200, 1e4])
def test_the_tail_of_students_t(freedom: float) -> None:
    t = np.concatenate([np.linspace(-40, 40, 201), [1e-9, 0.0, 1e3]])
    expected = stats.t.sf(t, freedom)
    kept = expected > 1e-250
    np.testing.assert_allclose(special.t_sf(t, np.array(freedom))[kept], expected[kept], rtol=1e-9)


def test_the_tail_of_the_beta_binomial() -> None:
    for k, n, a, b in [(3, 100, 0.5, 50), (50, 100, 2, 3), (1, 1000, 0.5, 900), (10, 900, 3.5, 700), (0, 5, 1, 1)]:
        expected = stats.betabinom.pmf(np.arange(k, n + 1), n, a, b).sum()
        assert special.beta_binomial_sf(k, n, a, b) == pytest.approx(expected, rel=1e-8)
    assert special.beta_binomial_sf(6, 5, 1, 1) == 0.0
