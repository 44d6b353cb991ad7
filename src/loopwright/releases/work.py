"""Long work of a gate or of the loop: jobs by action id, and the port through which the project's steps are found."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from loopwright.kernel.errors import LoopwrightError, Unavailable
from loopwright.kernel.op import Progress, silent
from loopwright.pipelines import queue
from loopwright.pipelines.step import Step
from loopwright.store.space import Space, job_mode


class JobFailed(LoopwrightError):
    """A job gave up after its retries; the message is that of its last error."""

    kind = "job-failed"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A job: its action, its kind and arguments; `handler` does it where it must not wait for a slot."""

    action_id: str
    kind: str
    args: dict[str, Any]
    handler: Callable[[Space, dict[str, Any], Progress], dict[str, Any]] | None = None


class Submit(Protocol):
    """Sees to it that the queued job of an action is done; returns when it is finished or has failed."""

    def __call__(self, space: Space, action_id: str) -> None:
        """Wait for the job, or do it here."""


class StepFinder(Protocol):
    """Finds the step that trains an endpoint's model, loading the accepted project where it is not loaded."""

    def __call__(self, space: Space, endpoint: str) -> "Step[..., Any]":
        """The declared step."""


_finder: StepFinder | None = None
_here: Submit | None = None


def set_step_finder(finder: StepFinder | None) -> None:
    """Plug in how steps are found."""
    global _finder
    _finder = finder


def set_submit(submit: Submit | None) -> None:
    """Plug in how jobs are done for a caller that brings no way of its own, such as a command."""
    global _here
    _here = submit


def step_of(space: Space, endpoint: str) -> "Step[..., Any]":
    """The step that trains an endpoint's model.

    Raises:
        Unavailable: this process knows no project.
    """
    if _finder is None:
        raise Unavailable("no project is loaded in this process", code="project.none", hint="lw run")
    return _finder(space, endpoint)


def do(space: Space, task: Task, submit: Submit | None = None) -> dict[str, Any]:
    """Queue a job under its action id, see it done, and return its result; done before, it is not done again.

    Inside another job it is done at once, by its handler: the job server may have no second slot. A person who asks
    again (no `submit`) has a job that gave up tried again; the loop does not, so that it decides the same when resumed.

    Raises:
        JobFailed: it gave up.
        Unavailable: nobody does jobs here.
    """
    job = queue.get(space, task.action_id)
    if job is not None and job.state == "finished":
        return dict(job.result or {})
    if job_mode() and task.handler is not None:
        return task.handler(space, task.args, silent)
    if job is None:
        space.write(lambda tx: queue.enqueue(tx, task.action_id, task.kind, task.args))
    elif submit is None:
        space.write(lambda tx: queue.retry(tx, task.action_id))
    way = submit or _here
    if way is None:
        raise Unavailable("nobody does jobs here", code="jobs.none", hint="lw up")
    way(space, task.action_id)
    job = queue.get(space, task.action_id)
    if job is None or job.state != "finished":
        reason = "it was not done" if job is None else str(job.error or job.state)
        raise JobFailed(reason, code="job.failed", field=task.kind, hint="lw status")
    return dict(job.result or {})
