"""The confidence sequence: how often it is wrong, and how soon it finds a known harm, on days that hang together."""

import numpy as np
import pytest

from loopwright.checks.sequence import confidence_sequence


def _days(draw: np.random.Generator, mean: float, n: int, memory: float = 0.0) -> list[float]:
    """Day blocks with heavy tails, as storms give, and a memory from one day to the next."""
    shock = draw.standard_t(4, n) / np.sqrt(2) * 0.03
    out = np.empty(n)
    carried = 0.0
    for day in range(n):
        carried = memory * carried + np.sqrt(1 - memory**2) * shock[day]
        out[day] = mean + carried
    return [float(x) for x in out]


def _first(blocks: list[float], start: int) -> int | None:
    for n in range(start, len(blocks) + 1):
        found = confidence_sequence(blocks[:n])
        if found is not None and found.high < 0:
            return n
    return None


@pytest.mark.parametrize(("memory", "stated"), [(0.0, 0.05), (0.3, 0.12)])
def test_an_equal_model_is_seldom_called_worse_though_looked_at_for_60_days(memory: float, stated: float) -> None:
    """Rows of a day may hang together as they like; a memory between days costs part of the promise."""
    draw = np.random.default_rng(11)
    wrong = sum(_first(_days(draw, 0.0, 60, memory), 5) is not None for _ in range(400))
    assert wrong / 400 <= stated


@pytest.mark.parametrize(("memory", "stated"), [(0.0, 0.02), (0.3, 0.05)])
def test_the_watch_of_a_week_hardly_ever_rolls_back_an_equal_model(memory: float, stated: float) -> None:
    draw = np.random.default_rng(12)
    wrong = sum(_first(_days(draw, 0.0, 7, memory), 5) is not None for _ in range(1000))
    assert wrong / 1000 <= stated


@pytest.mark.parametrize(("harm", "share"), [(-0.06, 0.9), (-0.1, 0.97)])
def test_a_gross_harm_is_found_within_the_week(harm: float, share: float) -> None:
    draw = np.random.default_rng(13)
    found = sum(_first(_days(draw, harm, 7), 5) is not None for _ in range(400))
    assert found / 400 >= share


def test_a_look_every_day_with_a_z_test_is_wrong_far_oftener() -> None:
    draw = np.random.default_rng(14)
    wrong = 0
    for _ in range(400):
        blocks = np.array(_days(draw, 0.0, 60))
        n = np.arange(1, 61)
        means = blocks.cumsum() / n
        wrong += bool((means[4:] < -1.645 * 0.03 / np.sqrt(n[4:])).any())
    assert wrong / 400 > 0.15


def test_no_block_no_interval() -> None:
    assert confidence_sequence([]) is None
