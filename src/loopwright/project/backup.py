"""Backup of a whole project: its files, one snapshot of the database, then every blob that the snapshot names.

Files go first: what a spool held that is sealed meanwhile is in the snapshot, and what is in both is sealed once.
"""

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

import loopwright
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.reach import Reach
from loopwright.kernel import canonical
from loopwright.kernel import settings as config
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, LoopwrightError, NotFound
from loopwright.kernel.files import fsync_folder, replace_file
from loopwright.kernel.op import Progress, silent
from loopwright.kernel.times import format_time
from loopwright.store import backup as copies
from loopwright.store import ledger, locks
from loopwright.store.blobs import LocalBlobs
from loopwright.store.database import Tx
from loopwright.store.roots import Root, all_roots, digests_in
from loopwright.store.space import Space

SCHEMA = "lw.backup-manifest/1"
MANIFEST, BLOBS, LOCK = "manifest.json", "blobs.txt", ".lock"
KEPT = ("spool", "runs", "keys")  # what of the store's folder is neither blobs nor made anew
UNDONE = ".new-"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What one backup holds; written last, so a folder without it is none.

    Args:
        files: digest of each file of the backup, by its place in it.
        rooms: how far the migrations of each room had come.
    """

    schema: str = SCHEMA
    made: str
    version: str
    ground: str
    rooms: dict[str, int]
    files: dict[str, str]
    blobs: int
    bytes: int
    events: int
    project: str | None


class BackupReport(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was made.

    Args:
        copied: the blobs that the folder did not hold yet.
        events: the number of the last event in it.
        missing: blobs that the project names and that are not, or not whole, in its store.
    """

    folder: str
    ground: str
    files: int
    blobs: int
    bytes: int
    copied: int
    events: int
    missing: list[str]

    @property
    def ok(self) -> bool:
        """Whether everything is in it."""
        return not self.missing


def backup(
    space: Space, actor: str, *, folder: Path, verify: bool = False, progress: Progress = silent
) -> BackupReport:
    """Copy the project into a folder while it goes on; blobs that an earlier backup left there are not copied again.

    Args:
        folder: holds one folder a backup, and the blobs of all of them.
        verify: read the blobs that are there already, too.
    """
    target = folder.resolve()
    if target.is_relative_to(space.root):
        raise Invalid(
            "a backup inside the project would be lost with it",
            code="backup.inside",
            field="folder",
            hint="name a folder elsewhere, best on another disk",
        )
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    busy = Conflict("another backup goes into this folder now", code="backup.running", field="folder")
    with locks.hold(target / LOCK, busy):
        for undone in target.glob(f"{UNDONE}*"):
            shutil.rmtree(undone)
        name = format_time(machine_us()).replace(":", "-")
        work = target / f"{UNDONE}{name}"
        work.mkdir(mode=0o700)
        files = _copy_files(space, work)
        copies.copy_out(space.database, work / copies.FILE, space.rooms())
        with copies.opened(work / copies.FILE) as tx:
            wanted, must = _wanted(space, tx, work)
            manifest = _manifest(space, tx)
        store = _folder_blobs(target)
        copied, missing, size = _copy_blobs(space, store, sorted(wanted), must, verify, progress)
        held = [digest for digest in sorted(wanted) if store.has(digest)]
        replace_file(work / BLOBS, "".join(f"{digest}\n" for digest in held).encode())
        manifest = msgspec.structs.replace(manifest, files=_digests(work), blobs=len(held), bytes=size)
        replace_file(work / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        os.rename(work, target / name)
        fsync_folder(target)
    return BackupReport(
        folder=str(target / name),
        ground=manifest.ground,
        files=files,
        blobs=len(held),
        bytes=size,
        copied=copied,
        events=manifest.events,
        missing=missing,
    )


def text(report: BackupReport) -> str:
    """A backup as a person reads it."""
    lines = [
        f"{report.folder}: {report.ground} up to event {report.events}, {report.files} files,"
        f" {report.blobs} blobs ({report.bytes} bytes), {report.copied} of them new"
    ]
    lines += [f"  missing: blob {digest}" for digest in report.missing]
    lines.append("it is not whole: lw fsck" if report.missing else f"back with: lw restore {report.folder} FOLDER")
    return "\n".join(lines)


def _copy_files(space: Space, work: Path) -> int:
    count = 0
    for name in KEPT:
        for path in sorted((space.home / name).rglob("*")):
            if path.is_file() and not path.is_symlink() and ".new" not in path.name:
                with contextlib.suppress(FileNotFoundError):  # sealed or ended meanwhile: the snapshot will have it
                    copy_file(path, work / "home" / path.relative_to(space.home))
                    count += 1
    if (space.root / config.FILE).is_file():
        copy_file(space.root / config.FILE, work / config.FILE)
        count += 1
    return count


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; on disk under its name on return."""
    data = source.read_bytes()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(target, data)


def _wanted(space: Space, tx: Tx, work: Path) -> tuple[set[str], set[str]]:
    """What the snapshot may name, and what of it must be there."""
    reach, must = Reach(space), set[str]()
    reach.load(tx)
    reach.add(tx, all_roots(space, tx))
    for path in (work / "home").glob("runs/*/*.frames"):
        reach.add(tx, (Root(d, "run", path.parent.name) for d in digests_in(path.read_bytes().decode("latin-1"))))
    for digest, is_tree in artifacts.recorded(tx):
        reach.add(tx, [Root(digest, "artifact", digest)])
        must.add(digest)
        if is_tree:
            with contextlib.suppress(LoopwrightError):  # told as missing
                must.update(artifacts.files(space, digest).values())
    return {*reach.held, *must} - reach.erased.keys(), must - reach.erased.keys()


def _copy_blobs(
    space: Space, store: LocalBlobs, wanted: list[str], must: set[str], verify: bool, progress: Progress
) -> tuple[int, list[str], int]:
    copied, missing, size = 0, list[str](), 0
    for count, digest in enumerate(wanted, 1):
        there = store.has(digest) and (not verify or store.whole(digest))
        if not there:
            try:
                there = store.put_file(space.blobs.path(digest)) == digest
                copied += there
            except (FileNotFoundError, NotFound, Corrupt):
                there = False
        if there:
            size += store.size(digest)
        elif digest in must:
            missing.append(digest)
        progress(count, len(wanted), "blobs")
    return copied, missing, size


def _folder_blobs(target: Path) -> LocalBlobs:
    for name in ("blobs", "tmp"):
        (target / name).mkdir(mode=0o700, exist_ok=True)
    shutil.rmtree(target / "tmp")
    (target / "tmp").mkdir(mode=0o700)
    return LocalBlobs(target / "blobs", target / "tmp")


def _digests(work: Path) -> dict[str, str]:
    found = sorted(path for path in work.rglob("*") if path.is_file())
    return {path.relative_to(work).as_posix(): canonical.digest_file(path) for path in found}


def _manifest(space: Space, tx: Tx) -> Manifest:
    return Manifest(
        made=format_time(machine_us()),
        version=loopwright.__version__,
        ground=f"{space.database.describe()}, blobs in {space.blobs.where}",
        rooms=copies.applied(tx),
        files={},
        blobs=0,
        bytes=0,
        events=ledger.last_seq(tx),
        project=tx.value("SELECT digest FROM projects ORDER BY seq DESC LIMIT 1"),
    )
