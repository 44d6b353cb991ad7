"""The route file for workers: written by rename, and what workers report back of it."""

import contextlib
import fcntl
import os
import time
from pathlib import Path

import msgspec

from loopwright.artifacts import names
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Timeout, Unavailable
from loopwright.models import service as models
from loopwright.serving import routes, subjects
from loopwright.serving.model import (
    EndpointSpec,
    PublishedEndpoint,
    PublishedRoute,
    Route,
    RouteFile,
    WorkerReport,
)
from loopwright.store.blobs import replace_file
from loopwright.store.locks import is_held
from loopwright.store.space import Space

ROUTE_FILE = "routes.json"
_PAUSE_S = 0.005


def run_folder(home: Path) -> Path:
    """The folder for the route file and the reports."""
    return home / "run"


def publish(space: Space) -> int:
    """Write the route file from the tables and return its generation; an older state never replaces a newer."""
    folder = run_folder(space.home)
    key = subjects.key_path(space)
    fd = os.open(folder / "routes.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with space.read() as tx:
            generation, now_us = routes.generation(tx), tx.now_us()
            wanted = [
                (routes.find(tx, row["name"]), routes.routes_in(tx, row["name"]))
                for row in tx.query("SELECT name FROM endpoints ORDER BY name")
            ]
        made = RouteFile(
            generation=generation,
            clock_us=now_us if space.clock.mode == "replay" else None,
            subject_key=str(key),
            endpoints=[_endpoint(space, spec, found) for spec, found in wanted],
        )
        replace_file(folder / ROUTE_FILE, msgspec.json.encode(made), durable=False)
    finally:
        os.close(fd)
    return generation


def _endpoint(space: Space, spec: EndpointSpec, found: list[Route]) -> PublishedEndpoint:
    published = []
    for route in found:
        digest = names.get(space, spec.model, route.version).digest
        where = models.files(space, digest)
        published.append(
            PublishedRoute(
                version=route.version,
                weight=route.weight,
                role=route.role,
                card=models.card(space, digest),
                native=str(where.native),
                native_digest=where.native_digest,
            )
        )
    return PublishedEndpoint(name=spec.name, log=spec.log, routes=published)


def workers(space: Space) -> list[WorkerReport]:
    """What the workers that are alive say of themselves, by slot."""
    reports = []
    for path in sorted(run_folder(space.home).glob("worker-*.json")):
        if not is_held(path.with_suffix(".lock")):
            continue
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            held = path.with_suffix(".lock").read_bytes()  # what the disk had no room for beside it
            told = held if held.startswith(b"{") else path.read_bytes()
            reports.append(msgspec.json.decode(told, type=WorkerReport))
    return sorted(reports, key=lambda report: report.slot)


def wait_applied(space: Space, generation: int, timeout_s: float = 30.0, *, clock_us: int | None = None) -> int:
    """Wait until every living worker has taken a generation (and clock), and return how many there are.

    Returns 0 at once when no worker runs.

    Raises:
        Unavailable: a worker cannot take the routes.
        Timeout: one did not in the time given.
    """
    until = monotonic_s() + timeout_s
    while True:
        found = workers(space)
        behind = [r for r in found if r.generation < generation or not _in_time(r, clock_us)]
        if not behind:
            return len(found)
        for report in behind:
            if report.failed and report.failed_generation >= generation:
                raise Unavailable(
                    f"worker {report.slot} goes on with generation {report.generation}: {report.failed}",
                    code="routes.refused",
                    hint="lw fsck",
                )
        if monotonic_s() > until:
            slots = ", ".join(str(report.slot) for report in behind)
            raise Timeout(
                f"worker {slots} did not take route generation {generation} in {timeout_s:g} s", code="routes.timeout"
            )
        time.sleep(_PAUSE_S)


def _in_time(report: WorkerReport, clock_us: int | None) -> bool:
    return clock_us is None or (report.clock_us is not None and report.clock_us >= clock_us)
