"""Guard windows: how a candidate and the champion ran over some hours, without asking for labels."""

import math
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.kernel.op import Progress
from loopwright.monitors import queries, rows
from loopwright.serving import predictions
from loopwright.store.space import Space

if TYPE_CHECKING:
    from loopwright.monitors.rows import Column, Rows

WINDOW = "monitors.window"


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


class Operations(msgspec.Struct, frozen=True, kw_only=True):
    """How one version ran: calls, failed calls, answers outside the task's range, 95th percentile of the model call."""

    calls: int = 0
    errors: int = 0
    strange: int = 0
    p95_us: int | None = None


class GuardWindow(msgspec.Struct, frozen=True, kw_only=True):
    """How the two ran on the same requests.

    Args:
        alone: requests for which the candidate gave no usable answer and the champion did.
        slow: of the `paired` ones that both were timed for, those that the candidate was slow with.
    """

    requests: int
    champion: Operations
    candidate: Operations
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
    """The operations of both versions, latencies on the requests that both were called for."""
    import numpy as np

    both = np.ones(len(found), dtype=bool)
    for version in (ask.champion, ask.candidate):
        both &= np.isfinite(found.latency_us[version]) if version in found.latency_us else False
    mine, theirs = (_unusable(found, version, ask.task) for version in (ask.candidate, ask.champion))
    slow = both & False
    if both.any():
        took, beside = found.latency_us[ask.candidate], found.latency_us[ask.champion]
        slow = both & (took > ask.slow_us) & (took > ask.times * beside)
    return GuardWindow(
        requests=len(found),
        champion=_operations(found, ask.champion, both, ask.task),
        candidate=_operations(found, ask.candidate, both, ask.task),
        alone=int((mine & ~theirs).sum()),
        paired=int(both.sum()),
        slow=int(slow.sum()),
    )


def _strange(found: "Rows", version: int, task: str) -> "Column":
    """Answers that are no finite number, or outside the range of the task."""
    import numpy as np

    score = found.scores[version]
    given = ~np.isnan(score) & ~found.bad[version]
    return given & (~np.isfinite(score) | ((task == "binary") & ((score < 0) | (score > 1))))


def _unusable(found: "Rows", version: int, task: str) -> "Column":
    """Requests for which a version failed or gave a strange answer."""
    import numpy as np

    if version not in found.scores:
        return np.zeros(len(found), dtype=bool)
    return found.bad[version] | _strange(found, version, task)


def _operations(found: "Rows", version: int, both: "Column", task: str) -> Operations:
    import numpy as np

    if version not in found.scores:
        return Operations()
    score, bad = found.scores[version], found.bad[version]
    given, strange = ~np.isnan(score) & ~bad, _strange(found, version, task)
    took = np.sort(found.latency_us[version][both])
    return Operations(
        calls=int((given | bad).sum()),
        errors=int(bad.sum()),
        strange=int(strange.sum()),
        p95_us=int(took[math.ceil(0.95 * len(took)) - 1]) if len(took) else None,
    )


JOBS = {WINDOW: measure_window}
