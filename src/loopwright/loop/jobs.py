"""The training of a challenger as a job: by the project's own step, on what was known at the moment of the trigger."""

from typing import Any

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.kernel.errors import Unsupported
from loopwright.kernel.op import Progress
from loopwright.kernel.times import format_time
from loopwright.models import service as models
from loopwright.models.model import KIND
from loopwright.releases import desk as desks
from loopwright.releases import work
from loopwright.store.space import Space

TRAIN = "loop.train"
ACTOR = "loop"


class TrainAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Which endpoint's model, and what may be known."""

    endpoint: str
    until_us: int
    action_id: str


def train(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Train and register a challenger; equal bytes make no new version, so a repeated job counts once.

    Raises:
        Unsupported: the endpoint's step gives no model.
    """
    from loopwright.pipelines import service as pipelines

    ask = msgspec.convert(args, TrainAsk)
    with space.read() as tx:
        desk = desks.find(tx, ask.endpoint)
    step = work.step_of(space, ask.endpoint)
    progress(0, 1, f"{step.name} on what was known at {format_time(ask.until_us)}")
    params = {"until": format_time(ask.until_us)}
    made = pipelines.run_step(space, ACTOR, step, params, action_id=ask.action_id)
    if made.value.kind != KIND:
        raise Unsupported(f"step {step.name} gives no model", code="step.no-model", hint="return lw.model(...)")
    package = artifacts.get(space, made.value.digest, KIND)
    version = space.write(lambda tx: models.register(tx, ACTOR, desk.spec.model, package, run=made.run.id))
    return {"version": version.number, "run": made.run.id}


JOBS = {TRAIN: train}
