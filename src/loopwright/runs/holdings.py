"""What runs hold of a subject: texts of parameters and failures, consoles, and files that steps have logged."""

from collections.abc import Iterator
from pathlib import Path

from loopwright.artifacts import service as artifacts
from loopwright.kernel.files import replace_file
from loopwright.store.erasure import Found, Subject, Texts, bury, count
from loopwright.store.space import Space

CONSOLE, FILES, LOOSE = "console", "run file", "file"
_FOLDERS = ("runs", "values")


class _Holdings(Texts):
    """The answer of this room."""

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """Texts, and files that quote the value."""
        loose = [Found(LOOSE, str(path.relative_to(space.home)), 1) for path in _loose(space, subject)]
        return [*super().find(space, subject), *_blobs(space, subject), *loose]

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Mask texts and consoles; logged files and written-out values that quote the value go."""
        super().forget(space, subject, erasure)
        for found in list(_blobs(space, subject)):
            assert found.digest is not None
            made = None
            if found.place == CONSOLE:
                text = space.blobs.read(found.digest).decode("utf-8", "replace")
                made = artifacts.put_blob(space, subject.masked(text).encode(), kind=CONSOLE, meta={}).digest
            space.write(lambda tx, found=found, made=made: bury(tx, erasure, found, made))  # type: ignore[misc]
        for path in list(_loose(space, subject)):
            if path.is_relative_to(space.home / "runs"):
                text = path.read_bytes().decode("utf-8", "surrogateescape")
                replace_file(path, subject.masked(text).encode("utf-8", "surrogateescape"))
            else:
                path.unlink(missing_ok=True)
            found = Found(LOOSE, str(path.relative_to(space.home)), 1)
            space.write(lambda tx, found=found: count(tx, erasure, found))  # type: ignore[misc]


def _blobs(space: Space, subject: Subject) -> Iterator[Found]:
    for artifact in artifacts.of_kind(space, CONSOLE):
        if n := _quotes(space.blobs.read(artifact.digest), subject):
            yield Found(CONSOLE, artifact.digest[:12], n, artifact.digest)
    for artifact in artifacts.of_kind(space, "run-files"):
        for path, file in artifacts.files(space, artifact.digest).items():
            if space.blobs.has(file) and (n := _quotes(space.blobs.read(file), subject)):
                yield Found(FILES, path, n, file)


def _loose(space: Space, subject: Subject) -> Iterator[Path]:
    for folder in _FOLDERS:
        for path in sorted((space.home / folder).rglob("*")):
            text = path.is_file() and not path.is_symlink() and path.suffix != ".frames"
            if text and _quotes(path.read_bytes(), subject):
                yield path


def _quotes(data: bytes, subject: Subject) -> int:
    return len(subject.pattern.findall(data.decode("utf-8", "replace"))) if subject.value.encode() in data else 0


HOLDINGS = _Holdings("runs", ("runs",), {"runs": ("id", ("params", "failure"))})
