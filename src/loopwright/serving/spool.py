"""A worker's own part of the prediction log of one endpoint: frames appended before the answers go out.

A spool's lock is held while it is written; whoever gets the lock may seal it.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.files import fsync_folder
from loopwright.serving import record
from loopwright.serving.record import Columns, Ids, LogRow
from loopwright.store import frames

ROTATE_BYTES = 8 << 20
ROTATE_S = 60.0
SUFFIX = ".spool"
SLOTS, HOSTS = 128, 8  # slots of workers a host, two for each, and hosts: a spool's id says which of them all


def folder_of(home: Path, endpoint: str) -> Path:
    """The folder with the spools of an endpoint."""
    return home / "spool" / endpoint


class Spool:
    """The open spool of one endpoint in one worker; a new one is opened with the first row after a rotation.

    `later` takes work that must not hold up the event loop (fsync and close) and does it in order, on one thread.
    """

    def __init__(self, home: Path, endpoint: str, slot: int, later: Callable[[Callable[[], None]], None]) -> None:
        self._folder = folder_of(home, endpoint)
        self._slot = slot
        self._later = later
        self._fd: int | None = None
        self._size = 0
        self._opened_s = 0.0
        self._epoch_us = 0
        self._columns: Columns | None = None
        self._unsynced = False
        self._new_name = False
        self._failed = False
        self.failed_syncs = 0
        self._ids: Ids | None = None

    def next_id(self, received_us: int) -> str:
        """The id for the next answer."""
        if self._ids is None:
            self._ids = Ids(self._next_spool())
        return self._ids.next(received_us)

    def _next_spool(self) -> str:
        self._epoch_us = max(self._epoch_us + 1, machine_us())
        return record.spool_id(self._slot, self._epoch_us)

    def append(self, columns: Columns, rows: Sequence[LogRow]) -> None:
        """Put rows, whose ids came from `next_id`, in the kernel's hands.

        Raises:
            OSError: the file did not take them; nothing of them stays behind.
        """
        fd = self._open() if self._fd is None else self._fd
        whole = self._size
        try:
            if columns != self._columns:
                self._size += frames.append(fd, record.header(columns))
                self._columns, whole = columns, self._size
            for payload in record.payloads(rows):
                self._size += frames.append(fd, payload)
        except OSError:
            if os.fstat(fd).st_size != whole:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, whole)
            self._size = whole
            if os.fstat(fd).st_size != whole:
                self.rotate()  # a part of the frame could not be taken back: what follows must lie in another file
            raise
        self._unsynced = True
        if self._size >= ROTATE_BYTES:
            self.rotate()

    def _open(self) -> int:
        """Make the file under its lock: it gets its name only when the lock is held, so nobody seals it too early."""
        if self._ids is None:
            self._ids = Ids(self._next_spool())
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / (record.spool_id(self._slot, self._epoch_us) + SUFFIX)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(fresh, path)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise
        self._fd, self._size, self._columns, self._new_name = fd, 0, None, True
        self._opened_s = monotonic_s()
        return fd

    def tick(self) -> None:
        """Twice a second: bring what was appended to the disk, and rotate a spool that is old."""
        if self._failed:
            # After a failed sync nobody knows what the file holds on the disk; what follows goes elsewhere.
            self._failed = False
            self.rotate()
        if self._fd is None:
            return
        if self._unsynced:
            fd, new_name = self._fd, self._new_name
            self._unsynced = self._new_name = False
            self._later(lambda: self._sync(fd, new_name))
        if monotonic_s() - self._opened_s >= ROTATE_S:
            self.rotate()

    def rotate(self) -> None:
        """Let go of the spool, once it is on the disk, so that it can be sealed."""
        fd, new_name = self._fd, self._new_name
        self._fd, self._ids, self._columns, self._unsynced = None, None, None, False
        if fd is not None:
            self._later(lambda: self._finish(fd, new_name))

    def _finish(self, fd: int, new_name: bool) -> None:
        self._sync(fd, new_name)
        os.close(fd)

    def _sync(self, fd: int, new_name: bool) -> None:
        try:
            os.fdatasync(fd)
            if new_name:
                fsync_folder(self._folder)
                fsync_folder(self._folder.parent)
        except OSError:
            self.failed_syncs += 1
            self._failed = True
