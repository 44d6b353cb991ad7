"""Op rows of monitors: quality, alarms and contract flags of an endpoint."""

from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op
from loopwright.monitors import service
from loopwright.monitors.model import Alarm, Flag
from loopwright.store.space import Space

MAX_DAYS = 400


def quality(space: Space, actor: str, *, endpoint: str, days: int = 28) -> service.Quality:
    """Show the labelled quality of an endpoint by closed day, with intervals."""
    if not 1 <= days <= MAX_DAYS:
        raise Invalid(f"days must be 1 to {MAX_DAYS}, not {days}", code="quality.days", field="days")
    return service.quality(space, valid_name(endpoint, "endpoint"), days=days)


def list_alarms(space: Space, actor: str, *, endpoint: str) -> list[Alarm]:
    """List the alarms of an endpoint, each one episode with its explanation."""
    return service.list_alarms(space, valid_name(endpoint, "endpoint"))


def list_flags(space: Space, actor: str, *, endpoint: str, since: str = "", until: str = "~") -> list[Flag]:
    """List what broke the contract of an endpoint by day, with the ids of some of the predictions."""
    return service.list_flags(space, valid_name(endpoint, "endpoint"), since=since, until=until)


OPS = [
    Op(
        fn=quality,
        http="GET /api/v1/endpoints/{endpoint}/quality",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=list_alarms,
        http="GET /api/v1/endpoints/{endpoint}/alarms",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=list_flags,
        http="GET /api/v1/endpoints/{endpoint}/flags",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
]
