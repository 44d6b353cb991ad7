"""Op rows of releases: check, deploy, rollback, hold, verdicts."""

from loopwright.access import service as access
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op, Progress, silent
from loopwright.kernel.pages import MOST, Page, page
from loopwright.kernel.verdict import Verdict
from loopwright.releases import queries, service, text
from loopwright.releases.model import GateResult, Hold, Reign, Released, Rollout
from loopwright.serving import routes
from loopwright.store.space import Space

REFUSED = 3


def check(space: Space, actor: str, *, ref: str, progress: Progress = silent) -> GateResult:
    """Hold a version against its endpoint's gate; exit code 3 when it is refused.

    Args:
        ref: an endpoint (its newest version), or a version such as delay@3.
    """
    _require(space, actor, "endpoints.check", ref)
    return service.check(space, ref)


def deploy(space: Space, actor: str, *, ref: str, shadow: bool = False, progress: Progress = silent) -> Released:
    """Bring a version through the gate: the first serves at once, a later one by shadow and canary.

    Args:
        ref: an endpoint (its newest version), or a version such as delay@3.
        shadow: only let it go along in shadow, so that it collects paired days.
    """
    _require(space, actor, "endpoints.deploy", ref)
    if shadow:
        return service.shadow(space, actor, ref)
    return service.deploy(space, actor, ref)


def _require(space: Space, actor: str, action: str, ref: str) -> None:
    """Ask again once it is known which endpoint an address means: a model's name may stand for another's."""
    desk, _ = service.find(space, ref)
    access.require(space, actor, action, desk.subject)


def rollback(space: Space, actor: str, *, endpoint: str) -> Released:
    """Go back to the last version that served 100 %; a canary under way is stopped."""
    return service.rollback(space, actor, valid_name(endpoint, "endpoint"))


def hold(space: Space, actor: str, *, endpoint: str, reason: str | None = None, lift: bool = False) -> Hold:
    """Stop training, gate and promotion of an endpoint, or let them go on.

    Args:
        reason: why; it is kept as a note.
        lift: end the hold.
    """
    valid_name(endpoint, "endpoint")
    if lift:
        return service.lift(space, actor, endpoint)
    return service.hold(space, actor, endpoint, service.require_reason(reason))


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
        exit_code=lambda result: 0 if result.verdict.passed else REFUSED,
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
        fn=hold,
        http="POST /api/v1/endpoints/{endpoint}/hold",
        action="endpoints.hold",
        subject="endpoint:{endpoint}",
        cli="hold",
        positional=("endpoint",),
        render=text.hold,
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
