"""The gate: what it looks at, what it says of a version, and the verdicts that it leaves behind."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Version
from loopwright.checks import verdicts
from loopwright.checks.scores import skill
from loopwright.data import queries as data
from loopwright.kernel.times import MINUTE, add_days, format_duration, format_time
from loopwright.kernel.verdict import Verdict
from loopwright.models import service as models
from loopwright.monitors import feeds
from loopwright.monitors import queries as monitors
from loopwright.monitors.model import SERVED
from loopwright.releases import queries
from loopwright.releases import recipe as rules
from loopwright.releases.desk import Desk
from loopwright.releases.model import Floor, GateResult, KnownInTime, Sliced, Slices
from loopwright.store.database import Tx
from loopwright.store.space import Space

_REACH = 2  # days that are held are made up for by older ones, no further back than twice the window


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate needs of a version's package: its inputs, up to when it was trained, and which inputs come late."""

    version: int
    inputs: tuple[str, ...]
    trained_us: int
    late: dict[str, str] = {}


class TwinScore(msgspec.Struct, frozen=True, kw_only=True):
    """How a twin, trained without the last days, did on the labelled requests of those days."""

    n: int
    since_us: int
    until_us: int
    label_rate: float
    loss: float
    metric: str
    value: float | None
    value_metric: str
    days: int
    skill: float | None = None


def package(space: Space, version: Version) -> Package:
    """Read what the gate needs of a version; a package that tells no training time was trained when registered."""
    meta: Mapping[str, Any] = artifacts.get(space, version.digest).meta
    card = models.card(space, version.digest)
    trained = meta.get("trained_until_us")
    return Package(
        version=version.number,
        inputs=tuple(field.name for field in card.signature.inputs),
        trained_us=version.at_us if trained is None else int(trained),
    )


def timed(space: Space, desk: Desk, package: Package) -> Package:
    """A package with the lag of each input that is no feature and that a source tells only after it is asked for."""
    with space.read() as tx:
        declared = data.find_features(tx, desk.spec.features or "")
    strange = sorted(set(package.inputs) - set(declared.outputs)) if declared is not None else []
    if declared is None or not strange:
        return package
    from loopwright.data import lateness

    late = {}
    for found in lateness.of_columns(space, declared, strange):
        if found.median_lag_us is not None:
            lag = format_duration(found.median_lag_us // MINUTE * MINUTE or found.median_lag_us)
            share = verdicts.percent(found.late_share)
            late[found.column] = f"{found.source} tells it {lag} after the question (median), in {share} of the rows"
    return msgspec.structs.replace(package, late=late)


def floor_of(desk: Desk) -> Floor | None:
    """The floor of a gate, when it has one."""
    return next((check for check in desk.gate.checks if isinstance(check, Floor)), None)


def slices_of(desk: Desk) -> Slices | None:
    """What a gate asks of slices, when it does."""
    return next((check for check in desk.gate.checks if isinstance(check, Slices)), None)


def book(tx: Tx, desk: Desk) -> rules.Book:
    """The blocks and pairs of the days that a gate may look at: the last ones, and older ones for those held."""
    last = monitors.closed_days(tx, desk.name)[-_REACH * desk.recipe.window_blocks :]
    if not last:
        return rules.Book([], [])
    return whole_book(tx, desk, last[0].day)


def whole_book(tx: Tx, desk: Desk, since: str) -> rules.Book:
    """The blocks and pairs from a day on, without the days on which a request could see a broken feed."""
    blocks, pairs = monitors.blocks(tx, desk.name, since=since), monitors.pairs(tx, desk.name, since=since)
    held = _held_days(desk, feeds.held_spans(tx, desk.name), {block.day for block in blocks})
    return rules.Book([b for b in blocks if b.day not in held], [p for p in pairs if p.day not in held])


def _held_days(desk: Desk, spans: Sequence[tuple[int, int | None]], days: Iterable[str]) -> set[str]:
    """The days that a span touches."""
    start = desk.calendar.start
    return {
        day
        for day in days
        if any(since < start(add_days(day, 1)) and (until is None or until > start(day)) for since, until in spans)
    }


def first(tx: Tx, desk: Desk, package: Package, twin: TwinScore | None) -> GateResult:
    """The gate of an endpoint's first version: floor by its twin, knowledge time, latency."""
    found = []
    for check in desk.gate.checks:
        if isinstance(check, Floor):
            found.append(_first_floor(check, twin))
        elif isinstance(check, KnownInTime):
            found.append(_known(tx, desk, package))
    found.append(rules.fast(desk.fast, 0, None, None))
    return _result(tx, desk, package.version, None, found)


def compared(
    tx: Tx, desk: Desk, package: Package, champion: int, shown: rules.Book | None = None
) -> tuple[rules.Book, rules.Tested]:
    """The days of a gate, and those on which a version (or what stands for it) can be compared with the champion."""
    if shown is not None:
        return shown, rules.compare(desk.recipe, shown, SERVED, [package.version])
    days = book(tx, desk)
    return days, rules.compare(desk.recipe, days, champion, stand_ins(tx, desk, package, champion))


def later(
    tx: Tx, desk: Desk, package: Package, shown: rules.Book | None = None, sliced: Sliced | None = None
) -> GateResult:
    """The gate of a later version, on the paired days of the recipe (or of the version itself, made by hand).

    Args:
        shown: days on which a version made by hand, which has none of its own, was held against what was served.
        sliced: the same days by slice, where the gate asks for it.
    """
    champion = queries.champion(tx, desk.name)
    assert champion is not None
    days, tested = compared(tx, desk, package, champion, shown)
    enough = len(tested.pairs) >= desk.recipe.min_blocks
    found = [rules.better(desk.recipe, desk.better, tested, desk.spec.model)]
    if shown is not None and not enough:
        found[0] = _unseen(desk, package, found[0])
    for check in desk.gate.checks:
        if isinstance(check, Floor) and enough:
            found.append(rules.floor_on_days(check, days, tested, metric=desk.metric))
        elif isinstance(check, KnownInTime):
            found.append(_known(tx, desk, package))
        elif isinstance(check, Slices):
            found.append(rules.by_slices(desk.recipe, check, tested, sliced or Sliced(), desk.spec.model))
    found.append(rules.fast_on_days(desk.fast, days, tested))
    return _result(tx, desk, package.version, champion, found)


def _unseen(desk: Desk, package: Package, found: Verdict) -> Verdict:
    """What can be done for a version that was trained on the days it would be judged by."""
    since, name = format_time(package.trained_us), f"{desk.spec.model}@{package.version}"
    reason = f"{found.reason} (it knows what was known at {since}); lw deploy {name} --shadow lets it collect days"
    return msgspec.structs.replace(found, reason=reason)


def stand_ins(tx: Tx, desk: Desk, package: Package, champion: int) -> list[int]:
    """The versions that may stand for a candidate: refits of the recipe younger than the champion, or itself alone."""
    known = {training.version: training for training in queries.trainings(tx, desk.name)}
    own = known.get(package.version)
    before = known[champion].trained_us if champion in known else 0
    if own is None or not own.refit or own.trained_us <= before:
        return [package.version]
    return [t.version for t in known.values() if t.refit and before < t.trained_us <= own.trained_us]


def _first_floor(check: Floor, twin: TwinScore | None) -> Verdict:
    if twin is None:
        reason = f"its twin without the last {format_duration(check.holdout_us)} was not trained"
        return Verdict(outcome="unknown", check="floor", reason=reason)
    where = f"{twin.days} days that its twin had not seen"
    found = verdicts.floor(check.metric, check.limit, twin.value, n=twin.n, where=where)
    return msgspec.structs.replace(found, evidence={**found.evidence, "twin": msgspec.to_builtins(twin)})


def _known(tx: Tx, desk: Desk, package: Package) -> Verdict:
    name = desk.spec.features or ""
    declared = data.find_features(tx, name) if name else None
    if declared is None:
        reason = f"no features {name!r} are declared, so nothing says what is known when it is asked"
        return Verdict(outcome="fail", check="known_in_time", reason=reason, evidence={"features": name})
    return verdicts.known_in_time(package.inputs, declared.outputs, name, package.late)


def _result(tx: Tx, desk: Desk, version: int, champion: int | None, found: list[Verdict]) -> GateResult:
    at_us = tx.now_us()
    ready = next((v.reason for v in found if v.check == "better"), None)
    ready = ready or "; ".join(v.reason for v in found if v.check != "fast") or "nothing stands against it"
    ready += "".join(f"; but {v.reason}" for v in found if v.outcome == "warn")
    whole = verdicts.together("gate", found, ready=ready)
    digests = [queries.put_verdict(tx, desk.name, (version, champion), v, at_us) for v in (*found, whole)]
    return GateResult(
        endpoint=desk.name,
        version=version,
        champion=champion,
        at_us=at_us,
        verdict=whole,
        checks=found,
        evidence=digests,
    )


def event_data(desk: Desk, result: GateResult) -> dict[str, Any]:
    """What the event of a gate holds: of a slice the column, and not the level, which is a feature's value."""
    reason = result.verdict.reason
    for v in result.checks:
        if "slice" in v.evidence:
            reason = reason.replace(v.evidence["slice"], f"a level of {v.evidence['column']}")
    return {
        "endpoint": desk.name,
        "model": desk.spec.model,
        "candidate": result.version,
        "champion": result.champion,
        "verdict": result.verdict.outcome,
        "reason": reason,
        "checks": {verdict.check: verdict.outcome for verdict in result.checks},
        "figures": {v.check: rules.figures(v) for v in result.checks if rules.figures(v)},
        "evidence": result.evidence,
    }


def skill_of(label_rate: float, loss: float, metric: str) -> float | None:
    """The skill behind a log loss; None for another loss."""
    return skill(label_rate, loss) if metric == "log_loss" else None


def newest(space: Space, desk: Desk) -> Version | None:
    """The newest version of an endpoint's model."""
    return names.newest(space, desk.spec.model)
