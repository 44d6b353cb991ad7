"""A project as small as one can be: one source, one feature table, one step, one endpoint."""

import lightgbm as lgb

import loopwright as lw

asks = lw.data("asks.csv", key="id", known="asked_at")
outcomes = lw.data("outcomes.csv", key="id", known="known_at")
signals = lw.features("signals", asks, at="asked_at", columns=["x", "shop"])


@lw.step
def table(until: str = "now"):
    return signals.training(labels=outcomes, target="good", until=until)


@lw.step
def train(data=table, trees: int = 10):
    x, y = data
    params = {"objective": "binary", "min_data_in_leaf": 5, "seed": 1, "deterministic": True, "force_row_wise": True}
    booster = lgb.train({**params, "num_threads": 1, "verbose": -1}, lgb.Dataset(x, y), trees)
    lw.log(rows=len(x))
    return lw.model("tiny", booster, sample=x)


lw.endpoint(
    "tiny",
    model=train,
    features=signals,
    labels=outcomes,
    target="good",
    gate=lw.gate(lw.floor("auc", 0.6, holdout="7d"), lw.known_in_time(), lw.fast(limit="1s")),
    keep=("tiny@1",),
)

if __name__ == "__main__":
    lw.run(train)
