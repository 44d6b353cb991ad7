"""One writer thread a process: writes that wait share a commit, and each is whole or not at all."""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar, cast

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Unavailable
from loopwright.store.database import Tx

T = TypeVar("T")
DRAIN_S = 0.020


class Write:
    """A function that waits for its turn, and what became of it."""

    __slots__ = ("done", "error", "fn", "result")

    def __init__(self, fn: Callable[[Tx], Any]) -> None:
        self.fn = fn
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class Writer(ABC):
    """The queue and the thread; an adapter says how a batch is committed."""

    def __init__(self) -> None:
        self._closed = False
        self._restart()

    def _restart(self) -> None:
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    @abstractmethod
    def _own(self) -> None:
        """In a forked process: begin anew; the thread and the locks stayed behind."""

    @abstractmethod
    def _commit(self, batch: list[Write]) -> bool:
        """Run a batch, which may grow meanwhile, in one commit; True when the queue was closed."""

    @abstractmethod
    def _attempt(self, job: Write) -> None:
        """Run one write so that its failure undoes it alone."""

    def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in one durable transaction; what it raises undoes all of it.

        Raises:
            Unavailable: the disk or the database refused the commit; nothing was kept.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a write inside a write: pass the transaction on")
        self._own()
        job = Write(fn)
        with self._lock:
            if self._closed:
                raise Unavailable("the Space is closed", code="store.closed")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="loopwright-writer", daemon=True)
                self._thread.start()
            self._queue.put(job)
        job.done.wait()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            batch = [job]
            stop = self._commit(batch)
            for done in batch:
                done.done.set()
            if stop:
                return

    def _drain(self, batch: list[Write]) -> bool:
        """Attempt the writes of a batch and those that come meanwhile, for at most 20 ms."""
        until = monotonic_s() + DRAIN_S
        self._attempt(batch[0])
        while monotonic_s() < until:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return True
            batch.append(job)
            self._attempt(job)
        return False

    def _finish(self) -> bool:
        """Let no write in any more and wait for those that are; False when that was done before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            thread = self._thread
            self._queue.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        return True
