"""The job server: it waits small, and once there is a job it forks a child a job, none of which pays for the imports.

While nothing is to be done it holds only the Space open. With the first job it begins anew as the server that has
imported what jobs need; that one opens no database, and its children wait for jobs, do one and end.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loopwright.faces import bind, processes
from loopwright.faces.children import CANNOT_START, PYTHON
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound, Timeout, Unavailable, Unsupported
from loopwright.kernel.op import silent
from loopwright.project import server

if TYPE_CHECKING:
    from loopwright.faces.rooms import House
    from loopwright.pipelines.model import Job
    from loopwright.store.space import Space

OP_JOB = "faces.op"
WORK = "--at-work"
FULL, BARE = "full", "bare"  # with the accepted project imported, or without it
BARE_KINDS = ("serving.seal",)  # what comes every minute and needs nothing of the project
DONE, RELOAD, IDLE, MORE = 0, 75, 76, 77
# what nearly every job needs; importing it starts no thread
PRELOAD = ("numpy", "duckdb", "orjson")
IDLE_S = 120.0  # so long after the last job the imports are let go; spools are sealed more often
GRACE_S = 5  # for a job that is under way when the server is told to end; after that it runs again later
_LOOK_S, _RELOAD_LOOK_S, _WAIT_LOOK_S = 0.01, 0.25, 0.05
_BACK_OFF_S = 1.0
_STOPPED = False


class Loaded(msgspec.Struct, frozen=True):
    """The accepted project as it was found: its digest and its file, or neither."""

    digest: str = ""
    path: str = ""


class Server:
    """Keeps `slots` children waiting for jobs or doing them."""

    def __init__(self, house: House, root: Path, slots: int, mode: str = FULL) -> None:
        self.house, self.root, self.slots, self.mode = house, root, slots, mode
        self.next_mode: str | None = None
        self._parent = os.getppid()
        self.loaded = Loaded()
        self.children: dict[int, int] = {}
        self.busy = mmap.mmap(-1, max(slots, 1))  # a byte a slot, which its child sets while it does a job
        self.stopping = False
        self.reload = False

    def run(self) -> None:
        """Fork children until told to stop; begins anew when another project is accepted or nothing is to be done."""
        signal.signal(signal.SIGTERM, self._told)
        signal.signal(signal.SIGALRM, self._out_of_time)
        signal.signal(signal.SIGUSR2, self._renewed)
        self.loaded = self._prepare(blame=False)
        self._preload()
        gc.collect()
        gc.freeze()
        while not self.stopping and not (self.reload and not self.children):
            for slot in range(self.slots):
                if slot not in self.children.values() and not self.reload and not self.stopping:
                    self._fork(partial(work, self, slot), slot)
            self._reap()
        while self.children:
            self._reap()
        if not self.stopping:
            again(self.next_mode)

    def _told(self, number: int, frame: Any) -> None:
        """To stop: a job that is done in time is done, and what is cut off runs again under its action id."""
        if os.getppid() != self._parent:  # the supervisor was killed: the next one waits for this one's end
            self._tell(signal.SIGKILL)
            os._exit(0)
        if not self.stopping:
            self.stopping = True
            self._tell(signal.SIGTERM)
            signal.alarm(GRACE_S)

    def _out_of_time(self, number: int, frame: Any) -> None:
        self._tell(signal.SIGKILL)

    def _renewed(self, number: int, frame: Any) -> None:
        """To go on as newly installed code, once the jobs under way are done."""
        self.reload = True
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for pid in list(self.children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> None:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            self.children.clear()
            return
        slot = self.children.pop(pid, None)
        if slot is not None and slot >= 0:
            self.busy[slot] = 0
        code = os.waitstatus_to_exitcode(status)
        if code == RELOAD:
            self.reload = True
        elif code == MORE:
            self.reload, self.next_mode = True, FULL
            self._tell(signal.SIGTERM)
        elif code == IDLE:
            if not any(self.busy):
                self.reload = True
                self._tell(signal.SIGTERM)
        elif code != DONE and not self.stopping:
            click.echo(f"a job's process ended with {code}", err=True)
            self._after_crash()

    def _after_crash(self) -> None:
        """A child died in its job: when the others are done, give what was running back to the queue."""
        while self.children and not self.stopping:
            self._reap()
        if not self.stopping:
            time.sleep(_BACK_OFF_S)
            self._prepare(blame=True)

    def _prepare(self, *, blame: bool) -> Loaded:
        """In a child of its own: requeue what was cut off, and write the accepted project out.

        A job is to blame for its process's end, but not for that of an earlier server.
        """
        reading, writing = os.pipe()

        def ready() -> None:
            os.write(writing, msgspec.json.encode(prepare(self.house, self.root, blame=blame)))

        pid = self._fork(ready, -1)
        os.close(writing)
        told = b""
        while piece := os.read(reading, 65536):
            told += piece
        os.close(reading)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.children.pop(pid, None)
        if code == CANNOT_START:
            sys.exit(CANNOT_START)
        return msgspec.json.decode(told, type=Loaded) if code == DONE and told else Loaded()

    def _preload(self) -> None:
        for name in PRELOAD:
            import_module(name)
        self.house.jobs()
        if self.loaded.path and self.mode == FULL:
            from loopwright.project import entry

            try:
                entry.load(Path(self.loaded.path))
            except LoopwrightError as error:
                click.echo(f"the accepted project does not load: {error.message}", err=True)

    def _fork(self, then: Callable[[], Any], slot: int) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # told to stop in the middle of a fork, the server would not know the child that it must end
        told = {signal.SIGTERM, signal.SIGUSR2}
        signal.pthread_sigmask(signal.SIG_BLOCK, told)
        pid = os.fork()
        if pid:
            self.children[pid] = slot
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
            return pid
        code = 1
        try:
            signal.signal(signal.SIGTERM, _stop)
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, told)
            processes.tie_to_parent(parent)
            code = then() or DONE
        except LoopwrightError as error:
            click.echo(error.message, err=True)
            code = CANNOT_START if not isinstance(error, Unavailable) else 1
        except BaseException:  # noqa: BLE001 - a forked child must end here, whatever it met
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _stop(number: int, frame: Any) -> None:
    """In a child or a small server: end before the next job."""
    global _STOPPED
    _STOPPED = True


def again(mode: str | None = None) -> None:
    """Begin this process anew, as the code that is installed now, small or at work; does not return."""
    words = sys.argv[1:]
    kept = words[: words.index(WORK)] if WORK in words else words
    os.execv(sys.executable, [*PYTHON, "loopwright", *kept, *([] if mode is None else [WORK, mode])])


def wait_small(house: House, root: Path) -> None:
    """Wait for a job with nothing imported for it, then begin anew as the server that does it."""
    from loopwright.pipelines import queue

    renewed: list[int] = []
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGUSR2, lambda number, frame: renewed.append(number))
    space = house.open(root)
    queue.requeue_running(space, blame=False)
    seen, kind = -1, None
    while not _STOPPED and not renewed and kind is None:
        version = space.database.version()
        if version != seen:
            seen, kind = version, queue.next_kind(space)
        if kind is None:
            time.sleep(_WAIT_LOOK_S)
    space.close()
    if not _STOPPED:
        again(None if kind is None else BARE if kind in BARE_KINDS else FULL)


def prepare(house: House, root: Path, *, blame: bool) -> Loaded:
    """Give interrupted jobs back to the queue and write the accepted project out."""
    from loopwright.pipelines import queue
    from loopwright.project import service as project

    with contextlib.closing(house.open(root)) as space:
        queue.requeue_running(space, blame=blame)
        return _accepted(space, project)


def _accepted(space: Space, project: Any) -> Loaded:
    try:
        found = project.accepted(space)
    except NotFound:
        return Loaded()
    return Loaded(found.digest, str(project.materialised(space, found)))


def work(server: Server, slot: int) -> int:
    """Wait for a job and do it; see `_work`."""
    with contextlib.closing(server.house.open(server.root)) as space:
        return _work(server, space, slot)


def _work(server: Server, space: Space, slot: int) -> int:
    """Wait for a job and do it.

    Returns:
        RELOAD when another project has been accepted than the one that was imported, MORE when a job needs it imported,
        IDLE when none has come for long.
    """
    from loopwright.pipelines import queue
    from loopwright.store import space as spaces

    spaces.bind(space, job=True)
    seen, looked_s, began_s = -1, 0.0, monotonic_s()
    while not _STOPPED:
        version = space.database.version()
        if version != seen or monotonic_s() - looked_s > _RELOAD_LOOK_S:
            seen, looked_s = version, monotonic_s()
            if _digest(space) != server.loaded.digest:
                return RELOAD
            if server.mode == BARE and queue.next_kind(space) not in (None, *BARE_KINDS):
                return MORE
            job = queue.claim(space)
            if job is not None:
                server.busy[slot] = 1
                do(server.house, space, job)
                return DONE
        if monotonic_s() - began_s > IDLE_S:
            return IDLE
        time.sleep(_LOOK_S)
    return DONE


def _digest(space: Space) -> str:
    from loopwright.project import service as project

    try:
        return project.accepted(space).digest
    except NotFound:
        return ""


def do(house: House, space: Space, job: Job) -> None:
    """Run one job; what it prints goes to its folder, what it raises to the queue."""
    from loopwright.pipelines import queue
    from loopwright.runs import console

    folder = space.home / "runs" / job.id
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with console.captured(folder / "console"):
        try:
            if job.kind == OP_JOB:
                result = run_op(house, space, job.args)
            else:
                result = handler(house, job.kind)(space, job.args, silent)
        except Exception as error:  # noqa: BLE001 - the boundary around user code: the queue keeps what it raised
            traceback.print_exc()
            told = error.message if isinstance(error, LoopwrightError) else f"{type(error).__name__}: {error}"
            failure = error.to_dict() if isinstance(error, LoopwrightError) else None
            queue.finish(space, job, error=told, failure=failure, final=_is_final(job, error))
            return
    queue.finish(space, job, result=result)
    if not (folder / "console").stat().st_size:  # nothing was printed: nothing to keep
        (folder / "console").unlink()
        folder.rmdir()


def _is_final(job: Job, error: Exception) -> bool:
    """Whether a job that raised is of no use to try again; what somebody asked for is answered as it is."""
    asked = job.kind == OP_JOB and isinstance(error, LoopwrightError) and not isinstance(error, Unavailable | Timeout)
    return asked or isinstance(error, Invalid | Unsupported | NotFound)


def here(house: House) -> Callable[[Space, str], None]:
    """How a command gets a job done: by the job server where one runs, else in this process."""

    def submit(space: Space, action_id: str) -> None:
        from loopwright.pipelines import queue

        while (job := queue.get(space, action_id)) is not None and job.state in ("queued", "running"):
            lock = processes.lock(server.run_folder(space.root) / server.JOBS_LOCK, wait_s=0.0)
            if lock is None:
                time.sleep(_LOOK_S)
                continue
            try:
                queue.requeue_running(space, blame=False)
                mine = queue.claim(space)
                if mine is not None:
                    do(house, space, mine)
            finally:
                os.close(lock)

    return submit


def handler(house: House, kind: str) -> Any:
    """The function of a kind of job.

    Raises:
        NotFound: no room has it.
    """
    found = house.jobs().get(kind)
    if found is None:
        raise NotFound(f"no room does jobs of the kind {kind}", code="job.kind", field="kind")
    return found


def run_op(house: House, space: Space, told: dict[str, Any]) -> dict[str, Any]:
    """Run an op of the shape `job` that HTTP has taken, if who asked may it still."""
    from loopwright.access import service as access

    op, actor = house.ops()[told["op"]], told["actor"]
    args = bind.bind(op, told["args"])
    access.require(space, actor, op.action, access.subject_of(op.subject, args))
    if bind.takes_progress(op):
        args[bind.PROGRESS] = silent
    return {"result": msgspec.to_builtins(op.fn(space, actor, **args), enc_hook=bind.plain)}


def command(house: Callable[[], House]) -> click.Command:
    """The hidden command behind which `lw up` runs the job server."""

    @click.command("_jobs", hidden=True)
    @click.option("--root", required=True)
    @click.option("--jobs", type=int, default=1)
    @click.option(WORK, "mode", type=click.Choice([FULL, BARE]))
    def run(root: str, jobs: int, mode: str | None) -> None:
        lock = processes.lock(server.run_folder(Path(root)) / server.JOBS_LOCK, wait_s=30.0)
        if lock is None:
            raise Unavailable("an earlier job server does not end", code="jobs.locked", hint="lw down")
        if mode is not None:
            Server(house(), Path(root), jobs, mode).run()
            return
        try:
            wait_small(house(), Path(root))
        except Unavailable:
            raise
        except LoopwrightError as error:
            if error.code == "store.older":  # control brings it forward, and does so first
                raise
            click.echo(error.message, err=True)
            sys.exit(CANNOT_START)

    return run
