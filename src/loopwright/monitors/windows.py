"""Guard windows: how a candidate and the champion ran over some hours, without asking for labels."""

from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.kernel.op import Progress
from loopwright.monitors import queries, rows
from loopwright.serving import predictions
from loopwright.store.space import Space

if TYPE_CHECKING:
    from loopwright.monitors.rows import Column, Rows

WINDOW = "monitors.window"
MIN_RANGE = 20  # answers of the champion that tell a range


class WindowAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Which two versions, on the requests asked in [since, until).

    Args:
        slow_us: a call is slow above this and `times` what the champion's took for the same request.
    """

    action_id: str
    endpoint: str
    since_us: int
    until_us: int
    champion: int
    candidate: int
    task: str
    slow_us: int = 0
    times: int = 3


class GuardWindow(msgspec.Struct, frozen=True, kw_only=True):
    """How a candidate ran beside the champion.

    Args:
        calls: requests that it was called for.
        alone: those for which it gave no usable answer and the champion did.
        slow: of the `paired` ones that both were timed for, those that it was slow with.
    """

    requests: int
    calls: int = 0
    alone: int = 0
    paired: int = 0
    slow: int = 0


def measure_window(space: Space, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure a guard window and keep it under its action id; measured once."""
    ask = msgspec.convert(args, WindowAsk)
    with space.read() as tx:
        kept = queries.guard_window(tx, ask.action_id)
    if kept is not None:
        return kept
    with predictions.connect() as con:
        span = rows.Asked(
            endpoint=ask.endpoint, since_us=ask.since_us, until_us=ask.until_us, known_before_us=ask.until_us
        )
        found = rows.take(con, rows.load(con, space, span), ask.until_us)
    window = msgspec.to_builtins(compare(found, ask))
    text = msgspec.json.encode(window).decode()
    space.write(
        lambda tx: tx.execute(
            "INSERT INTO guard_windows(action_id, endpoint, result) VALUES (?, ?, ?)"
            " ON CONFLICT (action_id) DO NOTHING",
            (ask.action_id, ask.endpoint, text),
        )
    )
    return dict(window)


def compare(found: "Rows", ask: WindowAsk) -> GuardWindow:
    """The candidate's calls beside the champion's for the same requests."""
    import numpy as np

    if ask.candidate not in found.scores:
        return GuardWindow(requests=len(found))
    called = found.bad[ask.candidate] | ~np.isnan(found.scores[ask.candidate])
    alone = called & ~_usable(found, ask.candidate, ask)
    if ask.champion in found.scores:
        alone &= _usable(found, ask.champion, ask)
        took, beside = found.latency_us[ask.candidate], found.latency_us[ask.champion]
        both = np.isfinite(took) & np.isfinite(beside)
        slow = both & (took > ask.slow_us) & (took > ask.times * beside)
    else:
        both = slow = called & False
    return GuardWindow(
        requests=len(found),
        calls=int(called.sum()),
        alone=int(alone.sum()),
        paired=int(both.sum()),
        slow=int(slow.sum()),
    )


def _usable(found: "Rows", version: int, ask: WindowAsk) -> "Column":
    """Requests for which a version gave a finite number within the range of the task.

    The range of a regression is that of the champion's answers of the window, and as much again on either side.
    """
    import numpy as np

    score = found.scores[version]
    low, high = (0.0, 1.0) if ask.task == "binary" else (-np.inf, np.inf)
    theirs = found.scores.get(ask.champion, score)
    given = theirs[np.isfinite(theirs)]
    if ask.task != "binary" and version == ask.candidate and len(given) >= MIN_RANGE:
        spread = float(given.max() - given.min())
        low, high = float(given.min()) - spread, float(given.max()) + spread
    return np.isfinite(score) & ~found.bad[version] & (score >= low) & (score <= high)


JOBS = {WINDOW: measure_window}
