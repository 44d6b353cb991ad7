"""A small project about people: sources, features, a trained model, served requests, labels, and one planted name."""

import csv
import gzip
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm as lgb
from planted import NAME, SUBJECT

import loopwright as lw
from loopwright.access import permits
from loopwright.kernel.times import DAY, MINUTE, parse_time
from loopwright.notes import service as notes
from loopwright.pipelines.service import run_step
from loopwright.serving import labels, publish, routes, subjects
from loopwright.serving.model import EndpointSpec, Route
from loopwright.serving.record import Columns, LogRow
from loopwright.serving.seal import seal
from loopwright.serving.spool import Spool
from loopwright.store.space import Space

ME = "local:tester"
ENDPOINT = "mood"
ROWS = 120

asks = lw.data("asks.csv", key="id", known="asked_at")
people = lw.data("people.parquet", key="who", known="always")
visits = lw.data("visits.csv.gz", key="id", known="left_at")
outcomes = lw.data("outcomes.csv", key="id", known="known_at")
signals = lw.features(
    "signals",
    asks,
    at="asked_at",
    columns=["x", "shop"],
    joins=[
        lw.lookup(people, on="who", columns=["age"]),
        lw.window(visits, on="shop", last="2h", n=("count", "stay")),
    ],
)


@lw.step
def table(until: str = "now"):
    return signals.training(labels=outcomes, target="good", until=until)


@lw.step
def train(data=table, trees: int = 3, greeting: str = ""):
    x, y = data
    params = {"objective": "binary", "min_data_in_leaf": 5, "seed": 1, "deterministic": True, "force_row_wise": True}
    booster = lgb.train({**params, "num_threads": 1, "verbose": -1}, lgb.Dataset(x, y), trees)
    lw.log_file(Path("seen.txt"))
    return lw.model(ENDPOINT, booster, sample=x)


def write_files(root: Path) -> None:
    start = datetime(2013, 3, 1)
    whos = [NAME if n % 20 == 3 else f"Someone{n % 17}" for n in range(ROWS)]
    with (
        open(root / "asks.csv", "w", newline="") as a,
        open(root / "outcomes.csv", "w", newline="") as o,
        gzip.open(root / "visits.csv.gz", "wt", newline="") as v,
    ):
        one, two, three = csv.writer(a), csv.writer(o), csv.writer(v)
        one.writerow(["id", "asked_at", "x", "shop", "who"])
        two.writerow(["id", "known_at", "good"])
        three.writerow(["id", "left_at", "shop", "stay"])
        for n, who in enumerate(whos):
            at = start + timedelta(hours=n)
            one.writerow([f"old-{n}", at.isoformat(), n % 7 + n / 1000, "north" if n % 3 else "south, old", who])
            two.writerow([f"old-{n}", (at + timedelta(hours=5)).isoformat(), int(n % 7 > 3)])
            three.writerow([f"old-{n}", (at + timedelta(hours=1)).isoformat(), "north", n % 5])
    con = lw_duckdb()
    con.execute(
        "CREATE TABLE p AS SELECT UNNEST(?::VARCHAR[]) AS who, UNNEST(?::INTEGER[]) AS age",
        [sorted(set(whos)), list(range(len(set(whos))))],
    )
    con.execute(f"COPY p TO '{root / 'people.parquet'}' (FORMAT parquet)")
    con.close()
    (root / "seen.txt").write_text(f"the last one was {NAME}, again\n")


def lw_duckdb() -> Any:
    import duckdb

    return duckdb.connect(config={"threads": "1"})


def prepare(space: Space, *, logged: int = 40) -> None:
    """A trained model that serves, a log of sealed files and an open spool, labels and a note."""
    write_files(space.root)
    space.write(
        lambda tx: routes.declare(
            tx, ME, EndpointSpec(name=ENDPOINT, model=ENDPOINT, features="signals", labels="outcomes", target="good")
        )
    )
    run_step(space, ME, train, {"greeting": f"for {NAME}"})
    live = [Route(1, 1.0, "live")]

    def serve(tx: Any) -> None:
        states = (routes.state_of(routes.routes_in(tx, ENDPOINT)), routes.state_of(live))
        verdict = {"outcome": "pass", "check": "test", "reason": "a test says so"}
        permit = permits.issue(tx, ME, f"endpoint:{ENDPOINT}", states, evidence=[], verdict=verdict, ttl_us=60_000_000)
        routes.set(tx, ME, ENDPOINT, live, permit=permit)
        notes.put(tx, ME, f"held because {NAME} asked for it")

    space.write(serve)
    publish.publish(space)
    log(space, logged)


def log(space: Space, rows: int, *, first: int = 0) -> None:
    """Rows of two sealed files and of one spool that is left open, every fifth of them the subject's, with labels."""
    hasher, now = subjects.hasher(space), parse_time("2013-04-01T05:00:00Z")
    columns = Columns(("x", "shop", "age", "n"), ("float64", "string", "float64", "float64"))
    lines = []
    for part in range(3):
        spool = Spool(space.home, ENDPOINT, part, lambda work: work())
        for n in range(rows):
            number = first + part * rows + n
            at = now + number * MINUTE
            name, whose = f"ask-{number}", hasher(SUBJECT if n % 5 == 0 else f"who=Someone{n}")
            row = LogRow(spool.next_id(at), at, at, name, 1, 1, whose, [number / 7, "north", None, 2.0])
            row.scores = {1: number / 1000}
            spool.append(columns, [row])
            lines.append(f'{{"id": "{name}", "label": {number % 2}, "known_at": "2013-04-01T09:00:00Z"}}')
        spool.rotate()
        if part < 2:
            seal(space)
    labels.add(space, ME, ENDPOINT, "\n".join(lines).encode())


def later(space: Space) -> None:
    """A day goes by."""
    space.write(lambda tx: tx.execute("UPDATE clock SET now_us = now_us + ?", (DAY,)))
