"""Look-ups through a real worker: what a caller knows goes in, and the log holds what was made of it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from worker_harness import PARAMS, Running, change

import loopwright as lw
from loopwright.access.service import local_actor
from loopwright.data import facts, service
from loopwright.kernel.times import HOUR, format_time, parse_time
from loopwright.models import service as models
from loopwright.models.package import model
from loopwright.serving import compare, predictions, publish, routes, seal
from loopwright.serving.model import EndpointSpec, Route
from loopwright.store.space import Space

START_US = parse_time("2013-04-01T04:00:00Z")
ME = "local:tester"
OUTPUTS = ["site", "far", "mins", "temp", "n"]


def at(hours: float) -> str:
    return format_time(START_US + round(hours * HOUR))


def parquet(path: Path, columns: str, rows: str) -> None:
    con = duckdb.connect(config={"threads": "1"})
    con.execute(f"CREATE TABLE t ({columns}); INSERT INTO t VALUES {rows}")
    con.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    con.close()


@pytest.fixture
def board(space: Space) -> Space:
    """A Space whose endpoint `delay` is answered from looked-up features."""
    root = space.root
    parquet(
        root / "asks.parquet",
        "id VARCHAR, asked_at TIMESTAMP, sched TIMESTAMP, site VARCHAR, far DOUBLE",
        "('a', '2013-04-01', '2013-04-01', 'JFK', 1.5)",
    )
    parquet(root / "air.parquet", 'site VARCHAR, "at" TIMESTAMP, temp DOUBLE', "('JFK', '2013-04-01 03:00', 10)")
    asks = lw.data("asks.parquet", key="id", known="asked_at")
    air = lw.data("air.parquet", key="site", time="at", known="at")
    spec = lw.features(
        "signs",
        asks,
        at="asked_at",
        columns=["site", "far"],
        derive={"mins": "hour(sched) * 60 + minute(sched)"},
        joins=[
            lw.asof(air, on="site", columns=["temp"], within="3h"),
            lw.window(air, on="site", last="2h", n=("count", "temp")),
        ],
    )
    for source in spec.sources:
        service.add(space, local_actor(), source.path, declaration=source)
    service.declare_features(space, local_actor(), spec)
    random = np.random.default_rng(1)
    x = pd.DataFrame({name: random.random(500) for name in OUTPUTS})
    x["site"] = pd.Categorical(random.choice(["JFK", "LGA"], 500))
    x.loc[::9, ["temp", "n"]] = np.nan
    made = model("delay", lgb.train(PARAMS, lgb.Dataset(x, (x["far"] > 0.5).astype(int)), 5), sample=x)
    space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="delay", model="delay", features="signs")))
    stored = models.store(space, made)
    space.write(lambda tx: models.register(tx, ME, "delay", stored))
    change(space, [Route(1, 1.0, "live")])
    return space


@pytest.fixture
def running(board: Space) -> Iterator[Running]:
    made = Running(board)
    yield made
    made.stop()


def asked(hours: float, id: str | None = None, **more: Any) -> dict[str, Any]:
    values = {"sched": at(hours + 1), "site": "JFK", "far": 0.75, **more}
    kinds = {"far": "FP64"}
    inputs = [
        {"name": n, "datatype": kinds.get(n, "BYTES"), "shape": [1], "data": [value]} for n, value in values.items()
    ]
    out: dict[str, Any] = {"inputs": inputs, "parameters": {"time": at(hours)}}
    return out if id is None else {**out, "id": id}


def tell(space: Space, hours: float, temp: float) -> None:
    row = {"site": "JFK", "at": at(hours), "temp": temp}
    facts.add(space, local_actor(), "air", json.dumps(row).encode())
    publish.show(space)


def test_what_a_caller_knows_becomes_features(running: Running) -> None:
    space = running.space
    told = running.http.get("/v2/models/delay").json()["parameters"]["lookup"]
    assert told["features"] == "signs"
    assert told["inputs"] == [
        {"name": "site", "datatype": "BYTES"},
        {"name": "far", "datatype": "FP64"},
        {"name": "sched", "datatype": "BYTES"},
    ]
    first = running.infer(asked(0.5, "r1"))
    assert first.status_code == 200, first.text
    tell(space, 1, 20.5)
    tell(space, 2.5, 99.0)
    assert running.infer(asked(1.5, "r2")).status_code == 200
    assert running.infer(asked(0.5, "r1")).content == first.content  # a repeat, whatever is known by now
    wanted = {
        "r1": {"site": "JFK", "far": 0.75, "mins": 330.0, "temp": 10.0, "n": 1.0},
        "r2": {"site": "JFK", "far": 0.75, "mins": 390.0, "temp": 20.5, "n": 1.0},
    }
    for id, values in wanted.items():
        found = predictions.find(space, id)
        assert found.inputs == values
        assert found.asked == {"site": "JFK", "far": 0.75, "sched": found.at_us + HOUR}
    full = [
        {"name": n, "datatype": "BYTES" if n == "site" else "FP64", "shape": [1], "data": [v]}
        for n, v in wanted["r2"].items()
    ]
    body = {"inputs": full, "parameters": {"time": at(1.5)}, "id": "r3"}
    again = running.infer(body)
    assert again.json()["outputs"] == running.infer(asked(1.5, "r4")).json()["outputs"]
    running.stop()
    seal.seal(space)
    found = predictions.find(space, "r2")
    assert found.segment is not None
    assert (found.inputs, found.asked["sched"]) == (wanted["r2"], START_US + round(2.5 * HOUR))
    assert predictions.find(space, "r3").asked == {}
    with predictions.connect() as con:
        columns = predictions.joined(con, space, "delay", START_US + 9 * HOUR)
    assert {"in_temp", "ask_sched", "ask_far"} <= {*columns}


def test_facts_told_ahead_change_no_answer(running: Running) -> None:
    before = running.infer(asked(0.5, "b")).json()["outputs"]
    tell(running.space, 0.75, 77.0)
    tell(running.space, 1.5, 78.0)
    assert running.infer(asked(0.5, "c")).json()["outputs"] == before
    assert predictions.find(running.space, "c").inputs["temp"] == 10.0
    running.infer(asked(0.75, "d"))
    assert predictions.find(running.space, "d").inputs["temp"] == 77.0


def test_served_and_offline_agree_cell_by_cell(running: Running) -> None:
    space = running.space
    for n in range(12):
        if n % 3 == 0:
            tell(space, n / 4 + 0.01, 10.0 + n)
        assert running.infer(asked(n / 4, f"c{n}", far=0.1 * n, site=["JFK", "LGA"][n % 2])).status_code == 200
    done = compare.compare(space, "signs")
    assert (done.rows, done.cells, done.differ, done.examples) == (12, 60, 0, ())
    assert compare.compare(space, "signs", sample=5).rows == 5
    span = (START_US + HOUR, START_US + 2 * HOUR)
    assert compare.compare(space, "signs", span).rows == 4
    late = {
        "site": "JFK",
        "at": at(0.9),
        "temp": -5.0,
    }  # on a clock that stands still
    facts.add(space, local_actor(), "air", json.dumps(late).encode())
    found = compare.compare(space, "signs")
    assert found.differ == len({cell.id for cell in found.examples if cell.feature == "temp"}) + sum(
        cell.feature == "n" for cell in found.examples
    )
    assert {cell.feature for cell in found.examples} == {"temp", "n"}
    assert all(cell.at_us >= START_US + 0.9 * HOUR for cell in found.examples)
    assert "offline" in compare.text(found)


def test_a_look_up_that_cannot_be_made_says_why(running: Running, board: Space) -> None:
    early = running.infer(asked(-49, "old"))
    assert (early.status_code, early.json()["code"]) == (422, "lookup.too-early")
    odd = running.infer(asked(1, "odd", sched="yesterday"))
    assert (odd.status_code, odd.json()["field"]) == (422, "sched")
    null = running.infer(asked(1, "null", far=None))
    assert (null.status_code, null.json()["field"]) == (422, "far")
    short = asked(1, "short")
    del short["inputs"][0]
    assert running.infer(short).json()["code"] == "input.missing"
    batch = asked(1)
    for tensor in batch["inputs"]:
        tensor["shape"], tensor["data"] = [2], tensor["data"] * 2
    assert len(running.infer({**batch, "id": "two"}).json()["outputs"][0]["data"]) == 2
    assert predictions.find(board, "two/1").asked["site"] == "JFK"


def test_a_declaration_outside_the_subset_still_takes_full_rows(
    board: Space, worker_of: Callable[[Space], Running]
) -> None:
    spec = service.features_of(board, "signs")
    import msgspec

    odd = msgspec.structs.replace(spec, derive=(("mins", "hour(sched) + radians(far)"),))
    service.declare_features(board, local_actor(), odd)
    publish.show(board)
    running = worker_of(board)
    told = running.http.get("/v2/models/delay").json()["parameters"]["lookup"]
    assert "radians" in told["problem"]
    refused = running.infer(asked(1, "x"))
    assert refused.status_code == 422
    assert "radians" in refused.json()["hint"]


@pytest.fixture
def worker_of() -> Iterator[Callable[[Space], Running]]:
    made: list[Running] = []

    def start(space: Space) -> Running:
        made.append(Running(space))
        return made[-1]

    yield start
    for each in made:
        each.stop()
