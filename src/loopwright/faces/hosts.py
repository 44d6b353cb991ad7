"""This host among those that share a Space: it reports how far it is, and one of them runs the loop.

Who runs it holds a lease; a host that goes silent loses it, and what it still writes is refused by the fence.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Conflict, LoopwrightError
from loopwright.pipelines import queue
from loopwright.serving import publish, seal, watermark
from loopwright.store import leases

if TYPE_CHECKING:
    from loopwright.store.database import Tx
    from loopwright.store.leases import Lease
    from loopwright.store.space import Space

LEASE = "loop"
TTL_S, RENEW_S = 10.0, 2.5
_LOOK_S = 0.2


def depart(space: Space) -> None:
    """Seal what the workers of a stopped host have left, so that no other host waits for it or misses it."""
    seal.seal(space)
    watermark.leave(space)


class Hosts:
    """Reports, and holds the loop's lease when it can get it. A Space of its own is led at once and for good."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._lease: Lease | None = None
        self._stopping = threading.Event()
        self._reported: tuple[int, int | None] = (-2, None)
        self._reported_s = 0.0
        self._thread = threading.Thread(target=self._run, name="loopwright-hosts", daemon=True)

    @property
    def leads(self) -> bool:
        """Whether this host runs the loop."""
        return self._lease is not None

    def start(self) -> None:
        """Begin; what an earlier control of this host still writes under its lease is refused from here on."""
        self._lease = leases.take(self._space, LEASE, self._space.host, TTL_S, anew=True)
        if self._space.shared:
            self._thread.start()
        else:
            queue.forsake(self._space, [self._space.host])

    def stop(self) -> None:
        """Let another host take over at once."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(TTL_S)
        lease, self._lease = self._lease, None
        if self._space.shared:
            with contextlib.suppress(LoopwrightError):
                if lease is not None:
                    leases.release(self._space, lease)
                if not publish.workers(self._space):  # they answer until after this, and what they log is waited for
                    watermark.leave(self._space)

    def fence(self) -> Callable[[Tx], None]:
        """A check for writes that lets them through while this host runs the loop as it does now.

        What was read under a lease that was lost since is not acted upon, even if this host has the next one too.

        Raises:
            Conflict: another runs it.
        """
        lease = self._lease
        if lease is None:
            raise Conflict("another host runs the loop", code="lease.lost")
        return lambda tx: leases.hold(tx, lease)

    def lost(self) -> None:
        """Another host has the lease: wait for it as the others do."""
        self._lease = None

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            try:
                self._look()
            except Exception:  # noqa: BLE001 - a database that is away is asked again; the fence keeps what is written
                with contextlib.suppress(OSError):
                    traceback.print_exc(file=sys.stderr)
                self._stopping.wait(RENEW_S)

    def _look(self) -> None:
        found = publish.workers(self._space)
        generation = min((report.generation for report in found if report.ready), default=-1)
        clock_us = min((report.clock_us for report in found if report.clock_us is not None), default=None)
        due = monotonic_s() - self._reported_s > RENEW_S
        if not due and self._reported == (generation, clock_us):
            return
        watermark.report(self._space, TTL_S, generation, clock_us)
        self._reported, self._reported_s = (generation, clock_us), monotonic_s()
        if due:
            self._lead()

    def _lead(self) -> None:
        """Renew the lease, or take it when whoever had it has gone; then see to the jobs of hosts that are gone."""
        space, led = self._space, self._lease
        with space.read() as tx:
            ended = not any(
                lease.live and lease.holder != space.host for lease in leases.held(tx) if lease.name == LEASE
            )
            known = watermark.hosts(tx)
        self._lease = leases.take(space, LEASE, space.host, TTL_S, anew=led is None) if ended else None
        if self._lease is not None:
            queue.forsake(space, [host.host for host in known])
            for host in known:
                if not host.live and host.host != space.host:
                    queue.requeue_running(space, runner=host.host)
