"""A model made by hand that leaks in a quieter way: o_delay is the delay in the hour of the departure itself."""

import duckdb
import lightgbm as lgb
import pandas as pd
from acts.declared import arrivals, delay_features

import loopwright as lw

PARAMS = {"objective": "binary", "num_leaves": 63, "seed": 7, "deterministic": True, "num_threads": 1, "verbose": -1}


@lw.step
def same_hour():
    x, y = delay_features.training(labels=arrivals, target="late", until="2013-04-01T04:00:00Z")
    due = duckdb.sql("FROM 'data/flights.parquet'").df().set_index("id").sched.dt.floor("h")
    left = duckdb.sql("FROM 'data/departures.parquet'").df().set_index("id")
    hourly = left.groupby([left.origin, due.reindex(left.index)]).dep_delay.mean()
    wanted = pd.MultiIndex.from_arrays([x.origin.astype(str), due.reindex(x.index)])
    x["o_delay"] = hourly.reindex(wanted).to_numpy()
    return lw.model("delay", lgb.train(PARAMS, lgb.Dataset(x, y), 150), sample=x)


if __name__ == "__main__":
    lw.run(same_hour)
