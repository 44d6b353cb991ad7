"""Tensors of the Open Inference Protocol as rows of values: a tensor a column, or one matrix; JSON or binary.

Sources: inference_rest.md of kserve/open-inference-protocol, and Triton's extension_binary_data.md.
"""

import struct
from collections.abc import Sequence
from math import isfinite
from typing import Any

from loopwright.kernel.errors import Invalid
from loopwright.models.model import Field
from loopwright.serving.scoring import Target

MAX_ROWS = 10_000
MAX_VALUES = 1_000_000
_FLOATS = ("FP64", "FP32", "FP16")
_WHOLES = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
DATATYPES = {"float64": _FLOATS, "int64": _WHOLES, "bool": ("BOOL",), "string": ("BYTES",)}
_NUMBERS = frozenset((*_FLOATS, *_WHOLES, "BOOL"))
_CODES = {
    "FP64": "d", "FP32": "f", "FP16": "e", "INT64": "q", "INT32": "i", "INT16": "h", "INT8": "b",
    "UINT64": "Q", "UINT32": "I", "UINT16": "H", "UINT8": "B", "BOOL": "B",
}  # fmt: skip
_ONLY_FLOATS = {float}


class Malformed(Invalid):
    """The body is not what any request could be."""


def with_binary(inputs: Any, binary: bytes) -> Any:
    """The inputs of a request with the binary ones among them read from what follows the JSON.

    Raises:
        Malformed: the bytes are not those that the inputs announce.
    """
    if type(inputs) is not list:
        return inputs
    out, start = [], 0
    for tensor in inputs:
        parameters = tensor.get("parameters") if type(tensor) is dict else None
        size = parameters.get("binary_data_size") if type(parameters) is dict else None
        if size is None:
            out.append(tensor)
            continue
        name = str(tensor.get("name"))[:100]
        if type(size) is not int or not 0 <= size <= len(binary) - start or "data" in tensor:
            raise Malformed(f"input {name!r} announces bytes that are not there", code="tensor.binary", field=name)
        out.append({**tensor, "data": _unpack(name, tensor.get("datatype"), binary[start : start + size])})
        start += size
    if start != len(binary):
        raise Malformed("the body has more bytes than the inputs announce", code="tensor.binary", field="inputs")
    return out


def _unpack(name: str, datatype: Any, data: bytes) -> list[Any]:
    if datatype == "BYTES":
        return _unpack_texts(name, data)
    code = _CODES.get(datatype) if type(datatype) is str else None
    if code is None:
        raise Invalid(f"input {name!r} has no datatype that is known", code="input.datatype", field=name)
    count, rest = divmod(len(data), struct.calcsize(code))
    if rest or count > MAX_VALUES:
        raise Malformed(f"input {name!r} is no row of {datatype}", code="tensor.binary", field=name)
    values: list[Any] = list(struct.unpack(f"<{count}{code}", data))
    if datatype in _FLOATS:  # a binary tensor has no null; NaN stands for it, as in numpy
        return [None if value != value else value for value in values]
    if datatype == "BOOL":
        return [bool(value) if value < 2 else value for value in values]
    return values


def _unpack_texts(name: str, data: bytes) -> list[Any]:
    values: list[Any] = []
    start = 0
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "little")
        start += 4 + size
        if start > len(data) or len(values) >= MAX_VALUES:
            raise Malformed(f"input {name!r} is no row of BYTES", code="tensor.binary", field=name)
        try:
            values.append(data[start - size : start].decode())
        except UnicodeDecodeError:
            raise Malformed(f"input {name!r} is no UTF-8", code="tensor.binary", field=name) from None
    return values


def rows(inputs: Any, target: Target) -> Sequence[Sequence[Any]]:
    """The rows that the inputs of a request make, each in the order of the target's fields.

    Raises:
        Invalid: an input is not what the signature takes; names it.
    """
    if type(inputs) is not list or not inputs:
        raise Invalid("inputs must be a list of tensors, one a column", code="inputs.form", field="inputs")
    quick = target.cache.get("oip floats")
    if quick is None:
        plain = len(target.fields) > 1 and all(field.dtype == "float64" for field in target.fields)
        quick = target.cache["oip floats"] = len(target.fields) if plain else 0
    if quick and len(inputs) == 1:
        found = _floats_at_once(inputs[0], quick)
        if found is not None:
            return found
    table = target.cache.get("oip")
    if table is None:
        table = target.cache["oip"] = {
            field.name: (place, DATATYPES[field.dtype], _CHECKS[field.dtype], field)
            for place, field in enumerate(target.fields)
        }
    if len(inputs) == 1 and len(table) > 1 and _is_matrix(inputs[0], len(table)):
        return _matrix(inputs[0], target)
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


def _is_matrix(tensor: Any, width: int) -> bool:
    """Whether a lone tensor holds all columns: it can be nothing else, as a column has a second size of 1."""
    shape = tensor.get("shape") if type(tensor) is dict else None
    return type(shape) is list and len(shape) == 2 and shape[1] == width


def _matrix(tensor: dict[str, Any], target: Target) -> Sequence[Sequence[Any]]:
    """The rows of a matrix whose columns are the target's fields, in their order; its name says nothing."""
    fields, width = target.fields, len(target.fields)
    name = str(tensor.get("name"))[:100]
    if type(tensor.get("name")) is not str:
        raise Invalid("each input needs a name", code="input.name", field="inputs")
    texts = [field.name for field in fields if field.dtype == "string"]
    if texts:
        message, hint = f"input {texts[0]!r} is text and stands in no matrix", "send one tensor a column"
        raise Invalid(message, code="input.matrix", field=texts[0], hint=hint)
    datatype, data, count = tensor.get("datatype"), tensor.get("data"), tensor["shape"][0]
    if type(datatype) is not str or datatype not in _NUMBERS:
        raise Invalid(f"input {name!r} must be of numbers", code="input.datatype", field=name)
    if type(count) is not int or count < 1:
        raise Invalid(f"input {name!r} must have shape [rows, {width}]", code="input.shape", field=name)
    if count > MAX_ROWS:
        raise Invalid(f"a request has at most {MAX_ROWS} rows", code="input.rows", field=name, hint="send several")
    if type(data) is not list:
        raise Invalid(f"the data of input {name!r} must be a list", code="input.data", field=name)
    if len(data) == count and all(type(row) is list and len(row) == width for row in data):
        data = [value for row in data for value in row]
    if len(data) != count * width:
        message = f"input {name!r} has shape {[count, width]} and {len(data)} values"
        raise Invalid(message, code="input.shape", field=name)
    if datatype == "BOOL":
        data = [int(value) if type(value) is bool else value for value in data]
    columns = [_CHECKS[f.dtype](_cast(data[place::width], f), f) for place, f in enumerate(fields)]
    return list(zip(*columns, strict=True))


def _floats_at_once(tensor: Any, width: int) -> list[list[float]] | None:
    """The rows of a flat list of finite floats, which is what clients send; None when it must be looked at closely."""
    try:
        name, datatype, shape, data = tensor["name"], tensor["datatype"], tensor["shape"], tensor["data"]
        count, wide = shape
    except (KeyError, TypeError, ValueError):
        return None
    if type(data) is not list or datatype not in _FLOATS or type(name) is not str or type(shape) is not list:
        return None
    if wide != width or type(count) is not int or not 0 < count <= MAX_ROWS or len(data) != count * width:
        return None
    if set(map(type, data)) != _ONLY_FLOATS or not isfinite(sum(data)):
        return None
    return [data] if count == 1 else [data[start : start + width] for start in range(0, len(data), width)]


def _cast(column: list[Any], field: Field) -> list[Any]:
    """Whole numbers of a matrix as what their column is, since a matrix has one type for all columns."""
    if field.dtype == "int64":
        return [int(v) if type(v) is float and v.is_integer() and abs(v) < 2**63 else v for v in column]
    if field.dtype == "bool":
        return [bool(value) if type(value) in (int, float) and value in (0, 1) else value for value in column]
    return column


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
        message = f"input {short!r} is binary, and the request has no header Inference-Header-Content-Length"
        return Invalid(message, code="tensor.binary", field=short)
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
        raise Invalid(f"input {name!r} has shape {shape} and {len(data)} values", code="input.shape", field=name)
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
        said = f"is not of type {DATATYPES[field.dtype][0]}"
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
