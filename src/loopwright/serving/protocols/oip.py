"""Open Inference Protocol V2 over REST: what its paths, tensors and answers mean here, and its status numbers.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md. JSON tensors; binary ones are refused.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import orjson

from loopwright.kernel.errors import Forbidden, Invalid, LoopwrightError, NotFound, Unavailable, Unsupported
from loopwright.models.model import Field
from loopwright.serving import subjects
from loopwright.serving.engine import Answer, Ask, Engine, Target
from loopwright.serving.moments import moment

PLATFORM = "loopwright"
MAX_ROWS = 10_000
_MAX_ID = 256
_DATATYPES = {
    "float64": ("FP64", "FP32"),
    "int64": ("INT64", "INT32", "INT16", "INT8", "UINT32", "UINT16", "UINT8"),
    "bool": ("BOOL",),
    "string": ("BYTES",),
}
_ROW_SUFFIX = re.compile(r"/\d+\Z")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Reply(msgspec.Struct, frozen=True):
    """A finished answer of the wire."""

    status: int
    body: bytes
    allow: str = ""


class Call(msgspec.Struct, frozen=True):
    """An inference that waits for its body."""

    target: Target
    version: int | None


class Malformed(Invalid):
    """The body is not what any request could be."""


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

    def open(self, method: str, path: str) -> Call | Reply:
        """Say what a method and path ask for, before any body is read."""
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[0] != "v2":
            return self._missing()
        match parts[1:]:
            case ["models", name, "infer"]:
                return self._infer(method, name, None)
            case ["models", name, "versions", version, "infer"]:
                return self._infer(method, name, version)
        found = self._look(parts[1:])
        if method not in ("GET", "HEAD") and found.status != 404:
            return error_reply(Invalid(f"{method} is not for this path", code="method.wrong"), 405, "GET, HEAD")
        return found

    def _look(self, parts: list[str]) -> Reply:
        try:
            match parts:
                case []:
                    return _json({"name": PLATFORM, "version": self._version, "extensions": []})
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

    def _infer(self, method: str, name: str, version: str | None) -> Call | Reply:
        if method != "POST":
            return error_reply(Invalid(f"{method} is not for inference", code="method.wrong"), 405, "POST")
        try:
            target = self._target(name)
            if version is None:
                return Call(target, None)
            live = {str(served.version): served.version for served in target.versions if served.live}
            if version not in live:
                raise NotFound("no such version is live", code="version.missing", field="version")
        except LoopwrightError as error:
            return error_reply(error)
        return Call(target, live[version])

    def decode(self, call: Call, body: bytes) -> Ask | Reply:
        """Read the body of an inference."""
        try:
            return _decode(call, body, self._engine.subject_key)
        except LoopwrightError as error:
            return error_reply(error)

    def reply(self, ask: Ask) -> Reply:
        """The reply for an Ask that the engine has answered."""
        answer = ask.answer
        match answer.outcome if answer is not None else "failed":
            case "answered" | "repeated":
                return Reply(200, answer.body if answer is not None else b"")
            case "conflict":
                message = "this id was answered for other inputs; send new inputs under a new id"
                return error_reply(Invalid(message, code="id.conflict", field="id"), 409)
            case "refused":
                error = Unavailable("the prediction log takes no rows", code="log.full", hint="free disk space")
                return error_reply(error)
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


def _metadata(target: Target, version: str | None) -> dict[str, Any]:
    versions = [served for served in target.versions if version in (None, str(served.version))]
    if version is not None and not versions:
        raise NotFound("no such version in the routes", code="version.missing", field="version")
    return {
        "name": target.name,
        "versions": [str(served.version) for served in versions],
        "platform": PLATFORM,
        "inputs": [
            {"name": f.name, "datatype": _DATATYPES[f.dtype][0], "shape": [-1], "parameters": {"nullable": f.nullable}}
            for f in target.fields
        ],
        "outputs": [{"name": served.output, "datatype": "FP64", "shape": [-1]} for served in versions[:1]],
    }


def _ready(target: Target, version: str | None) -> bool:
    if version is None:
        return bool(target.versions) and target.versions[0].predictor is not None
    found = [served for served in target.versions if str(served.version) == version]
    if not found:
        raise NotFound("no such version in the routes", code="version.missing", field="version")
    return found[0].predictor is not None


def _decode(call: Call, body: bytes, subject_key: bytes) -> Ask:
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refused = Malformed(f"the body is not JSON: {str(error)[:200]}", code="body.json", field="body")
        doc = _almost_json(body, "infinity" in str(error))
        if doc is not None:
            _ask(call, doc, subject_key)  # names the field with the number that JSON does not have
        raise refused from None
    return _ask(call, doc, subject_key)


def _almost_json(body: bytes, infinite: bool) -> Any:
    """A document with NaN, Infinity or a number beyond float64, which clients send though JSON has none of them."""
    if not (infinite or b"NaN" in body or b"Infinity" in body) or _SURROGATE.search(body):
        return None
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        return None


def _ask(call: Call, doc: Any, subject_key: bytes) -> Ask:
    if type(doc) is not dict:
        raise Invalid("the body must be a JSON object", code="body.form", field="body")
    target = call.target
    ask = Ask(target=target, rows=(), pinned=call.version)
    request_id = doc.get("id")
    if request_id is not None and request_id != "":  # which clients send for none
        ask.request_id = _check_id(request_id)
    parameters = doc.get("parameters")
    if parameters is not None:
        _take_parameters(ask, parameters, subject_key)
    if not target.versions:
        return ask
    if doc.get("outputs"):
        _check_outputs(doc["outputs"], target)
    ask.rows = _rows(doc.get("inputs"), target)
    return ask


def _check_id(value: Any) -> str:
    if type(value) is not str or len(value) > _MAX_ID or _CONTROL.search(value):
        raise Invalid(f"id must be text of at most {_MAX_ID} characters", code="id.form", field="id")
    if _ROW_SUFFIX.search(value):
        raise Invalid(
            "id must not end with /NUMBER: rows of a batch are named so", code="id.form", field="id", hint="use - or _"
        )
    return value


def _take_parameters(ask: Ask, parameters: Any, subject_key: bytes) -> None:
    if type(parameters) is not dict:
        raise Invalid("parameters must be an object", code="parameters.form", field="parameters")
    if parameters.get("binary_data_output"):
        message = "binary tensors are not served"
        raise Unsupported(message, code="tensor.binary", field="parameters", hint="leave binary_data_output out")
    time, subject = parameters.get("time"), parameters.get("subject")
    if time is not None:
        ask.at_us = moment(time, "parameters.time")
    if subject is not None:
        ask.subject = subjects.keyed_hash(subject_key, subjects.check(subject))


def _check_outputs(outputs: Any, target: Target) -> None:
    known = target.versions[0].output
    for output in outputs if type(outputs) is list else [None]:
        if type(output) is not dict or output.get("name") != known:
            raise Invalid(f"the only output is {known!r}", code="output.unknown", field="outputs")


def _rows(inputs: Any, target: Target) -> Sequence[Sequence[Any]]:
    if type(inputs) is not list or not inputs:
        raise Invalid("inputs must be a list of tensors, one a column", code="inputs.form", field="inputs")
    table = target.cache.get("oip")
    if table is None:
        table = target.cache["oip"] = {
            field.name: (place, _DATATYPES[field.dtype], _CHECKS[field.dtype], field)
            for place, field in enumerate(target.fields)
        }
    columns: list[Any] = [None] * len(table)
    count, seen = 0, 0
    for tensor in inputs:
        try:
            name, datatype, shape, data = tensor["name"], tensor["datatype"], tensor["shape"], tensor["data"]
            place, datatypes, check, field = table[name]
        except (KeyError, TypeError):
            raise _tensor_error(tensor, table) from None
        if datatype not in datatypes:
            raise Invalid(f"input {name!r} must be {datatypes[0]}", code="input.datatype", field=name)
        if columns[place] is not None:
            raise Invalid(f"input {name!r} stands twice", code="input.twice", field=name)
        if shape != [1] or type(data) is not list or len(data) != 1 or type(data[0]) is list:
            data = _flat(name, shape, data)
        if count != len(data):
            if count:
                message = f"input {name!r} has {len(data)} rows and the inputs before it {count}"
                raise Invalid(message, code="input.rows", field=name)
            count = len(data)
        columns[place] = check(data, field)
        seen += 1
    if seen < len(table):
        _fill(columns, count, target)
    return list(zip(*columns, strict=True))


def _tensor_error(tensor: Any, table: dict[str, Any]) -> Invalid:
    if type(tensor) is not dict:
        return Invalid("each input must be an object", code="inputs.form", field="inputs")
    name = tensor.get("name")
    if type(name) is not str:
        return Invalid("each input needs a name", code="input.name", field="inputs")
    short = name[:100]
    if name not in table:
        hint = "GET /v2/models/NAME lists the inputs"
        return Invalid(f"the model has no input {short!r}", code="input.unknown", field=short, hint=hint)
    parameters = tensor.get("parameters")
    if type(parameters) is dict and "binary_data_size" in parameters:
        message = f"input {short!r} is binary; this server reads JSON tensors"
        return Invalid(message, code="tensor.binary", field=short, hint="send data as JSON")
    missing = next((key for key in ("datatype", "shape", "data") if key not in tensor), "form")
    return Invalid(f"input {short!r} lacks {missing}", code="input.form", field=short)


def _flat(name: str, shape: Any, data: Any) -> list[Any]:
    sound = type(shape) is list and len(shape) in (1, 2) and all(type(size) is int for size in shape)
    if not sound or shape[0] < 1 or (len(shape) == 2 and shape[1] != 1):
        raise Invalid(f"input {name!r} must have shape [rows] or [rows, 1]", code="input.shape", field=name)
    if shape[0] > MAX_ROWS:
        raise Invalid(f"a request has at most {MAX_ROWS} rows", code="input.rows", field=name, hint="send several")
    if type(data) is not list:
        raise Invalid(f"the data of input {name!r} must be a list", code="input.data", field=name)
    if len(shape) == 2 and all(type(item) is list and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if len(data) != shape[0]:
        raise Invalid(
            f"input {name!r} has shape {shape} and {len(data)} values", code="input.shape", field=name
        )
    return list(data)


def _fill(columns: list[Any], count: int, target: Target) -> None:
    for place, field in enumerate(target.fields):
        if columns[place] is None:
            if field.name in target.required:
                raise Invalid(f"input {field.name!r} is missing", code="input.missing", field=field.name)
            columns[place] = [None] * count


def _wrong(field: Field, row: int, value: Any) -> Invalid:
    if value is None:
        said = "is null, and the model has never been shown a null there"
    elif type(value) is float or (type(value) is int and field.dtype == "float64"):
        said = "is no finite number" if field.dtype == "float64" else "is no whole number of 64 bits"
    else:
        said = f"is not of type {_DATATYPES[field.dtype][0]}"
    return Invalid(f"input {field.name!r}, row {row}: the value {said}", code="input.value", field=field.name)


def _floats(data: list[Any], field: Field) -> list[Any]:
    for row, value in enumerate(data):
        kind = type(value)
        if kind is float:
            if value - value == 0.0:
                continue
        elif kind is int:
            try:
                data[row] = float(value)
                continue
            except OverflowError:
                pass
        elif value is None and field.nullable:
            continue
        raise _wrong(field, row, value)
    return data


def _ints(data: list[Any], field: Field) -> list[Any]:
    for row, value in enumerate(data):
        if type(value) is int:
            if -(1 << 63) <= value < 1 << 63:
                continue
        elif value is None and field.nullable:
            continue
        raise _wrong(field, row, float(0) if type(value) is int else value)
    return data


def _bools(data: list[Any], field: Field) -> list[Any]:
    for row, value in enumerate(data):
        if type(value) is not bool and not (value is None and field.nullable):
            raise _wrong(field, row, value)
    return data


def _texts(data: list[Any], field: Field) -> list[Any]:
    for row, value in enumerate(data):
        if type(value) is not str and not (value is None and field.nullable):
            raise _wrong(field, row, value)
    return data


_CHECKS = {"float64": _floats, "int64": _ints, "bool": _bools, "string": _texts}
