"""Do the rules of feeds keep quiet over a clean year and find faults: the flights of the demo, without serving.

The rules and the form of their looks are the package's; what is put into the feeds is known.

    .venv/bin/python bench/feeds.py --json bench/out/feeds.json      # about 3 CPU minutes; --quick has one day a fault
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import contract
from contract import Bar, Result, Row, stat

HOUR = 3_600_000_000
DAY = 24 * HOUR
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
ONSETS = ("2013-05-07", "2013-07-10", "2013-09-01", "2013-11-12")
TRUE = {  # what is really in the data: source, rule, the day on which it is told
    ("weather", ":silence", "2013-10-26"), ("weather", ":silence", "2013-11-03"), ("weather", ":silence", "2013-12-31"),
    ("requests", ":volume", "2013-11-29"),
}  # fmt: skip
ROWS = [
    Row("feeds.false_episodes", "episodes in nine clean months that state no incident of the data", "episodes", "lower",
        (Bar("<=", 2),)),
    Row("feeds.incidents", "weather silent on 25 October, 2 November and 30 December, told", "share", "higher",
        (Bar(">=", 1),)),
    Row("feeds.found", "gross faults put into the feeds at four times of the year, told within 24 h", "share", "higher",
        (Bar(">=", 0.9),)),
    Row("feeds.unit_h", "weather in Celsius: hours until it is told, the worst of four", "h", "lower", (Bar("<=", 4),)),
    Row("feeds.ended", "faults that ended, no later than two days after the feed was mended", "share", "higher",
        (Bar(">=", 0.9),)),
    Row("feeds.look_ms", "CPU of one look at the four feeds, four hours of the demo each", "ms", "lower",
        (Bar("<=", 20),)),
]  # fmt: skip
Feed = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], str]
FEEDS: dict[str, Feed] = {  # file, group, key, columns, when known
    "weather": ("weather", ("origin",), ("origin", "at"), (*WEATHER, "origin"), "at"),
    "departures": ("departures", ("origin",), ("id",), ("origin", "carrier", "dep_delay"), "left_at"),
    "requests": ("flights", (), (), ("carrier", "origin", "dest", "distance", "tailnum"), "asked_at"),
    "labels": ("arrivals", (), (), ("late",), "known_at"),
}


class Year:
    """The feeds of 2013, read once, with their ranges as the contract of the history proposes them."""

    def __init__(self, folder: Path) -> None:
        import shutil

        import duckdb

        from loopwright.data import profile

        source = contract.ROOT / "src" / "loopwright" / "demos" / "flights" / "make_files.py"
        shutil.copy(source, folder)
        sys.path.insert(0, str(folder))
        import make_files

        self.ranges: dict[str, dict[str, tuple[float | None, float | None]]] = {}
        self.rows: dict[str, list[Any]] = {}
        make_files.main()
        for name, (file, *_) in FEEDS.items():
            found = profile.Look(duckdb.connect(), folder / "data" / f"{file}.parquet")
            rules = found.contract(found.profile()).columns
            self.ranges[name] = {rule.column: (rule.low, rule.high) for rule in rules if rule.kind == "number"}
        make_files.main("2014-01-02 00:00")
        for name in FEEDS:
            self.rows[name] = self._read(duckdb.connect(), folder / "data", name)

    def _read(self, con: Any, data: Path, name: str) -> list[Any]:
        from loopwright.monitors.feed_rules import Row as FeedRow

        file, group, key, columns, known = FEEDS[name]
        wanted = list(dict.fromkeys((*group, *(k for k in key if k != "at"), *columns)))
        shown = ", ".join(f'"{column}"' for column in wanted)
        out = []
        read = f'SELECT epoch_us("{known}") AS "lw.known", {shown} FROM \'{data / file}.parquet\' ORDER BY ALL'
        for at_us, *values in con.execute(read).fetchall():
            row = {**dict(zip(wanted, values, strict=True)), "at": at_us}
            told = {column: row[column] for column in columns}
            marks = ("|".join(str(row[column]) for column in part) for part in (group, key))
            out.append(FeedRow(at_us, *marks, told))
        return out

    def start(self, name: str) -> Any:
        """A feed of which nothing was seen."""
        from loopwright.monitors import feed_rules as rules

        ranges = self.ranges[name]
        numbers = {c: ranges.get(c, (None, None)) for c in FEEDS[name][3] if c in ranges}
        if name == "labels":
            return rules.start({"late": (None, None)}, [], target="late", counted=False)
        texts = [c for c in FEEDS[name][3] if c not in ranges]
        return rules.start(numbers, texts, fresh_us=3 * HOUR if name == "weather" else None, counted=name != "requests")


class Told:
    """One episode: which fault, when it was told first, as it was seen last, when it ended."""

    def __init__(self, fault: Any, at_us: int) -> None:
        self.fault, self.at_us, self.ended_us = fault, at_us, 0


def watch(name: str, state: Any, rows: Iterable[Any], until_us: int) -> tuple[list[Told], float]:
    """Every four hours a look, from April on; returns the episodes and the CPU seconds of a look."""
    import msgspec

    from loopwright.monitors.feed_rules import Pass, State

    start_us, rows = moment("2013-04-01") + 4 * HOUR, list(rows)
    first = next(place for place, row in enumerate(rows) if row.known_us >= start_us)
    Pass(name, state, live=False).go(rows[:first], start_us)
    raw, out, open_, began, looks = msgspec.json.encode(state), [], {}, time.process_time(), 0
    for at_us in range(start_us + 4 * HOUR, until_us + 1, 4 * HOUR):
        last = first
        while last < len(rows) and rows[last].known_us < at_us:
            last += 1
        state = msgspec.json.decode(raw, type=State)
        for fault in Pass(name, state, live=True).go(rows[first:last], at_us):
            if fault.key not in open_:
                open_[fault.key] = Told(fault, at_us)
                out.append(open_[fault.key])
            open_[fault.key].fault = fault
            if fault.key not in state.open:
                open_.pop(fault.key).ended_us = at_us
        raw, first, looks = msgspec.json.encode(state), last, looks + 1
    return out, (time.process_time() - began) / looks


def moment(day: str) -> int:
    """The first moment of a day."""
    from loopwright.kernel.times import parse_time

    return parse_time(day)


Change = Callable[[Any], list[Any]]


def put(row: Any, **values: Any) -> list[Any]:
    """A row with other values."""
    return [type(row)(row.known_us, row.group, row.key, {**row.values, **values})]


def one_in(row: Any, share: float) -> bool:
    """Whether a row is one of a share, the same in every run."""
    return zlib.crc32(f"{row.key}{row.known_us}{sorted(row.values.items(), key=str)}".encode()) % 1000 < 1000 * share


def scaled(column: str, factor: float) -> Change:
    """A column in another unit."""
    return lambda row: put(row, **{column: None if row.values[column] is None else row.values[column] * factor})


def celsius(row: Any) -> list[Any]:
    """Both temperatures in Celsius."""
    changed = {c: None if row.values[c] is None else (row.values[c] - 32) / 1.8 for c in ("temp", "dewp")}
    return put(row, **changed)


FAULTS: dict[str, tuple[str, Change]] = {
    "celsius": ("weather", celsius),
    "pressure in inches": ("weather", scaled("pressure", 0.02953)),
    "wind of 1048 mph once a day": (
        "weather", lambda r: put(r, wind_speed=1048.36) if r.group == "LGA" and r.known_us // HOUR % 24 == 14 else [r],
    ),
    "temperature missing in 10 %": ("weather", lambda r: put(r, temp=None) if one_in(r, 0.1) else [r]),
    "one wind for all": ("weather", lambda r: put(r, wind_speed=10.35702)),
    "weather twice": ("weather", lambda r: [r, r]),
    "every other weather": ("weather", lambda r: [] if one_in(r, 0.5) else [r]),
    "weather silent": ("weather", lambda r: []),
    "delays in seconds": ("departures", scaled("dep_delay", 60)),
    "delays missing in 10 %": ("departures", lambda r: put(r, dep_delay=None) if one_in(r, 0.1) else [r]),
    "departures twice": ("departures", lambda r: [r, r]),
    "departures silent": ("departures", lambda r: []),
    "a carrier of 3 % is new": ("departures", lambda r: put(r, carrier="ZZ") if one_in(r, 0.03) else [r]),
    "no delay changes": ("departures", lambda r: put(r, dep_delay=0.0)),
    "twice the requests": ("requests", lambda r: [r, r]),
    "half the requests": ("requests", lambda r: [] if one_in(r, 0.5) else [r]),
    "requests without carrier in 10 %": ("requests", lambda r: put(r, carrier=None) if one_in(r, 0.1) else [r]),
    "labels stop": ("labels", lambda r: []),
    "labels all no": ("labels", lambda r: put(r, late=0)),
}  # fmt: skip
WEAK: dict[str, tuple[str, Change]] = {  # told, and under no bar: too like what the feeds do by themselves
    "wind in m/s": ("weather", scaled("wind_speed", 0.447)),
    "visibility in km": ("weather", scaled("visib", 1.609)),
    "distance in km": ("requests", scaled("distance", 1.609)),
    "half the departures": ("departures", lambda r: [] if one_in(r, 0.5) else [r]),
    "labels turned round": ("labels", lambda r: put(r, late=1 - r.values["late"])),
}


def clean(bench: contract.Bench, year: Year) -> None:
    """Nine months as they were."""
    from loopwright.kernel.times import format_time

    false, told, looks = [], set(), 0.0
    for name in FEEDS:
        found, look_s = watch(name, year.start(name), year.rows[name], moment("2014-01-01"))
        looks += look_s
        for episode in found:
            this = (name, episode.fault.key, format_time(episode.at_us)[:10])
            told.add(this)
            if this not in TRUE:
                false.append(f"{this[2]} {episode.fault.reason}")
    silent = [this for this in TRUE if this[1] == ":silence"]
    bench.keep("feeds-clean.json", {"false": false, "told": sorted(told)})
    bench.put("feeds.false_episodes", Result(stat([len(false)], "count"), reason="; ".join(false) or "none"))
    share = sum(this in told for this in silent) / len(silent)
    bench.put("feeds.incidents", Result(stat([share], "score"), reason=f"{len(told)} episodes in all"))
    bench.put("feeds.look_ms", Result(stat([looks * 1000], "cpu"), reason="state read and written included"))


def faults(bench: contract.Bench, year: Year) -> None:
    """Each fault at each of four times, for four days."""
    told: dict[str, list[float | None]] = {}
    ended: list[bool] = []
    for fault, (name, change) in {**FAULTS, **WEAK}.items():
        for day in ONSETS[: 1 if bench.args.quick else None]:
            since_us = moment(day)
            until_us = since_us + 4 * DAY
            rows = [
                r for row in year.rows[name] for r in (change(row) if since_us <= row.known_us < until_us else [row])
            ]
            found = [e for e in watch(name, year.start(name), rows, until_us + 3 * DAY)[0] if e.at_us > since_us]
            first = min((e.at_us for e in found), default=None)
            told.setdefault(fault, []).append(None if first is None else (first - since_us) / HOUR)
            if fault in FAULTS:
                ended += [0 < e.ended_us <= until_us + 2 * DAY for e in found if e.at_us <= until_us]
    bench.keep("feeds-faults.json", told)
    hits = [hours is not None and hours <= 24 for fault in FAULTS for hours in told[fault]]
    late = {f: told[f] for f in told if any(hours is None or hours > 24 for hours in told[f])}
    counts = {"attempted": len(hits), "checked": len(hits)}
    bench.put("feeds.found", Result(stat([sum(hits) / len(hits)], "score"), counts=counts, reason=f"later: {late}"))
    worst = max(hours or 1e9 for hours in told["celsius"])
    bench.put("feeds.unit_h", Result(stat([worst], "score"), reason=str(told["celsius"])))
    bench.put("feeds.ended", Result(stat([sum(ended) / len(ended)], "score"), reason=f"{sum(ended)} of {len(ended)}"))


def measure(bench: contract.Bench) -> None:
    """The clean year, then the faults."""
    with tempfile.TemporaryDirectory(dir=contract.OUT) as folder:
        year = Year(Path(folder))
        bench.part(lambda: clean(bench, year), "feeds.false_episodes", "feeds.incidents", "feeds.look_ms")
        bench.part(lambda: faults(bench, year), "feeds.found", "feeds.unit_h", "feeds.ended")


if __name__ == "__main__":
    contract.use_venv()
    raise SystemExit(contract.main("feeds", ROWS, contract.parser(__doc__).parse_args(), measure))
