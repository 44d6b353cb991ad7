"""The job server: it has imported the accepted project, and forks a child a job, so that no job pays for the imports.

The server itself opens no database: a child waits for a job, does it and ends, and the next child is forked.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loopwright.faces import bind, processes
from loopwright.faces.up import CANNOT_START
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound, Unavailable, Unsupported
from loopwright.kernel.op import silent
from loopwright.project import server

if TYPE_CHECKING:
    from loopwright.faces.rooms import House
    from loopwright.pipelines.model import Job
    from loopwright.store.space import Space

LOCK = "jobs.lock"
OP_JOB = "faces.op"
DONE, RELOAD = 0, 75
# what nearly every job needs; importing it starts no thread
PRELOAD = ("numpy", "duckdb", "orjson")
_LOOK_S, _RELOAD_LOOK_S = 0.01, 0.25
_BACK_OFF_S = 1.0


class Loaded(msgspec.Struct, frozen=True):
    """The accepted project as it was found: its digest and its file, or neither."""

    digest: str = ""
    path: str = ""


class Server:
    """Keeps `slots` children waiting for jobs or doing them."""

    def __init__(self, house: House, root: Path, slots: int) -> None:
        self.house, self.root, self.slots = house, root, slots
        self.loaded = Loaded()
        self.children: set[int] = set()
        self.stopping = False
        self.reload = False

    def run(self) -> None:
        """Fork children until told to stop; starts itself anew when another project is accepted."""
        signal.signal(signal.SIGTERM, self._told)
        self.loaded = self._prepare(blame=False)
        self._preload()
        gc.collect()
        gc.freeze()
        while not self.stopping and not (self.reload and not self.children):
            while len(self.children) < self.slots and not self.reload and not self.stopping:
                self._fork(lambda: work(self.house, self.root, self.loaded))
            self._reap()
        self._end()
        if self.reload and not self.stopping:
            os.execv(sys.executable, [sys.executable, "-m", "loopwright", *sys.argv[1:]])

    def _told(self, number: int, frame: Any) -> None:
        self.stopping = True
        self._end()

    def _end(self) -> None:
        """A job that is cut off here runs again under its action id."""
        for pid in list(self.children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            self.children.clear()
            return
        self.children.discard(pid)
        code = os.waitstatus_to_exitcode(status)
        if code == RELOAD:
            self.reload = True
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

        pid = self._fork(ready)
        os.close(writing)
        told = b""
        while piece := os.read(reading, 65536):
            told += piece
        os.close(reading)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.children.discard(pid)
        if code == CANNOT_START:
            sys.exit(CANNOT_START)
        return msgspec.json.decode(told, type=Loaded) if code == DONE and told else Loaded()

    def _preload(self) -> None:
        for name in PRELOAD:
            import_module(name)
        self.house.jobs()
        if self.loaded.path:
            from loopwright.project import entry

            try:
                entry.load(Path(self.loaded.path))
            except LoopwrightError as error:
                click.echo(f"the accepted project does not load: {error.message}", err=True)

    def _fork(self, then: Callable[[], Any]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # told to stop in the middle of a fork, the server would not know the child that it must end
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid:
            self.children.add(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            return pid
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
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


def prepare(house: House, root: Path, *, blame: bool) -> Loaded:
    """Give interrupted jobs back to the queue and write the accepted project out."""
    from loopwright.pipelines import queue
    from loopwright.project import service as project

    space = house.open(root)
    try:
        queue.requeue_running(space, blame=blame)
        return _accepted(space, project)
    finally:
        space.close()


def _accepted(space: Space, project: Any) -> Loaded:
    try:
        found = project.accepted(space)
    except NotFound:
        return Loaded()
    return Loaded(found.digest, str(project.materialised(space, found)))


def work(house: House, root: Path, loaded: Loaded) -> int:
    """Wait for a job and do it; RELOAD when another project has been accepted than the one that was imported."""
    from loopwright.pipelines import queue
    from loopwright.store import space as spaces

    space = house.open(root)
    spaces.bind(space, job=True)
    seen, looked_s = -1, 0.0
    while True:
        version = space.database.version()
        if version != seen or monotonic_s() - looked_s > _RELOAD_LOOK_S:
            seen, looked_s = version, monotonic_s()
            if _digest(space) != loaded.digest:
                space.close()
                return RELOAD
            job = queue.claim(space)
            if job is not None:
                do(house, space, job)
                space.close()
                return DONE
        time.sleep(_LOOK_S)


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
            queue.finish(space, job, error=told, final=isinstance(error, Invalid | Unsupported | NotFound))
            return
    queue.finish(space, job, result=result)
    if not (folder / "console").stat().st_size:  # nothing was printed: nothing to keep
        (folder / "console").unlink()
        folder.rmdir()


def here(house: House) -> Callable[[Space, str], None]:
    """How a command gets a job done: by the job server where one runs, else in this process."""

    def submit(space: Space, action_id: str) -> None:
        from loopwright.pipelines import queue

        while (job := queue.get(space, action_id)) is not None and job.state in ("queued", "running"):
            lock = processes.lock(server.run_folder(space.root) / LOCK, wait_s=0.0)
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
    """Run an op of the shape `job` that HTTP has taken."""
    op = house.ops()[told["op"]]
    args = bind.bind(op, told["args"])
    if bind.takes_progress(op):
        args[bind.PROGRESS] = silent
    return {"result": msgspec.to_builtins(op.fn(space, told["actor"], **args), enc_hook=bind.plain)}


def command(house: Callable[[], House]) -> click.Command:
    """The hidden command behind which `lw up` runs the job server."""

    @click.command("_jobs", hidden=True)
    @click.option("--root", required=True)
    @click.option("--jobs", type=int, default=1)
    def run(root: str, jobs: int) -> None:
        lock = processes.lock(server.run_folder(Path(root)) / LOCK, wait_s=30.0)
        if lock is None:
            raise Unavailable("an earlier job server does not end", code="jobs.locked", hint="lw down")
        Server(house(), Path(root), jobs).run()

    return run
