"""What monitors keep: blocks, pairs of a block, contract flags, alarms; and the event kinds."""

from typing import Any

import msgspec

from loopwright.checks.drift import Moved
from loopwright.kernel.event import EventKind

SERVED = 0  # stands for a version where what was really served is meant


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One version (0 = what was served) on the requests of one calendar day.

    Args:
        n: requests that it scored, asked after it was trained.
        n_labelled: those whose label was known when the block was closed.
        errors: calls that failed.
        loss_sum, score_sum, label_sum, label_square_sum: sums over the labelled rows.
        histogram: scores by label, from which an AUC is read; None for a regression.
        p95_us: of the model call.
    """

    day: str
    version: int
    n: int
    n_labelled: int
    errors: int
    loss_sum: float
    score_sum: float
    label_sum: float
    label_square_sum: float
    loss_low: float | None = None
    loss_high: float | None = None
    histogram: bytes | None = None
    p95_us: int | None = None


class BlockPair(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions, a < b, on the labelled rows of one day that both scored after both were trained."""

    day: str
    a: int
    b: int
    n: int
    loss_a: float
    loss_b: float


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """How often one column broke the contract of the champion on one day, with some of the predictions."""

    day: str
    column: str
    what: str
    n: int
    examples: list[str]


class ClosedDay(msgspec.Struct, frozen=True, kw_only=True):
    """One closed day.

    Args:
        n, n_labelled: requests, and those whose label came in time.
        n_late: labels that came since the last close for earlier days, as corrections, or for no known request.
        labels_seen: labels of the endpoint that were there when the day was closed.
    """

    day: str
    close_us: int
    n: int
    n_labelled: int
    n_late: int
    labels_seen: int
    champion: int


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a closed day says of drift: quiet, drift, or unknown with its reason.

    Args:
        first, last, reference: the days that it was held against, and how many they are.
        moved: the columns that differ, the clearest first.
    """

    day: str
    state: str
    reason: str
    first: str | None = None
    last: str | None = None
    reference: int = 0
    moved: list[Moved] = []


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """One episode: from the block that raised it to the block that ended it."""

    id: str
    endpoint: str
    kind: str
    opened_us: int
    closed_us: int | None
    reason: str
    explanation: dict[str, Any]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When the quality alarm is raised, and when it ends.

    Args:
        bias: how far the mean prediction may lie beside the mean label, in standard deviations of the labels.
        skill_share: the least share of the reference's skill; `loss_share`, where a loss has no skill, the most that it
            may lie above the reference's.
        days: each that many last closed days with labels are looked at.
        pages_a_year: how many pages a year may be false; all looks and statements share it (Bonferroni).
        clean_days: so many clean blocks in a row end an alarm.
    """

    bias: float = 0.1
    skill_share: float = 0.7
    loss_share: float = 0.1
    days: tuple[int, ...] = (3, 7, 14, 28)
    pages_a_year: float = 1.0
    clean_days: int = 2

    @property
    def level(self) -> float:
        """The confidence that each bound of each look has."""
        return 1 - self.pages_a_year / (365 * 2 * len(self.days))


class BlockAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a block is closed by.

    Args:
        since_us, until_us: the day; `close_us` when it is closed, `last_close_us` when the day before was.
        metric: the loss, one of `checks.scores.LOSSES`.
        champion: the version whose contract the requests are held against.
        trained_us: by version, the moment up to which it was trained.
    """

    endpoint: str
    day: str
    since_us: int
    until_us: int
    close_us: int
    last_close_us: int
    metric: str
    task: str
    champion: int
    trained_us: dict[str, int] = {}
    limits: Limits = Limits()


BLOCK_CLOSED = EventKind(
    "block.closed@1",
    "{endpoint}: {day} was closed with {requests} requests and {labelled} labels in time ({late} late);"
    " {metric} as served {loss}",
)
BLOCK_FAILED = EventKind("block.failed@1", "{endpoint}: {day} could not be closed and counts for nothing: {reason}")
CONTRACT_BROKEN = EventKind(
    "contract.broken@1",
    "{endpoint}: {told} on {day}; the requests were answered, `lw api monitors.list_flags` names some",
)
DRIFT_REPORTED = EventKind(
    "drift.reported@1",
    "{endpoint}: {told} on {day} against {reference} days of training; a report, not a page: `lw drift {endpoint}`",
)
ALARM_OPENED = EventKind(
    "alarm.opened@1", "ALARM on {endpoint}: {reason}", decision=True, stable=("alarm", "reason", "days", "figures")
)
ALARM_CLOSED = EventKind(
    "alarm.closed@1", "the alarm on {endpoint} ended: {reason}", decision=True, stable=("alarm", "reason")
)
EVENTS = [BLOCK_CLOSED, BLOCK_FAILED, CONTRACT_BROKEN, DRIFT_REPORTED, ALARM_OPENED, ALARM_CLOSED]
