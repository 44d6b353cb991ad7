"""Losses by row and scores of a set of rows; numpy arrays in, arrays or floats out.

The score histogram is a small, mergeable summary from which the AUC of any run of days is read.
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]

CLIP = 1e-6
BINS = 512
_LOGIT_SPAN = 8.0


def log_loss(label: "Floats", score: "Floats") -> "Floats":
    """The negative log-likelihood of each row; scores are kept 1e-6 away from 0 and 1."""
    import numpy as np

    kept = np.clip(score, CLIP, 1 - CLIP)
    loss: Floats = -np.where(label > 0.5, np.log(kept), np.log(1 - kept))
    return loss


def squared_error(label: "Floats", score: "Floats") -> "Floats":
    """The squared difference of each row; for a probability this is the Brier score."""
    difference: Floats = score - label
    return difference * difference


def absolute_error(label: "Floats", score: "Floats") -> "Floats":
    """The absolute difference of each row."""
    import numpy as np

    distance: Floats = np.abs(score - label)
    return distance


LOSSES: dict[str, Callable[["Floats", "Floats"], "Floats"]] = {
    "log_loss": log_loss,
    "brier": squared_error,
    "squared_error": squared_error,
    "absolute_error": absolute_error,
}


def auc(label: "Floats", score: "Floats") -> float | None:
    """The area under the ROC curve, ties counted half; None when only one class is there.

    Source: the Mann-Whitney form, Hanley and McNeil 1982.
    """
    import numpy as np

    positive = label > 0.5
    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return None
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    end = np.cumsum(size)
    rank = (end - (size - 1) / 2)[group]
    return float((rank[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))


def histogram(label: "Floats", score: "Floats") -> bytes:
    """Counts of negatives and positives in 512 even steps of the logit, as little-endian 32-bit numbers."""
    import numpy as np

    kept = np.clip(score, CLIP, 1 - CLIP)
    logit = np.clip(np.log(kept / (1 - kept)), -_LOGIT_SPAN, _LOGIT_SPAN - 1e-9)
    place = ((logit + _LOGIT_SPAN) * (BINS / (2 * _LOGIT_SPAN))).astype(np.int64)
    return np.bincount(place + BINS * (label > 0.5), minlength=2 * BINS).astype("<u4").tobytes()


def auc_of_histograms(parts: Iterable[bytes]) -> float | None:
    """The AUC of the rows behind some histograms together, within about 0.001; None when one class is missing."""
    total = [0] * (2 * BINS)
    for part in parts:
        counts = memoryview(part).cast("I")
        total = [a + b for a, b in zip(total, counts, strict=True)]
    negative, positive = total[:BINS], total[BINS:]
    n_neg, n_pos = sum(negative), sum(positive)
    if not n_neg or not n_pos:
        return None
    below, wins = 0, 0.0
    for neg, pos in zip(negative, positive, strict=True):
        wins += pos * (below + neg / 2)
        below += neg
    return wins / (n_neg * n_pos)


def skill(label_rate: float, loss: float) -> float | None:
    """The share of the log loss of a constant guess that a model removes; None when all labels are equal."""
    if not 0 < label_rate < 1:
        return None
    plain = -(label_rate * math.log(label_rate) + (1 - label_rate) * math.log(1 - label_rate))
    return 1 - loss / plain
