"""At each close of a day: whether what was looked up is what sources and facts say, on a sample of its rows."""

from loopwright.data import service as data
from loopwright.kernel.errors import LoopwrightError
from loopwright.monitors import alarms
from loopwright.monitors.model import BlockAsk
from loopwright.serving import compare, routes
from loopwright.serving.compare import Compared as Compared
from loopwright.store.database import Tx
from loopwright.store.space import Space

KIND = "features"
ROWS = 200


def sample(space: Space, ask: BlockAsk) -> Compared | None:
    """Compare a sample of a day's look-ups; None when there were none, or what they are made of is not here."""
    spec = routes.endpoint(space, ask.endpoint)
    if spec.features is None:
        return None
    try:
        features = data.features_of(space, spec.features)
        found = compare.compare_one(space, features, ask.endpoint, (ask.since_us, ask.until_us), ROWS)
    except LoopwrightError:
        return None
    return found if found.rows else None


def judge(tx: Tx, ask: BlockAsk, found: Compared | None, moment: alarms.Moment) -> None:
    """Open an alarm while cells differ, and end it with the first day on which none does."""
    if found is None:
        return
    if not found.differ:
        reason = f"the features served on {ask.day} are those of the sources"
        alarms.close_episode(tx, ask.endpoint, KIND, reason, moment)
        return
    names = sorted({cell.feature for cell in found.examples})
    reason = f"{found.differ} of {found.cells} features served on {ask.day} are not those of the sources: "
    told = alarms.Told(reason + ", ".join(names), [ask.day], {"cells": found.cells, "cells_differ": found.differ})
    alarms.open_episode(tx, ask.endpoint, KIND, told, moment)
