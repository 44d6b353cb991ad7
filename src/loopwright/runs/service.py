"""Starting, ending and reading runs."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Invalid
from loopwright.kernel.ids import new_id, valid_id
from loopwright.kernel.pages import Page
from loopwright.runs import current, queries
from loopwright.runs.current import Logged, Recorder
from loopwright.runs.model import (
    RUN_FAILED,
    RUN_FINISHED,
    RUN_STARTED,
    About,
    Failure,
    Output,
    Point,
    Run,
)
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.roots import Leftover
from loopwright.store.space import Space

MAX_PAGE = 1000


def start(space: Space, actor: str, kind: str, name: str, about: About | None = None) -> Recorder:
    """Begin a run and return what records it; end it by `finish` or `fail`, then close the recorder."""
    sweep(space)
    recorder = Recorder(space, new_id("run"))

    def begin(tx: Tx) -> None:
        known = about or About()
        run = Run(
            id=recorder.run_id,
            kind=kind,
            name=name,
            state="running",
            actor=actor,
            started_us=tx.now_us(),
            key=known.key,
            params=known.params,
            inputs=known.inputs,
            environment=known.environment,
            code=known.code,
            parent=known.parent,
            cause=known.cause,
        )
        queries.insert(tx, run, machine_us())
        ledger.append(tx, actor, RUN_STARTED, run.id, {"name": name, "kind": kind}, cause=known.cause)

    try:
        space.write(begin)
    except BaseException:
        recorder.close()
        raise
    return recorder


def finish(tx: Tx, actor: str, run_id: str, logged: Logged, outputs: dict[str, Output] | None = None) -> Run:
    """Say that a run has ended well, and with what.

    Raises:
        Conflict: it has ended already.
    """
    run = _ended(tx, run_id, logged, outputs=outputs or {}, state="finished")
    data = {"name": run.name, "kind": run.kind, "outputs": {k: o.digest for k, o in run.outputs.items()}}
    ledger.append(tx, actor, RUN_FINISHED, run_id, data, cause=run.cause)
    return run


def fail(tx: Tx, actor: str, run_id: str, logged: Logged, failure: Failure) -> Run:
    """Say that a run has failed, and why; the ledger holds the type of the error alone.

    Raises:
        Conflict: it has ended already.
    """
    run = _ended(tx, run_id, logged, failure=failure, state="failed")
    data = {"name": run.name, "kind": run.kind, "error": failure.type}
    ledger.append(tx, actor, RUN_FAILED, run_id, data, cause=run.cause)
    return run


def add_versions(tx: Tx, run_id: str, outputs: dict[str, Output]) -> None:
    """Say under which versions outputs of an ended run were registered later; one that has a version keeps it."""
    held = queries.find(tx, run_id).outputs
    new = {label: output for label, output in outputs.items() if held[label].version is None}
    if new:
        queries.set_outputs(tx, run_id, {**held, **new})


def _ended(tx: Tx, run_id: str, logged: Logged, **changes: Any) -> Run:
    run = msgspec.structs.replace(
        queries.find(tx, run_id),
        finished_us=tx.now_us(),
        took_us=machine_us() - queries.started_machine_us(tx, run_id),
        metrics=logged.metrics,
        files=logged.files,
        sealed=logged.sealed,
        **changes,
    )
    if not queries.close(tx, run):
        raise Conflict(f"run {run_id} has ended already", code="run.ended", field="run")
    return run


def sweep(space: Space) -> list[str]:
    """Mark the runs whose process is gone as failed, keep what they had logged, and return their ids."""
    with space.read() as tx:
        found = queries.running(tx)
    gone = [run_id for run_id in found if not current.alive(space, run_id)]
    for run_id in gone:
        logged = current.seal(space, run_id)
        failure = Failure(type="Interrupted", message="the process that ran it ended before the run did")

        def end(tx: Tx, run_id: str = run_id, logged: Logged = logged, failure: Failure = failure) -> None:
            with suppress(Conflict):  # another process has swept it
                fail(tx, "jobs", run_id, logged, failure)

        space.write(end)
    current.clear(space, set(found) - set(gone))
    return gone


def leftovers(space: Space) -> Iterator[Leftover]:
    """The folders of runs that have ended."""
    with space.read() as tx:
        found = set(queries.running(tx))
    for folder in (space.home / "runs").glob("run_*"):
        if folder.name not in found and not current.alive(space, folder.name):
            yield Leftover(folder, "a run that ended")


LEFTOVERS = leftovers


def get(space: Space, run_id: str) -> Run:
    """One run; of one that is going on, with what it has logged up to now.

    Raises:
        Invalid: the text is no run's id.
        NotFound: there is none.
    """
    valid_id(run_id, "run")
    with space.read() as tx:
        run = queries.find(tx, run_id)
    if run.state == "running":
        logged = current.so_far(space, run_id)
        run = msgspec.structs.replace(run, metrics=logged.metrics, files=logged.files)
    return run


def search(
    space: Space,
    *,
    kind: str | None = None,
    name: str | None = None,
    state: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> Page[Run]:
    """Runs, newest first; of one kind, name or state when asked; `next` is what `before` must be to read on.

    Raises:
        Invalid: `limit` or `before` is out of form.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"limit must be between 1 and {MAX_PAGE}, not {limit}", field="limit")
    if before is not None:
        valid_id(before, "run")
    where = {"kind": kind, "name": name, "state": state}
    with space.read() as tx:
        found = queries.select(tx, {k: v for k, v in where.items() if v is not None}, before, limit + 1)
    more = len(found) > limit
    return Page(items=found[:limit], next=found[limit - 1].id if more else None)


def points(space: Space, run_id: str, name: str | None = None) -> list[Point]:
    """The metric points of a run in the order in which they were logged; of one metric when asked."""
    run = get(space, run_id)
    path = current.folder_of(space, run_id) / current.METRICS
    if "metrics" in run.sealed:
        path = artifacts.local_path(space, run.sealed["metrics"])
    return [point for point in current.points(path) if name is None or point.name == name]


def console(space: Space, run_id: str) -> str:
    """What a run printed, as far as it was caught."""
    run = get(space, run_id)
    if "console" in run.sealed:
        return artifacts.read(space, run.sealed["console"]).decode("utf-8", "replace")
    path = current.folder_of(space, run_id) / current.CONSOLE
    return path.read_text("utf-8", "replace") if path.exists() else ""
