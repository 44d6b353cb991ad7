"""Op rows of pipelines: the queue of jobs, to look at."""

from loopwright.kernel.op import Op
from loopwright.kernel.pages import Page, check_limit
from loopwright.pipelines import queue
from loopwright.pipelines.model import Job, JobState
from loopwright.store.space import Space


def list_jobs(
    space: Space, actor: str, *, state: JobState | None = None, before: str | None = None, limit: int = 100
) -> Page[Job]:
    """List jobs, newest first; `next` is what `before` must be to read on."""
    check_limit(limit)
    found = list(queue.listed(space, state, limit + 1, before=before))
    return Page(items=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


OPS = [Op(fn=list_jobs, http="GET /api/v1/jobs", action="jobs.read")]
