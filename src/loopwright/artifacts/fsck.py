"""fsck: every stored byte against its digest, every reference against the blobs, every part by its own check."""

from collections.abc import Iterable, Iterator

import msgspec

from loopwright.artifacts import service
from loopwright.artifacts.reach import Reach
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.op import Progress, silent
from loopwright.store.blobs import Blobs, LocalBlobs
from loopwright.store.check import Finding, all_checks, check_database
from loopwright.store.roots import Root, all_roots
from loopwright.store.space import Space

_AGAIN = "store the same bytes again (lw add, lw run), or lw restore"
_UNNAMED = "artifact"


class Damage(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was stored, what it touches, and what to do.

    Args:
        part: `blob`, `cache`, `tree`, `name`, `database`, `log`, `run` or `events`.
        digest: of the blob or tree; None of what is none.
        touches: versions as `name@number`, runs, endpoints and days of the prediction log that need it.
    """

    part: str
    digest: str | None
    name: str
    what: str
    touches: list[str]
    hint: str


class FsckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What fsck looked at and what it found.

    Args:
        how: how the bytes of blobs were checked.
        references: the references from names, runs, the log and projects that were followed.
        bytes: the bytes of all blobs.
    """

    blobs: int
    bytes: int
    artifacts: int
    references: int
    database: str
    how: str
    damage: list[Damage]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage


def fsck(space: Space, actor: str, *, deep: bool = False, progress: Progress = silent) -> FsckReport:
    """Read everything again and follow every reference; says what each damage touches.

    Blobs in an object store are listed and compared by size; `deep` downloads and hashes them.
    """
    return _Fsck(space, deep, progress).run()


class _Fsck:
    def __init__(self, space: Space, deep: bool, progress: Progress) -> None:
        self.space = space
        self.deep = deep
        self.progress = progress
        self.reach = Reach(space)
        self.bad: dict[str, str] = {}
        self.cached: dict[str, str] = {}
        self.found: list[Damage] = []
        self.references = self.artifacts = 0

    def run(self) -> FsckReport:
        self._guarded("database", check_database(self.space))
        sizes = {entry.digest: entry.size_bytes for entry in self.space.blobs.entries()}
        self._bytes(list(sizes))
        self._guarded("database", self._references(sizes))
        for check in all_checks():
            self._guarded("database", check(self.space))
        self.found += [self._blob(digest, what) for digest, what in sorted(self.bad.items())]
        self.found += [self._cache(digest, what) for digest, what in sorted(self.cached.items())]
        how = "every blob was read and hashed"
        if self.space.blobs.remote and not self.deep:
            how = "blobs were listed and their sizes compared, and the local copies hashed; --deep reads the store too"
        return FsckReport(
            blobs=len(sizes),
            bytes=sum(sizes.values()),
            artifacts=self.artifacts,
            references=self.references,
            database=self.space.database.describe(),
            how=how,
            damage=self.found,
        )

    def _guarded(self, part: str, findings: Iterable[Finding]) -> None:
        """Take the findings of a check; one that cannot go on because of damage is a finding itself."""
        try:
            for found in findings:
                told = {"part": found.part, "name": found.name, "what": found.what, "hint": found.hint}
                self.found.append(Damage(**told, digest=None, touches=list(found.touches)))
        except Exception as error:  # noqa: BLE001 - a damaged database raises what it likes; the rest is still looked at
            what = error.message if isinstance(error, LoopwrightError) else f"{type(error).__name__}: {error}"
            name = self.space.database.describe()
            self.found.append(Damage(part=part, digest=None, name=name, what=what, touches=[], hint="lw restore"))

    def _bytes(self, digests: list[str]) -> None:
        blobs = self.space.blobs
        local = getattr(blobs, "local", None)
        if isinstance(local, LocalBlobs):
            for digest in local.all():
                if (what := _differs(local, digest)) is not None:
                    self.cached[digest] = what
        if blobs.remote and not self.deep:
            return
        for count, digest in enumerate(digests, 1):
            if (what := _differs(blobs, digest)) is not None:
                self.bad[digest] = what
            self.progress(count, len(digests), "blobs")

    def _references(self, sizes: dict[str, int]) -> Iterator[Finding]:
        with self.space.read() as tx:
            rows = tx.query("SELECT digest, kind, size_bytes, is_tree FROM artifacts")
            self.reach.load(tx)
            roots = list(all_roots(self.space, tx))
            lost = tx.query(
                "SELECT name, number FROM versions v WHERE NOT EXISTS"
                " (SELECT 1 FROM artifacts a WHERE a.digest = v.digest AND a.kind = v.kind) ORDER BY name, number"
            )
        self.reach.add(None, roots)
        idle = (row for row in rows if row["digest"] not in self.reach.held)
        self.reach.add(None, [Root(r["digest"], _UNNAMED, f"{r['kind']} {r['digest'][:12]}") for r in idle])
        self.artifacts, self.references = len(rows), len(roots)
        for row in lost:
            ref = f"{row['name']}@{row['number']}"
            yield Finding("name", ref, "it holds an artifact that is not recorded", (ref,))
        for row in rows:
            self._artifact(row["digest"], bool(row["is_tree"]), row["size_bytes"], sizes)

    def _artifact(self, digest: str, is_tree: bool, size: int, sizes: dict[str, int]) -> None:
        if digest in self.reach.erased:
            if self.space.blobs.has(digest):
                self.bad[digest] = "it was erased and its bytes are here again"
            return
        if not self._there(digest, None if is_tree else size, sizes) or not is_tree or digest in self.bad:
            return
        try:
            listing = service.decode_tree(self.space.blobs.read(digest))
        except LoopwrightError as error:
            self.bad[digest] = error.message
            return
        for file, file_size in listing.values():
            self._there(file, file_size, sizes)

    def _there(self, digest: str, size: int | None, sizes: dict[str, int]) -> bool:
        held = sizes.get(digest)
        if digest in self.reach.erased:
            return True
        if held is None:
            if not self.space.blobs.has(digest):  # it may have come meanwhile
                self.bad.setdefault(digest, "it is missing")
                return False
        elif size is not None and held != size:
            self.bad.setdefault(digest, f"it has {held} bytes, and {size} were stored")
        return True

    def _touches(self, digest: str) -> list[str]:
        bare = ("version", _UNNAMED)
        roots = self.reach.held.get(digest, [])
        return sorted({root.reason if root.kind in bare else f"{root.kind} {root.reason}" for root in roots})

    def _blob(self, digest: str, what: str) -> Damage:
        touches = self._touches(digest)
        hint = _AGAIN if touches else "nothing refers to it: lw gc"
        return Damage(part="blob", digest=digest, name=digest, what=what, touches=touches, hint=hint)

    def _cache(self, digest: str, what: str) -> Damage:
        place = f".loopwright/blobs/{digest[:2]}/{digest}"
        hint = f"rm {place}: it is fetched again"
        return Damage(part="cache", digest=digest, name=place, what=what, touches=self._touches(digest), hint=hint)


def _differs(blobs: Blobs, digest: str) -> str | None:
    """What is wrong with the bytes of a blob, or None."""
    try:
        if not blobs.reread(digest):
            return "its bytes do not have its digest"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None
