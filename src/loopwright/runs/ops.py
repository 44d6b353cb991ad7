"""Op rows of runs."""

from loopwright.kernel.op import Op
from loopwright.kernel.pages import MOST, Page, page
from loopwright.runs import service
from loopwright.runs.model import Point, Run
from loopwright.store.space import Space


def list_runs(
    space: Space,
    actor: str,
    *,
    kind: str | None = None,
    name: str | None = None,
    state: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> Page[Run]:
    """List runs, newest first."""
    return service.search(space, kind=kind, name=name, state=state, before=before, limit=limit)


def get_run(space: Space, actor: str, *, run: str) -> Run:
    """Get one run."""
    return service.get(space, run)


def list_points(
    space: Space, actor: str, *, run: str, name: str | None = None, after: str | None = None, limit: int = MOST
) -> Page[Point]:
    """List the metric points of a run, in the order in which they were logged."""
    return page(service.points(space, run, name), after=after, limit=limit)


def get_console(space: Space, actor: str, *, run: str) -> dict[str, str]:
    """Get what a run printed."""
    return {"run": run, "text": service.console(space, run)}


OPS = [
    Op(fn=list_runs, http="GET /api/v1/runs", action="runs.read"),
    Op(fn=get_run, http="GET /api/v1/runs/{run}", action="runs.read", subject="run:{run}"),
    Op(fn=list_points, http="GET /api/v1/runs/{run}/metrics", action="runs.read", subject="run:{run}"),
    Op(fn=get_console, http="GET /api/v1/runs/{run}/console", action="runs.read", subject="run:{run}"),
]
