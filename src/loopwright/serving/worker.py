"""A worker of the data plane: `python -m loopwright.serving.worker --home H --slot N --fd FD`.

Opens no database: reads the route file, answers on the socket it was given, appends to its spools, reports in a file.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from loopwright import __version__
from loopwright.kernel import settings as config
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.files import replace_file
from loopwright.serving import reload
from loopwright.serving.engine import Engine
from loopwright.serving.model import PLACE_BYTES, WorkerReport
from loopwright.serving.protocols import tls
from loopwright.serving.protocols.door import Gatekeeper
from loopwright.serving.protocols.http import Server
from loopwright.serving.protocols.oip import Oip, render
from loopwright.store.locks import take

POLL_S = 0.020
# Twice as often as promised: what is appended just after a tick is on the disk within a second all the same.
TICK_S = 0.5
DRAIN_S = 6.0
_LAME_S = 1.0  # how long a connection must have been idle before a worker that gives way closes it
BACKLOG = 1024
_ROUTE_FILE = "routes.json"


class Worker:
    """One process of the data plane."""

    def __init__(self, home: Path, slot: int, listener: socket.socket, lock: int) -> None:
        loop = asyncio.get_running_loop()
        self._lock = lock
        self._folder = home / "run"
        root = home.parent
        self._tls = tls.context(config.read(root), root)
        self._slot = slot
        self._listener = listener
        self._port = int(listener.getsockname()[1])
        self._loop = loop
        self._parent = os.getppid()
        # One thread each, so that spools are synced and closed in order and a slow disk does not hold up a load.
        self._disk = ThreadPoolExecutor(1, "spool")
        self._loader = ThreadPoolExecutor(1, "load")
        self._engine = Engine(home, slot, self._later, loop.call_soon_threadsafe)
        gate = self._gate = Gatekeeper(self._folder)
        wire = Oip(self._engine, __version__, lambda: self._ready)
        self._server = Server(loop, self._engine, wire, render, gate=gate)
        self._seen: tuple[int, int, int] | None = None
        self._loaded: reload.Loaded = {}
        self._number = 0
        self._failed, self._failed_number = "", 0
        self._problems: dict[str, str] = {}
        self._ready = False
        self._loading = False
        self._reported: WorkerReport | None = None
        self._started_us = machine_us()
        self._idle_s = 0.0
        self._stopped = asyncio.Event()

    def _later(self, work: Callable[[], None]) -> None:
        self._disk.submit(work)

    async def run(self) -> None:
        """Serve until told to stop, or until the supervisor is gone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop, 0.0)
        self._loop.add_signal_handler(signal.SIGUSR2, self._stop, _LAME_S)
        self._poll()
        while self._loading:
            await asyncio.sleep(POLL_S / 4)
        self._ready = not self._failed
        self._report()
        listening = await self._loop.create_server(
            self._server.connection,
            sock=self._listener,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else tls.HANDSHAKE_S,
        )
        timers = [
            self._loop.create_task(self._every(pause_s, work))
            for pause_s, work in ((POLL_S, self._poll), (TICK_S, self._tick))
        ]
        await self._stopped.wait()
        listening.close()  # the supervisor holds the socket: who connects now waits for the worker that follows
        await self._drain()
        for timer in timers:
            timer.cancel()
        self._server.stop()
        self._ready = False
        await asyncio.sleep(0)
        self._engine.close()
        self._disk.shutdown(wait=True)
        self._loader.shutdown(wait=True)

    def _stop(self, idle_s: float) -> None:
        """Begin to leave; connections that have been idle for so long are closed."""
        self._idle_s = idle_s
        self._stopped.set()
        self._report()

    async def _drain(self) -> None:
        """Answer what is under way and say on each connection that it ends; not for long, and not for an orphan."""
        server, until = self._server, monotonic_s() + DRAIN_S
        server.stopping = True
        while server.connections and os.getppid() == self._parent and monotonic_s() < until:
            server.flush()
            for connection in list(server.connections):
                if connection.idle and monotonic_s() - connection.since_s >= self._idle_s:
                    connection.close()
            await asyncio.sleep(POLL_S)

    async def _every(self, pause_s: float, work: Callable[[], None]) -> None:
        try:
            while True:
                await asyncio.sleep(pause_s)
                work()
        finally:
            self._stopped.set()

    def _poll(self) -> None:
        """Look whether the route file was replaced; load what it names off the loop."""
        try:
            found = os.stat(self._folder / _ROUTE_FILE)
        except OSError:
            return
        mark = (found.st_ino, found.st_mtime_ns, found.st_size)
        if mark != self._seen and not self._loading:
            self._seen, self._loading = mark, True
            self._loop.create_task(self._take())

    async def _take(self) -> None:
        number = 0
        try:
            found = reload.read(self._folder / _ROUTE_FILE)
            number = found.generation
            made = await self._loop.run_in_executor(
                self._loader, reload.prepare, found, self._loaded, self._engine.targets
            )
        except (LoopwrightError, OSError, msgspec.MsgspecError) as error:
            self._failed, self._failed_number = str(error)[:500] or type(error).__name__, number
        else:
            engine = self._engine
            engine.targets, engine.clock_us, engine.subject_key = made.targets, made.clock_us, made.subject_key
            engine.belong(made.host)
            engine.forget(made.erasures)
            self._loaded, self._number, self._failed = made.loaded, made.number, ""
            self._problems = made.problems
            self._ready = True
        finally:
            self._loading = False
        self._report()

    def _tick(self) -> None:
        self._engine.tick()
        self._gate.refresh()
        self._server.sweep()
        with contextlib.suppress(OSError):
            os.utime(self._lock)  # says that this process is not stuck
        self._report()
        if os.getppid() != self._parent:
            self._stopped.set()

    def _report(self) -> None:
        report = WorkerReport(
            slot=self._slot,
            pid=os.getpid(),
            port=self._port,
            generation=self._number,
            clock_us=self._engine.clock_us,
            ready=self._ready,
            failed=self._failed,
            failed_generation=self._failed_number,
            unlogged=self._engine.unlogged,
            failed_syncs=self._engine.failed_syncs,
            log_problem=self._engine.log_problem,
            problems=self._problems,
            leaving=self._stopped.is_set(),
            started_us=self._started_us,
            erasures=self._engine.erasures,
        )
        if report != self._reported:
            told = msgspec.json.encode(report)
            try:
                replace_file(self._folder / f"worker-{self._slot}.json", told, durable=False)
                os.pwrite(self._lock, bytes(PLACE_BYTES), 0)
            except OSError:
                # A full disk: into the room that was taken for it at the start.
                os.pwrite(self._lock, told.ljust(PLACE_BYTES, b" ")[:PLACE_BYTES], 0)
            self._reported = report


def _hold(home: Path, slot: int) -> int:
    """Take the slot's lock, which says that its worker lives; the kernel lets it go with the process."""
    fd = take(home / "run" / f"worker-{slot}.lock")
    with contextlib.suppress(OSError):
        os.pwrite(fd, bytes(PLACE_BYTES), 0)
    return fd


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until SIGTERM."""
    parser = argparse.ArgumentParser(prog="loopwright.serving.worker", description="answers predictions")
    parser.add_argument("--home", type=Path, required=True, help="the .loopwright folder")
    parser.add_argument("--slot", type=int, required=True, help="number of this worker, 0 to 1023")
    parser.add_argument("--fd", type=int, required=True, help="a bound stream socket")
    options = parser.parse_args(arguments)
    if not 0 <= options.slot < 1024:
        parser.error("--slot must be 0 to 1023")
    # LightGBM's library reads this when it is loaded: a worker has one core.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Requests leave no cycles behind: looking for them as often as by default takes a twentieth of the time.
    gc.set_threshold(20_000, 20, 50)
    lock = _hold(options.home, options.slot)
    import uvloop

    listener = socket.socket(fileno=options.fd)
    listener.setblocking(False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options.home, options.slot, listener, lock))
    os.close(lock)
    return 0


async def _serve(home: Path, slot: int, listener: socket.socket, lock: int) -> None:
    await Worker(home, slot, listener, lock).run()


if __name__ == "__main__":
    sys.exit(main())
