"""Op rows as Starlette routes, the door before them, and the only place of HTTP status numbers.

Every route asks `require(action)`; one that names no action cannot be built.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopwright.access import service as access
from loopwright.faces import bind
from loopwright.kernel import errors
from loopwright.kernel.op import Op, silent
from loopwright.store.space import Space

LIMIT_BYTES = 16 * 2**20
JSON = "application/json"
_STATUS: list[tuple[type[errors.LoopwrightError], int]] = [
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Invalid, 422),
    (errors.Forbidden, 403),
    (errors.GateFailed, 412),
    (errors.Unavailable, 503),
    (errors.Erased, 410),
    (errors.Timeout, 504),
    (errors.Unsupported, 501),
    (errors.Corrupt, 500),
]
_OK, _ACCEPTED, _MALFORMED, _TOO_LARGE, _INTERNAL = 200, 202, 400, 413, 500
_NAMED = {404: "route.missing", 405: "route.verb"}

Handler = Callable[[Request], Awaitable[Response]]
Submit = Callable[[Op, str, dict[str, Any]], Any]


class Malformed(errors.Invalid):
    """The body is not JSON at all."""

    kind = "malformed"


class Wire(msgspec.Struct, frozen=True):
    """A route whose handler speaks HTTP itself: verb, path, the action it needs, handler."""

    verb: str
    path: str
    action: str
    handler: Handler


class TooLarge(errors.Invalid):
    """The body is over the limit."""

    kind = "too-large"


def status_of(error: errors.LoopwrightError) -> int:
    """The HTTP status that stands for an error."""
    if isinstance(error, TooLarge):
        return _TOO_LARGE
    if isinstance(error, Malformed):
        return _MALFORMED
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _INTERNAL)


def answer(value: Any, status: int = _OK) -> Response:
    """A JSON response."""
    return Response(bind.to_json(value), status, media_type=JSON)


def refusal(error: errors.LoopwrightError) -> Response:
    """An error as its JSON document: code, message, field, hint."""
    document: dict[str, Any] = dict(error.to_dict())
    if isinstance(error, errors.GateFailed):
        document["verdict"] = error.verdict
    response = answer(document, status_of(error))
    if isinstance(error, errors.Unavailable):
        response.headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    return response


def guard(wire: Wire, space: Space, actor: str) -> Route:
    """The Starlette route of a wire, behind its permission.

    Raises:
        LoopwrightError: the wire names no action.
    """
    if not wire.action:
        raise errors.LoopwrightError(f"{wire.verb} {wire.path} names no action", code="route.no-action")

    async def handle(request: Request) -> Response:
        try:
            access.require(space, actor, wire.action)
            return await wire.handler(request)
        except errors.LoopwrightError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - the server outlives a fault in one answer, and shows it in its log
            traceback.print_exc(file=sys.stderr)
            why = f"{type(error).__name__} in the server, see its log"
            return refusal(errors.LoopwrightError(why, code="internal"))

    handle.action = wire.action  # type: ignore[attr-defined]
    return Route(wire.path, handle, methods=[wire.verb])


def op_wire(op: Op, space: Space, actor: str, submit: Submit | None = None) -> Wire:
    """The wire of an op row; `submit` takes ops of the shape `job`, which are answered before they are done."""

    async def handle(request: Request) -> Response:
        args = await _arguments(op, request)
        if op.shape == "job" and submit is not None:
            return answer(await run_in_threadpool(submit, op, actor, args), _ACCEPTED)
        if bind.takes_progress(op):
            args[bind.PROGRESS] = silent
        result = await run_in_threadpool(op.fn, space, actor, **args)
        if op.shape == "stream":
            return StreamingResponse(_pieces(result), media_type="application/octet-stream")
        return answer(result)

    return Wire(bind.verb(op), bind.path(op), op.action, handle)


def _pieces(result: Any) -> Iterable[bytes]:
    return (result,) if isinstance(result, bytes) else result


async def _arguments(op: Op, request: Request) -> dict[str, Any]:
    """Path, query and body of a request as the op's keyword arguments."""
    listed = {p.name for p in bind.params(op) if bind.origin(p.type) in (list, tuple)}
    raw: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        raw[name] = values if name in listed else values[-1]
    raw.update(request.path_params)
    lax = set(raw)
    if request.method in ("GET", "DELETE"):
        return bind.bind(op, raw, lax=lax)
    body = await request.body()
    whole = bind.body_param(op)
    if whole is not None:
        raw[whole.name] = body
    elif body:
        raw.update(_untaken(body_fields(body), lax))
    return bind.bind(op, raw, lax=lax)


def body_fields(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body.

    Raises:
        Malformed: it is no JSON object.
    """
    try:
        fields = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}", field="body") from None
    if not isinstance(fields, dict):
        raise Malformed("the body must be a JSON object", field="body")
    return fields


def _untaken(fields: dict[str, Any], taken: Collection[str]) -> dict[str, Any]:
    for name in fields:
        if name in taken:
            raise errors.Invalid(f"{name} stands in the path or query already", code="request.field-twice", field=name)
    return fields


def application(
    space: Space, wires: Iterable[Wire], *, hosts: Collection[str], actor: str, lifespan: Any = None
) -> ASGIApp:
    """The whole face: the door, then one route a wire, paths without fields first."""
    ordered = sorted(wires, key=lambda wire: (wire.path.count("{"), wire.path.count(":path")))
    app = Starlette(
        routes=[guard(wire, space, actor) for wire in ordered],
        exception_handlers={HTTPException: _unrouted},
        lifespan=lifespan,
    )
    return Door(app, hosts)


def _unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else _INTERNAL
    message = f"{request.method} {request.url.path} is not served here"
    document = errors.LoopwrightError(message, code=_NAMED.get(status, "http"), hint="lw api").to_dict()
    return answer(document, status)


class Door:
    """Turns away foreign hosts and origins, cross-site calls and bodies over the limit, before anything is read."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], limit_bytes: int = LIMIT_BYTES) -> None:
        self.app = app
        self.hosts = frozenset(hosts)
        self.limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        error = self.refuse(headers)
        if error is not None:
            await _refuse(error, scope, receive, send)
            return
        state = {"read": 0, "started": False}

        async def counted() -> Message:
            message = await receive()
            state["read"] += len(message.get("body", b""))
            if state["read"] > self.limit_bytes:
                raise _too_large(self.limit_bytes)
            return message

        async def noted(message: Message) -> None:
            state["started"] = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except TooLarge as over:
            if not state["started"]:
                await _refuse(over, scope, receive, send)

    def refuse(self, headers: Mapping[str, str]) -> errors.LoopwrightError | None:
        """Why a request with these headers is turned away, or None."""
        host = headers.get("host", "")
        if host.lower() not in self.hosts:
            return errors.Forbidden(f"this server does not answer for the host {host!r}", code="door.host",
                                    field="Host", hint="call it as " + min(self.hosts))  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {"http://" + name for name in self.hosts}:
            return errors.Forbidden(f"a page of {origin} may not call this server", code="door.origin", field="Origin")
        site = headers.get("sec-fetch-site")
        if site not in (None, "none", "same-origin"):
            return errors.Forbidden("another site may not call here", code="door.cross-site", field="Sec-Fetch-Site")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limit_bytes:
            return _too_large(self.limit_bytes)
        return None


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(f"the body is over {limit_bytes >> 20} MiB", field="body", hint="send it in smaller parts")


async def _refuse(error: errors.LoopwrightError, scope: Scope, receive: Receive, send: Send) -> None:
    response = refusal(error)
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def loopback_hosts(port: int) -> frozenset[str]:
    """The Host headers that name this machine itself at a port."""
    return frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"})
