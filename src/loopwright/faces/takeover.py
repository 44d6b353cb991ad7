"""How a running `lw up` goes on as newly installed code: its process stays, its code and its children are replaced.

The sockets stay open all the while. A worker leaves when the one that follows it answers; control leaves when the one
that follows it has only to open the Space; the job server ends no job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loopwright import __version__
from loopwright.faces import children
from loopwright.faces.children import Adopted, Child, Plan
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import NotFound
from loopwright.kernel.times import parse_time
from loopwright.project import server

if TYPE_CHECKING:
    from loopwright.faces.supervisor import Supervisor

UNDER_WAY, DONE = "under way", "done"
HANDOVER, STANDBY = "handover.json", "standby"
LOOK_S = 0.02
_CHECK_S, _READY_S, _LEAVE_S = 60.0, 60.0, 15.0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor hands over to its next code."""

    plan: Plan
    pid: int
    generation: int
    started: str
    lock_fd: int
    control_fd: int
    data_fds: list[int]
    guard_fds: list[int]
    children: list[server.ChildState]


class _Reported(msgspec.Struct):
    """What is needed of a worker's report."""

    pid: int
    ready: bool


def refusal(plan: Plan) -> str:
    """Why the code that is installed now cannot take over; empty when it can."""
    argv = [*children.PYTHON, "loopwright", "_ready", "--root", str(plan.root)]
    try:
        ran = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_CHECK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not start in {_CHECK_S:.0f} s"
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    if ran.returncode == 0:
        return ""
    return children.last_line(ran.stderr) or f"it ended with {ran.returncode}"


def prepare(supervisor: Supervisor) -> None:
    """Write down what the next code needs to know.

    Raises:
        OSError: the disk does not take it.
    """
    sockets = supervisor.sockets
    state = State(
        plan=supervisor.plan,
        pid=os.getpid(),
        generation=supervisor.running.generation + 1,
        started=supervisor.running.started,
        lock_fd=supervisor.lock_fd,
        control_fd=sockets.control.fileno(),
        data_fds=[one.fileno() for one in sockets.data],
        guard_fds=[one.fileno() for one in sockets.guards],
        children=[child.state() for child in supervisor.children],
    )
    (supervisor.folder / HANDOVER).write_bytes(msgspec.json.encode(state, enc_hook=str))


def hand_over(supervisor: Supervisor) -> None:
    """Replace this process's code by what is installed now; does not return.

    Raises:
        OSError: the system refuses; nothing has changed.
    """
    sockets = supervisor.sockets
    for one in (sockets.control, *sockets.data, *sockets.guards):
        one.set_inheritable(True)
    os.set_inheritable(supervisor.lock_fd, True)
    os.execv(sys.executable, [*supervisor.plan.argv(), "--resume"])


def peek(root: Path) -> State:
    """What lies there to be handed over, whoever it is for.

    Raises:
        NotFound: there is nothing, or nothing that this code understands.
    """
    path = server.run_folder(root) / HANDOVER
    try:
        return msgspec.json.decode(path.read_bytes(), type=State, dec_hook=lambda kind, value: kind(value))
    except (OSError, msgspec.MsgspecError):
        raise NotFound("no earlier `lw up` has left this process its sockets", code="up.resume", hint="lw up") from None


def read(root: Path) -> State:
    """What was handed over to this process.

    Raises:
        NotFound: nothing was.
    """
    found = peek(root)
    if found.pid != os.getpid():
        raise NotFound("no earlier `lw up` has left this process its sockets", code="up.resume", hint="lw up")
    (server.run_folder(root) / HANDOVER).unlink()
    return found


class Takeover:
    """The children of the earlier code give way one after the other; the supervisor's own are those that follow."""

    def __init__(self, supervisor: Supervisor, before: State) -> None:
        self._supervisor = supervisor
        self._folder = supervisor.folder
        self._old = {state.name: _adopted(state) for state in before.children if state.pid}
        self._leaving: list[tuple[Child, float]] = []
        self._until_s = 0.0
        for child in supervisor.children:
            self._follow(child)
        self._waiting = [child for child in supervisor.children if child.name != "jobs"]

    def _follow(self, child: Child) -> None:
        """Let a child take the place of the one of its name."""
        old = self._old.get(child.name)
        child.restarts = 0 if old is None else old.restarts
        if child.name == "jobs" and old is not None:
            # It goes on as new code itself, once its jobs are done.
            child.process, child.started_us, child.due = old.process, old.started_us, True
            child.tell(signal.SIGUSR2)
            del self._old["jobs"]
            return
        if child.slot is not None and old is not None and old.slot is not None:
            bank = 0 if old.slot >= server.BANK else 1
            place = child.slot % server.BANK
            made = children.worker(self._supervisor.plan, place, child.fds[0], bank)
            child.argv, child.slot = made.argv, made.slot

    def step(self) -> bool:
        """Go on as far as can be; whether all is done."""
        self._end_leaving()
        if self._waiting:
            child = self._waiting[-1] if len(self._waiting) > 1 else self._waiting[0]  # control is the last
            if not child.due:
                child.due, self._until_s = True, monotonic_s() + _READY_S
            elif self._can_follow(child):
                self._leave(child.name)
                self._waiting.remove(child)
            elif monotonic_s() > self._until_s:
                self._give_up(child)
                return True
        if self._waiting or self._leaving:
            return False
        children.say(f"goes on as loopwright {__version__}")
        self._supervisor.say_restart(DONE)
        return True

    def _can_follow(self, child: Child) -> bool:
        if child.process is None:
            return False
        if child.name not in self._old:
            return True
        try:
            if child.slot is None:
                return int((self._folder / STANDBY).read_text()) == child.pid
            report = msgspec.json.decode((self._folder / f"worker-{child.slot}.json").read_bytes(), type=_Reported)
        except (OSError, ValueError, msgspec.MsgspecError):
            return False
        return report.pid == child.pid and report.ready

    def _leave(self, name: str) -> None:
        old = self._old.pop(name, None)
        if old is not None:
            old.tell(signal.SIGUSR2)
            self._leaving.append((old, monotonic_s() + _LEAVE_S))

    def _end_leaving(self) -> None:
        for old, until_s in list(self._leaving):
            if old.process is None or old.process.poll() is not None:
                self._leaving.remove((old, until_s))
            elif monotonic_s() > until_s:
                old.tell(signal.SIGKILL)

    def _give_up(self, child: Child) -> None:
        """What should follow does not get ready: what is there stays, and it is told."""
        why = f"{child.name} did not get ready in {_READY_S:.0f} s: {children.last_words(child.log)}"
        children.say(why)
        for waiting in self._waiting:
            old = self._old.pop(waiting.name, None)
            if old is not None:
                waiting.tell(signal.SIGKILL)
                waiting.wait(monotonic_s())
                waiting.process, waiting.slot, waiting.started_us = old.process, old.slot, old.started_us
            waiting.due = True
        self._supervisor.say_restart(f"failed: {why}")

    def left_over(self) -> list[Child]:
        """The children of the earlier code that are still there."""
        return [*self._old.values(), *(old for old, _ in self._leaving)]


def _adopted(state: server.ChildState) -> Child:
    made = Child(state.name, [], (), Path(os.devnull))
    made.process, made.slot, made.restarts = Adopted(state.pid), state.slot, state.restarts
    made.started_us = parse_time(state.started) if state.started else 0
    return made
