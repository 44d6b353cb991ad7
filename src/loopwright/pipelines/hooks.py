"""Ports of pipelines that the house plugs: what is done with outputs of a kind, and what code a stored project is."""

import contextlib
from collections.abc import Callable, Iterator

from loopwright.artifacts.model import Artifact, Version
from loopwright.runs.model import Code
from loopwright.store.database import Tx
from loopwright.store.space import Space

# Registers an output of a finished run under its name; equal bytes must make no new version.
OnFinish = Callable[[Tx, str, Artifact, str], Version | None]

_on_finish: dict[str, OnFinish] = {}
_quiet = [0]  # of the process, not of a thread: the hook is called on the thread that writes
_code: list[Callable[[Space], Code]] = []


def on_finish(kind: str, hook: OnFinish) -> None:
    """Call `hook(tx, actor, artifact, run_id)` for every output of a kind, in the transaction that ends the run."""
    _on_finish[kind] = hook


def finisher(kind: str) -> OnFinish | None:
    """The hook of a kind, or None; None inside `unregistered()`."""
    return None if _quiet[0] else _on_finish.get(kind)


@contextlib.contextmanager
def unregistered() -> Iterator[None]:
    """Run steps whose outputs become no version of any name, such as a twin that is only tested.

    It holds for the whole process, so it is for jobs and commands, which do one thing at a time.
    """
    _quiet[0] += 1
    try:
        yield
    finally:
        _quiet[0] -= 1


def set_code(provider: Callable[[Space], Code]) -> None:
    """Say what code a process runs that runs a stored project; a folder's code is asked of git."""
    _code[:] = [provider]


def stored_code(space: Space) -> Code:
    """The code of the stored project that this process runs."""
    return _code[0](space) if _code else Code()
