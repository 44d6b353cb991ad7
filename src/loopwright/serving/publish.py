"""The route file for workers: written by rename, and what workers report back of it."""

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from loopwright.artifacts import names
from loopwright.data import prepare
from loopwright.data import service as data
from loopwright.data.online import Plan
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import LoopwrightError, Timeout, Unavailable
from loopwright.kernel.files import replace_file
from loopwright.models import service as models
from loopwright.serving import routes, subjects, watermark
from loopwright.serving.model import (
    EndpointSpec,
    PublishedEndpoint,
    PublishedRoute,
    Route,
    RouteFile,
    WorkerReport,
)
from loopwright.store import erasure
from loopwright.store.locks import is_held, take
from loopwright.store.space import Space

ROUTE_FILE = "routes.json"
_PAUSE_S, _HOST_PAUSE_S = 0.005, 0.05


def publish(space: Space) -> int:
    """Write the route file from the tables and return its generation; an older state never replaces a newer.

    A version whose package cannot be read is left out, and so is an endpoint whose champion's cannot, unless it was
    published before: then it stays as it was. The file names what is not as the tables say.
    """
    folder = space.home / "run"
    key = subjects.key_path(space)
    host = watermark.number(space)
    lock = take(folder / "routes.lock")
    try:
        with space.read() as tx:
            generation, now_us, erased = routes.generation(tx), tx.now_us(), erasure.erasures(tx)
            wanted = [
                (routes.find(tx, row["name"]), routes.routes_in(tx, row["name"]))
                for row in tx.query("SELECT name FROM endpoints ORDER BY name")
            ]
        problems: dict[str, str] = {}
        before = _published(folder / ROUTE_FILE) if wanted else {}
        endpoints = [_endpoint(space, spec, found, before, problems) for spec, found in wanted]
        made = RouteFile(
            generation=generation,
            clock_us=now_us if space.clock.mode == "replay" else None,
            subject_key=str(key),
            endpoints=[endpoint for endpoint in endpoints if endpoint is not None],
            problems=problems,
            host=host,
            erasures=erased,
        )
        replace_file(folder / ROUTE_FILE, msgspec.json.encode(made), durable=False)
    finally:
        os.close(lock)
    return generation


def _published(path: Path) -> dict[str, PublishedEndpoint]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=RouteFile)
    except (OSError, msgspec.MsgspecError):
        return {}
    return {endpoint.name: endpoint for endpoint in found.endpoints}


def problems(space: Space) -> dict[str, str]:
    """By endpoint, what is not served as the tables say, and why; from the route file and the workers."""
    try:
        told = msgspec.json.decode((space.home / "run" / ROUTE_FILE).read_bytes(), type=RouteFile).problems
    except (OSError, msgspec.MsgspecError):
        told = {}
    return {name: why for report in workers(space) for name, why in report.problems.items()} | told


def require_served(space: Space, endpoint: str) -> None:
    """Raises Unavailable when an endpoint is not served as the tables say."""
    why = problems(space).get(endpoint)
    if why is not None:
        raise Unavailable(f"{endpoint} is not served as asked: {why}", code="routes.refused", hint="lw fsck")


def _endpoint(
    space: Space,
    spec: EndpointSpec,
    found: list[Route],
    before: Mapping[str, PublishedEndpoint],
    problems: dict[str, str],
) -> PublishedEndpoint | None:
    published: list[PublishedRoute] = []
    for route in found:
        try:
            published.append(_route(space, spec, route))
        except (LoopwrightError, OSError) as error:
            why = error.message if isinstance(error, LoopwrightError) else error.strerror
            problems[spec.name] = f"{spec.model}@{route.version} cannot be read: {why}"
            if not published and route.role == "live":
                return before.get(spec.name)
    plan, problem = lookup(space, spec)
    if plan is not None:
        prepare.show_facts(space, plan)
    return PublishedEndpoint(name=spec.name, log=spec.log, routes=published, lookup=plan, lookup_problem=problem)


def lookup(space: Space, spec: EndpointSpec) -> tuple[Plan | None, str]:
    """How an endpoint's features are looked up; or None, and why they are not."""
    if spec.features is None:
        return None, ""
    try:
        return prepare.plan(space, data.features_of(space, spec.features)), ""
    except (LoopwrightError, OSError) as error:
        return None, error.message if isinstance(error, LoopwrightError) else str(error.strerror)


def show(space: Space) -> None:
    """Return when all workers look up in what is known here; a source with a new version is published."""
    before = _published(space.home / "run" / ROUTE_FILE)
    for spec in routes.endpoints(space):
        plan, _ = lookup(space, spec)
        old = before.get(spec.name)
        if old is not None and old.lookup != plan:
            wait_applied(space, publish(space))
            return
        if plan is not None:
            prepare.show_facts(space, plan)


def _route(space: Space, spec: EndpointSpec, route: Route) -> PublishedRoute:
    digest = names.get(space, spec.model, route.version).digest
    where = models.files(space, digest)
    return PublishedRoute(
        version=route.version,
        weight=route.weight,
        role=route.role,
        card=models.card(space, digest),
        native=str(where.native),
        native_digest=where.native_digest,
    )


def workers(space: Space) -> list[WorkerReport]:
    """What the workers that are alive say of themselves, by slot."""
    reports = []
    for path in sorted((space.home / "run").glob("worker-*.json")):
        if not is_held(path.with_suffix(".lock")):
            continue
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            held = path.with_suffix(".lock").read_bytes()  # what the disk had no room for beside it
            told = held if held.startswith(b"{") else path.read_bytes()
            reports.append(msgspec.json.decode(told, type=WorkerReport))
    return sorted(reports, key=lambda report: report.slot)


def wait_applied(space: Space, generation: int, timeout_s: float = 30.0, *, clock_us: int | None = None) -> int:
    """Wait until every living worker, on every host, has taken a generation (and clock); returns how many are here.

    Returns 0 at once when no worker runs.

    Raises:
        Unavailable: a worker cannot take the routes.
        Timeout: one did not in the time given.
    """
    until = monotonic_s() + timeout_s
    while True:
        found = workers(space)
        behind = [r for r in found if r.generation < generation or not _in_time(r, clock_us)]
        elsewhere = [] if behind or not space.shared else _elsewhere(space, generation, clock_us)
        if not behind and not elsewhere:
            return len(found)
        for report in behind:
            if report.failed and report.failed_generation >= generation:
                raise Unavailable(
                    f"worker {report.slot} goes on with generation {report.generation}: {report.failed}",
                    code="routes.refused",
                    hint="lw fsck",
                )
        if monotonic_s() > until:
            who = f"worker {', '.join(str(report.slot) for report in behind)}"
            if not behind:
                who = f"host {', '.join(elsewhere)}"
            raise Timeout(f"{who} did not take route generation {generation} in {timeout_s:g} s", code="routes.timeout")
        time.sleep(_PAUSE_S if behind else _HOST_PAUSE_S)


def _elsewhere(space: Space, generation: int, clock_us: int | None) -> list[str]:
    with space.read() as tx:
        return watermark.behind(tx, space.host, generation, clock_us)


def _in_time(report: WorkerReport, clock_us: int | None) -> bool:
    return clock_us is None or (report.clock_us is not None and report.clock_us >= clock_us)
