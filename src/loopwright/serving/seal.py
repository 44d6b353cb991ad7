"""Sealing: spools that nobody writes any more become Parquet artifacts; every part can be repeated without harm."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.artifacts.model import Artifact
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import LoopwrightError, Unavailable
from loopwright.kernel.files import fsync_folder
from loopwright.kernel.op import Progress, silent
from loopwright.kernel.times import MINUTE
from loopwright.serving import record
from loopwright.serving.columns import Batch, gather
from loopwright.serving.model import LOG_SEALED
from loopwright.serving.routes import subject_of
from loopwright.serving.spool import SUFFIX
from loopwright.store import frames, ledger
from loopwright.store.check import Finding
from loopwright.store.database import Tx
from loopwright.store.roots import Leftover
from loopwright.store.space import Space

KIND = "prediction-log"
ACTOR = "jobs"
DAMAGED = ".damaged"
_STALE_US = 10 * MINUTE


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What one sealing did.

    Args:
        cut_bytes: torn tails, which killed workers left.
        damaged: spools with damage inside; the rows before it are sealed, and the files are kept beside as they are.
    """

    spools: int
    rows: int
    cut_bytes: int
    damaged: tuple[str, ...] = ()


def due(space: Space) -> bool:
    """Whether a spool waits to be sealed."""
    return any(_free(path) for path in _spools(space))


def seal(space: Space, *, progress: Progress = silent) -> Sealed:
    """Seal every spool whose worker has let it go, and return how much that was.

    Raises:
        Unavailable: some could not be sealed; the others are, and these wait for the next time.
    """
    done: list[Sealed] = []
    failed: dict[Path, Exception] = {}
    waiting = list(_spools(space))
    for count, path in enumerate(waiting, 1):
        try:
            with _held(path) as mine:
                if mine:
                    done.append(seal_one(space, path))
        except _refusals() as error:
            failed[path] = error
        progress(count, len(waiting), "spools")
    _sweep(space)
    if failed:
        first, why = next(iter(failed.items()))
        raise Unavailable(
            f"{len(failed)} of {len(waiting)} spools could not be sealed; {first.relative_to(space.root)}: {why}",
            code="seal.failed",
            hint="lw fsck",
        ) from why
    return Sealed(
        spools=len(done),
        rows=sum(one.rows for one in done),
        cut_bytes=sum(one.cut_bytes for one in done),
        damaged=tuple(name for one in done for name in one.damaged),
    )


def _refusals() -> tuple[type[Exception], ...]:
    """What keeps one spool from being sealed; DuckDB has none while it is not loaded, for then it has not run."""
    duckdb = sys.modules.get("duckdb")
    return (LoopwrightError, OSError) if duckdb is None else (LoopwrightError, OSError, duckdb.Error)


def seal_one(space: Space, path: Path) -> Sealed:
    """Seal a spool whose lock is held: Parquet, then the manifest row with its event, then the spool goes."""
    batch = gather(record.read(path))
    cut = path.stat().st_size - record.whole_bytes(path)
    damaged = cut > 0 and frames.find_damage(path) is not None
    if batch.rows:
        with space.read() as tx:
            known = tx.one("SELECT 1 FROM prediction_log WHERE spool = ?", (path.stem,))
        if known is None:
            artifact = convert(space, path, batch)
            space.write(lambda tx: enter(tx, path, artifact, cut))
    if damaged:
        path.rename(path.with_suffix(DAMAGED))
    else:
        path.unlink()
    fsync_folder(path.parent)
    names = (str(path.relative_to(space.root)),) if damaged else ()
    return Sealed(spools=1, rows=len(batch.rows), cut_bytes=cut, damaged=names)


def convert(space: Space, path: Path, batch: Batch) -> Artifact:
    """Write a spool's rows as Parquet, sorted by (at, request id), and store it."""
    import duckdb

    target = space.home / "tmp" / f"{path.stem}.parquet"
    times = [row.at_us for row in batch.rows]
    meta = {
        "endpoint": path.parent.name,
        "spool": path.stem,
        "rows": len(batch.rows),
        "min_at_us": min(times),
        "max_at_us": max(times),
        "versions": batch.versions,
        "inputs": [label[3:] for label in batch.inputs if label.startswith("in_")],
    }
    try:
        with duckdb.connect(":memory:", config={"threads": 1}) as con:
            batch.create(con, "spool")
            place = str(target).replace("'", "''")
            rows = "SELECT * FROM spool ORDER BY at_us, request_id, id"
            con.execute(f"COPY ({rows}) TO '{place}' (FORMAT parquet, COMPRESSION zstd)")
        return artifacts.put_blob(space, target, kind=KIND, meta=meta)
    finally:
        target.unlink(missing_ok=True)


def enter(tx: Tx, path: Path, artifact: Artifact, cut_bytes: int) -> None:
    """Enter a sealed spool in the manifest, once."""
    meta, now = artifact.meta, tx.now_us()
    added = tx.execute(
        "INSERT INTO prediction_log(spool, endpoint, digest, rows, min_at_us, max_at_us, at_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (spool) DO NOTHING",
        (*(path.stem, path.parent.name, artifact.digest, meta["rows"], meta["min_at_us"], meta["max_at_us"], now),),
    )
    if added:
        data = {"digest": artifact.digest, "rows": meta["rows"], "spool": path.stem, "cut_bytes": cut_bytes}
        ledger.append(tx, ACTOR, LOG_SEALED, subject_of(path.parent.name), data)


def _spools(space: Space) -> Iterator[Path]:
    yield from sorted((space.home / "spool").glob(f"*/*{SUFFIX}"))


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """The spool's lock, when its writer has let go and nobody else seals it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another sealer may have finished it between the opening and the lock.
        yield os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _free(path: Path) -> bool:
    with _held(path) as mine:
        return mine


def _sweep(space: Space) -> None:
    """Take away the files that a killed worker made and never gave a spool's name; no row is in them."""
    for path in (space.home / "spool").glob("*/*.new"):
        with contextlib.suppress(FileNotFoundError):
            if machine_us() - path.stat().st_mtime_ns // 1000 > _STALE_US:
                path.unlink()


def leftovers(space: Space) -> Iterator[Leftover]:
    """The files that a killed worker made and never gave a spool's name."""
    for path in (space.home / "spool").glob("*/*.new"):
        yield Leftover(path, "a spool that was never begun")


def check(space: Space) -> Iterator[Finding]:
    """Spools whose frames are not what was written; a tail that a killed worker left is none of them."""
    for path in _spools(space):
        with contextlib.suppress(FileNotFoundError):  # sealed meanwhile
            if (at := frames.find_damage(path)) is not None:
                name, what = str(path.relative_to(space.root)), f"the frame at byte {at} is not what was written"
                yield Finding("log", name, what, (f"endpoint {path.parent.name}",), "lw restore")
    for path in sorted((space.home / "spool").glob(f"*/*{DAMAGED}")):
        name, what = str(path.relative_to(space.root)), "the rows after its damage are not in the sealed log"
        yield Finding("log", name, what, (f"endpoint {path.parent.name}",), f"rm {name}, once nothing is to be saved")


def _job(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    done: dict[str, Any] = msgspec.to_builtins(seal(space, progress=progress))
    return done


JOBS = {"serving.seal": _job}
LEFTOVERS, CHECKS = leftovers, check
