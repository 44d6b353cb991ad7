"""The guards of a roll-out: whether a candidate fails, is slow, or does gross harm. Pure; asked at any time.

Operations are counted window by window while the candidate scores in shadow, answers in the canary and is watched.
"""

import math
from collections.abc import Sequence

from loopwright.checks.eprocess import Counts, evidence
from loopwright.checks.gains import Pair, gain
from loopwright.checks.intervals import wilson
from loopwright.checks.verdicts import percent
from loopwright.kernel.times import DAY, HOUR
from loopwright.kernel.verdict import Verdict
from loopwright.monitors.model import Block
from loopwright.monitors.windows import GuardWindow
from loopwright.releases.calendar import Calendar
from loopwright.releases.model import GuardLook, Phase, Rollout
from loopwright.releases.policy import WarmRecipe

ALPHA = 0.01  # how often, at most, one guard may stop a candidate that keeps its limit
TIMES = 3  # a call is slow above so many times what the champion needs
FLOOR_US = 500  # and above this, which a busy machine alone does not reach in one call of many
SLOW_SHARE = 0.05
TOGETHER = 8  # rows that a worker scores in one call share its time: what holds one up holds up so many
PAST_DAYS = 14  # of the champion's own calls
CANARY_EVERY_US, WATCH_EVERY_US, WATCH_OFTEN_US = HOUR, 4 * HOUR, 2 * DAY
_FLAT = (1.0, 1.0)
_OVERRIDE_Z = 1.645


def next_look(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int) -> int:
    """When a canary or a watch is looked at next: often while it is young, and whenever a block is closed."""
    close = calendar.next_close(at_us)
    every = CANARY_EVERY_US if rollout.phase == "canary" else WATCH_EVERY_US
    steady = rollout.since_us + ((at_us - rollout.since_us) // every + 1) * every
    if rollout.phase == "canary":
        return min(close, steady, rollout.since_us + recipe.canary_step_us)
    return min(close, steady) if at_us < rollout.since_us + WATCH_OFTEN_US else close


def slow_above(past: Sequence[Block]) -> int:
    """The microseconds above which a call counts as slow: by the champion's slowest day, not under the floor."""
    return max(FLOOR_US, TIMES * max((block.p95_us or 0 for block in past), default=0))


def counted(rollout: Rollout, window: GuardWindow, until_us: int) -> GuardLook:
    """What one window adds."""
    return GuardLook(
        rollout=rollout.id,
        until_us=until_us,
        phase=rollout.phase,
        calls=window.calls,
        alone=window.alone,
        paired=window.paired,
        slow=window.slow,
    )


def operations(recipe: WarmRecipe, looks: Sequence[GuardLook], past: Sequence[Block], since_us: int) -> Verdict:
    """Point 6: whether the candidate fails or is slow more often than the champion; unknown when it was never called.

    A call counts as failed when it gave no usable answer and the champion's call for the same request did. What the
    champion's rate may be is the upper end of a 95 % interval over its own calls before the roll-out.

    Args:
        looks: all windows of the roll-out, oldest first.
        past: the champion's blocks of the days before it.
        since_us: what was seen later than this says whether it was called at all.
    """
    calls, alone = sum(look.calls for look in looks), sum(look.alone for look in looks)
    before = sum(block.n + block.errors for block in past)
    failed = sum(block.errors for block in past)
    known = wilson(failed, before)[1] if before else 0.0
    figures = {"calls": calls, "alone": alone, "champion_errors": failed, "champion_calls": before}
    proof = _proof([(look.alone, look.calls, look.phase) for look in looks], min(known + recipe.max_errors, 0.99))
    if proof >= -math.log(ALPHA):
        where = f"{alone} of {calls} calls failed where the champion's did not"
        reason = f"{where}; of the champion's {failed} of {before} failed before"
        return Verdict(outcome="fail", check="few_errors", reason=reason, evidence=figures)
    paired, slow = sum(look.paired for look in looks), sum(look.slow for look in looks)
    timed = [(look.slow / TOGETHER, look.paired / TOGETHER, look.phase) for look in looks]
    if _proof(timed, SLOW_SHARE, _FLAT) >= -math.log(ALPHA):
        share = percent(slow / paired)
        reason = f"{share} of {paired} calls took more than {TIMES} times as long as the champion's"
        return Verdict(outcome="fail", check="fast", reason=reason, evidence=figures)
    if not sum(look.calls for look in looks if look.until_us > since_us):
        return Verdict(outcome="unknown", check="canary", reason="it was not called once", evidence=figures)
    reason = f"{calls} calls, {alone} failed alone, not slow"
    return Verdict(outcome="pass", check="canary", reason=reason, evidence=figures)


def _proof(found: Sequence[tuple[float, float, Phase]], most: float, prior: tuple[float, float] = (1.0, 30.0)) -> float:
    windows, phase = [], ""
    for count, calls, named in found:
        windows.append(Counts(count, calls, named != phase))
        phase = named
    return evidence(windows, most, prior)


def gross(recipe: WarmRecipe, pairs: Sequence[Pair], old: str, *, tested: bool) -> Verdict:
    """Whether the first closed days of a watch show gross harm, before the confidence sequence may say anything.

    Two days at least must have lost more than the harm limit a row on average, some 2.4 standard deviations of equal
    models. A version that was put in place past the gate has shown nothing that speaks for it: 1.645 of them suffice.

    Args:
        pairs: days since the place was won, the old champion first.
        tested: whether it went through the gate.
    """
    found = gain([pair for pair in pairs if pair.n >= recipe.min_labels])
    days = len(found.days) if found else 0
    if found is None or days < 2:
        return Verdict(outcome="unknown", check="gross_harm", reason=f"{days} days beside {old}", evidence={})
    limit = recipe.harm_limit if tested else min(_OVERRIDE_Z * recipe.past_sd / math.sqrt(days), recipe.harm_limit)
    evidence = {"n": found.n, "days": list(found.days), "gain_per_row": round(found.per_row, 6), "limit": -limit}
    said = f"{abs(found.per_row):.4f} a row {'worse' if found.per_row < 0 else 'better'} than {old} over {days} days"
    harmed = found.per_row < -limit
    reason = f"{said} (harm is {limit:.3g})"
    return Verdict(outcome="fail" if harmed else "pass", check="gross_harm", reason=reason, evidence=evidence)
