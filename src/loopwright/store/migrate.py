"""Migrating: an older store is copied, then brought forward in one transaction; never under a running `lw up`."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Conflict
from loopwright.kernel.files import fsync_folder
from loopwright.kernel.settings import Settings
from loopwright.kernel.times import format_time
from loopwright.store import backup, hosts
from loopwright.store.database import Database, Tx, run_scripts
from loopwright.store.locks import is_held

BACKUPS = "backups"
KEPT = 3
_WAIT_S = 3.0
_UP, _CONTROL = "up.lock", "control.lock"

Rooms = Mapping[str, Sequence[str]]


def prepare(database: Database, home: Path, rooms: Rooms, settings: Settings) -> str:
    """Bring a database to today's tables and return the mode of its clock.

    Raises:
        Conflict: it is older, and an `lw up` runs on it.
        LoopwrightError: it was written by a newer loopwright.
    """
    counts = {room: len(scripts) for room, scripts in rooms.items()}
    if (mode := current(database, counts)) is not None:
        return mode
    with database.read() as tx:
        stands = backup.applied(tx)
    if stands and not any(number > counts.get(room, 0) for room, number in stands.items()):
        if _served(home):
            return _brought_by_control(database, counts)
        if settings.database is not None:
            _alone(database, hosts.identity(home))
        _keep_copy(database, home, rooms)
    return database.write(lambda tx: _migrate(tx, rooms, settings))


def current(database: Database, counts: Mapping[str, int]) -> str | None:
    """The mode of the clock when a database has just so many migrations of each room, else None."""
    with database.read() as tx:
        stands = backup.applied(tx)
        if stands and all(stands.get(room, 0) == count for room, count in counts.items()):
            return str(tx.value("SELECT mode FROM clock"))
    return None


def _served(home: Path) -> bool:
    """Whether an `lw up` runs on a store, and this process is not its control, which alone may bring it forward."""
    run = home / "run"
    return is_held(run / _UP) and not _mine(run / _CONTROL)


def _alone(database: Database, host: str) -> None:
    """See that no `lw up` of another host does anything in a shared store, whose older code would not know it then.

    Raises:
        Conflict: one does, or did a moment ago.
    """
    with database.read() as tx:
        if tx.has_table("leases"):
            held = "SELECT 1 FROM leases WHERE until_us > ? AND holder <> ?"
            if tx.value(held, (tx.machine_us(), host)) is not None:
                raise Conflict(
                    "this store was made by an older loopwright and an `lw up` runs on it on another host",
                    code="store.older",
                    hint="lw down, on every host that shares it",
                )


def _brought_by_control(database: Database, counts: Mapping[str, int]) -> str:
    """The mode of the clock once control has brought the store forward, as it does when it starts.

    Raises:
        Conflict: it does not: the `lw up` is an older one.
    """
    until = monotonic_s() + _WAIT_S
    while (mode := current(database, counts)) is None:
        if monotonic_s() > until:
            raise Conflict(
                "this store was made by an older loopwright and an `lw up` runs on it",
                code="store.older",
                hint="lw down",
            )
        time.sleep(0.05)
    return mode


def _mine(path: Path) -> bool:
    """Whether this process has a file open."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return False
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found = os.fstat(int(name))
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def _keep_copy(database: Database, home: Path, rooms: Rooms) -> None:
    """Copy the database as it stands, and drop all but the newest copies."""
    folder = home / BACKUPS
    folder.mkdir(mode=0o700, exist_ok=True)
    name = format_time(machine_us()).replace(":", "-")
    backup.copy_out(database, folder / f"{name}.db", rooms)
    fsync_folder(home)
    for old in sorted(folder.glob("*.db"))[:-KEPT]:
        old.unlink(missing_ok=True)


def _migrate(tx: Tx, rooms: Rooms, settings: Settings) -> str:
    tx.execute(backup.MIGRATIONS_TABLE)
    for room, scripts in rooms.items():
        run_scripts(tx, room, scripts)
    mode = tx.value("SELECT mode FROM clock")
    if mode is None:
        start = settings.start_us if settings.clock == "replay" and settings.start_us is not None else machine_us()
        tx.execute("INSERT INTO clock(mode, now_us) VALUES (?, ?)", (settings.clock, start))
        mode = settings.clock
    return str(mode)
