"""What releases keeps: gate declarations, verdicts, roll-outs, holds; and the event kinds."""

from typing import Any, Literal

import msgspec

from loopwright.checks.scores import LOSSES
from loopwright.checks.slices import Slice
from loopwright.checks.verdicts import RISING
from loopwright.kernel.errors import Invalid
from loopwright.kernel.event import EventKind
from loopwright.kernel.times import DAY, MINUTE
from loopwright.kernel.verdict import Verdict

DEFAULT_METRIC = {"binary": "log_loss", "regression": "squared_error"}


class Floor(msgspec.Struct, frozen=True, kw_only=True, tag="floor"):
    """A score that must be kept on days that the model has not seen.

    The first model is judged by a twin trained without the last `holdout_us`; later ones on their paired days, where a
    champion that was no better turns the refusal into a warning.
    """

    metric: str
    limit: float
    holdout_us: int = 28 * DAY

    def __post_init__(self) -> None:
        if self.metric not in LOSSES and self.metric not in RISING:
            raise _metric(self.metric, [*RISING, *LOSSES])
        if self.holdout_us < DAY:
            raise Invalid("holdout must be at least 1d", code="gate.holdout", field="holdout")


class Better(msgspec.Struct, frozen=True, kw_only=True, tag="better"):
    """The recipe must have beaten the champion by a share of its loss; `by` None = the policy's `min_gain`."""

    metric: str
    by: float | None = None

    def __post_init__(self) -> None:
        if self.metric not in LOSSES:
            raise _metric(self.metric, [*LOSSES])
        if self.by is not None and not 0 <= self.by < 1:
            raise Invalid(f"by is a share from 0 to 1, not {self.by!r}", code="gate.by", field="by")


class KnownInTime(msgspec.Struct, frozen=True, kw_only=True, tag="known_in_time"):
    """Every input of the model is a column that the declared features know at the asking time."""


class Fast(msgspec.Struct, frozen=True, kw_only=True, tag="fast"):
    """The model call fails only above both `times` x the champion's and the limit, on at least `min_calls` calls."""

    limit_us: int = 50_000
    times: float = 5.0
    min_calls: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.limit_us <= 10 * MINUTE:
            raise Invalid("limit must be above 0 and at most 10m", code="gate.limit", field="limit")
        if self.times < 1 or self.min_calls < 1:
            raise Invalid("times and min_calls are at least 1", code="gate.fast", field="times")


class Slices(msgspec.Struct, frozen=True, kw_only=True, tag="slices"):
    """No slice, a level of a column of `by`, may be shown to lose more than the share `worse` above the champion."""

    metric: str
    by: tuple[str, ...]
    min_n: int = 300
    worse: float = 0.10

    def __post_init__(self) -> None:
        texts = all(isinstance(name, str) and name for name in self.by)
        for field, good, what in (
            ("metric", self.metric in LOSSES, f"one of {', '.join(sorted(LOSSES))}"),
            ("by", self.by and texts and len(set(self.by)) == len(self.by), "a list of columns, each once"),
            ("min_n", type(self.min_n) is int and 1 <= self.min_n <= 10**9, "a whole number of rows from 1"),
            ("worse", type(self.worse) in (int, float) and 0 <= self.worse <= 100, "a share such as 0.1"),
        ):
            if not good:
                said, hint = f"{field} is {what}, not {getattr(self, field)!r}", 'lw.slices("log_loss", by=["COLUMN"])'
                raise Invalid(said, code="gate.slices", field=field, hint=f"{hint} in the project, then lw run")


class Sliced(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's paired days by slice.

    Args:
        stood: by day, the version that stood for the candidate.
        slices: those with rows enough; `few` is how many others there are.
        failed: why nothing could be measured.
    """

    champion: int = 0
    stood: dict[str, int] = {}
    slices: list[Slice] = []
    few: int = 0
    failed: str = ""


GateCheck = Floor | Better | KnownInTime | Fast | Slices


class GateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The checks that guard an endpoint's routes; one of a kind."""

    checks: tuple[GateCheck, ...]

    def __post_init__(self) -> None:
        kinds = [type(check).__name__ for check in self.checks]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise Invalid(f"the gate holds {twice[0]} twice", code="gate.twice", field="gate")


def _metric(name: str, known: list[str]) -> Invalid:
    return Invalid(
        f"{name!r} is no metric; there are {', '.join(sorted(set(known)))}", code="gate.metric", field="metric"
    )


Phase = Literal["shadow", "canary", "watch", "done"]


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate on its way from its own shadow over the canary to the watch.

    Args:
        step: place in the canary's shares; -1 before the first.
        since_us: when the phase or step began; `next_us` when it is looked at next (None when done).
        first_day: the calendar day of its first own block; in the watch, of the promotion.
        outcome: of a watch, how the place was won (`promoted`, `overridden`); of what is done, how it ended.
        request: the approval that it waits for, or was given; `actor`, who put it on its way.
    """

    id: str
    endpoint: str
    champion: int
    candidate: int
    phase: Phase
    step: int
    since_us: int
    next_us: int | None
    first_day: str
    opened_us: int
    cause: int | None
    outcome: str = ""
    request: str = ""
    actor: str = "loop"


class Reign(msgspec.Struct, frozen=True, kw_only=True):
    """A version that held the place, and how it lost it (`promoted`, `rolled-back`, `overridden`)."""

    version: int
    since_us: int
    until_us: int | None
    ended: str = ""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Up to when a version was trained, and whether the recipe made it by itself."""

    version: int
    trained_us: int
    refit: bool


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A stop on training, gate and promotion of an endpoint; `note` is the digest of a reason that somebody typed.

    A broken feed holds by itself (`kind` feed), says why in `reason`, and ends with its episode.
    """

    endpoint: str
    kind: str
    actor: str
    placed_us: int
    note: str
    lifted_us: int | None = None
    reason: str = ""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was rolled back: it, and any version of the same bytes, is no candidate again by itself."""

    endpoint: str
    version: int
    digest: str
    at_us: int
    reason: str


class GuardLook(msgspec.Struct, frozen=True, kw_only=True):
    """What one look counted of a candidate's operations since the look before.

    Args:
        alone: calls that gave no usable answer while the champion's did; of `calls`.
        slow: calls that took much longer than the champion's; of the `paired` ones that both took.
    """

    rollout: str
    until_us: int
    phase: Phase
    calls: int
    alone: int
    paired: int
    slow: int


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate said of a version: the whole, and each check with its evidence digest.

    Args:
        waits: the approval request that the version waits for.
    """

    endpoint: str
    version: int
    champion: int | None
    at_us: int
    verdict: Verdict
    checks: list[Verdict]
    evidence: list[str]
    waits: str = ""


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """What a deploy or rollback did: the routes now, the verdict, and how many workers have them."""

    endpoint: str
    version: int
    routes: str
    what: str
    workers: int
    verdict: dict[str, Any] | None = None


_GATE = ("candidate", "champion", "verdict", "checks", "figures")
GATE_PASSED = EventKind("gate.passed@1", "{model}@{candidate} passed the gate: {reason}", True, _GATE)
GATE_REFUSED = EventKind("gate.refused@1", "{model}@{candidate} was refused by the gate: {reason}", True, _GATE)
DEPLOYED = EventKind(
    "endpoint.deployed@1", "{model}@{version} serves all requests of {endpoint}: {reason}", True, ("version",)
)
SHADOW_REFUSED = EventKind(
    "shadow.refused@1",
    "{model}@{candidate} goes no further after its own shadow: {reason}",
    True,
    ("candidate", "champion", "verdict", "figures"),
)
SHADOW_WAITS = EventKind(
    "shadow.waits@1", "{model}@{candidate} stays in shadow one more day: {reason}", True, ("candidate", "figures")
)
CANARY_STEPPED = EventKind(
    "canary.stepped@1",
    "{model}@{candidate} answers {percent} of the requests: {reason}",
    True,
    ("candidate", "champion", "share", "verdict"),
)
CANARY_WAITS = EventKind(
    "canary.waits@1", "{model}@{candidate} stays at {percent}: {reason}", True, ("candidate", "share")
)
PROMOTED = EventKind(
    "version.promoted@1",
    "{model}@{version} is the champion, {model}@{replaced} is watched beside it: {reason}",
    True,
    ("version", "replaced", "verdict"),
)
ABORTED = EventKind(
    "rollout.aborted@1",
    "the roll-out of {model}@{candidate} was stopped, {model}@{champion} answers everything: {reason}",
    True,
    ("candidate", "champion", "verdict"),
)
ROLLED_BACK = EventKind(
    "version.rolled-back@1",
    "{endpoint} was rolled back from {model}@{replaced} to {model}@{version}: {reason}",
    True,
    ("version", "replaced", "verdict", "figures"),
)
WATCH_ENDED = EventKind(
    "watch.ended@1",
    "{model}@{version} keeps its place: {reason}",
    True,
    ("version", "replaced", "verdict", "figures"),
)
OVERRIDDEN = EventKind(
    "release.overridden@1",
    "{model}@{version} was put in the place of {model}@{replaced} by hand, past the gate: {reason}",
    True,
    ("version", "replaced"),
)
QUARANTINED = EventKind(
    "version.quarantined@1",
    "{model}@{version} is no candidate again by itself: {reason}",
    True,
    ("version",),
)
APPROVAL_REQUESTED = EventKind(
    "approval.requested@1",
    "{model}@{version} waits for somebody with the role {role} to approve it: {reason}",
    True,
    ("version", "champion"),
)
APPROVAL_GIVEN = EventKind("approval.given@1", "{model}@{version} was approved", True, ("version",))
APPROVAL_DENIED = EventKind(
    "approval.denied@1", "{model}@{version} was not approved: {reason}", True, ("version", "why")
)
PAUSED = EventKind("endpoint.paused@1", "{endpoint} is paused: no training, no gate, no promotion", True, ("hold",))
RESUMED = EventKind("endpoint.resumed@1", "{endpoint} goes on", True, ("hold",))
# as pausing and resuming were called before
HOLD_PLACED = EventKind("hold.placed@1", "{endpoint} is held: no training, no gate, no promotion", True, ("hold",))
HOLD_LIFTED = EventKind("hold.lifted@1", "the hold on {endpoint} was lifted", True, ("hold",))
WORK_HELD = EventKind("work.held@1", "{work} of {endpoint} was skipped: it is held", True, ("work", "hold"))
SHADOW_ADDED = EventKind("shadow.added@1", "{model}@{version} goes along in shadow")
EVENTS = [
    GATE_PASSED,
    GATE_REFUSED,
    DEPLOYED,
    SHADOW_REFUSED,
    SHADOW_WAITS,
    CANARY_STEPPED,
    CANARY_WAITS,
    PROMOTED,
    ABORTED,
    ROLLED_BACK,
    WATCH_ENDED,
    OVERRIDDEN,
    QUARANTINED,
    APPROVAL_REQUESTED,
    APPROVAL_GIVEN,
    APPROVAL_DENIED,
    PAUSED,
    RESUMED,
    HOLD_PLACED,
    HOLD_LIFTED,
    WORK_HELD,
    SHADOW_ADDED,
]
