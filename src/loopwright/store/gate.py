"""The gate: one writer at a time over all processes of a Space.

A lock on an open descriptor: the kernel lets it go when its holder dies, so nobody is ever stuck.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType


class Gate:
    """A `flock` that is held inside a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def reopen(self) -> None:
        """In a forked process: take a descriptor of its own, for a lock on a shared one holds for both."""
        os.close(self._fd)
        self._fd = self._open()

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)
