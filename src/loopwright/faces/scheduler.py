"""The scheduler of control: lets the loop do what is due, on the wall clock or in the stops of a replay.

One thread settles, one watches the database for changes that other processes make. It decides nothing itself.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from loopwright.audit import service as audit
from loopwright.data import facts
from loopwright.faces import courier, hosts
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Conflict, LoopwrightError, Unavailable
from loopwright.kernel.ids import new_id
from loopwright.kernel.times import SECOND, format_time
from loopwright.loop import service as loop
from loopwright.pipelines import queue as jobs
from loopwright.project import health
from loopwright.serving import pager, publish, routes, seal
from loopwright.store import clock as clocks
from loopwright.store import erasure
from loopwright.store.space import Space

ACTOR = "loop"
SEAL, SEAL_EVERY_S = "serving.seal", 60.0
SHARED_SEAL_EVERY_S = 5.0  # other hosts wait for what is not sealed
TELL_EVERY_S = 2.0
MEND_EVERY_S = 15.0  # what could not be read for a moment is not left out until the next change of the routes
_LOOK_S, _LONGEST_WAIT_S, _RETRY_S, _JOB_LOOK_S = 0.05, 1.0, 1.0, 0.01
_STANDBY_LOOK_S = 0.2


class ClockState(msgspec.Struct, frozen=True, kw_only=True):
    """The Space's time, the next moment for which anything waits, and whether all that was due is done."""

    mode: str
    start: str
    now: str
    next: str | None
    settled: bool
    problem: str | None = None


class Scheduler:
    """Runs `loop.settle` when something is due, and moves a replay's clock when it is told to."""

    def __init__(self, space: Space, changed: Callable[[], None]) -> None:
        self.space = space
        self.problem: str | None = None
        self._changed = changed
        self._asked: queue.SimpleQueue[tuple[int, Future[ClockState]] | None] = queue.SimpleQueue()
        self._busy = True
        self._stopping = threading.Event()
        self._published = (-1, -1)
        self._stirred: tuple[int, ...] = ()
        self._erased = 0
        self._sealed_s = monotonic_s()
        self._told_s = 0.0
        self._mended_s = monotonic_s()
        self._started_us = self._looked_us = machine_us()
        self._watching: str | None = None
        self._pager = pager.Pager(ACTOR)
        self._hosts = hosts.Hosts(space)
        self._courier = courier.Courier(space, lambda: self._hosts.leads)
        self._awaited: list[str] = []
        self._threads = [
            threading.Thread(target=self._settle_for_ever, name="loopwright-scheduler", daemon=True),
            threading.Thread(target=self._watch, name="loopwright-watch", daemon=True),
        ]

    def start(self) -> None:
        """Begin with what an earlier control left undone."""
        self._hosts.start()
        self._courier.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; what is under way is taken up again by the next control."""
        self._stopping.set()
        self._asked.put(None)
        self._hosts.stop()
        self._courier.stop()

    def state(self) -> ClockState:
        """The clock as it stands."""
        now, following = self.space.clock.now_us(), loop.next_moment(self.space)
        due = following is not None and following <= now
        return ClockState(
            mode=self.space.clock.mode,
            start=format_time(self._start_us(now)),
            now=format_time(now),
            next=None if following is None else format_time(following),
            settled=not self._busy and not due,
            problem=self.problem,
        )

    def _start_us(self, now_us: int) -> int:
        if self.space.clock.mode == "replay":
            return self.space.settings.start_us or now_us
        return now_us

    def advance(self, to_us: int) -> Future[ClockState]:
        """Move a replay's clock to a moment, stop by stop; done when all that is due by then is done.

        Raises:
            Conflict: the Space lives on the wall clock, or the moment is past.
        """
        if self.space.clock.mode != "replay":
            raise Conflict("this Space lives on the wall clock", code="clock.wall", hint="lw replay --help")
        now = self.space.clock.now_us()
        if to_us < now:
            raise Conflict(f"the clock stands at {format_time(now)} already", code="clock.past", field="to")
        if self._stopping.is_set():
            raise Unavailable("control is stopping", code="control.stopping")
        if not self._hosts.leads:
            raise Unavailable("another host runs the loop", code="lease.lost", hint="lw status")
        asked: Future[ClockState] = Future()
        self._busy = True
        self._asked.put((to_us, asked))
        return asked

    def _settle_for_ever(self) -> None:
        while not self._stopping.is_set():
            if not self._hosts.leads:
                self._busy, self._looked_us = False, machine_us()
                self._stopping.wait(_STANDBY_LOOK_S)
                continue
            self._guarded(self._settle)
            if self.problem is not None:
                self._stopping.wait(_RETRY_S)
                continue
            self._busy = not self._asked.empty()
            asked = self._wait()
            if asked is not None:
                to_us, done = asked
                self._guarded(self._advance, to_us, done)
                if self._stopping.is_set() and not done.done():
                    done.set_result(self.state())
                elif self.problem is not None and not done.done():
                    told = f"the loop does not settle: {self.problem}"
                    done.set_exception(LoopwrightError(told, code="loop.failed"))
        while not self._asked.empty():  # who asked for more is told how far it has come
            if (left := self._asked.get()) is not None:
                left[1].set_result(self.state())

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        self.problem = None
        try:
            with self.space.guarded(self._hosts.fence()):
                work(*args)
        except Exception as error:  # noqa: BLE001 - the scheduler outlives a failed action, shows it and tries again
            if self._stopping.is_set():
                return
            if isinstance(error, LoopwrightError) and error.code == "lease.lost":
                self._hosts.lost()
            _print()
            self.problem = error.message if isinstance(error, LoopwrightError) else f"{type(error).__name__}: {error}"

    def _wait(self) -> tuple[int, Future[ClockState]] | None:
        """Wait for an order, or until something is due."""
        while not self._stopping.is_set():
            self._looked_us = machine_us()
            try:
                following = loop.next_moment(self.space)
            except Exception:  # noqa: BLE001 - settling meets it too, shows it and tries again
                return None
            wait_s = _LONGEST_WAIT_S
            if following is not None:
                wait_s = min(wait_s, (following - self.space.clock.now_us()) / SECOND)
            if wait_s <= 0:
                self._busy = True
                return None
            try:
                return self._asked.get(timeout=wait_s)
            except queue.Empty:
                continue
        return None

    def _advance(self, to_us: int, asked: Future[ClockState]) -> None:
        self._busy = True
        while not self._stopping.is_set() and (now := self.space.clock.now_us()) < to_us:
            following = loop.next_moment(self.space)
            stop = to_us if following is None else min(to_us, max(following, now))
            self._move(stop)
            self._settle()
        self._busy = not self._asked.empty()
        asked.set_result(self.state())

    def _move(self, to_us: int) -> None:
        self.space.write(lambda tx: clocks.advance(tx, "replay", to_us))

    def _settle(self) -> None:
        """Let the loop do all that is due, then see that the workers have the routes and the time."""
        while True:
            for _ in loop.settle(self.space, self._submit):
                if self._stopping.is_set():
                    return
            self._awaited = loop.awaited(self.space)
            if not self._awaited or self._stopping.wait(_RETRY_S):
                break
            self._looked_us = machine_us()
        self._publish(wait=True)

    def _submit(self, space: Space, action_id: str) -> None:
        """Wait until the job server has done the job of an action."""
        while not self._stopping.is_set():
            self._looked_us = machine_us()
            job = jobs.get(space, action_id)
            if job is not None and job.state in ("finished", "failed"):
                return
            self._stopping.wait(_JOB_LOOK_S)
        raise Unavailable("control is stopping", code="control.stopping")

    def _publish(self, *, wait: bool) -> None:
        generation = publish.publish(self.space)
        clock_us = self.space.clock.now_us() if self.space.clock.mode == "replay" else None
        self._published = (generation, clock_us or 0)
        if wait:
            publish.wait_applied(self.space, generation, clock_us=clock_us)

    def _watch(self) -> None:
        seen = -1
        while not self._stopping.wait(_LOOK_S):
            try:
                version = self.space.database.version()
                if version != seen:
                    seen = version
                    self._look()
                if monotonic_s() - self._sealed_s > (SHARED_SEAL_EVERY_S if self.space.shared else SEAL_EVERY_S):
                    self._sealed_s = monotonic_s()
                    self._seal()
                self._watching = None
                if monotonic_s() - self._mended_s > MEND_EVERY_S:
                    self._mended_s = monotonic_s()
                    self._mend()
                if monotonic_s() - self._told_s > TELL_EVERY_S:
                    self._told_s = monotonic_s()
                    self._tell()
                    self._pager.look(self.space)
            except Exception as error:  # noqa: BLE001 - a failed look is told and looked again
                _print()
                self._watching = error.message if isinstance(error, LoopwrightError) else type(error).__name__
                self._tell()
                self._stopping.wait(_RETRY_S)

    def _mend(self) -> None:
        """Publish again what is not served as the tables say; workers load again what they could not."""
        failed = any(report.failed for report in publish.workers(self.space))
        if failed or publish.problems(self.space):
            self._publish(wait=False)

    def _tell(self) -> None:
        """Leave word of how it goes, for `lw status`; a disk that takes none of it makes the report old."""
        with contextlib.suppress(OSError):
            report = health.ControlReport(
                pid=os.getpid(),
                started_us=self._started_us,
                looked_us=self._looked_us,
                problem=self.problem,
                watching=self._watching,
            )
            health.tell(self.space, report)

    def _seal(self) -> None:
        if seal.due(self.space) and not jobs.is_queued(self.space, SEAL):
            self.space.write(lambda tx: jobs.enqueue(tx, new_id("action"), SEAL, {}, host=self.space.host))
        if self._hosts.leads:
            audit.seal(self.space, ACTOR)

    def _look(self) -> None:
        """Another connection has committed: tell who waits, and give the workers new routes."""
        self._changed()
        with self.space.read() as tx:
            generation, stirred, erased = routes.generation(tx), facts.stirred(tx), erasure.erasures(tx)
        if generation != self._published[0] or erased != self._erased:
            if erased and self.space.blobs.remote:
                erasure.sweep(self.space)  # this host's copies of what another host has erased
            self._erased = erased
            self._publish(wait=False)
        elif stirred != self._stirred:
            publish.show(self.space)
        self._stirred = stirred


def _print() -> None:
    """What has just been caught, into the log, which a full disk may refuse."""
    with contextlib.suppress(OSError):
        traceback.print_exc(file=sys.stderr)
