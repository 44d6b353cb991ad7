"""A person's leave for a version: asked for before it answers anything, given by somebody who did not ask."""

import msgspec

from loopwright.access import service as access
from loopwright.artifacts import names
from loopwright.kernel import canonical
from loopwright.kernel.errors import Conflict, Forbidden, GateFailed
from loopwright.kernel.times import DAY, format_duration, format_time
from loopwright.kernel.verdict import Verdict
from loopwright.notes import approvals as requests
from loopwright.notes import service as notes
from loopwright.notes.approvals import Approval, State
from loopwright.releases import desk as desks
from loopwright.releases import model, queries
from loopwright.releases.desk import Desk
from loopwright.releases.model import Rollout
from loopwright.runs import service as runs
from loopwright.serving import routes
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

CHECK = "approval"
TTL_US = 7 * DAY


class Plea(msgspec.Struct, frozen=True, kw_only=True):
    """What leave is asked for: a version against a champion, on evidence, by somebody.

    Args:
        askers: who may not answer: who deployed it, and who trained it.
    """

    version: int
    champion: int | None
    evidence: list[str]
    askers: list[str]
    reason: str
    cause: int | None


def askers(space: Space, actor: str, run: str | None) -> list[str]:
    """Whose own work a version is: who asks for it and who made it; behind a token, its owner too."""
    found = {actor, runs.get(space, run).actor} if run else {actor}
    tokens = access.table(space).by_id
    return sorted(found | {tokens[a[6:]].owner for a in found if a[:6] == "token:" and a[6:] in tokens})


def bound(tx: Tx, desk: Desk, plea: Plea) -> str:
    """The digest of all that leave is given for: the bytes, what they replace, and what the gate went by."""
    digest = names.find(tx, desk.spec.model, plea.version).digest
    return canonical.digest({"version": digest, "champion": plea.champion, "evidence": plea.evidence})


def ask(tx: Tx, desk: Desk, plea: Plea, actor: str, at_us: int) -> Approval:
    """Ask for leave; asked on the same evidence before, it is the same request."""
    held = bound(tx, desk, plea)
    known = [a for a in requests.listed(tx, subject=desk.subject) if a.bound == held]
    if known and known[-1].state in ("waiting", "given"):
        return known[-1]
    made = Approval(
        id=f"{desk.name}@ask-{canonical.digest([held, at_us])[:8]}",
        subject=desk.subject,
        address=f"{desk.spec.model}@{plea.version}",
        bound=held,
        role=desk.spec.approve,
        askers=plea.askers,
        reason=plea.reason,
        at_us=at_us,
        expires_us=at_us + TTL_US,
    )
    data = {
        **_data(desk, made, plea.version),
        "champion": plea.champion,
        "role": made.role,
        "reason": plea.reason,
        "expires": format_time(made.expires_us),
    }
    seq = ledger.append(tx, actor, model.APPROVAL_REQUESTED, desk.subject, data, cause=plea.cause, at_us=at_us)
    made = msgspec.structs.replace(made, seq=seq)
    requests.put(tx, made)
    return made


def _data(desk: Desk, approval: Approval, version: int) -> dict[str, object]:
    return {"endpoint": desk.name, "model": desk.spec.model, "version": version, "request": approval.id}


def standing(tx: Tx, desk: Desk, rollout: Rollout, at_us: int) -> Verdict | None:
    """What a roll-out's request says at a moment; None where the endpoint demands no leave."""
    if not desk.spec.approve:
        return None
    if not rollout.request:
        return Verdict(outcome="unknown", check=CHECK, reason="nobody was asked yet")
    found = requests.find(tx, rollout.request)
    if found.state == "waiting" and at_us >= found.expires_us:
        found = _close(tx, desk, found, "expired", at_us)
    return verdict(found)


def verdict(found: Approval) -> Verdict:
    """A request as a check on what it lets happen."""
    evidence = {"request": found.id, "bound": found.bound, "actor": found.actor}
    if found.state == "given":
        return Verdict(outcome="pass", check=CHECK, reason=f"approved by {found.actor}", evidence=evidence)
    if found.state == "waiting":
        reason = f"it waits for somebody with the role {found.role}"
        return Verdict(outcome="unknown", check=CHECK, reason=reason, evidence=evidence)
    why = {"denied": f"{found.actor} did not approve it", "void": "what was asked for has passed"}
    late = f"nobody approved it within {format_duration(found.expires_us - found.at_us)}"
    return Verdict(outcome="fail", check=CHECK, reason=why.get(found.state, late), evidence=evidence)


def drop(tx: Tx, desk: Desk, request: str, at_us: int) -> None:
    """End a request that nothing waits for any more."""
    found = requests.find(tx, request)
    if found.state == "waiting":
        _close(tx, desk, found, "void", at_us)


def _close(
    tx: Tx, desk: Desk, found: Approval, state: State, at_us: int, *, actor: str = "loop", note: str = ""
) -> Approval:
    done = msgspec.structs.replace(found, state=state, actor=actor, answered_us=at_us, note=note)
    requests.put(tx, done)
    data = {**_data(desk, done, int(found.address.rpartition("@")[2])), "note": note, "why": state}
    if state != "given":
        data["reason"] = verdict(done).reason
    kind = model.APPROVAL_GIVEN if state == "given" else model.APPROVAL_DENIED
    ledger.append(tx, actor, kind, desk.subject, data, cause=found.seq, at_us=at_us)
    return done


def answer(space: Space, actor: str, request: str, *, deny: bool, reason: str | None) -> Approval:
    """Give or refuse leave; what waits for it goes on at once.

    Raises:
        Forbidden: it takes another role or another person.
        Conflict: it was answered, or is out of time.
    """
    with space.read() as tx:
        asked = requests.find(tx, request)
    access.require(space, actor, f"approvals.{asked.role}", asked.subject)
    if actor.startswith("token:"):
        raise Forbidden("a token is no person, and answers nothing", code="approval.token", field="request")
    if actor in asked.askers:
        raise Forbidden(
            f"{asked.address} is your own work: somebody else must answer",
            code="approval.self",
            field="request",
            hint=f"lw deploy {asked.address} --override --reason TEXT",
        )

    def act(tx: Tx) -> Approval:
        desk, found = desks.find(tx, asked.subject.partition(":")[2]), requests.find(tx, asked.id)
        now = tx.now_us()
        if found.state != "waiting" or now >= found.expires_us:
            told = found.state if found.state != "waiting" else "out of time"
            raise Conflict(f"{found.id} is {told}", code="approval.answered", field="request", hint="lw approvals")
        note = notes.put(tx, actor, reason) if reason else ""
        done = _close(tx, desk, found, "denied" if deny else "given", now, actor=actor, note=note)
        for rollout in queries.open_rollouts(tx, desk.name):
            if rollout.request == done.id and rollout.phase == "shadow":
                queries.put_rollout(tx, msgspec.structs.replace(rollout, next_us=now))
        return done

    return space.write(act)


def first(tx: Tx, desk: Desk, plea: Plea, actor: str) -> Approval | None:
    """The leave for an endpoint's first version; asked for when it is demanded and was not; None = none is demanded."""
    if not desk.spec.approve:
        return None
    held = bound(tx, desk, plea)
    known = [a for a in requests.listed(tx, subject=desk.subject) if a.bound == held]
    if known and known[-1].state == "waiting" and tx.now_us() >= known[-1].expires_us:
        known[-1] = _close(tx, desk, known[-1], "expired", tx.now_us())
    if known and known[-1].state in ("waiting", "given", "denied"):
        return known[-1]
    return ask(tx, desk, plea, actor, tx.now_us())


def waiting(tx: Tx, endpoint: str) -> list[Approval]:
    """The requests of an endpoint that wait for a person."""
    return requests.listed(tx, subject=routes.subject_of(endpoint), waiting=True)


def refuse(found: Approval) -> GateFailed:
    """The error that says that leave is lacking."""
    said = verdict(found)
    waits = found.state == "waiting"
    return GateFailed(
        f"{found.address}: {said.reason}",
        verdict=said,
        code="approval.waiting" if waits else "gate.denied",
        hint=f"lw approve {found.id}" if waits else "lw approvals",
    )
