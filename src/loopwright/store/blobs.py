"""Blobs: immutable bytes under their BLAKE3 digest; the port, and the folder that keeps them on this machine.

A blob is there whole or not at all: temporary file, fsync, rename, fsync of the folder.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Invalid, NotFound
from loopwright.kernel.files import fsync_folder

_HEX = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20


def is_digest(text: object) -> bool:
    """Whether a value is a digest as blobs have it."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def checked_digest(digest: str) -> str:
    """The digest itself.

    Raises:
        Invalid: the text is no digest.
    """
    if not _HEX.fullmatch(digest):
        raise Invalid(f"{digest[:80]!r} is not a digest", code="digest.form", field="digest")
    return digest


class Entry(NamedTuple):
    """A blob as its store lists it; `put_us` is when it was last put, by the store's own clock."""

    digest: str
    size_bytes: int
    put_us: int


class Blobs(Protocol):
    """What keeps the blobs of a Space.

    A put is durable on return, and whole or not at all. Bytes that were put before can be put again: their age starts
    anew and, should they have been damaged, they are whole again. A read never answers with other bytes than were put.
    """

    where: str
    """The store as a person reads it, without secrets."""
    remote: bool
    """Whether it is shared with other machines."""

    def path(self, digest: str) -> Path:
        """Where the blob lies on this machine; a remote store fetches and checks it first."""

    def has(self, digest: str) -> bool:
        """Whether the blob is there."""

    def size(self, digest: str) -> int:
        """The bytes of a blob, counted."""

    def read(self, digest: str) -> bytes:
        """The bytes of a blob, checked against their digest."""

    def verify(self, digest: str) -> bool:
        """Whether the blob is there and its bytes have its digest."""

    def reread(self, digest: str) -> bool:
        """Whether the store itself, without any cache before it, gives the blob's bytes."""

    def put_bytes(self, data: bytes) -> str:
        """Store bytes and return their digest."""

    def put_file(self, source: Path) -> str:
        """Store a file's bytes, hashed as they are copied, and return their digest."""

    def renew(self, digest: str) -> bool:
        """Let a blob's age start anew, as if it had been put now; False when it is not there or is damaged."""

    def doubt(self, digest: str) -> None:
        """Take nothing that is remembered of a blob for granted the next time it is put."""

    def all(self) -> Iterator[str]:
        """The digests of all blobs, in order."""

    def entries(self) -> Iterator[Entry]:
        """All blobs as the store lists them, in order."""

    def delete(self, digest: str) -> None:
        """Take a blob away; nothing happens when it is not there."""

    def now_us(self) -> int:
        """The store's own clock, the one that `Entry.put_us` is told by."""


def missing(digest: str) -> NotFound:
    """The error of a blob that is not there."""
    return NotFound(f"no blob {digest}", code="blob.missing", hint="lw fsck")


def damaged(digest: str) -> Corrupt:
    """The error of a blob whose bytes are not its own."""
    return Corrupt(f"blob {digest} does not hold what was stored", code="blob.corrupt", hint="lw fsck")


class LocalBlobs:
    """The blobs in `folder`/ab/<digest>, written by way of the `temporary` folder beside it."""

    where = "folder"
    remote = False

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self.temporary = temporary
        self._sure: set[str] = set()  # whole, and on disk under their names, as far as this process knows
        self._made: set[Path] = set()

    def path(self, digest: str) -> Path:
        """Where a blob lies, or would lie.

        Raises:
            Invalid: the text is no digest.
        """
        return self.folder / checked_digest(digest)[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """The bytes of a blob, counted.

        Raises:
            NotFound: it is not here.
        """
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise missing(digest) from None

    def read(self, digest: str) -> bytes:
        """The bytes of a blob.

        Raises:
            NotFound: it is not here.
            Corrupt: its bytes are not what was stored.
        """
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise missing(digest) from None
        if canonical.digest_bytes(data) != digest:
            raise damaged(digest)
        return data

    def verify(self, digest: str) -> bool:
        """Whether the blob is here and its bytes have its digest."""
        path = self.path(digest)
        return path.exists() and canonical.digest_file(path) == digest

    reread = verify

    def put_bytes(self, data: bytes) -> str:
        """Store bytes and return their digest; durable on return."""
        digest = canonical.digest_bytes(data)
        if not self.renew(digest):
            with Incoming(self) as incoming:
                incoming.write(data)
                incoming.settle()
        return digest

    def put_file(self, source: Path) -> str:
        """Store a file's bytes, hashed as they are copied, and return their digest; durable on return."""
        with Incoming(self) as incoming:
            incoming.copy(source)
            if not self.renew(incoming.digest):
                incoming.settle()
            return incoming.digest

    def renew(self, digest: str) -> bool:
        """Let a blob's age start anew; False when it is not here or is damaged.

        The first time in a process its bytes are read and its name is made durable: whoever wrote it may have been
        killed between the two.
        """
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            self._sure.discard(digest)
            return False
        return self.whole(digest)

    def whole(self, digest: str) -> bool:
        """Whether a blob that is here has its digest and a durable name; read the first time in a process only."""
        path = self.path(digest)
        if digest not in self._sure:
            try:
                if canonical.digest_file(path) != digest:
                    return False
                self.make_durable(path)
            except OSError:  # gone, or unreadable: put again, it is whole again
                return False
            self._sure.add(digest)
        return True

    def make_durable(self, path: Path) -> None:
        """Make a blob's name survive a power cut, and once a process that of its folder."""
        fsync_folder(path.parent)
        if path.parent not in self._made:
            fsync_folder(self.folder)
            self._made.add(path.parent)

    def doubt(self, digest: str) -> None:
        """Read the blob again the next time it is put."""
        self._sure.discard(digest)

    def settled(self, digest: str) -> None:
        """Told that a blob has been written whole by this process."""
        self._sure.add(digest)

    def all(self) -> Iterator[str]:
        """The digests of all blobs, in order."""
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            yield from sorted(name for name in os.listdir(folder) if _HEX.fullmatch(name))

    def entries(self) -> Iterator[Entry]:
        """All blobs with their sizes and the times at which they were last put, in order."""
        for digest in self.all():
            try:
                found = os.stat(self.path(digest))
            except FileNotFoundError:
                continue
            yield Entry(digest, found.st_size, found.st_mtime_ns // 1000)

    def delete(self, digest: str) -> None:
        """Take a blob away; nothing happens when it is not here."""
        self.path(digest).unlink(missing_ok=True)
        self._sure.discard(digest)

    def now_us(self) -> int:
        """The clock of the file system, asked by writing a file."""
        with tempfile.TemporaryFile(dir=self.temporary) as stream:
            stream.write(b".")
            stream.flush()
            return os.fstat(stream.fileno()).st_mtime_ns // 1000


class Incoming:
    """Bytes on their way into the folder: hashed as they come, named when they are whole, gone when they are not."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self._blobs = blobs
        self._hash = canonical.hasher()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        fd, name = tempfile.mkstemp(dir=self._blobs.temporary)
        self.path = Path(name)
        self._stream = os.fdopen(fd, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stream.close()
        finally:
            self.path.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Take the next piece."""
        self._hash.update(piece)
        self._stream.write(piece)
        self.size_bytes += len(piece)

    def copy(self, source: Path) -> None:
        """Take all bytes of a file, and hand them to the kernel."""
        with open(source, "rb") as origin:
            while piece := origin.read(_PIECE):
                self.write(piece)
        self.flush()

    def flush(self) -> None:
        """Hand the bytes so far to the kernel."""
        self._stream.flush()

    @property
    def digest(self) -> str:
        """The digest of the bytes so far."""
        return str(self._hash.hexdigest())

    def settle(self) -> None:
        """Give the bytes their name; on disk on return."""
        digest = self.digest
        path = self._blobs.path(digest)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        self.flush()
        os.fchmod(self._stream.fileno(), 0o400)
        os.fsync(self._stream.fileno())
        os.rename(self.path, path)
        self._blobs.make_durable(path)
        self._blobs.settled(digest)
