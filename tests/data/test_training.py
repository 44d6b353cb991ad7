"""Training tables: history before the first served request, the log from then on, labels as known."""

from collections.abc import Iterator
from typing import Any

import pytest

import loopwright as lw
from loopwright.data import logged
from loopwright.data.training import moment
from loopwright.kernel.errors import Conflict, Unsupported
from loopwright.kernel.times import HOUR, parse_time
from loopwright.store.space import Space

ASKS = lw.data("asks.parquet", key="id", known="always")
CAME = lw.data("came.parquet", key="id", known="known_at")
MADE = lw.features("f", ASKS, columns=["site", "n"])


class Log:
    """Requests that were served, as rows of SQL values."""

    def __init__(
        self, first: str | None, rows: str, columns: str = "id, at_us, site, n, label, label_known_us"
    ) -> None:
        self.first, self.rows, self.columns = first, rows, columns

    def __call__(self, space: Space, con: Any, features: str, until_us: int) -> int | None:
        if self.first is None or features != "f":
            return None
        con.execute(f"CREATE TEMP VIEW logged AS SELECT * FROM (VALUES {self.rows}) AS t({self.columns})")
        return parse_time(self.first)

    def state(self, space: Space, features: str, until_us: int) -> Any:
        return {"rows": self.rows}


@pytest.fixture(autouse=True)
def files(space: Space, parquet: Any) -> Iterator[None]:
    rows = [
        ("b", "2013-01-01 10:00:00", "x", 1),
        ("a", "2013-01-01 10:00:00", "y", 2),
        ("c", "2013-01-02 10:00:00", "x", 3),
        ("d", "2013-01-03 10:00:00", "z", 4),
        ("e", "2013-01-03 11:00:00", "z", 5),
    ]
    parquet(
        space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": "TIMESTAMP", "site": "VARCHAR", "n": "INTEGER"}, rows
    )
    came = [("a", "2013-01-01 12:00:00", 0), ("b", "2013-01-01 12:00:00", 0), ("b", "2013-01-02 12:00:00", 1),
            ("c", "2013-01-02 12:00:00", 1), ("c", "2013-01-02 12:00:00", 0), ("d", "2013-01-03 12:00:00", 1),
            ("e", "2013-01-03 12:00:00", None)]  # fmt: skip
    parquet(space.root / "came.parquet", {"id": "VARCHAR", "known_at": "TIMESTAMP", "late": "INTEGER"}, came)
    logged.set_log_reader(None)
    yield
    logged.set_log_reader(None)


def labels(until: str) -> dict[str, int]:
    _, y = MADE.training(labels=CAME, target="late", until=until)
    return dict(y)


def test_history_takes_labels_known_before(space: Space) -> None:
    x, y = MADE.training(labels=CAME, target="late", until="2013-01-02T12:00:01Z")
    assert list(x.index) == ["a", "b", "c"], "by time, then id"
    assert (x.index.name, y.name, str(y.dtype)) == ("id", "late", "int64")
    assert y.tolist() == [0, 1, 1], "the value known last; of two known together the first in the file"
    assert str(x["n"].dtype) == "float64"
    assert list(x["site"].cat.categories) == ["x", "y"]
    until = parse_time("2013-01-02T12:00:01Z")
    assert x.attrs["loopwright"] == {"features": "f", "until_us": until, "columns": ["site", "n"], "nullable": []}
    assert labels("2013-01-02T12:00:00Z") == {"a": 0, "b": 0}, "known before until, not at it"
    assert labels("2013-01-04") == {"a": 0, "b": 1, "c": 1, "d": 1}, "no label, no row"


def test_a_label_that_is_no_finite_number_is_none(space: Space, parquet: Any) -> None:
    rows = [("a", "2013-01-01", 1.5), ("b", "2013-01-01", float("nan")), ("c", "2013-01-01", float("inf"))]
    parquet(space.root / "costs.parquet", {"id": "VARCHAR", "known_at": "TIMESTAMP", "cost": "DOUBLE"}, rows)
    costs = lw.data("costs.parquet", key="id", known="known_at")
    _, y = MADE.training(labels=costs, target="cost", until="2013-01-04")
    assert dict(y) == {"a": 1.5}


def test_from_the_first_served_request_on_the_log_counts(space: Space) -> None:
    at, known = parse_time("2013-01-02T10:00:00Z"), parse_time("2013-01-02T12:00:00Z")
    late = parse_time("2013-01-05")
    logged.set_log_reader(
        Log(
            "2013-01-02T10:00:00Z",
            f"('c', {at}, 'w', 7, 0.0, {known}), ('q', {at}, NULL, NULL, 1.0, {known}),"
            f" ('s', {at}, 'x', 1, 1.0, {late}), ('t', {late}, 'x', 1, 1.0, {known})",
        )
    )
    x, y = MADE.training(labels=CAME, target="late", until="2013-01-04")
    assert dict(y) == {"a": 0, "b": 1, "c": 0, "q": 1}, "c once, from the log; d is not in the log"
    assert x.loc["c", "n"] == 7.0
    assert x["site"].isna().tolist() == [False, False, False, True]
    assert list(x["site"].cat.categories) == ["w", "x", "y"]
    assert str(y.dtype) == "int64"


def test_before_anything_is_served_there_is_only_history(space: Space) -> None:
    logged.set_log_reader(Log(None, ""))
    assert labels("2013-01-04") == {"a": 0, "b": 1, "c": 1, "d": 1}


def test_a_log_without_a_feature_is_a_conflict(space: Space) -> None:
    logged.set_log_reader(Log("2013-01-02", "('c', 1, 'w', 1.0, 1)", "id, at_us, site, label, label_known_us"))
    with pytest.raises(Conflict, match="served from f without n"):
        labels("2013-01-04")


def test_the_fingerprint_holds_bytes_words_and_log(space: Space, parquet: Any) -> None:
    def prints(made: Any = MADE) -> Any:
        return made.fingerprint(space, 0)

    first = prints()
    assert prints() == first
    assert prints(lw.features("f", ASKS, columns=["site"])) != first
    logged.set_log_reader(Log("2013-01-02", "(1)"))
    served = prints()
    assert served != first
    logged.set_log_reader(None)
    parquet(space.root / "asks.parquet", {"id": "VARCHAR", "asked_at": "TIMESTAMP", "site": "VARCHAR", "n": "INTEGER"},
            [("a", "2013-01-01", "x", 1)])  # fmt: skip
    assert prints() != first


def test_now_is_the_clock(space: Space, wall_space: Space) -> None:
    assert moment(space, "now", "until") == parse_time("2013-04-01T04:00:00Z")
    assert moment(wall_space, "now", "until") % HOUR == 0


def test_without_pandas_the_error_says_what_to_install(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Unsupported) as caught:
        labels("2013-01-04")
    assert caught.value.extra == "demo"
