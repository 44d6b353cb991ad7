"""The roll-out as a state machine: what is seen at a moment goes in, the next move comes out. Pure.

shadow -> canary (step by step) -> watch -> done; refused, stopped and rolled back on the way.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from loopwright.checks.gains import Pair
from loopwright.kernel.times import add_days
from loopwright.kernel.verdict import Verdict
from loopwright.releases import recipe as rules
from loopwright.releases.calendar import Calendar
from loopwright.releases.model import Rollout
from loopwright.releases.policy import WarmRecipe

Kind = Literal["quiet", "wait", "held", "refuse", "step", "stay", "abort", "promote", "roll-back", "end"]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a roll-out at a moment.

    Args:
        name: of the model line, for sentences.
        own: days on which the candidate and the champion of before both scored, since `first_day`, that one first.
        guards: of the canary step that ends now; None when no step ends.
        held: whether a hold stops promotions.
        serves: whether the candidate of a watch still holds the place that it was promoted to.
    """

    name: str
    metric: str
    own: Sequence[Pair] = ()
    guards: Verdict | None = None
    held: bool = False
    serves: bool = True


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What is done: its kind, the roll-out afterwards, and the verdict that decided."""

    kind: Kind
    rollout: Rollout
    verdict: Verdict


def open_rollout(rollout: Rollout, calendar: Calendar) -> Rollout:
    """A candidate that has passed the gate: in shadow until the block of its first day is closed."""
    return msgspec.structs.replace(rollout, phase="shadow", step=-1, next_us=calendar.close(rollout.first_day))


def step_ends(rollout: Rollout, recipe: WarmRecipe, at_us: int) -> bool:
    """Whether a canary step is over at a moment, so that its guards are asked for."""
    return rollout.phase == "canary" and at_us >= rollout.since_us + recipe.canary_step_us


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
    if closed < add_days(rollout.first_day, recipe.own_blocks - 1):
        return _later(rollout, "quiet", calendar.next_close(at_us), verdict)
    if verdict.outcome == "unknown":
        if seen.held:  # the days of a hold are no evidence, so they do not count against it either
            return _later(rollout, "held", calendar.next_close(at_us), verdict)
        if closed < add_days(rollout.first_day, recipe.own_blocks - 1 + recipe.own_more):
            return _later(rollout, "wait", calendar.next_close(at_us), verdict)
        return _done(rollout, "refuse", verdict)
    if seen.held:
        return _later(rollout, "held", calendar.next_close(at_us), verdict)
    return Move(kind="step", rollout=_step(rollout, recipe, calendar, at_us), verdict=verdict)


def _canary(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int, seen: Seen) -> Move:
    harm = rules.own_shadow(recipe, seen.metric, seen.own, f"{seen.name}@{rollout.champion}")
    if harm.outcome == "fail":
        return _done(rollout, "abort", harm)
    if seen.guards is None:
        return _later(rollout, "quiet", _next(rollout, recipe, calendar, at_us), harm)
    if seen.guards.outcome == "fail":
        return _done(rollout, "abort", seen.guards)
    if seen.guards.outcome == "unknown":
        longer = msgspec.structs.replace(rollout, since_us=at_us)
        return _later(longer, "stay", _next(longer, recipe, calendar, at_us), seen.guards)
    if seen.held:
        return _later(rollout, "held", calendar.next_close(at_us), seen.guards)
    if rollout.step + 1 < len(recipe.canary):
        return Move(kind="step", rollout=_step(rollout, recipe, calendar, at_us), verdict=seen.guards)
    day = calendar.day(at_us)
    watched = msgspec.structs.replace(
        rollout, phase="watch", since_us=at_us, first_day=day, next_us=calendar.close(day), outcome="promoted"
    )
    if not recipe.watch_blocks:
        watched = msgspec.structs.replace(watched, phase="done", next_us=None)
    return Move(kind="promote", rollout=watched, verdict=seen.guards)


def _watch(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int, seen: Seen) -> Move:
    verdict = rules.watch(recipe, seen.own, f"{seen.name}@{rollout.champion}")
    if verdict.outcome == "fail" and not seen.serves:  # a later version has its place, and a watch of its own
        over = msgspec.structs.replace(rollout, phase="done", next_us=None, outcome="replaced")
        return Move(kind="quiet", rollout=over, verdict=verdict)
    if verdict.outcome == "fail":
        return _done(rollout, "roll-back", verdict)
    if calendar.closed_by(at_us) >= add_days(rollout.first_day, recipe.watch_blocks - 1):
        return _done(rollout, "end", verdict)
    return _later(rollout, "quiet", calendar.next_close(at_us), verdict)


def _step(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int) -> Rollout:
    moved = msgspec.structs.replace(rollout, phase="canary", step=rollout.step + 1, since_us=at_us)
    return msgspec.structs.replace(moved, next_us=_next(moved, recipe, calendar, at_us))


def _next(rollout: Rollout, recipe: WarmRecipe, calendar: Calendar, at_us: int) -> int:
    """A canary is looked at when a block closes (harm) and when its step ends (guards)."""
    return min(rollout.since_us + recipe.canary_step_us, calendar.next_close(at_us))


def _later(rollout: Rollout, kind: Kind, next_us: int, verdict: Verdict) -> Move:
    return Move(kind=kind, rollout=msgspec.structs.replace(rollout, next_us=next_us), verdict=verdict)


def _done(rollout: Rollout, kind: Kind, verdict: Verdict) -> Move:
    outcome = {"refuse": "refused", "abort": "stopped", "roll-back": "rolled-back", "end": "kept"}[kind]
    done = msgspec.structs.replace(rollout, phase="done", next_us=None, outcome=outcome)
    return Move(kind=kind, rollout=done, verdict=verdict)
