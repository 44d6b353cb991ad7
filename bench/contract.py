"""How every bench of the project reports: arguments, floors of the same run, verdicts, one document, one last line.

A bench declares its rows first, measures what is wanted, and hands over samples; whether a row passed is decided here
and nowhere else. The document follows docs/schemas/bench-1.json. Standard library only.
"""

from __future__ import annotations

import argparse
import http.server
import json
import math
import os
import platform
import resource
import socketserver
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
OUT = ROOT / "bench" / "out"
SCHEMA = "loopwright.bench/1"
PASSED, FAILED, ONLY_SKIPS, COULD_NOT_RUN = 0, 1, 3, 2

Stat = dict[str, Any]
Measured = tuple[float, float, int]


class CannotRun(Exception):
    """The bench lacks what it needs to begin; it ends with exit code 2."""


# --- numbers --------------------------------------------------------------------------------------------------------


def stat(samples: Iterable[float], kind: str) -> Stat:
    """Median, extremes and count of samples; kind is cpu, wall, count, bytes or score."""
    values = sorted(samples)
    if not values:
        raise ValueError("a figure needs at least one sample")
    median = statistics.median(values)
    return {"median": median, "min": values[0], "max": values[-1], "n": len(values), "kind": kind}


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that is not exceeded by `share` of the samples."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def run_cpu(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Measured:
    """CPU seconds (user and system), wall seconds and exit code of a command and the children it waited for."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    quiet = subprocess.DEVNULL
    code = subprocess.run(command, cwd=cwd, env=env, stdin=quiet, stdout=quiet, stderr=quiet, check=False).returncode
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall, code


def interleave(tasks: Mapping[str, Callable[[], float]], reps: int) -> dict[str, list[float]]:
    """Run each task once unmeasured, then all of them in turn, so that a busy machine touches them alike."""
    for task in tasks.values():
        task()
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(reps):
        for name, task in tasks.items():
            found[name].append(task())
    return found


# --- floors: what this machine can do at best, measured in the same run -----------------------------------------------


def bare_python_cpu_s(reps: int) -> Stat:
    command = [str(VENV / "bin" / "python"), "-c", "pass"]
    run_cpu(command)
    return stat([run_cpu(command)[0] for _ in range(max(reps, 5))], "cpu")


def _timed(act: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        act()
        times.append((time.perf_counter() - start) * 1000)
    return times


def _p50s(act: Callable[[], object], reps: int, count: int) -> Stat:
    return stat([statistics.median(_timed(act, count)) for _ in range(max(reps, 3))], "wall")


def fdatasync_p50_ms(reps: int) -> Stat:
    with tempfile.TemporaryFile(dir=OUT) as file:

        def act() -> None:
            os.write(file.fileno(), b"x" * 4096)
            os.fdatasync(file.fileno())

        return _p50s(act, reps, 100)


def sqlite_full_commit_p50_ms(reps: int) -> Stat:
    with tempfile.TemporaryDirectory(dir=OUT) as folder:
        con = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
        try:
            con.execute("PRAGMA journal_mode=WAL")
            con.execute("PRAGMA synchronous=FULL")
            con.execute("CREATE TABLE t (v TEXT)")
            return _p50s(lambda: con.execute("INSERT INTO t VALUES ('x')"), reps, 100)
        finally:
            con.close()


def write_fsync_mb_s(reps: int) -> Stat:
    block, megabytes, rates = b"\0" * 1_000_000, 64, []
    for _ in range(max(reps, 3)):
        with tempfile.TemporaryFile(dir=OUT) as file:
            start = time.perf_counter()
            for _ in range(megabytes):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rates.append(megabytes / (time.perf_counter() - start))
    return stat(rates, "wall")


class _Stub(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        return


def http_stub_p50_ms(reps: int) -> Stat:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with socketserver.TCPServer(("127.0.0.1", 0), _Stub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        try:
            return _p50s(lambda: opener.open(url).read(), reps, 50)
        finally:
            server.shutdown()


FLOORS: dict[str, tuple[str, Callable[[int], Stat]]] = {
    "bare_python_cpu_s": ("s", bare_python_cpu_s),
    "fdatasync_p50_ms": ("ms", fdatasync_p50_ms),
    "sqlite_full_commit_p50_ms": ("ms", sqlite_full_commit_p50_ms),
    "write_fsync_mb_s": ("MB/s", write_fsync_mb_s),
    "http_stub_p50_ms": ("ms", http_stub_p50_ms),
}


# --- rows and verdicts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A limit on a row's value (its median) or on its ratio."""

    op: str
    bar: float
    on: str = "value"

    def holds(self, value: float | None, ratio: float | None) -> bool:
        shown = value if self.on == "value" else ratio
        if shown is None or math.isnan(shown):
            return False
        return {">=": shown >= self.bar, "<=": shown <= self.bar, "==": shown == self.bar}[self.op]


@dataclass(frozen=True)
class Row:
    """What a bench promises to measure."""

    id: str
    title: str
    unit: str
    better: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Result:
    """What was measured for a row; `ratio` only where it is not simply ours beside the other's.

    `skipped` says why it cannot be measured on this machine, such as without root.
    """

    value: Stat | None = None
    bars: tuple[Bar, ...] | None = None
    against: tuple[str, str, Stat] | None = None
    ratio: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    skipped: str = ""


COUNTS = ("attempted", "checked", "wrong", "failed", "lost")


def judge(row: Row, result: Result, *, quick: bool, evidence: str) -> dict[str, Any]:
    """The row of the document: the one place where a verdict is made."""
    value = result.value["median"] if result.value is not None else None
    ratio = result.ratio
    if ratio is None and result.against is not None and value:
        other = result.against[2]["median"]
        ratio = other / value if row.better == "lower" else value / other if other else None
    bars = result.bars if result.bars is not None else row.bars
    met = [bar.holds(value, ratio) for bar in bars]
    counts = {name: int(result.counts.get(name, 0)) for name in COUNTS}
    bad = [f"{counts[name]} {name}" for name in ("wrong", "failed", "lost") if counts[name]]
    missed = [f"{b.on} {b.op} {b.bar:g} not met" for b, ok in zip(bars, met, strict=True) if not ok]
    if result.skipped:
        verdict, why, met = "skip", [f"SKIPPED({result.skipped})"], [False] * len(met)
    elif value is None:
        verdict, why = "fail", ["not measured"]
    elif bad or missed or not bars:
        verdict, why = "fail", [*bad, *missed, *([] if bars else ["no bar"])]
    elif quick:
        verdict, why, met = "skip", ["a quick run never counts as met"], [False] * len(met)
    else:
        verdict, why = "pass", []
    against = result.against and {"kind": result.against[0], "id": result.against[1], "value": result.against[2]}
    return {
        "id": row.id,
        "title": row.title,
        "unit": row.unit,
        "better": row.better,
        "value": result.value,
        "against": against,
        "ratio": ratio,
        "bars": [{"on": b.on, "op": b.op, "bar": b.bar, "met": ok} for b, ok in zip(bars, met, strict=True)],
        "verdict": verdict,
        "reason": "; ".join([*why, *([result.reason] if result.reason else [])]),
        "counts": counts,
        "evidence": evidence,
    }


def exit_code(rows: Sequence[Mapping[str, Any]]) -> int:
    verdicts = [row["verdict"] for row in rows]
    if not verdicts:
        return COULD_NOT_RUN
    if "fail" in verdicts:
        return FAILED
    return PASSED if "pass" in verdicts else ONLY_SKIPS


# --- one run --------------------------------------------------------------------------------------------------------


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that every bench takes; a bench may add its own."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", nargs="?", const="-", metavar="OUT", help="write the document (no OUT: print it)")
    made.add_argument("--only", metavar="ID,..", help="rows to measure, by id or prefix")
    made.add_argument("--list", action="store_true", help="print the ids of the rows and stop")
    made.add_argument("--seed", type=int, default=7)
    made.add_argument("--quick", action="store_true", help="smaller sizes; never counts as met")
    made.add_argument("--reps", type=int, default=5)
    return made


def use_venv() -> None:
    """Go on inside the environment that `make env` built, whatever Python the script was started with."""
    python = VENV / "bin" / "python"
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not python.exists():
        print("no .venv here: make env", file=sys.stderr)
        raise SystemExit(COULD_NOT_RUN)
    os.execv(python, [str(python), *sys.argv])


class Bench:
    """One run of a bench: knows which rows are wanted, gathers results, writes the document."""

    def __init__(self, name: str, rows: Sequence[Row], args: argparse.Namespace) -> None:
        prefixes = [p for p in (args.only or "").split(",") if p]
        self.rows = [r for r in rows if not prefixes or any(r.id == p or r.id.startswith(p) for p in prefixes)]
        self.name, self.args = name, args
        self.floors: dict[str, Stat] = {}
        self.peers: dict[str, dict[str, str]] = {}
        self.results: dict[str, Result] = {}
        self._started, self._clock, self._load = datetime.now(UTC), time.perf_counter(), os.getloadavg()[0]
        self.evidence = OUT / name / self._started.strftime("%Y%m%dT%H%M%SZ")
        self.evidence.mkdir(parents=True, exist_ok=True)

    def wants(self, *prefixes: str) -> bool:
        """Whether a wanted row begins with one of these."""
        return any(row.id.startswith(prefixes) for row in self.rows)

    def floor(self, name: str) -> Stat:
        """The machine's own figure, measured once a run."""
        if name not in self.floors:
            self.floors[name] = FLOORS[name][1](self.args.reps)
        return self.floors[name]

    def put(self, row_id: str, result: Result) -> None:
        """Hand over what was measured for a row."""
        if any(row.id == row_id for row in self.rows):
            self.results[row_id] = result

    def keep(self, name: str, data: Any) -> None:
        """Write raw samples to the evidence folder."""
        (self.evidence / name).write_text(json.dumps(data, indent=1, sort_keys=True, default=str) + "\n")

    def part(self, act: Callable[[], None], *prefixes: str) -> None:
        """Do a part when one of its rows is wanted; if it breaks, its rows without a result say so and fail."""
        if not self.wants(*prefixes):
            return
        try:
            act()
        except CannotRun:
            raise
        except Exception as error:  # noqa: BLE001 - one broken part must not hide the rows of the others
            traceback.print_exc()
            for row in self.rows:
                if row.id.startswith(prefixes) and row.id not in self.results:
                    self.results[row.id] = Result(reason=" ".join(f"{type(error).__name__}: {error}".split())[:500])

    def document(self) -> dict[str, Any]:
        place = self.evidence.relative_to(ROOT).as_posix()
        quick = self.args.quick
        rows = [judge(r, self.results.get(r.id, Result()), quick=quick, evidence=place) for r in self.rows]
        verdicts = [row["verdict"] for row in rows]
        commit, dirty = commit_state()
        return {
            "schema": SCHEMA,
            "bench": self.name,
            "commit": commit,
            "dirty": dirty,
            "version": metadata.version("loopwright"),
            "argv": sys.argv[1:],
            "seed": self.args.seed,
            "quick": quick,
            "started_at": self._started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "wall_s": round(time.perf_counter() - self._clock, 3),
            "machine": machine(self._load),
            "floors": {n: {"unit": FLOORS[n][0], "value": v} for n, v in self.floors.items()},
            "peers": self.peers,
            "rows": rows,
            "summary": {k: verdicts.count(v) for k, v in SUMMARY.items()},
        }

    def finish(self) -> int:
        """Write the document, print the rows and the closing line; returns the exit code."""
        document = self.document()
        text = json.dumps(document, indent=1) + "\n"
        (self.evidence / "document.json").write_text(text)
        if self.args.json == "-":
            print(text, end="")
        elif self.args.json:
            target = Path(self.args.json)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for row in document["rows"]:
            shown = "-" if row["value"] is None else f"{row['value']['median']:.6g}"
            print(f"{row['verdict']:5} {row['id']:28} {shown:>12} {row['unit']:6} {row['reason']}")
        print("{passed} passed, {failed} failed, {skipped} skipped".format_map(document["summary"]))
        return exit_code(document["rows"])


SUMMARY = {"passed": "pass", "failed": "fail", "skipped": "skip"}


def main(name: str, rows: Sequence[Row], args: argparse.Namespace, measure: Callable[[Bench], None]) -> int:
    """Run a bench from its arguments to its exit code."""
    if args.list:
        print("\n".join(row.id for row in rows))
        return PASSED
    OUT.mkdir(parents=True, exist_ok=True)
    bench = Bench(name, rows, args)
    if not bench.rows:
        print(f"no row matches --only {args.only}; see --list", file=sys.stderr)
        return COULD_NOT_RUN
    try:
        measure(bench)
    except CannotRun as error:
        print(f"could not run: {error}", file=sys.stderr)
        return COULD_NOT_RUN
    return bench.finish()


# --- where it ran ---------------------------------------------------------------------------------------------------


def _git(*args: str) -> str:
    ran = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""


def commit_state() -> tuple[str, bool]:
    """The commit of the clone (zeros where there is none) and whether files differ from it."""
    return _git("rev-parse", "HEAD") or "0" * 40, bool(_git("status", "--porcelain"))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_system(path: Path) -> str:
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return kind
    for line in mounts:
        point, name = line.split()[1:3]
        if (path == Path(point) or Path(point) in path.parents) and len(point) >= len(best):
            best, kind = point, name
    return kind


def machine(load_at_start: float) -> dict[str, Any]:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "mem_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fs": _file_system(OUT),
        "load1": [round(load_at_start, 2), round(os.getloadavg()[0], 2)],
    }
