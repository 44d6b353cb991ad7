"""What a run is: one execution, from what to what, and how it ended."""

from typing import Any, Literal

import msgspec

from loopwright.kernel.event import EventKind

State = Literal["running", "finished", "failed"]


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that a run made; `version` is its address where it was registered under a name."""

    digest: str
    kind: str
    meta: dict[str, Any] = {}
    version: str | None = None


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code that ran: commit, whether the folder differed from it, and artifacts that hold what did.

    Args:
        diff: digest of the difference against the commit.
        files: digest of the tree of project files that the run depended on, as they were.
        project: digest of the stored project that was run, when it was not a folder.
        parts: digest of each definition that the run depended on, by `file:name`.
    """

    commit: str | None = None
    dirty: bool = False
    diff: str | None = None
    files: str | None = None
    project: str | None = None
    parts: dict[str, str] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run failed."""

    type: str
    message: str
    traceback: str = ""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a run when it starts."""

    key: str | None = None
    params: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    environment: dict[str, str] = {}
    code: Code = Code()
    parent: str | None = None
    cause: int | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution. Times are of the Space's clock; `took_us` is of the machine's.

    Args:
        metrics: the last value of each metric.
        files: the files that it logged, path -> digest.
        sealed: digests of the artifacts made of its `files`, `metrics` (all points) and `console`.
    """

    id: str
    kind: str
    name: str
    state: State
    actor: str
    started_us: int
    finished_us: int | None = None
    took_us: int | None = None
    key: str | None = None
    params: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    outputs: dict[str, Output] = {}
    metrics: dict[str, float] = {}
    files: dict[str, str] = {}
    sealed: dict[str, str] = {}
    environment: dict[str, str] = {}
    code: Code = Code()
    failure: Failure | None = None
    parent: str | None = None
    cause: int | None = None

    @property
    def versions(self) -> list[str]:
        """Addresses of the versions that the run registered."""
        return [output.version for output in self.outputs.values() if output.version is not None]

    def _repr_html_(self) -> str:
        from html import escape

        rows = {"state": self.state, **self.params, **self.metrics}
        cells = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<div><b>{escape(self.name)}</b> {escape(self.id)}<table>{cells}</table></div>"


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One value of a metric: its number in the metric's line, and when."""

    name: str
    value: float
    step: int
    at_us: int


RUN_STARTED = EventKind("run.started@1", "{name} started as {subject}")
RUN_FINISHED = EventKind("run.finished@1", "{name} finished as {subject}")
RUN_FAILED = EventKind("run.failed@1", "{name} failed as {subject}: {error}")
EVENTS = [RUN_STARTED, RUN_FINISHED, RUN_FAILED]
