"""settle(): do all that is due now, until nothing is. A killed loop that settles again decides the same."""

from collections.abc import Iterator

from loopwright.kernel.times import format_time
from loopwright.loop import actions, moments
from loopwright.loop.model import Due, EndpointState, Next
from loopwright.monitors import queries as monitors
from loopwright.releases import desk as desks
from loopwright.releases import moves
from loopwright.releases import queries as releases
from loopwright.releases.desk import Desk
from loopwright.releases.work import Submit
from loopwright.serving import publish, routes, watermark
from loopwright.store.database import Tx
from loopwright.store.space import Space


def next_moment(space: Space) -> int | None:
    """The next moment for which anything waits; None when nothing is served yet. It lies in the past if unsettled."""
    with space.read() as tx:
        due = moments.all_due(tx)
    return due[0].at_us if due else None


def settle(space: Space, submit: Submit | None = None) -> Iterator[Due]:
    """Do all that is due at the Space's time, one by one; each is done, and with the workers, when it is yielded.

    Args:
        submit: sees a queued job done; the process's own way when absent.

    Raises:
        Unavailable: nobody does jobs here, or a worker cannot take the routes.
        Timeout: a worker did not take the routes in time.
    """
    apply(space)
    while (due := _first(space)) is not None:
        before = _generation(space)
        actions.perform(space, due, submit)
        if _generation(space) != before:
            apply(space)
        yield due
    with space.read() as tx:
        untidy = bool(_untidy(tx))
    if untidy:
        space.write(_tidy)
        apply(space)


def apply(space: Space) -> int:
    """Publish the routes and wait until every living worker has them; returns how many there are."""
    return publish.wait_applied(space, publish.publish(space))


def _first(space: Space) -> Due | None:
    with space.read() as tx:
        due = moments.all_due(tx)
        ready = bool(due) and due[0].at_us <= tx.now_us() and not watermark.awaited(tx, due[0].at_us)
        return due[0] if ready else None


def awaited(space: Space) -> list[str]:
    """The hosts whose logs what is due waits for; they hold rows that nobody else can read yet."""
    if not space.shared:
        return []
    with space.read() as tx:
        due = moments.all_due(tx)
        return watermark.awaited(tx, due[0].at_us) if due and due[0].at_us <= tx.now_us() else []


def _generation(space: Space) -> int:
    with space.read() as tx:
        return routes.generation(tx)


def _untidy(tx: Tx) -> list[Desk]:
    """The endpoints with routes that nothing needs any more."""
    found = [desks.find(tx, name) for name in releases.endpoints(tx)]
    return [desk for desk in found if routes.routes_in(tx, desk.name) != moves.wanted(tx, desk)]


def _tidy(tx: Tx) -> None:
    for desk in _untidy(tx):
        moves.reroute(tx, desk)


def state(space: Space, endpoint: str) -> EndpointState:
    """An endpoint as the live view shows it: who answers, what is on its way, what comes next and when.

    Raises:
        NotFound: there is no such endpoint.
    """
    with space.read() as tx:
        desk = desks.find(tx, endpoint)
        current = routes.routes_in(tx, endpoint)
        due = sorted(moments.of(tx, desk), key=lambda d: (d.at_us, d.rank))
        return EndpointState(
            endpoint=endpoint,
            model=desk.spec.model,
            now=format_time(tx.now_us()),
            routes=routes.state_of(current),
            shadows=[route.version for route in current if route.role == "shadow"],
            champion=releases.champion(tx, endpoint),
            reigns=releases.reigns(tx, endpoint),
            rollouts=releases.open_rollouts(tx, endpoint),
            next=[Next(at=format_time(d.at_us), what=d.what) for d in due if d.work != "feeds"],
            holds=releases.holds(tx, endpoint),
            open_alarms=monitors.alarms(tx, endpoint, still_open=True),
            last_closed=monitors.last_closed(tx, endpoint),
        )
