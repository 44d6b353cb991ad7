"""The loop over a small world: what it decides, that a killed loop decides the same, and what a hold stops."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import BACK, MOVES
from world import Killed, World, kill_after_writes, make

from loopwright.artifacts import names
from loopwright.kernel.errors import Conflict, NotFound
from loopwright.kernel.times import DAY, HOUR, parse_time
from loopwright.loop import moments, queries
from loopwright.loop import service as loop
from loopwright.monitors import queries as monitors
from loopwright.monitors import service as quality
from loopwright.releases import queries as releases
from loopwright.releases import service
from loopwright.releases.policy import WarmRecipe
from loopwright.serving import routes
from loopwright.store import clock as clocks
from loopwright.store.database import Tx


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world that has lived to 23 April: a promotion, and a rollback when the truth moved back."""
    made = World(tmp_path_factory.mktemp("lived") / "project", make(MOVES, back_at=BACK))
    made.deploy()
    made.run("2013-04-23T05:00:00Z")
    yield made
    made.close()


def test_a_model_lives_through_a_drift_and_back(lived: World) -> None:
    story = [kind for kind in lived.kinds() if not kind.startswith(("alarm", "challenger"))]
    assert story == [
        "gate.passed", "endpoint.deployed",
        "gate.refused",  # 8 April: no day yet to compare on
        "gate.passed",  # 15 April: the challenger of the 8th has won its week; this week's refit goes on
        "canary.stepped", "canary.stepped", "canary.stepped", "version.promoted",
        "version.rolled-back", "version.quarantined",  # 19 April: two days of gross harm
        "gate.refused",
    ]  # fmt: skip
    told = {line["kind"]: line for line in lived.decisions()}
    assert told["version.promoted@1"]["at"] == "2013-04-17T04:00:00Z"
    assert (told["version.promoted@1"]["version"], told["version.promoted@1"]["replaced"]) == (3, 1)
    assert told["version.rolled-back@1"]["at"] == "2013-04-19T04:00:00Z"
    assert (told["version.rolled-back@1"]["version"], told["version.rolled-back@1"]["replaced"]) == (1, 3)


def test_the_decisions_read_as_sentences(lived: World) -> None:
    passed = next(text for text in lived.sentences() if text.startswith("demo@3 passed the gate"))
    assert "lower log loss than demo@1 over 7 days (needs 1 %)" in passed
    assert not any("?" in text for text in lived.sentences())


def test_the_quality_alarm_pages_explains_and_starts_nothing(lived: World) -> None:
    with lived.space.read() as tx:
        found = monitors.alarms(tx, "demo")
    assert found[0].opened_us == parse_time("2013-04-10T04:00:00Z")
    assert "skill" in found[0].reason
    assert found[0].explanation["moved"] == []  # the columns stay as they were: it is the truth that turned
    assert found[0].explanation["worst_segment"]["column"] == "c"
    trained = [line["until"] for line in lived.decisions() if line["kind"] == "challenger.trained@1"]
    assert trained == ["2013-04-08T04:00:00Z", "2013-04-15T04:00:00Z", "2013-04-22T04:00:00Z"]


def test_the_label_and_the_routes_follow(lived: World) -> None:
    assert [move.number for move in names.label_history(lived.space, "demo", "prod")] == [1, 3, 1]
    current = routes.current(lived.space, "demo")
    assert routes.state_of(current) == "v1=1"
    # the refit of the 22nd; the one before it went when the day of that training was closed
    assert sorted(route.version for route in current if route.role == "shadow") == [4]


def test_a_twin_is_no_version(lived: World) -> None:
    assert [version.number for version in names.versions(lived.space, "demo")] == [1, 2, 3, 4]


def test_the_rolled_back_version_is_not_gone_back_to(lived: World) -> None:
    with pytest.raises(NotFound):
        service.rollback(lived.space, "local:me", "demo")


def test_quality_by_day_and_version(lived: World) -> None:
    found = quality.quality(lived.space, "demo", days=40)
    assert [day.day for day in found.days][:2] == ["2013-04-01", "2013-04-02"]
    day = next(day for day in found.days if day.day == "2013-04-16")
    assert (day.requests, day.labelled, day.late) == (60, 60, 0)
    assert set(day.versions) == {"1", "3"}  # version 2 went when the day of 3's training was closed
    assert day.served.low is not None
    assert day.served.low < (day.served.loss or 0) < (day.served.high or 0)
    assert day.versions["3"].loss is not None
    assert day.versions["3"].loss < (day.versions["1"].loss or 0)
    assert found.reference is not None


def test_the_state_says_what_comes_next(lived: World) -> None:
    state = loop.state(lived.space, "demo")
    assert state.champion == 1
    assert [(line.at, line.what.split()[0]) for line in state.next] == [
        ("2013-04-24T04:00:00Z", "close"),
        ("2013-04-29T04:00:00Z", "train"),
    ]
    assert loop.next_moment(lived.space) == parse_time("2013-04-23T08:00:00Z"), "its feeds are looked at between"


def test_a_loop_that_is_killed_after_every_write_decides_the_same(lived: World, tmp_path: Path) -> None:
    """Every write outside a job is once the last one before kill -9, and in each job one of its own."""
    made = World(tmp_path / "project", lived.asks)
    made.deploy()
    killed = _settle_killed(made)
    for _ in made.stops("2013-04-23T05:00:00Z"):
        killed += _settle_killed(made)
    assert made.decisions() == lived.decisions()
    assert killed > 60
    made.close()


def _settle_killed(world: World) -> int:
    inside, seen, killed = [False], set[str](), 0

    def submit(space: object, action_id: str) -> None:
        inside[0] = action_id in seen  # a job is killed once, at its first write; then it may go on
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


def test_a_copy_of_the_folder_lives_on_alike(lived: World, tmp_path: Path) -> None:
    """What is decided next hangs on nothing but what is stored."""
    shutil.copytree(lived.root, tmp_path / "twin")
    twin = World.reopen(tmp_path / "twin", lived.asks)
    before = lived.decisions()
    assert twin.decisions() == before
    twin.run("2013-04-30T05:00:00Z")
    assert twin.decisions()[: len(before)] == before
    assert "challenger.trained@1" in [line["kind"] for line in twin.decisions()[len(before) :]]
    twin.close()


def test_a_pause_stops_training_gate_and_promotion_and_says_so(world: World) -> None:
    world.run("2013-04-05T05:00:00Z")
    service.pause(world.space, "local:me", "demo", "the feed is being looked at")
    with pytest.raises(Conflict):
        service.pause(world.space, "local:me", "demo", "again")
    world.run("2013-04-09T05:00:00Z")
    assert [line["work"] for line in world.decisions() if line["kind"] == "work.held@1"] == [
        "the training and the gate"
    ]
    assert "challenger.trained" not in world.kinds()
    service.resume(world.space, "local:me", "demo")
    world.run("2013-04-15T05:00:00Z")
    assert world.kinds()[-2:] == ["challenger.trained", "gate.refused"]
    assert "the feed" not in str(world.decisions())


def test_moments_that_were_slept_through_are_trained_for_once(world: World) -> None:
    """Three weeks without the loop: the blocks are closed one by one, only the newest training is done."""
    world.settle()
    world.serve(parse_time("2013-04-01T04:00:00Z"), parse_time("2013-04-22T05:00:00Z"))
    world.space.write(lambda tx: clocks.advance(tx, "replay", parse_time("2013-04-22T05:00:00Z")))
    done = world.settle()
    assert [due.key for due in done if due.work == "close"][:2] == ["2013-04-01", "2013-04-02"]
    skipped = [(line["until"], line["why"]) for line in world.decisions() if line["kind"] == "trigger.skipped@1"]
    assert skipped == [("2013-04-08T04:00:00Z", "missed"), ("2013-04-15T04:00:00Z", "missed")]
    assert [line["until"] for line in world.decisions() if line["kind"] == "challenger.trained@1"] == [
        "2013-04-22T04:00:00Z"
    ]
    assert world.settle() == []


def test_a_training_that_fails_is_told_and_the_loop_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightgbm

    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no space left on the device")

    with monkeypatch.context() as patch:
        patch.setattr(lightgbm, "train", broken)
        world.run("2013-04-08T05:00:00Z")
    failed = [text for text in world.sentences() if text.startswith("the training of demo failed")]
    assert len(failed) == 1
    assert "no space left" in failed[0]
    assert loop.next_moment(world.space) == parse_time("2013-04-08T08:00:00Z")


def test_rollback_of_a_canary_and_of_a_champion(world: World) -> None:
    world.run("2013-04-16T13:00:00Z")
    assert routes.state_of(routes.current(world.space, "demo")) == "v1=0.75,v3=0.25"
    stopped = service.rollback(world.space, "local:me", "demo")
    assert stopped.routes == "v1=1"
    assert world.kinds()[-1] == "rollout.aborted"
    with pytest.raises(NotFound):
        service.rollback(world.space, "local:me", "demo")


def test_a_rollback_never_goes_back_to_what_was_rolled_back(world: World) -> None:
    def reign(tx: Tx) -> None:
        releases.crown(tx, "demo", 2, tx.now_us(), "promoted")
        releases.crown(tx, "demo", 3, tx.now_us(), "promoted")
        releases.crown(tx, "demo", 2, tx.now_us(), "rolled-back")
        releases.crown(tx, "demo", 1, tx.now_us(), "rolled-back")

    world.space.write(reign)
    with pytest.raises(NotFound, match="before demo@1"):
        service.rollback(world.space, "local:me", "demo")


def test_settings_changed_in_a_canary_hold_from_its_next_move_on(world: World) -> None:
    world.run("2013-04-16T13:00:00Z")
    spec = routes.endpoint(world.space, "demo")
    policy = msgspec.to_builtins(msgspec.convert({**spec.policy, "canary": (1.0,)}, WarmRecipe))
    changed = msgspec.structs.replace(spec, policy=policy)
    world.space.write(lambda tx: routes.declare(tx, "local:me", changed))
    world.settle()
    assert routes.state_of(routes.current(world.space, "demo")) == "v1=0.75,v3=0.25"
    assert loop.state(world.space, "demo").rollouts[0].step == 1
    world.run("2013-04-16T21:00:00Z")
    assert routes.state_of(routes.current(world.space, "demo")) == "v3=1"
    assert world.kinds()[-1] == "version.promoted"


def test_a_verdict_on_an_empty_place_moves_nothing_once_the_place_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import loopwright as lw

    world = World(tmp_path / "project", make(MOVES))
    try:
        lw.run(world.module.train, until="2013-03-20T00:00:00Z")
        lw.run(world.module.train)
        judge, judged = service._judge, []

        def slowly(*args: Any) -> Any:
            found = judge(*args)
            if not judged:
                judged.append(found)
                service.deploy(world.space, "local:you", "demo@1", submit=world.submit)
            return found

        monkeypatch.setattr(service, "_judge", slowly)
        with pytest.raises(Conflict, match="took the place"):
            service.deploy(world.space, "local:me", "demo@2", submit=world.submit)
        assert judged[0][0].verdict.passed
        with world.space.read() as tx:
            assert (releases.champion(tx, "demo"), releases.open_rollouts(tx, "demo")) == (1, [])
    finally:
        world.close()


def test_rollback_to_the_champion_before_ends_its_watch(world: World) -> None:
    world.run("2013-04-18T05:00:00Z")
    back = service.rollback(world.space, "local:me", "demo")
    assert (back.version, back.routes) == (1, "v1=1")
    with world.space.read() as tx:
        assert releases.open_rollouts(tx, "demo") == []
        assert [reign.ended for reign in releases.reigns(tx, "demo")] == ["promoted", "rolled-back", ""]
    world.run("2013-04-20T05:00:00Z")
    assert world.kinds()[-2:] == ["version.rolled-back", "version.quarantined"]


def test_a_version_made_by_hand_goes_in_shadow_first_and_by_its_own_days_later(world: World) -> None:
    world.run("2013-04-08T05:00:00Z")
    with pytest.raises(Exception, match="0 days on which"):
        service.deploy(world.space, "local:me", "demo@2", submit=world.submit)
    service.shadow(world.space, "local:me", "demo@2")
    world.run("2013-04-14T05:00:00Z")
    result = service.check(world.space, "demo@2")
    assert result.verdict.passed
    done = service.deploy(world.space, "local:me", "demo@2")
    assert done.routes == "v1=1"
    with pytest.raises(Conflict):
        service.deploy(world.space, "local:me", "demo@2")
    world.run("2013-04-16T05:00:00Z")
    assert "version.promoted" in world.kinds()


def test_cool_down_and_cap_stand_against_a_trigger(world: World) -> None:
    from loopwright.loop.actions import _against
    from loopwright.loop.model import Cycle
    from loopwright.releases import desk as desks

    now = parse_time("2013-04-08T04:00:00Z")

    def fill(tx: object, moments_us: list[int]) -> tuple[str, str]:
        for moment in moments_us:
            queries.put(tx, Cycle(endpoint="demo", moment_us=moment, state="done", outcome="trained"))  # type: ignore[arg-type]
        return _against(tx, desks.find(tx, "demo"), now)  # type: ignore[arg-type]

    assert world.space.write(lambda tx: fill(tx, [])) == ("", "")
    assert world.space.write(lambda tx: fill(tx, [now - DAY]))[0] == ""
    assert world.space.write(lambda tx: fill(tx, [now - k * DAY for k in range(1, 9)]))[0] == "capped"
    assert world.space.write(lambda tx: fill(tx, [now - DAY // 2]))[0] == "cooling"


def test_a_day_of_23_hours_is_neither_too_soon_nor_one_too_many(tmp_path: Path) -> None:
    from loopwright.loop.actions import _against
    from loopwright.loop.model import Cycle
    from loopwright.releases import desk as desks

    world = World(tmp_path / "project", make(MOVES), policy='every="1d", at_most="28 in 28d",')
    now = parse_time("2013-04-08T04:00:00Z")
    try:
        world.deploy()

        def live(tx: Tx) -> tuple[str, str]:
            for day in range(1, 29):
                moment = now - day * DAY + HOUR  # each day but the last had 24 hours
                queries.put(tx, Cycle(endpoint="demo", moment_us=moment, state="done", outcome="trained"))
            return _against(tx, desks.find(tx, "demo"), now)

        assert world.space.write(live) == ("", "")
    finally:
        world.close()


def test_what_is_due_is_in_order(world: World) -> None:
    with world.space.read() as tx:
        due = moments.all_due(tx)
    assert [(d.work, d.at_us) for d in due] == [
        ("feeds", parse_time("2013-04-01T08:00:00Z")),
        ("close", parse_time("2013-04-02T04:00:00Z")),
        ("cycle", parse_time("2013-04-08T04:00:00Z")),
    ]
