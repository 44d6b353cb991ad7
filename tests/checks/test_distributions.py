"""The own distribution functions against scipy's."""

import pytest
from scipy import special, stats

from loopwright.checks import distributions as own

PROBABILITIES = [1e-12, 1e-6, 0.001, 0.025, 0.3, 0.5, 0.61, 0.95, 0.975, 0.9999]


@pytest.mark.parametrize("p", PROBABILITIES)
def test_normal_quantile_is_scipys(p: float) -> None:
    assert own.normal_quantile(p) == pytest.approx(stats.norm.ppf(p), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("z", [-8.0, -2.5, -0.3, 0.0, 1.0, 3.3])
def test_normal_cdf_is_scipys(z: float) -> None:
    assert own.normal_cdf(z) == pytest.approx(stats.norm.cdf(z), rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 5, 6, 29, 400])
@pytest.mark.parametrize("p", PROBABILITIES)
def test_t_quantile_is_scipys(p: float, freedom: int) -> None:
    assert own.t_quantile(p, freedom) == pytest.approx(stats.t.ppf(p, freedom), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("freedom", [1, 3, 6, 100])
@pytest.mark.parametrize("t", [-40.0, -2.4, -0.1, 0.0, 0.7, 5.0])
def test_t_cdf_is_scipys(t: float, freedom: int) -> None:
    assert own.t_cdf(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("a", "b", "x"), [(0.5, 0.5, 0.2), (3, 0.5, 0.9), (50, 2, 0.97), (2, 7, 0.0), (2, 7, 1.0)])
def test_incomplete_beta_is_scipys(a: float, b: float, x: float) -> None:
    assert own.incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-10)
