"""Look-ups give what the offline executor gives, cell by cell, whatever order the facts come in."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loopwright as lw
from loopwright import house
from loopwright.access.service import local_actor
from loopwright.data import facts, online, prepare, service, sources
from loopwright.data.execute import Executor, Span
from loopwright.kernel.settings import Settings
from loopwright.kernel.times import MINUTE, format_time, parse_time
from loopwright.store.space import Space

Parquet = Callable[..., Path]
START_US = parse_time("2013-04-01T04:00:00Z")
SITES = ["JFK", "LGA", "EWR"]


def stamp(at_us: int) -> str:
    return format_time(at_us)[:-1]


def declare(space: Space, parquet: Parquet, versions: dict[str, list[tuple[Any, ...]]]) -> Any:
    when = "TIMESTAMP"
    parquet(
        space.root / "asks.parquet",
        {"id": "VARCHAR", "asked_at": when, "sched": when, "site": "VARCHAR", "gate": "INTEGER", "far": "DOUBLE"},
        versions["asks"],
    )
    parquet(
        space.root / "air.parquet",
        {"site": "VARCHAR", "at": when, "told": when, "temp": "DOUBLE", "sky": "VARCHAR"},
        versions["air"],
    )
    parquet(
        space.root / "left.parquet",
        {"n": "BIGINT", "site": "VARCHAR", "gate": "SMALLINT", "told": when, "late": "DOUBLE"},
        versions["left"],
    )
    parquet(space.root / "gates.parquet", {"gate": "BIGINT", "size": "INTEGER", "kind": "VARCHAR"}, GATES)
    asks = lw.data("asks.parquet", key="id", known="asked_at")
    air = lw.data("air.parquet", key="site", time="at", known="told")
    left = lw.data("left.parquet", key="n", known="told")
    gates = lw.data("gates.parquet", key="gate", known="always")
    spec = lw.features(
        "board",
        asks,
        at="asked_at",
        columns=["site", "far"],
        derive={"mins": "hour(sched) * 60 + minute(sched)", "wide": "far > 2.5 and gate is not null"},
        joins=[
            lw.lookup(gates, on="gate", columns=["size", "kind"]),
            lw.asof(air, on="site", columns=["temp", "sky"], within="3h"),
            lw.window(left, on="site", last="2h", m=("mean", "late"), n=("count", "late"), low=("min", "late")),
            lw.window(left, on=["site", "gate"], last="5h", s=("sum", "late"), high=("max", "late"), k=("count", "n")),
        ],
    )
    for source in spec.sources:
        service.add(space, local_actor(), source.path, declaration=source)
    service.declare_features(space, local_actor(), spec)
    return spec


GATES = [(1, 10, "wide"), (2, None, "slim"), (2, 7, "again"), (None, 3, "none")]
moments = st.integers(-40, 20).map(lambda n: START_US + n * 20 * MINUTE)
late = st.none() | st.floats(-1e6, 1e6) | st.integers(-50, 900).map(float) | st.sampled_from([0.1, 1e-9, 1e17, -1e17])
air_rows = st.tuples(st.sampled_from(SITES), moments, moments, late, st.none() | st.sampled_from(["clear", "fog"]))
left_rows = st.tuples(st.sampled_from([*SITES, None]), st.none() | st.integers(1, 3), moments, late)
ask_rows = st.tuples(
    st.integers(-2, 60).map(lambda n: START_US + n * 10 * MINUTE),
    st.none() | moments,
    st.none() | st.sampled_from([*SITES, "XXX"]),
    st.none() | st.integers(0, 3),
    st.none() | st.floats(-5, 5),
)


def offline(space: Space, spec: Any) -> dict[str, tuple[Any, ...]]:
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        Executor(con, space, spec).build(Span())
        return {row[0]: row[2:] for row in con.execute("SELECT * FROM features").fetchall()}


def tell(space: Space, name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        facts.add(space, local_actor(), name, b"\n".join(json.dumps(row).encode() for row in rows))


def as_air(row: tuple[Any, ...]) -> dict[str, Any]:
    return {"site": row[0], "at": format_time(row[1]), "told": format_time(row[2]), "temp": row[3], "sky": row[4]}


def as_left(number: int, row: tuple[Any, ...]) -> dict[str, Any]:
    return {"n": number, "site": row[0], "gate": row[1], "told": format_time(row[2]), "late": row[3]}


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    air=st.lists(air_rows, max_size=12),
    left=st.lists(left_rows, max_size=25),
    asks=st.lists(ask_rows, min_size=1, max_size=8),
    data=st.data(),
)
def test_a_look_up_is_the_offline_row(
    tmp_path_factory: pytest.TempPathFactory, parquet: Parquet, air: Any, left: Any, asks: Any, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("online")
    with contextlib.closing(house.init(folder, Settings(clock="replay", start=format_time(START_US)))) as space:
        cut, edge = data.draw(st.integers(0, len(air))), data.draw(st.integers(0, len(left)))
        spec = declare(
            space,
            parquet,
            {
                "asks": [(f"r{n}", stamp(a), b and stamp(b), *rest) for n, (a, b, *rest) in enumerate(asks)],
                "air": [(s, stamp(a), stamp(k), *rest) for s, a, k, *rest in [("JFK", 0, 0, None, None), *air[:cut]]],
                "left": [(n, s, g, stamp(k), v) for n, (s, g, k, v) in enumerate([(None, 1, 0, 1.5), *left[:edge]])],
            },
        )
        plan = prepare.plan(space, spec)
        prepare.show_facts(space, plan)
        lookup = online.Lookup(plan)
        told = [("air", as_air(row)) for row in air[cut:]]
        told += [("left", as_left(100 + n, row)) for n, row in enumerate(left[edge:])]
        told = data.draw(st.permutations(told))
        half = len(told) // 2
        for part in (told[:half], told[half:]):
            for name in ("air", "left"):
                tell(space, name, [row for kind, row in part if kind == name])
            prepare.show_facts(space, plan)
            lookup.refresh()
            check(space, spec, lookup, asks)
        prepare._tellers.clear()  # as after a restart
        Path(plan.facts).unlink(missing_ok=True)
        prepare.show_facts(space, plan)
        check(space, spec, online.Lookup(plan), asks)
        prepare._tellers.clear()


def check(space: Space, spec: Any, lookup: online.Lookup, asks: Any) -> None:
    wanted = offline(space, spec)
    names = [name for name, _ in lookup.plan.base]
    for number, (at_us, sched, site, gate, far) in enumerate(asks):
        base = {"sched": sched, "site": site, "gate": gate, "far": far}
        assert tuple(lookup.row([base[name] for name in names], at_us)) == wanted[f"r{number}"]
