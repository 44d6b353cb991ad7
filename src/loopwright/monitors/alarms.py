"""The quality alarm: an episode over daily blocks. It pages and explains; it starts nothing.

Served predictions are held against labels; the reference is the skill of the twin of the first gate.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from loopwright.checks import scores
from loopwright.checks.intervals import moderated_interval
from loopwright.checks.verdicts import percent
from loopwright.kernel import canonical
from loopwright.kernel.times import DAY
from loopwright.kernel.verdict import Verdict
from loopwright.monitors import queries, rows
from loopwright.monitors.model import ALARM_CLOSED, ALARM_OPENED, SERVED, Block, BlockAsk, DriftReport, Limits
from loopwright.serving.columns import quoted
from loopwright.serving.routes import subject_of
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

ACTOR = "loop"
KIND = "quality"
MIN_SEGMENT = 100
WEEK = 7
PAST = 56


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


class Ground(NamedTuple):
    """What served quality is held against: the loss and its kind, and the skill and loss of the first gate's twin."""

    metric: str
    binary: bool = True
    skill: float | None = None
    loss: float | None = None


class _Claim(NamedTuple):
    """One statement about the last days: how far off, at least how far, what is allowed, how near to that."""

    what: str
    days: int
    estimate: float
    bound: float
    limit: float

    @property
    def state(self) -> str:
        return "fail" if self.bound > self.limit else "warn" if self.estimate > self.limit else "pass"


def verdict(blocks: list[Block], ground: Ground, limits: Limits) -> Verdict:
    """Whether what was served is as good as it was promised to be.

    It fails only when over one of the windows the bound of the bias or of the loss lies beyond what is allowed; it
    passes when over the week no estimate does; between them it warns, which neither opens nor ends an alarm.
    """
    kept = [block for block in blocks if block.n_labelled]
    sizes = [size for size in limits.days if size <= len(kept)]
    if not sizes:
        least = min(limits.days)
        reason = f"{len(kept)} days with labels, {least} are needed"
        return Verdict(outcome="unknown", check="quality", reason=reason)
    claims = [claim for size in sizes for claim in _claims(kept, size, ground, limits)]
    worst = max(claims, key=lambda c: (c.bound - c.limit) / c.limit)
    size = worst.days if worst.state == "fail" else max(size for size in sizes if size <= WEEK or size == sizes[0])
    found = window(kept[-size:])
    assert found is not None
    figures: dict[str, Any] = {
        "n": found.n,
        "loss": round(found.loss, 6),
        "mean_score": round(found.mean_score, 6),
        "label_rate": round(found.label_rate, 6),
        "skill": None if found.skill is None else round(found.skill, 6),
        "reference": None if ground.skill is None else round(ground.skill, 6),
    }
    evidence: dict[str, Any] = {"days": found.days, "figures": figures}
    if worst.state == "fail":
        figures |= {"claim": worst.what, "level": round(limits.level, 6)}
        figures |= {name: round(getattr(worst, name), 6) for name in ("estimate", "bound", "limit")}
        reason = f"over {size} days to {found.days[-1]}: {_said(worst, found, ground)}"
        reason += f" ({worst.estimate:.3g}; at least {worst.bound:.3g} at {_percent(limits.level)}; {worst.limit:.3g}"
        return Verdict(outcome="fail", check="quality", reason=f"{reason} is allowed)", evidence=evidence)
    near = any(claim.state != "pass" for claim in claims if claim.days == size)
    reason = f"over {size} days to {found.days[-1]} predictions and labels "
    reason += "differ by no more than chance may do" if near else "agree"
    return Verdict(outcome="warn" if near else "pass", check="quality", reason=reason, evidence=evidence)


def _claims(blocks: list[Block], size: int, ground: Ground, limits: Limits) -> list[_Claim]:
    """The statements about the last `size` blocks; those up to 56 before them tell the usual spread."""
    late, past = blocks[-size:], blocks[-size - PAST : -size]
    every = [*past, *late]
    n = sum(block.n_labelled for block in every)
    label, said, square = (
        math.fsum(getattr(block, field) for block in every) / n
        for field in ("label_sum", "score_sum", "label_square_sum")
    )
    rate = min(max((label + said) / 2, 1e-6), 1 - 1e-6)  # all labels may be equal in a few days
    sd = math.sqrt(max(rate * (1 - rate) if ground.binary else square - label * label, 1e-18))
    share = math.sqrt(0.2**2 + len(every) / n)  # spread between days, and that of the rows of one
    spec = [("bias", [b.score_sum - b.label_sum for b in every], limits.bias * sd, share * sd)]
    over = _over(late, every, ground, limits)
    if over is not None:
        loss = math.fsum(block.loss_sum for block in every) / n
        spec.append(("loss", *over, max(share * loss, 1e-18)))
    out = []
    for what, sums, limit, prior in spec:
        now, before = (
            [x * len(part) / sum(block.n_labelled for block in part) for x in values]
            for part, values in ((late, sums[len(past) :]), (past, sums[: len(past)]))
        )
        low, mean, high = moderated_interval(now, before, prior_sd=prior, level=limits.level)
        bound = max(low, -high) if what == "bias" else low
        out.append(_Claim(what, size, abs(mean) if what == "bias" else mean, bound, limit))
    return out


def _over(late: list[Block], every: list[Block], ground: Ground, limits: Limits) -> tuple[list[float], float] | None:
    """By block the loss above that of the reference's skill on these labels, and how much a row may have of it.

    A constant guess, the mean label of the days that are looked at, is the measure of skill.
    """
    n = sum(block.n_labelled for block in late)
    mean = math.fsum(block.label_sum for block in late) / n
    if ground.skill is not None and ground.skill > 0:
        plain = [_plain(block, mean, ground) for block in every]
        total = math.fsum(plain[-len(late) :]) / n
        allowed = (1 - limits.skill_share) * ground.skill * total
        sums = [block.loss_sum - (1 - ground.skill) * p for block, p in zip(every, plain, strict=True)]
        return (sums, allowed) if total > 0 else None
    if ground.loss is not None and ground.loss > 0:
        return [b.loss_sum - ground.loss * b.n_labelled for b in every], limits.loss_share * ground.loss
    return None


def _plain(block: Block, mean: float, ground: Ground) -> float:
    """The loss of a constant guess on a block."""
    if ground.metric == "log_loss":
        rate = min(max(mean, 1e-6), 1 - 1e-6)
        return -block.label_sum * math.log(rate) - (block.n_labelled - block.label_sum) * math.log(1 - rate)
    return block.label_square_sum - 2 * mean * block.label_sum + block.n_labelled * mean * mean


def _said(claim: _Claim, found: Window, ground: Ground) -> str:
    if claim.what == "bias" and ground.binary:
        return f"predicted {percent(found.mean_score)} on average, {percent(found.label_rate)} came true"
    if claim.what == "bias":
        return f"predicted {found.mean_score:.4g} on average, {found.label_rate:.4g} came true"
    if ground.skill is not None and found.skill is not None:
        return f"skill {found.skill:.3f} where {ground.skill:.3f} was measured before, a loss a row that is higher"
    return f"{ground.metric.replace('_', ' ')} {found.loss:.4g} where {ground.loss or 0:.4g} was measured before"


def _percent(level: float) -> str:
    return f"{level * 100:.2f} %"


def _look(tx: Tx, endpoint: str, metric: str, limits: Limits, fresh: Block | None = None) -> Verdict:
    kept = max(limits.days) + PAST
    blocks = queries.blocks(tx, endpoint, version=SERVED)[-kept:]
    if fresh is not None:
        blocks = [*blocks, fresh][-kept:]
    return verdict(blocks, ground_of(tx, endpoint, metric, blocks), limits)


def ground_of(tx: Tx, endpoint: str, metric: str, blocks: list[Block]) -> Ground:
    """What an endpoint's quality is held against."""
    binary = any(block.histogram is not None for block in blocks)
    detail, skill = queries.reference_detail(tx, endpoint), queries.reference(tx, endpoint)
    loss = detail.get("loss") if detail.get("metric", metric) == metric else None
    rate = detail.get("label_rate")
    if skill is None and metric == "brier" and loss is not None and rate is not None and 0 < rate < 1:
        skill = 1 - loss / (rate * (1 - rate))
    return Ground(metric, binary, skill, loss)


def prepare(con: Any, space: Space, ask: BlockAsk, served: Block, report: DriftReport) -> dict[str, Any] | None:
    """The explanation of an alarm that the block of a day will raise; None when it raises none."""
    with space.read() as tx:
        found = _look(tx, ask.endpoint, ask.metric, ask.limits, served)
        if found.outcome != "fail" or queries.open_alarm(tx, ask.endpoint, KIND) is not None:
            return None
    since_us = ask.since_us - (len(found.evidence["days"]) - 1) * DAY
    wide = rows.Asked(endpoint=ask.endpoint, since_us=since_us, until_us=ask.close_us, known_before_us=ask.close_us)
    columns = rows.load(con, space, wide)
    return {"worst_segment": worst_segment(con, columns), "moved": msgspec.to_builtins(report.moved)}


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


def judge(tx: Tx, ask: BlockAsk, moment: Moment, story: dict[str, Any] | None) -> Verdict:
    """Open, keep or end the quality alarm after a block; an alarm is one episode, however long it lasts."""
    endpoint, limits = ask.endpoint, ask.limits
    found = _look(tx, endpoint, ask.metric, limits)
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
    alarm = f"alarm_{canonical.digest([endpoint, kind, moment.at_us, seq])[:26]}"
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
