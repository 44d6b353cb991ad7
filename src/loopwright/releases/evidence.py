"""Evidence that must be made: the twin of a first model, trained without the last days and tested on them.

The twin is trained by the project's own step and never becomes a version.
"""

import math
from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.checks import scores
from loopwright.checks.verdicts import RISING
from loopwright.data import queries as data_queries
from loopwright.data import service as data
from loopwright.data.model import DataSpec
from loopwright.kernel import canonical
from loopwright.kernel.errors import NotFound, Unsupported
from loopwright.kernel.op import Progress
from loopwright.kernel.times import DAY, format_time
from loopwright.models.value import Model
from loopwright.pipelines import queue
from loopwright.releases import desk as desks
from loopwright.releases import gates, work
from loopwright.releases.desk import Desk
from loopwright.store.space import Space

TWIN = "releases.twin"
ACTOR = "loop"


class TwinAsk(msgspec.Struct, frozen=True, kw_only=True):
    """A twin trained until `since_us`, tested on the labelled requests of [since, until)."""

    endpoint: str
    since_us: int
    until_us: int
    metric: str
    value_metric: str
    labels: str
    target: str


def twin(space: Space, desk: Desk, package: gates.Package, submit: work.Submit | None) -> gates.TwinScore:
    """Train and test the twin of a version, once.

    Raises:
        Unsupported: the endpoint declares no step or labels to make a twin with.
        JobFailed: the training or the test failed.
    """
    floor, spec = gates.floor_of(desk), desk.spec
    assert floor is not None
    if spec.step is None or spec.labels is None or spec.target is None or spec.features is None:
        raise Unsupported(
            f"{desk.name} declares no step, features and labels, so its first model has no twin for the floor",
            code="gate.twin",
            field="gate",
        )
    cut = desk.calendar.start(desk.calendar.day(package.trained_us - floor.holdout_us))
    ask = TwinAsk(
        endpoint=desk.name,
        since_us=cut,
        until_us=package.trained_us,
        metric=desk.metric,
        value_metric=floor.metric,
        labels=spec.labels,
        target=spec.target,
    )
    digest = names.get(space, spec.model, package.version).digest
    action_id = _fresh(space, ["twin", msgspec.to_builtins(ask), digest])
    task = work.Task(action_id=action_id, kind=TWIN, args=msgspec.to_builtins(ask), handler=train_twin)
    return msgspec.convert(work.do(space, task, submit), gates.TwinScore)


def _fresh(space: Space, what: list[Any]) -> str:
    """The id of an action that may be tried again after its job has failed."""
    for attempt in range(10_000):
        action_id = canonical.digest([*what, attempt])
        job = queue.get(space, action_id)
        if job is None or job.state != "failed":
            return action_id
    raise Unsupported("this has failed too often", code="gate.twin", field="gate")


def train_twin(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The job: train by the endpoint's step until the cut, score the days after it."""
    from loopwright.data import training
    from loopwright.pipelines import hooks
    from loopwright.pipelines import service as pipelines

    ask = msgspec.convert(args, TwinAsk)
    with space.read() as tx:
        desk = desks.find(tx, ask.endpoint)
    step = work.step_of(space, ask.endpoint)
    progress(0, 2, f"a twin on what was known at {format_time(ask.since_us)}")
    with hooks.unregistered():
        made = pipelines.run_step(space, ACTOR, step, {"until": format_time(ask.since_us)}).result
    if not isinstance(made, Model):
        raise Unsupported(f"step {step.name} gives no model", code="step.no-model", hint="return lw.model(...)")
    progress(1, 2, f"tested on the days to {format_time(ask.until_us)}")
    features = data.features_of(space, desk.spec.features or "")
    asked = training.Ask(_declaration(space, ask.labels), ask.target, ask.until_us)
    x, y = training.table(space, features, asked)
    days = training.rows(space, features, since=ask.since_us, until=ask.until_us)
    kept = x.index.isin(days.index)
    inputs = [field.name for field in made.card.signature.inputs]
    label, said = y[kept].to_numpy("float64"), made.predict(x.loc[kept, inputs])
    return msgspec.to_builtins(_score(ask, label, said))  # type: ignore[no-any-return]


def _declaration(space: Space, name: str) -> DataSpec:
    """How the labels' data was last declared."""
    version = names.newest(space, name)
    with space.read() as tx:
        known = None if version is None else data_queries.find_version(tx, name, version.number)
    if known is None or known.declaration is None:
        raise NotFound(f"no declared data {name}", code="data.missing", field="labels", hint="lw run")
    return known.declaration


def _score(ask: TwinAsk, label: Any, said: Any) -> gates.TwinScore:
    n = len(label)
    loss = math.fsum(scores.LOSSES[ask.metric](label, said).tolist()) / n if n else 0.0
    rate = math.fsum(label.tolist()) / n if n else 0.0
    value: float | None = None
    if ask.value_metric in RISING:
        value = scores.auc(label, said)
    elif n:
        value = math.fsum(scores.LOSSES[ask.value_metric](label, said).tolist()) / n
    skill = gates.skill_of(rate, loss, ask.metric)
    if ask.metric == "squared_error" and n:
        spread = math.fsum(((label - rate) ** 2).tolist()) / n
        skill = 1 - loss / spread if spread > 0 else None
    return gates.TwinScore(
        n=n,
        since_us=ask.since_us,
        until_us=ask.until_us,
        label_rate=round(rate, 6),
        loss=round(loss, 6),
        metric=ask.metric,
        value=None if value is None else round(value, 6),
        value_metric=ask.value_metric,
        days=max(1, round((ask.until_us - ask.since_us) / DAY)),
        skill=None if skill is None else round(skill, 6),
    )


JOBS = {TWIN: train_twin}
