"""Coverage of the intervals, with blocks as the units."""

import numpy as np
import pytest
from scipy import stats

from loopwright.checks.intervals import block_interval, ratio_interval, wilson


def test_wilson_is_the_textbook_interval() -> None:
    found = stats.binomtest(7, 40).proportion_ci(0.95, method="wilson")
    assert wilson(7, 40) == pytest.approx((found.low, found.high), rel=1e-9)
    assert wilson(0, 0) == (0.0, 1.0)


def test_block_interval_is_the_t_interval() -> None:
    blocks = [0.01, -0.02, 0.03, 0.005, 0.0]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(blocks), scale=stats.sem(blocks))
    assert block_interval(blocks) == pytest.approx((low, high), rel=1e-7)
    assert block_interval([0.1]) is None


def test_intervals_by_blocks_cover_where_rows_hang_together() -> None:
    draw = np.random.default_rng(7)
    hits, rows_hit, repeats = 0, 0, 300
    for _ in range(repeats):
        days = draw.normal(0.0, 0.03, 7)
        rows = days[:, None] + draw.normal(0, 0.5, (7, 900))
        low, mean, high = ratio_interval([float(x) for x in rows.sum(1)], [900] * 7) or (0, 0, 0)
        hits += low <= 0 <= high
        naive = 1.96 * rows.std() / np.sqrt(rows.size)
        rows_hit += abs(mean) <= naive
    assert 0.92 <= hits / repeats <= 0.98
    assert rows_hit / repeats < 0.85  # counting rows as independent covers far too seldom


def test_ratio_interval_of_one_block_has_no_width() -> None:
    assert ratio_interval([5.0], [10]) == (0.5, 0.5, 0.5)
    assert ratio_interval([], []) is None
