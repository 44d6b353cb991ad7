"""The clock of a Space that a replay drives: one stored moment, moved in stops."""

from loopwright.kernel.clock import Mode
from loopwright.kernel.errors import Conflict
from loopwright.kernel.event import EventKind
from loopwright.kernel.times import format_time
from loopwright.store import ledger
from loopwright.store.database import Database, Tx

CLOCK_ADVANCED = EventKind("clock.advanced@1", "the clock was moved to {to}")
EVENTS = [CLOCK_ADVANCED]


class ReplayClock:
    """Reads the stored moment."""

    mode: Mode = "replay"

    def __init__(self, database: Database) -> None:
        self._database = database

    def now_us(self) -> int:
        """The moment up to which the replay has come."""
        with self._database.read() as tx:
            return tx.now_us()


def advance(tx: Tx, actor: str, to_us: int) -> int:
    """Move a replay clock to the next stop and return the event's sequence number.

    Raises:
        Conflict: the Space runs on the wall clock, or the stop lies in the past.
    """
    if not tx.replay:
        raise Conflict(
            "this Space runs on the wall clock; a replay needs a Space of its own",
            code="clock.wall",
            hint='set clock = "replay" and start in loopwright.toml of a new project',
        )
    now = tx.now_us()
    if to_us < now:
        raise Conflict(f"the clock stands at {format_time(now)} and cannot go back to {format_time(to_us)}", field="to")
    tx.execute("UPDATE clock SET now_us = ?", (to_us,))
    return ledger.append(tx, actor, CLOCK_ADVANCED, "clock", {"from": format_time(now), "to": format_time(to_us)})
