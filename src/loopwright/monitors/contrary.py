"""Whether labels are those that were meant, or those turned round: held against what was served. Pure."""

import math
from collections.abc import Sequence

import msgspec

CONTRARY_ROWS = 100


class Contrary(msgspec.Struct, frozen=True):
    """Some labels beside what was served for them.

    Args:
        low, high: between which the AUC lies.
        turned: they say the opposite; `upright`: they do not. Neither, when these are too few to tell.
    """

    auc: float
    low: float
    high: float
    rate: float
    mean: float
    turned: bool
    upright: bool


def contrary(label: Sequence[float], mean: float, auc: float | None) -> Contrary | None:
    """Hold labels against the mean score and the AUC of what was served; None when they are too few.

    They are turned round when the AUC lies below one half by two standard errors (Hanley and McNeil 1982, Radiology
    143), half as wide again since rows of a day hang together, and the rate lies nearer to 1 - the mean score than to
    it, by twice as much. A truth that has really turned round while as many come true as before is no such fault. They
    are upright when the AUC lies above one half by as much: a look that shows neither ends no fault.
    """
    yes = sum(value > 0 for value in label)
    no = len(label) - yes
    if auc is None or min(yes, no) < CONTRARY_ROWS // 5:
        return None
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc) + (yes - 1) * (q1 - auc * auc) + (no - 1) * (q2 - auc * auc)
    wide, rate = 3 * math.sqrt(max(spread, 0.0) / (yes * no)), yes / len(label)
    nearer = abs(rate - mean) - abs(rate - (1 - mean)) > 6 * math.sqrt(rate * (1 - rate) / len(label))
    turned, upright = auc + wide < 0.5 and nearer, auc - wide > 0.5
    return Contrary(auc, auc - wide, auc + wide, rate, mean, turned, upright)
