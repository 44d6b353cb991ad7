"""Files that are there whole or not at all: written under another name beside their own, and renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put bytes in place of a file by rename, so that a reader sees the old or the new, never a part."""
    fresh = _written(path, data, durable)
    try:
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        fsync_folder(path.parent)


def make_file(path: Path, data: bytes) -> None:
    """Make a file, on disk on return; one that another process has made meanwhile stays as it is."""
    fresh = _written(path, data, durable=True)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # unlike a rename, a link never takes the place of a file
    finally:
        fresh.unlink()
    fsync_folder(path.parent)


@contextlib.contextmanager
def fresh_file(path: Path) -> Iterator[Path]:
    """A place beside a file to write it anew: it becomes the file when the block ends well, and else is gone."""
    fresh = path.with_name(f".new-{os.urandom(8).hex()}-{path.name}")  # which nobody who shares the folder can foresee
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _written(path: Path, data: bytes, durable: bool) -> Path:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
