"""The roll-out as a state machine: what is seen at a moment goes in, the next move comes out. Pure.

shadow -> (approval) -> canary (step by step) -> watch -> done; refused, stopped and rolled back on the way.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from loopwright.checks.gains import Pair
from loopwright.kernel.times import DAY, add_days, format_duration
from loopwright.kernel.verdict import Verdict
from loopwright.releases import guards
from loopwright.releases import recipe as rules
from loopwright.releases.calendar import Calendar
from loopwright.releases.model import Rollout
from loopwright.releases.policy import WarmRecipe

Kind = Literal["quiet", "wait", "held", "ask", "refuse", "step", "stay", "abort", "promote", "roll-back", "end"]
LONGEST_US = 14 * DAY  # a canary that is not called for so long keeps the champion
OVERRIDDEN = "overridden"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a roll-out at a moment.

    Args:
        name: of the model line, for sentences.
        own: days on which the candidate and the champion of before both scored, since `first_day`, that one first.
        guards: how its operations went so far; None where they are not asked for.
        held: whether a hold stops promotions.
        approval: of a person, where the endpoint demands one: asked for, answered, or out of time; None = not demanded.
        serves: whether the candidate of a watch still holds the place that it was promoted to.
    """

    name: str
    metric: str
    own: Sequence[Pair] = ()
    guards: Verdict | None = None
    held: bool = False
    serves: bool = True
    approval: Verdict | None = None


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What is done: its kind, the roll-out afterwards, the verdict that decided, and who may not approve it."""

    kind: Kind
    rollout: Rollout
    verdict: Verdict
    askers: tuple[str, ...] = ()


def open_rollout(rollout: Rollout, calendar: Calendar) -> Rollout:
    """A candidate that has passed the gate: in shadow until the block of its first day is closed."""
    return msgspec.structs.replace(rollout, phase="shadow", step=-1, next_us=calendar.close(rollout.first_day))


def guarded(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int) -> bool:
    """Whether a look asks how the candidate's operations went: always, but in a shadow that is not over yet."""
    return rollout.phase != "shadow" or _had_its_days(rollout, recipe, calendar, at_us)


def _had_its_days(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int) -> bool:
    return calendar.closed_by(at_us) >= add_days(rollout.first_day, recipe.own_blocks - 1)


def share(rollout: Rollout, recipe: WarmRecipe) -> float:
    """The share of the traffic that the candidate answers."""
    if rollout.phase != "canary" or rollout.step < 0:
        return 0.0
    return recipe.canary[min(rollout.step, len(recipe.canary) - 1)]  # a project may shorten them on the way


def look(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int, seen: Seen) -> Move:
    """The next move of a roll-out at a moment."""
    if rollout.phase == "shadow":
        return _shadow(rollout, recipe, calendar, at_us, seen)
    if rollout.phase == "canary":
        return _canary(rollout, recipe, calendar, at_us, seen)
    return _watch(rollout, recipe, calendar, at_us, seen)


def _shadow(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int, seen: Seen) -> Move:
    closed = calendar.closed_by(at_us)
    verdict = rules.own_shadow(recipe, seen.metric, seen.own, f"{seen.name}@{rollout.champion}")
    if verdict.outcome == "fail":
        return _done(rollout, "refuse", verdict)
    if not _had_its_days(rollout, recipe, calendar, at_us):
        return _later(rollout, "quiet", calendar.next_close(at_us), verdict)
    if verdict.outcome == "unknown":
        if seen.held:  # the days of a hold are no evidence, so they do not count against it either
            return _later(rollout, "held", calendar.next_close(at_us), verdict)
        if closed < add_days(rollout.first_day, recipe.own_blocks - 1 + recipe.own_more):
            return _later(rollout, "wait", calendar.next_close(at_us), verdict)
        return _done(rollout, "refuse", verdict)
    if seen.guards is not None and seen.guards.outcome == "fail":
        return _done(rollout, "refuse", seen.guards)
    if seen.held:
        return _later(rollout, "held", calendar.next_close(at_us), verdict)
    if seen.approval is not None and seen.approval.outcome == "fail":
        return _done(rollout, "refuse", seen.approval)
    if seen.approval is not None and not seen.approval.passed:
        return _later(rollout, "quiet" if rollout.request else "ask", calendar.next_close(at_us), verdict)
    return Move(kind="step", rollout=_step(rollout, recipe, calendar, at_us), verdict=verdict)


def _canary(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int, seen: Seen) -> Move:
    harm = rules.own_shadow(recipe, seen.metric, seen.own, f"{seen.name}@{rollout.champion}")
    if harm.outcome == "fail":
        return _done(rollout, "abort", harm)
    if seen.guards is not None and seen.guards.outcome == "fail":
        return _done(rollout, "abort", seen.guards)
    if seen.guards is None or at_us < rollout.since_us + recipe.canary_step_us:
        return _later(rollout, "quiet", guards.next_look(rollout, recipe, calendar, at_us), harm)
    if seen.guards.outcome == "unknown" and at_us >= rollout.opened_us + LONGEST_US:
        reason = f"{seen.guards.reason} in {format_duration(at_us - rollout.opened_us)}"
        return _done(rollout, "abort", msgspec.structs.replace(seen.guards, reason=reason))
    if seen.guards.outcome == "unknown":
        longer = msgspec.structs.replace(rollout, since_us=at_us)
        return _later(longer, "stay", guards.next_look(longer, recipe, calendar, at_us), seen.guards)
    if seen.held:
        return _later(rollout, "held", calendar.next_close(at_us), seen.guards)
    if rollout.step + 1 < len(recipe.canary):
        return Move(kind="step", rollout=_step(rollout, recipe, calendar, at_us), verdict=seen.guards)
    day = calendar.day(at_us)
    watched = msgspec.structs.replace(rollout, since_us=at_us, first_day=day, outcome="promoted")
    return Move(kind="promote", rollout=watch(watched, recipe, calendar), verdict=seen.guards)


def watch(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar) -> Rollout:
    """A candidate that holds the place since `since_us`: watched beside the old champion, unless no days are set."""
    if not recipe.watch_blocks:
        return msgspec.structs.replace(rollout, phase="done", next_us=None)
    begun = msgspec.structs.replace(rollout, phase="watch")
    return msgspec.structs.replace(begun, next_us=guards.next_look(begun, recipe, calendar, begun.since_us))


def _watch(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int, seen: Seen) -> Move:
    old = f"{seen.name}@{rollout.champion}"
    verdict = rules.watch(recipe, seen.own, old)
    for found in (seen.guards, guards.gross(recipe, seen.own, old, tested=rollout.outcome != OVERRIDDEN)):
        if found is not None and found.outcome == "fail" and verdict.outcome != "fail":
            verdict = found
    if verdict.outcome == "fail" and not seen.serves:  # a later version has its place, and a watch of its own
        over = msgspec.structs.replace(rollout, phase="done", next_us=None, outcome="replaced")
        return Move(kind="quiet", rollout=over, verdict=verdict)
    if verdict.outcome == "fail":
        return _done(rollout, "roll-back", verdict)
    if calendar.closed_by(at_us) >= add_days(rollout.first_day, recipe.watch_blocks - 1):
        return _done(rollout, "end", verdict)
    return _later(rollout, "quiet", guards.next_look(rollout, recipe, calendar, at_us), verdict)


def _step(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int) -> Rollout:
    moved = msgspec.structs.replace(rollout, phase="canary", step=rollout.step + 1, since_us=at_us)
    return msgspec.structs.replace(moved, next_us=guards.next_look(moved, recipe, calendar, at_us))


def _later(rollout: Rollout, kind: Kind, next_us: int, verdict: Verdict) -> Move:
    return Move(kind=kind, rollout=msgspec.structs.replace(rollout, next_us=next_us), verdict=verdict)


def _done(rollout: Rollout, kind: Kind, verdict: Verdict) -> Move:
    outcome = {"refuse": "refused", "abort": "stopped", "roll-back": "rolled-back", "end": "kept"}[kind]
    done = msgspec.structs.replace(rollout, phase="done", next_us=None, outcome=outcome)
    return Move(kind=kind, rollout=done, verdict=verdict)
