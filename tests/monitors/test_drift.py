"""Drift in the loop: profiles by day from history and log, reports, the event, what is left out of the reference."""

import json
import random
from typing import Any

import pytest
from world import World

from loopwright.checks.drift import Moved
from loopwright.kernel.errors import Invalid
from loopwright.kernel.op import silent
from loopwright.kernel.times import DAY, HOUR, add_days, parse_time
from loopwright.monitors import blocks, drift, feed_queries, ops
from loopwright.serving import record
from loopwright.serving.record import Columns, LogRow
from loopwright.store import frames

START = parse_time("2013-04-01T00:00:00Z")
ROWS = 60


def _rows(day: int, *, shift: float = 0.0, level: str | None = None, seed: int = 0) -> list[LogRow]:
    """The requests of a day, as the made-up world asks them, moved by a shift or by a level that is new."""
    rng, out = random.Random(f"{seed}-{day}"), []
    for number in range(ROWS):
        at = START + day * DAY + number * (DAY // ROWS)
        values: list[Any] = [rng.gauss(0, 1) + shift, rng.choice("abc")]
        if level is not None and number % 4 == 0:
            values[1] = level
        score = {1: 0.1 + 0.8 * rng.random()}
        out.append(LogRow(f"pred_{day}_{number}", at, 0, f"d{day}n{number}", 1, 1, None, values, score, {}, {1: 10}))
    return out


def _close(world: World, day: int, rows: list[LogRow], *, trained_days: int = 0) -> None:
    path = world.space.home / "spool" / "demo" / f"{record.spool_id(0, day + 1)}.spool"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = record.header(Columns(("x", "c"), ("float64", "string")))
    path.write_bytes(frames.encode(header) + frames.encode(record.rows_payload(rows)))
    ask = {
        "endpoint": "demo", "day": add_days("2013-04-01", day), "since_us": START + day * DAY,
        "until_us": START + (day + 1) * DAY, "close_us": START + (day + 1) * DAY + 4 * HOUR,
        "last_close_us": START + day * DAY + 4 * HOUR, "metric": "log_loss", "task": "binary", "champion": 1,
        "trained_us": {"1": START + trained_days * DAY},
    }  # fmt: skip
    blocks.close_block(world.space, ask, silent)


def _reports(world: World) -> dict[str, Any]:
    return {report.day: report for report in ops.drift(world.space, "me", endpoint="demo", days=100).items}


def _events(world: World) -> list[dict[str, Any]]:
    with world.space.read() as tx:
        rows = tx.query("SELECT data FROM events WHERE kind = 'drift.reported@1' ORDER BY seq")
    return [json.loads(row["data"]) for row in rows]


def _moved(report: Any) -> dict[str, Moved]:
    return {moved.column: moved for moved in report.moved}


def test_history_is_the_reference_and_a_moved_day_is_told_once(trained: World) -> None:
    trained.deploy()
    for day in range(5):
        _close(trained, day, _rows(day))
    for day in (5, 6):
        _close(trained, day, _rows(day, shift=1.5))
    _close(trained, 7, _rows(7, shift=1.5, level="zebra"))
    found = _reports(trained)
    assert [report.state for report in found.values()] == ["quiet"] * 5 + ["drift"] * 3
    first = found["2013-04-01"]
    assert (first.first, first.last, first.reference) == ("2013-02-10", "2013-03-31", 50)
    moved = _moved(found["2013-04-06"])
    assert moved["x"].before == pytest.approx(0.0, abs=0.1)
    assert moved["x"].now == pytest.approx(1.5, abs=0.5)
    assert _moved(found["2013-04-08"])["c"].what == "new"
    assert [event["columns"] for event in _events(trained)] == [{"x": moved["x"].what}, {"c": "new"}]
    assert "zebra" not in json.dumps(_events(trained))
    assert ops.list_alarms(trained.space, "me", endpoint="demo").items == []  # drift pages nobody


def test_a_younger_champion_knows_the_days_it_was_trained_on_but_never_the_held_ones(trained: World) -> None:
    trained.deploy()
    for day in range(5):
        _close(trained, day, _rows(day, shift=1.5 if day in (1, 2) else 0.0))
    _hold(trained, START + DAY, START + 3 * DAY)
    _close(trained, 5, _rows(5), trained_days=5)
    report = _reports(trained)["2013-04-06"]
    assert (report.last, report.reference, report.state) == ("2013-04-05", 50 + 3, "quiet")


def _hold(world: World, since_us: int, until_us: int) -> None:
    world.space.write(
        lambda tx: tx.execute(
            "INSERT INTO feed_episodes(id, endpoint, source, column_name, what, opened_us, closed_us, since_us,"
            " until_us, holds, reason, detail, seq) VALUES ('e', 'demo', 'a', 'x', 'w', ?, ?, ?, ?, 1, '', '{}', 1)",
            (since_us, until_us, since_us, until_us),
        )
    )
    with world.space.read() as tx:
        assert feed_queries.episodes(tx, "demo")


def test_without_history_the_first_three_weeks_stand_in(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.deploy()
    monkeypatch.setattr(drift, "_history", lambda *_: {})
    monkeypatch.setattr(drift, "FIRST_DAYS", 5)
    for day in range(6):
        _close(trained, day, _rows(day))
    found = list(_reports(trained).values())
    assert {report.state for report in found[:5]} == {"unknown"}
    assert (found[4].reason, found[5].state) == ("fewer than 14 days to hold it against", "quiet")
    assert (found[5].first, found[5].reference) == ("2013-04-01", 5)


def test_a_day_of_few_requests_says_nothing(trained: World) -> None:
    trained.deploy()
    _close(trained, 0, _rows(0)[:20])
    (report,) = _reports(trained).values()
    assert (report.state, report.reason) == ("unknown", "20 requests, 30 are needed")
    with pytest.raises(Invalid):
        ops.drift(trained.space, "me", endpoint="demo", days=0)


def test_closing_again_changes_nothing(trained: World) -> None:
    trained.deploy()
    rows = _rows(0)
    _close(trained, 0, rows)
    before = _reports(trained)
    _close(trained, 0, rows[:40])
    assert _reports(trained) == before
