"""Joins by knowledge time against a slow reference, on random facts that come late and twice."""

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loopwright as lw
from loopwright.data import logged
from loopwright.data.training import write_rows
from loopwright.store.space import Space

DAY = datetime(2013, 1, 1)
SITES = ["a", "b", None]
JOINED_BY_DUCKDB = pytest.mark.parametrize("ground", ["sqlite"], indirect=True)  # the database has no part in it
Fact = tuple[str | None, int | None, int | None, float | None, int | None, str | None]


@pytest.fixture(autouse=True)
def no_log() -> None:
    logged.set_log_reader(None)


def stamp(minutes: int | None) -> str | None:
    return None if minutes is None else str(DAY + timedelta(minutes=minutes))


minutes = st.integers(0, 30)
value = st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3, -7.25, 1e15, 1e-9, math.nan, math.inf]))
fact = st.tuples(
    st.sampled_from(SITES),
    st.one_of(st.none(), minutes),
    st.one_of(st.none(), minutes),
    value,
    st.one_of(st.none(), st.integers(-3, 3)),
    st.sampled_from(["x", "y", None]),
)
asked = st.tuples(minutes, st.sampled_from(SITES), st.integers(0, 1))


def latest(facts: list[Fact], site: str | None, at: int, within: int | None) -> Fact | None:
    """Of the rows known by `at`, for times up to `at`: greatest time, then greatest knowledge time, then first."""
    best: tuple[tuple[int, int, int], Fact] | None = None
    for place, row in enumerate(facts):
        if row[0] is None or row[0] != site or row[1] is None or row[2] is None or row[1] > at or row[2] > at:
            continue
        rank = (row[1], row[2], -place)
        if best is None or rank > best[0]:
            best = (rank, row)
    if best is None or (within is not None and at - best[0][0] > within):
        return None
    return best[1]


def finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(number)


def same(got: Any, want: float | None) -> bool:
    return math.isnan(got) if want is None else got == want


def near(got: Any, want: float | None) -> bool:
    """Equal but for one rounding more; a single value comes back as it is."""
    return math.isnan(got) if want is None else abs(got - want) <= 2 * math.ulp(want)


@JOINED_BY_DUCKDB
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.lists(fact, min_size=1, max_size=25), asks=st.lists(asked, min_size=1, max_size=12))
def test_every_join_equals_the_slow_reference(space: Space, facts: list[Fact], asks: list[Any], parquet: Any) -> None:
    columns = {
        "site": "VARCHAR",
        "at": "TIMESTAMP",
        "known": "TIMESTAMP",
        "x": "DOUBLE",
        "n": "INTEGER",
        "word": "VARCHAR",
    }
    parquet(space.root / "facts.parquet", columns, [(f[0], stamp(f[1]), stamp(f[2]), *f[3:]) for f in facts])
    rows = [(f"r{i:02}", stamp(at), site, n) for i, (at, site, n) in enumerate(asks)]
    parquet(
        space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": "TIMESTAMP", "site": "VARCHAR", "n": "INTEGER"}, rows
    )
    base = lw.data("asks.parquet", key="id", known="asked_at")
    timed = lw.data("facts.parquet", key="site", time="at", known="known")
    free = lw.data("facts.parquet", key="site", known="always", name="free")
    made = lw.features(
        "f",
        base,
        columns=["site"],
        derive={"twice": "n * 2"},
        joins=[
            lw.asof(timed, on="site", columns={"x5": "x", "word5": "word"}, within="5m"),
            lw.asof(timed, on="site", columns={"xever": "x"}),
            lw.lookup(free, on="site", columns={"xfirst": "x"}),
            lw.window(timed, on="site", last="7m", mean=("mean", "x"), total=("sum", "x"), count=("count", "x"),
                      low=("min", "x"), high=("max", "n"), nmean=("mean", "n"), words=("count", "word")),
            lw.window(timed, on=["site", "n"], last="7m", pair=("sum", "n")),
        ],
    )  # fmt: skip
    frame = made.rows(space, since="2013-01-01", until="2013-01-02")
    assert list(frame.index) == [r for _, r in sorted((at, f"r{i:02}") for i, (at, _, _) in enumerate(asks))]
    for i, (at, site, n) in enumerate(asks):
        got = frame.loc[f"r{i:02}"]
        within, ever = latest(facts, site, at, 5), latest(facts, site, at, None)
        first = next((f for f in facts if f[0] is not None and f[0] == site), None)
        window = [f for f in facts if f[0] is not None and f[0] == site and f[2] is not None and at - 7 < f[2] <= at]
        xs = [x for f in window if (x := finite(f[3])) is not None]
        ns = [f[4] for f in window if f[4] is not None]
        pair = [f[4] for f in window if f[4] == n]
        assert got["twice"] == 2 * n
        assert same(got["x5"], None if within is None else finite(within[3]))
        assert (got["word5"] if isinstance(got["word5"], str) else None) == (None if within is None else within[5])
        assert same(got["xever"], None if ever is None else finite(ever[3]))
        assert same(got["xfirst"], None if first is None else finite(first[3]))
        assert got["count"] == len(xs)
        assert got["words"] == sum(f[5] is not None for f in window)
        assert same(got["low"], min(xs, default=None))
        assert same(got["high"], max(map(float, ns), default=None))
        assert same(got["nmean"], sum(ns) / len(ns) if ns else None)
        assert same(got["pair"], float(sum(pair)) if pair else None)
        if len(xs) == 1:
            assert got["total"] == got["mean"] == xs[0]
        assert near(got["total"], math.fsum(xs) if xs else None)
        assert near(got["mean"], math.fsum(xs) / len(xs) if xs else None)


def test_a_lookup_takes_what_was_known(space: Space, parquet: Any) -> None:
    rows = [("a", stamp(0), 1.0), ("a", stamp(20), 2.0), ("b", stamp(0), 5.0), ("b", stamp(0), 6.0)]
    parquet(space.root / "plan.parquet", {"site": "VARCHAR", "known": "TIMESTAMP", "x": "DOUBLE"}, rows)
    asks = [("1", stamp(19), "a"), ("2", stamp(20), "a"), ("3", stamp(20), "b"), ("4", stamp(20), "c")]
    parquet(space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": "TIMESTAMP", "site": "VARCHAR"}, asks)
    plan = lw.data("plan.parquet", key="site", known="known")
    base = lw.data("asks.parquet", key="id", known="always")
    made = lw.features("f", base, joins=[lw.lookup(plan, on="site", columns="x")])
    got = made.rows(space, since="2013-01-01", until="2013-01-02")["x"]
    assert got.iloc[:3].tolist() == [1.0, 2.0, 5.0]
    assert math.isnan(got.iloc[3])
    early = made.rows(space, since="2013-01-01", until="2013-01-02", known_before="2013-01-01T00:20:00Z")["x"]
    assert early.iloc[:2].tolist() == [1.0, 1.0]


def test_times_are_moments_whatever_the_offset(space: Space) -> None:
    (space.root / "asks.csv").write_text("id,asked_at\n1,2013-01-01T02:00:00+02:00\n2,2013-01-01T00:00:01Z\n")
    (space.root / "facts.csv").write_text("k,at,x\n1,2013-01-01 00:00:00,4\n")
    facts = lw.data("facts.csv", key="k", known="at")
    base = lw.data("asks.csv", key="id", known="always")
    made = lw.features(
        "f",
        base,
        derive={"one": "cast(1 as integer)", "k": "1"},
        joins=[lw.window(facts, on={"id": "k"}, last="1s", n=("count", "x"))],
    )
    got = made.rows(space, since="2013-01-01", until="2013-01-02")
    assert got["n"].tolist() == [1.0, 0.0]
    assert got["time"].iloc[0].to_pydatetime().replace(tzinfo=UTC) == datetime(2013, 1, 1, tzinfo=UTC)


@JOINED_BY_DUCKDB
def test_the_same_bytes_in_the_same_file_and_sums_know_no_order(space: Space, parquet: Any) -> None:
    numbers = random.Random(5)
    facts = []
    for _ in range(2000):
        x = numbers.uniform(-1, 1) * 10 ** numbers.randrange(9)
        facts.append((f"s{numbers.randrange(3)}", stamp(numbers.randrange(600)), x))
    asks = [(f"r{i}", stamp(numbers.randrange(600)), f"s{i % 3}") for i in range(500)]
    parquet(space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": "TIMESTAMP", "site": "VARCHAR"}, asks)
    written = []
    for order in (facts, facts, sorted(facts, key=lambda f: f[2])):
        parquet(space.root / "facts.parquet", {"site": "VARCHAR", "known": "TIMESTAMP", "x": "DOUBLE"}, order)
        source = lw.data("facts.parquet", key="site", known="known")
        made = lw.features(
            "f",
            lw.data("asks.parquet", key="id", known="asked_at"),
            joins=[lw.window(source, on="site", last="45m", m=("mean", "x"), s=("sum", "x"))],
        )
        out = space.root / "rows.parquet"
        assert write_rows(space, made, since="2013-01-01", until="2013-01-02", out=out).rows == 500
        written.append(out.read_bytes())
    assert written[0] == written[1] == written[2]
