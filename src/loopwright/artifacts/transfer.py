"""Remotes: a folder that keeps blobs and notes for several Spaces, each of them by its digest.

Every blob is hashed where it arrives, so what was cut off is sent again and what is there is not. What was erased in
one Space is taken out of the remote, and no Space that still holds it puts it back.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from loopwright.artifacts import service
from loopwright.artifacts.model import Artifact, Version
from loopwright.kernel.errors import Conflict, Corrupt, Invalid, NotFound, Unsupported
from loopwright.kernel.files import replace_file
from loopwright.kernel.op import Progress, silent
from loopwright.store import erasure
from loopwright.store.blobs import LocalBlobs, checked_digest
from loopwright.store.database import Tx, as_struct
from loopwright.store.space import Space

MARK, LAYOUT = "loopwright-remote.json", 1
REMOTE = "remote"
T = TypeVar("T")


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What a transfer did: blobs that were copied, their bytes, blobs that were there, blobs that are erased."""

    copied: int = 0
    size_bytes: int = 0
    there: int = 0
    erased: int = 0


class Grave(msgspec.Struct, frozen=True, kw_only=True):
    """What a remote keeps of a blob that was erased."""

    digest: str
    successor: str | None
    rows: int


class Remote:
    """A folder that Spaces push to and pull from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = LocalBlobs(folder / "blobs", folder / "tmp")

    def make(self) -> "Remote":
        """Make the folder a remote, unless it is one.

        Raises:
            Invalid: it holds other things.
            Unsupported: a newer loopwright has laid it out.
        """
        mark = self.folder / MARK
        if not mark.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / "blobs").is_dir():
                message = f"{self.folder} is no remote and not empty"
                raise Invalid(
                    message, code="remote.folder", field=REMOTE, hint="name an empty folder in loopwright.toml"
                )
            for name in ("blobs", "tmp", "notes", "graves"):
                (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(mark, msgspec.json.encode({"layout": LAYOUT}))
        layout = _decoded(mark, dict[str, Any]).get("layout")
        if layout != LAYOUT:
            raise Unsupported(
                f"{self.folder} is laid out as {layout}, and this loopwright knows {LAYOUT}", field=REMOTE
            )
        return self

    def send(self, space: Space, digests: Iterable[str], progress: Progress = silent) -> Moved:
        """Copy blobs from a Space, all that it still has; those that are there whole are left alone."""
        wanted, moved = sorted(set(digests)), Moved()
        for number, digest in enumerate(wanted, 1):
            if self.grave(digest) is not None:
                moved = _more(moved, erased=1)
            elif self.blobs.has(digest) and self.blobs.whole(digest):
                moved = _more(moved, there=1)
            elif space.blobs.has(digest):
                moved = _more(moved, copied=1, size_bytes=_copied(space.blobs.path(digest), self.blobs, digest))
            progress(number, len(wanted), "blobs")
        return moved

    def fetch(self, space: Space, made: Sequence[Artifact], progress: Progress = silent) -> Moved:
        """Copy artifacts into a Space and record them; those whose graves are here are erased there too.

        Raises:
            NotFound: a blob is not here.
            Corrupt: its bytes are not its own.
        """
        moved = Moved()
        for number, artifact in enumerate(made, 1):
            moved = self._fetch(space, artifact, moved)
            progress(number, len(made), "artifacts")
        return moved

    def _fetch(self, space: Space, artifact: Artifact, moved: Moved) -> Moved:
        if self._erased(space, artifact.digest):
            space.write(lambda tx: _enter_erased(tx, artifact))
            return _more(moved, erased=1)
        digests = [artifact.digest]
        if artifact.is_tree:
            found = self.blobs.read(artifact.digest)
            digests += sorted({file for file, _ in service.decode_tree(found).values()})
        digests = [digest for digest in digests if not self._erased(space, digest)]
        missing = [digest for digest in digests if not space.blobs.has(digest)]
        sizes: list[int] = []

        def put() -> list[str]:
            for digest in missing:
                sizes.append(_copied(self.blobs.path(digest), space.blobs, digest))
            for digest in digests:
                if digest not in missing and not space.blobs.renew(digest):
                    _copied(self.blobs.path(digest), space.blobs, digest)
            return digests

        service.put_known(space, artifact, put)
        return _more(moved, copied=len(missing), size_bytes=sum(sizes), there=len(digests) - len(missing))

    def _erased(self, space: Space, digest: str) -> bool:
        """Whether a blob is erased, here or in the Space; a grave of here is taken over."""
        grave = self.grave(digest)
        with space.read() as tx:
            gone = erasure.tombstone(tx, digest) is not None
        if grave is not None and not gone:
            found = erasure.Found(REMOTE, digest[:12], grave.rows, digest)
            space.write(lambda tx: erasure.bury(tx, REMOTE, found, grave.successor))
            erasure.sweep(space)
        return gone or grave is not None

    def bury(self, space: Space) -> int:
        """Take out whatever was erased in a Space; returns how many blobs went."""
        with space.read() as tx:
            gone = erasure.tombstones(tx)
        count = 0
        for digest, successor in gone.items():
            if self.grave(digest) is None:
                with space.read() as tx:
                    stone = erasure.tombstone(tx, digest)
                grave = Grave(digest=digest, successor=successor, rows=0 if stone is None else stone.rows)
                replace_file(self._grave(digest), msgspec.json.encode(grave))
            if self.blobs.has(digest):  # again too: somebody may have been sending it just then
                self.blobs.delete(digest)
                count += 1
        return count

    def grave(self, digest: str) -> Grave | None:
        """What is kept of an erased blob, or None."""
        path = self._grave(digest)
        return _decoded(path, Grave) if path.is_file() else None

    def _grave(self, digest: str) -> Path:
        return self.folder / "graves" / checked_digest(digest)

    def note(self, name: str, number: int, value: Any) -> None:
        """Keep what a version is made of, in place of what was kept before."""
        path = self._note(name, number)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        replace_file(path, msgspec.json.encode(value))

    def noted(self, name: str, number: int, kind: type[T]) -> T | None:
        """What a version is made of, or None when it was never pushed.

        Raises:
            Corrupt: the note cannot be read.
        """
        path = self._note(name, number)
        return _decoded(path, kind) if path.is_file() else None

    def versions(self, name: str) -> list[int]:
        """The numbers of the versions of a name that were pushed."""
        folder = self.folder / "notes" / name
        return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit())

    def _note(self, name: str, number: int) -> Path:
        return self.folder / "notes" / name / f"{number}.json"


def remote_of(space: Space) -> Remote:
    """The remote that loopwright.toml names.

    Raises:
        NotFound: it names none.
    """
    place = space.settings.remote
    if place is None:
        raise NotFound(
            "loopwright.toml names no remote",
            code="remote.none",
            field=REMOTE,
            hint='remote = "FOLDER" in loopwright.toml',
        )
    return Remote((space.root / Path(place).expanduser()).resolve())


def recorded_of(tx: Tx, digests: Iterable[str]) -> list[Artifact]:
    """What is recorded of those digests that are artifacts, trees last."""
    found = []
    for digest in sorted(set(digests)):
        rows = tx.query("SELECT * FROM artifacts WHERE digest = ? ORDER BY kind", (digest,))
        read = msgspec.json.decode
        found += [as_struct(Artifact, row, is_tree=bool(row["is_tree"]), meta=read(row["meta"])) for row in rows]
    return sorted(found, key=lambda artifact: artifact.is_tree)


def _enter_erased(tx: Tx, artifact: Artifact) -> None:
    """Record an artifact that was erased before it came: what refers to it finds the tombstone."""
    tx.execute(
        "INSERT INTO artifacts(digest, kind, size_bytes, is_tree, meta, at_us) VALUES (?, ?, ?, ?, '{}', ?)"
        " ON CONFLICT (digest, kind) DO NOTHING",
        (artifact.digest, artifact.kind, artifact.size_bytes, int(artifact.is_tree), tx.now_us()),
    )


def place(tx: Tx, version: Version) -> bool:
    """Give a version that was made elsewhere its number here; False when it is here.

    Raises:
        Conflict: the number, or the name, stands for something else here.
    """
    kind = tx.value("SELECT kind FROM names WHERE name = ?", (version.name,))
    row = tx.one("SELECT digest FROM versions WHERE name = ? AND number = ?", (version.name, version.number))
    if (kind is not None and kind != version.kind) or (row is not None and row["digest"] != version.digest):
        held = f"is {row['digest'][:12]} here" if row is not None else f"holds versions of kind {kind} here"
        message = f"{version.ref} is {version.digest[:12]} ({version.kind}) in the remote, and {held}"
        raise Conflict(message, code="remote.differs", field="ref", hint=f"lw log {version.name}")
    if kind is None:
        tx.execute("INSERT INTO names(name, kind) VALUES (?, ?)", (version.name, version.kind))
    if row is None:
        tx.execute(
            "INSERT INTO versions(name, number, digest, kind, run, at_us) VALUES (?, ?, ?, ?, ?, ?)",
            (version.name, version.number, version.digest, version.kind, version.run, version.at_us),
        )
    return row is None


def _copied(source: Path, to: Any, digest: str) -> int:
    """Copy one blob; its bytes are hashed on the way, and others than its own are not kept."""
    if not source.is_file():
        raise NotFound(f"no blob {digest} in the remote", code="blob.missing", field=REMOTE, hint="lw push")
    got = to.put_file(source)
    if got != digest:
        to.delete(got)
        raise Corrupt(f"blob {digest} arrived as {got[:12]}", code="blob.corrupt", field=REMOTE, hint="lw push")
    return source.stat().st_size


def _more(moved: Moved, **more: int) -> Moved:
    return msgspec.structs.replace(moved, **{name: getattr(moved, name) + number for name, number in more.items()})


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise Corrupt(f"{path} cannot be read: {error}", code="remote.note", field=REMOTE, hint="lw push") from None
