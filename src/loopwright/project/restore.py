"""Restore: a backup back into an empty folder, on the ground that is asked for, each byte checked on the way.

It is also how a project moves: from a file and a folder to PostgreSQL and an object store, or the other way.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.kernel import canonical
from loopwright.kernel import settings as config
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, NotFound
from loopwright.kernel.files import fsync_folder
from loopwright.kernel.ids import valid_path
from loopwright.kernel.op import Progress, silent
from loopwright.pipelines import queue
from loopwright.project.backup import BLOBS, MANIFEST, SCHEMA, UNDONE, Manifest, copy_file
from loopwright.store import backup as copies
from loopwright.store import space as spaces
from loopwright.store.blobs import Blobs, is_digest
from loopwright.store.space import HOME, Space


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """Where a project is to be kept from now on; a SQLite file and a folder when nothing is said."""

    database: str | None = None
    schema: str = "loopwright"
    blobs: str | None = None
    blobs_endpoint: str | None = None


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """A project that was brought back.

    Args:
        made: when the backup was made.
        code: the files of the accepted project that were written out beside the store.
    """

    root: str
    made: str
    ground: str
    events: int
    files: int
    blobs: int
    bytes: int
    code: int


def text(report: RestoreReport) -> str:
    """A restored project as a person reads it."""
    return (
        f"{report.root}: as it was at {report.made}, up to event {report.events}, in {report.ground}\n"
        f"{report.blobs} blobs ({report.bytes} bytes), {report.files} files and {report.code} of code; all were checked"
    )


def pick(folder: Path, at: str | None = None) -> Path:
    """The backup in a folder: the newest, or that of a time; or the folder itself.

    Raises:
        NotFound: there is no whole one.
    """
    if (folder / MANIFEST).is_file():
        return folder
    found = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if not path.parent.name.startswith(UNDONE))
    if at is not None:
        found = [path for path in found if path.name.startswith(at.replace(":", "-"))]
    if not found:
        what = "no backup" if at is None else f"no backup of {at}"
        raise NotFound(f"{what} in {folder}", code="backup.missing", field="backup", hint="lw backup FOLDER")
    return found[-1]


def check(source: Path) -> Manifest:
    """The manifest of a backup all of whose files are what was written.

    Raises:
        Corrupt: one is not.
    """
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=Manifest)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{source / MANIFEST} is no manifest: {error}", code="backup.manifest") from None
    if manifest.schema != SCHEMA:
        raise Invalid(f"{source} is a backup of the form {manifest.schema}", code="backup.form", field="backup")
    for name, digest in manifest.files.items():
        path = source / valid_path(name)
        if not path.is_file() or canonical.digest_file(path) != digest:
            raise Corrupt(f"{path} is not what was written", code="backup.file", hint="lw restore of another backup")
    return manifest


class Restore:
    """One restore of a backup into a folder."""

    def __init__(self, source: Path, into: Path, ground: Ground, rooms: copies.Rooms) -> None:
        self.source = source
        self.into = into.resolve()
        self.work = self.into / f"{HOME}.new"
        self.rooms = rooms
        self.manifest = check(source)
        self.written = msgspec.structs.replace(config.read_file(source), **msgspec.structs.asdict(ground))
        with tempfile.TemporaryDirectory() as trial:
            config.write(Path(trial), self.written)  # refused before anything is brought, not after
        self.settings = config.overlay(self.written)

    def run(self, opener: Callable[[Path], Space], progress: Progress = silent) -> RestoreReport:
        """Bring everything, and give it its name when it is whole.

        Raises:
            Conflict: the folder, or the schema, holds something.
            Corrupt: a blob of the backup is not what was written.
            LoopwrightError: the backup was written by a newer loopwright.
        """
        self._empty()
        for folder in spaces.FOLDERS:
            (self.work / folder).mkdir(mode=0o700, parents=True)
        files = self._files()
        blobs = spaces.open_blobs(self.work, self.settings)
        count, size = self._blobs(blobs, progress)
        self._database()
        code = self._code(blobs)
        config.write(self.into, self.written)
        (self.work / ".gitignore").write_text("*\n", "utf-8")
        for inner in (*self.work.rglob("*"), self.work, self.into):
            if inner.is_dir():
                fsync_folder(inner)
        os.rename(self.work, self.into / HOME)
        fsync_folder(self.into)
        with contextlib.closing(opener(self.into)) as space:
            ground = f"{space.database.describe()}, blobs in {space.blobs.where}"
            space.write(queue.adopt)
            copies.unmark(space.database)
        return RestoreReport(
            root=str(self.into),
            made=self.manifest.made,
            ground=ground,
            events=self.manifest.events,
            files=files,
            blobs=count,
            bytes=size,
            code=code,
        )

    def _empty(self) -> None:
        """The folder must hold nothing, or what a killed restore left in it."""
        held = sorted(path.name for path in self.into.iterdir()) if self.into.is_dir() else []
        if held and (HOME in held or self.work.name not in held):
            raise Conflict(
                f"{self.into} holds {held[0]} already", code="restore.full", field="into", hint="name an empty folder"
            )
        self.into.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(mode=0o700)

    def _files(self) -> int:
        held = self.source / "home"
        found = [path for path in sorted(held.rglob("*")) if path.is_file()]
        for path in found:
            copy_file(path, self.work / path.relative_to(held))
        return len(found)

    def _blobs(self, blobs: Blobs, progress: Progress) -> tuple[int, int]:
        size, digests = 0, list(self._listed())
        for number, digest in enumerate(digests, 1):
            path = self.source.parent / "blobs" / digest[:2] / digest
            if not path.is_file():
                raise Corrupt(
                    f"the backup lacks blob {digest}", code="backup.blob", hint="lw restore of another backup"
                )
            if blobs.put_file(path) != digest:
                blobs.delete(digest)
                raise Corrupt(f"{path} is not what was written", code="backup.blob", hint="lw backup --verify")
            size += path.stat().st_size
            progress(number, len(digests), "blobs")
        return len(digests), size

    def _listed(self) -> Iterator[str]:
        yield from (line for line in (self.source / BLOBS).read_text("ascii").split() if is_digest(line))

    def _database(self) -> None:
        place = self.work / copies.FILE
        copy_file(self.source / copies.FILE, place)
        copies.brought_forward(place, self.rooms)
        if self.settings.database is None:
            return
        with contextlib.closing(spaces.open_database(self.work, self.settings)) as database:
            database.make(create=True)
            with copies.opened(place) as source:
                copies.bring(source, database, self.rooms, canonical.digest_file(self.source / MANIFEST))
        place.unlink()

    def _code(self, blobs: Blobs) -> int:
        """The files of the accepted project, so that it can be run from its folder again."""
        if self.manifest.project is None:
            return 0
        count = 0
        for path, (digest, _) in artifacts.decode_tree(blobs.read(self.manifest.project)).items():
            target = self.into / path
            if path != config.FILE:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(blobs.read(digest))
                count += 1
        return count
