"""Endpoints and their desired routes. A change of live weights is guarded and needs a permit."""

import contextlib
from collections.abc import Iterator, Sequence

import msgspec

from loopwright.access import permits
from loopwright.artifacts import names
from loopwright.kernel.errors import Conflict, Invalid, NotFound
from loopwright.kernel.ids import valid_name
from loopwright.kernel.times import zone
from loopwright.models.model import KIND
from loopwright.serving.model import ENDPOINT_DECLARED, ROUTES_CHANGED, EndpointSpec, Route, RouteSet
from loopwright.store import ledger
from loopwright.store.database import Row, Tx, as_struct, as_text
from loopwright.store.roots import Root, digests_in
from loopwright.store.space import Space


def subject_of(endpoint: str) -> str:
    """The subject under which permits and events name an endpoint."""
    return f"endpoint:{endpoint}"


def state_of(routes: Sequence[Route]) -> str:
    """The live routes as text, champion first, such as `v2=0.95,v3=0.05`; what a permit is given for."""
    return ",".join(f"v{route.version}={route.weight:g}" for route in routes if route.role == "live")


def declare(tx: Tx, actor: str, spec: EndpointSpec, *, cause: int | None = None) -> bool:
    """Make an endpoint, or change what is declared of it; says whether anything changed.

    Raises:
        Invalid: a field has no valid value.
        Conflict: the endpoint has routes to versions of another model.
    """
    for field in ("name", "model"):
        valid_name(getattr(spec, field), field)
    zone(spec.timezone)
    text = as_text(spec)
    before = tx.one("SELECT spec FROM endpoints WHERE name = ?", (spec.name,))
    if before is not None:
        if before["spec"] == text:
            return False
        if _spec(before).model != spec.model and _current(tx, spec.name):
            raise Conflict(
                f"endpoint {spec.name} has routes to {_spec(before).model}, so it cannot serve {spec.model}",
                code="endpoint.model",
                field="model",
                hint="declare another endpoint for the other model",
            )
    tx.execute(
        "INSERT INTO endpoints(name, spec, generation, at_us) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET spec = excluded.spec, generation = excluded.generation, at_us = excluded.at_us",
        (spec.name, text, generation(tx) + 1, tx.now_us()),
    )
    data = {"model": spec.model, "features": spec.features, "task": spec.task, "timezone": spec.timezone}
    ledger.append(tx, actor, ENDPOINT_DECLARED, subject_of(spec.name), data, cause=cause)
    return True


def declared(tx: Tx, spec: EndpointSpec) -> bool:
    """Whether an endpoint is declared in just this way."""
    row = tx.one("SELECT spec FROM endpoints WHERE name = ?", (spec.name,))
    return row is not None and row["spec"] == as_text(spec)


def endpoint(space: Space, name: str) -> EndpointSpec:
    """What is declared of an endpoint.

    Raises:
        NotFound: there is none of that name.
    """
    with space.read() as tx:
        return find(tx, name)


def find(tx: Tx, name: str) -> EndpointSpec:
    """What is declared of an endpoint, inside a transaction.

    Raises:
        NotFound: there is none of that name.
    """
    row = tx.one("SELECT spec FROM endpoints WHERE name = ?", (valid_name(name, "endpoint"),))
    if row is None:
        raise NotFound(f"no endpoint {name}", code="endpoint.missing", field="endpoint", hint="lw status")
    return _spec(row)


def endpoints(space: Space) -> list[EndpointSpec]:
    """All endpoints, by name."""
    with space.read() as tx:
        return [_spec(row) for row in tx.query("SELECT spec FROM endpoints ORDER BY name")]


def current(space: Space, name: str) -> list[Route]:
    """The routes of an endpoint; none before the first deploy."""
    with space.read() as tx:
        return routes_in(tx, name)


def routes_in(tx: Tx, name: str) -> list[Route]:
    """The routes of an endpoint, inside a transaction.

    Raises:
        NotFound: there is no such endpoint.
    """
    find(tx, name)
    return _current(tx, name)


def set(
    tx: Tx, actor: str, name: str, routes: Sequence[Route], *, permit: str | None = None, cause: int | None = None
) -> int:
    """Give an endpoint new routes and return their generation; a change of live weights needs a permit.

    Raises:
        Invalid: the routes contradict themselves.
        Forbidden: the live weights change and the permit does not allow it.
        NotFound: there is no such endpoint or version.
    """
    spec = find(tx, name)
    _check(routes)
    before = _current(tx, name)
    routes = [route if route.role == "live" else Route(route.version) for route in routes]
    if list(routes) == before:
        return generation(tx)
    for route in routes:
        version = names.find(tx, spec.model, route.version)
        if version.kind != KIND:
            raise Invalid(f"{version.ref} is a {version.kind}, not a model", code="routes.kind", field="version")
    subject, states = subject_of(name), (state_of(before), state_of(routes))
    if states[0] != states[1]:
        permits.use(tx, permit, subject, *states)
    number = generation(tx) + 1
    tx.execute(
        "INSERT INTO route_sets(generation, endpoint, routes, actor, permit, at_us) VALUES (?, ?, ?, ?, ?, ?)",
        (number, name, msgspec.json.encode(routes).decode(), actor, permit, tx.now_us()),
    )
    shadows = ",".join(f"v{route.version}" for route in routes if route.role == "shadow")
    data = {"live": states[1] or "nothing", "shadow": shadows or "nothing", "before": states[0], "generation": number}
    ledger.append(tx, actor, ROUTES_CHANGED, subject, data, cause=cause)
    return number


def _check(routes: Sequence[Route]) -> None:
    versions = [route.version for route in routes]
    if len({*versions}) != len(versions):
        raise Invalid("a version stands twice in the routes", code="routes.twice", field="version")
    live = [route.weight for route in routes if route.role == "live"]
    if any(not 0 < weight <= 1 for weight in live):
        raise Invalid("a live weight is more than 0 and at most 1", code="routes.weight", field="weight")
    if live and abs(sum(live) - 1) > 1e-9:
        raise Invalid(f"the live weights sum to {sum(live):g}, not to 1", code="routes.sum", field="weight")
    if routes and not live:
        raise Invalid("shadows need a live version beside them", code="routes.live", field="role")


def history(space: Space, name: str) -> list[RouteSet]:
    """All routes that an endpoint has had, oldest first."""
    with space.read() as tx:
        find(tx, name)
        return [
            as_struct(RouteSet, row, routes=_routes(row))
            for row in tx.query("SELECT * FROM route_sets WHERE endpoint = ? ORDER BY generation", (name,))
        ]


def first_served_us(space: Space, name: str) -> int | None:
    """When an endpoint first had routes; None when it never had."""
    with space.read() as tx:
        found = tx.value("SELECT MIN(at_us) FROM route_sets WHERE endpoint = ?", (name,))
    return None if found is None else int(found)


def generation(tx: Tx) -> int:
    """The number of the newest change that workers must learn of; 0 before the first."""
    found = tx.one(
        "SELECT COALESCE((SELECT MAX(generation) FROM endpoints), 0) AS a,"
        " COALESCE((SELECT MAX(generation) FROM route_sets), 0) AS b"
    )
    return 0 if found is None else max(found["a"], found["b"])


def _spec(row: Row) -> EndpointSpec:
    return msgspec.json.decode(row["spec"], type=EndpointSpec)


def _routes(row: Row) -> list[Route]:
    return msgspec.json.decode(row["routes"], type=list[Route])


def _current(tx: Tx, name: str) -> list[Route]:
    row = tx.one("SELECT routes FROM route_sets WHERE endpoint = ? ORDER BY generation DESC LIMIT 1", (name,))
    return [] if row is None else _routes(row)


def roots(space: Space, tx: Tx) -> Iterator[Root]:
    """The versions that endpoints serve now, and what the endpoints declare."""
    for row in tx.query("SELECT name, spec FROM endpoints"):
        for digest in digests_in(row["spec"]):
            yield Root(digest, "endpoint", row["name"])
        for route in _current(tx, row["name"]):
            with contextlib.suppress(NotFound):
                yield Root(names.find(tx, _spec(row).model, route.version).digest, "endpoint", row["name"])


ROOTS = roots
