"""Op rows of the loop: the state of an endpoint."""

from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op
from loopwright.kernel.pages import MOST, Page, page
from loopwright.loop import notify, service
from loopwright.loop.messages import Message
from loopwright.loop.model import EndpointState
from loopwright.loop.notify import Notification
from loopwright.store.space import Space


def endpoint_state(space: Space, actor: str, *, endpoint: str) -> EndpointState:
    """Show who answers for an endpoint, what is on its way, what comes next and when, holds and open alarms."""
    return service.state(space, valid_name(endpoint, "endpoint"))


def list_notifications(space: Space, actor: str, *, after: str | None = None, limit: int = MOST) -> Page[Notification]:
    """List the messages that were to be sent, oldest first: waiting, delivered or failed, and why."""
    with space.read() as tx:
        return page(notify.listed(tx), after=after, limit=limit, key=lambda note: note.id)


def try_channel(space: Space, actor: str, *, channel: str) -> Message:
    """Send a test message to a channel of loopwright.toml."""
    return notify.try_out(space, channel)


def _told(message: Message) -> str:
    return f"the channel took: {message.title}"


OPS = [
    Op(fn=list_notifications, http="GET /api/v1/notifications", action="notifications.read"),
    Op(
        fn=try_channel,
        http="POST /api/v1/notifications/tests",
        action="notifications.test",
        cli="notify",
        positional=("channel",),
        render=_told,
    ),
    Op(
        fn=endpoint_state,
        http="GET /api/v1/endpoints/{endpoint}/state",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
]
