"""Files of a caller over a wire: their bytes come and go as bodies, and the caller's paths are names and no places.

A file lies in a folder of its own under the Space's `tmp` while the op works on it, and is gone with the answer.
"""

from __future__ import annotations

import os
import re
import shutil
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from loopwright.faces import bind
from loopwright.kernel.errors import Invalid, LoopwrightError
from loopwright.kernel.ids import new_id
from loopwright.kernel.op import Op
from loopwright.store.space import Space

RESULT_HEADER = "Loopwright-Result"
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,200}")
_PIECE_BYTES = 1 << 18
_LINE = 4000  # characters of a header's line, which clients and proxies bound


def file_name(given: Any, field: str) -> str:
    """The name of a caller's file.

    Raises:
        Invalid: it is a path, or no name that a file can have.
    """
    name = str(given) if isinstance(given, str | Path) else ""
    if not _NAME.fullmatch(name) or name.startswith(".") or len(name.encode("utf-8", "replace")) > 250:
        raise Invalid(
            f"{field} is the name of a file and no path: over a wire its bytes are sent", code="file.name", field=field
        )
    return name


class Desk:
    """Where the files of one call lie; it is cleared away with the call, or with the answer that reads from it.

    Errors that pass through name the caller's file, and not the place where it lay.
    """

    def __init__(self, op: Op, space: Space) -> None:
        self.op, self.space = op, space
        self.sha256 = ""
        self._folder: Path | None = None
        self._given = False

    def __enter__(self) -> Desk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is None:
            return
        if isinstance(error, LoopwrightError):
            error.message = self.named(error.message)
            error.hint = error.hint and self.named(error.hint)
        if error is not None or not self._given:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """The folder of this call."""
        if self._folder is None:
            self._folder = self.space.home / "tmp" / new_id("wire")
            self._folder.mkdir(mode=0o700, parents=True)
        return self._folder

    def named(self, text: str) -> str:
        """A text with names in the place of paths."""
        if self._folder is None:
            return text
        return text.replace(f"{self._folder}{os.sep}out{os.sep}", "").replace(f"{self._folder}{os.sep}", "")

    async def take(self, name: Any, pieces: AsyncIterator[bytes]) -> str:
        """Put a body into the file that the op reads, as it comes, and return its place."""
        place = self.folder / file_name(name, self.op.reads)
        seen = sha256()
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb", buffering=_PIECE_BYTES) as stream:
            async for piece in pieces:
                seen.update(piece)
                stream.write(piece)
        self.sha256 = seen.hexdigest()
        return str(place)

    def place(self, args: dict[str, Any]) -> dict[str, Any]:
        """The arguments with a place for the file that the op writes."""
        name = args.get(self.op.writes) if self.op.writes else None
        if name is None:
            return args
        made = self.folder / "out"
        made.mkdir(mode=0o700)
        place = made / file_name(name, self.op.writes)
        return {**args, self.op.writes: place if isinstance(name, Path) else str(place)}

    def give(self, args: dict[str, Any], result: Any) -> tuple[Iterator[bytes], list[tuple[str, str]]] | None:
        """The bytes of the file that the op wrote, and headers that hold its name and the result; None without one."""
        place = Path(args[self.op.writes]) if self.op.writes and args.get(self.op.writes) is not None else None
        if place is None:
            return None
        told = urllib.parse.quote(self.named(bind.to_json(result).decode()))
        named = f"attachment; filename*=UTF-8''{urllib.parse.quote(place.name)}"
        self._given = True
        parts = [(RESULT_HEADER, told[start : start + _LINE]) for start in range(0, len(told), _LINE)]
        return self._pieces(place), [*parts, ("content-disposition", named)]

    def _pieces(self, place: Path) -> Iterator[bytes]:
        try:
            with open(place, "rb") as stream:
                while piece := stream.read(_PIECE_BYTES):
                    yield piece
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def read_header(values: Sequence[str]) -> bytes:
    """The JSON that the lines of a result header hold, also when somebody on the way has put them together."""
    return urllib.parse.unquote_to_bytes("".join(values).replace(", ", ""))
