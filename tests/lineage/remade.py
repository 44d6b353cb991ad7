"""A small project in a folder: data, facts, served requests with labels, and a model trained on all of it."""

import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from loopwright.access import permits
from loopwright.artifacts import names
from loopwright.artifacts.model import Version
from loopwright.data import facts
from loopwright.kernel.times import HOUR, MINUTE, parse_time
from loopwright.pipelines.service import run_step
from loopwright.project import entry, run
from loopwright.project.declare import ENDPOINTS
from loopwright.serving import labels, publish, routes, subjects
from loopwright.serving.model import Route
from loopwright.serving.record import Columns, LogRow
from loopwright.serving.spool import Spool
from loopwright.store.space import Space

ME = "local:me"
START = "2013-04-01T04:00:00Z"
PROJECT = """
import lightgbm as lgb

import loopwright as lw

asks = lw.data("asks.csv", key="id", known="asked_at")
skies = lw.data("skies.csv", key="shop", time="at", known="at")
outcomes = lw.data("outcomes.csv", key="id", known="known_at")
signals = lw.features(
    "signals", asks, at="asked_at", columns=["x", "shop"], joins=[lw.asof(skies, on="shop", columns=["rain"])]
)


@lw.step
def table(until: str = "now"):
    return signals.training(labels=outcomes, target="good", until=until)


@lw.step
def train(data=table, trees: int = 3):
    x, y = data
    params = {"objective": "binary", "min_data_in_leaf": 5, "seed": 1, "deterministic": True, "force_row_wise": True}
    booster = lgb.train({**params, "num_threads": 1, "verbose": -1}, lgb.Dataset(x, y), trees)
    return lw.model("mood", booster, sample=x.head(20))


lw.endpoint("mood", model=train, features=signals, labels=outcomes, target="good")
"""


def write(root: Path) -> None:
    """The files of the project."""
    first, lines, truths = datetime(2013, 3, 1), ["id,asked_at,x,shop,who"], ["id,known_at,good"]
    for n in range(300):
        at = first + timedelta(hours=2 * n)
        shop = "north" if n % 3 else "south"
        lines.append(f"old-{n},{at.isoformat()},{n % 7 + n / 1000},{shop},someone-{n % 17}")
        truths.append(f"old-{n},{(at + timedelta(hours=5)).isoformat()},{int(n % 7 > 3)}")
    skies = [f"{shop},{(first + timedelta(hours=9 * n)).isoformat()},{n % 5}" for n in range(60) for shop in SHOPS]
    (root / "asks.csv").write_text("\n".join(lines) + "\n")
    (root / "outcomes.csv").write_text("\n".join(truths) + "\n")
    (root / "skies.csv").write_text("\n".join(["shop,at,rain", *skies]) + "\n")
    (root / "project.py").write_text(PROJECT)


SHOPS = ("north", "south")


def load(space: Space) -> Any:
    """The project's module."""
    ENDPOINTS.clear()
    return entry.load(space.root / "project.py")


def first(space: Space) -> Version:
    """The model that is trained on the files alone."""
    write(space.root)
    module = load(space)
    run.take(space, ME, space.root / "project.py")
    run_step(space, ME, module.train, {"until": START})
    return names.get(space, "mood", 1)


def second(space: Space) -> Version:
    """The model that is trained on served requests too, and on skies that arrived as facts."""
    live = [Route(1, 1.0, "live")]

    def serve(tx: Any) -> None:
        states = (routes.state_of(routes.routes_in(tx, "mood")), routes.state_of(live))
        verdict = {"outcome": "pass", "check": "test", "reason": "a test says so"}
        permit = permits.issue(tx, ME, "endpoint:mood", states, evidence=[], verdict=verdict, ttl_us=MINUTE)
        routes.set(tx, ME, "mood", live, permit=permit)

    space.write(serve)
    publish.publish(space)
    facts.add(space, ME, "skies", b'{"shop": "north", "at": "2013-04-01T05:00:00Z", "rain": 4}')
    _asked(space)
    go(space, 60 * HOUR)
    run_step(space, ME, load(space).train, {"trees": 5, "until": "2013-04-03T12:00:00Z"})
    late = b'{"id": "ask-3", "label": 0, "known_at": "2013-04-02T10:00:00Z"}'
    labels.add(space, ME, "mood", late)  # as if it had been known: the training did not have it
    return names.get(space, "mood", 2)


def _asked(space: Space) -> None:
    spool, now = Spool(space.home, "mood", 0, lambda work: work()), parse_time(START)
    columns, lines = Columns(("x", "shop", "rain"), ("float64", "string", "float64")), []
    hasher = subjects.hasher(space)
    for n in range(120):
        at = now + n * 10 * MINUTE
        row = LogRow(
            spool.next_id(at), at, at, f"ask-{n}", 1, 1, hasher(f"who=someone-{n % 17}"), [n % 5, "north", 2.0]
        )
        row.scores = {1: n / 1000}
        spool.append(columns, [row])
        lines.append(f'{{"id": "ask-{n}", "label": {n % 2}, "known_at": "2013-04-02T09:00:00Z"}}')
    spool.rotate()
    labels.add(space, ME, "mood", "\n".join(lines).encode())


def go(space: Space, us: int) -> None:
    """Let data time go by."""
    space.write(lambda tx: tx.execute("UPDATE clock SET now_us = now_us + ?", (us,)))


def git(folder: Path, *words: str) -> None:
    """Call git with a name to commit under."""
    known = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *known, *words], cwd=folder, check=True, capture_output=True)
