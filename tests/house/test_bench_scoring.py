"""The bench's own scoring of a prediction log, on logs small enough to reckon by hand."""

import json
import math

import judged
import loop
import numpy as np
import pytest
import replays
import scoring
from scoring import DAY_US, Promotion

NAN = float("nan")
LABELS = np.array([1.0, 0.0, 1.0, NAN])
SCORES = {
    1: np.array([0.5, 0.5, 0.5, 0.5]),
    2: np.array([NAN, 0.2, 0.8, 0.9]),
    3: np.array([NAN, NAN, 0.9, 0.1]),
}


def test_loss_of_a_row() -> None:
    loss = scoring.row_loss(np.array([1.0, 0.0, 1.0]), np.array([0.8, 0.8, 0.0]))
    assert loss == pytest.approx([-math.log(0.8), -math.log(0.2), -math.log(scoring.CLIP)])
    assert math.isnan(scoring.row_loss(np.array([1.0]), np.array([NAN]))[0])


def test_the_newest_that_scored_and_the_newest_that_had_started() -> None:
    assert scoring.newest(SCORES).tolist() == [1, 2, 3, 3]
    at = np.array([0, 10, 20, 30])
    assert scoring.newest_since(at, {2: 10, 3: 20}).tolist() == [1, 2, 3, 3]
    assert scoring.newest_since(at, {3: 20, 2: 11}).tolist() == [1, 1, 3, 3]


def test_choosing_row_by_row() -> None:
    chosen = scoring.choose(SCORES, np.array([1, 2, 1, 7]))
    assert chosen[:3].tolist() == [0.5, 0.2, 0.5]
    assert math.isnan(chosen[3])


def test_recovered_share() -> None:
    weekly = scoring.choose(SCORES, scoring.newest(SCORES))
    found = scoring.pooled(LABELS, SCORES[1], weekly, SCORES[1])
    assert found.rows == 3
    assert found.recovered == pytest.approx(0)
    assert scoring.pooled(LABELS, SCORES[1], weekly, weekly).recovered == pytest.approx(1)
    assert found.frozen == pytest.approx(math.log(2))
    assert found.weekly == pytest.approx((math.log(2) - math.log(0.8) - math.log(0.9)) / 3)


def test_a_missing_score_is_not_left_out() -> None:
    assert math.isnan(scoring.pooled(LABELS, SCORES[1], SCORES[2], SCORES[1]).weekly)


def test_gain_of_a_promotion() -> None:
    at = np.array([0, 1, 2, 3]) * DAY_US
    found = scoring.gain(Promotion(DAY_US, 1, 2), at, LABELS, SCORES, days=14, end_us=4 * DAY_US)
    assert found.rows == 2
    assert found.days == 3
    assert found.mean == pytest.approx(math.log(2) + math.log(0.8))
    short = scoring.gain(Promotion(DAY_US, 1, 2), at, LABELS, SCORES, days=1, end_us=4 * DAY_US)
    assert (short.rows, short.days) == (1, 1)
    lost = scoring.gain(Promotion(DAY_US, 2, 3), at, LABELS, SCORES, days=14, end_us=4 * DAY_US)
    assert (lost.rows, lost.missing) == (1, 1)
    unknown = scoring.gain(Promotion(DAY_US, 8, 9), at, LABELS, SCORES, days=14, end_us=4 * DAY_US)
    assert math.isnan(unknown.mean)


def test_what_the_published_file_holds() -> None:
    truth = replays.world("2013-07-31")
    assert (truth.asked, truth.landed) == judged.LANDED["2013-07-31"]
    assert 0.2 < sum(truth.late.values()) / truth.landed < 0.4
    assert replays.days_until("2013-04-01") == pytest.approx(20 / 24)


def document(*items: dict[str, object]) -> bytes:
    return json.dumps({"items": items}).encode()


def test_decisions_are_compared_one_by_one() -> None:
    a = {"at": "2013-05-31T04:00:00Z", "kind": "gate.passed@1"}
    b = {"at": "2013-06-01T04:00:00Z", "kind": "version.promoted@1"}
    assert loop.differing(document(a, b), document(a, b)) == 0
    assert loop.differing(document(a, b), document(b, a)) == 2
    assert loop.differing(document(a, b), document(a)) == 1
    assert loop.differing(document(a), document(a) + b" ") == 1
    assert loop.before(document(a, b), "2013-05-31") == loop.before(document(a), "2013-05-31")


def test_times_and_columns() -> None:
    assert judged.micros("1970-01-01T00:00:01.5Z") == 1_500_000
    masked = np.ma.MaskedArray([1, 2], mask=[False, True])
    assert np.isnan(replays.plain(masked)).tolist() == [False, True]
    assert replays.plain(np.array(["1970-01-01T00:00:01"], dtype="datetime64[ns]")).tolist() == [1_000_000]


def test_rows_are_those_promised() -> None:
    ids = [row.id for row in loop.ROWS]
    assert len(set(ids)) == len(ids)
    promised = (
        "loop.sent loop.logged loop.joined loop.failed_requests loop.gap_recovered loop.promotions"
        " loop.promotions_worse loop.replay_identical trace.p99_s cache.rerun_cpu_s start.help_ratio"
        " start.import_ratio pipelines.stale_right year.sent year.logged year.joined year.failed_requests year.auc"
        " year.gap_recovered year.promotions year.promotions_worse year.bad_promoted year.replay_identical year.wall_s"
        " year.peak_pss_mb alarms.false_pages alarms.faults_found rollback.s rollback.failed rollback.stale_answers"
        " features.cells_differ erase.left_bytes reproduce.equal elec2.gap"
    )
    assert set(promised.split()) <= set(ids)
    counted = {"loop.sent", "loop.logged", "loop.joined", "year.sent", "year.logged", "year.joined"}
    assert {row.id for row in loop.ROWS if not row.bars} == counted, "those have their limit from the published file"


def test_area_under_the_curve_counts_ties_half() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    assert scoring.auc(labels, np.array([0.1, 0.2, 0.3, 0.4])) == 1.0
    assert scoring.auc(labels, np.array([0.4, 0.3, 0.2, 0.1])) == 0.0
    assert scoring.auc(labels, np.array([0.1, 0.4, 0.4, 0.9])) == pytest.approx(3.5 / 4)
