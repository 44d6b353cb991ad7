"""What is kept of feeds: episodes of broken sources, and their event kinds."""

from typing import Any

import msgspec

from loopwright.kernel.event import EventKind

REQUESTS, LABELS = "requests", "labels"


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One fault of one feed, from the look that found it to the look from which on it was clean.

    Args:
        source: the name of the data, or `requests`, or `labels`.
        column: of the source; empty when the fault is of the feed as a whole.
        what: the rule that was broken.
        opened_us, closed_us: the looks that found it and ended it.
        since_us, until_us: requests asked in this span could have seen it; `until_us` is None while it goes on.
        holds: whether training, gate and promotion wait for its end.
    """

    id: str
    endpoint: str
    source: str
    column: str
    what: str
    opened_us: int
    closed_us: int | None = None
    since_us: int
    until_us: int | None = None
    holds: bool
    reason: str
    detail: dict[str, Any] = {}
    seq: int = 0

    @property
    def alarm(self) -> str:
        """The kind of its alarm."""
        return f"feed:{self.source}.{self.column}:{self.what}"


_STABLE = ("source", "column", "what", "since", "until", "reason", "figures")
FEED_BROKE = EventKind("feed.broke@1", "BROKEN FEED of {endpoint}: {reason}", True, _STABLE)
FEED_MENDED = EventKind("feed.mended@1", "{endpoint}: {reason}", True, _STABLE)
FEED_LOST = EventKind("feed.look-failed@1", "{endpoint}: its feeds could not be looked at: {reason}")
EVENTS = [FEED_BROKE, FEED_MENDED, FEED_LOST]
