"""What pipelines hold of a subject: tables that steps have put out, which the step cache and runs refer to.

Such a result goes as a whole: the step makes it anew from data that holds the rows no more.
"""

from collections.abc import Iterable

from loopwright.artifacts import service as artifacts
from loopwright.data.subjects import Frames, opened
from loopwright.store.database import Tx
from loopwright.store.erasure import Found, Subject, Texts, bury
from loopwright.store.space import Space

PLACE = "step result"
_DATA = (".parquet", ".npy", ".bin")


class _Holdings(Texts):
    """The answer of this room."""

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """Rows by result, and texts of jobs."""
        with opened(space, subject) as con:
            frames = [Found(PLACE, digest[:12], rows, digest) for digest, _, rows in Frames(space, subject).found(con)]
        return [*frames, *super().find(space, subject)]

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Bury each result with the files that lie in it."""
        super().forget(space, subject, erasure)
        with opened(space, subject) as con:
            frames = Frames(space, subject)
            for digest, files, rows in list(frames.found(con)):
                held = [file for path, file in files.items() if path.endswith(_DATA) or frames.quotes(file)]
                found = Found(PLACE, digest[:12], rows, digest)
                space.write(lambda tx, found=found, held=held: _bury(tx, erasure, found, held))  # type: ignore[misc]


def _bury(tx: Tx, erasure: str, found: Found, held: Iterable[str]) -> None:
    artifacts.retire(tx, erasure, found)
    for file in held:
        bury(tx, erasure, Found(found.place, found.name, 0, file))


HOLDINGS = _Holdings(
    "pipelines", ("jobs", "step_cache", "step_actions"), {"jobs": ("id", ("result", "error", "failure"))}
)
