"""The processes that `lw up` keeps alive: what starts them, and one of them as it lives, dies and comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Protocol

import click
import msgspec

from loopwright.access import published
from loopwright.faces import processes
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.times import format_time
from loopwright.project import server
from loopwright.store import space as spaces

CANNOT_START = 78  # a child that will not start for a reason that starting it again does not mend
PYTHON = [sys.executable, "-P", "-m"]  # -P: a file of the project's folder never stands for a module
_BACK_OFF_S, _LONGEST_BACK_OFF_S, _HEALTHY_S = 0.1, 5.0, 10.0
_LOG_LIMIT_BYTES = 10 << 20


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to start."""

    root: Path
    port: int
    data_port: int
    workers: int
    jobs: int
    host: str = processes.LOOPBACK
    scheme: str = "http"

    def argv(self) -> list[str]:
        """The command that starts it."""
        out = [*PYTHON, "loopwright", "up", "--root", str(self.root), "--port", str(self.port)]
        out += ["--data-port", str(self.data_port), "--workers", str(self.workers), "--jobs", str(self.jobs)]
        return out


class Process(Protocol):
    """What is asked of a process: a `Popen`, or one that an earlier code of the supervisor has started."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status, or None while it lives."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""


class Adopted:
    """A child of this process that was started by its earlier code."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or None while it lives."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def send_signal(self, sig: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, sig)


class Child:
    """One process that is kept alive."""

    def __init__(self, name: str, argv: list[str], fds: tuple[int, ...], log: Path) -> None:
        self.name, self.argv, self.fds, self.log = name, argv, fds, log
        self.process: Process | None = None
        self.slot: int | None = None
        self.due = False
        self.failures = self.restarts = 0
        self.last_exit: int | None = None
        self.started_us = 0
        self.started_s = 0.0
        self.start_at_s = 0.0

    @property
    def pid(self) -> int:
        """Its process, 0 when there is none."""
        return 0 if self.process is None else self.process.pid

    def start(self, cwd: Path) -> None:
        """Start it; what it prints goes to its log. What the system refuses is tried again later."""
        try:
            with self._log() as out:
                self.process = subprocess.Popen(
                    self.argv,
                    pass_fds=self.fds,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd=cwd,
                    preexec_fn=processes.tied(),
                )
        except (OSError, subprocess.SubprocessError):
            self._back_off()
            return
        self.started_s, self.started_us = monotonic_s(), machine_us()

    def _log(self) -> IO[bytes]:
        """Its log, or nowhere when the disk has no room for one."""
        try:
            if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
                self.log.replace(self.log.with_suffix(".old.log"))
            return self.log.open("ab")
        except OSError:
            return Path(os.devnull).open("ab")

    def died(self) -> int | None:
        """Its exit status when it has just been found dead; says when to start it again."""
        status = None if self.process is None else self.process.poll()
        if status is None:
            return None
        self.process, self.last_exit = None, status
        self.restarts += 1
        if monotonic_s() - self.started_s > _HEALTHY_S:
            self.failures = 0
        self._back_off()
        return status

    def _back_off(self) -> None:
        self.failures += 1
        wait_s = 0.0 if self.failures == 1 else min(_LONGEST_BACK_OFF_S, _BACK_OFF_S * 2 ** (self.failures - 2))
        self.start_at_s = monotonic_s() + wait_s

    def state(self) -> server.ChildState:
        """It as `lw status` reads it."""
        return server.ChildState(
            name=self.name,
            slot=self.slot,
            pid=self.pid,
            started=format_time(self.started_us) if self.started_us else "",
            restarts=self.restarts,
            last_exit=self.last_exit,
        )

    def tell(self, number: int) -> None:
        """Send it a signal; one that is gone needs none."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def wait(self, until_s: float) -> None:
        """Wait for its end, and end it when it takes too long."""
        while self.process is not None and self.process.poll() is None:
            if monotonic_s() >= until_s:
                self.tell(signal.SIGKILL)
            time.sleep(0.01)


def planned(plan: Plan, fds: tuple[int, list[int]], running: server.Running, bank: int = 0) -> list[Child]:
    """The children of a plan, not started yet."""
    folder = server.run_folder(plan.root)
    root = str(plan.root)
    control = [*PYTHON, "loopwright", "_control", "--root", root, "--fd", str(fds[0])]
    control += ["--data-url", running.data_url]
    made = [Child("control", control, (fds[0],), folder / "control.log")]
    made += [worker(plan, place, fd, bank) for place, fd in enumerate(fds[1])]
    jobs = [*PYTHON, "loopwright", "_jobs", "--root", root, "--jobs", str(plan.jobs)]
    made.append(Child("jobs", jobs, (), folder / "jobs.log"))
    return made


def worker(plan: Plan, place: int, fd: int, bank: int) -> Child:
    """A worker on the socket of a place."""
    argv = [*PYTHON, "loopwright.serving.worker", "--home", str(plan.root / spaces.HOME)]
    argv += ["--slot", str(place + server.BANK * bank), "--fd", str(fd)]
    made = Child(f"worker-{place}", argv, (fd,), server.run_folder(plan.root) / f"worker-{place}.log")
    made.slot = place + server.BANK * bank
    return made


def sweep(folder: Path) -> None:
    """Take away what an earlier `lw up` left: what workers said of themselves, and what tokens opened at that time."""
    for path in folder.glob("worker-*.json"):
        path.unlink(missing_ok=True)
    (folder / published.FILE).unlink(missing_ok=True)  # a token may have been revoked since; control writes it anew


def say(text: str) -> None:
    """One line into the log of `lw up`, which a full disk may refuse."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def last_words(log: Path) -> str:
    """What a log says at its end."""
    return (last_line(log.read_text("utf-8", "replace")) if log.exists() else "") or f"see {log}"


def last_line(text: str) -> str:
    """The last line of what a command printed that is no hint."""
    said = [line for line in text.strip().split("\n") if not line.startswith("  try: ")]
    return said[-1].removeprefix("error: ") if said else ""
