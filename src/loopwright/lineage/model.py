"""What lineage answers with."""

from typing import Any

import msgspec

from loopwright.kernel.event import EventKind


class Bytes(msgspec.Struct, frozen=True, kw_only=True):
    """A version and whether its bytes, hashed again now, are those that were stored.

    Args:
        erased: whether rows of it were erased since; `bytes_ok` then speaks of what has taken its place.
    """

    ref: str
    digest: str
    bytes_ok: bool
    size_bytes: int = 0
    erased: bool = False


class TracedRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run that made a model: its parameters, its code and its environment."""

    id: str
    name: str
    state: str
    started: str
    params: dict[str, Any]
    commit: str | None
    dirty: bool
    diff: str | None
    files: str | None
    environment: dict[str, str]
    metrics: dict[str, float] = {}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """An event that led to the version being the one that answered."""

    seq: int
    at: str
    kind: str
    sentence: str


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Where one prediction came from, and what became of it.

    Args:
        picked: the version whose turn it was; `version` answered, another one when the picked one failed.
        data: the data versions that the model's run and the runs before it read.
        trained_on: the state of the prediction log and the moment up to which the run looked.
        tainted: whether the model was made from data of which rows were erased since.
    """

    id: str
    request_id: str
    endpoint: str
    at: str
    version: str
    picked: str
    score: float | None
    scores: dict[str, float]
    latency_us: dict[str, int]
    inputs: dict[str, Any]
    label: float | None
    label_known_at: str | None
    model: Bytes
    run: TracedRun | None
    data: list[Bytes]
    trained_on: dict[str, Any]
    decisions: list[Decision]
    tainted: bool = False


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One event as a person reads it."""

    seq: int
    at: str
    kind: str
    subject: str
    actor: str
    sentence: str
    data: dict[str, Any]
    cause: int | None = None


class Stable(msgspec.Struct, frozen=True, kw_only=True):
    """One decision without ids, digests, wall times and latencies: equal replays give equal lines."""

    at: str
    kind: str
    data: dict[str, Any]


VERSION_PUSHED = EventKind("version.pushed@1", "{subject} was copied to the remote with all that it was made from")
VERSION_PULLED = EventKind("version.pulled@1", "{subject} was copied from the remote with all that it was made from")
VERSION_REBUILT = EventKind("version.rebuilt@1", "{subject} was made again from its record: equal bytes {equal}")
EVENTS = [VERSION_PUSHED, VERSION_PULLED, VERSION_REBUILT]
