"""Condemned blobs: what a cleaning has chosen to take away, so that nobody records it without having put it again.

A cleaning enters a digest in the transaction that finds nothing referring to it, deletes the blob, and marks the row.
Whoever records a digest looks here in its own transaction: both are serialised, so one of them sees the other.
"""

import time
from collections.abc import Iterable
from functools import partial

from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Unavailable
from loopwright.kernel.times import MINUTE
from loopwright.store.database import Tx
from loopwright.store.locks import is_held
from loopwright.store.space import Space

Removed = dict[str, int]
LOCK = "gc.lock"
GIVE_UP_S = 60.0  # a cleaning deletes nothing that it condemned longer ago than this
_DEAD_US = 5 * MINUTE  # a cleaning on another host that has not marked its rows in this time has ended
_LOOK_S = 0.02


def condemn(tx: Tx, digests: Iterable[str]) -> list[str]:
    """Enter digests that nothing refers to; returns those that no other cleaning is about to delete."""
    mine = []
    for digest in digests:
        row = tx.one(
            "INSERT INTO condemned(digest, at_us) VALUES (?, ?) ON CONFLICT (digest) DO UPDATE"
            " SET at_us = excluded.at_us, removed_us = NULL WHERE condemned.removed_us IS NOT NULL RETURNING digest",
            (digest, tx.machine_us()),
        )
        if row is not None:
            mine.append(digest)
    return mine


def mark_removed(tx: Tx, digests: Iterable[str]) -> None:
    """Say that digests have been deleted, or may have been."""
    now = tx.machine_us()
    tx.executemany(
        "UPDATE condemned SET removed_us = ? WHERE digest = ? AND removed_us IS NULL", [(now, d) for d in digests]
    )


def take_over(tx: Tx, *, remote: bool) -> None:
    """Mark what a killed cleaning left unmarked; the caller holds the lock of this host's cleaning."""
    now = tx.machine_us()
    tx.execute(
        "UPDATE condemned SET removed_us = ? WHERE removed_us IS NULL AND at_us <= ?",
        (now, now - (_DEAD_US if remote else 0)),
    )


def forget(tx: Tx, before_us: int) -> int:
    """Drop rows that were marked before a moment: nobody is still about to record what was put before it."""
    return tx.execute("DELETE FROM condemned WHERE removed_us < ?", (before_us,))


def taken(tx: Tx, digests: Iterable[str], seen: Removed) -> list[str]:
    """The digests that were condemned; those that `seen` has as removed were put again since, and leave the list."""
    if tx.one("SELECT 1 FROM condemned LIMIT 1") is None:
        return []
    found = []
    for digest in digests:
        row = tx.one("SELECT removed_us FROM condemned WHERE digest = ?", (digest,))
        if row is None:
            continue
        if row["removed_us"] is None or row["removed_us"] != seen.get(digest):
            found.append(digest)
    if not found:
        tx.executemany("DELETE FROM condemned WHERE digest = ?", [(digest,) for digest in seen])
    return found


def wait(space: Space, digests: Iterable[str]) -> Removed:
    """Wait until the cleaning that condemned digests has deleted them, or is dead; returns when each was removed.

    Raises:
        Unavailable: it has not in the time that a cleaning may take.
    """
    left, found = list(digests), Removed()
    until = monotonic_s() + 2 * _DEAD_US / 1e6
    while left:
        with space.read() as tx:
            now = tx.machine_us()
            rows = {d: tx.one("SELECT at_us, removed_us FROM condemned WHERE digest = ?", (d,)) for d in left}
        alive = is_held(space.home / LOCK)
        dead = []
        for digest, row in rows.items():
            if row is None:  # recorded by somebody else, who put it
                left.remove(digest)
            elif row["removed_us"] is not None:
                found[digest] = row["removed_us"]
                left.remove(digest)
            elif not alive and (not space.blobs.remote or now - row["at_us"] > _DEAD_US):
                dead.append(digest)
        if dead:
            space.write(partial(mark_removed, digests=dead))
        elif left:
            if monotonic_s() > until:
                raise Unavailable(f"a cleaning holds blob {left[0]}", code="blob.condemned", hint="lw gc")
            time.sleep(_LOOK_S)
    return found
