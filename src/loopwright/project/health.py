"""How each part of a served project does: processes, queues, stores, disk and clock, by what they say of themselves.

It asks no process: what lives holds a lock and leaves a report in the run folder, so it can be told without control.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.files import replace_file
from loopwright.kernel.times import DAY, HOUR, MINUTE, SECOND, parse_time
from loopwright.pipelines import queue as jobs
from loopwright.project.server import BANK, CONTROL_LOCK, JOBS_LOCK, ChildState, child_states, run_folder, running
from loopwright.serving import publish, routes, watermark
from loopwright.serving.model import WorkerReport
from loopwright.serving.spool import SUFFIX
from loopwright.store import leases, ledger
from loopwright.store.locks import is_held
from loopwright.store.space import Space

State = Literal["ok", "degraded", "down", "off"]
REPORT = "control.json"
LOW_DISK_BYTES, NO_DISK_BYTES = 1 << 30, 16 << 20
_SILENT_US, _UNSEALED_US, _WAITING_US = 15 * SECOND, 10 * MINUTE, 10 * MINUTE
_RANK: dict[str, int] = {"ok": 0, "off": 0, "degraded": 1, "down": 2}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part: its name, how it does, and what there is to say of it."""

    name: str
    state: State
    detail: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """All parts together; `ready` says that predictions are answered and logged, and that control follows."""

    ready: bool
    state: State
    parts: list[Part]


class ControlReport(msgspec.Struct, frozen=True, kw_only=True):
    """run/control.json: what control says of itself, every few seconds.

    Args:
        looked_us: when the scheduler last looked for what is due, by the machine's clock.
        problem: why the loop does not settle, if it does not.
        watching: why the database was not watched or the spools were not sealed, if they were not.
    """

    pid: int
    started_us: int
    looked_us: int
    problem: str | None
    watching: str | None


def tell(space: Space, report: ControlReport) -> None:
    """Write control's report.

    Raises:
        OSError: the disk does not take it.
    """
    replace_file(run_folder(space.root) / REPORT, msgspec.json.encode(report), durable=False)


def look(space: Space) -> Health:
    """See how every part does."""
    parts = [*_processes(space), *_stores(space)]
    served = running(space.root) is not None
    worst = max((part.state for part in parts), key=lambda state: _RANK[state])
    up = [part for part in parts if part.name == "control" or part.name.startswith("worker-")]
    ready = served and len(up) > 1 and all(part.state != "down" for part in up)
    return Health(ready=ready, state=worst if served else "off", parts=parts)


def _processes(space: Space) -> Iterator[Part]:
    found = running(space.root)
    if found is None:
        yield Part(name="server", state="off", detail="does not run: lw up")
        return
    known = {child.name: child for child in child_states(space.root)}
    restart = f"; restart in place {found.restart}" if found.restart else ""
    wrong = found.restart.startswith(("refused", "failed"))
    yield _part("server", f"process {found.pid}, loopwright {found.version}{restart}", degraded=wrong)
    yield from _control(space, known.get("control"))
    reports = {report.slot % BANK: report for report in publish.workers(space) if not report.leaving}
    with space.read() as tx:
        generation = routes.generation(tx)
    for name, child in known.items():
        if name.startswith("worker-"):
            yield _worker(space, child, reports.get(int(name.removeprefix("worker-"))), generation)
    unserved = publish.problems(space)
    if unserved:
        yield _part("routes", "; ".join(f"{name}: {why}" for name, why in unserved.items()), degraded=True)
    yield _jobs(space, known.get("jobs"))


def _part(name: str, detail: str, *, degraded: bool = False, down: bool = False) -> Part:
    return Part(name=name, state="down" if down else "degraded" if degraded else "ok", detail=detail)


def _process(child: ChildState | None) -> str:
    """A process as its supervisor knows it."""
    if child is None or not child.pid:
        ended = "" if child is None or child.last_exit is None else f", ended with {child.last_exit}"
        return f"is being started again{ended}"
    since = f", up {_span(machine_us() - parse_time(child.started))}" if child.started else ""
    again = f", started again {child.restarts}x" if child.restarts else ""
    return f"process {child.pid}{since}{again}"


def _control(space: Space, child: ChildState | None) -> Iterator[Part]:
    lives = is_held(run_folder(space.root) / CONTROL_LOCK)
    yield _part("control", _process(child), down=not lives or child is None or not child.pid)
    try:
        told = msgspec.json.decode((run_folder(space.root) / REPORT).read_bytes(), type=ControlReport)
    except (OSError, msgspec.MsgspecError):
        told = None
    if told is None or not lives:
        yield _part("scheduler", "has not looked yet", degraded=lives, down=not lives)
        return
    silent = machine_us() - told.looked_us
    problem = told.problem or told.watching
    detail = f"last looked {_span(silent)} ago" + (f"; {problem}" if problem else "")
    yield _part("scheduler", detail, degraded=bool(problem) or silent > _SILENT_US)


def _worker(space: Space, child: ChildState, report: WorkerReport | None, generation: int) -> Part:
    name, detail = child.name, _process(child)
    if report is None or report.pid != child.pid:
        return _part(name, f"{detail}, not ready", down=True)
    notes = [f"routes {report.generation}"]
    if report.failed:
        notes.append(f"does not take routes {report.failed_generation}: {report.failed}")
    elif report.generation < generation:
        notes.append(f"routes {generation} are current")
    silent = _silent_us(run_folder(space.root) / f"worker-{report.slot}.lock")
    if silent > _SILENT_US:
        notes.append(f"says nothing since {_span(silent)}")
    if not report.ready:
        notes.append("not ready")
    if report.log_problem:
        notes.append(f"THE LOG TAKES NO ROWS: {report.log_problem}")
    if report.unlogged:
        notes.append(f"{report.unlogged:,} answers unlogged")
    if report.failed_syncs:
        notes.append(f"{report.failed_syncs:,} failed syncs")
    degraded = bool(report.failed or report.log_problem) or report.generation < generation
    return _part(name, ", ".join([detail, *notes]), degraded=degraded, down=not report.ready or silent > _SILENT_US)


def _silent_us(lock: Path) -> int:
    """For how long a worker has not touched its lock, which it does every second."""
    try:
        return machine_us() - lock.stat().st_mtime_ns // 1000
    except FileNotFoundError:
        return 0


def _jobs(space: Space, child: ChildState | None) -> Part:
    lives = is_held(run_folder(space.root) / JOBS_LOCK)
    with space.read() as tx:
        counts, oldest = jobs.tally(tx)
    waits = f", oldest waits {_span(machine_us() - oldest)}" if oldest else ""
    queue = f"{counts.get('running', 0)} running, {counts.get('queued', 0)} queued{waits}"
    late = bool(oldest) and machine_us() - int(oldest or 0) > _WAITING_US and not counts.get("running")
    down = (not lives and oldest is not None) or child is None
    return _part("jobs", f"{_process(child)}, {queue}", degraded=late or not lives, down=down)


def _stores(space: Space) -> Iterator[Part]:
    yield _log(space)
    yield _asked("database", lambda: _database(space))
    yield _asked("blobs", lambda: _blobs(space))
    if space.shared:
        yield _asked("hosts", lambda: _hosts(space))
    yield _asked("disk", lambda: _disk(space))
    yield _asked("clock", lambda: _clock(space))


def _asked(name: str, ask: Callable[[], Part]) -> Part:
    try:
        return ask()
    except LoopwrightError as error:
        return _part(name, error.message, down=True)
    except OSError as error:
        return _part(name, error.strerror or str(error), down=True)


def _log(space: Space) -> Part:
    """The spools that are not sealed yet; one that nobody writes waits for its job."""
    count = size = 0
    oldest = free = machine_us()
    for path in (space.home / "spool").glob(f"*/*{SUFFIX}"):
        try:
            found = path.stat()
            held = is_held(path)
        except FileNotFoundError:
            continue
        count, size, changed = count + 1, size + found.st_size, found.st_mtime_ns // 1000
        oldest = min(oldest, changed)
        free = free if held else min(free, changed)
    late = machine_us() - free > _UNSEALED_US and running(space.root) is not None
    age = f", the oldest {_span(machine_us() - oldest)} old" if count else ""
    return _part("log", f"{count} unsealed, {_size(size)}{age}" + ("; NOT SEALED" if late else ""), degraded=late)


def _hosts(space: Space) -> Part:
    """Who shares the Space and who runs its loop; who went silent with rows in its spools is waited for no more."""
    with space.read() as tx:
        found = watermark.hosts(tx)
        leader = next((held.holder for held in leases.held(tx) if held.live), None)
    told, silent = [], False
    for host in found:
        runs = " runs the loop" if host.host == leader else ""
        state = "" if host.live else " is down" if host.until_us == 0 else f" is silent for {_span(host.silent_us)}"
        silent |= not host.live and host.until_us > 0 and host.silent_us < DAY
        me = " (this one)" if host.host == space.host else ""
        told.append(f"{host.name}{me}{state}{runs}")
    return _part("hosts", ", ".join(told) or "none serves", degraded=silent)


def _database(space: Space) -> Part:
    with space.read() as tx:
        last = ledger.last_seq(tx)
    return _part("database", f"{space.database.describe()}, {last:,} events")


def _blobs(space: Space) -> Part:
    if space.settings.blobs:
        space.blobs.has("0" * 64)
        return _part("blobs", space.settings.blobs)
    folder = space.home / "blobs"
    writable = os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY
    return _part("blobs", "folder blobs" if writable else "the folder blobs cannot be written", down=not writable)


def _disk(space: Space) -> Part:
    free = shutil.disk_usage(space.home).free
    return _part("disk", f"{_size(free)} free", degraded=free < LOW_DISK_BYTES, down=free < NO_DISK_BYTES)


def _clock(space: Space) -> Part:
    mode, now = space.clock.mode, space.clock.now_us()
    with space.read() as tx:
        last = ledger.get(tx, ledger.last_seq(tx))
    behind = 0 if last is None else last.known_at_us - now
    wrong = mode == "wall" and behind > SECOND
    return _part("clock", f"{mode}" + (f", {_span(behind)} behind the last event" if wrong else ""), degraded=wrong)


def _span(us: int) -> str:
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (SECOND, "s")):
        if us >= unit:
            return f"{us // unit} {name}"
    return "0 s"


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"
