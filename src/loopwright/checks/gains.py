"""Paired day blocks: how much less the second of two models lost than the first, on the same rows."""

import math
from collections.abc import Sequence

import msgspec


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One day on which two models scored the same labelled rows.

    Args:
        day: the calendar day of the block.
        n: labelled rows that both scored.
        loss_a: summed loss of the first, usually the champion.
        loss_b: summed loss of the second, usually the challenger.
        b: the version of the second.
    """

    day: str
    n: int
    loss_a: float
    loss_b: float
    b: int = 0


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What some paired days say together.

    Args:
        days: days that count.
        n: rows in them.
        per_row: mean loss of the first minus mean loss of the second; above 0 the second is better.
        loss: mean loss of the first.
        blocks: one figure a day, weighted so that their mean is `per_row`.
    """

    days: tuple[str, ...]
    n: int
    per_row: float
    loss: float
    blocks: tuple[float, ...]

    @property
    def share(self) -> float:
        """The gain as a share of the first model's loss."""
        return self.per_row / self.loss if self.loss else 0.0


def gain(pairs: Sequence[Pair]) -> Gain | None:
    """The gain of the second model over paired days; None when there is no row."""
    kept = [pair for pair in pairs if pair.n > 0]
    n = sum(pair.n for pair in kept)
    if n == 0:
        return None
    mean_n = n / len(kept)
    blocks = tuple((pair.loss_a - pair.loss_b) / mean_n for pair in kept)
    return Gain(
        days=tuple(pair.day for pair in kept),
        n=n,
        per_row=math.fsum(pair.loss_a - pair.loss_b for pair in kept) / n,
        loss=math.fsum(pair.loss_a for pair in kept) / n,
        blocks=blocks,
    )
