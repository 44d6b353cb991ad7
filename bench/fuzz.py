"""Does any parser break, hang or grow on inputs that were made to hurt? A million mutated inputs for each of them.

.venv/bin/python bench/fuzz.py [--parser NAME,..] [--count N] [--seed N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import contract
from contract import Bench, Result, stat
from fuzz_inputs import mutate

COUNT, SHORT, QUICK = 1_000_000, 100_000, 20_000
SLOW_S, HANG_S = 1.0, 20
GROWTH_MB = 20.0
_BATCH = 1000
PARSERS = ("control", "spool", "http", "checkpoint", "json", "tree", "events", "labels")  # the longest first


class Hang(BaseException):
    """An input was not done in time."""


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def run(name: str, count: int, seed: int, keep: Path | None = None) -> dict[str, Any]:
    """Feed a parser; what broke is counted by its place in the code and kept once."""
    from fuzz_parsers import TARGETS

    target, rng = TARGETS[name](), random.Random(f"{name} {seed}")
    found: dict[str, dict[str, Any]] = {}
    warm_mb, slowest_s, began = 0.0, 0.0, time.monotonic()

    def late(number: int, frame: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    data = b""

    def note(error: BaseException) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        place = f"{type(error).__name__} {last[0].filename.rpartition('/')[2]}:{last[0].lineno}" if last else "?"
        if place not in found and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{len(found)}.bin").write_bytes(data)
        entry = found.setdefault(place, {"times": 0, "says": str(error)[:300], "input": repr(data[:200])})
        entry["times"] += 1

    for number in range(count):
        if number % _BATCH == 0:
            signal.alarm(HANG_S)
            if number == count // 10:
                warm_mb = _rss_mb()
        data = mutate(rng, target.seeds, target.words)
        if rng.random() < 0.5:
            data = target.mend(rng, data)
        start = time.process_time()  # of this process: a busy machine is no slow parser
        try:
            target.feed(rng, data)
        except (Exception, Hang) as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            note(error)
            signal.alarm(HANG_S)
        spent_s = time.process_time() - start
        if spent_s > slowest_s:
            slowest_s = spent_s
            if spent_s > SLOW_S:
                note(TimeoutError(f"{spent_s:.1f} s"))
    try:
        target.settle()
    except Exception as error:  # noqa: BLE001 - as above
        note(error)
    target.close()
    signal.alarm(0)
    grown_mb = _rss_mb() - warm_mb
    if count >= COUNT // 10 and grown_mb > GROWTH_MB:
        note(MemoryError(f"grew by {grown_mb:.1f} MB"))
    return {
        "parser": name, "inputs": count, "seed": seed, "crashes": sum(e["times"] for e in found.values()),
        "slowest_s": round(slowest_s, 3), "grown_mb": round(grown_mb, 1), "rss_mb": round(_rss_mb(), 1),
        "took_s": round(time.monotonic() - began, 1), "found": found,
    }  # fmt: skip


def measure(bench: Bench) -> None:
    """The row fuzz.crashes: a process a parser, two at a time."""
    count = QUICK if bench.args.quick else SHORT if getattr(bench.args, "short", False) else COUNT

    def one(name: str) -> dict[str, Any]:
        command = [sys.executable, __file__, "--parser", name, "--count", str(count), "--seed", str(bench.args.seed)]
        ran = subprocess.run([*command, "--keep", str(bench.evidence)], capture_output=True, text=True, check=False)
        if ran.returncode not in (0, 1):
            raise RuntimeError(f"fuzzing {name} ended with {ran.returncode}: {ran.stderr[-300:]}")
        return dict(json.loads(ran.stdout))

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(one, PARSERS))
    bench.keep("fuzz.json", done)
    crashes, attempted = (sum(part[key] for part in done) for key in ("crashes", "inputs"))
    said = [f"{part['parser']}: {place}" for part in done for place in part["found"]]
    counts = {"attempted": attempted, "checked": attempted}
    bench.put("fuzz.crashes", Result(value=stat([crashes], "count"), counts=counts, reason="; ".join(said)[:400]))


def main() -> int:
    """Fuzz parsers by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parser", default=",".join(PARSERS))
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, default=contract.OUT / "fuzz")
    args = parser.parse_args()
    count = args.count or (QUICK if args.quick else COUNT)
    crashes = 0
    for name in args.parser.split(","):
        one = run(name, count, args.seed, args.keep)
        print(json.dumps(one, indent=1))
        crashes += one["crashes"]
    return 1 if crashes else 0


if __name__ == "__main__":
    contract.use_venv()
    sys.exit(main())
