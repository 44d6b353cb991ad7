"""Another user: a regression whose labels take two days, on a stream that moves; no setting of the policy is named."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"
START, UNTIL = "2021-03-01T04:00:00Z", "2021-03-25T00:00:00Z"
HISTORY_DAYS, DAYS, PER_DAY, DAY_US = 20, 44, 60, 86_400_000_000
PROJECT = """
import lightgbm as lgb

import loopwright as lw

asks = lw.data("data/asks.parquet", key="id", known="asked_at")
truth = lw.data("data/truth.parquet", key="id", known="known_at")
seen = lw.features("seen", asks, at="asked_at", columns=["x0", "x1"])


@lw.step
def table(until: str = "now"):
    return seen.training(labels=truth, target="label", until=until)


@lw.step
def train(data=table):
    x, y = (part.tail(400) for part in data)
    params = {"objective": "regression", "num_leaves": 7, "num_threads": 1, "verbose": -1, "deterministic": True}
    return lw.model("demand", lgb.train(params, lgb.Dataset(x, y), 30), sample=x)


lw.endpoint("demand", model=train, features=seen, labels=truth, target="label", task="regression")
"""


def _project(folder: Path) -> Path:
    """Numbers of which one counts until the third day that is served, and the other one from then on."""
    import duckdb
    import pandas as pd

    from loopwright.kernel.times import parse_time

    draw = np.random.default_rng(2)
    place = np.arange(DAYS * PER_DAY)
    asked = parse_time("2021-02-09T00:00:00Z") + (place // PER_DAY) * DAY_US + (6 + place % PER_DAY / 4) * 3_600_000_000
    x = draw.normal(size=(len(place), 2))
    moved = place // PER_DAY >= HISTORY_DAYS + 3
    label = 2 * np.where(moved, x[:, 1], x[:, 0]) + draw.normal(size=len(place))
    ids = [f"r{number:05d}" for number in place]
    frames = {
        "asks": pd.DataFrame({"id": ids, "us": asked.astype("int64"), "x0": x[:, 0], "x1": x[:, 1]}),
        "truth": pd.DataFrame({"id": ids, "us": asked.astype("int64") + 40 * 3_600_000_000, "label": label}),
    }
    (folder / "data").mkdir(parents=True)
    con = duckdb.connect(config={"threads": "1"})
    for name, column in (("asks", "asked_at"), ("truth", "known_at")):
        con.register("frame", frames[name])
        query = f"SELECT * EXCLUDE (us), make_timestamp(us) AS {column} FROM frame ORDER BY us"
        con.execute(f"COPY ({query}) TO '{folder}/data/{name}.parquet' (FORMAT parquet)")
    (folder / "loopwright.toml").write_text('clock = "replay"\nentry = "project.py"\n')
    (folder / "project.py").write_text(PROJECT)
    return folder


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Any:
    sys.path.insert(0, str(BENCH))
    from drive import Drive, Stream

    root = tmp_path_factory.mktemp("second")
    stream = Stream("second", _project(root / "source"), "demand", START, UNTIL, truth="data/truth.parquet")
    drive = Drive(stream, root / "work", root / "cache")
    drive.run()
    yield drive
    drive.close()


def test_days_are_closed_when_their_labels_are_there(lived: Any) -> None:
    from loopwright.releases import desk

    with lived.space.read() as tx:
        recipe = desk.find(tx, "demand").recipe
    assert recipe.close_minutes == 37 * 60  # of 20:45, 40 hours later, up to the next hour
    assert recipe.min_labels == 30
    trained = [event.at_us // 60_000_000 % 1440 for event in lived.events("challenger.trained@")]
    assert set(trained) == {(37 - 24) * 60}


def test_the_loop_follows_the_stream(lived: Any) -> None:
    promoted = lived.events("version.promoted@")
    assert len(promoted) == 1
    after = lived.rows.between(promoted[0].at_us, None)
    label = lived.rows.label[after]
    new, old = ((lived.score(int(promoted[0].data[k]), after) - label) ** 2 for k in ("version", "replaced"))
    assert new.mean() < 0.5 * old.mean()
    assert lived.events("version.rolled-back@") == []
