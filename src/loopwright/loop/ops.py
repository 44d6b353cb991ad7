"""Op rows of the loop: the state of an endpoint."""

from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op
from loopwright.loop import service
from loopwright.loop.model import EndpointState
from loopwright.store.space import Space


def endpoint_state(space: Space, actor: str, *, endpoint: str) -> EndpointState:
    """Show who answers for an endpoint, what is on its way, what comes next and when, holds and open alarms."""
    return service.state(space, valid_name(endpoint, "endpoint"))


OPS = [
    Op(
        fn=endpoint_state,
        http="GET /api/v1/endpoints/{endpoint}/state",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    )
]
