"""The warm recipe: when a challenger is trained, what it must have shown, how it is rolled out and watched.

Every number is a named setting; docs/guides/policy.md says what each does and what was measured.
"""

import itertools
from typing import Any

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import DAY, HOUR, format_duration, parse_duration


class WarmRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the warm recipe, as `lw.warm` makes them.

    Args:
        every_days: days from one training to the next.
        close_minutes: minutes past midnight of the next day at which a day's block is closed.
        window_blocks: the gate looks at so many closed days; at least `min_blocks` must count.
        min_gain: share of the champion's loss that the recipe must have saved on them.
        cover: share of a day's labelled requests that a challenger must have scored for the day to count for it.
        min_labels: labelled rows that a block needs to count in the own shadow and in the watch.
        own_blocks: closed blocks of its own shadow that a candidate must have; `own_more` are waited for when they
            hold too few labels.
        harm_limit: loss a row above the champion's at which a candidate is refused or a canary stopped.
        canary: shares of the traffic, step by step; `canary_step_us` is the length of a step.
        max_errors: share of failed calls above the champion's that is tolerated.
        watch_blocks: days for which the old champion goes on in shadow.
        pool: former champions that go along in shadow for good, and may win the place again by the same gate.
        rollback_min_blocks: no rollback by itself on fewer blocks.
        alpha, past_sd: of the confidence sequence of the watch; `past_sd` is the spread of paired day blocks a row.
        cooldown_us: least time from one training to the next that a trigger starts.
        cap, cap_us: at most `cap` trainings by triggers in `cap_us`.
        given: the settings that the project names; of the others those in `Measured` follow the endpoint's own data.
    """

    every_days: int = 7
    close_minutes: int = 240
    window_blocks: int = 7
    min_blocks: int = 5
    min_gain: float = 0.01
    cover: float = 0.95
    min_labels: int = 50
    own_blocks: int = 1
    own_more: int = 1
    harm_limit: float = 0.05
    canary: tuple[float, ...] = (0.05, 0.25, 1.0)
    canary_step_us: int = 8 * HOUR
    max_errors: float = 0.001
    watch_blocks: int = 7
    pool: int = 0
    rollback_min_blocks: int = 5
    alpha: float = 0.05
    past_sd: float = 0.03
    cooldown_us: int = DAY
    cap: int = 8
    cap_us: int = 28 * DAY
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _counts(self)
        _shares(self)
        _times(self)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint's own data says of the settings that its project leaves open; None and 0: nothing yet.

    Args:
        close_minutes: by when a day's labels are known, from the history before the first deploy.
        loss: mean loss a row of what was served (of the first model's twin, before anything was).
        sd: spread of the day blocks of two neighbouring refits, over `blocks` of them.
        labels: labels of a usual day.
    """

    close_minutes: int | None = None
    loss: float | None = None
    sd: float | None = None
    blocks: int = 0
    labels: int = 0


OPEN = ("close_minutes", "past_sd", "harm_limit", "min_labels")  # what follows the data where nobody names it
LATEST_CLOSE = 60 * 24 * 60  # minutes: labels that take longer than two months are judged without
# The day blocks of two refits of neighbouring weeks lie about this share of the loss apart. A
# watch holds a version against one that is weeks older, whose days lie further apart; harm is more than three times it.
SD_OF_LOSS, WATCH_SDS, HARM_SDS = 1 / 27, 5 / 3, 3.0


def fitted(recipe: WarmRecipe, found: Measured) -> WarmRecipe:
    """The recipe with the settings that nobody named taken from the endpoint's own data."""
    own: dict[str, Any] = {}
    if found.close_minutes is not None:
        own["close_minutes"] = found.close_minutes
    if found.sd:
        own |= {"past_sd": round(WATCH_SDS * found.sd, 6), "harm_limit": round(HARM_SDS * found.sd, 6)}
    if found.labels:
        own["min_labels"] = max(10, min(recipe.min_labels, found.labels // 2))
    return msgspec.structs.replace(recipe, **{name: own[name] for name in own if name not in recipe.given})


def _refuse(field: str, what: str) -> Invalid:
    return Invalid(f"{field} {what}", code="policy.value", field=field, hint="docs/guides/policy.md")


def _counts(recipe: WarmRecipe) -> None:
    least = {"window_blocks": 1, "min_blocks": 1, "min_labels": 1, "own_blocks": 1, "own_more": 0, "watch_blocks": 0}
    for field, low in {**least, "pool": 0, "rollback_min_blocks": 2, "cap": 1}.items():
        value = getattr(recipe, field)
        if not isinstance(value, int) or not low <= value <= 10_000:
            raise _refuse(field, f"must be a whole number from {low}, not {value!r}")
    if recipe.min_blocks > recipe.window_blocks:
        raise _refuse("min_blocks", f"cannot be more than window_blocks ({recipe.window_blocks})")
    if recipe.watch_blocks and recipe.rollback_min_blocks > recipe.watch_blocks:
        raise _refuse("rollback_min_blocks", f"cannot be more than watch_blocks ({recipe.watch_blocks})")


def _shares(recipe: WarmRecipe) -> None:
    for field in ("min_gain", "max_errors"):
        if not 0 <= getattr(recipe, field) < 1:
            raise _refuse(field, f"is a share from 0 to 1, not {getattr(recipe, field)!r}")
    if not 0 < recipe.cover <= 1:
        raise _refuse("cover", f"is a share above 0 and up to 1, not {recipe.cover!r}")
    if not 0 < recipe.alpha < 0.5:
        raise _refuse("alpha", f"lies between 0 and 0.5, not {recipe.alpha!r}")
    for field in ("harm_limit", "past_sd"):
        if not getattr(recipe, field) > 0:
            raise _refuse(field, f"must be above 0, not {getattr(recipe, field)!r}")
    steps = recipe.canary
    rising = all(low < high for low, high in itertools.pairwise((0.0, *steps)))
    if not steps or steps[-1] != 1 or not rising:
        raise _refuse("canary", f"must rise and end with 1, such as (0.05, 0.25, 1), not {steps!r}")


def _times(recipe: WarmRecipe) -> None:
    if not 1 <= recipe.every_days <= 3660:
        raise _refuse("every", f"must be whole days from 1d, not {recipe.every_days!r}d")
    if not 0 <= recipe.close_minutes <= LATEST_CLOSE:
        raise _refuse("block_close", f"must be a time of day such as 04:00, not {recipe.close_minutes} minutes")
    if recipe.canary_step_us <= 0:
        raise _refuse("canary_step", "must be longer than nothing")
    if recipe.cooldown_us > recipe.every_days * DAY:
        raise _refuse("cooldown", f"cannot be longer than every ({recipe.every_days}d)")
    if recipe.cap * recipe.every_days * DAY < recipe.cap_us:
        often = f"{recipe.cap} in {format_duration(recipe.cap_us)}"
        enough = f"{-(-recipe.cap_us // (recipe.every_days * DAY))} in {format_duration(recipe.cap_us)}"
        what = f"({often}) leaves no room for a training every {recipe.every_days}d"
        raise Invalid(f"at_most {what}", code="policy.value", field="at_most", hint=f'at_most="{enough}"')


def minutes_of(text: str, field: str) -> int:
    """Read `04:00` (or `3d 04:00`, three days later) as minutes past the midnight that ends a day.

    Raises:
        Invalid: the text is no time of day.
    """
    later, _, clock = text.rpartition("d ")
    hour, colon, minute = clock.partition(":")
    good = colon and hour.isdigit() and minute.isdigit() and len(minute) == 2 and (later.isdigit() or not later)
    if not good or int(hour) > 23 or int(minute) > 59 or (later and not 0 < int(later) <= 60):
        raise _refuse(field, f"must be a time of day such as 04:00, or 3d 04:00, not {text!r}")
    return int(later or 0) * 24 * 60 + int(hour) * 60 + int(minute)


def days_of(text: str, field: str) -> int:
    """Read `7d` as a number of days.

    Raises:
        Invalid: the text is no whole number of days.
    """
    span = parse_duration(text, field)
    if span == 0 or span % DAY:
        raise _refuse(field, f"must be whole days such as 7d, not {text!r}")
    return span // DAY


def cap_of(text: str, field: str) -> tuple[int, int]:
    """Read `8 in 28d` as a count and a span.

    Raises:
        Invalid: the text has another form.
    """
    words = text.split()
    if len(words) != 3 or words[1] != "in" or not words[0].isdigit():
        raise _refuse(field, f"must read like '8 in 28d', not {text!r}")
    return int(words[0]), parse_duration(words[2], field)
