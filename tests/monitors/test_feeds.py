"""Feeds of an endpoint: from its sources' history on they are watched, and a broken one holds what learns from it."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopwright as lw
from loopwright.access.service import local_actor
from loopwright.data import facts, service
from loopwright.kernel.times import DAY, HOUR, format_time, parse_time
from loopwright.monitors import feed_queries, feeds
from loopwright.monitors import feed_rules as rules
from loopwright.monitors import queries as monitors
from loopwright.monitors.feed_rules import Pass
from loopwright.releases import queries as releases
from loopwright.serving import held, labels, routes
from loopwright.serving.model import EndpointSpec
from loopwright.store import clock as clocks
from loopwright.store import ledger
from loopwright.store.space import Space

ME = "local:me"
START = "2013-04-01T04:00:00Z"
START_US = parse_time(START)
SITES = ("EWR", "JFK")


def warm(at_us: int) -> float:
    return 50 + 25 * math.sin(at_us / HOUR * math.pi / 12) + at_us // HOUR % 5 / 7


def write(path: Path, names: str, rows: list[tuple[Any, ...]]) -> None:
    path.write_text("\n".join([names, *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture
def served(space: Space) -> Space:
    """An endpoint whose features join hourly weather, of which 30 days are history."""
    moments = [START_US + h * HOUR for h in range(-30 * 24, 0)]
    write(
        space.root / "weather.csv", "origin,at,temp", [(s, format_time(at), warm(at)) for at in moments for s in SITES]
    )
    write(space.root / "asks.csv", "id,asked_at,origin", [(f"h{at}", format_time(at), "JFK") for at in moments])
    write(space.root / "truth.csv", "id,known_at,y", [(f"h{at}", format_time(at), int(at % 7 == 0)) for at in moments])
    asks = lw.data("asks.csv", key="id", known="asked_at")
    weather = lw.data("weather.csv", key="origin", time="at", known="at", checks={"temp": (-100, 200)})
    truth = lw.data("truth.csv", key="id", known="known_at")
    joins = [lw.asof(weather, on="origin", columns=["temp"], within="3h")]
    made = lw.features("airs", asks, at="asked_at", columns=["origin"], joins=joins)
    for source in (*made.sources, truth):
        service.add(space, local_actor(), source.path, declaration=source)
    service.declare_features(space, local_actor(), made)
    spec = EndpointSpec(name="delay", model="delay", features="airs", labels="truth", target="y")
    space.write(lambda tx: routes.declare(tx, ME, spec))
    space.write(lambda tx: tx.execute(
        "INSERT INTO route_sets(endpoint, generation, at_us, routes, actor) VALUES ('delay', 1, ?, '[]', ?)",
        (START_US, ME),
    ))  # fmt: skip
    return space


def live(space: Space, until: str, change: Callable[[int, dict[str, Any]], list[dict[str, Any]]]) -> None:
    """Tell facts hour by hour and look every four hours."""
    at_us = space.clock.now_us()
    while at_us < parse_time(until):
        lines: list[dict[str, Any]] = []
        for hour in range(4):
            now = at_us + hour * HOUR
            for site in SITES:
                lines += change(now, {"origin": site, "at": format_time(now), "temp": warm(now)})
        if lines:
            facts.add(space, ME, "weather", b"\n".join(json.dumps(line).encode() for line in lines))
        at_us += 4 * HOUR
        space.write(lambda tx, at_us=at_us: clocks.advance(tx, "replay", at_us))
        feeds.look(space, "delay", at_us, log=not feed_states(space))


def feed_states(space: Space) -> dict[str, Any]:
    with space.read() as tx:
        return feed_queries.states(tx, "delay")


def told(space: Space) -> list[tuple[str, str]]:
    """Each feed event: its kind and what it says."""
    with space.read() as tx:
        found = ledger.read(tx, kinds=["feed.broke@1", "feed.mended@1"], limit=100)
    return [(event.kind.split("@")[0], ledger.sentence(event)) for event in found]


def as_it_is(at_us: int, row: dict[str, Any]) -> list[dict[str, Any]]:
    return [row]


def test_another_unit_holds_until_the_feed_is_mended_and_its_rows_are_never_learnt_from(served: Space) -> None:
    breaks, mends = parse_time("2013-04-06T06:00:00Z"), parse_time("2013-04-08T06:00:00Z")

    def change(at_us: int, row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{**row, "temp": (row["temp"] - 32) / 1.8}] if breaks <= at_us < mends else [row]

    live(served, "2013-04-06T08:00:00Z", change)
    (kind, text), = told(served)  # fmt: skip
    assert kind == "feed.broke"
    assert "temp of weather moved by" in text
    with served.read() as tx:
        (hold,) = releases.holds(tx, "delay")
        (span,) = feeds.held_spans(tx, "delay")
        (alarm,) = monitors.alarms(tx, "delay", still_open=True)
        assert held.spans(tx, "delay") == [span]
    assert hold.kind == "feed"
    assert hold.reason == alarm.reason
    assert alarm.kind == "feed:weather.temp:jump"
    assert breaks - 3 * HOUR <= span[0] <= breaks
    assert span[1] is None
    live(served, "2013-04-09T08:00:00Z", change)
    assert [kind for kind, _ in told(served)] == ["feed.broke", "feed.mended"]
    with served.read() as tx:
        assert releases.holds(tx, "delay") == []
        assert monitors.alarms(tx, "delay", still_open=True) == []
        ((_, until_us),) = feeds.held_spans(tx, "delay")
    assert until_us is not None
    assert mends <= until_us <= mends + 3 * HOUR


def test_a_silent_feed_holds_from_when_it_is_too_old_and_no_longer(served: Space) -> None:
    silent, back = parse_time("2013-04-05T00:00:00Z"), parse_time("2013-04-06T00:00:00Z")
    live(served, "2013-04-07T08:00:00Z", lambda at_us, row: [] if silent <= at_us < back else [row])
    (broke, mended), (episode,) = told(served), _episodes(served)
    assert "nothing came from weather after 2013-04-04T23:00:00Z; at most 3h may pass" in broke[1]
    assert mended[0] == "feed.mended"
    assert (episode.since_us, episode.until_us) == (silent + 2 * HOUR, back)


def _episodes(space: Space) -> list[Any]:
    with space.read() as tx:
        return feed_queries.episodes(tx, "delay")


def test_one_odd_value_pages_but_holds_nothing(served: Space) -> None:
    odd = parse_time("2013-04-05T10:00:00Z")
    live(
        served, "2013-04-05T12:00:00Z",
        lambda at_us, row: [{**row, "temp": 900.0}] if at_us == odd and row["origin"] == "JFK" else [row],
    )  # fmt: skip
    (episode,) = _episodes(served)
    assert (episode.what, episode.column, episode.holds) == ("range", "temp", False)
    assert (episode.since_us, episode.until_us) == (odd, odd + HOUR)
    with served.read() as tx:
        assert releases.holds(tx, "delay") == []
    assert "900" not in json.dumps([text for _, text in told(served)]), "events hold no values"


def test_a_look_counts_once_and_a_failed_one_is_made_up_for(served: Space) -> None:
    live(served, "2013-04-05T00:00:00Z", as_it_is)
    before = feed_states(served)
    at_us = parse_time("2013-04-05T00:00:00Z")
    feeds.look(served, "delay", at_us)
    assert feed_states(served) == before
    served.write(lambda tx: feeds.give_up(tx, "delay", at_us + 4 * HOUR, "no room"))
    feeds.look(served, "delay", at_us + 4 * HOUR)
    assert feed_states(served) == before
    live(served, "2013-04-05T12:00:00Z", as_it_is)
    assert {state.until_us for name, state in feed_states(served).items() if name == "weather"} == {at_us + 12 * HOUR}


def test_labels_that_turn_are_told(served: Space) -> None:
    def send(first_us: int, days: int, share: int) -> None:
        lines = []
        for n in range(days * 48):
            known = first_us + n * HOUR // 2
            lines.append({"id": f"r{known}", "label": int(n % 10 < share), "known_at": format_time(known)})
        labels.add(served, ME, "delay", b"\n".join(json.dumps(line).encode() for line in lines))

    send(START_US, 8, 2)
    send(START_US + 8 * DAY, 8, 9)
    live(served, "2013-04-17T00:00:00Z", as_it_is)
    rates = [text for kind, text in told(served) if kind == "feed.broke" and "labels of 7 days" in text]
    assert len(rates) == 1


def test_nothing_is_watched_without_features(space: Space) -> None:
    space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="plain", model="plain")))
    feeds.look(space, "plain", START_US, log=True)
    with space.read() as tx:
        assert feed_queries.states(tx, "plain") == {}
        assert feeds.held_spans(tx, "plain") == []


def test_labels_turned_round_hold_until_they_are_right_again() -> None:
    draw = random.Random(2)
    state = rules.start({"y": (None, None)}, [], target="y", counted=False)

    def look(at_us: int, turned: bool) -> list[rules.Fault]:
        judged = []
        for n in range(300):
            score = draw.betavariate(2, 7)
            came = draw.random() < score
            judged.append((float(came != turned), score, at_us - n))
        done = Pass("labels", state, live=True)
        feeds._contrary(done, judged, at_us)
        return done.go([], at_us)

    assert look(DAY, turned=False) == []
    (fault,) = look(2 * DAY, turned=True)
    assert (fault.what, fault.holds, fault.since_us, fault.until_us) == ("contrary", True, 2 * DAY - 299, None)
    assert "are turned round" in fault.reason
    (fault,) = look(3 * DAY, turned=False)
    assert (fault.until_us, list(state.open)) == (3 * DAY, [":contrary"])
    look(3 * DAY + 12 * HOUR, turned=False)
    assert state.open == {}
