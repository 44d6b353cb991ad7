"""The quality alarm: statements at a level, their false-alarm rate and power on days of known truth, episodes."""

import math
import random
from typing import Any

import pytest
from world import World

from loopwright.checks import scores
from loopwright.checks.intervals import moderated_interval
from loopwright.kernel.times import DAY, HOUR, parse_time
from loopwright.monitors import alarms, ops, queries
from loopwright.monitors.model import SERVED, Block, BlockAsk, Limits

ONE = parse_time("2013-04-01T00:00:00Z")
GROUND = alarms.Ground("log_loss", True, 0.2)


def _block(day: int, said: float, came: float, loss: float, n: int = 400) -> Block:
    return Block(
        day=f"2013-{4 + day // 28:02d}-{day % 28 + 1:02d}", version=SERVED, n=n, n_labelled=n, errors=0,
        loss_sum=loss * n, score_sum=said * n, label_sum=came * n, label_square_sum=came * n, histogram=b"",
    )  # fmt: skip


def _skilled(share: float, came: float) -> float:
    """The log loss of a model of that skill."""
    return (1 - share) * -(came * math.log(came) + (1 - came) * math.log(1 - came))


@pytest.mark.parametrize(
    ("days", "said", "share", "outcome"),
    [
        (2, 0.9, 0.0, "unknown"),
        (7, 0.22, 0.2, "pass"),
        (7, 0.26, 0.2, "warn"),  # 6 points beside the label rate, which a week cannot tell from chance
        (28, 0.3, 0.2, "fail"),
        (3, 0.6, 0.2, "fail"),
        (28, 0.2, 0.15, "pass"),  # of a reference skill of 0.2
        (28, 0.2, 0.12, "warn"),
        (28, 0.2, -0.2, "fail"),
    ],
)
def test_when_the_quality_alarm_is_raised(days: int, said: float, share: float, outcome: str) -> None:
    found = alarms.verdict([_block(day, said, 0.2, _skilled(share, 0.2)) for day in range(days)], GROUND, Limits())
    assert found.outcome == outcome
    if outcome == "fail":
        figures = found.evidence["figures"]
        assert figures["bound"] > figures["limit"]
        assert figures["estimate"] > figures["bound"]
        assert figures["level"] > 0.999
        assert "99.97 %" in found.reason


def test_losses_of_other_kinds_are_held_against_their_reference() -> None:
    for metric, loss, limit in (("absolute_error", 1.0, 0.1), ("squared_error", 9.0, None)):
        skill = 0.4 if metric == "squared_error" else None
        ground = alarms.Ground(metric, False, skill, loss)
        for times, outcome in ((1.0, "pass"), (1.8, "fail")):
            days = [
                Block(
                    day=f"2013-04-{day + 1:02d}", version=SERVED, n=50, n_labelled=50, errors=0,
                    loss_sum=times * loss * 50, score_sum=500, label_sum=500, label_square_sum=5000 + 50 * 15.0,
                )
                for day in range(28)
            ]  # fmt: skip
            found = alarms.verdict(days, ground, Limits())
            assert found.outcome == outcome, (metric, found.reason)
            if outcome == "fail":
                assert found.evidence["figures"]["claim"] == "loss"
                assert limit is None or found.evidence["figures"]["limit"] == pytest.approx(limit)


def _days(rng: random.Random, shift: float, count: int) -> list[Block]:
    """Days whose errors hang together and have storms, around a bias."""
    out, weather = [], 0.0
    for day in range(count):
        storm = rng.gauss(0, 1) * (2.5 if rng.random() < 0.1 else 0.8)
        weather = 0.5 * weather + 0.07 * storm
        came = min(max(0.24 + weather, 0.03), 0.9)
        out.append(_block(day, 0.24 + shift, came, _skilled(0.15, came), n=900))
    return out


def _pages(days: list[Block], ground: alarms.Ground) -> int:
    pages, state = 0, False
    for until in range(3, len(days) + 1):
        outcome = alarms.verdict(days[max(0, until - 84) : until], ground, Limits()).outcome
        pages += outcome == "fail" and not state
        state = outcome == "fail" or (state and outcome != "pass")
    return pages


def test_stormy_days_without_a_fault_seldom_page_and_a_fault_soon_does() -> None:
    rng = random.Random(11)
    ground = alarms.Ground("log_loss", True, 0.15)
    assert sum(_pages(_days(rng, 0.0, 180), ground) for _ in range(8)) <= 4  # of 8 half years; the budget is one a year
    found = 0
    for _ in range(20):
        days = _days(rng, 0.0, 40) + _days(rng, 0.3, 7)
        found += alarms.verdict(days, ground, Limits()).outcome == "fail"
    assert found >= 16


def test_the_moderated_interval_holds_its_level() -> None:
    rng = random.Random(5)
    wrong = 0
    for _ in range(2000):
        blocks = [rng.gauss(0, 0.09) for _ in range(40)]
        low, _, high = moderated_interval(blocks[-7:], blocks[:-7], prior_sd=0.085, level=0.975)
        wrong += not low <= 0 <= high
    assert wrong / 2000 <= 0.06
    low, mean, high = moderated_interval([1.0, 1.0, 1.0], [], prior_sd=0.1, level=0.99)
    assert (mean, low < 1 < high) == (1.0, True)


def test_a_window_weighs_days_by_their_rows() -> None:
    found = alarms.window([_block(1, 0.1, 0.1, 0.3, n=100), _block(2, 0.4, 0.3, 0.6, n=300)])
    assert found is not None
    assert (found.n, found.loss) == (400, pytest.approx(0.525))
    assert found.skill == pytest.approx(scores.skill(found.label_rate, found.loss))
    assert alarms.window([]) is None


def test_an_alarm_is_one_episode(trained: World) -> None:
    trained.deploy()
    ask = BlockAsk(
        endpoint="demo", day="2013-04-02", since_us=ONE, until_us=ONE + DAY, close_us=ONE + DAY + 4 * HOUR,
        last_close_us=ONE, metric="log_loss", task="binary", champion=1, limits=Limits(days=(1,), clean_days=2),
    )  # fmt: skip

    def live(tx: Any) -> list[str]:
        said = []
        for number, error in enumerate([0.7, 0.7, 0.0, 0.7, 0.0, 0.0, 0.0], 10):
            queries.put_blocks(tx, "demo", [_block(number, 0.2 + error, 0.2, _skilled(0.2, 0.2))], [])
            alarms.judge(tx, ask, alarms.Moment(number * DAY, 1), None)
            said.append("open" if queries.open_alarm(tx, "demo", "quality") else "quiet")
        return said

    assert trained.space.write(live) == ["open", "open", "open", "open", "open", "quiet", "quiet"]
    found = ops.list_alarms(trained.space, "me", endpoint="demo").items
    assert len(found) == 1
    assert found[0].explanation["claim"] == "bias"


def test_an_alarm_of_another_kind_is_opened_once_and_ended_once(trained: World) -> None:
    trained.deploy()
    told = alarms.Told("the feed is silent", figures={"hours": 3}, explanation={"source": "weather"})

    def act(tx: Any) -> list[int | None]:
        return [
            alarms.open_episode(tx, "demo", "feed:weather", told, alarms.Moment(DAY)),
            alarms.open_episode(tx, "demo", "feed:weather", told, alarms.Moment(2 * DAY)),
            alarms.close_episode(tx, "demo", "feed:weather", "it speaks", alarms.Moment(3 * DAY)),
            alarms.close_episode(tx, "demo", "feed:weather", "it speaks", alarms.Moment(3 * DAY)),
        ]

    opened, again, ended, twice = trained.space.write(act)
    assert (opened is None, again, ended is None, twice) == (False, None, False, None)
    (found,) = ops.list_alarms(trained.space, "me", endpoint="demo").items
    assert (found.kind, found.closed_us) == ("feed:weather", 3 * DAY)
    assert found.explanation == {"source": "weather", "days": [], "hours": 3}
