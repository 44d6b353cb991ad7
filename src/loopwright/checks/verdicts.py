"""The checks themselves: figures in, a Verdict with its reason out."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from loopwright.checks.gains import Gain
from loopwright.checks.intervals import block_interval
from loopwright.checks.sequence import Interval
from loopwright.kernel.verdict import Outcome, Verdict

# Metrics of which more is better; of all others less is.
RISING = frozenset({"auc"})
WORDS = {
    "auc": "AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
    "squared_error": "squared error",
    "absolute_error": "absolute error",
}


def floor(metric: str, limit: float, value: float | None, *, n: int, where: str) -> Verdict:
    """Whether a score on rows that the model has not seen keeps a limit: a least AUC, or a greatest loss."""
    word = WORDS.get(metric, metric)
    evidence: dict[str, Any] = {"metric": metric, "limit": limit, "value": _round(value), "n": n, "where": where}
    if value is None or n == 0:
        reason = f"no {word} could be taken on {where}: {n} labelled rows"
        return Verdict(outcome="unknown", check="floor", reason=reason, evidence=evidence)
    kept = value >= limit if metric in RISING else value <= limit
    side = "at least" if metric in RISING else "at most"
    reason = f"{word} {value:.4f} on {n} rows of {where}; {side} {limit:g} is asked"
    return Verdict(outcome="pass" if kept else "fail", check="floor", reason=reason, evidence=evidence)


def better(metric: str, found: Gain | None, *, by: float, min_days: int, who: str) -> Verdict:
    """Whether a recipe has beaten the champion by a share of its loss, on days that neither had seen.

    The t interval over days is told with it and does not decide: asked to exclude 0, it would starve the loop.
    """
    word, days = WORDS.get(metric, metric), len(found.days) if found else 0
    if found is None or days < min_days:
        reason = f"{_days(days)} on which the recipe can be compared with {who}; at least {min_days} are needed"
        evidence = {"metric": metric, "days": list(found.days) if found else [], "n": found.n if found else 0, "by": by}
        return Verdict(outcome="fail", check="better", reason=reason, evidence=evidence)
    interval = block_interval(found.blocks)
    evidence = {
        "metric": metric,
        "days": list(found.days),
        "n": found.n,
        "by": by,
        "gain": round(found.share, 6),
        "gain_per_row": round(found.per_row, 6),
        "champion_loss": round(found.loss, 6),
        "interval": [round(x / found.loss, 6) for x in interval] if interval and found.loss else None,
    }
    way = "lower" if found.per_row >= 0 else "higher"
    reason = f"{percent(abs(found.share))} {way} {word} than {who} over {_days(days)} (needs {percent(by)})"
    kept = found.per_row >= by * found.loss
    return Verdict(outcome="pass" if kept else "fail", check="better", reason=reason, evidence=evidence)


def known_in_time(
    inputs: Sequence[str], declared: Sequence[str], features: str, late: Mapping[str, str] = MappingProxyType({})
) -> Verdict:
    """Whether every input of a model is a column that the declared features know at the asking time.

    Args:
        late: what is known of some other columns, such as when they become known.
    """
    strange = sorted(set(inputs) - set(declared))
    evidence = {"inputs": len(inputs), "not_declared": strange, "features": features}
    if strange:
        named = ", ".join(f"{name} ({late[name]})" if name in late else name for name in strange)
        reason = f"{named}: not known at the asking time by the features {features!r}"
        return Verdict(outcome="fail", check="known_in_time", reason=reason, evidence=evidence)
    reason = f"all {len(inputs)} inputs are columns of {features!r}, known at the asking time"
    return Verdict(outcome="pass", check="known_in_time", reason=reason, evidence=evidence)


def fast(
    calls: int, p95_us: int | None, champion_p95_us: int | None, *, limit_us: int, times: float = 5, min_calls: int = 20
) -> Verdict:
    """Whether the model call is quick enough: it fails only above both `times` x the champion's and the limit."""
    evidence = {"calls": calls, "p95_us": p95_us, "champion_p95_us": champion_p95_us, "limit_us": limit_us}
    if calls < min_calls or p95_us is None:
        reason = f"only {calls} calls to judge by, {min_calls} are needed; nothing stands against it"
        return Verdict(outcome="pass", check="fast", reason=reason, evidence=evidence)
    slow = p95_us > limit_us and (champion_p95_us is None or p95_us > times * champion_p95_us)
    beside = "" if champion_p95_us is None else f", the champion {champion_p95_us / 1000:.2f} ms"
    reason = f"95 % of {calls} model calls took at most {p95_us / 1000:.2f} ms{beside} (limit {limit_us / 1000:g} ms)"
    return Verdict(outcome="fail" if slow else "pass", check="fast", reason=reason, evidence=evidence)


def no_harm(metric: str, found: Gain | None, *, limit: float, min_rows: int, who: str) -> Verdict:
    """Whether a candidate's own shadow shows no gross harm; unknown while there are too few labels."""
    word, n = WORDS.get(metric, metric), found.n if found else 0
    if found is None or n < min_rows:
        reason = f"{n} labelled rows in its own shadow, {min_rows} are needed"
        return Verdict(outcome="unknown", check="no_harm", reason=reason, evidence={"n": n, "min_rows": min_rows})
    evidence = {"n": n, "days": list(found.days), "gain_per_row": round(found.per_row, 6), "limit": -limit}
    way = "lower" if found.per_row >= 0 else "higher"
    reason = f"{word} {abs(found.per_row):.4f} a row {way} than {who} over {_days(len(found.days))} (harm is {limit:g})"
    harmed = found.per_row < -limit
    return Verdict(outcome="fail" if harmed else "pass", check="no_harm", reason=reason, evidence=evidence)


def not_worse(interval: Interval | None, *, min_blocks: int, who: str) -> Verdict:
    """Whether the confidence sequence leaves open that the new champion is as good as the old one.

    Args:
        interval: of the gain of the new champion over the old one, a row.
        min_blocks: under so many blocks nothing is said.
        who: the old champion.
    """
    n = interval.n if interval else 0
    if interval is None or n < min_blocks:
        reason = f"{_days(n)} beside {who}; nothing is said before {min_blocks}"
        return Verdict(outcome="unknown", check="not_worse", reason=reason, evidence={"blocks": n})
    evidence = {"blocks": n, **{k: round(getattr(interval, k), 6) for k in ("low", "mean", "high")}}
    span = f"{interval.low:+.4f} to {interval.high:+.4f} a row"
    if interval.high < 0:
        reason = f"worse than {who} over {_days(n)}: gain {span}"
        return Verdict(outcome="fail", check="not_worse", reason=reason, evidence=evidence)
    reason = f"not worse than {who} over {_days(n)}: gain {span}"
    return Verdict(outcome="pass", check="not_worse", reason=reason, evidence=evidence)


def together(check: str, verdicts: Sequence[Verdict], *, ready: str) -> Verdict:
    """One verdict of many: it fails with the reasons of those that failed, and passes only when all pass."""
    against = [v for v in verdicts if not v.passed]
    evidence = {"checks": {v.check: v.outcome for v in verdicts}}
    if against:
        outcome: Outcome = "fail" if any(v.outcome == "fail" for v in against) else "unknown"
        reason = "; ".join(v.reason for v in against)
        return Verdict(outcome=outcome, check=check, reason=reason, evidence=evidence)
    return Verdict(outcome="pass", check=check, reason=ready, evidence=evidence)


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


def percent(share: float) -> str:
    """A share as people read it, such as `1.9 %`."""
    return f"{share * 100:.1f}".removesuffix(".0") + " %"


def _round(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 6)
