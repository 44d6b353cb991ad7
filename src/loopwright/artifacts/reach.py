"""Reach: every blob that something refers to, and what does, followed through trees and metadata."""

from collections.abc import Iterable

from loopwright.kernel.errors import Corrupt, NotFound
from loopwright.store import erasure
from loopwright.store.database import Tx
from loopwright.store.roots import Root, digests_in
from loopwright.store.space import Space

REASONS_KEPT = 20


class Reach:
    """The blobs that were reached, each with the roots it was reached from (the first of them when there are many).

    `unread` are the trees that could not be read: what is in them is not known.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.held: dict[str, list[Root]] = {}
        self.unread: dict[str, str] = {}
        self._inside: dict[str, list[str]] = {}
        self._rows: dict[str, list[tuple[bool, str]]] | None = None
        self.erased: dict[str, str | None] = {}

    def load(self, tx: Tx) -> None:
        """Read the table of artifacts at once, for all that is followed before `settled`."""
        self._rows, self.erased = {}, erasure.tombstones(tx)
        for row in tx.query("SELECT digest, is_tree, meta FROM artifacts"):
            self._rows.setdefault(row["digest"], []).append((bool(row["is_tree"]), row["meta"]))

    def settled(self) -> None:
        """From now on ask the table itself: it may have grown."""
        self._rows = None

    def add(self, tx: Tx | None, roots: Iterable[Root]) -> set[str]:
        """Follow roots, inside one transaction; returns the digests that were not reached before.

        None is asked between `load` and `settled`: trees are read from a store that may be far, and no snapshot of the
        database is to be held so long.
        """
        fresh: set[str] = set()
        for root in roots:
            todo, done = [root.digest], set()
            while todo:
                digest = todo.pop()
                if digest in done:
                    continue
                done.add(digest)
                reasons = self.held.get(digest)
                if reasons is None:
                    self.held[digest] = [root]
                    fresh.add(digest)
                elif len(reasons) < REASONS_KEPT and root not in reasons:
                    reasons.append(root)
                elif digest in self._inside:
                    continue  # its parts have enough reasons too
                todo += self._parts(tx, digest)
        return fresh

    def _parts(self, tx: Tx | None, digest: str) -> list[str]:
        """What an artifact is made of: the files of a tree, and what its metadata names."""
        known = self._inside.get(digest)
        if known is None:
            known = self._inside[digest] = self._look(tx, digest)
        return known

    def _look(self, tx: Tx | None, digest: str) -> list[str]:
        if tx is not None and (stone := erasure.tombstone(tx, digest)) is not None:
            self.erased[digest] = stone.successor
        if digest in self.erased:
            return [part for part in (self.erased[digest],) if part is not None]
        if self._rows is None:
            assert tx is not None
            found = tx.query("SELECT is_tree, meta FROM artifacts WHERE digest = ?", (digest,))
            rows = [(bool(row["is_tree"]), row["meta"]) for row in found]
        else:
            rows = self._rows.get(digest, [])
        parts = [part for _, meta in rows for part in digests_in(meta)]
        if any(is_tree for is_tree, _ in rows):
            try:
                parts += digests_in(self._space.blobs.read(digest).decode("utf-8", "replace"))
            except (Corrupt, NotFound) as error:
                self.unread[digest] = error.message
            except OSError as error:
                self.unread[digest] = f"it cannot be read: {error.strerror}"
        return parts

    def reasons(self, digest: str) -> list[str]:
        """What refers to a blob, as a person reads it."""
        return [f"{root.kind} {root.reason}" for root in self.held.get(digest, [])]


def refuse_unread(reach: Reach) -> None:
    """Stop what would take away files because nobody can say whose they are.

    Raises:
        Corrupt: a tree could not be read.
    """
    for digest, why in reach.unread.items():
        raise Corrupt(
            f"tree {digest} cannot be read, so nobody knows which blobs are its own: {why}",
            code="gc.unread",
            hint="lw fsck",
        )
