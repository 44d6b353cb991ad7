"""Evidence that must be made: twins trained without the last days, old requests scored again, how late labels come.

A twin is trained by the project's own step and never becomes a version.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.checks import scores
from loopwright.checks.gains import Pair
from loopwright.checks.slices import Slice
from loopwright.checks.verdicts import RISING
from loopwright.data import queries as data_queries
from loopwright.data import service as data
from loopwright.data.model import DataSpec
from loopwright.kernel import canonical
from loopwright.kernel.errors import NotFound, Unsupported
from loopwright.kernel.op import Progress
from loopwright.kernel.times import DAY, HOUR, add_days, format_time
from loopwright.models import service as models
from loopwright.models.value import Model
from loopwright.monitors import blocks as close
from loopwright.monitors import rows
from loopwright.monitors.model import SERVED, Block, BlockPair
from loopwright.pipelines import queue
from loopwright.releases import desk as desks
from loopwright.releases import gates, queries, work
from loopwright.releases import recipe as rules
from loopwright.releases.desk import Desk
from loopwright.releases.model import Sliced, Slices
from loopwright.releases.policy import LATEST_CLOSE
from loopwright.releases.recipe import Book
from loopwright.runs import service as runs
from loopwright.serving import predictions
from loopwright.serving.columns import quoted
from loopwright.store.space import Space

TWIN, SHOWN, DELAYS = "releases.twin", "releases.score-served", "releases.label-delays"
SLICED = "releases.slices"
Levels = dict[tuple[str, str | None], list[Pair]]
_Judged = tuple[Any, Any, Any]
_Out = tuple[list[Block], list[BlockPair], Levels]
_FAR_US = 1 << 62
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

    ask = msgspec.convert(args, TwinAsk)
    with space.read() as tx:
        desk = desks.find(tx, ask.endpoint)
    progress(0, 2, f"a twin on what was known at {format_time(ask.since_us)}")
    made = _trained(space, ask.endpoint, ask.since_us)
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


class ServedAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Some closed days on which a version made by hand is held against what was served.

    Args:
        twin_us: the version has seen these days, and a twin that was trained until then stands for it.
    """

    endpoint: str
    version: int
    days: list[str]
    known_us: int
    twin_us: int | None = None
    check: Slices | msgspec.UnsetType = msgspec.UNSET


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: blocks of what was served and of the version, and the pairs of the two."""

    blocks: list[Block]
    pairs: list[BlockPair]
    sliced: Sliced | None = None


def served(space: Space, desk: Desk, package: gates.Package, submit: work.Submit | None) -> Book | None:
    """The last closed days, on which a version made by hand is held against what was really served.

    It scores the logged features, so that what only a training table knew is worth nothing. Days that it knows are
    scored by a twin without them where its step can train one. None for a refit, and for a version whose own shadow
    has days enough.

    Raises:
        JobFailed: the twin could not be trained, or the version cannot score what was logged.
    """
    with space.read() as tx:
        own = next((t for t in queries.trainings(tx, desk.name) if t.version == package.version), None)
        champion, book = queries.champion(tx, desk.name), gates.book(tx, desk)
        now_us, declared = tx.now_us(), data_queries.find_features(tx, desk.spec.features or "")
    if champion is None or (own is not None and own.refit):
        return None
    if declared is not None and not set(package.inputs) <= set(declared.outputs):
        return Book([], [])  # it asks for what is no feature: the gate says of it when it becomes known
    if len(rules.compare(desk.recipe, book, champion, [package.version]).pairs) >= desk.recipe.min_blocks:
        return None
    days, start = book.days[-desk.recipe.window_blocks :], desk.calendar.start
    unseen = [day for day in days if start(day) >= package.trained_us]
    twin_us = None
    if len(unseen) < desk.recipe.min_blocks:
        twin_us = start(days[0]) if days and _by_its_step(space, desk, package.version) else None
        unseen = unseen if twin_us is None else days
    if not unseen:
        return Book([], [])
    ask = ServedAsk(endpoint=desk.name, version=package.version, days=unseen, known_us=now_us, twin_us=twin_us)
    ask = msgspec.structs.replace(ask, check=gates.slices_of(desk) or msgspec.UNSET)
    digest = names.get(space, desk.spec.model, package.version).digest
    args = msgspec.to_builtins(ask)
    task = work.Task(action_id=_fresh(space, [SHOWN, args, digest]), kind=SHOWN, args=args, handler=score_served)
    found = msgspec.convert(work.do(space, task, submit), Shown)
    return Book(found.blocks, found.pairs, found.sliced)


def _by_its_step(space: Space, desk: Desk, version: int) -> bool:
    """Whether a version came out of the step that trains the endpoint's model, so that a twin of it can be trained."""
    run = names.get(space, desk.spec.model, version).run
    return run is not None and desk.spec.step is not None and runs.get(space, run).name == desk.spec.step


def score_served(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The job: score the logged requests of some days again, each day's labels as they were when it was closed."""
    ask = msgspec.convert(args, ServedAsk)
    with space.read() as tx:
        desk = desks.find(tx, ask.endpoint)
    if ask.twin_us is None:
        found = models.load(space, names.get(space, desk.spec.model, ask.version).digest)
    else:
        progress(0, 2, f"a twin on what was known at {format_time(ask.twin_us)}")
        found = _trained(space, ask.endpoint, ask.twin_us)
    progress(1, 2, f"{len(ask.days)} days, scored again")
    blocks, pairs, levels = list[Block](), list[BlockPair](), Levels()
    with predictions.connect() as con:
        for day in ask.days:
            columns = _load(con, space, desk, day, ask.known_us)
            _compare(con, desk, ask, (day, columns, found), (blocks, pairs, levels))
    sliced = None
    if ask.check is not msgspec.UNSET:
        sliced = _together(ask.check, Sliced(stood=dict.fromkeys(ask.days, ask.version)), levels)
    return msgspec.to_builtins(Shown(blocks=blocks, pairs=pairs, sliced=sliced))  # type: ignore[no-any-return]


def _load(con: Any, space: Space, desk: Desk, day: str, known_us: int) -> list[str]:
    """Make `judged` of a day's requests, with the labels as they were at its close, or at a moment before."""
    since_us, until_us = desk.calendar.start(day), desk.calendar.start(add_days(day, 1))
    known_us = min(desk.calendar.close(day), known_us)
    asked = rows.Asked(endpoint=desk.name, since_us=since_us, until_us=until_us, known_before_us=known_us)
    return rows.load(con, space, asked)


def _compare(con: Any, desk: Desk, ask: ServedAsk, at: tuple[str, list[str], Model], out: _Out) -> None:
    """Add a day: the blocks of what was served and of the version, and the pair of both, also by slice if asked."""
    import numpy as np

    day, columns, found = at
    inputs = [field.name for field in found.card.signature.inputs]
    missing = [name for name in inputs if f"in_{name}" not in columns]
    if missing:
        raise Unsupported(
            f"{missing[0]} was not logged, so requests of before cannot be scored again",
            code="gate.not-logged",
            field=missing[0],
            hint=f"lw deploy {desk.spec.model}@{ask.version} --shadow",
        )
    read = rows.take(con, columns, _FAR_US)
    cells = ", ".join(quoted(f"in_{name}") for name in inputs)
    asked = con.execute(f"SELECT {cells} FROM {rows.TABLE} ORDER BY at_us, request_id, id").fetchall()
    said = np.array(found.load().predict_values(asked), dtype=np.float64)
    ask_day = close.BlockAsk(
        endpoint=desk.name, day=day, since_us=0, until_us=0, close_us=0, last_close_us=0, metric=desk.metric,
        task=desk.spec.task, champion=0,
    )  # fmt: skip
    both = np.isfinite(read.label) & np.isfinite(read.served) & np.isfinite(said)
    mine = msgspec.structs.replace(
        read, scores={ask.version: said}, bad={ask.version: ~np.isfinite(said)},
        latency_us={ask.version: np.full(len(said), np.nan)},
    )  # fmt: skip
    out[0].extend(close.measure(mine, ask_day, version) for version in (SERVED, ask.version))
    if both.any():
        loss = scores.LOSSES[desk.metric]
        a, b = (math.fsum(loss(read.label[both], score[both]).tolist()) for score in (read.served, said))
        out[1].append(BlockPair(day=day, a=SERVED, b=ask.version, n=int(both.sum()), loss_a=a, loss_b=b))
        if ask.check is not msgspec.UNSET:
            loss, pair = scores.LOSSES[ask.check.metric], Pair(day=day, n=0, loss_a=0, loss_b=0, b=ask.version)
            judged = (both, loss(read.label, read.served), loss(read.label, said))
            _by_level(con, ask.check.by, columns, pair, judged, out[2])


def sliced(space: Space, desk: Desk, package: gates.Package, submit: work.Submit | None) -> Sliced | None:
    """The pairs that the gate compares a version by, by slice; None where the gate asks for none or has no days enough.

    A job under an id made of the days and the versions: asked again after a kill, it says the same.
    """
    check = gates.slices_of(desk)
    if check is None:
        return None
    with space.read() as tx:
        champion = queries.champion(tx, desk.name) or 0
        stood = gates.compared(tx, desk, package, champion)[1].stood
    if len(stood) < desk.recipe.min_blocks:
        return None
    what = {"endpoint": desk.name, "check": check, "asked": Sliced(champion=champion, stood=stood)}
    args = msgspec.to_builtins(what)
    task = work.Task(action_id=canonical.digest([SLICED, args]), kind=SLICED, args=args, handler=measure_slices)
    try:
        return msgspec.convert(work.do(space, task, submit), Sliced)
    except work.JobFailed as error:
        return Sliced(failed=error.message)


def measure_slices(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The job: the losses of both models by level, on the rows of each day that both scored after their training."""
    import numpy as np

    check, asked, found = msgspec.convert(args["check"], Slices), msgspec.convert(args["asked"], Sliced), Levels()
    loss = scores.LOSSES[check.metric]
    with space.read() as tx:
        desk, known = desks.find(tx, args["endpoint"]), queries.trainings(tx, args["endpoint"])
    trained = {str(training.version): training.trained_us for training in known}
    with predictions.connect() as con:
        for done, (day, version) in enumerate(sorted(asked.stood.items())):
            progress(done, len(asked.stood), f"{day} by slice")
            columns = _load(con, space, desk, day, _FAR_US)
            read = rows.take(con, columns, _FAR_US)
            unseen = [close.unseen(read, trained, v) for v in (asked.champion, version)]
            both = np.isfinite(read.label) & unseen[0] & unseen[1]
            judged = (both, loss(read.label, read.scores[asked.champion]), loss(read.label, read.scores[version]))
            _by_level(con, check.by, columns, Pair(day=day, n=0, loss_a=0, loss_b=0, b=version), judged, found)
    return msgspec.to_builtins(_together(check, asked, found))  # type: ignore[no-any-return]


def _by_level(con: Any, by: Sequence[str], columns: list[str], pair: Pair, judged: _Judged, out: Levels) -> None:
    """Add a day's pair, level by level: `judged` says which rows count, in their order, and what both lost on each."""
    for column in by:
        cell = f"CAST({quoted(f'in_{column}')} AS VARCHAR)" if f"in_{column}" in columns else "NULL"
        levels = con.execute(f"SELECT {cell} FROM {rows.TABLE} ORDER BY at_us, request_id, id").fetchall()
        sums: dict[str | None, list[tuple[float, float]]] = {}
        for (level,), counts, a, b in zip(levels, *(part.tolist() for part in judged), strict=True):
            if counts:
                sums.setdefault(level, []).append((a, b))
        for level, both in sums.items():
            a, b = (math.fsum(side) for side in zip(*both, strict=True))
            made = msgspec.structs.replace(pair, n=len(both), loss_a=a, loss_b=b)
            out.setdefault((column, level), []).append(made)


def _together(check: Slices, asked: Sliced, found: Levels) -> Sliced:
    """The slices with rows enough, by column and level, and how many others there are."""
    order = sorted(found, key=lambda key: (key[0], key[1] is None, key[1] or ""))
    slices = [Slice(column=column, level=level, pairs=found[column, level]) for column, level in order]
    large = [one for one in slices if one.n >= check.min_n]
    return msgspec.structs.replace(asked, slices=large, few=len(slices) - len(large))


def _trained(space: Space, endpoint: str, until_us: int) -> Model:
    """A model by the endpoint's own step on what was known at a moment; it becomes no version."""
    from loopwright.pipelines import hooks
    from loopwright.pipelines import service as pipelines

    step = work.step_of(space, endpoint)
    with hooks.unregistered():
        made = pipelines.run_step(space, ACTOR, step, {"until": format_time(until_us)}).result
    if not isinstance(made, Model):
        raise Unsupported(f"step {step.name} gives no model", code="step.no-model", hint="return lw.model(...)")
    return made


class DelaysAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Whose labels, of the requests asked before a moment."""

    endpoint: str
    until_us: int


def close_minutes(space: Space, desk: Desk, until_us: int, submit: work.Submit | None) -> int | None:
    """By how many minutes past the end of a day its labels are known, as the history has it; None when nothing says so.

    A project that names `block_close` is not asked.
    """
    if "close_minutes" in desk.recipe.given or desk.spec.labels is None or desk.spec.features is None:
        return None
    args = msgspec.to_builtins(DelaysAsk(endpoint=desk.name, until_us=until_us))
    task = work.Task(action_id=_fresh(space, [DELAYS, args]), kind=DELAYS, args=args, handler=measure_delays)
    try:
        found = work.do(space, task, submit).get("minutes")
    except work.JobFailed:
        return None  # blocks are then closed at the hour that stands in
    return None if found is None else int(found)


def measure_delays(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The job: the hour by which 99 % of a day's labels are known, not before 04:00; over 10,000 of the requests."""
    from loopwright.data import sources, sql
    from loopwright.data.execute import Executor, Span

    ask = msgspec.convert(args, DelaysAsk)
    with space.read() as tx:
        desk = desks.find(tx, ask.endpoint)
    labels = _declaration(space, desk.spec.labels or "")
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        executor = Executor(con, space, data.features_of(space, desk.spec.features or ""))
        executor.make_base(Span(until_us=ask.until_us))
        opened = executor.open(labels, "lw.delays", [labels.key[0], labels.known_column or ""], ask.until_us)
        key = sql.ident(labels.key[0])
        found = con.execute(
            "SELECT asked, known FROM (SELECT *, row_number() OVER (ORDER BY asked, id) AS place, count(*) OVER () n"
            f' FROM (SELECT CAST({key} AS VARCHAR) AS id, min("lw.at") AS asked, min({opened.known()}) AS known'
            f' FROM {opened.table} l JOIN base ON base."lw.id" = CAST({key} AS VARCHAR) GROUP BY ALL))'
            " WHERE place % greatest(1, n // 10000) = 0 ORDER BY place"
        ).fetchall()
    late = sorted(max(0, known - desk.calendar.start(add_days(desk.calendar.day(at), 1))) for at, known in found)
    if not late:
        return {"minutes": None}
    hours = -(-late[math.ceil(0.99 * len(late)) - 1] // HOUR)
    return {"minutes": min(max(4, hours) * 60, LATEST_CLOSE)}


JOBS = {TWIN: train_twin, SHOWN: score_served, DELAYS: measure_delays, SLICED: measure_slices}
