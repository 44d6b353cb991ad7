"""The drift test on windows of known truth: profiles add up, drift-free windows are quiet, faults are named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loopwright.checks import drift, profiles
from loopwright.checks.drift import Moved, Windows
from loopwright.checks.profiles import Scheme

ROWS, WINDOWS = 300, 42
Table = dict[str, Any]


def _window(rng: np.random.Generator, day: int) -> Table:
    """Rows of a day: weeks have a season, days have weather, `x` and `y` hang together."""
    weather = 0.1 * rng.normal()
    x = rng.normal(size=ROWS) + weather + 0.3 * np.sin(2 * np.pi * day / 7)
    y = 0.7 * x + rng.normal(size=ROWS)
    heavy = np.exp(rng.normal(size=ROWS))
    heavy[rng.random(ROWS) < 0.02] = np.nan
    level = np.array(["a", "b", "c", "d"], dtype=object)[rng.choice(4, ROWS, p=[0.5, 0.3, 0.15, 0.05])]
    flag = (rng.random(ROWS) < 0.3).astype(float)
    return {"flag": flag, "heavy": heavy, "level": level, "x": x, "y": y}


def _scheme(tables: list[Table]) -> Scheme:
    whole = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return Scheme(columns=tuple(profiles.column(name, values) for name, values in whole.items()))


@pytest.fixture(scope="module")
def year() -> tuple[Scheme, Windows, list[Table]]:
    rng = np.random.default_rng(3)
    tables = [_window(rng, day) for day in range(WINDOWS + 30)]
    scheme = _scheme(tables[:WINDOWS])
    known = [profiles.profile(scheme, table) for table in tables[:WINDOWS]]
    return scheme, Windows(range(WINDOWS), known), tables[WINDOWS:]


def _judge(year: tuple[Scheme, Windows, list[Table]], tables: list[Table]) -> dict[str, Moved]:
    scheme, reference, _ = year
    recent = Windows(range(WINDOWS, WINDOWS + len(tables)), [profiles.profile(scheme, table) for table in tables])
    return {moved.column: moved for moved in drift.drifted(scheme, reference, recent)}


def test_days_without_drift_are_quiet(year: tuple[Scheme, Windows, list[Table]]) -> None:
    later = year[2]
    assert sum(bool(_judge(year, later[:until])) for until in range(1, len(later) + 1)) <= 1


def _null(table: Table) -> Table:
    return {**table, "heavy": np.where(np.arange(ROWS) % 10 == 0, np.nan, table["heavy"])}


def _level(table: Table) -> Table:
    values = table["level"].copy()
    values[::30] = "zebra"
    return {**table, "level": values}


def _rarer(table: Table) -> Table:
    values = table["level"].copy()
    values[:150] = "a"
    return {**table, "level": values}


def _unit(table: Table) -> Table:
    return {**table, "heavy": np.where(np.arange(ROWS) % 10 == 0, table["heavy"] * 100, table["heavy"])}


@pytest.mark.parametrize(
    ("column", "what", "fault"),
    [
        ("x", {"level", "spread"}, lambda table: {**table, "x": table["x"] + 1.0}),
        ("y", {"spread", "outside", "level"}, lambda table: {**table, "y": table["y"] * 3}),
        ("heavy", {"nulls"}, _null),
        ("heavy", {"outside", "shape", "level", "spread"}, _unit),
        ("level", {"new"}, _level),
        ("level", {"shares"}, _rarer),
        ("correlations", {"correlations"}, lambda table: {**table, "y": -table["y"]}),
    ],
)
def test_a_fault_is_named_with_how(
    year: tuple[Scheme, Windows, list[Table]], column: str, what: set[str], fault: Callable[[Table], Table]
) -> None:
    found = _judge(year, [*year[2][:2], *(fault(table) for table in year[2][2:4])])
    assert found[column].what in what
    assert found[column].p < 0.01


def test_figures_are_those_a_person_reads(year: tuple[Scheme, Windows, list[Table]]) -> None:
    x = _judge(year, [{**table, "x": table["x"] + 1.0} for table in year[2][:3]])["x"]
    assert (x.before, x.now) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.5))
    new = _judge(year, [_level(table) for table in year[2][:3]])["level"]
    assert (new.before, new.now) == (0.0, pytest.approx(10 / ROWS, abs=0.01))


def test_profiles_add_up_and_come_back_from_bytes(year: tuple[Scheme, Windows, list[Table]]) -> None:
    scheme, _, tables = year
    one, other = (profiles.profile(scheme, table) for table in tables[:2])
    both = profiles.profile(scheme, {name: np.concatenate([t[name] for t in tables[:2]]) for name in tables[0]})
    added = profiles.merged(one, other)
    assert added.n == both.n
    np.testing.assert_array_equal(added.counts, both.counts)
    np.testing.assert_allclose(added.products, both.products, rtol=1e-9, atol=1e-9)
    again = profiles.decode(profiles.encode(one))
    np.testing.assert_array_equal(again.counts, one.counts)
    np.testing.assert_array_equal(again.products, one.products)
    assert len(profiles.encode(one)) < 4000


def test_odd_columns_have_a_profile() -> None:
    empty = {
        "gone": np.full(50, np.nan), "one": np.ones(50), "wild": np.r_[np.arange(49.0), np.inf],
        "many": np.array([f"v{n}" for n in range(50)], dtype=object), "none": np.full(50, None),
    }  # fmt: skip
    scheme = Scheme(columns=tuple(profiles.column(name, values) for name, values in empty.items()))
    found = profiles.profile(scheme, empty)
    lacking = profiles.profile(scheme, {"one": np.ones(20)})
    reference = Windows(range(20), [found] * 20)
    assert drift.drifted(scheme, reference, Windows([20], [found])) == []
    named = {moved.column for moved in drift.drifted(scheme, reference, Windows([20], [lacking]))}
    assert {"many", "wild"} <= named
