"""A person's leave, a version that fails in its canary, and one that is put past the gate: in a world that lives on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from world import World, make

import loopwright as lw
from loopwright.kernel.errors import Conflict, Forbidden, GateFailed
from loopwright.kernel.times import DAY, parse_time
from loopwright.loop import service as loop
from loopwright.notes import approvals as requests
from loopwright.notes import service as notes
from loopwright.project import status
from loopwright.releases import queries, service
from loopwright.serving import routes
from loopwright.store import clock as clocks

ME, YOU = "local:me", "local:you"


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[World]:
    """A world whose truth moves on 3 April for good; its first version serves."""
    made = World(tmp_path / "project", make("2013-04-03T00:00:00Z"))
    made.deploy()
    yield made
    made.close()


def _demand(world: World) -> None:
    spec = msgspec.structs.replace(routes.endpoint(world.space, "demo"), approve="approver")
    world.space.write(lambda tx: routes.declare(tx, ME, spec))


def _waiting(world: World) -> list[requests.Approval]:
    with world.space.read() as tx:
        return requests.listed(tx, waiting=True)


def _state(world: World) -> str:
    return routes.state_of(routes.current(world.space, "demo"))


def _fails_in(world: World, version: int, since: str) -> None:
    """From a moment on a version gives no usable answer for every sixth request."""
    plain, begins = world._score, parse_time(since)

    def score(number: int, asked: list[Any]) -> list[float | None]:
        said: list[float | None] = list(plain(number, asked))
        if number == version:
            for place, ask in enumerate(asked):
                if ask.at_us >= begins and place % 6 == 0:
                    said[place] = None
        return said

    world._score = score  # type: ignore[method-assign, assignment]


def test_a_version_waits_for_a_person_and_is_stopped_when_it_fails_in_its_canary(moved: World) -> None:
    _demand(moved)
    moved.run("2013-04-16T05:00:00Z")
    assert moved.kinds()[-2:] == ["gate.passed", "approval.requested"]
    (asked,) = _waiting(moved)
    assert (asked.address, asked.role, asked.askers) == ("demo@3", "approver", ["loop"])
    assert _state(moved) == "v1=1"
    assert status.status(moved.space, ME).endpoints[0].waits == [asked.id]
    assert service.check(moved.space, "demo@3").waits == asked.id
    with pytest.raises(Forbidden, match="no person"):
        moved.space.write(lambda tx: None)
        _answer_as_token(moved, asked)
    assert service.approve(moved.space, ME, "demo", deny=False, reason="I have looked at it").state == "given"
    with pytest.raises(Conflict, match="is given"):
        service.approve(moved.space, YOU, asked.id, deny=True, reason=None)
    _fails_in(moved, 3, "2013-04-16T05:00:00Z")
    moved.run("2013-04-16T23:00:00Z")
    assert moved.kinds()[-5:-2] == ["approval.requested", "approval.given", "canary.stepped"]
    assert moved.kinds()[-2:] == ["rollout.aborted", "version.quarantined"]
    assert _state(moved) == "v1=1"
    with pytest.raises(Conflict, match="rolled back before"):
        service.deploy(moved.space, ME, "demo@3", submit=moved.submit)
    assert "looked at" not in str(moved.decisions())


def _answer_as_token(world: World, asked: requests.Approval) -> None:
    from loopwright.releases import approvals

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approvals.access, "require", lambda *given: None)
        service.approve(world.space, "token:abc", asked.id, deny=False, reason=None)


def test_a_worse_version_put_past_the_gate_is_rolled_back_within_three_days(moved: World) -> None:
    moved.run("2013-04-18T12:00:00Z")
    assert _state(moved) == "v3=1"
    done = service.override(moved.space, ME, "demo@1", "the new one is said to be unfair")
    assert done.routes == "v1=1"
    with pytest.raises(Conflict, match="serves already"):
        service.override(moved.space, ME, "demo@1", "again")
    state = loop.state(moved.space, "demo")
    assert [(r.phase, r.champion, r.candidate) for r in state.rollouts] == [("watch", 3, 1)]
    assert [alarm.kind for alarm in state.open_alarms if alarm.kind != "quality"] == ["override"]
    moved.run("2013-04-21T12:00:00Z")
    decided = [kind for kind in moved.kinds() if kind.startswith(("release", "version"))]
    assert decided[-3:] == ["release.overridden", "version.rolled-back", "version.quarantined"]
    assert _state(moved) == "v3=1"
    state = loop.state(moved.space, "demo")
    assert "override" not in [alarm.kind for alarm in state.open_alarms]
    assert state.reigns[-2].ended == "rolled-back"
    with pytest.raises(Conflict, match="rolled back before"):
        service.deploy(moved.space, ME, "demo@1", submit=moved.submit)
    assert "unfair" not in str(moved.decisions())


def test_the_first_version_answers_when_a_person_who_did_not_make_it_says_so(trained: World) -> None:
    _declare_first(trained)
    for _ in range(2):
        with pytest.raises(GateFailed, match="waits for somebody") as told:
            service.deploy(trained.space, ME, "demo@1", submit=trained.submit)
        assert told.value.code == "approval.waiting"
    (asked,) = _waiting(trained)
    with pytest.raises(Forbidden, match="your own work"):
        service.approve(trained.space, ME, asked.id, deny=False, reason=None)
    assert service.approve(trained.space, YOU, "demo@1", deny=True, reason="not today").state == "denied"
    with trained.space.read() as tx:
        assert requests.find(tx, asked.id).note
    with pytest.raises(GateFailed, match="did not approve") as told:
        service.deploy(trained.space, ME, "demo@1", submit=trained.submit)
    assert told.value.code == "gate.denied"
    assert _state(trained) == ""


def test_a_request_that_nobody_answers_runs_out_and_is_asked_again(trained: World) -> None:
    _declare_first(trained)
    with pytest.raises(GateFailed):
        service.deploy(trained.space, ME, "demo@1", submit=trained.submit)
    (asked,) = _waiting(trained)
    trained.space.write(lambda tx: clocks.advance(tx, "replay", trained.space.clock.now_us() + 8 * DAY))
    with pytest.raises(Conflict, match="out of time"):
        service.approve(trained.space, YOU, asked.id, deny=False, reason=None)
    with pytest.raises(GateFailed, match="waits"):
        service.deploy(trained.space, ME, "demo@1", submit=trained.submit)
    with trained.space.read() as tx:
        assert [found.state for found in requests.listed(tx)] == ["expired", "waiting"]
    (again,) = _waiting(trained)
    assert service.approve(trained.space, YOU, again.id, deny=False, reason=None).state == "given"
    assert _state(trained) == "v1=1"
    with trained.space.read() as tx:
        assert queries.champion(tx, "demo") == 1


def _declare_first(world: World) -> None:
    lw.run(world.module.train)
    _demand(world)


def test_a_reason_is_a_note_and_no_event(trained: World) -> None:
    trained.deploy()
    trained.space.write(lambda tx: tx.execute("DELETE FROM reigns"))
    trained.space.write(lambda tx: queries.crown(tx, "demo", 99, tx.now_us()))
    done = service.override(trained.space, ME, "demo@1", "a very special reason")
    assert done.verdict is not None
    assert notes.get(trained.space, done.verdict["evidence"]["note"]) == "a very special reason"
    assert "special" not in str(trained.decisions())
