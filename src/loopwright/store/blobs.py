"""Blobs on a local disk: immutable bytes under their BLAKE3 digest.

A blob is there whole or not at all: temporary file, fsync, rename, fsync of the folder.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Invalid, NotFound

_HEX = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20


def is_digest(text: object) -> bool:
    """Whether a value is a digest as blobs have it."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put bytes in place of a file by rename, so that a reader sees the old or the new, never a part."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


class Blobs:
    """The blobs of a Space, in `folder`/ab/<digest>."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._folder = folder
        self._temporary = temporary

    def path(self, digest: str) -> Path:
        """Where a blob lies, or would lie.

        Raises:
            Invalid: the text is no digest.
        """
        if not _HEX.fullmatch(digest):
            raise Invalid(f"{digest[:80]!r} is not a digest", code="digest.form", field="digest")
        return self._folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether the blob is here."""
        return self.path(digest).exists()

    def read(self, digest: str) -> bytes:
        """The bytes of a blob.

        Raises:
            NotFound: it is not here.
            Corrupt: its bytes are not what was stored.
        """
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no blob {digest}", code="blob.missing", hint="lw fsck") from None
        if canonical.digest_bytes(data) != digest:
            raise Corrupt(f"blob {digest} does not hold what was stored", code="blob.corrupt", hint="lw fsck")
        return data

    def verify(self, digest: str) -> bool:
        """Whether the blob is here and its bytes have its digest."""
        path = self.path(digest)
        return path.exists() and canonical.digest_file(path) == digest

    def put_bytes(self, data: bytes) -> str:
        """Store bytes and return their digest; durable on return."""
        digest = canonical.digest_bytes(data)
        if not self.has(digest):
            fd, name = tempfile.mkstemp(dir=self._temporary)
            try:
                with os.fdopen(fd, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    self._settle(stream.fileno(), Path(name), digest)
            finally:
                Path(name).unlink(missing_ok=True)
        return digest

    def put_file(self, source: Path) -> str:
        """Store a file's bytes, hashed as they are copied, and return their digest; durable on return."""
        made = canonical.hasher()
        fd, name = tempfile.mkstemp(dir=self._temporary)
        try:
            with os.fdopen(fd, "wb") as stream, open(source, "rb") as origin:
                while piece := origin.read(_PIECE):
                    made.update(piece)
                    stream.write(piece)
                stream.flush()
                digest = str(made.hexdigest())
                if self.has(digest):
                    return digest
                self._settle(stream.fileno(), Path(name), digest)
            return digest
        finally:
            Path(name).unlink(missing_ok=True)

    def _settle(self, fd: int, temporary: Path, digest: str) -> None:
        path = self.path(digest)
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            fsync_folder(self._folder)
        os.fchmod(fd, 0o400)
        os.fsync(fd)
        os.rename(temporary, path)
        fsync_folder(path.parent)

    def all(self) -> Iterator[str]:
        """The digests of all blobs, in order."""
        for folder in sorted(self._folder.iterdir()):
            yield from sorted(p.name for p in folder.iterdir() if _HEX.fullmatch(p.name))
