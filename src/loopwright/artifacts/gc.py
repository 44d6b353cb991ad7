"""gc: take away what nothing refers to any more, and what killed processes left behind.

Safe beside writers: see `condemned` for what is put again meanwhile; the grace covers what is put and not yet named.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from loopwright.artifacts import condemned, service
from loopwright.artifacts.model import STORE_CLEANED
from loopwright.artifacts.reach import Reach, refuse_unread
from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Conflict
from loopwright.kernel.op import Progress, silent
from loopwright.kernel.times import DAY, HOUR, format_duration, parse_duration
from loopwright.store import ledger, locks
from loopwright.store.blobs import Entry, LocalBlobs, is_digest
from loopwright.store.database import Tx
from loopwright.store.roots import Leftover, Root, all_leftovers, all_roots
from loopwright.store.space import Space

GRACE = "14d"
SHARED_GRACE_US = HOUR  # the shortest grace beside other processes: the longest that a put may wait for its name
_BATCH = 200
_TOMBSTONE_US = 2 * DAY


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was, or would be, taken away: a blob by its digest, a file by its place in the store."""

    what: str
    name: str
    size_bytes: int
    reason: str


class GcReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleaning kept and why, and what it took away.

    Args:
        blobs: how many blobs there were.
        kept: how many of them each kind of reason keeps; a blob with several counts for the first.
        young: blobs that nothing refers to and that are younger than the grace.
    """

    dry_run: bool
    grace: str
    blobs: int
    kept: dict[str, int]
    young: int
    removed: list[Removed]
    freed_bytes: int


def gc(
    space: Space,
    actor: str,
    *,
    dry_run: bool = False,
    grace: str = GRACE,
    alone: bool = False,
    progress: Progress = silent,
) -> GcReport:
    """Take away blobs that nothing refers to and files that killed processes left, once they are older than the grace.

    A grace under an hour needs that nobody else has the project open; of a shared object store only the caller can
    know that, and says so by `alone`.

    Raises:
        Invalid: `grace` is no duration.
        Conflict: another cleaning runs, or the grace is too short beside others.
        Corrupt: a tree that something refers to cannot be read.
    """
    grace_us = parse_duration(grace, "grace")
    busy = Conflict("another lw gc cleans this store", code="gc.running", hint="wait for it")
    single = contextlib.nullcontext() if dry_run else locks.hold(space.home / condemned.LOCK, busy)
    with _right(space, grace_us, alone), single:
        return _Cleaning(space, grace_us, dry_run, progress).run(actor)


@contextlib.contextmanager
def _right(space: Space, grace_us: int, alone: bool) -> Iterator[None]:
    """The leave to clean with a grace: a short one only when nobody else can be between a put and its name."""
    if grace_us >= SHARED_GRACE_US:
        yield
        return
    if space.blobs.remote and not alone:
        raise Conflict(
            "blobs lie in a store that other hosts may write to; a grace under 1h would take what they have just put",
            code="gc.grace",
            field="grace",
            hint="lw gc --grace 1h, or --alone when no other host has the project open",
        )
    with space.presence.alone() as mine:
        serving = any(locks.is_held(path) for path in (space.home / "run").glob("*.lock"))
        if not mine or serving:
            raise Conflict(
                "other processes have this project open; a grace under 1h would take what they have just put",
                code="gc.grace",
                field="grace",
                hint="lw gc --grace 1h",
            )
        yield


class _Cleaning:
    """One cleaning."""

    def __init__(self, space: Space, grace_us: int, dry_run: bool, progress: Progress) -> None:
        self.space = space
        self.grace_us = grace_us
        self.dry_run = dry_run
        self.progress = progress
        self.reach = Reach(space)
        self.removed: list[Removed] = []

    def run(self, actor: str) -> GcReport:
        if not self.dry_run:
            self.space.write(lambda tx: condemned.take_over(tx, remote=self.space.blobs.remote))
        # the list first: a blob that is put after it was made is no candidate at all
        now, entries = self.space.blobs.now_us(), list(self.space.blobs.entries())
        with self.space.read() as tx:
            self.reach.load(tx)
            roots = list(self._roots(tx))
        self.reach.add(None, roots)
        self.reach.settled()
        refuse_unread(self.reach)
        idle = [entry for entry in entries if entry.digest not in self.reach.held]
        old = [entry for entry in idle if now - entry.put_us >= self.grace_us]
        there = {entry.digest for entry in entries}
        old += self._ghosts(there)
        for start in range(0, len(old), _BATCH):
            self._take(old[start : start + _BATCH])
            self.progress(min(start + _BATCH, len(old)), len(old), "blobs")
        self._files(there)
        if not self.dry_run:
            self.space.write(lambda tx: self._end(tx, actor))
        return self._report(entries, young=len(idle) - len(old))

    def _ghosts(self, there: set[str]) -> list[Entry]:
        """Artifacts that nothing refers to and whose blob is gone: only their record is left."""
        with self.space.read() as tx:
            recorded = {digest for digest, _ in service.recorded(tx)}
        idle = sorted(recorded - there - self.reach.held.keys())
        return [Entry(digest, 0, 0) for digest in idle if not self.space.blobs.has(digest)]

    def _roots(self, tx: Tx) -> Iterator[Root]:
        yield from all_roots(self.space, tx)
        for row in tx.query("SELECT digest FROM artifacts WHERE put_us > ?", (tx.machine_us() - self.grace_us,)):
            yield Root(row["digest"], "young", "recorded within the grace")

    def _take(self, batch: Sequence[Entry]) -> None:
        if not self.dry_run:
            until = monotonic_s() + condemned.GIVE_UP_S
            mine = set(self.space.write(lambda tx: self._condemn(tx, batch)))
            batch = [entry for entry in batch if entry.digest in mine]
            gone = []
            for entry in batch:
                if monotonic_s() > until:
                    break
                self.space.blobs.delete(entry.digest)
                gone.append(entry)
            self.space.write(lambda tx: condemned.mark_removed(tx, mine))
            batch = gone
        reason = "nothing refers to it"
        self.removed += [Removed(what="blob", name=e.digest, size_bytes=e.size_bytes, reason=reason) for e in batch]

    def _condemn(self, tx: Tx, batch: Iterable[Entry]) -> list[str]:
        """Choose what still nothing refers to, in one transaction with all that could have come to."""
        self.reach.add(tx, (root for root in self._roots(tx) if root.digest not in self.reach.held))
        refuse_unread(self.reach)
        idle = [entry.digest for entry in batch if entry.digest not in self.reach.held]
        mine = condemned.condemn(tx, idle)
        tx.executemany("DELETE FROM artifacts WHERE digest = ?", [(digest,) for digest in mine])
        return mine

    def _files(self, there: set[str]) -> None:
        """Take away files, and copies of blobs that another host has taken out of a shared store."""
        for left in (*self._stale(there), *_temporary(self.space), *all_leftovers(self.space)):
            with contextlib.suppress(FileNotFoundError):
                if machine_us() - _touched_us(left.path) >= self.grace_us:
                    self._remove(left)

    def _stale(self, there: set[str]) -> Iterator[Leftover]:
        local, stored = getattr(self.space.blobs, "local", None), getattr(self.space.blobs, "stored", None)
        if isinstance(local, LocalBlobs) and stored is not None:
            for digest in local.all():
                if digest not in there and digest not in self.reach.held and not stored(digest):
                    yield Leftover(local.path(digest), "a copy of a blob that is in the store no more")

    def _remove(self, left: Leftover) -> None:
        size = _size(left.path)
        if not self.dry_run:
            if left.path.is_dir() and not left.path.is_symlink():
                shutil.rmtree(left.path)
            else:
                left.path.unlink()
        name = str(left.path.relative_to(self.space.root))
        self.removed.append(Removed(what="file", name=name, size_bytes=size, reason=left.reason))

    def _end(self, tx: Tx, actor: str) -> None:
        condemned.forget(tx, tx.machine_us() - _TOMBSTONE_US)
        if self.removed:
            blobs = sum(item.what == "blob" for item in self.removed)
            freed = sum(item.size_bytes for item in self.removed)
            data = {"blobs": blobs, "files": len(self.removed) - blobs, "bytes": freed}
            ledger.append(tx, actor, STORE_CLEANED, "store", data)

    def _report(self, entries: Sequence[Entry], *, young: int) -> GcReport:
        kept: dict[str, int] = {}
        for entry in entries:
            for root in self.reach.held.get(entry.digest, [])[:1]:
                kept[root.kind] = kept.get(root.kind, 0) + 1
        return GcReport(
            dry_run=self.dry_run,
            grace=format_duration(self.grace_us),
            blobs=len(entries),
            kept=dict(sorted(kept.items())),
            young=young,
            removed=self.removed,
            freed_bytes=sum(item.size_bytes for item in self.removed),
        )


def _temporary(space: Space) -> Iterator[Leftover]:
    """Files that were being written when their writer was killed."""
    for path in sorted((space.home / "tmp").iterdir()):
        yield Leftover(path, "a temporary file")
    for folder in (space.home, *(space.home / name for name in ("run", "keys", "backups"))):
        if folder.is_dir():
            yield from (Leftover(path, "a half-made file") for path in sorted(folder.glob(".new-*")))
    for path in sorted((space.home / "values").glob("*")):
        yield Leftover(path, "a file value that can be written out again")
    yield from (Leftover(path, "half-made settings") for path in sorted(space.root.glob(".new-*loopwright.toml")))
    for folder in sorted((space.home / "blobs").iterdir()):
        if folder.is_dir():
            strange = (path for path in folder.iterdir() if not is_digest(path.name))
            yield from (Leftover(path, "no blob") for path in sorted(strange))
        else:
            yield Leftover(folder, "no blob")


def _touched_us(path: Path) -> int:
    """When a file, or anything in a folder, was last written."""
    times = [path.lstat().st_mtime_ns]
    if path.is_dir() and not path.is_symlink():
        times += [inner.lstat().st_mtime_ns for inner in path.rglob("*")]
    return max(times) // 1000


def _size(path: Path) -> int:
    if path.is_dir() and not path.is_symlink():
        return sum(inner.lstat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.lstat().st_size
