"""Leases: who does a thing that one does at a time over all hosts, and numbers that fence off who did it before.

Times are the database's machine time, the same for all who share it.
"""

import msgspec

from loopwright.kernel.errors import Conflict
from loopwright.kernel.times import SECOND
from loopwright.store.database import Tx, as_struct
from loopwright.store.space import Space


class Lease(msgspec.Struct, frozen=True):
    """A thing that a holder does until the lease ends; `fence` grows with every new holder."""

    name: str
    holder: str
    fence: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lease, and whether it has ended since."""

    name: str
    holder: str
    fence: int
    live: bool


def take(space: Space, name: str, holder: str, ttl_s: float, *, anew: bool = False) -> Lease | None:
    """Take a lease that is free or has ended, or renew one's own; None when another holds it.

    Args:
        anew: whether the holder has begun anew, so that what an earlier life of it still does is fenced off.
    """

    def change(tx: Tx) -> Lease | None:
        now = tx.machine_us()
        row = tx.one("SELECT holder, fence, until_us FROM leases WHERE name = ?", (name,))
        if row is not None and row["holder"] != holder and row["until_us"] > now:
            return None
        fence = 1 if row is None else row["fence"] + (anew or row["holder"] != holder)
        tx.execute(
            "INSERT INTO leases(name, holder, fence, until_us) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET holder = excluded.holder, fence = excluded.fence, until_us = excluded.until_us",
            (name, holder, fence, now + round(ttl_s * SECOND)),
        )
        return Lease(name, holder, fence)

    return space.write(change)


def hold(tx: Tx, lease: Lease) -> None:
    """Go on only while nobody else has taken the lease; to be asked in the transaction that it guards.

    Raises:
        Conflict: another has it.
    """
    row = tx.one("SELECT holder, fence FROM leases WHERE name = ?", (lease.name,))
    if row is None or (row["holder"], row["fence"]) != (lease.holder, lease.fence):
        raise Conflict(f"{lease.name} is held by another now", code="lease.lost")


def release(space: Space, lease: Lease) -> None:
    """Let go of a lease, so that another need not wait; does nothing when another has it."""
    space.write(
        lambda tx: tx.execute(
            "UPDATE leases SET until_us = 0 WHERE name = ? AND holder = ? AND fence = ?",
            (lease.name, lease.holder, lease.fence),
        )
    )


def held(tx: Tx) -> list[Held]:
    """All leases."""
    now = tx.machine_us()
    return [as_struct(Held, row, live=row["until_us"] > now) for row in tx.query("SELECT * FROM leases ORDER BY name")]
