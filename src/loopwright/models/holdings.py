"""What models hold of a subject: rows of the samples in packages. A package stays; its sample is followed by a smaller.

What a model has learnt cannot be taken out of it: models that were trained on the rows are marked by the room above.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from loopwright.artifacts import service as artifacts
from loopwright.data.subjects import plain
from loopwright.models.model import KIND, SAMPLE_FILE, Sample
from loopwright.store.erasure import Found, Subject, bury, tombstones
from loopwright.store.space import Space

PLACE = "model sample"


class _Holdings:
    """The answer of this room."""

    room = "models"
    tables = ()

    def refs(self, space: Space, subject: Subject) -> Iterable[str]:
        """None: samples do not say whose rows they are."""
        return ()

    def find(self, space: Space, subject: Subject) -> list[Found]:
        """Rows of samples that are equal to rows of the subject, by package."""
        return [Found(PLACE, package[:12], len(sample.rows) - len(kept), file) for package, file, sample, kept in
                _samples(space, subject)]  # fmt: skip

    def forget(self, space: Space, subject: Subject, erasure: str) -> None:
        """Put a sample without the rows in the place of each."""
        for package, file, sample, kept in list(_samples(space, subject)):
            rows = [sample.rows[place] for place in kept]
            fresh = Sample(columns=sample.columns, rows=rows, expected=[sample.expected[place] for place in kept])
            data = msgspec.json.format(msgspec.json.encode(fresh, order="deterministic"), indent=1) + b"\n"
            made = artifacts.put_blob(space, data, kind="model-sample", meta={})
            found = Found(PLACE, package[:12], len(sample.rows) - len(kept), file)
            space.write(lambda tx, found=found, made=made: bury(tx, erasure, found, made.digest))  # type: ignore[misc]


def _samples(space: Space, subject: Subject) -> Iterator[tuple[str, str, Sample, list[int]]]:
    """Package, file, sample and the places of the rows that stay, of each sample that holds rows of the subject."""
    with space.read() as tx:
        gone = tombstones(tx)
    for package in artifacts.of_kind(space, KIND):
        file = artifacts.files(space, package.digest).get(SAMPLE_FILE)
        while file in gone:
            file = gone[file]
        if file is None:
            continue
        sample = msgspec.json.decode(space.blobs.read(file), type=Sample)
        theirs = {key for row in subject.rows if (key := _key(row, sample.columns)) is not None}
        named = [place for place, column in enumerate(sample.columns) if column == subject.column]
        kept = [place for place, row in enumerate(sample.rows) if not _is_theirs(row, theirs, named, subject)]
        if len(kept) < len(sample.rows):
            yield package.digest, file, sample, kept


def _key(row: dict[str, Any], columns: Iterable[str]) -> tuple[Any, ...] | None:
    """A row of a table or of the log as a sample has it; None when it lacks a column."""
    names = [name if name in row else f"in_{name}" for name in columns]
    return tuple(plain(row[name]) for name in names) if all(name in row for name in names) else None


def _is_theirs(row: Any, theirs: set[tuple[Any, ...]], named: list[int], subject: Subject) -> bool:
    return tuple(plain(value) for value in row) in theirs or any(str(row[place]) == subject.value for place in named)


HOLDINGS = _Holdings()
