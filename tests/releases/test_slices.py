"""A gate by slices: what the whole hides, by the loop's refits and for a version made by hand; and bad words."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import world as worlds
from world import Ask, Killed, World, kill_after_writes, make

import loopwright as lw
from loopwright.artifacts import names
from loopwright.kernel.errors import GateFailed, Invalid
from loopwright.kernel.op import silent
from loopwright.kernel.verdict import Verdict
from loopwright.loop import service as loop
from loopwright.models import service as models
from loopwright.monitors import queries as monitors
from loopwright.pipelines import queue
from loopwright.releases import desk as desks
from loopwright.releases import evidence, gates, service
from loopwright.releases import recipe as rules
from loopwright.releases.model import GateResult, Sliced
from loopwright.serving import routes
from loopwright.store import ledger

ME = "local:me"
CHECK = 'lw.slices("log_loss", by=["c"], min_n=90), lw.floor('
Start = Callable[[str], World]


def _asks() -> list[Ask]:
    """From 3 April the truth leans the other way on `x`, but for the level `c`, for which it stays."""
    moved, still = make("2013-04-03T00:00:00Z"), make(None)
    return [b if b.c == "c" else a for a, b in zip(moved, still, strict=True)]


@pytest.fixture
def start(tmp_path: Path, ground: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes a world whose models know only `x`, with a gate of some more checks; the first version serves."""
    made: list[World] = []

    def begin(check: str) -> World:
        text = worlds.PROJECT.replace("x, y = data\n", 'x, y = data\n    x = x[["x"]]\n').replace("lw.floor(", check)
        monkeypatch.setattr(worlds, "PROJECT", text)
        made.append(World(tmp_path / "project", _asks()))
        made[-1].deploy()
        return made[-1]

    yield begin
    for one in made:
        one.close()


def _slices(result: GateResult) -> Verdict:
    return next(verdict for verdict in result.checks if verdict.check == "slices")


def _events(world: World, kind: str) -> list[dict[str, Any]]:
    with world.space.read() as tx:
        return [event.data for event in ledger.read(tx, kinds=[kind], limit=1000)]


def _settle_killed(world: World) -> int:
    """Every write outside a job is once the last one before kill -9, and in each job its first."""
    inside, seen, killed = [False], set[str](), 0

    def submit(space: object, action_id: str) -> None:
        inside[0] = action_id in seen
        seen.add(action_id)
        try:
            world.submit(world.space, action_id)
        finally:
            inside[0] = False

    while True:
        kill_after_writes(world, lambda number: not inside[0])
        try:
            list(loop.settle(world.space, submit))
            return killed
        except Killed:
            killed += 1
        finally:
            del world.space.write  # type: ignore[attr-defined]


def test_a_refit_that_is_better_on_the_whole_is_refused_by_its_slice_and_decides_so_after_kills(start: Start) -> None:
    world = start(CHECK)
    world.run("2013-04-15T03:30:00Z")
    assert sum(_settle_killed(world) for _ in world.stops("2013-04-15T04:30:00Z")) > 5
    (refused,) = [data for data in _events(world, "gate.refused@1") if data["candidate"] == 3]
    told = refused["checks"]
    assert (told["better"], told["slices"], told["fast"]) == ("pass", "fail", "pass")
    assert "worse by more than 10 % in a level of c:" in refused["reason"]
    assert "c = c" not in str(refused)  # the chain of events holds no value of a feature
    figures = refused["figures"]["slices"]
    assert figures["days"] == refused["figures"]["better"]["days"]
    assert figures["interval"][0] > 0.1
    checked = service.check(world.space, "demo@3", submit=world.submit)
    assert "in c = c: " in _slices(checked).reason
    assert _slices(checked).evidence["judged"] == 3
    assert rules.figures(_slices(checked)) == figures
    _measured_once_and_again_the_same(world)
    with world.space.read() as tx:
        package, desk = gates.package(world.space, names.find(tx, "demo", 3)), desks.find(tx, "demo")
    unmeasured = world.space.write(lambda tx: gates.later(tx, desk, package))
    assert (_slices(unmeasured).outcome, unmeasured.verdict.passed) == ("unknown", False)
    _without_slices_it_passes(world)


def _measured_once_and_again_the_same(world: World) -> None:
    with world.space.read() as tx:
        (row,) = tx.query("SELECT action_id FROM jobs WHERE kind = ?", (evidence.SLICED,))
    job = queue.get(world.space, row["action_id"])
    assert job is not None
    assert evidence.measure_slices(world.space, job.args, silent) == job.result
    known = msgspec.convert(job.result, Sliced)
    with world.space.read() as tx:
        book = {pair.day: pair for pair in monitors.pairs(tx, "demo", since="2013-04-08") if (pair.a, pair.b) == (1, 2)}
    for day in known.stood:  # the slices of a day are together the pair that the block has
        parts = [pair for one in known.slices for pair in one.pairs if pair.day == day]
        assert sum(pair.n for pair in parts) == book[day].n
        assert sum(pair.loss_b for pair in parts) == pytest.approx(book[day].loss_b)


def _without_slices_it_passes(world: World) -> None:
    spec = routes.endpoint(world.space, "demo")
    plain = [check for check in spec.gate["checks"] if check["type"] != "slices"]
    world.space.write(lambda tx: routes.declare(tx, ME, msgspec.structs.replace(spec, gate={"checks": plain})))
    result = service.check(world.space, "demo@3", submit=world.submit)
    assert result.verdict.passed, result.verdict.reason


def _by_hand(world: World, columns: list[str]) -> str:
    import lightgbm as lgb

    x, y = world.module.seen.training(labels=world.module.truth, target="y", until="2013-04-05T00:00:00Z")
    kept = x[columns].iloc[-110:]
    kept.attrs.update(x.attrs)
    params = {"objective": "binary", "num_leaves": 7, "num_threads": 1, "verbose": -1, "deterministic": True}
    booster = lgb.train(params, lgb.Dataset(kept, y.iloc[-110:]), 20)
    package = models.store(world.space, lw.model("demo", booster, sample=kept))
    return str(world.space.write(lambda tx: names.register(tx, ME, "demo", package)).ref)


def test_a_version_made_by_hand_is_judged_by_slices_of_what_was_served(start: Start) -> None:
    world = start(CHECK)
    world.run("2013-04-10T05:00:00Z")
    blind, seeing = _by_hand(world, ["x"]), _by_hand(world, ["x", "c"])
    with pytest.raises(GateFailed, match=r"in c = c: .* higher loss than what was served in \d+ rows of 5 days"):
        service.deploy(world.space, ME, blind, submit=world.submit)
    verdict = _slices(service.check(world.space, seeing, submit=world.submit))
    assert verdict.passed, verdict.reason
    assert verdict.evidence["judged"] == 3


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("metric", {"metric": "auc"}), ("by", {"by": []}), ("by", {"by": ["c", "c"]}), ("by", {"by": [3]}),
        ("by", {"by": 3}), ("min_n", {"min_n": 0}), ("min_n", {"min_n": 2.5}), ("worse", {"worse": -0.1}),
        ("worse", {"worse": float("nan")}), ("worse", {"worse": "10 %"}),
    ],
)  # fmt: skip
def test_bad_words_are_refused_by_field(field: str, words: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        lw.slices(**{"metric": "log_loss", "by": ["c"], **words})
    assert (caught.value.code, caught.value.field) == ("gate.slices", field)
    assert "lw.slices(" in str(caught.value.hint)


def test_a_column_that_is_no_feature_is_refused_where_the_endpoint_is_declared(trained: World) -> None:
    module, gate = trained.module, lw.gate(lw.slices("log_loss", by=["carrier"]))
    with pytest.raises(Invalid, match=r"'seen' have no column 'carrier'; there are x, c") as caught:
        lw.endpoint("demo", model=module.train, features=module.seen, labels=module.truth, target="y", gate=gate)
    assert caught.value.field == "by"


def test_one_column_may_be_named_alone() -> None:
    assert lw.slices("log_loss", by="c").by == ("c",)
