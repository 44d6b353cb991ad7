"""The streams that the policy is judged on, each as a project of its own with all its files.

elec2 comes from the wheel of scikit-multiflow 0.4.1 (BSD-3), which is fetched and read as an archive, never installed.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FLIGHTS = ROOT / "src" / "loopwright" / "demos" / "flights"
FROM = "2013-04-01T04:00:00Z"
PHASES = {"0": 0, "6": 1, "4": 3, "2": 5}  # weekday of the weekly work: days by which the first deploy is earlier


def of(name: str, cache: Path, phases: list[str], until: str, policy: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """The lives of a stream, each with the moment from which it is scored."""
    from drive import Stream

    from loopwright.kernel.times import DAY, format_time, parse_time

    if name == "flights":
        project = flights(cache)
        for phase in phases:
            start = format_time(parse_time(FROM) - PHASES[phase] * DAY)
            yield Stream(name, project, "delay", start, until, policy=policy), FROM
    elif name == "elec2":
        project = tabular(cache / name, elec2(cache), ELEC2)
        start = format_time(ELEC2_AT + ELEC2_BLOCK * HALF_HOUR_US)
        end = format_time(ELEC2_AT + ELEC2_ROWS * HALF_HOUR_US)
        yield Stream(name, project, "label", start, end, truth="data/truth.parquet", policy=policy), start
    else:
        kind, _, seed = name.partition("-")
        project = tabular(cache / name, MADE_UP[kind](int(seed or 1)), SMALL)
        start, end = (format_time(parse_time("2020-01-01T00:00:00Z") + day * DAY) for day in (HISTORY_DAYS, LAST_DAY))
        yield Stream(name, project, "label", start, end, truth="data/truth.parquet", policy=policy), start


def flights(cache: Path) -> Path:
    """The demo's project, with all that happened in the year in its files."""
    import duckdb

    folder = cache / "flights"
    if not (folder / "data" / "labels.parquet").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in ("flights.py", "loopwright.toml", "make_files.py"):
            shutil.copy(FLIGHTS / file, folder)
        command = [sys.executable, "make_files.py", "2014-06-01 00:00"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        query = f"SELECT id, late AS label, known_at FROM '{folder}/data/arrivals.parquet'"
        duckdb.connect().execute(f"COPY ({query}) TO '{folder}/data/labels.parquet' (FORMAT parquet)")
    return folder


# --- a table of numbers as a project ---

Table = dict[str, Any]  # columns asked_us, known_us, label, and x0, x1, ...
PROJECT = """import lightgbm as lgb

import loopwright as lw

asks = lw.data("data/asks.parquet", key="id", known="asked_at")
truth = lw.data("data/truth.parquet", key="id", known="known_at")
seen = lw.features("seen", asks, at="asked_at", columns=COLUMNS)


@lw.step
def table(until: str = "now"):
    return seen.training(labels=truth, target="label", until=until)


@lw.step
def train(data=table):
    x, y = data
    params = {
        "objective": "binary", "learning_rate": 0.1, "num_leaves": LEAVES, "min_data_in_leaf": 20, "seed": 1,
        "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
    }
    return lw.model("label", lgb.train(params, lgb.Dataset(x, y), TREES), sample=x)


lw.endpoint("label", model=train, features=seen, labels=truth, target="label")

if __name__ == "__main__":
    lw.run(train)
"""
ELEC2, SMALL = (100, 31), (40, 15)  # trees, leaves


def tabular(folder: Path, make: Callable[[], Table], size: tuple[int, int]) -> Path:
    """A project of numeric columns and a yes-or-no label."""
    import duckdb
    import numpy as np
    import pandas as pd

    if not (folder / "project.py").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        found = make()
        names = [name for name in found if name.startswith("x")]
        ids = np.array([f"r{place:06d}" for place in range(len(found["label"]))], dtype=object)
        asks = pd.DataFrame({"id": ids, "asked_us": found["asked_us"], **{name: found[name] for name in names}})
        truth = pd.DataFrame({"id": ids, "label": found["label"].astype("int64"), "known_us": found["known_us"]})
        con = duckdb.connect(config={"threads": "1"})
        for name, frame, old, new in (("asks", asks, "asked_us", "asked_at"), ("truth", truth, "known_us", "known_at")):
            con.register("frame", frame)
            query = f"SELECT * EXCLUDE ({old}), make_timestamp({old}) AS {new} FROM frame ORDER BY {old}, id"
            con.execute(f"COPY ({query}) TO '{folder}/data/{name}.parquet' (FORMAT parquet)")
        text = PROJECT.replace("COLUMNS", repr(names)).replace("TREES", str(size[0])).replace("LEAVES", str(size[1]))
        (folder / "loopwright.toml").write_text('clock = "replay"\nentry = "project.py"\n')
        (folder / "project.py").write_text(text)
    return folder


# --- elec2: half hours of the New South Wales market from 7 May 1996 ---

ELEC2_AT = int(datetime(1996, 5, 7, tzinfo=UTC).timestamp()) * 1_000_000
HALF_HOUR_US = 30 * 60 * 1_000_000
ELEC2_ROWS = 45_312
ELEC2_BLOCK = 4_531  # a tenth: the first model's history
WHEEL = "scikit_multiflow-0.4.1-cp37-cp37m-manylinux1_x86_64.whl"
MEMBER = "skmultiflow/data/datasets/elec.csv"


def elec2(cache: Path) -> Callable[[], Table]:
    """The table of elec2, its wheel fetched when it is not there."""

    def make() -> Table:
        import numpy as np

        wheel = cache / WHEEL
        if not wheel.exists():
            words = ["download", "scikit-multiflow==0.4.1", "--python-version", "3.7", "--only-binary=:all:"]
            command = [sys.executable, "-m", "pip", *words, "--no-deps", "-q", "-d", str(cache)]
            subprocess.run(command, check=True)
        text = zipfile.ZipFile(wheel).read(MEMBER).decode()
        lines = list(csv.reader(io.StringIO(text)))[1:]
        values = np.array(lines, dtype=np.float64)
        asked = ELEC2_AT + np.arange(len(values), dtype=np.int64) * HALF_HOUR_US
        columns = {f"x{place}": values[:, place] for place in range(values.shape[1] - 1)}
        return {"asked_us": asked, "known_us": asked + HALF_HOUR_US, "label": values[:, -1], **columns}

    return make


# --- made-up streams of known truth ---

HISTORY_DAYS, LAST_DAY, PER_DAY = 60, 270, 300


def made_up(turn: Callable[[float], float], spread: float = 0.5) -> Callable[[int], Callable[[], Table]]:
    """A stream whose truth leans along a direction that turns with time; days differ by a shift that all rows share.

    Args:
        turn: the angle (in units of a right angle) on a day after the history.
        spread: standard deviation of a day's own shift of the log odds.
    """

    def of_seed(seed: int) -> Callable[[], Table]:
        def make() -> Table:
            import numpy as np

            draw = np.random.default_rng(seed)
            n = LAST_DAY * PER_DAY
            day = np.repeat(np.arange(LAST_DAY), PER_DAY)
            x = draw.normal(size=(n, 4))
            angle = np.array([turn(max(0.0, d - HISTORY_DAYS)) for d in range(LAST_DAY)])[day] * np.pi / 2
            shift = draw.normal(scale=spread, size=LAST_DAY)[day]
            odds = 1.2 * (np.cos(angle) * x[:, 0] + np.sin(angle) * x[:, 1]) + 0.5 * x[:, 2] - 1.0 + shift
            label = (draw.random(n) < 1 / (1 + np.exp(-odds))).astype(float)
            start = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
            step = 16 * 3600 * 1_000_000 // PER_DAY
            asked = start + day.astype(np.int64) * 86_400_000_000 + (np.arange(n) % PER_DAY + 1) * step
            known = asked + draw.integers(3600, 4 * 3600, n) * 1_000_000
            return {"asked_us": asked, "known_us": known, "label": label, **{f"x{i}": x[:, i] for i in range(4)}}

        return make

    return of_seed


MADE_UP = {
    "still": made_up(lambda d: 0.0),
    "abrupt": made_up(lambda d: 0.0 if d < 60 else 1.0),
    "gradual": made_up(lambda d: d / 210),
    "recurring": made_up(lambda d: float(int(d) // 50 % 2)),
    "seasonal": made_up(lambda d: 0.4 * (1 if int(d) // 30 % 2 else 0)),
}
