"""What an endpoint's own data says of the settings that its project leaves open: kept, and taken anew each week."""

import statistics

import msgspec

from loopwright.monitors import queries as monitors
from loopwright.monitors.model import SERVED, ClosedDay
from loopwright.releases.policy import SD_OF_LOSS, Measured, WarmRecipe
from loopwright.releases.recipe import Book, spread
from loopwright.store.database import Tx, as_struct

DAYS = 56
_FIELDS = Measured.__struct_fields__


def find(tx: Tx, endpoint: str) -> Measured:
    """What is known of an endpoint now."""
    row = tx.one("SELECT * FROM measured WHERE endpoint = ?", (endpoint,))
    return Measured() if row is None else as_struct(Measured, row)


def put(tx: Tx, endpoint: str, found: Measured) -> None:
    """Keep what is known of an endpoint."""
    tx.execute(
        f"INSERT INTO measured(endpoint, {', '.join(_FIELDS)}) VALUES (?{', ?' * len(_FIELDS)})"
        f" ON CONFLICT (endpoint) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _FIELDS)}",
        (endpoint, *msgspec.structs.astuple(found)),
    )


def begin(tx: Tx, endpoint: str, *, close_minutes: int | None, loss: float | None) -> None:
    """Keep what the history says, when the first version is deployed."""
    sd = None if not loss else round(SD_OF_LOSS * loss, 6)
    put(tx, endpoint, Measured(close_minutes=close_minutes, loss=loss, sd=sd))


def take(tx: Tx, endpoint: str, recipe: WarmRecipe, book: Book) -> Measured:
    """Take it anew from the last eight weeks of closed days; when blocks are closed stays as it was begun.

    Args:
        book: of those days, without those that a broken feed touches.
    """
    before = find(tx, endpoint)
    days = [day for day in monitors.closed_days(tx, endpoint)[-DAYS:] if day.day in set(book.days)]
    n = [day.n_labelled for day in days if day.n_labelled]
    served = [book.block(day.day, SERVED) for day in days]
    rows = sum(block.n_labelled for block in served if block is not None)
    if not rows:
        return before
    loss = sum(block.loss_sum for block in served if block is not None) / rows
    sd, blocks = spread(recipe, book, _champions(days), prior=SD_OF_LOSS * loss)
    found = Measured(
        close_minutes=before.close_minutes,
        loss=round(loss, 6),
        sd=round(sd, 6),
        blocks=blocks,
        labels=int(statistics.median(n)),
    )
    put(tx, endpoint, found)
    return found


def _champions(days: list[ClosedDay]) -> dict[str, int]:
    return {day.day: day.champion for day in days}
