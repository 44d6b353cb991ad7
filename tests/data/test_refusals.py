"""What is not known at the asking time is refused by name, with its share and its lag."""

from typing import Any

import pytest

import loopwright as lw
from loopwright.data import logged, ops
from loopwright.data.training import lateness
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound
from loopwright.store.space import Space

ME = "local:me"


@pytest.fixture(autouse=True)
def files(space: Space, parquet: Any) -> None:
    logged.set_log_reader(None)
    rows = [(f"r{i:03}", f"2013-01-01 {i // 60:02}:{i % 60:02}:00", "x", i) for i in range(300)]
    parquet(
        space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": "TIMESTAMP", "site": "VARCHAR", "n": "INTEGER"}, rows
    )
    late = [(row[0], f"2013-01-01 {(i + 90) // 60:02}:{i % 60:02}:00" if i % 3 else "2013-01-01", float(i))
            for i, row in enumerate(rows)]  # fmt: skip
    parquet(space.root / "after.parquet", {"id": "VARCHAR", "known": "TIMESTAMP", "delay": "DOUBLE"}, late)


ASKS = lw.data("asks.parquet", key="id", known="asked_at")
AFTER = lw.data("after.parquet", key="id", known="known")


def test_a_column_known_only_afterwards_is_refused(space: Space) -> None:
    leaky = lw.features("f", ASKS, columns=["n"], joins=[lw.lookup(AFTER, on="id", columns=["delay"])])
    with pytest.raises(Invalid) as caught:
        leaky.rows(space, since="2013-01-01", until="2013-01-02")
    assert caught.value.field == "delay"
    assert "after.delay is not known at the asking time: in 66.7% of 300 rows" in caught.value.message
    assert "1h" in caught.value.message
    (found,) = [one for one in lateness(space, leaky) if one.source == "after"]
    assert (found.column, found.rows, round(found.late_share, 3)) == ("delay", 300, 0.667)


def test_a_base_column_known_only_afterwards_is_refused(space: Space, parquet: Any) -> None:
    rows = [(f"r{i}", "2013-01-01 00:00:00", "2013-01-01 02:00:00", 1.0) for i in range(50)]
    columns = {"id": "VARCHAR", "asked_at": "TIMESTAMP", "left_at": "TIMESTAMP", "delay": "DOUBLE"}
    parquet(space.root / "after.parquet", columns, rows)
    base = lw.data("after.parquet", key="id", known="left_at", name="base")
    with pytest.raises(Invalid, match=r"base.delay is not known .* in 100.0% of 50 rows it becomes known 2h later"):
        lw.features("f", base, columns=["delay"]).rows(space, since="2013-01-01", until="2013-01-02")


def test_one_row_in_a_hundred_may_be_late_and_is_empty(space: Space, parquet: Any) -> None:
    rows = [(f"r{i:03}", "2013-01-01 00:00:00" if i else "2013-01-02 00:00:00", float(i)) for i in range(300)]
    parquet(space.root / "after.parquet", {"id": "VARCHAR", "known": "TIMESTAMP", "delay": "DOUBLE"}, rows)
    made = lw.features("f", ASKS, joins=[lw.lookup(AFTER, on="id", columns=["delay"])])
    got = made.rows(space, since="2013-01-01", until="2013-01-02")["delay"]
    assert got.isna().sum() == 1
    assert got["r001"] == 1.0


def test_words_that_do_not_fit_the_files(space: Space) -> None:
    def refused(match: str, **words: object) -> None:
        with pytest.raises(Invalid, match=match):
            lw.features("f", ASKS, **words).rows(space, since="2013-01-01", until="2013-01-02")

    refused("asks has no column nope", columns=["nope"])
    refused("asks has no column when", columns=["n"], at="when")
    refused("asks.site holds VARCHAR, not times", columns=["n"], at="site")
    refused("asks has no column other", derive={"d": "other + 1"})
    refused("derive.d does not fit", derive={"d": "site + 1"})
    refused("asked_at is of type TIMESTAMP", columns=["asked_at"])
    refused("after has no column nope", joins=[lw.lookup(AFTER, on="id", columns=["nope"])])
    refused(r"asks.n \(INTEGER\) cannot be matched", joins=[lw.lookup(AFTER, on={"n": "id"}, columns=["delay"])])
    refused("a window can only count it", joins=[lw.window(AFTER, on="id", last="1h", m=("mean", "id"))])
    with pytest.raises(Invalid, match="must lie before"):
        lw.features("f", ASKS, columns=["n"]).rows(space, since="2013-01-02", until="2013-01-01")


def test_a_training_asks_only_for_features_and_for_labels_that_say_when(space: Space) -> None:
    made = lw.features("f", ASKS, columns=["n"])
    with pytest.raises(Invalid, match="delay: no feature of f"):
        made.training(labels=AFTER, target="delay", until="2013-01-02", columns=["n", "delay"])
    with pytest.raises(Invalid, match="the labels after declare no known-at"):
        made.training(labels=lw.data("after.parquet", key="id", known="always"), target="delay", until="2013-01-02")
    with pytest.raises(Invalid, match="after has no column late"):
        made.training(labels=AFTER, target="late", until="2013-01-02")


def test_request_rows_are_written_whole_or_not(space: Space, held: Any) -> None:
    made = lw.features("asks_f", ASKS, columns=["n", "site"])
    with pytest.raises(NotFound, match="no features asks_f"):
        ops.features_rows(space, ME, name="asks_f", since="2013-01-01", until="2013-01-02", out="x.parquet")
    made.training(labels=AFTER, target="delay", until="2013-01-02")
    before, out = held(space), space.root / "rows.csv"
    for words in ({"out": "rows.txt"}, {"out": "nowhere/rows.csv"}, {"since": "never"}, {"name": "other"}):
        given = {"name": "asks_f", "since": "2013-01-01", "until": "2013-01-02", "out": str(out), **words}
        with pytest.raises(LoopwrightError):
            ops.features_rows(space, ME, **given)
    assert held(space) == before
    written = ops.features_rows(
        space, ME, name="asks_f", since="2013-01-01T01:00", until="2013-01-01T01:05", out=str(out)
    )
    assert (written.rows, written.columns) == (5, ("n", "site"))
    assert out.read_text().splitlines()[:2] == ["id,time,n,site", "r060,2013-01-01 01:00:00,60.0,x"]
    assert [p.name for p in space.root.iterdir() if p.name.startswith(".rows")] == []
