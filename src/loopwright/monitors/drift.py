"""Drift as an explanation: the profile of each closed day against the days that the champion was trained on.

It names columns under a quality alarm and in its own quiet report; it pages nobody and starts no training.
"""

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.checks import drift as test
from loopwright.checks import profiles
from loopwright.checks.drift import Moved, Windows
from loopwright.checks.profiles import Scheme
from loopwright.kernel import canonical
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.times import DAY, add_days
from loopwright.monitors import feeds, queries
from loopwright.monitors.model import DRIFT_REPORTED, BlockAsk, DriftReport
from loopwright.monitors.rows import TABLE
from loopwright.serving import routes
from loopwright.serving.columns import quoted
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

if TYPE_CHECKING:
    from loopwright.checks.profiles import Floats

ACTOR = "loop"
SCORE = "score"
HISTORY_DAYS = 182
FIRST_DAYS = 21  # stand in as the reference where there is no older one: three weeks tell a season
MIN_ROWS = 30
QUIET_DAYS = 7
_WORDS = {
    "level": "level {effect:+.2f} sd",
    "spread": "spread {effect:+.2f} sd",
    "shape": "shape {effect:+.2f} sd",
    "shares": "share of one level {before:.1%} -> {now:.1%}",
    "nulls": "nulls {before:.1%} -> {now:.1%}",
    "outside": "far out of range {before:.1%} -> {now:.1%}",
    "new": "levels never seen {before:.1%} -> {now:.1%}",
    "correlations": "correlations {effect:+.2f}",
}


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a day adds: schemes and profiles by the key of their scheme, and the report."""

    schemes: dict[str, str]
    profiles: list[tuple[str, str, bytes]]
    report: DriftReport


def measure(con: Any, space: Space, ask: BlockAsk, columns: list[str]) -> Kept:
    """The profile and the report of a day whose requests are in the temp table `judged`."""
    inputs = sorted(name.removeprefix("in_") for name in columns if name.startswith("in_"))
    key = canonical.digest(["features", inputs])[:16]
    wanted = ", ".join(f"{quoted('in_' + name)} AS {quoted(name)}" for name in inputs)
    order = f"FROM {TABLE} WHERE at_us < {ask.until_us} ORDER BY at_us, request_id, id"
    table = _table(con, f"SELECT {wanted} {order}") if inputs else {}
    n = len(next(iter(table.values()))) if table else 0
    empty = Kept(schemes={}, profiles=[], report=DriftReport(day=ask.day, state="unknown", reason=""))
    if n < MIN_ROWS:
        return _unknown(empty, f"{n} requests, {MIN_ROWS} are needed")
    score = _table(con, f"SELECT CAST(score AS DOUBLE) AS score {order}")
    families = [(key, table, _history(space, ask, inputs))]
    families.append((f"{SCORE}@{ask.champion}", score, {}))
    kept, moved, days = empty, list[Moved](), list[str]()
    for number, (name, now, before) in enumerate(families):
        share = test.BUDGET * (len(inputs) if number == 0 else 1) / (len(inputs) + 1)
        kept, found, reference = _family(space, ask, kept, (name, now, before), share)
        moved, days = moved + found, days or reference
    if not days:
        return _unknown(kept, f"fewer than {test.MIN_REFERENCE} days to hold it against")
    state = "drift" if moved else "quiet"
    told = "; ".join(f"{item.column}: {words(item)}{_median(item)}" for item in moved) or "no column differs"
    report = DriftReport(
        day=ask.day, state=state, reason=told, first=days[0], last=days[-1], reference=len(days), moved=moved
    )
    return msgspec.structs.replace(kept, report=report)


def _unknown(kept: Kept, reason: str) -> Kept:
    return msgspec.structs.replace(kept, report=msgspec.structs.replace(kept.report, reason=reason))


def _family(
    space: Space, ask: BlockAsk, kept: Kept, family: tuple[str, dict[str, "Floats"], dict[str, dict[str, "Floats"]]],
    budget: float,
) -> tuple[Kept, list[Moved], list[str]]:  # fmt: skip
    """Judge one scheme's columns on a day; returns what is to be kept, what moved, and the reference days."""
    key, table, _ = family
    with space.read() as tx:
        text, known = queries.drift_scheme(tx, ask.endpoint, key), queries.drift_profiles(tx, ask.endpoint, key)
        spans = feeds.held_spans(tx, ask.endpoint)
    fresh = []
    if text is None:
        scheme, history = _begin(family)
        text = msgspec.json.encode(scheme).decode()
        kept.schemes[key] = text
        fresh = [(day, profiles.encode(profiles.profile(scheme, rows))) for day, rows in sorted(history.items())]
        known = dict(fresh)
    scheme = msgspec.json.decode(text, type=Scheme)
    today = profiles.encode(profiles.profile(scheme, table))
    kept.profiles.extend((key, day, body) for day, body in [*fresh, (ask.day, today)])
    known = {day: body for day, body in known.items() if day < ask.day}
    start = {day: ask.since_us - _apart(day, ask.day) * DAY for day in known}
    sound = [day for day in sorted(known) if not any(_touches(start[day], span) for span in spans)]
    trained = 0 if key.startswith(SCORE) else ask.trained_us.get(str(ask.champion), 0)
    reference = [day for day in sound if start[day] + DAY <= trained][-HISTORY_DAYS:]
    if len(reference) < test.MIN_REFERENCE:
        reference = sound[:FIRST_DAYS] if len(sound) >= FIRST_DAYS else []
    recent = [day for day in sorted(known) if reference and day > reference[-1]][1 - test.HORIZONS[-1] :]
    if not reference:
        return kept, [], []
    old = Windows([-_apart(day, ask.day) for day in reference], [profiles.decode(known[day]) for day in reference])
    late = [profiles.decode(known[day]) for day in recent] + [profiles.decode(today)]
    new = Windows([*(-_apart(day, ask.day) for day in recent), 0], late)
    return kept, test.drifted(scheme, old, new, budget=budget), reference


def _begin(
    family: tuple[str, dict[str, "Floats"], dict[str, dict[str, "Floats"]]],
) -> tuple[Scheme, dict[str, dict[str, "Floats"]]]:
    """The scheme of a family from its history, or from its first day where it has none."""
    import numpy as np

    _, table, history = family
    if len(history) < test.MIN_REFERENCE:
        history = {}
    parts = [rows for _, rows in sorted(history.items())] or [table]
    columns = {name: np.concatenate([rows[name] for rows in parts]) for name in table}
    return Scheme(columns=tuple(profiles.column(name, values) for name, values in columns.items())), history


def _history(space: Space, ask: BlockAsk, inputs: list[str]) -> dict[str, dict[str, "Floats"]]:
    """The feature rows of each day before the endpoint first served, as its declared features make them."""
    import numpy as np

    from loopwright.data import service as data
    from loopwright.data import sources
    from loopwright.data.execute import Executor, Span

    key = canonical.digest(["features", inputs])[:16]
    with space.read() as tx:
        spec = routes.find(tx, ask.endpoint)
        if spec.features is None or queries.drift_scheme(tx, ask.endpoint, key) is not None:
            return {}
    first = min(routes.first_served_us(space, ask.endpoint) or ask.since_us, ask.since_us)
    back = -(-(ask.since_us - first) // DAY)  # whole days before the first request
    until_us = ask.since_us - back * DAY
    wanted = ", ".join(quoted(name) for name in inputs)
    try:
        features = data.features_of(space, spec.features)
        with contextlib.closing(sources.connect(space.home / "tmp")) as con:
            span = Span(since_us=until_us - HISTORY_DAYS * DAY, until_us=until_us, known_before_us=until_us)
            Executor(con, space, features).build(span)
            rows = _table(con, f"SELECT at_us, {wanted} FROM features ORDER BY at_us, id")
    except LoopwrightError:
        return {}  # a source that is gone or no longer fits; the first days served stand in
    number = (ask.since_us - rows.pop("at_us").astype(np.int64) - 1) // DAY + 1  # days before the one asked about
    out = {}
    for days in np.unique(number)[::-1].tolist():
        here = number == days
        if here.sum() >= MIN_ROWS:
            out[add_days(ask.day, -days)] = {name: values[here] for name, values in rows.items()}
    return out


def _table(con: Any, query: str) -> dict[str, "Floats"]:
    """A query's columns: texts as objects with None, all else as floats with NaN."""
    import numpy as np

    out = {}
    for name, values in con.execute(query).fetchnumpy().items():
        if values.dtype == object:
            out[name] = np.ma.filled(np.ma.asarray(values), None)
        else:
            out[name] = np.ma.filled(np.ma.asarray(values).astype(np.float64), np.nan)
    return out


def _apart(day: str, other: str) -> int:
    from datetime import date

    return (date.fromisoformat(other) - date.fromisoformat(day)).days


def _touches(start_us: int, span: tuple[int, int | None]) -> bool:
    return span[0] < start_us + DAY and (span[1] is None or span[1] > start_us)


def write(tx: Tx, ask: BlockAsk, found: Kept, *, cause: int) -> None:
    """Keep a day's profile and report; an event when a column moves that the last days did not name."""
    report = found.report
    queries.put_drift(tx, ask.endpoint, found.schemes, found.profiles, report)
    before = queries.drift_reports(tx, ask.endpoint, until=ask.day)[-QUIET_DAYS - 1 :]
    known = {moved.column for other in before if other.day < ask.day for moved in other.moved}
    fresh = [moved for moved in report.moved if moved.column not in known]
    if fresh:
        told = "; ".join(f"{moved.column}: {words(moved)}" for moved in fresh)
        what = {moved.column: moved.what for moved in fresh}
        data = {"endpoint": ask.endpoint, "day": ask.day, "told": told, "columns": what, "reference": report.reference}
        subject = routes.subject_of(ask.endpoint)
        ledger.append(tx, ACTOR, DRIFT_REPORTED, subject, data, cause=cause, at_us=ask.close_us)


def words(moved: Moved) -> str:
    """How a column moved, without its values: an event may say it."""
    return _WORDS[moved.what].format(effect=moved.effect, before=moved.before or 0, now=moved.now or 0)


def _median(moved: Moved) -> str:
    if moved.what not in ("level", "spread", "shape") or moved.before is None or moved.now is None:
        return ""
    return f" (median {moved.before:.4g} -> {moved.now:.4g})"
