"""Put, get and read artifacts. The blob is durable before the row that names it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import condemned
from loopwright.artifacts.model import Artifact
from loopwright.kernel import canonical
from loopwright.kernel.errors import Corrupt, Erased, Invalid, NotFound, Unavailable
from loopwright.kernel.files import replace_file
from loopwright.kernel.ids import valid_path
from loopwright.store import erasure
from loopwright.store.blobs import is_digest
from loopwright.store.database import Tx, as_struct, as_text
from loopwright.store.roots import digests_in
from loopwright.store.space import Space

TREE_TYPE = "loopwright-tree-1"
MIGRATIONS = [
    """
    CREATE TABLE artifacts(
      digest TEXT NOT NULL, kind TEXT NOT NULL, size_bytes BIGINT NOT NULL, is_tree INTEGER NOT NULL,
      meta TEXT NOT NULL, at_us BIGINT NOT NULL, PRIMARY KEY (digest, kind));
    CREATE TABLE names(name TEXT PRIMARY KEY, kind TEXT NOT NULL);
    CREATE TABLE versions(
      name TEXT NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL, kind TEXT NOT NULL, run TEXT,
      at_us BIGINT NOT NULL, PRIMARY KEY (name, number));
    CREATE INDEX versions_digest ON versions(digest);
    CREATE TABLE label_moves(
      seq INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, label TEXT NOT NULL, number INTEGER NOT NULL,
      actor TEXT NOT NULL, at_us BIGINT NOT NULL);
    CREATE INDEX label_moves_name ON label_moves(name, label, seq);
    CREATE TABLE label_guards(name TEXT NOT NULL, label TEXT NOT NULL, PRIMARY KEY (name, label))
    """,
    """
    ALTER TABLE artifacts ADD COLUMN put_us BIGINT NOT NULL DEFAULT 0;
    CREATE TABLE condemned(digest TEXT PRIMARY KEY, at_us BIGINT NOT NULL, removed_us BIGINT)
    """,
    """
    CREATE TABLE taints(
      name TEXT NOT NULL, number INTEGER NOT NULL, erasure TEXT NOT NULL, rows BIGINT NOT NULL, at_us BIGINT NOT NULL,
      PRIMARY KEY (name, number, erasure))
    """,
]

Content = bytes | Path
_TRIES = 10


def put_blob(space: Space, content: Content, *, kind: str, meta: Mapping[str, Any]) -> Artifact:
    """Store one blob as an artifact of a kind."""

    def put() -> tuple[Artifact, list[str]]:
        digest, size = _store(space, content)
        made = Artifact(digest=digest, kind=kind, size_bytes=size, is_tree=False, meta=dict(meta))
        return made, [digest]

    return _kept(space, put)


def put_tree(space: Space, files: Mapping[str, Content | str], *, kind: str, meta: Mapping[str, Any]) -> Artifact:
    """Store a tree; a `str` content is the digest of a blob that is here.

    Raises:
        Invalid: a path leaves the tree, or one is a folder of another.
        NotFound: a blob that a digest names is not here.
    """
    for path in files:
        valid_path(path)

    def put() -> tuple[Artifact, list[str]]:
        listing = {path: _store(space, files[path]) for path in sorted(files)}
        digest = space.blobs.put_bytes(encode_tree(listing))
        size = sum(size for _, size in listing.values())
        made = Artifact(digest=digest, kind=kind, size_bytes=size, is_tree=True, meta=dict(meta))
        return made, [digest, *(file for file, _ in listing.values())]

    return _kept(space, put)


def put_known(space: Space, artifact: Artifact, put: Callable[[], list[str]]) -> Artifact:
    """Record an artifact that was made elsewhere; `put` puts its blobs, again when asked, and says which they are."""
    return _kept(space, lambda: (artifact, put()))


def encode_tree(listing: Mapping[str, tuple[str, int]]) -> bytes:
    """The canonical listing of a tree, path -> (digest, bytes); its BLAKE3 is the tree's id.

    Raises:
        Invalid: a path is a folder of another.
    """
    paths = sorted(listing)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in listing:
                raise Invalid(f"{'/'.join(parts[:depth])!r} is a file and a folder", code="tree.clash", field="path")
    return canonical.encode([TREE_TYPE, [[path, *listing[path]] for path in paths]])


def decode_tree(data: bytes) -> dict[str, tuple[str, int]]:
    """Read a canonical listing back.

    Raises:
        Corrupt: the bytes are no such listing.
    """
    try:
        value, end = _parse(data, 0)
        kind, rows = value
        listing = {path: (digest, size) for path, digest, size in rows}
        for path, (digest, _) in listing.items():
            valid_path(path)
            if not is_digest(digest):
                raise ValueError
        if kind != TREE_TYPE or end != len(data) or encode_tree(listing) != data:
            raise ValueError
    except (ValueError, TypeError, IndexError, AttributeError, RecursionError, Invalid):
        raise Corrupt("these bytes are no tree listing", code="tree.form", hint="lw fsck") from None
    return listing


def _parse(data: bytes, at: int) -> tuple[Any, int]:
    mark, colon = data[at : at + 1], data.index(b":", at, at + 24)
    size, body = int(data[at + 1 : colon]), colon + 1
    if mark in (b"s", b"i"):
        piece = data[body : body + size]
        return (piece.decode() if mark == b"s" else int(piece)), body + size
    if mark != b"l" or size > len(data):
        raise ValueError
    items = []
    for _ in range(size):
        item, body = _parse(data, body)
        items.append(item)
    return items, body


def get(space: Space, digest: str, kind: str | None = None) -> Artifact:
    """The artifact of a digest.

    Raises:
        NotFound: there is none.
    """
    with space.read() as tx:
        return find(tx, digest, kind)


def find(tx: Tx, digest: str, kind: str | None = None) -> Artifact:
    """The artifact of a digest, inside a transaction.

    Raises:
        NotFound: there is none.
        Erased: it held rows that were erased.
    """
    erasure.require_kept(tx, digest, f"artifact {digest}")
    row = tx.one(
        "SELECT * FROM artifacts WHERE digest = ? AND kind = COALESCE(?, kind) ORDER BY at_us LIMIT 1", (digest, kind)
    )
    if row is None:
        raise NotFound(f"no artifact {digest}", code="artifact.missing", field="digest", hint="lw fsck")
    return as_struct(Artifact, row, is_tree=bool(row["is_tree"]), meta=msgspec.json.decode(row["meta"]))


def recorded(tx: Tx) -> list[tuple[str, bool]]:
    """The digests of all artifacts, and whether they are trees."""
    return [(row["digest"], bool(row["is_tree"])) for row in tx.query("SELECT digest, is_tree FROM artifacts")]


def retire(tx: Tx, erased: str, found: erasure.Found, successor: str | None = None) -> None:
    """Bury an artifact whose rows were erased, and forget what its metadata says of them."""
    erasure.bury(tx, erased, found, successor)
    tx.execute("UPDATE artifacts SET meta = '{}' WHERE digest = ?", (found.digest,))


def of_kind(space: Space, kind: str) -> list[Artifact]:
    """All artifacts of a kind that are not erased, in the order of their digests."""
    with space.read() as tx:
        gone = erasure.tombstones(tx)
        rows = tx.query("SELECT * FROM artifacts WHERE kind = ? ORDER BY digest", (kind,))
    kept = (row for row in rows if row["digest"] not in gone)
    return [as_struct(Artifact, r, is_tree=bool(r["is_tree"]), meta=msgspec.json.decode(r["meta"])) for r in kept]


@contextlib.contextmanager
def told(space: Space) -> Iterator[None]:
    """Inside, a blob that is missing because it was erased is told as erased.

    Raises:
        Erased: a blob that was read held rows that were erased.
    """
    try:
        yield
    except NotFound as error:
        for digest in digests_in(error.message) if error.code == "blob.missing" else ():
            with space.read() as tx:
                erasure.require_kept(tx, digest)
        raise


def files(space: Space, digest: str) -> dict[str, str]:
    """The files of a tree: path -> digest.

    Raises:
        Erased: it held rows that were erased.
    """
    with told(space):
        return {path: file for path, (file, _) in decode_tree(space.blobs.read(digest)).items()}


def local_path(space: Space, digest: str, path: str | None = None) -> Path:
    """Where the bytes of a blob, or of one file of a tree, lie on this machine.

    Raises:
        NotFound: there is no such file in the tree.
    """
    if path is not None:
        listing = files(space, digest)
        if path not in listing:
            raise NotFound(f"no file {path!r} in {digest}", code="artifact.file", field="path")
        digest = listing[path]
    with told(space):
        found = space.blobs.path(digest)
    if not found.exists():
        with space.read() as tx:
            erasure.require_kept(tx, digest)
    return found


def read(space: Space, digest: str, path: str | None = None) -> bytes:
    """The bytes of a blob, or of one file of a tree, checked against their digest."""
    return space.blobs.read(local_path(space, digest, path).name)


def materialise(space: Space, digest: str, folder: Path) -> Path:
    """Write the files of a tree into a folder that is made for them; whole or not at all."""
    if folder.is_dir():
        return folder
    work = space.home / "tmp" / f"{folder.name}.{os.getpid()}"
    for path, file in files(space, digest).items():
        target = work / path
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(target, space.blobs.read(file))  # on disk before the folder has its name
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.rename(work, folder)
    except OSError:
        if not folder.is_dir():
            raise
    return folder


def _store(space: Space, content: Content | str) -> tuple[str, int]:
    if isinstance(content, str):
        if not space.blobs.renew(content):
            raise NotFound(f"no whole blob {content}", code="blob.missing", hint="lw fsck")
        return content, space.blobs.size(content)
    if isinstance(content, Path):
        digest = space.blobs.put_file(content)
        return digest, space.blobs.size(digest)
    return space.blobs.put_bytes(content), len(content)


def _kept(space: Space, put: Callable[[], tuple[Artifact, list[str]]]) -> Artifact:
    """Put and record; what a cleaning takes away between the two is put once more."""
    seen: condemned.Removed = {}
    for _ in range(_TRIES):
        artifact, digests = put()
        try:
            taken = space.write(partial(_record, artifact=artifact, digests=digests, seen=seen))
        except Erased:
            erasure.sweep(space)
            raise
        if not taken:
            return get(space, artifact.digest, artifact.kind)
        seen.update(condemned.wait(space, taken))
        for digest in taken:
            space.blobs.doubt(digest)
    raise Unavailable("a cleaning takes away what is stored, again and again", code="blob.condemned", hint="lw gc")


def _record(tx: Tx, artifact: Artifact, digests: list[str], seen: condemned.Removed) -> list[str]:
    """Write the row; returns the digests that a cleaning has taken since they were put, and then writes nothing."""
    for digest in digests:
        erasure.require_kept(tx, digest, "what is to be stored")
    taken = condemned.taken(tx, digests, seen)
    if not taken:
        tx.execute(
            "INSERT INTO artifacts(digest, kind, size_bytes, is_tree, meta, at_us, put_us) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (digest, kind) DO UPDATE SET put_us = excluded.put_us",
            (
                artifact.digest,
                artifact.kind,
                artifact.size_bytes,
                int(artifact.is_tree),
                as_text(artifact.meta),
                tx.now_us(),
                tx.machine_us(),
            ),
        )
    return taken
