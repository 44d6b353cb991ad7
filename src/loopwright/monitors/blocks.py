"""Closing a daily block: what every version lost on the requests of one calendar day.

A version counts only on requests asked after it was trained, so it has seen none of what it is judged on.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.checks import scores
from loopwright.checks.intervals import ratio_interval
from loopwright.kernel.op import Progress
from loopwright.kernel.times import HOUR
from loopwright.monitors import alarms, contract, drift, lookups, queries, rows
from loopwright.monitors.model import (
    BLOCK_CLOSED,
    BLOCK_FAILED,
    SERVED,
    Block,
    BlockPair,
    ClosedDay,
    Flag,
)
from loopwright.monitors.model import BlockAsk as BlockAsk
from loopwright.serving import labels, predictions
from loopwright.serving.routes import subject_of
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

if TYPE_CHECKING:
    from loopwright.monitors.rows import Column, Rows

CLOSE = "monitors.close-block"
ACTOR = "loop"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A day as measured, before it is written."""

    day: ClosedDay
    blocks: list[Block]
    pairs: list[BlockPair]
    flags: list[Flag]


def close_block(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure and close one day of an endpoint; a day that is closed stays as it is."""
    ask = msgspec.convert(args, BlockAsk)
    with space.read() as tx:
        done = queries.closed_days(tx, ask.endpoint, since=ask.day, until=ask.day)
    if done:
        return {"day": ask.day, "n": done[0].n, "labelled": done[0].n_labelled}
    span = rows.Asked(endpoint=ask.endpoint, since_us=ask.since_us, until_us=ask.close_us, known_before_us=ask.close_us)
    with predictions.connect() as con:
        columns = rows.load(con, space, span)
        found = _measure(con, space, ask, columns)
        progress(1, 2, f"{ask.day} measured")
        moved = drift.measure(con, space, ask, columns)
        story = alarms.prepare(con, space, ask, found.blocks[0], moved.report)
    looked_up = lookups.sample(space, ask)
    space.write(lambda tx: _write(tx, ask, found, moved, story, looked_up))
    return {"day": ask.day, "n": found.day.n, "labelled": found.day.n_labelled}


def _measure(con: Any, space: Space, ask: BlockAsk, columns: list[str]) -> Measured:
    day = rows.take(con, columns, ask.until_us)
    blocks = [measure(day, ask, SERVED), *(measure(day, ask, version) for version in sorted(day.scores))]
    kept = [block for block in blocks if block.n or block.errors or block.version == SERVED]
    since_last = f"SELECT count(*) FROM {rows.TABLE} WHERE label_known_us >= ?"
    (fresh,) = con.execute(since_last, [ask.last_close_us]).fetchone()
    with space.read() as tx:
        last = queries.last_closed(tx, ask.endpoint)
        seen = labels.state(tx, ask.endpoint, ask.close_us)[0]
        before = labels.state(tx, ask.endpoint, ask.last_close_us)[0] if last is None else last.labels_seen
    closed = ClosedDay(
        day=ask.day,
        close_us=ask.close_us,
        n=len(day),
        n_labelled=kept[0].n_labelled,
        n_late=max(0, seen - before - int(fresh)),
        labels_seen=seen,
        champion=ask.champion,
    )
    flags = contract.flags(con, space, ask.endpoint, contract.Held(ask.day, ask.champion, ask.until_us), columns)
    return Measured(day=closed, blocks=kept, pairs=pair_up(day, ask), flags=flags)


def unseen(day: "Rows", trained_us: Mapping[str, int], version: int) -> "Column":
    """Which rows a version scored after it was trained; all answered ones for what was served."""
    import numpy as np

    if version == SERVED:
        return np.isfinite(day.served)
    return np.isfinite(day.scores[version]) & (day.at_us >= trained_us.get(str(version), 0))


def measure(day: "Rows", ask: BlockAsk, version: int) -> Block:
    """The block of one version."""
    import numpy as np

    scored = unseen(day, ask.trained_us, version)
    score = day.served if version == SERVED else day.scores[version]
    use = scored & np.isfinite(day.label)
    label, said = day.label[use], score[use]
    loss = scores.LOSSES[ask.metric](label, said)
    low, high = _hourly(loss, day.at_us[use]) if version == SERVED else (None, None)
    binary = ask.task == "binary"
    took = np.empty(0) if version == SERVED else day.latency_us[version]
    took = took[np.isfinite(took)]
    return Block(
        day=ask.day,
        version=version,
        n=int(scored.sum()),
        n_labelled=int(use.sum()),
        errors=int((~np.isfinite(score)).sum()) if version == SERVED else int(day.bad[version].sum()),
        loss_sum=math.fsum(loss.tolist()),
        score_sum=math.fsum(said.tolist()),
        label_sum=math.fsum(label.tolist()),
        label_square_sum=math.fsum((label * label).tolist()),
        loss_low=low,
        loss_high=high,
        histogram=scores.histogram(label, said) if binary and use.any() else None,
        p95_us=int(np.sort(took)[math.ceil(0.95 * len(took)) - 1]) if len(took) else None,
    )


def pair_up(day: "Rows", ask: BlockAsk) -> list[BlockPair]:
    """Every two versions on the labelled rows that both scored unseen."""
    import numpy as np

    labelled = np.isfinite(day.label)
    unseen_by = {v: unseen(day, ask.trained_us, v) & labelled for v in sorted(day.scores)}
    losses = {v: scores.LOSSES[ask.metric](day.label, day.scores[v]) for v in unseen_by}
    out = []
    for a in unseen_by:
        for b in unseen_by:
            both = unseen_by[a] & unseen_by[b]
            if a < b and both.any():
                loss_a, loss_b = (math.fsum(losses[v][both].tolist()) for v in (a, b))
                out.append(BlockPair(day=ask.day, a=a, b=b, n=int(both.sum()), loss_a=loss_a, loss_b=loss_b))
    return out


def _hourly(loss: "Column", at_us: "Column") -> tuple[float | None, float | None]:
    """An interval for the mean loss of a day, with its hours as blocks: rows of one hour hang together."""
    sums: dict[int, list[float]] = {}
    for hour, value in zip((at_us // HOUR).tolist(), loss.tolist(), strict=True):
        sums.setdefault(hour, []).append(value)
    found = ratio_interval([math.fsum(part) for part in sums.values()], [len(part) for part in sums.values()])
    return (None, None) if found is None or len(sums) < 2 else (found[0], found[2])


def _write(
    tx: Tx,
    ask: BlockAsk,
    found: Measured,
    moved: drift.Kept,
    story: dict[str, Any] | None,
    looked_up: lookups.Compared | None,
) -> None:
    if queries.closed_days(tx, ask.endpoint, since=ask.day, until=ask.day):
        return
    served, day = found.blocks[0], found.day
    loss = served.loss_sum / served.n_labelled if served.n_labelled else None
    data = {
        "endpoint": ask.endpoint,
        "day": ask.day,
        "requests": day.n,
        "labelled": day.n_labelled,
        "late": day.n_late,
        "metric": ask.metric.replace("_", " "),
        "loss": None if loss is None else round(loss, 6),
    }
    if looked_up is not None:
        data |= {"cells": looked_up.cells, "cells_differ": looked_up.differ}
    subject = subject_of(ask.endpoint)
    seq = ledger.append(tx, ACTOR, BLOCK_CLOSED, subject, data, at_us=ask.close_us)
    contract.tell(tx, ask.endpoint, found.flags, day, cause=seq)
    queries.put_day(tx, ask.endpoint, day, seq)
    queries.put_blocks(tx, ask.endpoint, found.blocks, found.pairs)
    queries.put_flags(tx, ask.endpoint, found.flags)
    drift.write(tx, ask, moved, cause=seq)
    alarms.judge(tx, ask, alarms.Moment(ask.close_us, seq), story)
    lookups.judge(tx, ask, looked_up, alarms.Moment(ask.close_us, seq))


def give_up(tx: Tx, ask: BlockAsk, reason: str) -> None:
    """Write a day that could not be measured as closed without rows, so that the loop goes on."""
    if queries.closed_days(tx, ask.endpoint, since=ask.day, until=ask.day):
        return
    data = {"endpoint": ask.endpoint, "day": ask.day, "reason": reason}
    seq = ledger.append(tx, ACTOR, BLOCK_FAILED, subject_of(ask.endpoint), data, at_us=ask.close_us)
    seen = labels.state(tx, ask.endpoint, ask.close_us)[0]  # so that the next day does not call all of them late
    day = ClosedDay(
        day=ask.day, close_us=ask.close_us, n=0, n_labelled=0, n_late=0, labels_seen=seen, champion=ask.champion
    )
    queries.put_day(tx, ask.endpoint, day, seq)


JOBS = {CLOSE: close_block}
