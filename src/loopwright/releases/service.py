"""Check, deploy, roll back, pause: what people ask of releases."""

from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.artifacts.model import Version
from loopwright.kernel.errors import Conflict, GateFailed, Invalid, NotFound
from loopwright.kernel.verdict import Verdict
from loopwright.monitors import alarms
from loopwright.monitors import queries as monitors
from loopwright.notes import service as notes
from loopwright.notes.approvals import Approval
from loopwright.releases import approvals, evidence, gates, machine, measured, model, moves, queries
from loopwright.releases import desk as desks
from loopwright.releases.desk import Desk
from loopwright.releases.model import GateResult, Hold, Reign, Released, Rollout
from loopwright.releases.moves import Leave
from loopwright.releases.work import Submit
from loopwright.serving import publish, routes
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

MANUAL = "manual"


def find(space: Space, ref: str) -> tuple[Desk, Version]:
    """The endpoint and the version that an address means: `delay` (its newest), `delay@3`, `delay@prod~1`.

    Raises:
        NotFound: no endpoint serves that name, or it has no such version.
    """
    name = ref.partition("@")[0].partition("~")[0]
    specs = routes.endpoints(space)
    spec = next((s for s in specs if s.name == name), None) or next((s for s in specs if s.model == name), None)
    if spec is None:
        raise NotFound(
            f"no endpoint serves {name!r}", code="endpoint.missing", field="ref", hint="declare it with lw.endpoint"
        )
    version = names.resolve(space, spec.model + ref.removeprefix(name))
    with space.read() as tx:
        return desks.find(tx, spec.name), version


def check(space: Space, ref: str, *, submit: Submit | None = None) -> GateResult:
    """Hold a version against its endpoint's gate; nothing is served by it.

    Raises:
        NotFound: no such endpoint or version.
    """
    desk, version = find(space, ref)
    result = _judge(space, desk, version, submit)[0]
    with space.read() as tx:
        waits = [found.id for found in approvals.waiting(tx, desk.name) if found.address == version.ref]
    return msgspec.structs.replace(result, waits=waits[-1] if waits else "")


def _judge(
    space: Space, desk: Desk, version: Version, submit: Submit | None
) -> tuple[GateResult, gates.Package, gates.TwinScore | None]:
    package = gates.timed(space, desk, gates.package(space, version))
    with space.read() as tx:
        champion = queries.champion(tx, desk.name)
    twin = evidence.twin(space, desk, package, submit) if champion is None and gates.floor_of(desk) else None
    shown = evidence.served(space, desk, package, submit) if champion is not None else None
    sliced = evidence.sliced(space, desk, package, submit) if shown is None else shown.sliced

    def decide(tx: Tx) -> GateResult:
        if queries.champion(tx, desk.name) is None:
            return gates.first(tx, desk, package, twin)
        queries.put_training(tx, desk.name, version.number, package.trained_us, refit=False)
        return gates.later(tx, desk, package, shown, sliced)

    return space.write(decide), package, twin


def deploy(space: Space, actor: str, ref: str, *, submit: Submit | None = None) -> Released:
    """Bring a version through the gate: the first one serves at once, a later one goes into its own shadow.

    Raises:
        GateFailed: the gate refuses, the verdict says why; or it is the first one and waits for a person.
        Conflict: the version serves already, another one is on its way, or it was rolled back before.
    """
    desk, version = find(space, ref)
    with space.read() as tx:
        _free(tx, desk, version)
    who = approvals.askers(space, actor, version.run)
    result, package, twin = _judge(space, desk, version, submit)
    close = evidence.close_minutes(space, desk, package.trained_us, submit) if result.champion is None else None

    def act(tx: Tx) -> Released | GateFailed:
        _free(tx, desk, version)
        if queries.champion(tx, desk.name) != result.champion:
            raise Conflict(
                f"another version took the place while {version.ref} was judged",
                code="deploy.overtaken",
                field="ref",
                hint=f"lw deploy {version.ref}",
            )
        data = gates.event_data(desk, result)
        kind = model.GATE_PASSED if result.verdict.passed else model.GATE_REFUSED
        seq = ledger.append(tx, actor, kind, desk.subject, data)
        if not result.verdict.passed:
            said = f"the gate refused {version.ref}: {result.verdict.reason}"
            return GateFailed(said, verdict=result.verdict, code="gate.refused", hint=f"lw check {version.ref}")
        leave = Leave(verdict=result.verdict, evidence=result.evidence, cause=seq, actor=actor)
        if result.champion is not None:
            return _later(tx, desk, package, leave)
        plea = approvals.Plea(
            version=version.number,
            champion=None,
            evidence=result.evidence[-1:],
            askers=who,
            reason=result.verdict.reason,
            cause=seq,
        )
        asked = approvals.first(tx, desk, plea, actor)
        if asked is not None and asked.state != "given":
            return approvals.refuse(asked)
        loss = twin.loss if twin is not None and twin.metric == desk.metric else None
        measured.begin(tx, desk.name, close_minutes=close, loss=loss)
        return _first(tx, desk, package, twin, leave)

    done = space.write(act)
    if isinstance(done, GateFailed):
        raise done
    return msgspec.structs.replace(done, workers=_apply(space, desk.name))


def _free(tx: Tx, desk: Desk, version: Version) -> None:
    champion, going = queries.champion(tx, desk.name), queries.under_way(tx, desk.name)
    held = queries.holds(tx, desk.name)
    if champion == version.number:
        raise Conflict(f"{version.ref} serves already", code="deploy.serving", field="ref", hint=f"lw show {desk.name}")
    if going is not None:
        raise Conflict(
            f"{desk.spec.model}@{going.candidate} is on its way ({going.phase})",
            code="deploy.busy",
            field="ref",
            hint=f"lw rollback {desk.name}" if going.phase == "canary" else f"lw watch {desk.name}",
        )
    if held and champion is not None:
        hint = f"lw resume {desk.name}" if any(h.kind == MANUAL for h in held) else f"lw watch {desk.name}"
        raise Conflict(f"{desk.name} is held; nothing is promoted", code="deploy.held", hint=hint)
    back = queries.quarantined(tx, desk.name, version.number, version.digest)
    if back is not None:
        raise Conflict(
            f"{version.ref} was rolled back before: {back.reason}",
            code="deploy.quarantined",
            field="ref",
            hint=f"lw deploy {version.ref} --override --reason TEXT",
        )


def _first(tx: Tx, desk: Desk, package: gates.Package, twin: gates.TwinScore | None, leave: Leave) -> Released:
    now = tx.now_us()
    queries.put_training(tx, desk.name, package.version, package.trained_us, refit=False)
    queries.crown(tx, desk.name, package.version, now)
    if twin is not None:
        monitors.set_reference(tx, desk.name, twin.skill, msgspec.to_builtins(twin))
    data = {
        "endpoint": desk.name,
        "model": desk.spec.model,
        "version": package.version,
        "reason": leave.verdict.reason,
    }
    seq = ledger.append(tx, leave.actor, model.DEPLOYED, desk.subject, data, cause=leave.cause)
    leave = msgspec.structs.replace(leave, cause=seq)
    moves.reroute(tx, desk, leave)
    moves.label(tx, desk, package.version, leave)
    return _released(tx, desk, package.version, "it serves all requests", leave.verdict)


def _later(tx: Tx, desk: Desk, package: gates.Package, leave: Leave) -> Released:
    champion = queries.champion(tx, desk.name)
    assert champion is not None
    open_rollout(tx, desk, package.version, leave.cause, at_us=tx.now_us(), actor=leave.actor)
    moves.reroute(tx, desk)
    after = "then it waits for approval" if desk.spec.approve else "then canary"
    return _released(tx, desk, package.version, f"it is in its own shadow, {after}", leave.verdict)


def override(space: Space, actor: str, ref: str, reason: str) -> Released:
    """Let a version answer everything at once, past gate, shadow and approval; an alarm stands until its watch ends.

    Raises:
        Conflict: the version serves already.
    """
    desk, version = find(space, ref)
    package = gates.package(space, version)

    def act(tx: Tx) -> Released:
        champion, now = queries.champion(tx, desk.name), tx.now_us()
        if champion == version.number:
            raise Conflict(f"{version.ref} serves already", code="deploy.serving", field="ref")
        name = desk.spec.model
        data = {
            "endpoint": desk.name,
            "model": name,
            "version": version.number,
            "replaced": champion,
            "reason": "the reason is in the notes",
            "note": notes.put(tx, actor, reason),
        }
        seq = ledger.append(tx, actor, model.OVERRIDDEN, desk.subject, data)
        queries.put_training(tx, desk.name, version.number, package.trained_us, refit=False)
        queries.crown(tx, desk.name, version.number, now, machine.OVERRIDDEN)
        if champion is not None:
            begun = _rollout(desk, (champion, version.number), seq, at_us=now, outcome=machine.OVERRIDDEN)
            queries.put_rollout(tx, machine.watch(begun, desk.recipe, desk.calendar))
            moves.stop_others(tx, desk, begun, now, cause=seq, put=True)
        said = f"{version.ref} was put in place by hand, past the gate"
        alarms.open_episode(tx, desk.name, moves.OVERRIDE, alarms.Told(said), alarms.Moment(now, seq))
        verdict = Verdict(outcome="pass", check=moves.OVERRIDE, reason=said, evidence={"note": data["note"]})
        leave = Leave(verdict=verdict, evidence=[], cause=seq, actor=actor)
        moves.reroute(tx, desk, leave)
        moves.label(tx, desk, version.number, leave)
        return _released(tx, desk, version.number, "it serves all requests; an alarm says so", verdict)

    return msgspec.structs.replace(space.write(act), workers=_apply(space, desk.name))


def open_rollout(tx: Tx, desk: Desk, candidate: int, cause: int, *, at_us: int, actor: str = moves.ACTOR) -> Rollout:
    """Put a version that has passed the gate at a moment on its way.

    Raises:
        Conflict: another one is on its way.
    """
    champion, going = queries.champion(tx, desk.name), queries.under_way(tx, desk.name)
    if champion is None or going is not None:
        raise Conflict(f"no roll-out can begin on {desk.name} now", code="deploy.busy", field="ref")
    fresh = msgspec.structs.replace(_rollout(desk, (champion, candidate), cause, at_us=at_us), actor=actor)
    begun = machine.open_rollout(fresh, desk.calendar)
    queries.put_rollout(tx, begun)
    return begun


def _rollout(desk: Desk, versions: tuple[int, int], cause: int, *, at_us: int, outcome: str = "") -> Rollout:
    champion, candidate = versions
    return Rollout(
        id=f"rollout_{desk.name}_{candidate}_{cause}",
        endpoint=desk.name,
        champion=champion,
        candidate=candidate,
        phase="shadow",
        step=-1,
        since_us=at_us,
        next_us=None,
        first_day=desk.calendar.day(at_us),
        opened_us=at_us,
        cause=cause,
        outcome=outcome,
    )


def shadow(space: Space, actor: str, ref: str) -> Released:
    """Let a version go along in shadow, so that it collects paired days for the gate.

    Raises:
        Conflict: nothing is served yet.
    """
    desk, version = find(space, ref)
    package = gates.package(space, version)

    def act(tx: Tx) -> Released:
        if queries.champion(tx, desk.name) is None:
            raise Conflict(
                f"{desk.name} serves nothing yet", code="deploy.nothing", field="ref", hint=f"lw deploy {version.ref}"
            )
        queries.put_training(tx, desk.name, version.number, package.trained_us, refit=False)
        tx.execute(
            "INSERT INTO shadows(endpoint, version) VALUES (?, ?) ON CONFLICT DO NOTHING", (desk.name, version.number)
        )
        data = {"endpoint": desk.name, "model": desk.spec.model, "version": version.number}
        ledger.append(tx, actor, model.SHADOW_ADDED, desk.subject, data)
        moves.reroute(tx, desk)
        return _released(tx, desk, version.number, "it goes along in shadow", None)

    return msgspec.structs.replace(space.write(act), workers=_apply(space, desk.name))


def rollback(space: Space, actor: str, endpoint: str) -> Released:
    """Go back to the last version that served 100 %: a canary is stopped, else the champion before takes the place.

    Raises:
        NotFound: no such endpoint, or no version held the place before.
    """

    def act(tx: Tx) -> Released:
        desk = desks.find(tx, endpoint)
        going = queries.under_way(tx, endpoint)
        if going is not None and machine.share(going, desk.recipe) > 0:
            return _stop(tx, desk, going, actor)
        return _back(tx, desk, actor)

    return msgspec.structs.replace(space.write(act), workers=_apply(space, endpoint))


_ASKED = Verdict(outcome="pass", check="asked", reason="asked for by hand")


def _stop(tx: Tx, desk: Desk, going: Rollout, actor: str) -> Released:
    done = msgspec.structs.replace(going, phase="done", next_us=None, outcome="stopped")
    move = machine.Move(kind="abort", rollout=done, verdict=_ASKED)
    moves.apply(tx, desk, move, tx.now_us(), actor=actor)
    return _released(tx, desk, going.champion, f"the canary of @{going.candidate} was stopped", move.verdict)


def _line(reigns: list[Reign]) -> list[int]:
    """The versions that led to the one that serves: a rollback takes the line back to the version that it went to."""
    line: list[int] = []
    for reign, ended in zip(reigns, ("", *(reign.ended for reign in reigns)), strict=False):
        if ended == "rolled-back" and reign.version in line:
            while line[-1] != reign.version:
                line.pop()
        else:
            line.append(reign.version)
    return line


def _back(tx: Tx, desk: Desk, actor: str) -> Released:
    reigns = queries.reigns(tx, desk.name)
    if not reigns:
        raise NotFound(f"{desk.name} serves nothing yet", code="rollback.nothing", hint=f"lw deploy {desk.name}")
    now_serving = reigns[-1].version
    before = [version for version in _line(reigns) if version != now_serving]
    if not before:
        raise NotFound(
            f"no version served all of {desk.name} before {desk.spec.model}@{now_serving}",
            code="rollback.none",
            hint=f"lw show {desk.name}",
        )
    now = tx.now_us()
    watched = next((r for r in queries.open_rollouts(tx, desk.name) if r.phase == "watch"), None)
    ended = Rollout(
        id=f"rollback_{desk.name}_{now_serving}_{now}",
        endpoint=desk.name,
        champion=before[-1],
        candidate=now_serving,
        phase="done",
        step=0,
        since_us=now,
        next_us=None,
        first_day=desk.calendar.day(now),
        opened_us=now,
        cause=None if watched is None else watched.cause,
        outcome="rolled-back",
    )
    moves.apply(tx, desk, machine.Move(kind="roll-back", rollout=ended, verdict=_ASKED), now, actor=actor)
    return _released(tx, desk, before[-1], f"it took the place of @{now_serving}", _ASKED)


def pause(space: Space, actor: str, endpoint: str, reason: str) -> Hold:
    """Stop training, gate and promotion of an endpoint until it is resumed; the reason goes to the notes.

    Raises:
        Conflict: it is paused already.
    """

    def act(tx: Tx) -> Hold:
        desk = desks.find(tx, endpoint)
        if any(h.kind == MANUAL for h in queries.holds(tx, endpoint)):
            raise Conflict(
                f"{endpoint} is paused already", code="pause.paused", field="endpoint", hint=f"lw resume {endpoint}"
            )
        now = tx.now_us()
        note = notes.put(tx, actor, reason)
        tx.execute(
            "INSERT INTO holds(endpoint, kind, actor, placed_us, note) VALUES (?, ?, ?, ?, ?)",
            (endpoint, MANUAL, actor, now, note),
        )
        ledger.append(tx, actor, model.PAUSED, desk.subject, {"endpoint": endpoint, "hold": MANUAL, "note": note})
        return Hold(endpoint=endpoint, kind=MANUAL, actor=actor, placed_us=now, note=note)

    return space.write(act)


def resume(space: Space, actor: str, endpoint: str) -> Hold:
    """Let an endpoint that was paused go on.

    Raises:
        Conflict: it is not paused.
    """

    def act(tx: Tx) -> Hold:
        desk = desks.find(tx, endpoint)
        held = next((h for h in queries.holds(tx, endpoint) if h.kind == MANUAL), None)
        if held is None:
            raise Conflict(f"{endpoint} is not paused", code="pause.none", field="endpoint")
        now = tx.now_us()
        tx.execute(
            "UPDATE holds SET lifted_us = ? WHERE endpoint = ? AND kind = ? AND lifted_us IS NULL",
            (now, endpoint, MANUAL),
        )
        ledger.append(tx, actor, model.RESUMED, desk.subject, {"endpoint": endpoint, "hold": MANUAL})
        return msgspec.structs.replace(held, lifted_us=now)

    return space.write(act)


def require_reason(reason: str | None, what: str) -> str:
    """The reason that somebody must give.

    Raises:
        Invalid: there is none.
    """
    if not reason or not reason.strip():
        raise Invalid(f"{what} needs a reason", code="reason.missing", field="reason", hint="--reason TEXT")
    return reason


def _released(tx: Tx, desk: Desk, version: int, what: str, verdict: Verdict | None) -> Released:
    told: dict[str, Any] | None = None if verdict is None else msgspec.to_builtins(verdict)
    state = routes.state_of(routes.routes_in(tx, desk.name))
    return Released(endpoint=desk.name, version=version, routes=state, what=what, workers=0, verdict=told)


def _apply(space: Space, endpoint: str) -> int:
    """Publish the routes and wait for the workers; returns how many have them, 0 when no server runs."""
    count = publish.wait_applied(space, publish.publish(space))
    publish.require_served(space, endpoint)
    return count


def approve(space: Space, actor: str, request: str, *, deny: bool, reason: str | None) -> Approval:
    """Answer a request; an endpoint's first version is deployed by it, a later one goes on at the loop's next look.

    Raises:
        NotFound: there is no such request.
        Forbidden: it takes another role or another person.
        Conflict: it was answered, or is out of time.
    """
    found = approvals.answer(space, actor, request, deny=deny, reason=reason)
    with space.read() as tx:
        desk = desks.find(tx, found.subject.partition(":")[2])
        begins = found.state == "given" and queries.champion(tx, desk.name) is None
    if begins:
        deploy(space, actor, found.address)
    return found
