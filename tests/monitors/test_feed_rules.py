"""The rules of feeds on made-up rows: sound ones say nothing, each fault is found, and held no longer than it lasts."""

import math
import random
from collections.abc import Callable, Iterable

import msgspec
import pytest

from loopwright.kernel.times import DAY, HOUR
from loopwright.monitors import feed_rules as rules
from loopwright.monitors.contrary import contrary
from loopwright.monitors.feed_rules import Fault, Pass, Row, State

SITES = ("A", "B", "C")
BREAKS, MENDED, END = 40 * DAY, 44 * DAY, 50 * DAY


def sound(seed: int = 1) -> list[Row]:
    """Hourly weather of three sites: warm at noon, warmer by the month, with some noise and few nulls."""
    draw, out = random.Random(seed), []
    for hour in range(END // HOUR):
        for site in SITES:
            warm = 50 + hour / 100 + 8 * math.sin(hour * math.pi / 12) + draw.gauss(0, 1)
            values = {"temp": None if draw.random() < 0.002 else warm, "kind": draw.choice("xyz")}
            out.append(Row(hour * HOUR, site, f"{site}|{hour}", values))
    return out


def watch(rows: Iterable[Row], state: State | None = None) -> list[tuple[int, Fault, bool]]:
    """Each fault as each look every four hours saw it: when, what, whether it was over."""
    state = state or rules.start({"temp": (-50.0, 150.0)}, ["kind"], fresh_us=3 * HOUR)
    rows, seen, raw = list(rows), [], msgspec.json.encode(state)
    live_us = 20 * DAY
    Pass("weather", state, live=False).go([r for r in rows if r.known_us < live_us], live_us)
    raw = msgspec.json.encode(state)
    for at_us in range(live_us + 4 * HOUR, END, 4 * HOUR):
        state = msgspec.json.decode(raw, type=State)
        part = [r for r in rows if state.until_us <= r.known_us < at_us]
        for fault in Pass("weather", state, live=True).go(part, at_us):
            seen.append((at_us, fault, fault.key not in state.open))
        raw = msgspec.json.encode(state)
    return seen


def broken(change: Callable[[Row], list[Row]], until_us: int = MENDED) -> list[Row]:
    """The sound feed with its rows changed for some days."""
    out: list[Row] = []
    for row in sound():
        out += change(row) if BREAKS <= row.known_us < until_us else [row]
    return out


def put(row: Row, **values: object) -> Row:
    return Row(row.known_us, row.group, row.key, {**row.values, **values})


def number(row: Row) -> float:
    return float(row.values["temp"] or 50.0)


FAULTS: dict[str, tuple[Callable[[Row], list[Row]], str]] = {
    "another unit": (lambda r: [put(r, temp=(number(r) - 32) / 1.8)], "temp:jump"),
    "out of range": (lambda r: [put(r, temp=number(r) * 10)], "temp:range"),
    "nulls": (lambda r: [put(r, temp=None) if r.known_us // HOUR % 7 == 0 else r], "temp:null"),
    "a new level": (lambda r: [put(r, kind="new") if r.known_us // HOUR % 13 == 0 else r], "kind:level"),
    "rows twice": (lambda r: [r, r], ":duplicate"),
    "half the rows": (lambda r: [r] if r.known_us // HOUR % 2 else [], ":volume"),
    "a stuck sensor": (lambda r: [put(r, temp=50.0)] if r.group == "A" else [r], "temp:stuck"),
    "silence": (lambda r: [], ":silence"),
}


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_feed_is_never_called_broken(seed: int) -> None:
    assert watch(sound(seed)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_within_a_day_and_ends_with_the_feed_clean(fault: str) -> None:
    change, key = FAULTS[fault]
    seen = [(at_us, found, over) for at_us, found, over in watch(broken(change)) if found.key == key]
    first_us, found, _ = seen[0]
    assert BREAKS < first_us <= BREAKS + DAY
    assert BREAKS - DAY < found.since_us <= BREAKS + DAY
    assert found.holds
    last_us, ended, over = seen[-1]
    assert over, "it ends when the feed has been clean for a while"
    assert ended.until_us is not None
    assert MENDED - 4 * HOUR <= ended.until_us <= MENDED + DAY
    assert last_us <= MENDED + 2 * DAY


def test_one_odd_value_is_told_and_spoils_only_the_rows_that_could_see_it() -> None:
    rows = broken(lambda r: [put(r, temp=900.0) if r.group == "A" else r], until_us=BREAKS + HOUR)
    seen = watch(rows)
    assert {found.key for _, found, _ in seen} == {"temp:range"}
    _, found, _ = seen[0]
    assert (found.since_us, found.until_us) == (BREAKS, BREAKS + HOUR), "until the site's next row"
    assert not found.holds


def test_a_fault_that_grows_slowly_is_not_learnt_as_usual() -> None:
    def change(row: Row) -> list[Row]:
        share = (row.known_us - BREAKS) / (MENDED - BREAKS)
        return [put(row, temp=None) if random.Random(row.key).random() < share else row]

    assert "temp:null" in {found.key for _, found, _ in watch(broken(change))}


def test_a_feed_that_never_told_anything_is_none() -> None:
    history = [row for row in sound() if row.known_us < 20 * DAY]
    assert watch(history) == []


def rated(rate: Callable[[int], float]) -> list[Row]:
    draw = random.Random(5)
    return [
        Row(n * HOUR // 8, "", "", {"y": float(draw.random() < rate(n * HOUR // 8))}) for n in range(8 * END // HOUR)
    ]


@pytest.mark.parametrize(("after", "found"), [(0.2, []), (0.8, ["y:rate"]), (0.05, ["y:rate"])])
def test_labels_that_come_true_far_more_or_less_often_are_a_fault(after: float, found: list[str]) -> None:
    state = rules.start({"y": (None, None)}, [], target="y", counted=False)
    seen = watch(rated(lambda at_us: after if at_us >= BREAKS else 0.2), state)
    assert [key for key in dict.fromkeys(fault.key for _, fault, _ in seen) if key == "y:rate"] == found


def test_labels_turned_round_are_told_from_a_truth_that_turned() -> None:
    few, many = [1.0] * 30 + [0.0] * 170, [1.0] * 170 + [0.0] * 30
    def said(label: list[float], mean: float, auc: float) -> tuple[bool, bool]:
        found = contrary(label, mean, auc)
        assert found is not None and found.low < auc < found.high
        return found.turned, found.upright

    assert said(few, 0.16, 0.72) == (False, True)
    assert said(many, 0.16, 0.28) == (True, False)
    assert said(many, 0.16, 0.45) == (False, False), "a look that tells nothing ends nothing"
    assert said([1.0, 0.0] * 100, 0.5, 0.2) == (False, False), "as many come true as before"
    assert contrary([1.0] * 10, 0.1, 0.2) is None, "too few"


@pytest.mark.parametrize(("rate", "most"), [(0.25, 0), (0.45, 0), (0.75, 10)])
def test_how_often_a_model_that_knows_nothing_is_called_turned_round(rate: float, most: int) -> None:
    from loopwright.checks.scores import auc

    np = pytest.importorskip("numpy")
    draw, false = np.random.default_rng(3), 0
    for _ in range(2000):
        score = draw.beta(2, 6, 300)
        label = (draw.random(300) < rate).astype(float)
        found = contrary(label.tolist(), float(score.mean()), auc(label, score))
        false += found is not None and found.turned
    assert false <= most, "even where three times as many come true as were predicted"
