"""Answers a second of one worker beside FastAPI with scikit-learn: the same model, one core each, answers checked.

The ruler is rulers/serving: its data, its FastAPI service and its load generator, which compares every answer. Ours is
served by a real `lw up`, through the registry and a gate, with the prediction log on; the log is counted afterwards.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from contract import OUT, ROOT, VENV, Bench, CannotRun, Result, stat
from small import free_port

RULER = ROOT / "bench" / "rulers" / "serving"
LW, PYTHON = VENV / "bin" / "lw", VENV / "bin" / "python"
ROW = "serving.gb.c16.fastapi_ratio"
CONNECTIONS, CASES, WIDTH = 16, 256, 25
PEER = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "joblib==1.6.0")

# What somebody with the package writes: the model that the ruler describes, packed from the matrix it was fitted on.
MODEL = """
import sys
sys.path.insert(0, {ruler!r})
import joblib, numpy
from build_models import data
from sklearn.ensemble import GradientBoostingRegressor
x, y = data(20000, 1)
asked, _ = data(256, 2)
fitted = GradientBoostingRegressor(n_estimators=100, max_depth=3, subsample=0.3, random_state=0).fit(x, y)
joblib.dump(fitted, {out!r} + "/gb.joblib")
numpy.savez({out!r} + "/answers.npz", X=asked, gb=numpy.asarray(fitted.predict(asked), dtype=numpy.float64))
"""
PROJECT = '''
"""A regression of 25 numbers, as the ruler of the bench describes it."""

import sys

import loopwright as lw

COLUMNS = [f"x{k}" for k in range(25)]
rows = lw.data("rows.csv", key="id", known="at")
truth = lw.data("truth.csv", key="id", known="known_at")
numbers = lw.features("numbers", rows, at="at", columns=COLUMNS)


@lw.step
def train():
    sys.path.insert(0, RULER)
    import pandas
    from build_models import data
    from sklearn.ensemble import GradientBoostingRegressor

    x, y = data(20000, 1)
    fitted = GradientBoostingRegressor(n_estimators=100, max_depth=3, subsample=0.3, random_state=0).fit(x, y)
    return lw.model("gb", fitted, sample=pandas.DataFrame(x, columns=COLUMNS))


lw.endpoint(
    "gb", model=train, features=numbers, labels=truth, target="y", task="regression", gate=lw.gate(lw.known_in_time())
)

if __name__ == "__main__":
    lw.run(train)
'''


@dataclass
class Server:
    """A server under load: where it listens, what is asked, and the processes that are held to its core."""

    port: int
    cases: Path
    key: str
    process: subprocess.Popen[bytes]


def run(*command: str, cwd: Path | None = None, **more: str) -> str:
    """The output of a command that must succeed."""
    environment = {**os.environ, "NO_COLOR": "1", **more}
    ran = subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode:
        said = (ran.stderr or ran.stdout)[-600:]
        raise RuntimeError(f"{' '.join(command[:4])} ended with {ran.returncode}: {said}")
    return ran.stdout


# --- what both need ---------------------------------------------------------------------------------------------------


def peer_python() -> Path:
    """The environment of the peer, made once."""
    place = OUT / "venvs" / "fastapi"
    wanted = sorted((*PEER, *(f"{name}=={metadata.version(name)}" for name in ("scikit-learn", "numpy"))))
    marker = place / "installed.json"
    if not marker.exists() or json.loads(marker.read_text()) != wanted:
        print("making the environment of the peer", file=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)
        run(str(PYTHON), "-m", "venv", str(place))
        run(str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *wanted)
        marker.write_text(json.dumps(wanted))
    return place / "bin" / "python"


def models() -> Path:
    """The fitted model for the peer and the right answers, made once by the ruler's own data."""
    place = OUT / "serving-models"
    if not (place / "answers.npz").exists():
        place.mkdir(parents=True, exist_ok=True)
        run(str(PYTHON), "-c", MODEL.format(ruler=str(RULER), out=str(place)))
    return place


def load_generator(work: Path) -> Path:
    """The ruler's load generator, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotRun("no C compiler for the load generator: apt install gcc libc6-dev")
    run(compiler, "-O2", "-o", str(work / "loadgen"), str(RULER / "loadgen.c"), "-lm")
    return work / "loadgen"


def write_cases(path: Path, url: str, bodies: list[dict[str, Any]], right: Any) -> Path:
    """Requests and the numbers that must come back, as the load generator reads them."""
    with path.open("wb") as out:
        out.write(struct.pack("<I", len(bodies)))
        for body, answer in zip(bodies, right, strict=True):
            data = json.dumps(body, separators=(",", ":")).encode()
            head = f"POST {url} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            asked = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
            out.write(struct.pack("<I", len(asked)) + asked + struct.pack("<Id", 1, float(answer)))
    return path


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for place in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{place}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def hold(pid: int, core: int) -> None:
    """Keep all threads of a process and its children on one core, before what else the machine does where we may."""
    for place in tree(pid):
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{place}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
                first(int(task.name))


def first(task: int) -> None:
    """Let a thread go before others; the same for both servers and the generator, and only where root allows it."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, task, -20)
        Path(f"/proc/{task or 'self'}/autogroup").write_text("-20")


def beside() -> None:
    """The generator's own core."""
    os.setsid()
    os.sched_setaffinity(0, {1})
    first(0)
    # It answers for the clients of both servers, and what keeps it waiting would count against the faster one.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its children have used."""
    ticks = 0
    for place in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{place}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# --- the two servers --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fastapi(work: Path) -> Iterator[Server]:
    """The service that most teams write by hand, with the library's own predict."""
    folder, port = models(), free_port()
    answers = np.load(folder / "answers.npz")
    bodies = [{"inputs": [row]} for row in rounded(answers["X"])]
    cases = write_cases(work / "fastapi.bin", "/predict", bodies, answers["gb"])
    more = {"MODEL_DIR": str(folder), "MODEL": "gb", "ENGINE": "native", "OMP_NUM_THREADS": "1"}
    command = [str(peer_python()), "-m", "uvicorn", "fastapi_app:app", "--port", str(port)]
    command += ["--app-dir", str(RULER / "servers"), "--log-level", "warning", "--no-access-log"]
    with (work / "fastapi.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=work, env={**os.environ, **more}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(port, "/predict", bodies[0], process)
        yield Server(port, cases, "predictions", process)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def ours(work: Path) -> Iterator[Server]:
    """A project with the model in its registry, brought through its gate, and `lw up` with one worker."""
    folder, port = work / "project", free_port()
    answers = np.load(models() / "answers.npz")
    rows = rounded(answers["X"])
    tensors = [{"inputs": [{"name": "X", "shape": [1, WIDTH], "datatype": "FP32", "data": row}]} for row in rows]
    cases = write_cases(work / "ours.bin", "/v2/models/gb/infer", tensors, answers["gb"])
    prepare(folder, rows, answers["gb"])
    command = [str(LW), "up", "--workers", "1", "--port", str(free_port()), "--data-port", str(port)]
    with (work / "ours.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(port, "/v2/models/gb/infer", tensors[0], process)
        yield Server(port, cases, "data", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def prepare(folder: Path, rows: list[list[float]], answers: Any) -> None:
    """Make the project and let its model through its gate."""
    folder.mkdir()
    names = ",".join(f"x{place}" for place in range(WIDTH))
    lines = [f"r{n},2026-01-{1 + n % 28:02}T00:00:00Z,{','.join(map(repr, row))}" for n, row in enumerate(rows)]
    (folder / "rows.csv").write_text(f"id,at,{names}\n" + "\n".join(lines) + "\n")
    known = [f"r{n},{float(answer)!r},2026-02-01T00:00:00Z" for n, answer in enumerate(answers)]
    (folder / "truth.csv").write_text("id,y,known_at\n" + "\n".join(known) + "\n")
    (folder / "gb.py").write_text(PROJECT.replace("RULER", repr(str(RULER))))
    run(str(LW), "init", "--entry", "gb.py", cwd=folder)
    run(str(PYTHON), "gb.py", cwd=folder)
    run(str(LW), "deploy", "gb@1", cwd=folder)


def rounded(matrix: Any) -> list[list[float]]:
    """The rows as JSON texts of three decimals say them, exactly."""
    return [[round(float(value), 3) for value in row] for row in matrix]


def wait_for(port: int, url: str, body: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
    """Wait for the first right answer."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("POST", url, json.dumps(body), {"Content-Type": "application/json"})
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"no answer on {url}; exit code {process.poll()}")


# --- measuring --------------------------------------------------------------------------------------------------------


def load(generator: Path, server: Server, secs: float) -> dict[str, Any]:
    """One run of the load generator, the server on core 0 and the generator on core 1."""
    hold(server.process.pid, 0)
    before = cpu_s(server.process.pid)
    command = [str(generator), "--port", str(server.port), "--cases", str(server.cases), "--key", server.key]
    command += ["--conns", str(CONNECTIONS), "--secs", str(secs), "--warmup", "0.5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=beside)
    found: dict[str, Any] = json.loads(ran.stdout)
    found["cpu_us"] = 1e6 * (cpu_s(server.process.pid) - before) * secs / (secs + 0.5) / max(found["requests"], 1)
    return found


def logged(work: Path) -> int:
    """Rows of the prediction log, as its own command gives them."""
    import duckdb

    target = work / "log.parquet"
    run(str(LW), "predictions", "gb", "--out", str(target), cwd=work / "project")
    with duckdb.connect() as con:
        found = con.execute("SELECT count(*) FROM read_parquet(?)", [str(target)]).fetchone()
    return int(found[0]) if found else 0


def measure(bench: Bench) -> None:
    """Both servers in turn under the same load; the ratio is that of the medians."""
    if len(os.sched_getaffinity(0)) < 2:
        raise CannotRun("the server and the load generator need a core each")
    work = bench.evidence / "serving"
    work.mkdir()
    generator, secs = load_generator(work), 1.0 if bench.args.quick else 4.0
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "fastapi": []}
    try:
        with fastapi(work) as peer, ours(work) as mine:
            for _ in range(3):
                for name, server in (("fastapi", peer), ("ours", mine)):
                    runs[name].append(load(generator, server, secs))
        asked, kept = sum(found["requests"] for found in runs["ours"]), logged(work)
    finally:
        bench.keep("serving.json", runs)
        shutil.rmtree(work / "project", ignore_errors=True)
    rate = {name: stat([found["rps"] for found in group], "wall") for name, group in runs.items()}
    cpu = {name: statistics.median(found["cpu_us"] for found in group) for name, group in runs.items()}
    both = [found for group in runs.values() for found in group]
    version = PEER[0].partition("==")[2]
    config = "uvicorn, one process, scikit-learn's own predict"
    about = {"name": "FastAPI", "version": version, "config": config, "source": "same_run"}
    bench.peers["fastapi"] = {**about, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    counts = {
        "attempted": sum(found["requests"] for found in both),
        "checked": sum(found["requests"] for found in both),
        "wrong": sum(found["wrong"] for found in both),
        "failed": sum(found["bad_status"] + found["net_errors"] for found in both),
        "lost": max(0, asked - kept),
    }
    reason = f"{cpu['ours']:.1f} us CPU a request beside {cpu['fastapi']:.1f}; {kept} rows logged for {asked} counted"
    bench.put(ROW, Result(rate["ours"], against=("peer", "fastapi", rate["fastapi"]), counts=counts, reason=reason))
