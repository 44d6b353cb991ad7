"""What pipelines hands out: jobs, outcomes of steps, and the error of a step that failed."""

from typing import Any, Literal, NamedTuple

import msgspec

from loopwright.artifacts import codecs
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.event import EventKind
from loopwright.runs.model import Output, Run
from loopwright.store.space import Space

EVENTS: list[EventKind] = []  # what a step does is told by the events of its run

JobState = Literal["queued", "running", "finished", "failed"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the queue; its times are the machine's. `attempt` counts the times that it was begun.

    Args:
        error: what went wrong, in one sentence.
        failure: the same as the document of an error, when it is one of ours.
    """

    id: str
    action_id: str
    kind: str
    args: dict[str, Any]
    state: JobState
    attempt: int
    result: dict[str, Any] | None = None
    error: str | None = None
    failure: dict[str, Any] | None = None
    cause: int | None = None
    queued_us: int
    started_us: int | None = None
    finished_us: int | None = None


class Value:
    """A stored value; it is read when it is asked for, and then kept."""

    def __init__(self, space: Space, output: Output) -> None:
        self.digest = output.digest
        self.kind = output.kind
        self._space = space
        self._output = output
        self._loaded: list[Any] = []

    def load(self) -> Any:
        """The value itself.

        Raises:
            Corrupt: what is stored cannot be read.
        """
        if not self._loaded:
            output = self._output
            self._loaded.append(codecs.load(self._space, output.digest, output.kind, output.meta))
        return self._loaded[0]

    def __repr__(self) -> str:
        return f"<{self.kind} {self.digest[:12]}>"


class Outcome(NamedTuple):
    """What running a step gave: its value, the run that made it, and whether that run was found in the cache."""

    value: Value
    run: Run
    cached: bool

    @property
    def result(self) -> Any:
        """The value itself."""
        return self.value.load()


class StepFailed(LoopwrightError):
    """A step's own code raised; `__cause__` is what it raised, `traceback` the text of where."""

    kind = "step-failed"

    def __init__(self, step: str, error: BaseException, traceback: str) -> None:
        super().__init__(
            f"step {step} failed: {type(error).__name__}: {error}", code="step.failed", field=step, hint="lw log"
        )
        self.error = type(error).__name__
        self.traceback = traceback
