"""status: one screen that says where the Space stands."""

import msgspec

from loopwright.artifacts import names
from loopwright.kernel.errors import NotFound
from loopwright.kernel.times import format_time
from loopwright.monitors import queries as monitors
from loopwright.project import health, service
from loopwright.project.health import Part
from loopwright.project.server import Running, running
from loopwright.releases import approvals
from loopwright.releases import queries as releases
from loopwright.serving import routes
from loopwright.store.space import Space


class EndpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint: what answers, what is beside it, and what stands in the way.

    Args:
        waits: the approval requests that nobody has answered.
        tainted: versions in the routes that were made from data of which rows were erased since.
    """

    name: str
    routes: str
    shadows: list[int]
    held: bool
    alarms: list[str]
    waits: list[str] = []
    tainted: list[int] = []


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Where the Space stands.

    Args:
        state: of the worst part; `off` when no `lw up` runs.
        parts: every process, queue and store that has a part in it.
    """

    root: str
    clock: str
    now: str
    server: Running | None
    project: str | None
    names: dict[str, int]
    endpoints: list[EndpointStatus]
    state: str
    parts: list[Part]


def status(space: Space, actor: str) -> Status:
    """Say where the project stands: clock, server, versions, endpoints, alarms."""
    try:
        project: str | None = service.accepted(space).entry
    except NotFound:
        project = None
    found = health.look(space)
    newest = {name: names.newest(space, name) for name, _ in names.all_names(space)}
    return Status(
        root=str(space.root),
        clock=space.clock.mode,
        now=format_time(space.clock.now_us()),
        server=running(space.root),
        project=project,
        names={name: version.number for name, version in newest.items() if version is not None},
        endpoints=[_endpoint(space, spec.name) for spec in routes.endpoints(space)],
        state=found.state,
        parts=found.parts,
    )


def _endpoint(space: Space, name: str) -> EndpointStatus:
    current = routes.current(space, name)
    with space.read() as tx:
        held = bool(releases.holds(tx, name))
        alarms = [alarm.reason for alarm in monitors.alarms(tx, name, still_open=True)]
        waits = [found.id for found in approvals.waiting(tx, name)]
        spec, served = routes.find(tx, name), {route.version for route in current}
        tainted = sorted({mark.number for mark in names.taints(tx, spec.model)} & served)
    return EndpointStatus(
        name=name,
        routes=routes.state_of(current) or "nothing is deployed",
        shadows=[route.version for route in current if route.role == "shadow"],
        held=held,
        alarms=alarms,
        waits=waits,
        tainted=tainted,
    )


def text(found: Status) -> str:
    """The status on one screen, with the next command."""
    where = f"runs at {found.server.control_url}" if found.server else "does not run: lw up"
    lines = [
        f"{found.root}  on the {found.clock} clock, {found.now}",
        f"project   {found.project or 'none accepted yet: lw run'}",
        f"server    {where}",
        "versions  " + (", ".join(f"{name}@{number}" for name, number in found.names.items()) or "none: lw add PATH"),
    ]
    for endpoint in found.endpoints:
        shadows = f", in shadow {', '.join(f'v{n}' for n in endpoint.shadows)}" if endpoint.shadows else ""
        held = ", HELD" if endpoint.held else ""
        lines.append(f"endpoint  {endpoint.name}: {endpoint.routes}{shadows}{held}")
        lines += [f"  ALARM   {reason}" for reason in endpoint.alarms]
        if endpoint.tainted:
            served = ", ".join(f"v{number}" for number in endpoint.tainted)
            lines.append(f"  TAINTED {served}: made from data of which rows were erased since (lw audit erasures)")
        lines += [f"  WAITS   for a person: lw approve {request}" for request in endpoint.waits]
    lines.append("parts     " + ", ".join(part.name for part in found.parts if part.state == "ok") + ": ok")
    for part in found.parts:
        if part.state in ("degraded", "down"):
            lines.append(f"  {part.state.upper():9} {part.name}: {part.detail}")
        elif part.name in ("database", "blobs"):
            lines.append(f"  {part.name}: {part.detail}")
    return "\n".join(lines)
