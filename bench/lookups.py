"""What a look-up costs a worker, and what a refresh of the snapshot costs control, on a stream shaped like the flights.

python bench/lookups.py [--json]
"""

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import duckdb

import loopwright as lw
from loopwright import house
from loopwright.access.service import local_actor
from loopwright.data import facts, online, prepare, service
from loopwright.data.model import FeaturesSpec
from loopwright.kernel.settings import Settings
from loopwright.kernel.times import DAY, HOUR, MINUTE, format_time, parse_time

START = "2013-04-01T04:00:00Z"
START_US = parse_time(START)
SITES, CARRIERS = ("JFK", "LGA", "EWR"), ("AA", "B6", "UA", "DL", "EV", "MQ", "US", "WN", "9E", "FL")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


def declare(root: Path) -> FeaturesSpec:
    """Files and declarations as the demo has them: a quarter's history, 1,000 departures a day, 3,322 planes."""
    con = duckdb.connect()
    con.execute(f"SELECT setseed(0.5); SET VARIABLE first = TIMESTAMP '{START[:-1]}' - INTERVAL 90 DAY")
    con.execute("CREATE MACRO pick(n) AS CAST(floor(random() * n) AS INTEGER) + 1")
    when, sites = "getvariable('first') + to_seconds(i * {})", f"list_value{SITES}"
    tables = {
        "flights": f"'f' || i AS id, {when.format(86)} AS asked_at, {when.format(86)} + INTERVAL 1 HOUR AS sched,"
        f" list_value{CARRIERS}[pick(10)] AS carrier, {sites}[pick(3)] AS origin, 'D' || pick(100) AS dest,"
        " random() * 2000 AS distance, 'N' || pick(3400) AS tailnum FROM range(1000) t(i)",
        "weather": f"{sites}[i % 3 + 1] AS origin, {when.format(1200)} AS at, "
        + ", ".join(f"random() * 50 AS {name}" for name in WEATHER) + " FROM range(6480) t(i)",
        "planes": "'N' || i AS tailnum, pick(300) AS seats, 1990 + pick(20) AS built FROM range(3322) t(i)",
        "departures": f"'d' || i AS id, {sites}[pick(3)] AS origin, list_value{CARRIERS}[pick(10)] AS carrier,"
        f" {when.format(86)} AS left_at, CAST(pick(120) - 20 AS DOUBLE) AS dep_delay FROM range(90000) t(i)",
    }  # fmt: skip
    for name, query in tables.items():
        con.execute(f"COPY (SELECT {query}) TO '{root / name}.parquet' (FORMAT parquet)")
    flights = lw.data("flights.parquet", key="id", known="asked_at")
    weather = lw.data("weather.parquet", key="origin", time="at", known="at")
    planes = lw.data("planes.parquet", key="tailnum", known="always")
    departures = lw.data("departures.parquet", key="id", known="left_at")
    return lw.features(
        "delay_features",
        flights,
        at="asked_at",
        columns=["carrier", "origin", "dest", "distance"],
        derive={"mins": "hour(sched) * 60 + minute(sched)", "dow": "isodow(sched) - 1"},
        joins=[
            lw.lookup(planes, on="tailnum", columns=["seats", "built"]),
            lw.asof(weather, on="origin", columns=list(WEATHER), within="3h"),
            lw.window(departures, on="origin", last="2h", o_delay=("mean", "dep_delay"), o_n=("count", "dep_delay")),
            lw.window(departures, on=["origin", "carrier"], last="2h", c_delay=("mean", "dep_delay")),
        ],
    )


def measure(hours: int = 120) -> dict[str, float]:
    """Medians over hours of facts that are told, shown and asked about one after the other."""
    draw = random.Random(5)
    told, shown, asked = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        space = house.init(Path(folder), Settings(clock="replay", start=START))
        with contextlib.closing(space):
            spec = declare(Path(folder))
            for source in spec.sources:
                service.add(space, local_actor(), Path(folder) / source.path, declaration=source)
            service.declare_features(space, local_actor(), spec)
            plan = prepare.plan(space, spec)
            prepare.show_facts(space, plan)
            lookup = online.Lookup(plan)
            for hour in range(hours):
                at_us = START_US + hour * HOUR
                air = [{"origin": s, "at": format_time(at_us), **dict.fromkeys(WEATHER, 7.5)} for s in SITES]
                left = [
                    {"id": f"n{hour}-{n}", "origin": draw.choice(SITES), "carrier": draw.choice(CARRIERS),
                     "left_at": format_time(at_us + n * MINUTE), "dep_delay": float(draw.randint(-20, 200))}
                    for n in range(42)
                ]  # fmt: skip
                start = time.perf_counter()
                for name, rows in (("weather", air), ("departures", left)):
                    facts.add(space, local_actor(), name, b"\n".join(json.dumps(row).encode() for row in rows))
                between = time.perf_counter()
                prepare.show_facts(space, plan)
                end = time.perf_counter()
                told.append(between - start)
                shown.append(end - between)
                lookup.refresh()
                base = {"sched": at_us + HOUR, "distance": 500.0, "dest": "D7"}
                for _ in range(40):
                    row = {**base, "carrier": draw.choice(CARRIERS), "origin": draw.choice(SITES),
                           "tailnum": f"N{draw.randint(0, 3400)}"}  # fmt: skip
                    values = [row[name] for name, _ in plan.base]
                    start = time.perf_counter()
                    lookup.row(values, at_us + draw.randint(0, HOUR))
                    asked.append(time.perf_counter() - start)
    return {
        "lookup.row_us": round(statistics.median(asked) * 1e6, 1),
        "lookup.refresh_ms": round(statistics.median(shown[DAY // HOUR * 2 :]) * 1e3, 2),
        "lookup.tell_ms": round(statistics.median(told) * 1e3, 2),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure()
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))
