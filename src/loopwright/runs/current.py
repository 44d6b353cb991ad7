"""The run that is going on in this process: what it logs is kept in frames beside the store, and sealed when it ends.

`lw.log` and `lw.log_file` write to it; outside a run they do nothing, so that a step stays a plain function.
"""

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, SupportsFloat

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Erased, Invalid, NotFound
from loopwright.kernel.files import fsync_folder
from loopwright.kernel.ids import valid_path
from loopwright.kernel.times import MINUTE
from loopwright.runs.model import Point
from loopwright.store import erasure, frames
from loopwright.store.check import Finding
from loopwright.store.database import Tx
from loopwright.store.locks import is_held, take
from loopwright.store.roots import Root
from loopwright.store.space import Space

METRICS, FILES, CONSOLE, LOCK = "metrics.frames", "files.frames", "console.txt", "lock"
# Twice as often as promised: what is logged just after a sync is on the disk within a second all the same.
SYNC_S = 0.5
_METRIC = re.compile(r"[A-Za-z0-9_./ -]{1,250}")


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has logged: the last value of each metric, its files, and the artifacts that hold all of it."""

    metrics: dict[str, float]
    files: dict[str, str]
    sealed: dict[str, str] = {}


class Recorder:
    """Takes what one run logs. While it is open its lock says that the run is alive."""

    def __init__(self, space: Space, run_id: str) -> None:
        self.space = space
        self.run_id = run_id
        self.folder = folder_of(space, run_id)
        self.folder.mkdir(mode=0o700)
        self._alive = take(self.folder / LOCK)
        self._fds: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()
        self._dirty: set[int] = set()
        self._new_name = False
        self._ended = threading.Event()
        self._syncer: threading.Thread | None = None

    def metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Keep one point of each metric; `step` counts on by itself when absent.

        Raises:
            Invalid: a name is not one, or a value is no number.
        """
        checked = {_metric_name(name): _number(name, value) for name, value in values.items()}
        at_us = self.space.clock.now_us()
        with self._lock:
            points = []
            for name, value in checked.items():
                number = self._steps.get(name, 0) if step is None else int(step)
                self._steps[name] = number + 1
                points.append(Point(name, value, number, at_us))
            self._append(METRICS, points)

    def file(self, path: Path, name: str) -> str:
        """Keep a copy of a file under a path of the run and return its digest.

        Raises:
            NotFound: there is no such file.
        """
        valid_path(name, "name")
        if not path.is_file():
            raise NotFound(f"no file {path}", code="file.missing", field="path")
        digest = self.space.blobs.put_file(path)
        with self._lock:
            self._append(FILES, [name, digest])
        return digest

    def _append(self, name: str, content: Any) -> None:
        fd = self._fds.get(name)
        if fd is None:
            fd = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._fds[name], self._new_name = fd, True
        frames.append(fd, msgspec.msgpack.encode(content))
        self._dirty.add(fd)
        if self._syncer is None:
            self._syncer = threading.Thread(target=self._sync, name="loopwright-run", daemon=True)
            self._syncer.start()

    def _sync(self) -> None:
        while not self._ended.wait(SYNC_S):
            with self._lock:
                waiting, self._dirty = self._dirty, set()
                new_name, self._new_name = self._new_name, False
            with contextlib.suppress(OSError):  # the run has ended meanwhile and sealed all of it
                for fd in waiting:
                    os.fdatasync(fd)
                if new_name:
                    fsync_folder(self.folder)
                    fsync_folder(self.folder.parent)

    def seal(self) -> Logged:
        """Make artifacts of all that was logged; durable on return."""
        return seal(self.space, self.run_id)

    def close(self, *, keep: bool = False) -> None:
        """Let go of the run; its folder goes too unless it is kept."""
        self._ended.set()
        if self._syncer is not None:
            self._syncer.join()
        for fd in (*self._fds.values(), self._alive):
            os.close(fd)
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def folder_of(space: Space, run_id: str) -> Path:
    """Where a run keeps what is not sealed yet."""
    return space.home / "runs" / run_id


def alive(space: Space, run_id: str) -> bool:
    """Whether a process still holds the run."""
    return is_held(folder_of(space, run_id) / LOCK)


def clear(space: Space, running: set[str]) -> None:
    """Remove the folders of runs that have ended; one that is a minute young may still be starting."""
    for folder in (space.home / "runs").iterdir():
        if folder.name in running or not folder.name.startswith("run_"):
            continue
        with contextlib.suppress(FileNotFoundError):
            young = machine_us() - folder.stat().st_mtime_ns // 1000 < MINUTE
            if not young and not alive(space, folder.name):
                shutil.rmtree(folder, ignore_errors=True)


def so_far(space: Space, run_id: str) -> Logged:
    """What a run has logged up to now."""
    metrics = {point.name: point.value for point in points(folder_of(space, run_id) / METRICS)}
    path = folder_of(space, run_id) / FILES
    listed = [msgspec.msgpack.decode(frame) for frame in frames.read_frames(path)] if path.exists() else []
    return Logged(metrics=metrics, files={str(name): str(digest) for name, digest in listed})


def points(path: Path) -> Iterator[Point]:
    """The metric points in a file of frames, in the order in which they were logged."""
    if path.exists():
        for frame in frames.read_frames(path):
            yield from msgspec.msgpack.decode(frame, type=list[Point])


def seal(space: Space, run_id: str) -> Logged:
    """Make artifacts of what a run has logged, but for files and a console that were erased and would come back."""
    logged, folder, sealed = so_far(space, run_id), folder_of(space, run_id), {}
    with space.read() as tx:
        gone = erasure.tombstones(tx)
    if gone.keys() & set(logged.files.values()):
        erasure.sweep(space)
        kept = {path: digest for path, digest in logged.files.items() if digest not in gone}
        logged = msgspec.structs.replace(logged, files=kept)
    if logged.metrics:
        meta = {"names": sorted(logged.metrics)}
        sealed["metrics"] = artifacts.put_blob(space, folder / METRICS, kind="metrics", meta=meta).digest
    if logged.files:
        sealed["files"] = artifacts.put_tree(space, logged.files, kind="run-files", meta={}).digest
    if (folder / CONSOLE).exists():
        with contextlib.suppress(Erased):
            sealed["console"] = artifacts.put_blob(space, folder / CONSOLE, kind="console", meta={}).digest
    return msgspec.structs.replace(logged, sealed=sealed)


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """The files that runs have logged which have not ended."""
    for folder in (space.home / "runs").glob("run_*"):
        with contextlib.suppress(FileNotFoundError):
            for digest in so_far(space, folder.name).files.values():
                yield Root(digest, "run", folder.name)


def check(space: Space) -> Iterator[Finding]:
    """What runs that have not ended have logged, where it is not what was written."""
    for path in sorted((space.home / "runs").glob("run_*/*.frames")):
        with contextlib.suppress(FileNotFoundError):  # the run has ended meanwhile
            if (at := frames.find_damage(path)) is not None:
                what = f"the frame at byte {at} is not what was written"
                yield Finding("run", str(path.relative_to(space.root)), what, (f"run {path.parent.name}",))


ROOTS, CHECKS = roots, check
_here: ContextVar[Recorder | None] = ContextVar("loopwright_run", default=None)
_newest: list[Recorder] = []


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Make a run the current one, also for threads that the code inside starts."""
    token = _here.set(recorder)
    _newest.append(recorder)
    try:
        yield
    finally:
        _newest.remove(recorder)
        _here.reset(token)


def current() -> Recorder | None:
    """The run that is going on here, or None."""
    return _here.get() or (_newest[-1] if _newest else None)


def log(*, step: int | None = None, **metrics: Any) -> None:
    """Log metrics of the current run, such as `lw.log(auc=0.71)`; outside a run nothing happens.

    Raises:
        Invalid: a value is no number, or a name (as in `lw.log(**{"val/auc": 0.7})`) is none.
    """
    recorder = current()
    if recorder is not None:
        recorder.metrics(metrics, step)


def log_file(path: str | Path, name: str | None = None) -> None:
    """Keep a copy of a file with the current run, under `name` or its own; outside a run nothing happens.

    Raises:
        NotFound: there is no such file.
    """
    recorder = current()
    if recorder is not None:
        recorder.file(Path(path), name or Path(path).name)


def _metric_name(name: str) -> str:
    if not isinstance(name, str) or not _METRIC.fullmatch(name):
        raise Invalid(
            f"a metric's name is letters, digits, '_', '-', '.', '/' and spaces, at most 250, not {str(name)[:80]!r}",
            code="metric.name",
            field="name",
        )
    return name


def _number(name: str, value: Any) -> float:
    if isinstance(value, SupportsFloat):
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    raise Invalid(
        f"metric {name!r} must be a number, not {type(value).__name__}",
        code="metric.value",
        field=name,
        hint="lw.log_file(path) keeps anything else",
    )
