"""Two databases: the demo decides the same on both, byte for byte; and a writer beside three busy ones is soon heard.

PostgreSQL and the S3 store are the ones that the tests start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contract
import replays
import small
from contract import Bench, Result, percentile, stat

sys.path.insert(0, str(contract.ROOT / "tests"))

UNTIL, SHORT_UNTIL, QUICK_UNTIL = "2013-05-31", "2013-04-30", "2013-04-09"
BUSY, WRITES, PAUSE_S = 3, 1000, 0.01

# What somebody with the package would write: labels through the op that HTTP and the command line call too.
WRITER = """
import json, os, sys, time
from pathlib import Path
from loopwright import house
space = house.open(Path(sys.argv[1]))
add = house.ops()["serving.add_labels"].fn
name, count, pause_s = sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
took, number = [], 0
while number < count or not count:
    line = json.dumps({"id": f"{name}-{number}", "label": 1, "known_at": "2020-01-26T00:00:00Z"}).encode()
    start = time.perf_counter()
    add(space, f"local:{os.getuid()}", endpoint="tiny", body=line)
    took.append(time.perf_counter() - start)
    number += 1
    if pause_s:
        time.sleep(pause_s)
    elif number % 50 == 0:
        print(number, flush=True)
print(json.dumps(took), flush=True)
"""


def start(folder: Path, name: str, count: int, pause_s: float) -> subprocess.Popen[str]:
    """A process that adds labels, one an acknowledged write; count 0 = until it is killed."""
    command = [str(small.PYTHON), "-c", WRITER, str(folder), name, str(count), str(pause_s)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=small.environment(), stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise RuntimeError(f"writer {name} did not start")
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def beside(bench: Bench) -> None:
    """One writer that writes now and then, beside three that do nothing else."""
    count = 100 if bench.args.quick else WRITES
    with tempfile.TemporaryDirectory(dir=contract.OUT) as work:
        folder = small.make(Path(work) / "tiny")
        busy = [start(folder, f"busy{n}", 0, 0.0) for n in range(BUSY)]
        try:
            one = start(folder, "one", count, PAUSE_S)
            drains = [
                subprocess.Popen(["tail", "-n", "1"], stdin=p.stdout, stdout=subprocess.PIPE, text=True) for p in busy
            ]
            for process in (*busy, one):
                go(process)
            begun = time.perf_counter()
            assert one.stdout is not None
            took = [seconds * 1000 for seconds in json.loads(one.stdout.readline())]
            wall_s = time.perf_counter() - begun
        finally:
            for process in busy:
                process.kill()
                process.wait()
        others = sum(int(drain.communicate()[0] or 0) for drain in drains)
        one.wait()
    bench.keep("writer.json", took)
    told = f"p50 {percentile(took, 0.5):.1f} ms, longest {max(took):.0f} ms; the others {others / wall_s:,.0f} writes/s"
    why = f"labels, one an acknowledged write through serving.add_labels, SQLite; {told}"
    result = Result(
        stat([percentile(took, 0.99)], "wall"), counts={"attempted": count, "failed": count - len(took)}, reason=why
    )
    bench.put("writer.p99_ms", result)


def identical(bench: Bench) -> None:
    """The demo on a SQLite file and a folder, then on a PostgreSQL schema and an S3 store."""
    import servers

    until = QUICK_UNTIL if bench.args.quick else SHORT_UNTIL if getattr(bench.args, "short", False) else UNTIL
    with tempfile.TemporaryDirectory(dir=contract.OUT) as work:
        here = replays.Replay(Path(work) / "here" / "flights")
        here.run(until)
        first = here.stable()
        try:
            with servers.postgres() as address, servers.object_store() as store:
                place = {**store, "LOOPWRIGHT_DATABASE": address}
                there = replays.Replay(Path(work) / "there" / "flights", place=place)
                there.run(until)
                second = there.stable()
                where = there.document("status")["parts"]
        except servers.Missing as missing:
            raise contract.CannotRun(str(missing)) from None
    bench.keep("decisions.sqlite.json", first.decode())
    bench.keep("decisions.postgres.json", second.decode())
    told = {part["name"]: part["detail"] for part in where}
    if not told["database"].startswith("PostgreSQL") or not told["blobs"].startswith("s3://"):
        raise RuntimeError(f"the second demo did not live on PostgreSQL and S3: {told}")
    decided = len(json.loads(first)["items"])
    why = f"{decided} decisions to {until}; {here.replay_s:.0f} s on SQLite, {there.replay_s:.0f} s on PostgreSQL"
    result = Result(stat([float(first == second)], "score"), counts={"checked": decided}, reason=why)
    bench.put("ground.demo_identical_pg", result)


def measure(bench: Bench) -> None:
    """The rows of `writer.` and `ground.`."""
    bench.part(lambda: beside(bench), "writer.")
    bench.part(lambda: identical(bench), "ground.")
