"""show and log: what an address names, and what happened to it."""

from typing import Any

import msgspec

from loopwright.access import service as access
from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Version
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound
from loopwright.kernel.times import format_time
from loopwright.lineage.events import lines, unseen
from loopwright.lineage.model import Line
from loopwright.lineage.trace import run_of, trace, traced_run
from loopwright.runs import service as runs
from loopwright.serving import routes
from loopwright.store import ledger
from loopwright.store.space import Space

MOST_LINES = 100_000


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What an address names: its kind, its full address, and the facts."""

    kind: str
    ref: str
    facts: dict[str, Any]


def show(space: Space, actor: str, *, ref: str | None = None) -> list[Shown]:
    """Show what an address names: a name, a version, a run, a prediction, an endpoint, an event; all names without one.

    Args:
        ref: such as `orders@7`, `delay@prod~1`, `delay`, `run_...`, `pred_...` or `event:12`.

    Raises:
        NotFound: it names nothing.
    """
    if ref is None:
        return overview(space)
    if ref.startswith("pred_"):
        access.require(space, actor, "predictions.read")  # the row of a person, which not all may see who see names
        found = trace(space, actor, prediction=ref)
        return [Shown(kind="prediction", ref=found.id, facts=msgspec.to_builtins(found))]
    if ref.startswith("run_"):
        run = runs.get(space, ref)
        return [Shown(kind="run", ref=run.id, facts=msgspec.to_builtins(traced_run(run)) | {"inputs": run.inputs})]
    if ref.startswith("event:"):
        return [_event(space, actor, ref)]
    shown = [_endpoint(space, ref)] if ref in _endpoints(space) else []
    try:
        version = names.resolve(space, ref)
    except LoopwrightError:
        if shown:
            return shown
        raise
    return [*shown, _version(space, version)]


def overview(space: Space) -> list[Shown]:
    """Every endpoint and every name with its newest version."""
    out = [_endpoint(space, name) for name in _endpoints(space)]
    for name, kind in names.all_names(space):
        newest = names.newest(space, name)
        if newest is not None:
            facts = {"versions": newest.number, "at": format_time(newest.at_us), "labels": names.labels_of(space, name)}
            out.append(Shown(kind=kind, ref=newest.ref, facts=facts))
    return out


def _endpoints(space: Space) -> list[str]:
    return [spec.name for spec in routes.endpoints(space)]


def _endpoint(space: Space, name: str) -> Shown:
    spec = routes.endpoint(space, name)
    current = [msgspec.to_builtins(route) for route in routes.current(space, name)]
    facts = {**msgspec.to_builtins(spec), "routes": current}
    return Shown(kind="endpoint", ref=name, facts=facts)


def _version(space: Space, version: Version) -> Shown:
    artifact = artifacts.get(space, version.digest, version.kind)
    with space.read() as tx:
        marks = names.taints(tx, version.name, version.number)
    run = run_of(space, version)
    facts: dict[str, Any] = {
        "digest": version.digest,
        "registered": format_time(version.at_us),
        "size_bytes": artifact.size_bytes,
        "labels": [label for label, number in names.labels_of(space, version.name).items() if number == version.number],
        **artifact.meta,
    }
    if marks:
        facts["tainted"] = [{"rows": mark.rows, "since": format_time(mark.at_us), "by": mark.erasure} for mark in marks]
    if artifact.is_tree:
        facts["files"] = artifacts.files(space, version.digest)
    if run is not None:
        facts["run"] = msgspec.to_builtins(traced_run(run))
    return Shown(kind=version.kind, ref=version.ref, facts=facts)


def _event(space: Space, actor: str, ref: str) -> Shown:
    number = ref.partition(":")[2]
    if not number.isdigit():
        raise Invalid(f"{ref!r} is no address of an event such as event:12", code="ref.form", field="ref")
    with space.read() as tx:
        event = ledger.get(tx, int(number))
    if event is None or event.kind in unseen(space, actor):
        raise NotFound(f"no event {number}", code="event.missing", field="ref", hint="lw events")
    return Shown(kind="event", ref=ref, facts=msgspec.to_builtins(lines(space, [event])[0]))


def log(space: Space, actor: str, *, ref: str | None = None, limit: int = 50) -> list[Line]:
    """List what happened to an address, newest first; to everything without one.

    Args:
        ref: a name, a version, a run or an endpoint.
        limit: at most so many.

    Raises:
        NotFound: the address names nothing.
        Invalid: `limit` is out of range.
    """
    if not 1 <= limit <= MOST_LINES:
        raise Invalid(f"limit must be 1 to {MOST_LINES}, not {limit}", code="page.limit", field="limit")
    subjects = _subjects(space, ref) if ref is not None else None
    found: list[Any] = []
    with space.read() as tx:
        if subjects is None:
            last = ledger.last_seq(tx)
            found = ledger.read(tx, after=max(0, last - limit), limit=limit)
        else:
            for subject in subjects:
                found += ledger.read(tx, subject=subject, limit=MOST_LINES)
    hidden = unseen(space, actor)
    found = sorted((event for event in found if event.kind not in hidden), key=lambda event: -event.seq)
    return lines(space, found[:limit])


def _subjects(space: Space, ref: str) -> list[str]:
    if ref.startswith("run_"):
        return [runs.get(space, ref).id]
    name, at, _ = ref.partition("@")
    endpoint = [f"endpoint:{name}"] if not at and name in _endpoints(space) else []
    if at:
        version = names.resolve(space, ref)
        return [version.ref]
    lines = [version.ref for version in names.versions(space, name)]
    if not endpoint and not lines:
        raise NotFound(f"no name or endpoint {name}", code="name.missing", field="ref", hint="lw show")
    return [*endpoint, *lines, *(f"{name}@{label}" for label in names.labels_of(space, name))]
