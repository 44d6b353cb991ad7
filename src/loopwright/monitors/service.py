"""Quality of an endpoint by day and by window, as people and pages read it."""

import msgspec

from loopwright.checks.intervals import ratio_interval
from loopwright.checks.scores import auc_of_histograms
from loopwright.monitors import alarms, queries
from loopwright.monitors.model import SERVED, Alarm, Block, DriftReport, Flag
from loopwright.serving import routes
from loopwright.store.database import Tx
from loopwright.store.space import Space


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did on some labelled rows; the interval has days (hours within one day) as its units."""

    n: int
    labelled: int
    errors: int
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    auc: float | None = None
    mean_score: float | None = None
    label_rate: float | None = None
    p95_us: int | None = None


class DayQuality(msgspec.Struct, frozen=True, kw_only=True):
    """One closed day: what was served, and every version on the requests that it scored."""

    day: str
    requests: int
    labelled: int
    late: int
    champion: int
    served: Score
    versions: dict[str, Score]


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """The labelled quality of an endpoint: by day, and over the last week."""

    endpoint: str
    days: list[DayQuality]
    window: Score | None
    window_days: list[str]
    skill: float | None
    reference: float | None
    open_alarms: list[Alarm]


def quality(space: Space, endpoint: str, *, days: int = 28) -> Quality:
    """The last closed days of an endpoint.

    Raises:
        NotFound: there is no such endpoint.
    """
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return _quality(tx, endpoint, days)


def _quality(tx: Tx, endpoint: str, days: int) -> Quality:
    closed = queries.closed_days(tx, endpoint)[-days:]
    found = queries.blocks(tx, endpoint, since=closed[0].day) if closed else []
    recent = [block for block in found if block.version == SERVED][-alarms.WEEK :]
    seen = alarms.window(recent)
    return Quality(
        endpoint=endpoint,
        days=[
            DayQuality(
                day=day.day,
                requests=day.n,
                labelled=day.n_labelled,
                late=day.n_late,
                champion=day.champion,
                served=_score([b for b in found if b.day == day.day and b.version == SERVED]),
                versions={str(b.version): _score([b]) for b in found if b.day == day.day and b.version != SERVED},
            )
            for day in closed
        ],
        window=_score(recent) if recent else None,
        window_days=[block.day for block in recent],
        skill=None if seen is None else seen.skill,
        reference=queries.reference(tx, endpoint),
        open_alarms=queries.alarms(tx, endpoint, still_open=True),
    )


def _score(blocks: list[Block]) -> Score:
    n = sum(block.n_labelled for block in blocks)
    calls = {"n": sum(b.n for b in blocks), "labelled": n, "errors": sum(b.errors for b in blocks)}
    if n == 0:
        return Score(**calls)
    kept = [block for block in blocks if block.n_labelled]
    found = ratio_interval([b.loss_sum for b in kept], [b.n_labelled for b in kept])
    low, loss, high = found if found is not None else (None, None, None)
    if len(kept) == 1:
        low, high = kept[0].loss_low, kept[0].loss_high
    parts = [block.histogram for block in kept if block.histogram is not None]
    return Score(
        **calls,
        loss=loss,
        low=low,
        high=high,
        auc=auc_of_histograms(parts),
        mean_score=sum(b.score_sum for b in kept) / n,
        label_rate=sum(b.label_sum for b in kept) / n,
        p95_us=max((b.p95_us for b in kept if b.p95_us is not None), default=None),
    )


def list_alarms(space: Space, endpoint: str) -> list[Alarm]:
    """The alarms of an endpoint, oldest first."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return queries.alarms(tx, endpoint)


def list_flags(space: Space, endpoint: str, *, since: str, until: str) -> list[Flag]:
    """Contract flags of days in [since, until], with some of the predictions."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return queries.flags(tx, endpoint, since=since, until=until)


def drift(space: Space, endpoint: str, *, days: int) -> list[DriftReport]:
    """The drift reports of the last closed days, oldest first."""
    routes.endpoint(space, endpoint)
    with space.read() as tx:
        return queries.drift_reports(tx, endpoint)[-days:]
