"""Op rows as Starlette routes, and the only place of HTTP status numbers.

Every route asks `require(action)` for the actor that the door found; one that names no action cannot be built.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from loopwright.access import roles
from loopwright.access import service as access
from loopwright.access.model import Unauthenticated
from loopwright.access.sessions import SlowDown
from loopwright.faces import bind, depth, files, repeats
from loopwright.faces.client import BYTES, JSON
from loopwright.kernel import errors
from loopwright.kernel.op import Op, silent
from loopwright.store.space import Space

LIMIT_BYTES = 16 * 2**20
FILE_LIMIT_BYTES = 4 * 2**30  # of a body that is a file and goes to disk as it comes
KEY_HEADER, AGAIN_HEADER = "idempotency-key", "idempotent-replayed"
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
_UNKNOWN, _TOO_LONG, _BAD_TYPE, _SLOW_DOWN = 401, 414, 415, 429
_MISSING = 404
_READING = ("GET", "HEAD")
_NAMED = {_MISSING: "route.missing", 405: "route.verb"}

Handler = Callable[[Request], Awaitable[Response]]
Allow = Callable[[dict[str, Any]], None]
Submit = Callable[[Op, str, dict[str, Any]], Any]


class Malformed(errors.Invalid):
    """The body is not JSON at all."""

    kind = "malformed"


class Wire(msgspec.Struct, frozen=True):
    """A route whose handler speaks HTTP itself: verb, path, the action it needs, handler.

    Args:
        subject: what the action is done to, such as `endpoint:{endpoint}`, of the fields of the path; None when the
            handler asks for its permission itself, once it knows.
    """

    verb: str
    path: str
    action: str
    handler: Handler
    subject: str | None = ""
    limit_bytes: int = LIMIT_BYTES


class TooLarge(errors.Invalid):
    """The body is over the limit."""

    kind = "too-large"


class TooLong(errors.Invalid):
    """The path and query are over the limit."""

    kind = "too-long"


class BadType(errors.Invalid):
    """The body is of a type that is not read here."""

    kind = "content-type"


def status_of(error: errors.LoopwrightError) -> int:
    """The HTTP status that stands for an error."""
    if isinstance(error, TooLarge):
        return _TOO_LARGE
    if isinstance(error, Malformed):
        return _MALFORMED
    if isinstance(error, BadType):
        return _BAD_TYPE
    if isinstance(error, TooLong):
        return _TOO_LONG
    if isinstance(error, Unauthenticated):
        return _UNKNOWN
    if isinstance(error, SlowDown):
        return _SLOW_DOWN
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _INTERNAL)


def answer(value: Any, status: int = _OK) -> Response:
    """A JSON response."""
    return Response(bind.to_json(value), status, media_type=JSON)


def refusal(error: errors.LoopwrightError) -> Response:
    """An error as its JSON document: code, message, field, hint."""
    response = answer(error.to_dict(), status_of(error))
    if isinstance(error, errors.Unavailable):
        response.headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        response.headers["www-authenticate"] = 'Bearer realm="loopwright"'
    return response


def guard(wire: Wire, space: Space) -> Route:
    """The Starlette route of a wire, behind its permission; the door says who the actor is.

    Raises:
        LoopwrightError: the wire names no action, or one that no row of access/roles.py knows.
    """
    if not roles.known(wire.action):
        raise errors.LoopwrightError(
            f"{wire.verb} {wire.path} names no action of the table of roles: {wire.action!r}",
            code="route.no-action",
            hint="add it to src/loopwright/access/roles.py",
        )

    async def handle(request: Request) -> Response:
        try:
            actor = request.state.actor
            if wire.subject is None:
                access.require_somewhere(space, actor, wire.action)
            else:
                subject = access.subject_of(wire.subject, request.path_params)
                access.require(space, actor, wire.action, subject)
            return await wire.handler(request)
        except errors.LoopwrightError as error:
            return refusal(error)
        except ClientDisconnect:  # it left, or was cut off, before it had said what it wants: nobody reads this
            return refusal(Malformed("the request broke off", field="body"))
        except Exception as error:  # noqa: BLE001 - the server outlives a fault in one answer, and shows it in its log
            traceback.print_exc(file=sys.stderr)
            return refusal(_internal(error))

    handle.action = wire.action  # type: ignore[attr-defined]
    return Route(wire.path, handle, methods=[wire.verb])


def op_wire(op: Op, space: Space, submit: Submit | None = None) -> Wire:
    """The wire of an op row; `submit` takes ops of the shape `job`, which are answered before they are done."""

    async def handle(request: Request) -> Response:
        actor = request.state.actor

        def allow(args: dict[str, Any]) -> None:
            if op.subject:
                access.require(space, actor, op.action, access.subject_of(op.subject, args))

        with files.Desk(op, space) as desk:
            args = await _arguments(op, request, desk, allow)
            allow(args)
            if op.shape == "stream" or op.writes:
                return await run_in_threadpool(_poured, op, space, actor, desk.place(args), desk)
            key = request.headers.get(KEY_HEADER) if request.method not in _READING else None

            def act() -> repeats.Answer:
                return _done(op, space, actor, args, submit)

            if key is None:
                status, body = await run_in_threadpool(act)
                return Response(body, status, media_type=JSON)
            who = repeats.who(op, actor, key, repeats.asked(op, args, desk.sha256))
            (status, body), again = await run_in_threadpool(repeats.once, space, who, act, _failed)
            return Response(body, status, {AGAIN_HEADER: "true"} if again else {}, JSON)

    limit = FILE_LIMIT_BYTES if op.reads else LIMIT_BYTES
    return Wire(bind.verb(op), bind.path(op), op.action, handle, None if op.subject else "", limit)


def _done(op: Op, space: Space, actor: str, args: dict[str, Any], submit: Submit | None) -> repeats.Answer:
    """Status and body of what an op answers."""
    if op.shape == "job" and submit is not None:
        return _ACCEPTED, bind.to_json(submit(op, actor, args))
    return _OK, bind.to_json(op.fn(space, actor, **_told(op, args)))


def _failed(error: Exception) -> repeats.Answer:
    """Status and body of an error."""
    told = error if isinstance(error, errors.LoopwrightError) else _internal(error)
    return status_of(told), bind.to_json(told.to_dict())


def _internal(error: Exception) -> errors.LoopwrightError:
    return errors.LoopwrightError(f"{type(error).__name__} in the server, see its log", code="internal")


def _told(op: Op, args: dict[str, Any]) -> dict[str, Any]:
    return {**args, bind.PROGRESS: silent} if bind.takes_progress(op) else args


def _poured(op: Op, space: Space, actor: str, args: dict[str, Any], desk: files.Desk) -> Response:
    """The answer of an op that streams, or that makes a file."""
    result = op.fn(space, actor, **_told(op, args))
    if op.shape == "stream":
        return StreamingResponse(_pieces(result), media_type=BYTES)
    given = desk.give(args, result)
    if given is None:
        return answer(result)
    response = StreamingResponse(given[0], media_type=BYTES)
    for name, value in given[1]:
        response.headers.append(name, value)
    return response


def _pieces(result: Any) -> Iterable[bytes]:
    return (result,) if isinstance(result, bytes) else result


async def _arguments(op: Op, request: Request, desk: files.Desk, allow: Allow) -> dict[str, Any]:
    """Path, query and body of a request as the op's keyword arguments; `allow` is asked before a file is taken."""
    listed = {p.name for p in bind.params(op) if bind.origin(p.type) in (list, tuple)}
    raw: dict[str, Any] = {}
    for name in request.query_params:
        values = request.query_params.getlist(name)
        if len(values) > 1 and name not in listed:
            raise _twice(name)
        raw[name] = values if name in listed else values[0]
    raw.update(request.path_params)
    lax = set(raw)
    if request.method in (*_READING, "DELETE"):
        return bind.bind(op, raw, lax=lax)
    if op.reads:
        allow(bind.bind(op, raw, lax=lax))  # before a byte of the file is taken
        raw[op.reads] = await desk.take(raw[op.reads], request.stream())
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
    fault = depth.fault(body)
    if fault is not None:
        raise Malformed(f"the body has {fault}", field="body")
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
            raise _twice(name)
    return fields


def _twice(name: str) -> errors.Invalid:
    return errors.Invalid(f"{name} stands twice in the request", code="request.field-twice", field=name)


def unrouted(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else _INTERNAL
    message = f"{request.method} {request.url.path} is not served here"
    kind = errors.NotFound if status == _MISSING else errors.LoopwrightError
    return answer(kind(message, code=_NAMED.get(status, "http"), hint="lw api").to_dict(), status)
