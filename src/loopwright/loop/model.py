"""What the loop keeps: the weekly work, and what is due; and the event kinds."""

from typing import Literal

import msgspec

from loopwright.kernel.event import EventKind
from loopwright.monitors.model import Alarm, ClosedDay
from loopwright.releases.model import Hold, Reign, Rollout

Work = Literal["feeds", "close", "look", "cycle"]
CycleState = Literal["train", "gate", "done"]


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the rhythm: a training, then the gate.

    Args:
        moment_us: when it was due; the training takes what was known then.
        state: what is to be done next.
        outcome: trained, unchanged, held, missed, cooling, capped or failed; empty until it is known.
    """

    endpoint: str
    moment_us: int
    state: CycleState
    outcome: str = ""
    version: int | None = None
    cause: int | None = None


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Something that waits for a moment.

    Args:
        rank: order among equal moments: feeds, then blocks, then roll-outs, then the weekly work.
        key: the day, the roll-out's id, or nothing.
        what: what would be done, for people.
    """

    at_us: int
    rank: int
    endpoint: str
    work: Work
    key: str
    what: str


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """The next moment of an endpoint and what would be done then."""

    at: str
    what: str


class EndpointState(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as the live view shows it."""

    endpoint: str
    model: str
    now: str
    routes: str
    shadows: list[int]
    champion: int | None
    reigns: list[Reign]
    rollouts: list[Rollout]
    next: list[Next]
    holds: list[Hold]
    open_alarms: list[Alarm]
    last_closed: ClosedDay | None


TRAINED = EventKind(
    "challenger.trained@1",
    "{model}@{version} was trained on all that was known at {until} and goes along in shadow",
    True,
    ("version", "until"),
)
UNCHANGED = EventKind(
    "challenger.unchanged@1", "the training of {model} gave {model}@{version} again: nothing new was learnt", True,
    ("version", "until"),
)  # fmt: skip
TRAINING_FAILED = EventKind("training.failed@1", "the training of {model} failed: {reason}", True, ("until",))
TRIGGER_SKIPPED = EventKind(
    "trigger.skipped@1", "the training of {model} due at {until} was skipped: {reason}", True, ("until", "why")
)
GATE_SKIPPED = EventKind(
    "gate.skipped@1", "{model}@{candidate} was not held against the gate: {reason}", True, ("candidate", "busy")
)
EVENTS = [TRAINED, UNCHANGED, TRAINING_FAILED, TRIGGER_SKIPPED, GATE_SKIPPED]
