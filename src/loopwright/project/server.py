"""The `lw up` of a project: where it keeps its files, and whether it runs. Knows no HTTP."""

from pathlib import Path

import msgspec

from loopwright.store.locks import is_held
from loopwright.store.space import HOME

LOCK, UP = "up.lock", "up.json"
CHILDREN = "children.json"
CONTROL_LOCK, JOBS_LOCK = "control.lock", "jobs.lock"
BANK = 64  # a worker's slot is its place, and so many more after each second restart in place


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A running `lw up`: its process, where it answers, since when.

    Args:
        version: of the code that runs.
        generation: 1, and one more with each restart in place.
        restart: how the last restart in place went: `under way`, `done`, `refused: ...` or `failed: ...`.
    """

    pid: int
    control_url: str
    data_url: str
    started: str
    version: str = ""
    generation: int = 1
    restart: str = ""


class ChildState(msgspec.Struct, frozen=True, kw_only=True):
    """A process of `lw up` as its supervisor knows it.

    Args:
        pid: 0 while it waits to be started again.
        restarts: how often it has died and was started again.
        last_exit: how it ended the last time; the negative number of the signal that ended it.
    """

    name: str
    slot: int | None
    pid: int
    started: str
    restarts: int
    last_exit: int | None


def run_folder(root: Path) -> Path:
    """Where `lw up` keeps its lock, its logs and up.json."""
    return root / HOME / "run"


def running(root: Path) -> Running | None:
    """The `lw up` that holds this project's lock, or None."""
    if not is_held(run_folder(root) / LOCK):
        return None
    try:
        return msgspec.json.decode((run_folder(root) / UP).read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def child_states(root: Path) -> list[ChildState]:
    """The processes of the `lw up` that runs here, or of the last one when it was killed."""
    try:
        return msgspec.json.decode((run_folder(root) / CHILDREN).read_bytes(), type=list[ChildState])
    except (FileNotFoundError, msgspec.MsgspecError):
        return []


def held_locks(folder: Path) -> list[str]:
    """The processes of an `lw up` that live, by their locks."""
    paths = [folder / CONTROL_LOCK, folder / JOBS_LOCK, *folder.glob("worker-*.lock")]
    return [path.stem for path in paths if is_held(path)]
