"""The contract at serving: requests held against the training sample of the champion. It flags, it never refuses."""

from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.models import service as models
from loopwright.models.model import ColumnContract
from loopwright.monitors import queries
from loopwright.monitors.model import CONTRACT_BROKEN, ClosedDay, Flag
from loopwright.monitors.rows import TABLE
from loopwright.serving import routes
from loopwright.serving.columns import quoted
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

ACTOR = "loop"
EXAMPLES = 5
QUIET_DAYS = 7
WORDS = {
    "unseen": "a level never seen in training",
    "range": "a value far outside the training range",
    "null": "no value",
}


class Held(msgspec.Struct, frozen=True):
    """Which requests are held against whose contract: those of a day, asked before `until_us`."""

    day: str
    champion: int
    until_us: int


def flags(con: Any, space: Space, endpoint: str, held: Held, columns: list[str]) -> list[Flag]:
    """How often each column broke the champion's contract among the rows of the temp table `judged`."""
    spec = routes.endpoint(space, endpoint)
    digest = names.get(space, spec.model, held.champion).digest
    out = []
    for column in models.contract(space, digest):
        if f"in_{column.name}" not in columns:
            continue
        for what, condition, args in _conditions(column):
            ids = con.execute(
                f"SELECT id FROM {TABLE} WHERE at_us < {held.until_us} AND ({condition}) ORDER BY at_us, request_id",
                args,
            ).fetchall()
            if ids:
                some = [str(row[0]) for row in ids[:EXAMPLES]]
                out.append(Flag(day=held.day, column=column.name, what=what, n=len(ids), examples=some))
    return out


def _conditions(column: ColumnContract) -> list[tuple[str, str, list[Any]]]:
    name = quoted(f"in_{column.name}")
    out: list[tuple[str, str, list[Any]]] = []
    if column.levels is not None and column.dtype == "string":
        marks = ", ".join("?" * len(column.levels))
        out.append(("unseen", f"{name} IS NOT NULL AND CAST({name} AS VARCHAR) NOT IN ({marks})", [*column.levels]))
    if column.low is not None and column.high is not None:
        value = f"TRY_CAST({name} AS DOUBLE)"  # the column may have been a text to an earlier version of that day
        out.append(("range", f"NOT isnan({value}) AND ({value} < ? OR {value} > ?)", [column.low, column.high]))
    if column.null_share == 0:
        out.append(("null", f"{name} IS NULL", []))
    return out


def tell(tx: Tx, endpoint: str, found: list[Flag], day: ClosedDay, *, cause: int) -> None:
    """Write one event when a column broke the contract in a way that the last days did not know."""
    before = queries.closed_days(tx, endpoint, until=day.day)[-QUIET_DAYS:]
    known = {(f.column, f.what) for f in queries.flags(tx, endpoint, since=before[0].day)} if before else set()
    fresh = [flag for flag in found if (flag.column, flag.what) not in known]
    if not fresh:
        return
    told = "; ".join(f"{f.n} of {day.n} requests had {WORDS[f.what]} in {f.column}" for f in fresh)
    data = {
        "endpoint": endpoint,
        "day": day.day,
        "rows": day.n,
        "told": told,
        "columns": {f"{flag.column}.{flag.what}": flag.n for flag in fresh},
    }
    ledger.append(tx, ACTOR, CONTRACT_BROKEN, routes.subject_of(endpoint), data, cause=cause, at_us=day.close_us)
