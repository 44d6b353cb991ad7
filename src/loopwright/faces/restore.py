"""JSON answers as the typed values that the function returned on the other side.

JSON knows no number that is not finite: it was written as null, and is NaN again where the type wants a number.
"""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from loopwright.kernel.errors import Unavailable


def typed(answered: bytes, kind: Any) -> Any:
    """The value of a type from its JSON.

    Raises:
        Unavailable: the answer is not of that type: the server is of another version.
    """
    options = _alternatives(kind)
    try:
        return _decoded(answered, options)
    except msgspec.ValidationError:
        value = msgspec.json.decode(answered)
    except msgspec.DecodeError:
        raise _strange("no JSON") from None
    for option in options:
        try:
            return msgspec.convert(_filled(value, inspect.type_info(option)), option, dec_hook=_hook, strict=False)
        except msgspec.ValidationError as error:
            problem = error
    raise _strange(str(problem))


def _decoded(answered: bytes, options: list[Any]) -> Any:
    for number, option in enumerate(options, 1):
        try:
            return msgspec.json.decode(answered, type=option, dec_hook=_hook)
        except msgspec.ValidationError:
            if number == len(options):
                raise
    return None


def _strange(why: str) -> Unavailable:
    return Unavailable(
        f"the server answered in another form ({why})", code="answer.form", hint="use the same version on both sides"
    )


def _alternatives(kind: Any) -> list[Any]:
    """The types of a union of lists, which msgspec reads one at a time; else the type alone."""
    parts = typing.get_args(kind)
    union = bool(parts) and all(typing.get_origin(part) is list for part in parts)
    return list(parts) if union else [kind]


def _hook(kind: type, value: Any) -> Any:
    return Path(value) if kind is Path and isinstance(value, str) else value


def _filled(value: Any, info: Any) -> Any:
    """The value with NaN for null where only a number is allowed."""
    match info:
        case inspect.Metadata():
            return _filled(value, info.type)
        case inspect.FloatType() if value is None:
            return math.nan
        case inspect.ListType() if isinstance(value, list):
            return [_filled(item, info.item_type) for item in value]
        case inspect.VarTupleType() if isinstance(value, list):
            return [_filled(item, info.item_type) for item in value]
        case inspect.TupleType() if isinstance(value, list):
            return [_filled(item, kind) for item, kind in zip(value, info.item_types, strict=False)]
        case inspect.DictType() if isinstance(value, dict):
            return {key: _filled(item, info.value_type) for key, item in value.items()}
        case inspect.StructType() if isinstance(value, dict):
            kinds = {field.encode_name: field.type for field in info.fields}
            return {key: _filled(item, kinds[key]) if key in kinds else item for key, item in value.items()}
        case inspect.UnionType() if value is not None:
            shapes = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
            return _filled(value, shapes[0]) if len(shapes) == 1 else value
        case _:
            return value


def renamed(value: Any, name: str, place: str) -> Any:
    """The value with a place wherever it says the name of the file."""
    if isinstance(value, list):
        return [renamed(item, name, place) for item in value]
    if isinstance(value, dict):
        return {key: renamed(item, name, place) for key, item in value.items()}
    return place if value == name else value
