"""A small made-up world that a replay drives in this process: requests, labels that come later, a truth that moves.

Rows are scored by the real packages, picked by the real arms, logged as real spools; only HTTP is left out.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loopwright import house
from loopwright.artifacts import names
from loopwright.kernel.op import silent
from loopwright.kernel.settings import Settings
from loopwright.kernel.times import DAY, HOUR, MINUTE, format_time, parse_time
from loopwright.loop import service as loop
from loopwright.loop.model import Due
from loopwright.models import service as models
from loopwright.models.value import Model
from loopwright.pipelines import queue
from loopwright.project import entry
from loopwright.project.declare import ENDPOINTS
from loopwright.releases import service as releases
from loopwright.releases import work
from loopwright.serving import labels, record, routes, seal
from loopwright.serving.record import Columns, LogRow
from loopwright.serving.scoring import arm_of
from loopwright.store import clock as clocks
from loopwright.store import frames, ledger
from loopwright.store.space import Space, bind

START = "2013-04-01T04:00:00Z"
PER_DAY = 60
FIRST, LAST = "2013-02-10T00:00:00Z", "2013-05-12T00:00:00Z"
PROJECT = """
import lightgbm as lgb

import loopwright as lw

asks = lw.data("asks.csv", key="id", known="asked_at")
truth = lw.data("truth.csv", key="id", known="known_at")
seen = lw.features("seen", asks, at="asked_at", columns=["x", "c"])


@lw.step
def table(until: str = "now"):
    return seen.training(labels=truth, target="y", until=until)


@lw.step
def train(data=table):
    x, y = data
    recent = x.tail(360)
    params = {
        "objective": "binary", "learning_rate": 0.15, "num_leaves": 7, "min_data_in_leaf": 20, "seed": 1,
        "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
    }
    return lw.model("demo", lgb.train(params, lgb.Dataset(recent, y.tail(360)), 25), sample=recent)


lw.endpoint(
    "demo", model=train, features=seen, labels=truth, target="y", keep=("demo@1",),
    gate=lw.gate(lw.floor("auc", FLOOR, holdout="10d"), lw.better("log_loss"), lw.known_in_time(), lw.fast()),
    policy=lw.warm(min_labels=20, POLICY),
)
"""


class Ask(msgspec.Struct, frozen=True):
    """One request and its truth, which is known at `known_us`."""

    id: str
    at_us: int
    x: float
    c: str
    y: int
    known_us: int


def make(moves_at: str | None, *, back_at: str | None = None, seed: int = 4) -> list[Ask]:
    """Requests between 6 and 22 o'clock; from `moves_at` (to `back_at`) the truth leans the other way on `x`."""
    draw, out = random.Random(seed), []
    first, last = parse_time(FIRST), parse_time(LAST)
    moved = parse_time(moves_at) if moves_at else last
    back = parse_time(back_at) if back_at else last
    for day in range((last - first) // DAY):
        for number in range(PER_DAY):
            at_us = first + day * DAY + 6 * HOUR + number * 16 * MINUTE
            x, c = draw.gauss(0, 1), draw.choice("abc")
            lean = -1.6 if moved <= at_us < back else 1.6
            chance = 1 / (1 + math.exp(-(lean * x + {"a": -0.5, "b": 0.0, "c": 0.5}[c])))
            known = at_us + 2 * HOUR
            out.append(Ask(f"r{day:03d}-{number:02d}", at_us, round(x, 6), c, int(draw.random() < chance), known))
    return out


class World:
    """A project on a replay clock, with its traffic."""

    def __init__(self, root: Path, asks: list[Ask], *, floor: float = 0.6, policy: str = "") -> None:
        self.root, self.asks = root, asks
        self.space = house.init(root, Settings(clock="replay", start=START, entry="project.py"))
        self._write_project(floor, policy)
        self._begin()

    @classmethod
    def reopen(cls, root: Path, asks: list[Ask]) -> "World":
        """A world that stands in a folder."""
        found = cls.__new__(cls)
        found.root, found.asks, found.space = root, asks, house.open(root)
        found._begin()
        return found

    def _begin(self) -> None:
        bind(self.space)
        _plug()
        ENDPOINTS.clear()
        self.module = entry.load(self.root / "project.py")
        self._models: dict[int, tuple[Model, list[str]]] = {}

    def _write_project(self, floor: float, policy: str) -> None:
        (self.root / "project.py").write_text(PROJECT.replace("FLOOR", str(floor)).replace("POLICY", policy))
        lines = [f"{a.id},{format_time(a.at_us)},{a.x},{a.c}" for a in self.asks]
        (self.root / "asks.csv").write_text("\n".join(["id,asked_at,x,c", *lines]) + "\n")
        lines = [f"{a.id},{format_time(a.known_us)},{a.y}" for a in self.asks]
        (self.root / "truth.csv").write_text("\n".join(["id,known_at,y", *lines]) + "\n")

    def close(self) -> None:
        """Let the folder go."""
        bind(None)
        self.space.close()

    def submit(self, space: Space, action_id: str) -> None:
        """Do queued jobs here, as the job server would."""
        while (job := queue.get(space, action_id)) is not None and job.state in ("queued", "running"):
            if job.state == "running":
                queue.requeue_running(space)
                continue
            mine = queue.claim(space)
            assert mine is not None
            try:
                result = house.jobs()[mine.kind](space, mine.args, silent)
            except Killed:
                raise
            except Exception as error:  # noqa: BLE001 - the boundary around a job
                queue.finish(space, mine, error=str(error))
                continue
            queue.finish(space, mine, result=result)

    def deploy(self) -> None:
        """Train and deploy the first version."""
        import loopwright as lw

        lw.run(self.module.train)
        releases.deploy(self.space, "local:me", "demo", submit=self.submit)

    def settle(self) -> list[Due]:
        """Do all that is due."""
        return list(loop.settle(self.space, self.submit))

    def stops(self, until: str) -> Iterator[int]:
        """Serve up to each next moment and move the clock there; the caller settles."""
        end = parse_time(until)
        while (now := self.space.clock.now_us()) < end:
            following = loop.next_moment(self.space)
            stop = end if following is None else min(end, following)
            self.serve(now, stop)
            self.space.write(lambda tx, stop=stop: clocks.advance(tx, "replay", stop))
            yield stop

    def run(self, until: str) -> None:
        """Live on to a moment."""
        self.settle()
        for _ in self.stops(until):
            self.settle()

    def serve(self, since_us: int, until_us: int) -> None:
        """Answer and log the requests of [since, until), then send the labels that became known by then."""
        asked = [a for a in self.asks if since_us <= a.at_us < until_us]
        if asked:
            self._log(asked, until_us)
        known = [a for a in self.asks if since_us < a.known_us <= until_us and a.at_us >= parse_time(START)]
        if known:
            lines = [{"id": a.id, "label": a.y, "known_at": format_time(a.known_us)} for a in known]
            labels.add(self.space, "local:me", "demo", b"\n".join(json.dumps(line).encode() for line in lines))

    def _log(self, asked: list[Ask], until_us: int) -> None:
        current = routes.current(self.space, "demo")
        live = [route for route in current if route.role == "live"]
        scores = {route.version: self._score(route.version, asked) for route in current}
        rows = []
        for place, ask in enumerate(asked):
            version = live[0].version
            for route in live[1:]:
                version = route.version if arm_of("demo", route.version, ask.id) < route.weight else version
            said = {v: found[place] for v, found in scores.items() if found[place] is not None}
            failed = {v: "the score is not finite" for v in scores if v not in said}
            answering = version if version in said else live[0].version
            rows.append(
                LogRow(
                    f"pred_{ask.id}",
                    ask.at_us,
                    ask.at_us,
                    ask.id,
                    answering,
                    version,
                    None,
                    [ask.x, ask.c],
                    said,
                    failed,
                    dict.fromkeys(said, 9),
                )
            )
        path = self.space.home / "spool" / "demo" / f"{record.spool_id(0, until_us)}.spool"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = record.header(Columns(("x", "c"), ("float64", "string")))
        path.write_bytes(frames.encode(header) + frames.encode(record.rows_payload(rows)))
        seal.seal(self.space)

    def _score(self, version: int, asked: list[Ask]) -> list[float]:
        if version not in self._models:
            found = models.load(self.space, names.get(self.space, "demo", version).digest)
            self._models[version] = (found, [field.name for field in found.card.signature.inputs])
        model, columns = self._models[version]
        return [float(v) for v in model.predict([[getattr(ask, name) for name in columns] for ask in asked])]

    def decisions(self) -> list[dict[str, Any]]:
        """What two equal replays must agree on."""
        with self.space.read() as tx:
            found = ledger.read(tx, kinds=ledger.decision_kinds(), limit=10_000)
        out = []
        for event in found:
            kind = ledger.kind_of(event)
            assert kind is not None
            stable = {name: event.data.get(name) for name in kind.stable}
            out.append({"at": format_time(event.at_us), "kind": event.kind, "subject": event.subject, **stable})
        return out

    def kinds(self) -> list[str]:
        """The kinds of the decisions."""
        return [str(line["kind"]).removesuffix("@1") for line in self.decisions()]

    def sentences(self) -> list[str]:
        """The decisions as people read them."""
        with self.space.read() as tx:
            return [ledger.sentence(e) for e in ledger.read(tx, kinds=ledger.decision_kinds(), limit=10_000)]


class Killed(BaseException):
    """Stands for kill -9."""


def kill_after_writes(world: World, when: Callable[[int], bool]) -> list[int]:
    """Let every write after which `when(number)` holds be the last thing that happens; returns the counter."""
    count = [0]
    plain = Space.write

    def write(fn: Any) -> Any:
        result = plain(world.space, fn)
        count[0] += 1
        if when(count[0]):
            raise Killed
        return result

    world.space.write = write  # type: ignore[method-assign]
    return count


def _plug() -> None:
    work.set_step_finder(lambda space, endpoint: ENDPOINTS[endpoint].model)


@pytest.fixture
def trained(tmp_path: Path, ground: str) -> Iterator[World]:
    """A project whose first model is trained and not yet served."""
    import loopwright as lw

    made = World(tmp_path / "project", make("2013-04-03T00:00:00Z"))
    lw.run(made.module.train)
    yield made
    made.close()
