"""What serving keeps: endpoints, routes, sealed logs; and the file from which workers take their routes."""

from typing import Any, Literal

import msgspec

from loopwright.data.online import Plan
from loopwright.kernel.event import EventKind
from loopwright.models.model import Card, Task

Role = Literal["live", "shadow"]
LogPromise = Literal["kept", "required"]
PLACE_BYTES = 2048  # in a worker's lock file: for a report that the disk has no other room for


class EndpointSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a project declares of an endpoint.

    Args:
        model: the Name whose versions it serves.
        step: the step that trains it.
        features: the declared features of a request.
        labels: the data in which the truth arrives, and `target`, the column.
        keep: versions that stay as shadows.
        gate, policy: settings that releases reads.
        log: `kept` answers also when the log cannot be written; `required` refuses then.
        approve: the role of the person who must approve a version before it answers anything; empty = nobody need.
    """

    name: str
    model: str
    step: str | None = None
    features: str | None = None
    labels: str | None = None
    target: str | None = None
    task: Task = "binary"
    timezone: str = "UTC"
    keep: tuple[int, ...] = ()
    gate: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    log: LogPromise = "kept"
    approve: str = ""


class Route(msgspec.Struct, frozen=True):
    """One version in an endpoint's routes; a shadow has weight 0. The first live route is the champion's."""

    version: int
    weight: float = 0.0
    role: Role = "shadow"


class RouteSet(msgspec.Struct, frozen=True, kw_only=True):
    """The routes of an endpoint from one generation on."""

    generation: int
    endpoint: str
    routes: list[Route]
    actor: str
    permit: str | None
    at_us: int


class PublishedRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route with the files that a worker loads for it."""

    version: int
    weight: float
    role: Role
    card: Card
    native: str
    native_digest: str


class PublishedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as workers see it; `lookup` says how its features are looked up, or `lookup_problem` why not."""

    name: str
    log: LogPromise
    routes: list[PublishedRoute]
    lookup: Plan | None = None
    lookup_problem: str = ""


class RouteFile(msgspec.Struct, frozen=True, kw_only=True):
    """run/routes.json: all that workers know of the Space.

    Args:
        clock_us: the Space's time on a replay clock; None = the wall.
        subject_key: the file with the key under which subjects are hashed.
        problems: by endpoint, what could not be published as the tables say, and why.
        host: the host's number among those that share the Space; part of every spool's id.
        erasures: how many there were; workers let go of their spools and of what they remember when it grows.
    """

    format: int = 1
    generation: int
    clock_us: int | None
    subject_key: str
    endpoints: list[PublishedEndpoint]
    problems: dict[str, str] = {}
    host: int = 0
    erasures: int = 0


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """run/worker-<slot>.json: what a worker says of itself.

    Args:
        failed: why the route file of `failed_generation` could not be taken; empty when the newest was.
        unlogged: rows that were answered though the log did not take them.
        failed_syncs: how often the disk refused to keep what the log holds.
        log_problem: why the log does not take rows now; empty when it does.
        problems: by endpoint, why it goes on as before, or is not served at all.
        leaving: whether it only ends what is under way.
        started_us: when it began, by the machine's clock.
    """

    slot: int
    pid: int
    port: int
    generation: int
    clock_us: int | None
    ready: bool
    failed: str = ""
    failed_generation: int = 0
    unlogged: int = 0
    failed_syncs: int = 0
    log_problem: str = ""
    problems: dict[str, str] = {}
    leaving: bool = False
    started_us: int = 0
    erasures: int = 0


class SealedLog(msgspec.Struct, frozen=True, kw_only=True):
    """One sealed piece of an endpoint's prediction log."""

    spool: str
    endpoint: str
    digest: str
    rows: int
    min_at_us: int
    max_at_us: int
    at_us: int


ENDPOINT_DECLARED = EventKind("endpoint.declared@1", "{subject} was declared for {model}")
ROUTES_CHANGED = EventKind("routes.changed@1", "{subject} is answered by {live}, in shadow {shadow}")
LOG_SEALED = EventKind("prediction-log.sealed@1", "{rows} predictions of {subject} were sealed")
LOG_FAILED = EventKind(
    "prediction-log.failed@1", "the log of {subject} takes no rows; {unlogged} answers went unlogged so far"
)
LOG_RECOVERED = EventKind(
    "prediction-log.recovered@1", "the log of {subject} takes rows again; {unlogged} answers went unlogged"
)
EVENTS = [ENDPOINT_DECLARED, ROUTES_CHANGED, LOG_SEALED, LOG_FAILED, LOG_RECOVERED]
