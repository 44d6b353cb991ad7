"""Former champions that go along in shadow, and a deploy that waits for what becomes of it."""

import msgspec
import pytest
from world import World

from loopwright.artifacts import names
from loopwright.kernel.errors import GateFailed
from loopwright.kernel.op import silent
from loopwright.kernel.verdict import Verdict
from loopwright.releases import desk as desks
from loopwright.releases import gates, moves, queries, service, waiting
from loopwright.releases.model import Quarantined, Released, Rollout
from loopwright.serving import routes
from loopwright.store.database import Tx

ME = "local:me"


def _versions(tx: Tx, count: int) -> None:
    first = names.find(tx, "demo", 1)
    for number in range(2, count + 1):
        tx.execute(
            "INSERT INTO versions(name, number, digest, kind, run, at_us) VALUES (?, ?, ?, ?, ?, ?)",
            ("demo", number, first.digest, first.kind, None, first.at_us),
        )


def test_the_last_champions_that_were_not_rolled_back_go_along(trained: World) -> None:
    trained.deploy()
    policy = {**routes.endpoint(trained.space, "demo").policy, "pool": 2}
    spec = msgspec.structs.replace(routes.endpoint(trained.space, "demo"), policy=policy, keep=())

    def live(tx: Tx) -> tuple[list[int], list[int]]:
        routes.declare(tx, ME, spec)
        _versions(tx, 5)
        for version in (2, 3, 4, 5):
            queries.crown(tx, "demo", version, tx.now_us(), "promoted")
        queries.put_quarantined(
            tx, Quarantined(endpoint="demo", version=3, digest="other", at_us=tx.now_us(), reason="it failed")
        )
        desk = desks.find(tx, "demo")
        return queries.pool(tx, "demo", 2), [route.version for route in moves.wanted(tx, desk, moved=True)]

    pool, wanted = trained.space.write(live)
    assert pool == [4, 2] and wanted == [5, 2, 4]
    with trained.space.read() as tx:
        assert queries.pool(tx, "demo", 0) == []


def test_a_version_older_than_the_champion_stands_for_itself_alone(trained: World) -> None:
    trained.deploy()

    def live(tx: Tx) -> list[int]:
        for version, trained_us in ((2, 20), (3, 30), (4, 40)):
            tx.execute(
                "INSERT INTO trainings(endpoint, version, trained_us, at_us, refit) VALUES ('demo', ?, ?, 0, 1)",
                (version, trained_us),
            )
        desk = desks.find(tx, "demo")
        old, young = (gates.Package(version=v, inputs=(), trained_us=10 * v) for v in (2, 4))
        assert gates.stand_ins(tx, desk, young, 2) == [3, 4]
        return gates.stand_ins(tx, desk, old, 3)

    assert trained.space.write(live) == [2]


def _ended(world: World, outcome: str, phase: str) -> Released:
    rollout = Rollout(
        id="rollout_demo_2_9", endpoint="demo", champion=1, candidate=2, phase=phase, step=0,  # type: ignore[arg-type]
        since_us=0, next_us=None, first_day="2013-04-01", opened_us=0, cause=None, outcome=outcome,
    )  # fmt: skip
    world.space.write(lambda tx: queries.put_rollout(tx, rollout))
    return Released(endpoint="demo", version=2, routes="v1=1", what="", workers=0)


def test_a_deploy_that_waits_ends_with_what_became_of_it(trained: World, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.deploy()
    done = _ended(trained, "", "shadow")
    said = Verdict(outcome="fail", check="no_harm", reason="it did harm")

    def refuse(_: float) -> None:
        trained.space.write(lambda tx: queries.put_verdict(tx, "demo", (2, 1), said, 0))
        _ended(trained, "refused", "done")

    monkeypatch.setattr(waiting.time, "sleep", refuse)
    with pytest.raises(GateFailed, match="demo@2 was refused: it did harm"):
        waiting.until_placed(trained.space, done, silent)
    _ended(trained, "promoted", "watch")
    assert waiting.until_placed(trained.space, done, silent) == done


def test_nothing_is_held_against_a_version_that_was_never_rolled_back(trained: World) -> None:
    trained.deploy()
    with trained.space.read() as tx:
        assert queries.quarantine(tx, "demo") == []
    assert service.check(trained.space, "demo@1").waits == ""
