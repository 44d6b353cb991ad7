"""Losses and AUC against scikit-learn, and the mergeable histogram against the exact AUC."""

import numpy as np
import pytest
from sklearn import metrics

from loopwright.checks import scores


def _rows(seed: int, n: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    score = 1 / (1 + np.exp(-draw.normal(-1.2, 1.0, n)))
    return (draw.random(n) < score).astype(float), score


def test_losses_are_scikit_learns() -> None:
    label, score = _rows(1)
    assert scores.log_loss(label, score).mean() == pytest.approx(metrics.log_loss(label, score), rel=1e-12)
    assert scores.squared_error(label, score).mean() == pytest.approx(metrics.brier_score_loss(label, score))
    assert scores.absolute_error(label, score).mean() == pytest.approx(metrics.mean_absolute_error(label, score))


def test_log_loss_of_a_sure_and_wrong_score_is_finite() -> None:
    loss = scores.log_loss(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert np.isfinite(loss).all()
    assert loss[0] == pytest.approx(-np.log(1e-6))


def test_auc_counts_ties_half() -> None:
    label, score = _rows(2)
    rough = np.round(score, 1)
    assert scores.auc(label, rough) == pytest.approx(metrics.roc_auc_score(label, rough), rel=1e-12)


def test_auc_of_one_class_is_none() -> None:
    assert scores.auc(np.ones(3), np.array([0.1, 0.2, 0.3])) is None
    assert scores.auc_of_histograms([scores.histogram(np.ones(3), np.array([0.1, 0.2, 0.3]))]) is None


def test_histograms_of_days_give_the_auc_of_all_rows() -> None:
    days = [_rows(seed, 900) for seed in range(6)]
    parts = [scores.histogram(label, score) for label, score in days]
    label, score = (np.concatenate(column) for column in zip(*days, strict=True))
    assert scores.auc_of_histograms(parts) == pytest.approx(metrics.roc_auc_score(label, score), abs=1e-3)


def test_skill_is_the_share_of_the_plain_guess_removed() -> None:
    label, score = _rows(3)
    rate = float(label.mean())
    plain = metrics.log_loss(label, np.full(len(label), rate))
    own = metrics.log_loss(label, score)
    assert scores.skill(rate, own) == pytest.approx(1 - own / plain)
    assert scores.skill(0.0, 0.1) is None
