"""A column that no feature reads is named with how late it becomes known."""

from collections.abc import Callable
from pathlib import Path

import loopwright as lw
from loopwright.access.service import local_actor
from loopwright.data import lateness, service
from loopwright.kernel.times import MINUTE
from loopwright.store.space import Space


def test_of_columns(space: Space, parquet: Callable[..., Path]) -> None:
    stamp = "TIMESTAMP"
    asked = [(f"r{n}", f"2013-03-01T{n:02d}:00:00", "JFK") for n in range(20)]
    parquet(space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": stamp, "origin": "VARCHAR"}, asked)
    left = [(f"r{n}", "JFK", f"2013-03-01T{n + (n > 0):02d}:02:00", 3.0 * n) for n in range(20)]
    parquet(
        space.root / "left.parquet",
        {"id": "VARCHAR", "origin": "VARCHAR", "left_at": stamp, "dep_delay": "DOUBLE"},
        left,
    )
    asks = lw.data("asks.parquet", key="id", known="asked_at")
    gone = lw.data("left.parquet", key="id", known="left_at")
    window = lw.window(gone, on="origin", last="2h", n=("count", "dep_delay"))
    spec = lw.features("airs", asks, at="asked_at", columns=["origin"], joins=[window])
    for source in spec.sources:
        service.add(space, local_actor(), source.path, declaration=source)
    (found,) = lateness.of_columns(space, spec, ["dep_delay", "nowhere"])
    assert (found.column, found.source, found.rows) == ("dep_delay", "left", 20)
    assert found.late_share == 1.0
    assert found.median_lag_us == 62 * MINUTE
