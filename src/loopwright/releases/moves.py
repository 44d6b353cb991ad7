"""Moves of a roll-out, written: state, event, permit, routes and label in one transaction."""

from typing import Any

import msgspec

from loopwright.access import permits
from loopwright.artifacts import names
from loopwright.kernel.errors import NotFound
from loopwright.kernel.event import EventKind
from loopwright.kernel.times import HOUR
from loopwright.kernel.verdict import Verdict
from loopwright.monitors import alarms
from loopwright.monitors.alarms import Moment
from loopwright.releases import approvals, machine, model, queries
from loopwright.releases import recipe as rules
from loopwright.releases.desk import Desk
from loopwright.releases.machine import Move
from loopwright.releases.model import Quarantined, Rollout
from loopwright.serving import routes
from loopwright.serving.model import Route
from loopwright.store import ledger
from loopwright.store.database import Tx

ACTOR = "loop"
LABEL = "prod"
PERMIT_TTL_US = HOUR
OVERRIDE = "override"

_KINDS: dict[str, EventKind] = {
    "refuse": model.SHADOW_REFUSED,
    "wait": model.SHADOW_WAITS,
    "step": model.CANARY_STEPPED,
    "stay": model.CANARY_WAITS,
    "abort": model.ABORTED,
    "promote": model.PROMOTED,
    "roll-back": model.ROLLED_BACK,
    "end": model.WATCH_ENDED,
}


def apply(tx: Tx, desk: Desk, move: Move, at_us: int, *, actor: str = ACTOR) -> int | None:
    """Write a move and what follows from it; returns the event's sequence number, None for a quiet look."""
    after = move.rollout
    queries.put_rollout(tx, after)
    if move.kind == "quiet":
        return None
    if move.kind == "held":
        return say_held(tx, desk, "the promotion", at_us, cause=after.cause)
    if move.kind == "ask":
        return _ask(tx, desk, move, at_us)
    if after.request and after.phase != "shadow":
        approvals.drop(tx, desk, after.request, at_us)
    versions = (after.candidate, after.champion)
    digest = queries.put_verdict(tx, desk.name, versions, move.verdict, at_us)
    seq = ledger.append(
        tx, actor, _KINDS[move.kind], desk.subject, _data(desk, move, digest), cause=after.cause, at_us=at_us
    )
    queries.put_rollout(tx, msgspec.structs.replace(after, cause=seq))
    if move.kind == "promote":
        queries.crown(tx, desk.name, after.candidate, at_us, "promoted")
    elif move.kind == "roll-back":
        queries.crown(tx, desk.name, after.champion, at_us, "rolled-back")
        stop_others(tx, desk, after, at_us, cause=seq)
    if move.kind == "roll-back" or (move.kind == "abort" and not move.verdict.passed):
        _quarantine(tx, desk, move, Moment(at_us, seq), actor)
    if move.kind in ("roll-back", "end", "promote"):
        alarms.close_episode(tx, desk.name, OVERRIDE, f"its watch is over: {move.verdict.reason}", Moment(at_us, seq))
    leave = Leave(verdict=_leave(move), evidence=[digest], cause=seq, actor=actor)
    reroute(tx, desk, leave)
    if move.kind in ("promote", "roll-back"):
        label(tx, desk, after.candidate if move.kind == "promote" else after.champion, leave)
    return seq


def _ask(tx: Tx, desk: Desk, move: Move, at_us: int) -> int:
    """Ask a person for leave, and let the roll-out wait for the answer."""
    rollout = move.rollout
    plea = approvals.Plea(
        version=rollout.candidate,
        champion=rollout.champion,
        evidence=queries.evidence(tx, desk.name, (rollout.candidate, rollout.champion), at_us),
        askers=list(move.askers),
        reason=move.verdict.reason,
        cause=rollout.cause,
    )
    asked = approvals.ask(tx, desk, plea, ACTOR, at_us)
    queries.put_rollout(tx, msgspec.structs.replace(rollout, request=asked.id, cause=asked.seq))
    return asked.seq or 0


def _quarantine(tx: Tx, desk: Desk, move: Move, moment: Moment, actor: str) -> None:
    version = move.rollout.candidate
    digest = names.find(tx, desk.spec.model, version).digest
    found = Quarantined(
        endpoint=desk.name, version=version, digest=digest, at_us=moment.at_us, reason=move.verdict.reason
    )
    if queries.put_quarantined(tx, found):
        data = {"endpoint": desk.name, "model": desk.spec.model, "version": version, "reason": found.reason}
        ledger.append(tx, actor, model.QUARANTINED, desk.subject, data, cause=moment.cause, at_us=moment.at_us)


class Leave(msgspec.Struct, frozen=True, kw_only=True):
    """Why a guarded move may be made: a passing verdict, the digests of its evidence, and the event behind it."""

    verdict: Verdict
    evidence: list[str]
    cause: int
    actor: str = ACTOR


def _leave(move: Move) -> Verdict:
    """The verdict that a permit stands on; going back to the champion needs none but its own reason."""
    if move.verdict.passed:
        return move.verdict
    return Verdict(outcome="pass", check="back", reason=f"back to what served before: {move.verdict.reason}")


def _data(desk: Desk, move: Move, digest: str) -> dict[str, Any]:
    after, verdict = move.rollout, move.verdict
    data: dict[str, Any] = {
        "endpoint": desk.name,
        "model": desk.spec.model,
        "verdict": verdict.outcome,
        "reason": verdict.reason,
        "figures": rules.figures(verdict),
        "evidence": [digest],
    }
    if move.kind in ("promote", "end"):
        return {**data, "version": after.candidate, "replaced": after.champion}
    if move.kind == "roll-back":
        return {**data, "version": after.champion, "replaced": after.candidate}
    data |= {"candidate": after.candidate, "champion": after.champion}
    if move.kind in ("step", "stay"):
        share = machine.share(after, desk.recipe)
        data |= {"share": share, "percent": f"{share * 100:g} %"}
    return data


def say_held(tx: Tx, desk: Desk, work: str, at_us: int, *, cause: int | None = None) -> int:
    """Write that something was skipped because of a hold."""
    kinds = ",".join(dict.fromkeys(hold.kind for hold in queries.holds(tx, desk.name)))
    data = {"endpoint": desk.name, "work": work, "hold": kinds}
    return ledger.append(tx, ACTOR, model.WORK_HELD, desk.subject, data, cause=cause, at_us=at_us)


def stop_others(tx: Tx, desk: Desk, than: Rollout, at_us: int, *, cause: int, put: bool = False) -> None:
    """End the roll-outs that were measured against a champion that no longer holds the place."""
    for other in queries.open_rollouts(tx, desk.name):
        if other.id == than.id:
            continue
        queries.put_rollout(tx, msgspec.structs.replace(other, phase="done", next_us=None, outcome="stopped"))
        if other.request:
            approvals.drop(tx, desk, other.request, at_us)
        if other.phase == "watch":
            continue
        reason = f"{desk.spec.model}@{than.candidate} {'overtook it' if put else 'was rolled back'}"
        data = {
            "endpoint": desk.name,
            "model": desk.spec.model,
            "candidate": other.candidate,
            "champion": than.champion,
            "verdict": "fail",
            "reason": reason,
        }
        ledger.append(tx, ACTOR, model.ABORTED, desk.subject, data, cause=cause, at_us=at_us)


def wanted(tx: Tx, desk: Desk, *, moved: bool = False) -> list[Route]:
    """The routes that the state of an endpoint asks for: who answers, and who goes along in shadow.

    Who answers changes by a move alone: settings that are changed in the middle of a canary hold from its next move on.
    """
    champion = queries.champion(tx, desk.name)
    if champion is None:
        return []
    live = {champion: 1.0}
    shadows = {*desk.spec.keep, *queries.shadows(tx, desk.name), *_refits(tx, desk)}
    shadows |= set(queries.pool(tx, desk.name, desk.recipe.pool))
    for rollout in queries.open_rollouts(tx, desk.name):
        shadows |= {rollout.champion, rollout.candidate}
        share = machine.share(rollout, desk.recipe)
        if share >= 1:
            live = {rollout.candidate: 1.0}
        elif share > 0:
            live = {champion: round(1 - share, 9), rollout.candidate: share}
    if not moved:
        routed = routes.routes_in(tx, desk.name)
        live = {route.version: route.weight for route in routed if route.role == "live"} or live
    there = [version for version in sorted(shadows - set(live)) if _exists(tx, desk.spec.model, version)]
    answering = [Route(version, weight, "live") for version, weight in live.items()]
    return [*answering, *(Route(version) for version in there)]


def _refits(tx: Tx, desk: Desk) -> list[int]:
    """The newest refit, and the one before it until the day on which it was followed is closed."""
    known = [training for training in queries.trainings(tx, desk.name) if training.refit]
    if len(known) < 2:
        return [training.version for training in known]
    before, newest = known[-2:]
    needed = desk.calendar.close(desk.calendar.day(newest.trained_us)) > tx.now_us()
    return [before.version, newest.version] if needed else [newest.version]


def _exists(tx: Tx, name: str, version: int) -> bool:
    try:
        names.find(tx, name, version)
    except NotFound:
        return False
    return True


def reroute(tx: Tx, desk: Desk, leave: Leave | None = None) -> int:
    """Give the endpoint the routes that its state asks for; returns their generation.

    Raises:
        Forbidden: who answers would change, and there is no passing verdict for it.
    """
    before, after = routes.routes_in(tx, desk.name), wanted(tx, desk, moved=leave is not None)
    states = (routes.state_of(before), routes.state_of(after))
    permit = None
    if leave is not None and states[0] != states[1]:
        permit = permits.issue(
            tx,
            leave.actor,
            desk.subject,
            states,
            evidence=leave.evidence,
            verdict=msgspec.to_builtins(leave.verdict),
            ttl_us=PERMIT_TTL_US,
            cause=leave.cause,
        )
    cause = None if leave is None else leave.cause
    actor = ACTOR if leave is None else leave.actor
    return routes.set(tx, actor, desk.name, after, permit=permit, cause=cause)


def label(tx: Tx, desk: Desk, version: int, leave: Leave) -> None:
    """Put the label of the version that holds the place, which is guarded from the first deploy on."""
    name = desk.spec.model
    held = names.label_in(tx, name, LABEL)
    names.guard(tx, name, LABEL)
    if held == version:
        return
    permit = permits.issue(
        tx,
        leave.actor,
        f"{name}@{LABEL}",
        ("" if held is None else str(held), str(version)),
        evidence=leave.evidence,
        verdict=msgspec.to_builtins(leave.verdict),
        ttl_us=PERMIT_TTL_US,
        cause=leave.cause,
    )
    names.move(tx, leave.actor, name, LABEL, version, permit=permit, cause=leave.cause)
