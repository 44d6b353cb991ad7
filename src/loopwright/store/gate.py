"""The gate: one writer at a time over all processes of a Space.

A lock on an open descriptor: the kernel lets it go when its holder dies, so nobody is ever stuck. That holds only while
no other process has the descriptor, so a forked one lets go of it before it does anything else.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

_gates: "WeakSet[Gate]" = WeakSet()


class Gate:
    """A `flock` that is held inside a `with` block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = self._open()
        _gates.add(self)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def reopen(self) -> None:
        """In a forked process: take a descriptor of its own, for a lock on a shared one holds for both."""
        self.close()
        self._fd = self._open()

    def __enter__(self) -> None:
        if self._fd is None:
            self._fd = self._open()
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back; more than once does no harm."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _let_go() -> None:
    for gate in list(_gates):
        gate.close()


os.register_at_fork(after_in_child=_let_go)
