"""Presence: every process that has a Space open holds a shared lock, so that one can know that it is alone."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Presence:
    """A shared lock on a file for as long as it is open; the kernel lets it go with the process."""

    def __init__(self, path: Path) -> None:
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other process of this machine has the Space open; inside, those that would open it wait."""
        assert self._fd is not None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._fd, fcntl.LOCK_SH)  # a change of a lock lets the old one go first
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        """Let go; more than once does no harm."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
