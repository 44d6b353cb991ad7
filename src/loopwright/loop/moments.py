"""What is due, and when: derived from what has happened, so that a resumed loop finds the same moments."""

from loopwright.kernel.times import add_days
from loopwright.loop import queries
from loopwright.loop.model import Due
from loopwright.monitors import feed_queries, feeds
from loopwright.monitors import queries as monitors
from loopwright.releases import desk as desks
from loopwright.releases import machine
from loopwright.releases import queries as releases
from loopwright.releases.desk import Desk
from loopwright.releases.model import Rollout
from loopwright.store.database import Tx

FEEDS, CLOSE, LOOK, CYCLE = 0, 1, 2, 3


def all_due(tx: Tx) -> list[Due]:
    """The next moment of each thing that waits, over all endpoints, in the order in which they are done."""
    found = [due for name in releases.endpoints(tx) for due in of(tx, desks.find(tx, name))]
    return sorted(found, key=lambda due: (due.at_us, due.rank, due.endpoint, due.key))


def of(tx: Tx, desk: Desk) -> list[Due]:
    """What waits on one endpoint: its feeds, its next block, its roll-outs, its weekly work."""
    first = releases.first_reign(tx, desk.name)
    if first is None:
        return []
    day = next_day(tx, desk, first.since_us)
    close = Due(
        at_us=desk.calendar.close(day), rank=CLOSE, endpoint=desk.name, work="close", key=day, what=f"close {day}"
    )
    looks = [
        Due(at_us=r.next_us, rank=LOOK, endpoint=desk.name, work="look", key=r.id, what=_look(desk, r))
        for r in releases.open_rollouts(tx, desk.name)
        if r.next_us is not None
    ]
    return [*_feeds(tx, desk, first.since_us), close, *looks, _cycle(tx, desk, first.since_us)]


def _feeds(tx: Tx, desk: Desk, first_us: int) -> list[Due]:
    """Feeds are looked at some times a day, once when a block closes: before it, and before whatever learns from it."""
    if desk.spec.features is None:
        return []
    after_us = max(feed_queries.looked_us(tx, desk.name) or first_us, first_us)
    close_us = desk.calendar.close(desk.calendar.closed_by(after_us))
    step_us = close_us + ((after_us - close_us) // feeds.EVERY_US + 1) * feeds.EVERY_US
    at_us = min(step_us, desk.calendar.next_close(after_us))
    return [Due(at_us=at_us, rank=FEEDS, endpoint=desk.name, work="feeds", key="", what="look at the feeds")]


def next_day(tx: Tx, desk: Desk, first_us: int) -> str:
    """The day whose block is closed next."""
    last = monitors.last_closed(tx, desk.name)
    return desk.calendar.day(first_us) if last is None else add_days(last.day, 1)


def _cycle(tx: Tx, desk: Desk, first_us: int) -> Due:
    last = queries.last(tx, desk.name)
    if last is not None and last.state != "done":
        what = "train a challenger" if last.state == "train" else f"hold @{last.version} against the gate"
        return Due(at_us=last.moment_us, rank=CYCLE, endpoint=desk.name, work="cycle", key="", what=what)
    moment = next_cycle(desk, first_us, first_us if last is None else last.moment_us)
    what = "train a challenger, then the gate"
    return Due(at_us=moment, rank=CYCLE, endpoint=desk.name, work="cycle", key="", what=what)


def next_cycle(desk: Desk, first_us: int, after_us: int) -> int:
    """The first moment of the rhythm later than another: the closing of every n-th day since the first deploy."""
    every, day = desk.recipe.every_days, desk.calendar.day(first_us)
    while desk.calendar.close(add_days(day, every - 1)) <= after_us:
        day = add_days(day, every)
    return desk.calendar.close(add_days(day, every - 1))


def _look(desk: Desk, rollout: Rollout) -> str:
    name = f"{desk.spec.model}@{rollout.candidate}"
    if rollout.phase == "shadow":
        return f"look at the own shadow of {name}, then canary"
    if rollout.phase == "canary":
        return f"look at the canary of {name} at {machine.share(rollout, desk.recipe) * 100:g} %"
    return f"watch {name} beside @{rollout.champion}"
