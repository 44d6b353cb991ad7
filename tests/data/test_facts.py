"""Facts: rows that arrive one by one, and what they are to features made afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loopwright as lw
from loopwright.access.service import local_actor
from loopwright.data import facts, service, training
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.times import HOUR, SECOND, parse_time
from loopwright.store.space import Space

START_US = parse_time("2013-04-01T04:00:00Z")


def at(hours: float) -> str:
    return lw_time(START_US + round(hours * HOUR))


def lw_time(at_us: int) -> str:
    from loopwright.kernel.times import format_time

    return format_time(at_us)


@pytest.fixture
def spec(space: Space, parquet: Callable[..., Path]) -> Any:
    stamp = "TIMESTAMP"
    parquet(
        space.root / "asks.parquet",
        {"id": "VARCHAR", "asked_at": stamp, "origin": "VARCHAR"},
        [(f"r{n}", at(n)[:-1], "JFK") for n in range(-2, 6)],
    )
    parquet(
        space.root / "weather.parquet",
        {"origin": "VARCHAR", "at": stamp, "told": stamp, "temp": "DOUBLE", "gusts": "INTEGER"},
        [("JFK", at(-3)[:-1], at(-3)[:-1], 10.5, 1), ("LGA", at(-3)[:-1], at(-3)[:-1], 7.0, 2)],
    )
    asks = lw.data("asks.parquet", key="id", known="asked_at")
    weather = lw.data("weather.parquet", key="origin", time="at", known="told")
    made = lw.features(
        "airs",
        asks,
        at="asked_at",
        joins=[
            lw.asof(weather, on="origin", columns=["temp"]),
            lw.window(weather, on="origin", last="2h", mean=("mean", "temp"), n=("count", "gusts")),
        ],
    )
    for source in made.sources:
        service.add(space, local_actor(), source.path, declaration=source)
    service.declare_features(space, local_actor(), made)
    return made


def tell(space: Space, *rows: dict[str, Any]) -> facts.Taken:
    body = b"\n".join(json.dumps(row).encode() for row in rows)
    return facts.add(space, local_actor(), "weather", body)


def row(hours: float, temp: float | None, **more: Any) -> dict[str, Any]:
    return {"origin": "JFK", "at": at(hours), "told": at(hours), "temp": temp, **more}


def temps(space: Space, spec: Any) -> list[float | None]:
    frame = training.rows(space, spec, since=START_US, until=START_US + 6 * HOUR)
    return [None if value != value else value for value in frame["temp"]]


def test_facts_are_the_rows_behind_a_version(space: Space, spec: Any) -> None:
    assert temps(space, spec) == [10.5] * 6
    before = service.features_fingerprint(space, spec, START_US + 6 * HOUR)
    assert tell(space, row(1, 11.0), row(3, 13.0, gusts=4)) == facts.Taken(accepted=2, repeated=0)
    assert temps(space, spec) == [10.5, 11.0, 11.0, 13.0, 13.0, 13.0]
    frame = training.rows(space, spec, since=START_US, until=START_US + 6 * HOUR)
    assert list(frame["n"]) == [0, 0, 0, 1, 1, 0]
    assert service.features_fingerprint(space, spec, START_US + 6 * HOUR) != before
    assert service.features_fingerprint(space, spec, START_US + HOUR) == before


def test_the_same_row_again_is_repeated_and_a_late_one_counts_from_its_arrival(space: Space, spec: Any) -> None:
    assert tell(space, row(1, 11.0)).accepted == 1
    assert tell(space, row(1, 11.0), row(2, 12.0)) == facts.Taken(accepted=1, repeated=1)
    late = {**row(-1, 99.0), "told": at(-1)}
    assert tell(space, late).accepted == 1
    with space.read() as tx:
        found = facts.scan(tx, "weather", since_us=START_US, until_us=START_US + 9 * HOUR)
        assert [(f.known_us, f.time_us, f.values["temp"]) for f in found] == [
            (START_US, START_US - HOUR, 99.0),
            (START_US + HOUR, START_US + HOUR, 11.0),
            (START_US + 2 * HOUR, START_US + 2 * HOUR, 12.0),
        ]
        assert facts.newest_us(tx, "weather", before_us=START_US + 2 * HOUR) == START_US + HOUR
        assert facts.newest_us(tx, "asks", before_us=START_US) is None
        declared = facts.declaration(tx, "weather")
        assert declared is not None
        assert declared.time == "at"
    assert temps(space, spec)[0] == 99.0


def test_known_at_of_a_line_goes_before_the_column(space: Space, spec: Any) -> None:
    tell(space, {**row(0, 20.0), "known_at": at(4)})
    assert temps(space, spec) == [10.5] * 4 + [20.0] * 2


def test_what_is_told_without_a_time_is_news_only_when_it_changed(space: Space, spec: Any) -> None:
    plain = {"origin": "JFK", "at": at(1)}
    assert [tell(space, {**plain, "temp": t}).accepted for t in (1.0, 1.0, 2.0, 1.0, 1.0)] == [1, 0, 1, 1, 0]


def test_on_the_wall_clock_a_row_counts_when_it_can_be_seen(wall_space: Space, parquet: Callable[..., Path]) -> None:
    space = wall_space
    parquet(space.root / "asks.parquet", {"id": "VARCHAR", "t": "TIMESTAMP"}, [("a", "2020-01-01")])
    source = lw.data("asks.parquet", key="id", known="t")
    service.add(space, local_actor(), source.path, declaration=source)
    before = space.clock.now_us()
    facts.add(space, local_actor(), "asks", b'{"id": "b", "t": "2020-01-02"}')
    with space.read() as tx:
        (found,) = facts.scan(tx, "asks", since_us=0, until_us=1 << 60)
    assert before + SECOND <= found.known_us <= space.clock.now_us() + SECOND


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "facts.line"),
        (b"[]", "facts.line"),
        (b"\xff", "facts.line"),
        (b"", "facts.empty"),
        (b'{"at": "2013-04-01"}', "facts.missing"),
        (b'{"origin": null, "at": "2013-04-01"}', "facts.missing"),
        (b'{"origin": "JFK", "at": "2013-04-01", "wind": 1}', "data.unknown-column"),
        (b'{"origin": "JFK", "at": "2013-04-01", "temp": "1"}', "facts.value"),
        (b'{"origin": "JFK", "at": "2013-04-01", "temp": 1e999}', "facts.line"),
        (b'{"origin": "JFK", "at": "2013-04-01", "temp": true}', "facts.value"),
        (b'{"origin": "JFK", "at": "2013-04-01", "gusts": 1.5}', "facts.value"),
        (b'{"origin": "JFK", "at": "2013-04-01", "gusts": 2147483648}', "facts.value"),
        (b'{"origin": 1, "at": "2013-04-01"}', "facts.value"),
        (b'{"origin": "JFK", "at": 1}', "time.form"),
        (b'{"origin": "JFK", "at": "1969-01-01"}', "time.form"),
        (b'{"origin": "JFK", "at": "2013-04-01", "known_at": "soon"}', "time.form"),
    ],
)
def test_a_line_that_is_no_row_is_refused_and_nothing_is_kept(
    space: Space, spec: Any, held: Callable[[Space], str], line: bytes, code: str
) -> None:
    before = held(space)
    good = json.dumps(row(1, 2.0)).encode()
    with pytest.raises(Invalid) as refused:
        facts.add(space, local_actor(), "weather", line and good + b"\n" + line)
    assert refused.value.code == code
    assert refused.value.field
    assert held(space) == before


def test_sources_that_cannot_take_rows(space: Space, spec: Any, parquet: Callable[..., Path]) -> None:
    with pytest.raises(NotFound, match="no source"):
        facts.add(space, local_actor(), "winds", b"{}")
    parquet(space.root / "planes.parquet", {"tail": "VARCHAR"}, [("N1",)])
    always = lw.data("planes.parquet", key="tail", known="always")
    service.add(space, local_actor(), always.path, declaration=always)
    with pytest.raises(Invalid) as refused:
        facts.add(space, local_actor(), "planes", b'{"tail": "N2"}')
    assert refused.value.code == "facts.no-known"
