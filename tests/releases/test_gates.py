"""Gates, verdicts and permits: what is refused, that it is kept and told, and that there is no way round."""

import random
from pathlib import Path

import msgspec
import pytest
from world import World, make

from loopwright.access import permits
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.kernel.errors import Forbidden, GateFailed, Invalid, NotFound
from loopwright.kernel.verdict import Verdict
from loopwright.models import service as models
from loopwright.releases import desk as desks
from loopwright.releases import moves, ops, queries, service, text
from loopwright.releases.moves import Leave
from loopwright.serving import routes
from loopwright.serving.model import Route
from loopwright.store import clock as clocks
from loopwright.store import ledger
from loopwright.store.database import Tx

ME = "local:me"


def test_check_says_what_stands_for_and_against(trained: World) -> None:
    result = service.check(trained.space, "demo", submit=trained.submit)
    assert result.verdict.passed
    assert {verdict.check: verdict.outcome for verdict in result.checks} == {
        "floor": "pass", "known_in_time": "pass", "fast": "pass",
    }  # fmt: skip
    floor = result.checks[0]
    assert floor.evidence["n"] == 600  # ten days of 60 requests, all labelled by then
    shown = text.gate(result)
    assert shown.splitlines()[0] == "demo@1: passed by the gate"
    assert routes.current(trained.space, "demo") == []
    assert [version.number for version in names.versions(trained.space, "demo")] == [1]
    with trained.space.read() as tx:
        kept = queries.verdicts(tx, "demo", 1)
    assert [verdict.check for verdict in kept] == ["floor", "known_in_time", "fast", "gate"]


def test_a_floor_that_is_too_high_refuses_and_serves_nothing(tmp_path: Path) -> None:
    import loopwright as lw

    made = World(tmp_path / "project", make(None), floor=0.99)
    lw.run(made.module.train)
    with pytest.raises(GateFailed) as caught:
        service.deploy(made.space, ME, "demo", submit=made.submit)
    assert "at least 0.99 is asked" in caught.value.message
    assert caught.value.verdict.outcome == "fail"
    assert routes.current(made.space, "demo") == []
    assert made.kinds() == ["gate.refused"]
    checked = service.check(made.space, "demo", submit=made.submit)
    op = next(op for op in ops.OPS if op.cli == "check")
    assert op.exit_code is not None
    assert op.exit_code(checked) == 3
    made.close()


def test_a_model_with_a_column_that_is_not_known_in_time_is_refused_by_name(trained: World) -> None:
    import lightgbm as lgb
    import pandas as pd

    import loopwright as lw

    draw = random.Random(1)
    frame = pd.DataFrame({"x": [draw.gauss(0, 1) for _ in range(300)], "leak": [draw.random() for _ in range(300)]})
    late = (frame["leak"] > 0.5).astype(int)
    booster = lgb.train({"objective": "binary", "num_threads": 1, "verbose": -1}, lgb.Dataset(frame, late), 5)
    package = models.store(trained.space, lw.model("demo", booster, sample=frame))
    trained.space.write(lambda tx: models.register(tx, ME, "demo", package))
    with pytest.raises(GateFailed, match="leak: not known at the asking time by the features 'seen'"):
        service.deploy(trained.space, ME, "demo@2", submit=trained.submit)
    assert routes.current(trained.space, "demo") == []


def test_what_is_not_there_cannot_be_deployed(trained: World) -> None:
    with pytest.raises(NotFound):
        service.deploy(trained.space, ME, "demo@9", submit=trained.submit)
    with pytest.raises(NotFound):
        service.deploy(trained.space, ME, "other", submit=trained.submit)


def test_the_routes_cannot_be_set_round_the_gate(trained: World) -> None:
    live = [Route(1, 1.0, "live")]
    with pytest.raises(Forbidden):
        trained.space.write(lambda tx: routes.set(tx, ME, "demo", live))
    with trained.space.read() as tx:
        desk = desks.find(tx, "demo")

    def crown(tx: Tx) -> None:
        queries.crown(tx, "demo", 1, tx.now_us())
        moves.reroute(tx, desk)  # the state asks for it, and still nobody has given leave

    with pytest.raises(Forbidden):
        trained.space.write(crown)
    assert routes.current(trained.space, "demo") == []


def test_no_permit_comes_out_of_a_verdict_that_refuses(trained: World) -> None:
    refused = Verdict(outcome="fail", check="gate", reason="not good enough")
    with trained.space.read() as tx:
        desk = desks.find(tx, "demo")

    def crown(tx: Tx) -> None:
        queries.crown(tx, "demo", 1, tx.now_us())
        moves.reroute(tx, desk, Leave(verdict=refused, evidence=[], cause=1))

    with pytest.raises(Forbidden):
        trained.space.write(crown)
    with trained.space.read() as tx:
        assert tx.value("SELECT COUNT(*) FROM permits") == 0


def test_a_permit_is_for_one_move_and_the_label_is_guarded(trained: World) -> None:
    trained.deploy()
    with trained.space.read() as tx:
        row = tx.one("SELECT * FROM permits WHERE subject = 'endpoint:demo'")
    assert row is not None
    assert (row["from_state"], row["to_state"]) == ("", "v1=1")
    assert len(msgspec.json.decode(row["evidence"])) == 4
    first = names.get(trained.space, "demo", 1)
    package = artifacts.get(trained.space, first.digest)
    trained.space.write(lambda tx: names.register(tx, ME, "demo", package))
    other = [Route(2, 1.0, "live")]
    with pytest.raises(Forbidden, match="another move"):
        trained.space.write(lambda tx: routes.set(tx, ME, "demo", other, permit=row["id"]))
    with pytest.raises(Forbidden):
        trained.space.write(lambda tx: names.move(tx, ME, "demo", "prod", 2))
    trained.space.write(lambda tx: clocks.advance(tx, "replay", tx.now_us() + 2 * moves.PERMIT_TTL_US))
    with pytest.raises(Forbidden, match="expired"):
        trained.space.write(lambda tx: permits.use(tx, row["id"], "endpoint:demo", "", "v1=1"))


def test_events_hold_no_words_of_people(trained: World) -> None:
    trained.deploy()
    service.pause(trained.space, ME, "demo", "Ann saw odd labels")
    with trained.space.read() as tx:
        found = ledger.read(tx, limit=10_000)
    assert "Ann" not in str([event.data for event in found])


def test_a_pause_needs_a_reason(trained: World) -> None:
    with pytest.raises(Invalid):
        ops.pause(trained.space, ME, endpoint="demo")
    ops.pause(trained.space, ME, endpoint="demo", reason="feed")
    assert ops.resume(trained.space, ME, endpoint="demo").lifted_us is not None
