"""Op rows of pipelines: the queue of jobs, to look at."""

from loopwright.kernel.op import Op
from loopwright.pipelines import queue
from loopwright.pipelines.model import Job, JobState
from loopwright.store.space import Space


def list_jobs(space: Space, actor: str, *, state: JobState | None = None, limit: int = 100) -> list[Job]:
    """List jobs, newest first."""
    return list(queue.listed(space, state, limit))


OPS = [Op(fn=list_jobs, http="GET /api/v1/jobs", action="jobs.read")]
