"""`lw up`: the supervisor over control, workers and the job server. It opens no database.

It holds the sockets, so that a connection outlives the death of a worker; what dies is started again, and what
lives ends with it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loopwright.faces import client, output, processes
from loopwright.kernel import settings as config
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Conflict, LoopwrightError, NotFound, Timeout
from loopwright.kernel.times import format_time
from loopwright.project import server
from loopwright.store import space as spaces

if TYPE_CHECKING:
    from loopwright.faces.rooms import House

CANNOT_START = 78  # a child that will not start for a reason that starting it again does not mend
DATA_PORT = 4601
DRAIN_S = 10.0
READY_S = 60.0
_BACK_OFF_S, _LONGEST_BACK_OFF_S, _HEALTHY_S = 0.1, 5.0, 10.0
_LOG_LIMIT_BYTES = 10 << 20

PORT = click.IntRange(0, 65535)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to start."""

    root: Path
    port: int
    data_port: int
    workers: int
    jobs: int


class Child:
    """One process that is kept alive."""

    def __init__(self, name: str, argv: list[str], fds: tuple[int, ...], log: Path) -> None:
        self.name, self.argv, self.fds, self.log = name, argv, fds, log
        self.process: subprocess.Popen[bytes] | None = None
        self.failures = 0
        self.started_s = 0.0
        self.start_at_s = 0.0

    def start(self, cwd: Path) -> None:
        """Start it; what it prints goes to its log."""
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.argv,
                pass_fds=self.fds,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=cwd,
                preexec_fn=processes.tied(),
            )
        self.started_s = monotonic_s()

    def died(self) -> int | None:
        """Its exit status when it has just been found dead; says when to start it again."""
        status = None if self.process is None else self.process.poll()
        if status is None:
            return None
        self.process = None
        self.failures = 1 if monotonic_s() - self.started_s > _HEALTHY_S else self.failures + 1
        wait_s = 0.0 if self.failures == 1 else min(_LONGEST_BACK_OFF_S, _BACK_OFF_S * 2 ** (self.failures - 2))
        self.start_at_s = monotonic_s() + wait_s
        return status


class Supervisor:
    """Holds the sockets and the children until it is told to stop."""

    def __init__(self, plan: Plan, lock_fd: int) -> None:
        self.plan = plan
        self.folder = server.run_folder(plan.root)
        self._lock_fd = lock_fd
        self._control, _ = processes.listen(plan.port)
        self._data, self._guards = processes.listen(plan.data_port, plan.workers)
        self.running = server.Running(
            pid=os.getpid(),
            control_url=_url(self._control[0]),
            data_url=_url(self._data[0]),
            started=format_time(machine_us()),
        )
        self._write_up()
        self.children = self._planned()
        self._woken, self._wake = socket.socketpair()
        self.stopping = False

    def _write_up(self) -> None:
        fresh = self.folder / f"{server.UP}.new"
        fresh.write_bytes(msgspec.json.encode(self.running))
        fresh.replace(self.folder / server.UP)

    def _planned(self) -> list[Child]:
        root, python = str(self.plan.root), [sys.executable, "-m"]
        fd = self._control[0].fileno()
        control = [*python, "loopwright", "_control", "--root", root, "--fd", str(fd)]
        control += ["--data-url", self.running.data_url]
        children = [Child("control", control, (fd,), self.folder / "control.log")]
        for slot, shared in enumerate(self._data):
            fd = shared.fileno()
            worker = [*python, "loopwright.serving.worker", "--home", str(self.plan.root / spaces.HOME)]
            worker += ["--slot", str(slot), "--fd", str(fd)]
            children.append(Child(f"worker-{slot}", worker, (fd,), self.folder / f"worker-{slot}.log"))
        jobs = [*python, "loopwright", "_jobs", "--root", root, "--jobs", str(self.plan.jobs)]
        children.append(Child("jobs", jobs, (), self.folder / "jobs.log"))
        return children

    def run(self) -> None:
        """Keep the children alive until SIGTERM or SIGINT, then drain them.

        Raises:
            LoopwrightError: control or the job server says that it cannot start.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._told)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            while not self.stopping:
                self._tend()
                self._sleep()
        finally:
            self._drain()

    def _told(self, number: int, frame: Any) -> None:
        self.stopping = True

    def _tend(self) -> None:
        for child in self.children:
            status = child.died()
            if status == CANNOT_START:
                raise LoopwrightError(f"{child.name} cannot start: {_last_words(child.log)}", code="up.start")
            if status is not None:
                click.echo(f"{child.name} ended with {status}; starting it again", err=True)
            if child.process is None and monotonic_s() >= child.start_at_s:
                child.start(self.plan.root)

    def _sleep(self) -> None:
        waits = [child.start_at_s - monotonic_s() for child in self.children if child.process is None]
        timeout = max(0.0, min(waits)) if waits else None
        if select.select([self._woken], [], [], timeout)[0]:
            self._woken.recv(4096)

    def _drain(self) -> None:
        until = monotonic_s() + DRAIN_S
        for names in ("jobs", "control", "worker"):  # the data plane answers until the last
            some = [child for child in self.children if child.name.startswith(names) and child.process is not None]
            for child in some:
                _signal(child, signal.SIGTERM)
            for child in some:
                _wait(child, until)
        with contextlib.suppress(FileNotFoundError):
            (self.folder / server.UP).unlink()


def _signal(child: Child, number: int) -> None:
    if child.process is not None:
        child.process.send_signal(number)


def _wait(child: Child, until_s: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(max(0.1, until_s - monotonic_s()))
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()


def _url(listening: socket.socket) -> str:
    return f"http://{processes.LOOPBACK}:{listening.getsockname()[1]}"


def _last_words(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().split("\n") if log.exists() else []
    said = [line for line in lines if not line.startswith("  try: ")]
    return said[-1].removeprefix("error: ") if said else "see " + str(log)


def supervise(plan: Plan, say: Callable[[server.Running], None]) -> None:
    """Be the `lw up` of a project until told to stop.

    Raises:
        NotFound: there is no project.
        Conflict: another `lw up` runs here.
    """
    folder = server.run_folder(plan.root)
    if not folder.is_dir():
        raise NotFound(f"no loopwright project in {plan.root}", code="space.missing", hint="lw init")
    lock_fd = processes.lock(folder / server.LOCK, wait_s=0.3)
    if lock_fd is None:
        raise taken(plan.root)
    supervisor = Supervisor(plan, lock_fd)
    say(supervisor.running)
    supervisor.run()


def taken(root: Path) -> Conflict:
    """The error that says which `lw up` runs already."""
    found = server.running(root)
    where = f": process {found.pid}, {found.control_url}" if found else ""
    return Conflict(f"`lw up` runs here already{where}", code="up.running", hint="lw down")


def planned(root: Path, **given: int | None) -> Plan:
    """What to start: what was asked for, else loopwright.toml, else the defaults."""
    settings = config.read(root)

    def first(name: str, default: int) -> int:
        value = given.get(name)
        return default if value is None else value

    workers = settings.workers or max(1, (os.cpu_count() or 2) - 1)
    return Plan(
        root=root,
        port=first("port", settings.port),
        data_port=first("data_port", DATA_PORT),
        workers=max(1, first("workers", workers)),
        jobs=max(1, first("jobs", 1)),
    )


def start(plan: Plan, *, detached: bool = False) -> tuple[subprocess.Popen[bytes], server.Running]:
    """Start `lw up` as a process of its own and wait until it answers.

    Raises:
        LoopwrightError: it ended before it answered.
        Timeout: it did not answer in a minute.
    """
    argv = [sys.executable, "-m", "loopwright", "up", "--root", str(plan.root), "--port", str(plan.port)]
    argv += ["--data-port", str(plan.data_port), "--workers", str(plan.workers), "--jobs", str(plan.jobs)]
    log = server.run_folder(plan.root) / "up.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=detached,
            preexec_fn=None if detached else processes.tied(),
        )
    try:
        return process, _answering(plan.root, process, log)
    except BaseException:  # Ctrl-C too: what has not answered is not left behind
        process.terminate()
        process.wait()
        raise


def _answering(root: Path, process: subprocess.Popen[bytes], log: Path) -> server.Running:
    until = monotonic_s() + READY_S
    while monotonic_s() < until:
        if process.poll() is not None:
            raise LoopwrightError(f"`lw up` ended: {_last_words(log)}", code="up.start", hint=f"see {log}")
        found = server.running(root)
        if found is not None and found.pid == process.pid and _healthy(found):
            return found
        time.sleep(0.05)
    raise Timeout(f"`lw up` did not answer in {READY_S:.0f} s", code="up.slow", hint=f"see {log}")


def _healthy(found: server.Running) -> bool:
    probe = client.Client(found.control_url, timeout_s=5.0)
    try:
        return bool(probe.json("GET", "/health")["ready"])
    except LoopwrightError:
        return False
    finally:
        probe.close()


def stop(root: Path) -> server.Running | None:
    """Tell the `lw up` of a project to stop and wait until it has; None when none runs.

    Raises:
        Timeout: it did not stop.
    """
    found = server.running(root)
    if found is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    fd = processes.lock(server.run_folder(root) / server.LOCK, wait_s=2 * DRAIN_S)
    if fd is None:
        raise Timeout(f"`lw up` (process {found.pid}) did not stop", code="up.stop", hint=f"kill {found.pid}")
    os.close(fd)
    return found


def command(house: Callable[[], House]) -> click.Command:
    """`lw up`."""

    @click.command("up")
    @click.option("--port", type=PORT, help="Where control listens; the next free port when taken. [4600]")
    @click.option("--data-port", type=PORT, help="Where predictions are answered. [4601]")
    @click.option("--workers", type=click.IntRange(1, 64), help="Processes that answer. [cores - 1]")
    @click.option("--jobs", type=click.IntRange(1, 64), help="Jobs that run at a time. [1]")
    @click.option("--detach", is_flag=True, help="Go on in the background; `lw down` stops it.")
    @output.root
    @output.as_json
    def up(root: str | None, detach: bool, as_json: bool, **given: int | None) -> None:
        """Serve, log and run the loop on this machine, until Ctrl-C or `lw down`."""
        folder = spaces.find_root(Path(root or "."))

        def say(found: server.Running) -> None:
            output.say(found, schema="lw.up/1", as_json=as_json, render=_told_where)
            sys.stdout.flush()

        plan = planned(folder, **given)
        if not detach:
            supervise(plan, say)
            return
        if server.running(folder) is not None:
            raise taken(folder)
        say(start(plan, detached=True)[1])

    return up


def _told_where(found: server.Running) -> str:
    return (
        f"control      {found.control_url}\npredictions  {found.data_url}\n"
        f"process {found.pid}; stop it with Ctrl-C or `lw down`"
    )


def down(house: Callable[[], House]) -> click.Command:
    """`lw down`."""

    @click.command("down")
    @output.root
    @output.as_json
    def lower(root: str | None, as_json: bool) -> None:
        """Stop the `lw up` of this project."""
        found = stop(spaces.find_root(Path(root or ".")))
        document = {"stopped": found is not None, "pid": found.pid if found else None}
        text = f"stopped process {found.pid}" if found else "nothing runs here"
        output.say(document, schema="lw.down/1", as_json=as_json, render=lambda _: text)

    return lower
