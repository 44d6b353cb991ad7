"""Open Inference Protocol V2 over REST: what its paths, tensors and answers mean here, and its status numbers.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; the index of Triton's repository
extension. Tensors are read in `tensors`.
"""

import json
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
import orjson

from loopwright.kernel.errors import Forbidden, Invalid, LoopwrightError, NotFound, Unavailable, Unsupported
from loopwright.serving import subjects
from loopwright.serving.engine import Answer, Ask, Engine
from loopwright.serving.moments import moment
from loopwright.serving.protocols import tensors
from loopwright.serving.protocols.tensors import DATATYPES, MAX_VALUES, Malformed
from loopwright.serving.scoring import Target

PLATFORM = "loopwright"
EXTENSIONS = ["binary_tensor_data"]
_MAX_ID = 256
_JSON_BYTES = b"inference-header-content-length"
_ROW_SUFFIX = re.compile(r"/\d+\Z")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Reply(msgspec.Struct, frozen=True):
    """A finished answer of the wire.

    Args:
        allow: the methods that the path knows, when the one asked is not among them.
        json_bytes: the length of the JSON before binary tensors; 0 = the body is JSON.
    """

    status: int
    body: bytes
    allow: str = ""
    json_bytes: int = 0


class Call(msgspec.Struct, frozen=True):
    """An inference that waits for its body.

    Args:
        json_bytes: the length of the JSON before binary tensors; None = the body is JSON.
    """

    target: Target
    version: int | None
    json_bytes: int | None = None


class Index(msgspec.Struct, frozen=True):
    """A request for the list of all models, which waits for its body."""


class BinaryAsk(Ask):
    """An Ask whose outputs are wanted as binary tensors."""


_STATUS: tuple[tuple[type[LoopwrightError], int], ...] = (
    (Malformed, 400),
    (Unsupported, 415),
    (Invalid, 422),
    (NotFound, 404),
    (Forbidden, 403),
    (Unavailable, 503),
)


def error_reply(error: LoopwrightError, status: int | None = None, allow: str = "") -> Reply:
    """The reply for an error: OIP's `error`, and loopwright's code, message, field and hint."""
    if status is None:
        status = next((number for kind, number in _STATUS if isinstance(error, kind)), 500)
    return Reply(status, orjson.dumps({"error": error.message, **error.to_dict()}), allow)


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(status, orjson.dumps(value))


class Oip:
    """The protocol on top of one engine; `ready` tells whether the worker has its routes."""

    def __init__(self, engine: Engine, version: str, ready: Callable[[], bool]) -> None:
        self._engine = engine
        self._version = version
        self._ready = ready

    def open(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Call | Index | Reply:
        """Say what a method, path and headers ask for, before any body is read."""
        parts = path.partition("?")[0].removeprefix("/").removesuffix("/").split("/")
        if "%" in path:
            parts = [_decoded(part) for part in parts]
        if parts[0] != "v2":
            return self._missing()
        match parts[1:]:
            case ["models", name, "infer"]:
                return self._infer(method, name, None, headers)
            case ["models", name, "versions", version, "infer"]:
                return self._infer(method, name, version, headers)
            case ["repository", *rest]:
                return self._repository(method, rest)
        found = self._look(parts[1:])
        if method not in ("GET", "HEAD") and found.status != 404:
            return error_reply(Invalid(f"{method} is not for this path", code="method.wrong"), 405, "GET, HEAD")
        return found

    def _repository(self, method: str, parts: list[str]) -> Index | Reply:
        if parts != ["index"] and (len(parts) != 3 or parts[0] != "models" or parts[2] not in ("load", "unload")):
            return self._missing()
        if method != "POST":
            return error_reply(Invalid(f"{method} is not for this path", code="method.wrong"), 405, "POST")
        if parts == ["index"]:
            return Index()
        try:
            hint = f"lw deploy {self._target(parts[1]).name}"
        except LoopwrightError as error:
            return error_reply(error)
        why = "which versions are loaded follows from the routes, and these are moved by gates only"
        return error_reply(Forbidden(why, code="repository.gated", field="model", hint=hint))

    def _look(self, parts: list[str]) -> Reply:
        try:
            match parts:
                case []:
                    return _json({"name": PLATFORM, "version": self._version, "extensions": EXTENSIONS})
                case ["health", "live"]:
                    return _json({"live": True})
                case ["health", "ready"]:
                    return _json({"ready": self._ready()}, 200 if self._ready() else 503)
                case ["models", name]:
                    return _json(_metadata(self._target(name), None))
                case ["models", name, "versions", version]:
                    return _json(_metadata(self._target(name), version))
                case ["models", name, "ready"] | ["models", name, "versions", _, "ready"]:
                    ok = _ready(self._target(name), parts[3] if len(parts) == 5 else None)
                    return _json({"name": name, "ready": ok}, 200 if ok else 503)
        except LoopwrightError as error:
            return error_reply(error)
        return self._missing()

    def _missing(self) -> Reply:
        return error_reply(NotFound("no such path", code="path.missing", hint="GET /v2"))

    def _target(self, name: str) -> Target:
        target = self._engine.targets.get(name)
        if target is None and not self._ready():
            raise Unavailable("this worker has not got its routes", code="worker.unready", hint="lw status")
        if target is None:
            raise NotFound("no endpoint of that name", code="endpoint.missing", field="endpoint", hint="lw status")
        return target

    def _infer(self, method: str, name: str, version: str | None, headers: Mapping[bytes, bytes]) -> Call | Reply:
        if method != "POST":
            return error_reply(Invalid(f"{method} is not for inference", code="method.wrong"), 405, "POST")
        try:
            target = self._target(name)
            json_bytes = _json_bytes(headers[_JSON_BYTES]) if _JSON_BYTES in headers else None
            if version is None:
                return Call(target, None, json_bytes)
            live = {str(served.version): served.version for served in target.versions if served.live}
            if version not in live:
                raise NotFound("no such version is live", code="version.missing", field="version")
        except LoopwrightError as error:
            return error_reply(error)
        return Call(target, live[version], json_bytes)

    def decode(self, call: Call | Index, body: bytes) -> Ask | Reply:
        """Read the body of an inference, or of a request for the list of models."""
        try:
            if isinstance(call, Index):
                return _json(_index(self._engine.targets, body))
            return _decode(call, body, self._engine.subject_key)
        except LoopwrightError as error:
            return error_reply(error)

    def reply(self, ask: Ask) -> Reply:
        """The reply for an Ask that the engine has answered."""
        answer = ask.answer
        match answer.outcome if answer is not None else "failed":
            case "answered" | "repeated":
                body = answer.body if answer is not None else b""
                return _binary_reply(body) if type(ask) is BinaryAsk else Reply(200, body)
            case "conflict":
                message = "this id was answered for other inputs; send new inputs under a new id"
                return error_reply(Invalid(message, code="id.conflict", field="id"), 409)
            case "refused":
                error = Unavailable("the prediction log takes no rows", code="log.full", hint="free disk space")
                return error_reply(error)
            case "invalid" if answer is not None and answer.error is not None:
                return error_reply(answer.error)
            case "unrouted":
                message, hint = "no version of this endpoint is live", f"lw deploy {ask.target.name}"
                return error_reply(Unavailable(message, code="endpoint.unrouted", hint=hint))
        return error_reply(LoopwrightError("no version could score these rows", code="model.failed", hint="lw status"))


def render(ask: Ask, answer: Answer) -> bytes:
    """The body of an answer."""
    target, scores = ask.target, answer.scores
    key = ("oip", answer.version)
    head = target.cache.get(key)
    if head is None:
        name, output = orjson.dumps(target.name), orjson.dumps(answer.output)
        head = target.cache[key] = (
            b'{"model_name":%b,"model_version":"%d",' % (name, answer.version or 0),
            b'"outputs":[{"name":%b,"datatype":"FP64","shape":[' % output,
        )
    identity = b'"id":%b,' % orjson.dumps(ask.request_id) if ask.request_id else b""
    mark = b"" if answer.logged else b',"logged":false'
    return b'%b%b"parameters":{"prediction_id":"%b"%b},%b%d],"data":%b}]}' % (
        *(head[0], identity, answer.prediction_id.encode(), mark, head[1], len(scores), orjson.dumps(scores)),
    )


def _binary_reply(body: bytes) -> Reply:
    """An answer with its tensors behind the JSON; made of the JSON answer, so that repeats of either form agree."""
    doc = orjson.loads(body)
    binary = b""
    for output in doc["outputs"]:
        data = output.pop("data")
        flat = [value for row in data for value in row] if data and type(data[0]) is list else data
        packed = struct.pack(f"<{len(flat)}d", *flat)
        output["parameters"] = {"binary_data_size": len(packed)}
        binary += packed
    head = orjson.dumps(doc)
    return Reply(200, head + binary, json_bytes=len(head))


def _metadata(target: Target, version: str | None) -> dict[str, Any]:
    versions = [served for served in target.versions if version in (None, str(served.version))]
    if version is not None and not versions:
        raise NotFound("no such version in the routes", code="version.missing", field="version")
    return {
        "name": target.name,
        "versions": [str(served.version) for served in versions],
        "platform": PLATFORM,
        "inputs": [
            {"name": f.name, "datatype": DATATYPES[f.dtype][0], "shape": [-1], "parameters": {"nullable": f.nullable}}
            for f in target.fields
        ],
        "outputs": [{"name": served.output, "datatype": "FP64", "shape": [-1]} for served in versions[:1]],
        "parameters": _lookup(target),
    }


def _lookup(target: Target) -> dict[str, Any]:
    """What a caller may send instead of the inputs, or why it may not."""
    if target.lookup is None:
        return {"lookup": {"problem": target.lookup_problem}} if target.lookup_problem else {}
    inputs = [{"name": field.name, "datatype": DATATYPES[field.dtype][0]} for field in target.lookup.asks.fields]
    return {"lookup": {"inputs": inputs, "features": target.lookup.lookup.plan.features.name}}


def _ready(target: Target, version: str | None) -> bool:
    if version is None:
        return bool(target.versions) and target.versions[0].predictor is not None
    found = [served for served in target.versions if str(served.version) == version]
    if not found:
        raise NotFound("no such version in the routes", code="version.missing", field="version")
    return found[0].predictor is not None


def _decoded(part: str) -> str:
    """A part of a path, decoded once; no name holds what is left encoded or would divide it."""
    try:
        decoded = unquote(part, errors="strict")
    except UnicodeDecodeError:
        return ""
    return "" if "%" in decoded or "/" in decoded else decoded


def _json_bytes(header: bytes) -> int:
    text = header.strip()
    if not text.isdigit() or len(text) > 15:
        message = "Inference-Header-Content-Length is the number of bytes of the JSON"
        raise Malformed(message, code="tensor.binary", field="Inference-Header-Content-Length")
    return int(text)


def _index(targets: Mapping[str, Target], body: bytes) -> list[dict[str, str]]:
    """All versions of all endpoints with their state; only those that are ready when the body asks so."""
    try:
        doc = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        raise Malformed("the body is not JSON", code="body.json", field="body") from None
    if type(doc) is not dict or type(doc.get("ready", False)) is not bool:
        raise Invalid('the body must be {} or {"ready": true}', code="body.form", field="ready")
    out = []
    for target in targets.values():
        for served in target.versions:
            loaded = served.predictor is not None
            if loaded or not doc.get("ready", False):
                state, reason = ("READY", "") if loaded else ("UNAVAILABLE", "it could not be loaded")
                out.append({"name": target.name, "version": str(served.version), "state": state, "reason": reason})
    return out


def _decode(call: Call, body: bytes, subject_key: bytes) -> Ask:
    binary = b""
    if call.json_bytes is not None:
        if call.json_bytes > len(body):
            message = "the body is shorter than the JSON that its header announces"
            raise Malformed(message, code="tensor.binary", field="Inference-Header-Content-Length")
        body, binary = body[: call.json_bytes], body[call.json_bytes :]
    # Checked before any of it is built: a short body cannot hold too many values.
    if len(body) > MAX_VALUES and body.count(b",") > MAX_VALUES:
        message = f"a request has at most {MAX_VALUES} values"
        raise Invalid(message, code="body.values", field="body", hint="send fewer rows")
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refused = Malformed(f"the body is not JSON: {str(error)[:200]}", code="body.json", field="body")
        doc = _almost_json(body, "infinity" in str(error))
        if doc is not None:
            _ask(call, doc, subject_key, None)  # names the field with the number that JSON does not have
        raise refused from None
    return _ask(call, doc, subject_key, None if call.json_bytes is None else binary)


def _almost_json(body: bytes, infinite: bool) -> Any:
    """A document with NaN, Infinity or a number beyond float64, which clients send though JSON has none of them."""
    if not (infinite or b"NaN" in body or b"Infinity" in body) or _SURROGATE.search(body):
        return None
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        return None


def _ask(call: Call, doc: Any, subject_key: bytes, binary: bytes | None) -> Ask:
    if type(doc) is not dict:
        raise Invalid("the body must be a JSON object", code="body.form", field="body")
    target = call.target
    parameters, outputs = doc.get("parameters"), doc.get("outputs")
    wanted = _wants_binary(parameters, outputs, target)
    ask = (BinaryAsk if wanted else Ask)(target=target, rows=(), pinned=call.version)
    request_id = doc.get("id")
    if request_id is not None and request_id != "":  # which clients send for none
        ask.request_id = _check_id(request_id)
    if parameters is not None:
        _take_parameters(ask, parameters, subject_key)
    if not target.versions:
        return ask
    inputs = doc.get("inputs")
    inputs = inputs if binary is None else tensors.with_binary(inputs, binary)
    looker = target.lookup
    if looker is not None and looker.is_meant(inputs, target):
        ask.base = looker.base(tensors.rows(inputs, looker.asks))
        return ask
    try:
        ask.rows = tensors.rows(inputs, target)
    except Invalid as error:
        if target.lookup_problem and error.code in ("input.unknown", "input.missing"):
            error.hint = f"send the full row; there are no look-ups: {target.lookup_problem}"
        raise
    return ask


def _wants_binary(parameters: Any, outputs: Any, target: Target) -> bool:
    """Whether the output is asked for as a binary tensor: by the request, unless the output itself says otherwise."""
    if parameters is not None and type(parameters) is not dict:
        raise Invalid("parameters must be an object", code="parameters.form", field="parameters")
    wanted = parameters.get("binary_data_output", False) if parameters else False
    if type(wanted) is not bool:
        message = "binary_data_output must be true or false"
        raise Invalid(message, code="parameters.form", field="parameters.binary_data_output")
    if not outputs or not target.versions:
        return wanted
    known = target.versions[0].output
    output = outputs[0] if type(outputs) is list and len(outputs) == 1 else None
    if type(output) is not dict or output.get("name") != known:
        raise Invalid(f"the only output is {known!r}", code="output.unknown", field="outputs")
    more = output.get("parameters")
    if more is None:
        return wanted
    own = more.get("binary_data", wanted) if type(more) is dict else None
    if type(own) is not bool or "classification" in more:
        message = "the only parameter of an output is binary_data, true or false"
        raise Invalid(message, code="output.parameters", field="outputs")
    return own


def _check_id(value: Any) -> str:
    if type(value) is not str or len(value) > _MAX_ID or _CONTROL.search(value):
        raise Invalid(f"id must be text of at most {_MAX_ID} characters", code="id.form", field="id")
    if _ROW_SUFFIX.search(value):
        raise Invalid(
            "id must not end with /NUMBER: rows of a batch are named so", code="id.form", field="id", hint="use - or _"
        )
    return value


def _take_parameters(ask: Ask, parameters: Any, subject_key: bytes) -> None:
    time, subject = parameters.get("time"), parameters.get("subject")
    if time is not None:
        ask.at_us = moment(time, "parameters.time")
    if subject is not None:
        ask.subject = subjects.keyed_hash(subject_key, subjects.check(subject))
