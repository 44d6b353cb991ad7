"""A Space with registered models and a real worker process on a real socket, for the tests of serving."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import lightgbm as lgb
import numpy as np
import pandas as pd
from waiting import until

from loopwright.access import permits
from loopwright.models import service as models
from loopwright.models.package import model
from loopwright.models.value import Model
from loopwright.serving import publish, record, routes
from loopwright.serving.model import EndpointSpec, Route, WorkerReport
from loopwright.serving.record import Columns, LogRow
from loopwright.store import frames
from loopwright.store.space import Space

ME = "local:tester"
AT = "2013-04-01T10:00:00Z"
PARAMS: dict[str, Any] = {
    "objective": "binary", "num_leaves": 15, "min_data_in_leaf": 20, "verbose": -1, "num_threads": 1,
    "deterministic": True, "force_row_wise": True, "min_data_per_group": 5, "cat_smooth": 1,
}  # fmt: skip
VALUES: dict[str, Any] = {"wind": 12.5, "dest": "D007", "hour": 7, "wet": True}
DATATYPES = {"wind": "FP64", "dest": "BYTES", "hour": "INT64", "wet": "BOOL", "extra": "FP64"}


def frame(rows: int = 2000, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    out = pd.DataFrame(
        {
            "wind": random.gamma(2, 5, rows),
            "dest": pd.Categorical([f"D{k:03d}" for k in random.integers(0, 80, rows)]),
            "hour": random.integers(0, 24, rows),
            "wet": random.random(rows) < 0.3,
        }
    )
    out.loc[::7, "wind"] = np.nan
    out.loc[::11, "dest"] = None
    return out


def make_model(seed: int, **more: Any) -> Model:
    x = frame(seed=seed)
    noise = np.random.default_rng(seed + 100).normal(size=len(x))
    y = (x["wind"].fillna(0) / 10 + x["dest"].cat.codes % 7 / 3 + x["hour"] / 12 + noise > 3.0).astype(int)
    return model("delay", lgb.train({**PARAMS, "seed": seed, **more}, lgb.Dataset(x, y), 20), sample=x)


def prepare(space: Space, count: int = 2, **spec: Any) -> list[Model]:
    """Declare the endpoint `delay` and register `count` versions for it."""
    space.write(lambda tx: routes.declare(tx, ME, EndpointSpec(name="delay", model="delay", features="asked", **spec)))
    made = [make_model(seed) for seed in range(1, count + 1)]
    for packed in made:
        stored = models.store(space, packed)
        space.write(lambda tx, stored=stored: models.register(tx, ME, "delay", stored))
    return made


def change(space: Space, wanted: Sequence[Route]) -> int:
    """Give the endpoint routes under a permit."""

    def write(tx: Any) -> int:
        states = (routes.state_of(routes.routes_in(tx, "delay")), routes.state_of(wanted))
        permit = None
        if states[0] != states[1]:
            verdict = {"outcome": "pass", "check": "test", "reason": "a test says so"}
            permit = permits.issue(tx, ME, "endpoint:delay", states, evidence=[], verdict=verdict, ttl_us=60_000_000)
        return routes.set(tx, ME, "delay", wanted, permit=permit)

    generation = space.write(write)
    publish.publish(space)
    return generation


def ask(values: dict[str, Any] | None = None, id: str | None = None, **parameters: Any) -> dict[str, Any]:
    """The body of a request of one row, or of several when the values are lists."""
    tensors = []
    for name, value in (values or VALUES).items():
        data = value if isinstance(value, list) else [value]
        tensors.append({"name": name, "datatype": DATATYPES[name], "shape": [len(data)], "data": data})
    out: dict[str, Any] = {"inputs": tensors, "parameters": {"time": AT, **parameters}}
    if id is not None:
        out["id"] = id
    return out


class Running:
    """A worker of a Space, started as the supervisor starts it: with a bound socket."""

    def __init__(self, space: Space, slot: int = 0) -> None:
        self.space = space
        self.slot = slot
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])
        self.log = space.home / "run" / f"worker-{slot}.log"
        self.process = self._start()
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=30)

    def _start(self, ready: bool = True) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "loopwright.serving.worker", "--home", str(self.space.home)]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [*command, "--slot", str(self.slot), "--fd", str(self.socket.fileno())],
                pass_fds=(self.socket.fileno(),),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until(lambda: any(r.pid == process.pid and r.ready is ready for r in publish.workers(self.space)), self.said)
        return process

    def said(self) -> str:
        return self.log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the worker; the socket stays open, as the supervisor's does."""
        self.process.send_signal(number)
        self.process.wait(20)

    def again(self, ready: bool = True) -> None:
        """Start it anew, as the supervisor does."""
        self.process = self._start(ready)

    def stop(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
        self.socket.close()

    @property
    def report(self) -> WorkerReport:
        return next(r for r in publish.workers(self.space) if r.slot == self.slot)

    def infer(self, body: Any, path: str = "/v2/models/delay/infer", **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def raw(self, data: bytes, *, close: bool = False) -> bytes:
        """Send bytes on a connection of their own and return all that comes back until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(data)
            if close:
                client.shutdown(socket.SHUT_WR)
            out = b""
            while piece := client.recv(65536):
                out += piece
            return out


def post(body: Any, *headers: str, path: str = "/v2/models/delay/infer", host: str = "127.0.0.1") -> bytes:
    """A request as bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def stored(space: Space) -> dict[str, bytes]:
    """Every byte of blobs and spools, and every row of the tables."""
    out = {
        str(path): path.read_bytes()
        for folder in ("blobs", "spool")
        for path in sorted((space.home / folder).rglob("*"))
        if path.is_file()
    }
    with space.read() as tx:
        for name in tx.tables():
            out[f"table {name}"] = repr([tuple(row) for row in tx.query(f"SELECT * FROM {name}")]).encode()
    return out


def spools(space: Space) -> list[Path]:
    return sorted((space.home / "spool").glob("*/*.spool"))


def row(request_id: str, at_us: int) -> LogRow:
    """A logged answer of version 1."""
    made = LogRow(f"pred_{request_id}", at_us, at_us, request_id, 1, 1, None, [1.0])
    made.scores, made.latency_us = {1: 0.5}, {1: 9}
    return made


def write_spool(space: Space, name: str, rows: list[LogRow], columns: Columns | None = None) -> None:
    """A spool as a worker leaves it."""
    path = space.home / "spool" / "delay" / f"{name}.spool"
    path.parent.mkdir(parents=True, exist_ok=True)
    header = record.header(columns or Columns(("wind",), ("float64",)))
    path.write_bytes(frames.encode(header) + b"".join(frames.encode(record.rows_payload([r])) for r in rows))
