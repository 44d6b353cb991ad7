"""A project as small as one can be that still has every kind of file: data, a model, metrics, a logged file."""

from pathlib import Path

import lightgbm as lgb

import loopwright as lw

asks = lw.data("asks.csv", key="id", known="asked_at")
outcomes = lw.data("outcomes.csv", key="id", known="known_at")
signals = lw.features("signals", asks, at="asked_at", columns=["x", "shop"])


@lw.step
def table(until: str = "now"):
    return signals.training(labels=outcomes, target="good", until=until)


@lw.step
def train(data=table, trees: int = 3):
    x, y = data
    params = {"objective": "binary", "min_data_in_leaf": 5, "seed": 1, "deterministic": True, "force_row_wise": True}
    booster = lgb.train({**params, "num_threads": 1, "verbose": -1}, lgb.Dataset(x, y), trees)
    lw.log(rows=len(x), trees=trees)
    lw.log_file(Path(__file__).parent / "notes.txt")
    return lw.model("small", booster, sample=x.head(20))


lw.endpoint(
    "small",
    model=train,
    features=signals,
    labels=outcomes,
    target="good",
    gate=lw.gate(lw.known_in_time(), lw.fast(limit="10s")),
)
