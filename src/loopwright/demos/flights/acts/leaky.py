"""A model made by hand that leaks: how late a flight left is not known an hour before it leaves."""

import duckdb
import lightgbm as lgb
from acts.declared import arrivals, delay_features

import loopwright as lw

PARAMS = {"objective": "binary", "num_leaves": 63, "seed": 7, "deterministic": True, "num_threads": 1, "verbose": -1}


@lw.step
def leaky():
    x, y = delay_features.training(labels=arrivals, target="late", until="2013-04-01T04:00:00Z")
    left = duckdb.sql("FROM 'data/departures.parquet'").df().set_index("id").dep_delay
    x["dep_delay"] = left.reindex(x.index).astype("float64")
    return lw.model("delay", lgb.train(PARAMS, lgb.Dataset(x, y), 50), sample=x)


if __name__ == "__main__":
    lw.run(leaky)
