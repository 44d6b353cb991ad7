"""The supervisor behind `lw up`: holds the sockets and keeps control, workers and the job server alive.

It opens no database. What dies is started again, what lives ends with it, and told to (SIGUSR2) it goes on as newly
installed code with the sockets that it holds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from loopwright import __version__
from loopwright.faces import children, processes, takeover
from loopwright.faces.children import Plan
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Conflict, LoopwrightError, NotFound
from loopwright.kernel.files import replace_file
from loopwright.kernel.times import format_time
from loopwright.project import server

DRAIN_S = 8.0  # for the job server, then for control, then for the workers
_ORPHANS_S = 3.0
_TOLD = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}


class Sockets:
    """What the supervisor listens on: one socket for control, one for each worker, and what keeps others away."""

    def __init__(self, control: socket.socket, data: list[socket.socket], guards: list[socket.socket]) -> None:
        self.control, self.data, self.guards = control, data, guards

    @classmethod
    def open(cls, plan: Plan) -> Sockets:
        """Listen where the plan says, or on the next free ports.

        Raises:
            Unavailable: no port is free.
        """
        control, _ = processes.listen(plan.port, host=plan.host)
        data, guards = processes.listen(plan.data_port, plan.workers, host=plan.host)
        return cls(control[0], data, guards)

    @classmethod
    def adopt(cls, found: takeover.State) -> Sockets:
        """Take over the sockets of this process's earlier code."""
        taken = [socket.socket(fileno=fd) for fd in (found.control_fd, *found.data_fds, *found.guard_fds)]
        for each in taken:
            each.set_inheritable(False)
        last = 1 + len(found.data_fds)
        return cls(taken[0], taken[1:last], taken[last:])


class Supervisor:
    """Holds the sockets and the children until it is told to stop."""

    def __init__(self, plan: Plan, lock_fd: int, before: takeover.State | None = None) -> None:
        self.plan = plan
        self.folder = server.run_folder(plan.root)
        self.lock_fd = lock_fd
        self.sockets = Sockets.open(plan) if before is None else Sockets.adopt(before)
        generation, started = (1, format_time(machine_us())) if before is None else (before.generation, before.started)
        self.running = server.Running(
            pid=os.getpid(),
            control_url=_url(self.sockets.control, plan.scheme),
            data_url=_url(self.sockets.data[0], plan.scheme),
            started=started,
            version=__version__,
            generation=generation,
            restart="" if before is None else takeover.UNDER_WAY,
        )
        fds = self.sockets.control.fileno(), [one.fileno() for one in self.sockets.data]
        self.children = children.planned(plan, fds, self.running)
        self.takeover: takeover.Takeover | None = None
        if before is None:
            children.sweep(self.folder)
            for child in self.children:
                child.due = True
        else:
            self.takeover = takeover.Takeover(self, before)
        self._write_up()
        self._shown: list[server.ChildState] = []
        self._woken, self._wake = socket.socketpair()
        self.told = 0
        self._restart = False

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self.told != 0

    def _write_up(self) -> None:
        replace_file(self.folder / server.UP, msgspec.json.encode(self.running), durable=False)

    def say_restart(self, word: str) -> None:
        """Tell in up.json how far a restart has come."""
        self.running = msgspec.structs.replace(self.running, restart=word)
        with contextlib.suppress(OSError):  # a full disk does not end the supervisor
            self._write_up()

    def run(self) -> None:
        """Keep the children alive until SIGTERM, SIGINT or SIGHUP, then drain them.

        Raises:
            LoopwrightError: control or the job server says that it cannot start.
        """
        for number in _TOLD:
            signal.signal(number, self._hear)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
        try:
            while not self.stopping:
                if self._restart and self.takeover is None:
                    self._restart = False
                    self._begin_again()
                self._tend()
                if self.takeover is not None and self.takeover.step():
                    self.takeover = None
                self._show()
                self._sleep()
        finally:
            self._drain()

    def _hear(self, number: int, frame: Any) -> None:
        if number == signal.SIGUSR2:
            self._restart = True
        else:
            self.told = self.told or number

    def _begin_again(self) -> None:
        """Go on as the code that is installed now, if it says that it can; does not return then."""
        try:
            takeover.prepare(self)
            refused = takeover.refusal(self.plan)
            if not refused:
                signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)  # what is said from now on is heard by the new code
                if not self.stopping:
                    takeover.hand_over(self)
                refused = "it was told to end meanwhile"
        except OSError as error:
            refused = error.strerror or str(error)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TOLD)
        children.say(f"the installed code cannot take over: {refused}")
        self.say_restart(f"refused: {refused}")

    def _tend(self) -> None:
        for child in self.children:
            status = child.died()
            if status == children.CANNOT_START and self.takeover is None:
                raise LoopwrightError(f"{child.name} cannot start: {children.last_words(child.log)}", code="up.start")
            if status is not None:
                children.say(f"{child.name} ended with {status}; starting it again")
            if child.due and child.process is None and monotonic_s() >= child.start_at_s:
                child.start(self.plan.root)

    def _show(self) -> None:
        """Write what is known of the children, for `lw status`."""
        shown = [child.state() for child in self.children]
        if shown != self._shown:
            with contextlib.suppress(OSError):  # a full disk does not end the supervisor
                replace_file(self.folder / server.CHILDREN, msgspec.json.encode(shown), durable=False)
                self._shown = shown

    def _sleep(self) -> None:
        waits = [child.start_at_s - monotonic_s() for child in self.children if child.due and child.process is None]
        if self.takeover is not None:
            waits.append(takeover.LOOK_S)
        timeout = max(0.0, min(waits)) if waits else None
        if select.select([self._woken], [], [], timeout)[0]:
            self._woken.recv(4096)

    def _drain(self) -> None:
        extra = self.takeover.left_over() if self.takeover is not None else []
        every = [*self.children, *extra]
        for names in ("jobs", "control", "worker"):  # the data plane answers until the last
            some = [child for child in every if child.name.startswith(names) and child.process is not None]
            until = monotonic_s() + DRAIN_S
            for child in some:
                child.tell(signal.SIGTERM)
            for child in some:
                child.wait(until)
        for name in (server.UP, server.CHILDREN):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).unlink()


def _url(listening: socket.socket, scheme: str) -> str:
    host = listening.getsockname()[0]
    shown = {"0.0.0.0": processes.LOOPBACK, "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{scheme}://{shown}:{listening.getsockname()[1]}"


def supervise(plan: Plan, say: Callable[[server.Running], None]) -> int:
    """Be the `lw up` of a project until told to stop; returns the signal that told it.

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
    _outlive(plan)
    supervisor = Supervisor(plan, lock_fd)
    say(supervisor.running)
    supervisor.run()
    return supervisor.told


def resume(root: Path) -> int:
    """Go on as the `lw up` that this process was under its earlier code.

    Raises:
        NotFound: nothing was handed over to this process.
    """
    before = takeover.read(root)
    os.set_inheritable(before.lock_fd, False)
    supervisor = Supervisor(before.plan, before.lock_fd, before)
    supervisor.run()
    return supervisor.told


def _outlive(plan: Plan) -> None:
    """Wait until the children of a killed supervisor are gone, which die with it, and end those that do not."""
    folder = server.run_folder(plan.root)
    until = monotonic_s() + _ORPHANS_S
    while server.held_locks(folder):
        if monotonic_s() > until:
            for state in server.child_states(plan.root):
                if str(plan.root).encode() in processes.command_line(state.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(state.pid, signal.SIGKILL)
            return
        time.sleep(0.01)


def taken(root: Path) -> Conflict:
    """The error that says which `lw up` runs already."""
    found = server.running(root)
    where = f": process {found.pid}, {found.control_url}" if found else ""
    return Conflict(f"`lw up` runs here already{where}", code="up.running", hint="lw down")
