"""The `lw up` of a project: where it keeps its files, and whether it runs. Knows no HTTP."""

import fcntl
import os
from pathlib import Path

import msgspec

from loopwright.store.space import HOME

LOCK, UP = "up.lock", "up.json"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A running `lw up`: its process, where it answers, since when."""

    pid: int
    control_url: str
    data_url: str
    started: str


def run_folder(root: Path) -> Path:
    """Where `lw up` keeps its lock, its logs and up.json."""
    return root / HOME / "run"


def running(root: Path) -> Running | None:
    """The `lw up` that holds this project's lock, or None."""
    try:
        lock = os.open(run_folder(root) / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        pass
    finally:
        os.close(lock)
    try:
        return msgspec.json.decode((run_folder(root) / UP).read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
