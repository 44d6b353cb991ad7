"""Op rows of releases: check, deploy, rollback, pause, approve, verdicts."""

from loopwright.access import service as access
from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op, Progress, silent
from loopwright.kernel.pages import MOST, Page, page
from loopwright.kernel.verdict import Verdict
from loopwright.notes import approvals as requests
from loopwright.notes.approvals import Approval
from loopwright.releases import queries, service, text, waiting
from loopwright.releases.model import GateResult, Hold, Quarantined, Reign, Released, Rollout
from loopwright.serving import routes
from loopwright.store.space import Space

REFUSED, NEEDS_APPROVAL = 3, 5


def check(space: Space, actor: str, *, ref: str, progress: Progress = silent) -> GateResult:
    """Hold a version against its endpoint's gate; exit code 3 when it is refused.

    Args:
        ref: an endpoint (its newest version), or a version such as delay@3.
    """
    _require(space, actor, "endpoints.check", ref)
    return service.check(space, ref)


def deploy(
    space: Space,
    actor: str,
    *,
    ref: str,
    shadow: bool = False,
    override: bool = False,
    wait: bool = False,
    reason: str | None = None,
    progress: Progress = silent,
) -> Released:
    """Bring a version through the gate: the first serves at once, a later one by shadow and canary.

    Args:
        ref: an endpoint (its newest version), or a version such as delay@3.
        shadow: only let it go along in shadow, so that it collects paired days.
        override: let it answer everything at once, past gate, shadow and approval; opens an alarm.
        wait: until it has the place; exit code 3 when it gets no further, 5 when it waits for a person.
        reason: why it is put past the gate; it is kept as a note.
    """
    _require(space, actor, "endpoints.deploy", ref)
    if shadow and override:
        raise Invalid("shadow and override are not for one deploy", code="deploy.both", field="override")
    if override:
        why = service.require_reason(reason, "an override")
        _require(space, actor, "endpoints.override", ref)
        return service.override(space, actor, ref, why)
    if shadow:
        return service.shadow(space, actor, ref)
    done = service.deploy(space, actor, ref)
    return waiting.until_placed(space, done, progress) if wait else done


def _require(space: Space, actor: str, action: str, ref: str) -> None:
    """Ask again once it is known which endpoint an address means: a model's name may stand for another's."""
    desk, _ = service.find(space, ref)
    access.require(space, actor, action, desk.subject)


def rollback(space: Space, actor: str, *, endpoint: str) -> Released:
    """Go back to the last version that served 100 %; a canary under way is stopped."""
    return service.rollback(space, actor, valid_name(endpoint, "endpoint"))


def pause(space: Space, actor: str, *, endpoint: str, reason: str | None = None) -> Hold:
    """Stop training, gate and promotion of an endpoint until it is resumed.

    Args:
        reason: why; it is kept as a note.
    """
    valid_name(endpoint, "endpoint")
    return service.pause(space, actor, endpoint, service.require_reason(reason, "a pause"))


def resume(space: Space, actor: str, *, endpoint: str) -> Hold:
    """Let training, gate and promotion of an endpoint go on."""
    return service.resume(space, actor, valid_name(endpoint, "endpoint"))


def approve(space: Space, actor: str, *, request: str, deny: bool = False, reason: str | None = None) -> Approval:
    """Approve a version that waits for a person, or say no; not one's own work, and not by a token.

    Args:
        request: the request's id, or the endpoint or version that waits.
        deny: say no.
        reason: why; it is kept as a note.
    """
    return service.approve(space, actor, request, deny=deny, reason=reason)


def list_approvals(
    space: Space, actor: str, *, waiting: bool = False, after: str | None = None, limit: int = MOST
) -> Page[Approval]:
    """List what was to be approved, oldest first.

    Args:
        waiting: only what nobody has answered yet.
    """
    with space.read() as tx:
        return page(requests.listed(tx, waiting=waiting), after=after, limit=limit)


def list_quarantine(space: Space, actor: str, *, endpoint: str) -> list[Quarantined]:
    """List the versions of an endpoint that were rolled back and are no candidates again by themselves."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return queries.quarantine(tx, endpoint)


def list_verdicts(
    space: Space, actor: str, *, endpoint: str, version: int, after: str | None = None, limit: int = MOST
) -> Page[Verdict]:
    """List what checks and gates have said of a version, oldest first."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return page(queries.verdicts(tx, endpoint, version), after=after, limit=limit)


def list_reigns(space: Space, actor: str, *, endpoint: str, after: str | None = None, limit: int = MOST) -> Page[Reign]:
    """List the versions that held the place of an endpoint, oldest first."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return page(queries.reigns(tx, endpoint), after=after, limit=limit)


def list_rollouts(space: Space, actor: str, *, endpoint: str) -> list[Rollout]:
    """List the roll-outs of an endpoint that are under way, watches included."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return queries.open_rollouts(tx, endpoint)


OPS = [
    Op(
        fn=check,
        http="POST /api/v1/checks",
        action="endpoints.check",
        subject="endpoint:{ref}",
        cli="check",
        shape="job",
        positional=("ref",),
        render=text.gate,
        exit_code=lambda result: REFUSED if not result.verdict.passed else NEEDS_APPROVAL if result.waits else 0,
    ),
    Op(
        fn=deploy,
        http="POST /api/v1/deploys",
        action="endpoints.deploy",
        subject="endpoint:{ref}",
        cli="deploy",
        shape="job",
        positional=("ref",),
        render=text.released,
    ),
    Op(
        fn=rollback,
        http="POST /api/v1/endpoints/{endpoint}/rollback",
        action="endpoints.rollback",
        subject="endpoint:{endpoint}",
        cli="rollback",
        positional=("endpoint",),
        render=text.released,
    ),
    Op(
        fn=pause,
        http="POST /api/v1/endpoints/{endpoint}/pause",
        action="endpoints.pause",
        subject="endpoint:{endpoint}",
        cli="pause",
        positional=("endpoint",),
        render=text.hold,
    ),
    Op(
        fn=resume,
        http="POST /api/v1/endpoints/{endpoint}/resume",
        action="endpoints.pause",
        subject="endpoint:{endpoint}",
        cli="resume",
        positional=("endpoint",),
        render=text.hold,
    ),
    Op(
        fn=approve,
        http="POST /api/v1/approvals/{request}",
        action="approvals.answer",
        subject="endpoint:{request}",
        cli="approve",
        positional=("request",),
        render=text.approval,
    ),
    Op(
        fn=list_approvals,
        http="GET /api/v1/approvals",
        action="approvals.read",
        cli="approvals",
        render=text.approvals,
    ),
    Op(
        fn=list_quarantine,
        http="GET /api/v1/endpoints/{endpoint}/quarantine",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=list_verdicts,
        http="GET /api/v1/endpoints/{endpoint}/verdicts/{version}",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=list_reigns,
        http="GET /api/v1/endpoints/{endpoint}/reigns",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=list_rollouts,
        http="GET /api/v1/endpoints/{endpoint}/rollouts",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
]
