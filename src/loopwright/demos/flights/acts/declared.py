"""The sources and features of the project, for scripts beside it: sections 1 and 2 of flights.py."""

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
