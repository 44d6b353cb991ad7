"""Op rows of monitors: quality, alarms and contract flags of an endpoint."""

from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op
from loopwright.kernel.pages import MOST, Page, page
from loopwright.monitors import feeds, service
from loopwright.monitors.feed_model import Episode
from loopwright.monitors.model import Alarm, DriftReport, Flag
from loopwright.store.space import Space

MAX_DAYS = 400
ALARM = 4


def quality(space: Space, actor: str, *, endpoint: str, days: int = 28) -> service.Quality:
    """Show the labelled quality of an endpoint by closed day, with intervals."""
    if not 1 <= days <= MAX_DAYS:
        raise Invalid(f"days must be 1 to {MAX_DAYS}, not {days}", code="quality.days", field="days")
    return service.quality(space, valid_name(endpoint, "endpoint"), days=days)


def drift(
    space: Space, actor: str, *, endpoint: str, days: int = 28, after: str | None = None, limit: int = MOST
) -> Page[DriftReport]:
    """Show by closed day which columns differ from what the champion was trained on, and how; a report, not a page."""
    if not 1 <= days <= MAX_DAYS:
        raise Invalid(f"days must be 1 to {MAX_DAYS}, not {days}", code="drift.days", field="days")
    found = service.drift(space, valid_name(endpoint, "endpoint"), days=days)
    return page(found, after=after, limit=limit, key=lambda report: report.day)


def list_alarms(space: Space, actor: str, *, endpoint: str, after: str | None = None, limit: int = MOST) -> Page[Alarm]:
    """List the alarms of an endpoint, each one episode with its explanation; exit code 4 while one is open."""
    found = service.list_alarms(space, valid_name(endpoint, "endpoint"))
    return page(found, after=after, limit=limit, key=lambda alarm: alarm.id)


def list_flags(
    space: Space,
    actor: str,
    *,
    endpoint: str,
    since: str = "",
    until: str = "~",
    after: str | None = None,
    limit: int = MOST,
) -> Page[Flag]:
    """List what broke the contract of an endpoint by day, with the ids of some of the predictions."""
    found = service.list_flags(space, valid_name(endpoint, "endpoint"), since=since, until=until)
    return page(found, after=after, limit=limit, key=lambda flag: f"{flag.day}/{flag.column}/{flag.what}")


def list_feeds(
    space: Space, actor: str, *, endpoint: str, after: str | None = None, limit: int = MOST
) -> Page[Episode]:
    """List the faults of an endpoint's feeds: what broke, since when, what it holds; exit code 4 while one goes on."""
    found = feeds.episodes(space, valid_name(endpoint, "endpoint"))
    return page(found, after=after, limit=limit, key=lambda episode: episode.id)


def accept_feed(space: Space, actor: str, *, endpoint: str, episode: str, reason: str) -> Episode:
    """Take what a feed does now as sound, which ends its fault and the hold; the reason goes to the notes."""
    if not reason.strip():
        raise Invalid("taking a feed as sound needs a reason", code="feed.reason", field="reason")
    return feeds.accept(space, actor, valid_name(endpoint, "endpoint"), episode, reason)


OPS = [
    Op(
        fn=quality,
        http="GET /api/v1/endpoints/{endpoint}/quality",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=drift,
        http="GET /api/v1/endpoints/{endpoint}/drift",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
        cli="drift",
        positional=("endpoint",),
    ),
    Op(
        fn=list_alarms,
        http="GET /api/v1/endpoints/{endpoint}/alarms",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
        cli="alarms",
        positional=("endpoint",),
        exit_code=lambda found: ALARM if any(alarm.closed_us is None for alarm in found.items) else 0,
    ),
    Op(
        fn=list_feeds,
        http="GET /api/v1/endpoints/{endpoint}/feeds",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
        cli="feeds",
        positional=("endpoint",),
        exit_code=lambda found: ALARM if any(episode.closed_us is None for episode in found.items) else 0,
    ),
    Op(
        fn=accept_feed,
        http="POST /api/v1/endpoints/{endpoint}/feeds/{episode}",
        action="endpoints.pause",
        subject="endpoint:{endpoint}",
    ),
    Op(
        fn=list_flags,
        http="GET /api/v1/endpoints/{endpoint}/flags",
        action="endpoints.read",
        subject="endpoint:{endpoint}",
    ),
]
