"""What lineage holds of a subject: records of runs in bundles that quote the value; those are made anew when asked.

The extracts beside a bundle are results of steps, for which the room of steps answers.
"""

from collections.abc import Iterable, Iterator

from loopwright.artifacts import service as artifacts
from loopwright.lineage.bundles import FILE, KIND
from loopwright.store.database import Tx
from loopwright.store.erasure import Found, Subject, bury
from loopwright.store.space import Space

PLACE = "bundle"


class _Holdings:
    """The answer of this room."""

    room = "lineage"
    tables = ()

    def refs(self, space: Space, subject: Subject) -> Iterable[str]:
        """None: a bundle does not say whose requests it was made from."""
        return ()

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """Bundles that quote the value."""
        return [found for found, _ in _quoting(space, subject)]

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Bury them."""
        for found, file in list(_quoting(space, subject)):
            space.write(lambda tx, found=found, file=file: _bury(tx, erasure, found, file))  # type: ignore[misc]


def _bury(tx: Tx, erasure: str, found: Found, file: str) -> None:
    artifacts.retire(tx, erasure, found)
    bury(tx, erasure, Found(PLACE, found.name, 0, file))


def _quoting(space: Space, subject: Subject) -> Iterator[tuple[Found, str]]:
    for artifact in artifacts.of_kind(space, KIND):
        file = artifacts.files(space, artifact.digest)[FILE]
        if subject.pattern.search(space.blobs.read(file).decode("utf-8", "replace")):
            yield Found(PLACE, artifact.digest[:12], 1, artifact.digest), file


HOLDINGS = _Holdings()
