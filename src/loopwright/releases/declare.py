"""What a project file says of releases: lw.gate, its checks, and lw.warm."""

from collections.abc import Sequence
from typing import Any

from loopwright.kernel.errors import Invalid
from loopwright.kernel.times import parse_duration
from loopwright.releases.model import Better, Fast, Floor, GateCheck, GateSpec, KnownInTime, Slices
from loopwright.releases.policy import OPEN, WarmRecipe, cap_of, days_of, minutes_of


def gate(*checks: GateCheck) -> GateSpec:
    """Name the checks that must pass before a version is served.

    Raises:
        Invalid: something else than a check, or a check twice.
    """
    for check in checks:
        if not isinstance(check, Floor | Better | KnownInTime | Fast | Slices):
            raise Invalid(
                f"lw.gate takes lw.floor, lw.better, lw.known_in_time, lw.fast and lw.slices, not {check!r}",
                code="gate.check",
                field="gate",
            )
    return GateSpec(checks=checks)


def default_gate() -> GateSpec:
    """The gate of an endpoint that declares none."""
    return gate(known_in_time(), fast())


def floor(metric: str, limit: float, *, holdout: str = "28d") -> Floor:
    """Ask for a least AUC (or a greatest loss) on days that the model has not seen.

    Args:
        metric: auc, log_loss, brier, squared_error or absolute_error.
        limit: the least AUC, or the greatest loss.
        holdout: for the first model, whose twin is trained without the last days.

    Raises:
        Invalid: no such metric, or no such duration.
    """
    return Floor(metric=metric, limit=float(limit), holdout_us=parse_duration(holdout, "holdout"))


def better(metric: str, *, by: float | None = None) -> Better:
    """Ask that the recipe has beaten the champion by a share of its loss on days that neither had seen.

    Args:
        metric: the loss that days are compared by.
        by: the share, such as 0.01; the policy's `min_gain` when absent.

    Raises:
        Invalid: no such metric, or no such share.
    """
    return Better(metric=metric, by=by)


def known_in_time() -> KnownInTime:
    """Ask that every input of the model is known at the asking time."""
    return KnownInTime()


def fast(limit: str = "50ms", *, times: float = 5.0, min_calls: int = 20) -> Fast:
    """Refuse a model whose call takes longer than the limit and longer than `times` x the champion's.

    Raises:
        Invalid: no such duration.
    """
    return Fast(limit_us=parse_duration(limit, "limit"), times=times, min_calls=min_calls)


def slices(metric: str, *, by: Sequence[str], min_n: int = 300, worse: float = 0.10) -> Slices:
    """Refuse a model that is shown to be much worse than the champion for one level of a column.

    Args:
        metric: the loss that slices are compared by.
        by: columns of the features; each level of each is a slice.
        min_n: labelled rows in the gate's days under which a slice is not judged.
        worse: the share of the champion's loss in a slice that it may lose more there.

    Raises:
        Invalid: no such metric, or no such columns or numbers; `field` names it.
    """
    named = tuple(by) if isinstance(by, list | tuple) else (by,)
    return Slices(metric=metric, by=named, min_n=min_n, worse=worse)


def warm(
    *,
    every: str = "7d",
    block_close: str | None = None,
    canary: Sequence[float] = (0.05, 0.25, 1.0),
    canary_step: str = "8h",
    **settings: Any,
) -> WarmRecipe:
    """Set the warm recipe; what is not named keeps its default, or follows the endpoint's own data.

    Args:
        every: days from one training to the next.
        block_close: time of the next day at which a day's block is closed, in the endpoint's time zone (`3d 04:00`:
            three days later); when absent 04:00, or later where the history's labels take longer.
        canary: shares of the traffic, step by step.
        canary_step: length of a step.
        settings: `cooldown` (a duration), `at_most` (such as "8 in 28d"), and the fields of WarmRecipe by name.

    Raises:
        Invalid: a setting is not known or has no valid value; `field` names it.
    """
    given = dict(settings)
    if "cooldown" in given:
        given["cooldown_us"] = parse_duration(given.pop("cooldown"), "cooldown")
    if "at_most" in given:
        given["cap"], given["cap_us"] = cap_of(given.pop("at_most"), "at_most")
    unknown = sorted(set(given) - set(WarmRecipe.__struct_fields__) | {"given"} & set(given))
    if unknown:
        raise Invalid(f"lw.warm has no setting {unknown[0]!r}", code="policy.setting", field=unknown[0])
    if block_close is not None:
        given["close_minutes"] = minutes_of(block_close, "block_close")
    return WarmRecipe(
        given=tuple(sorted(set(given) & set(OPEN))),
        every_days=days_of(every, "every"),
        canary=tuple(float(share) for share in canary),
        canary_step_us=parse_duration(canary_step, "canary_step"),
        **given,
    )
