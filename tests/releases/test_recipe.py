"""The spread that settings derive from, on made-up blocks of known truth."""

import random

import pytest

from loopwright.kernel.times import add_days
from loopwright.monitors.model import SERVED, Block, BlockPair
from loopwright.releases.policy import WarmRecipe
from loopwright.releases.recipe import Book, spread

ROWS, LOSS = 900, 0.47
RECIPE = WarmRecipe()


def _book(
    gains: list[float], *, cover: float = 1.0, champions: tuple[int, int] = (1, 1)
) -> tuple[Book, dict[str, int]]:
    """Days on which the newest version gained so much a row; in the second half another champion holds the place."""
    blocks, pairs, by_day = [], [], {}
    for number, gain in enumerate(gains):
        day = add_days("2013-04-01", number)
        champion = champions[number >= len(gains) // 2]
        by_day[day] = champion
        sums = {"score_sum": 1.0, "label_sum": 1.0, "label_square_sum": 1.0, "loss_sum": LOSS * ROWS}
        for version in (SERVED, champion, 9):
            blocks.append(Block(day=day, version=version, n=ROWS, n_labelled=ROWS, errors=0, **sums))
        n = int(cover * ROWS)
        loss_b = (LOSS - gain) * n
        pairs.append(BlockPair(day=day, a=champion, b=9, n=n, loss_a=LOSS * n, loss_b=loss_b))
    return Book(blocks, pairs), by_day


def test_the_spread_is_found_and_what_separates_two_champions_is_none_of_it() -> None:
    draw = random.Random(3)
    gains = [draw.gauss(0.2 if number >= 28 else 0.0, 0.017) for number in range(56)]
    book, champions = _book(gains, champions=(1, 4))
    sd, blocks = spread(RECIPE, book, champions, prior=0.0174)
    assert blocks == 54
    assert sd == pytest.approx(0.017, rel=0.25)


def test_without_days_the_expected_spread_stands_and_a_few_move_it_little() -> None:
    assert spread(RECIPE, Book([], []), {}, prior=0.0174) == (pytest.approx(0.0174), 0)
    book, champions = _book([0.1, -0.1, 0.1])
    assert spread(RECIPE, book, champions, prior=0.0174)[0] < 0.06


def test_a_day_that_the_other_version_has_not_scored_whole_says_nothing() -> None:
    book, champions = _book([0.1, -0.1, 0.1], cover=0.5)
    assert spread(RECIPE, book, champions, prior=0.02) == (pytest.approx(0.02), 0)
