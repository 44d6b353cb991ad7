"""Locks that say that a process lives: the kernel lets them go with it."""

import fcntl
import os
from pathlib import Path


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
