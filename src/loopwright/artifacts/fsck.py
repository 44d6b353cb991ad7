"""fsck: every stored byte against its digest, every reference against the blobs."""

from typing import Any

import msgspec

from loopwright.artifacts import service
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.op import Progress, silent
from loopwright.store.space import Space


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was stored, and the versions it touches."""

    digest: str
    what: str
    touches: list[str]


class FsckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What fsck looked at and what it found."""

    blobs: int
    artifacts: int
    damage: list[Damage]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage


def fsck(space: Space, actor: str, *, progress: Progress = silent) -> FsckReport:
    """Hash every blob again and follow every reference; says which names a damaged blob touches."""
    digests = list(space.blobs.all())
    bad: dict[str, str] = {}
    for count, digest in enumerate(digests, 1):
        try:
            if not space.blobs.verify(digest):
                bad[digest] = "its bytes do not have its digest"
        except OSError as error:
            bad[digest] = f"it cannot be read: {error.strerror}"
        progress(count, len(digests), "blobs")
    with space.read() as tx:
        rows = tx.query("SELECT digest, kind, is_tree FROM artifacts")
        names = tx.query("SELECT digest, name, number FROM versions ORDER BY name, number")
    holders: dict[str, set[str]] = {}
    for row in names:
        holders.setdefault(row["digest"], set()).add(f"{row['name']}@{row['number']}")
    touched: dict[str, set[str]] = {}
    present = set(digests)
    for row in rows:
        owners = holders.get(row["digest"], {f"{row['kind']} {row['digest'][:12]}"})
        for digest in _parts(space, row, bad):
            if digest not in present and not space.blobs.has(digest):  # it may have come meanwhile
                bad.setdefault(digest, "it is missing")
            touched.setdefault(digest, set()).update(owners)
    damage = [
        Damage(digest=digest, what=what, touches=sorted(touched.get(digest, set())))
        for digest, what in sorted(bad.items())
    ]
    return FsckReport(blobs=len(digests), artifacts=len(rows), damage=damage)


def _parts(space: Space, row: Any, bad: dict[str, str]) -> list[str]:
    digest = row["digest"]
    if not row["is_tree"] or digest in bad or not space.blobs.has(digest):
        return [digest]
    try:
        return [digest, *service.files(space, digest).values()]
    except LoopwrightError as error:
        bad[digest] = error.message
        return [digest]
