"""OpenAPI 3.1 made from op rows: what each route takes and answers, its errors, who may call it.

Routes whose handlers speak HTTP themselves are listed with what their docstring says.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.faces import bind
from loopwright.faces.client import BYTES, JSON, NDJSON
from loopwright.faces.files import RESULT_HEADER
from loopwright.kernel.op import Op

if TYPE_CHECKING:
    from loopwright.faces.control import Control
    from loopwright.faces.http import Wire

PATH = "/openapi.json"
COOKIE = "lw_session"  # as the door names it
REF = "#/components/schemas/{name}"
KEY_HEADER = "Idempotency-Key"
ACTION = "x-loopwright-action"
# every status that an error can have, and when
ERRORS = {
    400: "the request is not what HTTP or JSON allow",
    401: "no actor is known for this connection, or the token is not",
    403: "the actor may not do this, or the host or page may not call here",
    404: "what is named is not there",
    405: "the path takes another verb",
    409: "it is there already, has moved on, or is under way",
    410: "it was here and was erased on purpose",
    412: "a gate refused",
    413: "the body is over the limit",
    414: "the path is over the limit",
    415: "the body is of a type that is not read here",
    422: "a field has not the form or the value that it must have",
    429: "too many tries; wait as long as Retry-After says",
    431: "the head is over the limit",
    500: "a fault of the server, or stored bytes that are not what was stored",
    501: "it cannot be done here",
    503: "a part that is needed does not answer now",
    504: "it did not happen in the time given",
}
# ops whose route waits for an answer that is not empty
POLLED = frozenset({"lineage.events"})
_WAIT = {
    "name": "wait_s",
    "in": "query",
    "required": False,
    "description": "wait so many seconds, at most 60, until there is one",
    "schema": {"type": "number", "minimum": 0, "exclusiveMaximum": 1e9},
}
_PLACE = re.compile(r"{(\w+)(?::\w+)?}")
_INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that was taken on: where its result will stand."""

    action_id: str
    state: str
    at: str


def wires(control: Control) -> list[Wire]:
    """The route that answers with the document."""
    from loopwright.faces.http import Wire, answer

    made: dict[str, Any] = {}

    async def handle(request: Any) -> Any:
        """The OpenAPI document of all routes."""
        if not made:
            made.update(document(control.house.ops(), control.wires()))
        return answer(made)

    return [Wire("GET", PATH, "control.read", handle)]


def routed(ops: Mapping[str, Op]) -> list[Op]:
    """The ops that a wire offers, by path and verb."""
    return sorted((op for op in ops.values() if op.http), key=lambda op: (bind.path(op), bind.verb(op)))


def document(ops: Mapping[str, Op], others: Iterable[Wire] = ()) -> dict[str, Any]:
    """The whole document; of `others` those that are no op's."""
    from loopwright import __version__

    rows = routed(ops)
    answers, parts = _answers(rows)
    paths: dict[str, dict[str, Any]] = {}
    for op, body in zip(rows, answers, strict=True):
        paths.setdefault(place(bind.path(op)), {})[bind.verb(op).lower()] = _operation(op, body)
    for wire in others:
        here = paths.setdefault(place(wire.path), {})
        here.setdefault(wire.verb.lower(), _wire(wire))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "loopwright",
            "version": __version__,
            "description": "One tool that closes the machine-learning lifecycle as a loop.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": parts, "responses": _errors(), "securitySchemes": _schemes()},
        "security": [{}, {"bearer": []}, {"basic": []}, {"session": []}],
        "tags": [{"name": room} for room in sorted({op.name.split(".")[0] for op in rows})],
    }


def place(path: str) -> str:
    """A route's path as OpenAPI writes it."""
    return _PLACE.sub(r"{\1}", path)


def _answers(rows: Iterable[Op]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schema of what each op answers, and the parts that they name."""
    told = [bytes if op.shape == "stream" else Accepted if op.shape == "job" else bind.result_type(op) for op in rows]
    kinds = [alternatives(kind) for kind in told]
    flat = [kind for several in kinds for kind in several]
    bodies, parts = msgspec.json.schema_components(flat, schema_hook=_hook, ref_template=REF)
    parts["Error"] = error_schema()
    rest = iter(bodies)
    grouped = [[next(rest) for _ in several] for several in kinds]
    return [some[0] if len(some) == 1 else {"anyOf": some} for some in grouped], _lenient(parts)


def alternatives(kind: Any) -> list[Any]:
    """The types of a union of lists, which msgspec reads one at a time; else the type alone."""
    parts = typing.get_args(kind)
    union = parts and all(typing.get_origin(part) is list for part in parts)
    return list(parts) if union else [kind]


def _lenient(value: Any) -> Any:
    """A number that is not finite is written as null, so every number of an answer may be null."""
    if isinstance(value, list):
        return [_lenient(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: _lenient(item) for key, item in value.items()}
    if out.get("type") == "number":
        out["type"] = ["number", "null"]
    return out


def _hook(kind: Any) -> dict[str, Any]:
    return {"type": "string"} if kind is Path else {}


def error_schema() -> dict[str, Any]:
    """The schema of the error document, as docs/schemas/error-1.json has it for all wires."""
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "required": ["kind", "code", "message", "field", "hint"],
        "properties": {
            "kind": {"type": "string"},
            "code": {"type": "string"},
            "message": {"type": "string"},
            "field": text,
            "hint": text,
            "verdict": {"description": "what the gate said"},
            "retry_after_s": {"type": "number"},
            "extra": text,
        },
    }


def _errors() -> dict[str, Any]:
    content = {JSON: {"schema": {"$ref": REF.format(name="Error")}}}
    return {f"E{status}": {"description": text, "content": content} for status, text in ERRORS.items()}


def _schemes() -> dict[str, Any]:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "a token of `lw tokens create`"},
        "basic": {"type": "http", "scheme": "basic", "description": "the token as the password"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": COOKIE,
            "description": f"of a page that logged in; over https __Host-{COOKIE}",
        },
    }


def _operation(op: Op, body: dict[str, Any]) -> dict[str, Any]:
    taken, verb = set(bind.path_fields(op)), bind.verb(op)
    whole = bind.body_param(op)
    uploads = op.reads or (whole.name if whole else "")
    fields = [p for p in bind.params(op) if p.name not in taken and p.name != uploads]
    told: dict[str, Any] = {
        "operationId": op.name,
        "tags": [op.name.split(".")[0]],
        "summary": bind.help_text(op),
        "parameters": [_parameter(p, "path") for p in bind.params(op) if p.name in taken],
        "responses": _responses(op, body),
        ACTION: op.action,
    }
    if verb in ("GET", "DELETE") or uploads:
        told["parameters"] += [_parameter(p, "query") for p in fields]
    elif fields:
        told["requestBody"] = _fields(fields)
    if op.name in POLLED:
        told["parameters"].append(_WAIT)
    if op.reads:
        told["parameters"].append({"name": op.reads, "in": "query", "required": True, "schema": {"type": "string"},
                                   "description": "the name of the file whose bytes are the body"})  # fmt: skip
    if uploads:
        kinds = (BYTES,) if op.reads else (NDJSON, BYTES)
        told["requestBody"] = {"required": True, "content": {kind: {"schema": {}} for kind in kinds}}
    if verb != "GET" and not (op.writes or op.secret):
        told["parameters"].append(_key())
    return told


def _key() -> dict[str, Any]:
    text = "the same key within 24 hours gives the first answer again and does nothing"
    schema = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"}
    return {"name": KEY_HEADER, "in": "header", "required": False, "description": text, "schema": schema}


def _parameter(param: bind.Param, where: str) -> dict[str, Any]:
    required = param.required or where == "path"
    told = {"name": param.name, "in": where, "required": required, "schema": _schema(param)}
    return told | ({"description": param.help} if param.help else {})


def _schema(param: bind.Param) -> dict[str, Any]:
    """What a parameter takes; that it may be left out is said by `required`."""
    made = msgspec.json.schema(bind.bare(param.type), schema_hook=_hook)
    if made.get("type") == "integer":
        made = {**made, **_INT64}
    if not param.required and param.default is not None:
        made = {**made, "default": msgspec.to_builtins(param.default, enc_hook=bind.plain)}
    return made


def _fields(params: list[bind.Param]) -> dict[str, Any]:
    needed = [p.name for p in params if p.required]
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {p.name: _nullable(p) | ({"description": p.help} if p.help else {}) for p in params},
    }
    if needed:
        schema["required"] = needed
    return {"required": bool(needed), "content": {JSON: {"schema": schema}}}


def _nullable(param: bind.Param) -> dict[str, Any]:
    made = _schema(param)
    allows = type(None) in typing.get_args(param.type)
    return {"anyOf": [made, {"type": "null"}]} if allows else made


def _responses(op: Op, body: dict[str, Any]) -> dict[str, Any]:
    if op.shape == "stream" or op.writes:
        told: dict[str, Any] = {"description": bind.help_text(op), "content": {BYTES: {"schema": {}}}}
        if op.writes:
            text = "the result as JSON, percent-encoded"
            told["headers"] = {RESULT_HEADER: {"description": text, "schema": {"type": "string"}}}
            if not next(p.required for p in bind.params(op) if p.name == op.writes):
                told["content"][JSON] = {"schema": _lenient(body)}
        return {"200": told, **_refused()}
    status = "202" if op.shape == "job" else "200"
    return {status: {"description": bind.help_text(op), "content": {JSON: {"schema": _lenient(body)}}}, **_refused()}


def _refused() -> dict[str, Any]:
    return {str(status): {"$ref": f"#/components/responses/E{status}"} for status in ERRORS}


def _wire(wire: Wire) -> dict[str, Any]:
    """A route whose handler speaks HTTP itself."""
    text = inspect.getdoc(wire.handler) or ""
    name = re.sub(r"\W+", "_", f"{wire.verb.lower()}{wire.path}").strip("_")
    return {
        "operationId": f"wire.{name}",
        "tags": ["wire"],
        "summary": text.split("\n", 1)[0],
        "parameters": [
            {"name": field, "in": "path", "required": True, "schema": {"type": "string"}}
            for field in _PLACE.findall(wire.path)
        ],
        "responses": {"default": {"description": "what the handler says"}},
        ACTION: wire.action,
    }
