"""Will this departure from New York arrive more than 15 minutes late? Asked one hour before it is due to leave."""

import lightgbm as lgb

import loopwright as lw

# 1 data: each source says when its rows become known
flights = lw.data("data/flights.parquet", key="id", known="asked_at")
weather = lw.data("data/weather.parquet", key="origin", time="at", known="at")
planes = lw.data("data/planes.parquet", key="tailnum", known="always")
departures = lw.data("data/departures.parquet", key="id", known="left_at")
arrivals = lw.data("data/arrivals.parquet", key="id", known="known_at")

# 2 features: each joined as it was known when the question was asked
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
delay_features = lw.features(
    "delay_features",
    flights,
    at="asked_at",
    columns=["carrier", "origin", "dest", "distance"],
    derive={"mins": "hour(sched) * 60 + minute(sched)", "dow": "isodow(sched) - 1"},
    joins=[
        lw.lookup(planes, on="tailnum", columns=["seats", "built"]),
        lw.asof(weather, on="origin", columns=WEATHER, within="3h"),
        lw.window(departures, on="origin", last="2h", o_delay=("mean", "dep_delay"), o_n=("count", "dep_delay")),
        lw.window(departures, on=["origin", "carrier"], last="2h", c_delay=("mean", "dep_delay")),
    ],
)


# 3 steps: plain functions, run again only when their code or their data has changed
@lw.step
def table(until: str = "now"):
    return delay_features.training(labels=arrivals, target="late", until=until)


@lw.step
def train(data=table, trees: int = 150, leaves: int = 63, rate: float = 0.05):
    x, y = data
    params = {
        "objective": "binary", "learning_rate": rate, "num_leaves": leaves, "min_data_in_leaf": 200, "seed": 7,
        "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbose": -1,
    }  # fmt: skip
    booster = lgb.train(params, lgb.Dataset(x, y), trees)
    lw.log(rows=len(x), late_share=float(y.mean()))
    return lw.model("delay", booster, sample=x)


# 4 what must hold before a version is served, and what is served
gate = lw.gate(
    lw.floor("auc", 0.68, holdout="31d"), lw.better("log_loss", by=0.01), lw.known_in_time(), lw.fast(limit="50ms")
)
lw.endpoint("delay", model=train, features=delay_features, labels=arrivals, target="late", gate=gate, keep=("delay@1",))

if __name__ == "__main__":
    lw.run(train)
