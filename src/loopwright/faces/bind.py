"""Turns values from outside into the typed keyword arguments of an Op's function.

Knows neither a wire nor a terminal: both faces hand it plain mappings and get back what the
function declares, or an Invalid that names the field.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.op import Op

PROGRESS = "progress"
_WIDEST_INT = 2**63  # no database holds a wider one
_ARG = re.compile(r"    (?P<name>\w+): (?P<text>.*)")
_PATH_FIELD = re.compile(r"{(\w+)(?::\w+)?}")
_AT = re.compile(r"^(?P<text>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)


class Param(msgspec.Struct, frozen=True):
    """One parameter that a caller may name."""

    name: str
    type: Any
    required: bool
    default: Any = None
    help: str = ""

    @property
    def is_bytes(self) -> bool:
        """Whether the parameter takes the request's raw body."""
        return self.type is bytes

    @property
    def is_file_text(self) -> bool:
        """Whether the parameter is a text that a command reads from a file."""
        kinds = (self.type, *typing.get_args(self.type))
        return any(getattr(meta, "extra", None) == {"file": True} for k in kinds for meta in _metadata(k))

    @property
    def option(self) -> str:
        """The parameter as it is written on a command line."""
        return "--" + self.name.strip("_").replace("_", "-")


def _metadata(kind: Any) -> tuple[Any, ...]:
    found: tuple[Any, ...] = getattr(kind, "__metadata__", ())
    return found


@lru_cache(maxsize=1024)
def params(op: Op) -> tuple[Param, ...]:
    """The parameters of an op after `space` and `actor`, in the order of its signature."""
    wanted = list(inspect.signature(op.fn).parameters.values())[2:]
    notes = {p.name: p.annotation for p in wanted if p.name != PROGRESS}
    hints = typing.get_type_hints(
        types.SimpleNamespace(__annotations__=notes), globalns=op.fn.__globals__, include_extras=True
    )
    helps = arg_helps(op.fn.__doc__ or "")
    return tuple(_param(p, hints[p.name], helps.get(p.name, "")) for p in wanted if p.name != PROGRESS)


def _param(parameter: inspect.Parameter, hint: Any, text: str) -> Param:
    required = parameter.default is inspect.Parameter.empty
    return Param(parameter.name, hint, required, None if required else parameter.default, text)


def arg_helps(docstring: str) -> dict[str, str]:
    """What the `Args:` section of a docstring says of each parameter."""
    out: dict[str, str] = {}
    lines = inspect.cleandoc(docstring).split("\n")
    name = ""
    for line in lines[lines.index("Args:") + 1 :] if "Args:" in lines else []:
        if not line.startswith("    "):
            break
        found = _ARG.fullmatch(line)
        if found:
            name = found["name"]
            out[name] = found["text"]
        elif name:
            out[name] += " " + line.strip()
    return out


def result_type(op: Op) -> Any:
    """The type that the op's function returns."""
    return typing.get_type_hints(op.fn, include_extras=True)["return"]


def takes_progress(op: Op) -> bool:
    """Whether the op's function reports its progress."""
    return PROGRESS in inspect.signature(op.fn).parameters


def help_text(op: Op) -> str:
    """The first line of the function's docstring."""
    return (op.fn.__doc__ or "").strip().split("\n", 1)[0]


def verb(op: Op) -> str:
    """The HTTP verb of the row; empty when no wire offers it."""
    return op.http.partition(" ")[0]


def path(op: Op) -> str:
    """The HTTP path of the row; empty when no wire offers it."""
    return op.http.partition(" ")[2]


def path_fields(op: Op) -> tuple[str, ...]:
    """The parameters that stand in the op's path."""
    return tuple(_PATH_FIELD.findall(path(op)))


def fill_path(op: Op, values: Mapping[str, str]) -> str:
    """The op's path with its fields filled in."""
    return _PATH_FIELD.sub(lambda m: values[m[1]], path(op))


def body_param(op: Op) -> Param | None:
    """The parameter that takes the raw body, if the op has one."""
    return next((p for p in params(op) if p.is_bytes), None)


def bind(op: Op, raw: Mapping[str, Any], *, lax: Collection[str] | None = None) -> dict[str, Any]:
    """Convert `raw` to the op's keyword arguments; names in `lax` (None: all) hold text to be read as their type.

    Raises:
        Invalid: a field is unknown, missing or of another type; the error names it.
    """
    wanted = params(op)
    names = [p.name for p in wanted]
    for name in raw:
        if name not in names:
            takes = ", ".join(names) or "nothing"
            raise Invalid(f"{op.name} takes no field {name!r}", code="request.unknown-field", field=str(name),
                          hint=f"it takes: {takes}")  # fmt: skip
    out: dict[str, Any] = {}
    for param in wanted:
        if param.name in raw:
            out[param.name] = convert(param, raw[param.name], strict=lax is not None and param.name not in lax)
        elif param.required:
            raise Invalid(f"{op.name} needs the field {param.name!r}", code="request.missing-field", field=param.name)
    return out


def convert(param: Param, value: Any, *, strict: bool) -> Any:
    """One value as the parameter's type.

    Raises:
        Invalid: the value is of another type; `field` is the path to the part that is wrong.
    """
    if isinstance(value, str | Path) and takes_text(param.type):
        return str(value)
    if param.is_bytes and isinstance(value, bytes):
        return value
    try:
        found = msgspec.convert(value, param.type, strict=strict, dec_hook=_decode)
        if isinstance(found, int) and not -_WIDEST_INT <= found < _WIDEST_INT:
            raise msgspec.ValidationError("Expected a whole number of 64 bits")
        return found
    except (msgspec.ValidationError, OverflowError) as error:
        found = _AT.match(str(error))
        text, where = (found["text"], found["path"] or "") if found else (str(error), "")
        raise Invalid(f"{param.name}{where}: {text}", code="request.wrong-type", field=param.name + where) from None


def bare(kind: Any) -> Any:
    """The type without `| None` and without annotations."""
    if hasattr(kind, "__metadata__"):
        kind = kind.__origin__
    some = [part for part in typing.get_args(kind) if part is not type(None)]
    return bare(some[0]) if type(None) in typing.get_args(kind) and len(some) == 1 else kind


def origin(kind: Any) -> Any:
    """`list` of `list[str] | None`, and so on; None of a plain type."""
    return typing.get_origin(bare(kind))


def takes_text(kind: Any) -> bool:
    """Whether a text is already a value of the type, so that it must not be read as a number or null."""
    return bare(kind) is str


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise msgspec.ValidationError(f"Expected `{getattr(kind, '__name__', kind)}`, got `{type(value).__name__}`")


def plain(value: Any) -> Any:
    """Make JSON of what msgspec does not know: paths, numpy scalars, sets. (An `enc_hook`.)"""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def to_json(value: Any) -> bytes:
    """The value as one JSON document."""
    return msgspec.json.encode(value, enc_hook=plain)
