"""The hosts that share a Space, and how far each has brought its part of the prediction log to where all can read it.

A block that closed while another host holds rows in open spools would miss them, so it waits for the watermark.
"""

import contextlib
import socket

import msgspec

from loopwright.kernel.errors import Conflict
from loopwright.kernel.times import DAY, SECOND
from loopwright.serving import record
from loopwright.serving.spool import HOSTS, SUFFIX
from loopwright.store.database import Tx, as_struct
from loopwright.store.space import Space


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One host, as it last reported.

    Args:
        number: which of the hosts it is; part of its spools' ids.
        live: whether its report has not ended.
        until_us: when it ends, by the database's machine time; 0 when the host left of itself.
        silent_us: how long ago it ended.
        generation: the routes that all its workers have taken; -1 without workers.
        clock_us: the replay's time that they have taken.
        at_us: the Space's time of the report.
        open_us: rows from this moment on may lie in spools that only this host reads; None when all are sealed.
    """

    host: str
    number: int
    name: str
    live: bool
    until_us: int
    silent_us: int
    generation: int
    clock_us: int | None
    at_us: int
    open_us: int | None


def hosts(tx: Tx) -> list[Host]:
    """All hosts that have ever reported, by number."""
    now = tx.machine_us()
    return [
        as_struct(Host, row, live=row["until_us"] > now, silent_us=max(0, now - row["until_us"]))
        for row in tx.query("SELECT * FROM hosts ORDER BY number")
    ]


def number(space: Space) -> int:
    """The number of this host; 0 when it has none, as one that never served."""
    if not space.shared:
        return 0
    with space.read() as tx:
        return int(tx.value("SELECT number FROM hosts WHERE host = ?", (space.host,)) or 0)


def enter(space: Space) -> int:
    """Give this host a number when it has none, and return it; one that was silent for a day makes room.

    Raises:
        Conflict: there are as many hosts as numbers, or the hosts have no store that all of them can read.
    """
    if not space.shared:
        return 0
    with space.read() as tx:
        others = [host.name for host in hosts(tx) if host.live and host.host != space.host]
    if others and space.settings.blobs is None:
        raise Conflict(
            f"{', '.join(others)} serves this Space too, and cannot read what is stored in a folder of this host",
            code="hosts.blobs",
            hint='set blobs = "s3://BUCKET/PREFIX" in loopwright.toml',
        )
    return space.write(lambda tx: _enter(tx, space.host))


def _enter(tx: Tx, host: str) -> int:
    found = tx.value("SELECT number FROM hosts WHERE host = ?", (host,))
    if found is not None:
        return int(found)
    taken = {row["number"] for row in tx.query("SELECT number FROM hosts")}
    if len(taken) == HOSTS:
        oldest = tx.one("SELECT host, number, until_us FROM hosts ORDER BY until_us LIMIT 1")
        if oldest is not None and oldest["until_us"] < tx.machine_us() - DAY:
            tx.execute("DELETE FROM hosts WHERE host = ?", (oldest["host"],))
            taken.remove(oldest["number"])
    free = next((each for each in range(HOSTS) if each not in taken), None)
    if free is None:
        raise Conflict(f"{HOSTS} hosts share this Space already", code="hosts.full", hint="lw status")
    tx.execute(
        "INSERT INTO hosts(host, number, name, until_us, generation, at_us) VALUES (?, ?, ?, ?, -1, 0)",
        (host, free, socket.gethostname()[:100], tx.machine_us()),
    )
    return free


def report(space: Space, ttl_s: float, generation: int, clock_us: int | None) -> None:
    """Tell the other hosts how far this one is; it counts as live for `ttl_s`."""
    at_us = space.clock.now_us()  # before the spools are looked at: what is opened later is later
    first_us = open_us(space)

    def tell(tx: Tx) -> None:
        _enter(tx, space.host)
        tx.execute(
            "UPDATE hosts SET until_us = ?, generation = ?, clock_us = ?, at_us = ?, open_us = ? WHERE host = ?",
            (tx.machine_us() + round(ttl_s * SECOND), generation, clock_us, at_us, first_us, space.host),
        )

    space.write(tell)


def leave(space: Space) -> None:
    """Be counted no more, unless rows are left here that only this host reads."""
    if open_us(space) is None:
        space.write(lambda tx: tx.execute("UPDATE hosts SET until_us = 0 WHERE host = ?", (space.host,)))


def open_us(space: Space) -> int | None:
    """The first moment of which rows may lie in this host's spools: by when they were opened, on a replay by rows."""
    moments = []
    for path in (space.home / "spool").glob(f"*/*{SUFFIX}"):
        if space.clock.mode == "wall":
            moments.append(record.opened_us(path.stem))
            continue
        with contextlib.suppress(FileNotFoundError):
            moments += filter(None, [record.first_us(path)])
    return min(moments, default=None)


def awaited(tx: Tx, moment_us: int) -> list[str]:
    """The live hosts that may yet hold rows older than a moment where others cannot read them; none for one alone."""
    live = [host for host in hosts(tx) if host.live]
    if len(live) < 2:
        return []
    return [
        host.name for host in live if host.at_us < moment_us or (host.open_us is not None and host.open_us < moment_us)
    ]


def behind(tx: Tx, me: str, generation: int, clock_us: int | None) -> list[str]:
    """The other live hosts whose workers have not taken the routes, or a replay's time."""
    return [
        host.name
        for host in hosts(tx)
        if host.live
        and host.host != me
        and host.generation >= 0
        and (host.generation < generation or (clock_us is not None and (host.clock_us or 0) < clock_us))
    ]
