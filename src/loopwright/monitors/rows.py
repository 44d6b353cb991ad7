"""Logged requests of an endpoint with their labels, as numpy columns in the order (at, request id).

Runs in jobs and commands only: it needs DuckDB.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.serving import predictions
from loopwright.store.space import Space

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Column = NDArray[Any]

TABLE = "judged"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests (asked in [since, until)) with the labels known before a moment."""

    endpoint: str
    since_us: int
    until_us: int
    known_before_us: int


class Rows(msgspec.Struct, kw_only=True):
    """Requests as columns of equal length; a missing label or score is NaN.

    Args:
        served: the score that was answered.
        scores, bad, latency_us: by version; `bad` says that its call failed.
    """

    at_us: "Column"
    label: "Column"
    served: "Column"
    scores: dict[int, "Column"]
    bad: dict[int, "Column"]
    latency_us: dict[int, "Column"]

    def __len__(self) -> int:
        return len(self.at_us)


def load(con: Any, space: Space, asked: Asked) -> list[str]:
    """Make the temp table `judged` of requests with their labels and return its columns."""
    return predictions.joined(
        con, space, asked.endpoint, asked.known_before_us, since_us=asked.since_us, until_us=asked.until_us
    )


def versions_in(columns: list[str]) -> list[int]:
    """The versions that have a score column."""
    return sorted(int(c.removeprefix("score_")) for c in columns if c.startswith("score_"))


def take(con: Any, columns: list[str], until_us: int) -> Rows:
    """The rows of `judged` asked before a moment."""
    import numpy as np

    versions = versions_in(columns)
    wanted = ["at_us", "label", "score"]
    for v in versions:
        wanted += [f"score_{v}", f"error_{v} IS NOT NULL AS bad_{v}", f"CAST(latency_us_{v} AS DOUBLE) AS took_{v}"]
    sql = f"SELECT {', '.join(wanted)} FROM {TABLE} WHERE at_us < {int(until_us)} ORDER BY at_us, request_id, id"
    found = con.execute(sql).fetchnumpy()

    def floats(name: str) -> "Column":
        return np.ma.filled(np.ma.asarray(found[name]).astype(np.float64), np.nan)

    return Rows(
        at_us=np.ma.filled(found["at_us"]).astype(np.int64),
        label=floats("label"),
        served=floats("score"),
        scores={v: floats(f"score_{v}") for v in versions},
        bad={v: np.ma.filled(found[f"bad_{v}"], False).astype(bool) for v in versions},
        latency_us={v: floats(f"took_{v}") for v in versions},
    )
