"""The quality alarm: an episode over daily blocks. It pages and explains; it starts nothing.

Served predictions are held against labels; the reference is the skill of the twin of the first gate.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from loopwright.checks import scores
from loopwright.checks.verdicts import percent
from loopwright.kernel import canonical
from loopwright.kernel.times import DAY
from loopwright.kernel.verdict import Verdict
from loopwright.monitors import queries, rows
from loopwright.monitors.model import ALARM_CLOSED, ALARM_OPENED, SERVED, Block, Limits
from loopwright.serving.columns import quoted
from loopwright.serving.routes import subject_of
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

ACTOR = "loop"
KIND = "quality"
MIN_SEGMENT = 100


class Moment(NamedTuple):
    """When something was seen, and the event that says so."""

    at_us: int
    cause: int | None = None


class Told(NamedTuple):
    """What a page says.

    Args:
        figures: numbers and names for the event, equal in every replay.
        explanation: what the alarm's row holds beside them; it may hold what an event must not.
    """

    reason: str
    days: Sequence[str] = ()
    figures: Mapping[str, Any] = MappingProxyType({})
    explanation: Mapping[str, Any] = MappingProxyType({})


class Window(NamedTuple):
    """What was served over some days together."""

    days: list[str]
    n: int
    loss: float
    mean_score: float
    label_rate: float
    skill: float | None


def window(blocks: list[Block]) -> Window | None:
    """Some blocks as one window; None without a labelled row."""
    kept = [block for block in blocks if block.n_labelled]
    n = sum(block.n_labelled for block in kept)
    if n == 0:
        return None
    loss, said, true, square = (
        math.fsum(getattr(block, field) for block in kept) / n
        for field in ("loss_sum", "score_sum", "label_sum", "label_square_sum")
    )
    binary = any(block.histogram is not None for block in kept)
    skill = scores.skill(true, loss) if binary else _spread_skill(loss, square - true * true)
    return Window([block.day for block in kept], n, loss, said, true, skill)


def _spread_skill(loss: float, variance: float) -> float | None:
    return 1 - loss / variance if variance > 0 else None


def verdict(found: Window | None, reference: float | None, limits: Limits, *, binary: bool = True) -> Verdict:
    """Whether what was served is as good as it was promised to be."""
    days = len(found.days) if found else 0
    if found is None or days < limits.min_days:
        return Verdict(
            outcome="unknown", check="quality", reason=f"{days} days with labels, {limits.min_days} are needed"
        )
    bias = found.mean_score - found.label_rate
    figures = {
        "n": found.n,
        "loss": round(found.loss, 6),
        "mean_score": round(found.mean_score, 6),
        "label_rate": round(found.label_rate, 6),
        "skill": None if found.skill is None else round(found.skill, 6),
        "reference": None if reference is None else round(reference, 6),
    }
    against = []
    if binary and abs(bias) > limits.bias:
        against.append(f"predicted {percent(found.mean_score)} on average, {percent(found.label_rate)} came true")
    if reference is not None and found.skill is not None and found.skill < limits.skill_share * reference:
        against.append(f"skill {found.skill:.3f}, under {percent(limits.skill_share)} of the reference {reference:.3f}")
    evidence = {"days": found.days, "figures": figures}
    if against:
        reason = f"over {days} days to {found.days[-1]}: {'; '.join(against)}"
        return Verdict(outcome="fail", check="quality", reason=reason, evidence=evidence)
    reason = f"over {days} days to {found.days[-1]} predictions and labels agree"
    return Verdict(outcome="pass", check="quality", reason=reason, evidence=evidence)


def _look(tx: Tx, endpoint: str, limits: Limits, fresh: Block | None = None) -> Verdict:
    blocks = queries.blocks(tx, endpoint, version=SERVED)[-limits.days :]
    if fresh is not None:
        blocks = [*blocks, fresh][-limits.days :]
    binary = any(block.histogram is not None for block in blocks)
    return verdict(window(blocks), queries.reference(tx, endpoint), limits, binary=binary)


def prepare(con: Any, space: Space, span: rows.Asked, limits: Limits, served: Block) -> dict[str, Any] | None:
    """The explanation of an alarm that the block of a day (`span`) will raise; None when it raises none."""
    with space.read() as tx:
        found = _look(tx, span.endpoint, limits, served)
        if found.outcome != "fail" or queries.open_alarm(tx, span.endpoint, KIND) is not None:
            return None
    wide = msgspec.structs.replace(span, since_us=span.since_us - (limits.days - 1) * DAY)
    columns = rows.load(con, space, wide)
    return {"worst_segment": worst_segment(con, columns)}


def worst_segment(con: Any, columns: list[str]) -> dict[str, Any] | None:
    """The level of a text column at which predictions and labels are furthest apart for its size."""
    kinds = {row[0]: row[1] for row in con.execute(f"DESCRIBE {rows.TABLE}").fetchall()}
    found = []
    for column in columns:
        if not column.startswith("in_") or kinds[column] != "VARCHAR":
            continue
        name = quoted(column)
        found += con.execute(
            f"SELECT ?, {name}, count(*), avg(score), avg(label) FROM {rows.TABLE}"
            f" WHERE label IS NOT NULL AND score IS NOT NULL AND {name} IS NOT NULL"
            f" GROUP BY {name} HAVING count(*) >= {MIN_SEGMENT}",
            [column.removeprefix("in_")],
        ).fetchall()
    if not found:
        return None
    column, level, n, mean, rate = max(found, key=lambda r: (abs(r[3] - r[4]) * math.sqrt(r[2]), r[0], r[1]))
    return {"column": column, "level": level, "n": n, "mean_score": round(mean, 6), "label_rate": round(rate, 6)}


def judge(tx: Tx, endpoint: str, limits: Limits, moment: Moment, story: dict[str, Any] | None) -> Verdict:
    """Open, keep or end the quality alarm after a block; an alarm is one episode, however long it lasts."""
    found = _look(tx, endpoint, limits)
    held = queries.open_alarm(tx, endpoint, KIND)
    if held is None and found.outcome == "fail":
        figures = found.evidence["figures"]
        told = Told(found.reason, found.evidence["days"], figures, story or {})
        open_episode(tx, endpoint, KIND, told, moment)
    elif held is not None:
        clean = held["clean"] + 1 if found.outcome == "pass" else 0
        tx.execute("UPDATE alarms SET clean = ? WHERE id = ?", (clean, held["id"]))
        if clean >= limits.clean_days:
            close_episode(tx, endpoint, KIND, found.reason, moment)
    return found


def open_episode(tx: Tx, endpoint: str, kind: str, told: Told, moment: Moment) -> int | None:
    """Open an alarm of a kind and return its event; None, and nothing is done, while one of that kind is open."""
    if queries.open_alarm(tx, endpoint, kind) is not None:
        return None
    shown = {"days": list(told.days), "figures": dict(told.figures)}
    data = {"endpoint": endpoint, "alarm": kind, "reason": told.reason, **shown}
    seq = ledger.append(tx, ACTOR, ALARM_OPENED, subject_of(endpoint), data, cause=moment.cause, at_us=moment.at_us)
    alarm = f"alarm_{canonical.digest([endpoint, kind, moment.at_us])[:26]}"
    explanation = {**told.explanation, "days": list(told.days), **told.figures}
    tx.execute(
        "INSERT INTO alarms(id, endpoint, kind, opened_us, reason, explanation, clean, seq)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (alarm, endpoint, kind, moment.at_us, told.reason, msgspec.json.encode(explanation).decode(), seq),
    )
    return seq


def close_episode(tx: Tx, endpoint: str, kind: str, reason: str, moment: Moment) -> int | None:
    """End the open alarm of a kind and return its event; None where none is open."""
    held = queries.open_alarm(tx, endpoint, kind)
    if held is None:
        return None
    tx.execute("UPDATE alarms SET closed_us = ? WHERE id = ?", (moment.at_us, held["id"]))
    data = {"endpoint": endpoint, "alarm": kind, "reason": reason}
    return ledger.append(
        tx, ACTOR, ALARM_CLOSED, subject_of(endpoint), data, cause=moment.cause or held["seq"], at_us=moment.at_us
    )
