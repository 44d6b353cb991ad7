"""The HTTP face: routes from rows, permission on every one, the door, errors as documents."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loopwright import house
from loopwright.access import service as access
from loopwright.faces import bind, door, http
from loopwright.kernel import errors
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.op import Op
from loopwright.store.space import Space

Serve = Callable[[Callable[[int], Any]], Any]  # the fixture of conftest.py, and what it gives
Site = Any


def echo(space: Space, actor: str, *, name: str, count: int = 1, tags: list[str] | None = None) -> dict[str, Any]:
    """Say it back."""
    if name == "missing":
        raise errors.NotFound("no such name", field="name", hint="lw show")
    if name == "broken":
        raise ZeroDivisionError
    return {"name": name, "count": count, "tags": tags, "actor": actor}


def take(space: Space, actor: str, *, name: str, body: bytes) -> dict[str, int]:
    """Take a body."""
    return {"bytes": len(body)}


def pour(space: Space, actor: str, *, count: int) -> Iterator[bytes]:
    """Give rows."""
    return (b"%d\n" % n for n in range(count))


OPS = [
    Op(fn=echo, http="GET /api/v1/echo/{name}", action="names.read"),
    Op(fn=echo, http="POST /api/v1/echo/{name}", action="data.add"),
    Op(fn=take, http="POST /api/v1/bodies/{name}", action="labels.add"),
    Op(fn=pour, http="GET /api/v1/rows", action="runs.read", shape="stream"),
]


class Known(door.Gate):
    """A gate that knows everybody by one name."""

    name = access.local_actor()

    async def actor(self, scope: Any, headers: Any) -> str:
        return self.name


def site_of(serve: Serve, space: Space, wires: list[http.Wire], actor: str) -> Site:
    def make(port: int) -> Any:
        gate = Known(space, hosts=door.loopback_hosts(port))
        gate.name = actor
        return door.application(space, wires, gate)

    return serve(make)


@pytest.fixture
def site(serve: Serve, space: Space) -> Site:
    return site_of(serve, space, [http.op_wire(op, space) for op in OPS], access.local_actor())


def test_query_body_and_path_become_arguments(site: Site) -> None:
    got = site.call("GET", "/api/v1/echo/x?count=3&tags=a&tags=b").json
    assert got == {"name": "x", "count": 3, "tags": ["a", "b"], "actor": access.local_actor()}
    assert site.call("POST", "/api/v1/echo/x", b'{"count": 2}').json["count"] == 2
    assert site.call("POST", "/api/v1/echo/x").json["count"] == 1
    assert site.call("POST", "/api/v1/bodies/x", b"\x00\xff").json == {"bytes": 2}
    assert site.call("GET", "/api/v1/rows?count=3").body == b"0\n1\n2\n"


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "field"),
    [
        ("GET", "/api/v1/echo/missing", None, 404, "name"),
        ("GET", "/api/v1/nothing", None, 404, None),
        ("DELETE", "/api/v1/echo/x", None, 405, None),
        ("GET", "/api/v1/echo/x?count=many", None, 422, "count"),
        ("GET", "/api/v1/echo/x?cuont=1", None, 422, "cuont"),
        ("POST", "/api/v1/echo/x", b'{"count": "2"}', 422, "count"),
        ("POST", "/api/v1/echo/x", b'{"name": "y"}', 422, "name"),
        ("GET", "/api/v1/echo/x?count=1&count=2", None, 422, "count"),
        ("GET", "/api/v1/echo/x?count=2&tags=a&count=2", None, 422, "count"),
        ("POST", "/api/v1/echo/x", b"{", 400, "body"),
        ("POST", "/api/v1/echo/x", b"[1]", 400, "body"),
        ("POST", "/api/v1/echo/x", b"[" * 100_000, 400, "body"),
        ("GET", "/api/v1/echo/broken", None, 500, None),
    ],
)
def test_errors_are_documents(
    site: Site, verb: str, path: str, body: bytes | None, status: int, field: str | None
) -> None:
    got = site.call(verb, path, body)
    document = got.json
    assert got.status == status, document
    assert set(document) == {"kind", "code", "message", "field", "hint"}
    assert document["field"] == field
    assert document["code"] and document["message"]


def at(site: Site, headers: dict[str, str]) -> dict[str, str]:
    return {name: value.replace("PORT", str(site.port)) for name, value in headers.items()}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "example.org:PORT"}, "door.host"),
        ({"host": "127.0.0.1"}, "door.host"),
        ({"host": "127.0.0.1:1"}, "door.host"),
        ({"host": "127.0.0.1.example.org:PORT"}, "door.host"),
        ({"host": ""}, "door.host"),
        ({"origin": "http://example.org"}, "door.origin"),
        ({"origin": "null"}, "door.origin"),
        ({"origin": "http://localhost:8080"}, "door.origin"),
        ({"sec-fetch-site": "cross-site"}, "door.cross-site"),
        ({"sec-fetch-site": "same-site"}, "door.cross-site"),
    ],
)
def test_foreign_callers_are_turned_away(site: Site, headers: dict[str, str], code: str) -> None:
    for verb, path in (("GET", "/api/v1/echo/x"), ("POST", "/api/v1/bodies/x"), ("GET", "/nothing")):
        got = site.call(verb, path, headers=at(site, headers))
        assert (got.status, got.json["code"]) == (403, code)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:PORT"},
        {"host": "[::1]:PORT"},
        {"host": "LOCALHOST:PORT"},
        {"origin": "http://127.0.0.1:PORT", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
    ],
)
def test_callers_at_this_machine_are_let_in(site: Site, headers: dict[str, str]) -> None:
    assert site.call("GET", "/api/v1/echo/x", headers=at(site, headers)).status == 200


def test_a_body_over_the_limit_is_refused_unread(site: Site) -> None:
    head = {"content-length": str(http.LIMIT_BYTES + 1)}
    got = site.call("POST", "/api/v1/bodies/x", [b"the rest never comes"], head)
    assert (got.status, got.json["code"], got.headers["connection"]) == (413, "too-large", "close")
    assert site.call("POST", "/api/v1/bodies/x", b"x" * http.LIMIT_BYTES).json == {"bytes": http.LIMIT_BYTES}


def test_a_body_without_a_length_is_counted_while_it_comes(site: Site) -> None:
    pieces = (b"x" * (1 << 20) for _ in range(17))
    assert site.call("POST", "/api/v1/bodies/x", pieces).status == 413


def test_a_route_without_an_action_cannot_be_built(space: Space) -> None:
    async def handle(request: Any) -> Any:
        raise AssertionError

    with pytest.raises(LoopwrightError) as caught:
        http.guard(http.Wire("GET", "/x", "", handle), space)
    assert caught.value.code == "route.no-action"


def test_every_route_refuses_whom_nothing_allows(serve: Serve, space: Space) -> None:
    stranger = "user:nobody"
    wires = [http.op_wire(op, space) for op in house.ops().values() if op.http]
    site = site_of(serve, space, wires, stranger)
    assert len(wires) > 10
    for wire in wires:
        path = bind.fill_path(Op(fn=echo, http=f"{wire.verb} {wire.path}", action="a.b"), _Any())
        got = site.call(wire.verb, path)
        assert (got.status, got.json["field"]) == (403, wire.action), (wire.verb, path)


class _Any(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "1"


def test_every_error_has_a_status_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LoopwrightError)]
    found = {kind.__name__: http.status_of(kind("x")) for kind in kinds}
    assert found == {
        "LoopwrightError": 500, "NotFound": 404, "Conflict": 409, "Invalid": 422, "Forbidden": 403, "GateFailed": 412,
        "Unavailable": 503, "Corrupt": 500, "Erased": 410, "Timeout": 504, "Unsupported": 501,
    }  # fmt: skip


def test_rows_are_told_apart() -> None:
    routes = [op.http for op in house.ops().values() if op.http]
    assert len(set(routes)) == len(routes)
    for op in house.ops().values():
        assert op.action.count(".") == 1, op.name
        assert bind.help_text(op).endswith("."), op.name
        assert set(bind.path_fields(op)) <= {p.name for p in bind.params(op)}, op.name
