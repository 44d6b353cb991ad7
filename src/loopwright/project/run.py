"""lw.run and `lw run`: accept the project, run a step and what leads to it, and say what happened."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from loopwright.access.service import local_actor
from loopwright.data import service as data
from loopwright.data import text as data_text
from loopwright.kernel.errors import NotFound
from loopwright.pipelines import service as pipelines
from loopwright.pipelines.model import Outcome
from loopwright.pipelines.step import Step, read_params
from loopwright.project import entry, service
from loopwright.project.declare import ENDPOINTS
from loopwright.store import space as spaces
from loopwright.store.space import Space


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What running a step came to.

    Args:
        found: what the data that is new since the last run was found to hold.
        versions: addresses of the versions that stand for its result.
        cached: whether the result was found, so that nothing had to run.
        took_s: seconds of the run that made it.
    """

    found: list[str]
    step: str
    run: str
    cached: bool
    versions: list[str]
    metrics: dict[str, float]
    took_s: float
    next: str | None = None


def run(step: "Step[..., Any]", *, root: str | Path | None = None, **params: Any) -> Any:
    """Run a step and all that leads to it, or find its result; `python FILE` and `lw run` do the same.

    Args:
        root: the folder of the Space, made when it is not there; by default the project's.
        params: parameters of the steps, by name.

    Returns:
        The step's result.

    Raises:
        NotFound: there is no project here and no `root` is given.
        StepFailed: a step's own code raised.
    """
    # a session that was typed has no file
    file: str | None = getattr(sys.modules.get(step.fn.__module__), "__file__", None)
    if root is not None:
        space = spaces.reopened(Path(root))
    elif file is not None:
        space = spaces.reopened(spaces.find_root(Path(file).parent))
    else:
        space = spaces.current()
    spaces.bind(space)
    found = take(space, local_actor(), None if file is None else Path(file))
    print("".join(f"{line}\n" for line in found), end="", file=sys.stderr, flush=True)
    outcome = pipelines.run_step(space, local_actor(), step, params)
    print(text(summary(step, outcome, [])), file=sys.stderr)
    return outcome.result


def take(space: Space, actor: str, file: Path | None) -> list[str]:
    """Accept the project when its file declares endpoints, add its data where it changed, and say what was found."""
    if file is None or not ENDPOINTS:
        return []
    service.accept(space, actor, file)
    sources = {s.name: s for e in ENDPOINTS.values() for s in (*e.features.sources, e.labels)}
    added = [data.add(space, actor, space.root / source.path, declaration=source) for source in sources.values()]
    return [line for one in added if not one.unchanged for line in data_text.brief(one)]


def run_target(space: Space, actor: str, *, target: str | None = None, params: dict[str, Any] | None = None) -> Ran:
    """Run a step of the project file, by default the one that trains the endpoint's model.

    Args:
        target: the step's name; may be left out when the project declares one endpoint or has one last step.
        params: parameters of the steps, such as `-p seed=8` or `-p table.until=2013-04-01`.

    Raises:
        NotFound: there is no such step.
    """
    path = entry.entry_path(space)
    spaces.bind(space)
    module = entry.load(path)
    step = _target(module, target)
    found = take(space, actor, path)
    return summary(step, pipelines.run_step(space, actor, step, read_params(step, params or {})), found)


def _target(module: Any, target: str | None) -> "Step[..., Any]":
    steps = {value.name: value for value in vars(module).values() if isinstance(value, Step)}
    if target is None and ENDPOINTS:
        wanted: Step[..., Any] = next(iter(ENDPOINTS.values())).model
        return wanted
    if target is None:
        fed = {upstream.name for step in steps.values() for upstream in step.inputs.values()}
        last = [step for name, step in steps.items() if name not in fed]
        if len(last) == 1:
            return last[0]
        raise NotFound("say which step to run", code="step.unnamed", field="target", hint=_hint(steps))
    if target not in steps:
        raise NotFound(f"the project has no step {target!r}", code="step.missing", field="target", hint=_hint(steps))
    return steps[target]


def _hint(steps: dict[str, Any]) -> str:
    return f"lw run {'|'.join(sorted(steps))}" if steps else "mark a function with @lw.step"


def summary(step: "Step[..., Any]", outcome: Outcome, found: list[str]) -> Ran:
    """The figures of an outcome, and the next command."""
    run = outcome.run
    following = [name for name, declared in ENDPOINTS.items() if declared.model is step]
    return Ran(
        found=found,
        step=step.name,
        run=run.id,
        cached=outcome.cached,
        versions=run.versions,
        metrics=run.metrics,
        took_s=round((run.took_us or 0) / 1e6, 3),
        next=f"lw check {following[0]}, then lw deploy {following[0]}" if following else None,
    )


def text(ran: Ran) -> str:
    """What happened, in two lines."""
    how = f"found again, made by {ran.run}" if ran.cached else f"ran as {ran.run} in {ran.took_s:.1f} s"
    made = f" -> {', '.join(ran.versions)}" if ran.versions else ""
    figures = "".join(f"  {name} {value:g}" for name, value in ran.metrics.items())
    lines = [*ran.found, f"{ran.step}: {how}{made}{figures}"]
    if ran.next:
        lines.append(f"next: {ran.next}")
    return "\n".join(lines)
