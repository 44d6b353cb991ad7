"""Locks on files: the kernel lets them go with the process that holds them, so they say that it lives.

A process that was forked from the holder lets go of them at once: it may live on when the holder has died.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from loopwright.kernel.errors import Conflict

_taken: dict[int, tuple[int, int]] = {}  # by descriptor, which file it locks


def take(path: Path) -> int:
    """Wait for an exclusive lock on a file, which is made when missing; the answer is the descriptor to keep open."""
    fd = _open(path)
    fcntl.flock(fd, fcntl.LOCK_EX)
    _taken[fd] = _file_of(fd)
    return fd


def try_take(path: Path) -> int | None:
    """Like `take`, but None at once when another holds it."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    _taken[fd] = _file_of(fd)
    return fd


@contextlib.contextmanager
def hold(path: Path, busy: Conflict) -> Iterator[None]:
    """Hold a lock inside the block.

    Raises:
        Conflict: `busy`, when another holds it.
    """
    fd = try_take(path)
    if fd is None:
        raise busy
    try:
        yield
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether a living process holds a lock file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _file_of(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _let_go() -> None:
    for fd, file in list(_taken.items()):
        with contextlib.suppress(OSError):  # the holder closes what it lets go of, and its number may be another's
            if _file_of(fd) == file:
                os.close(fd)
    _taken.clear()


os.register_at_fork(after_in_child=_let_go)
