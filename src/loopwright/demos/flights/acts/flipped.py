"""A model made by hand on data in which all labels of May are the wrong way round."""

import lightgbm as lgb
from acts.declared import arrivals, delay_features

import loopwright as lw

PARAMS = {"objective": "binary", "num_leaves": 63, "seed": 7, "deterministic": True, "num_threads": 1, "verbose": -1}


@lw.step
def flipped(until: str = "2013-08-01T04:00:00Z"):
    x, y = delay_features.training(labels=arrivals, target="late", until=until)
    may = x.index.str.contains("-2013-05-")
    y = y.where(~may, 1 - y)
    return lw.model("delay", lgb.train(PARAMS, lgb.Dataset(x, y), 150), sample=x)


if __name__ == "__main__":
    lw.run(flipped)
