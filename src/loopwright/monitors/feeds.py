"""Feeds: the sources, requests and labels of an endpoint, held against what they were while they were sound.

A broken feed holds training, gate and promotion, and what was asked while it was broken is never learnt from.
"""

from typing import Any

from loopwright.kernel.op import Progress
from loopwright.kernel.times import HOUR
from loopwright.monitors import feed_queries as queries
from loopwright.store.database import Tx
from loopwright.store.space import Space

FEEDS = "monitors.feeds"
ACTOR = "loop"
EVERY_US = 4 * HOUR
LOG_EVERY_US = 12 * HOUR  # the log is read less often than facts and labels


def needs_job(space: Space, endpoint: str, close_us: int, at_us: int) -> bool:
    """Whether a look needs the log or the history: at the closing of a block, half a day later, and the first time."""
    with space.read() as tx:
        return queries.looked_us(tx, endpoint) is None or (at_us - close_us) % LOG_EVERY_US == 0


def look(space: Space, endpoint: str, at_us: int) -> None:
    """Look at the feeds of an endpoint as they were known before a moment; looked at twice, it counts once."""
    space.write(lambda tx: _write(tx, endpoint, at_us))


def _write(tx: Tx, endpoint: str, at_us: int) -> None:
    queries.put_look(tx, endpoint, at_us)


def give_up(tx: Tx, endpoint: str, at_us: int, reason: str) -> None:
    """Leave a look that failed to the next one, which sees all that this one did not."""
    queries.put_look(tx, endpoint, at_us)


def held_spans(tx: Tx, endpoint: str) -> list[tuple[int, int | None]]:
    """The times [since, until) whose requests could see a broken feed, in order; None = it goes on."""
    return sorted(
        ((e.since_us, e.until_us) for e in queries.episodes(tx, endpoint)), key=lambda span: (span[0], span[1] or 0)
    )


def _job(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    look(space, args["endpoint"], args["at_us"])
    return {}


JOBS = {FEEDS: _job}
