"""What a value is, for a fingerprint: plain values by themselves, others by what they are made of.

A value that cannot be described counts by its type alone and is counted as opaque.
"""

from functools import partial
from pathlib import Path, PurePath
from types import FunctionType, MethodType, ModuleType
from typing import Any, Protocol

from loopwright.kernel import canonical
from loopwright.pipelines.step import Step

# Types whose repr says all about a value of theirs.
_TOLD_BY_REPR = {
    ("builtins", "complex"),
    ("builtins", "range"),
    ("builtins", "slice"),
    ("builtins", "ellipsis"),
    ("datetime", "date"),
    ("datetime", "time"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("operator", "itemgetter"),
    ("operator", "attrgetter"),
    ("uuid", "UUID"),
    ("zoneinfo", "ZoneInfo"),
}
_MAX_DEPTH = 30
# Standard modules whose objects are what they hold.
_COLLECTIONS = ("collections", "re", "types")


class Walk(Protocol):
    """What describing a value needs of the walk that it is a part of."""

    root: str
    opaque: int

    def function(self, fn: Any, *, root: bool = False) -> Any:
        """What a function is."""

    def kind(self, cls: type) -> Any:
        """What a class is."""

    def module(self, name: str, rest: tuple[str, ...]) -> Any:
        """What a module is, or what is taken of it."""

    def declare(self, value: Any) -> Any:
        """The fingerprint of a declared object."""


def is_declared(value: Any) -> bool:
    """Whether a value is a declaration of loopwright that has a fingerprint of its own."""
    kind = type(value)
    return kind.__module__.partition(".")[0] == "loopwright" and callable(getattr(kind, "fingerprint", None))


def as_path(text: str) -> Path:
    """A path of a text."""
    return Path(text)


def describe(walk: Walk, value: Any, within: tuple[int, ...] = ()) -> Any:
    """Canonical content that is equal for equal values, within a walk."""
    if value is None or (isinstance(value, bool | int | float | bytes) and type(value).__module__ == "builtins"):
        return ["value", value]
    if type(value) is str:
        return ["value", _without_root(walk, value)]
    if id(value) in within or len(within) > _MAX_DEPTH:
        return ["again"]
    named = _named(walk, value)
    if named is not None:
        return named
    inside = (*within, id(value))
    made = _container(walk, value, inside)
    return made if made is not None else _object(walk, value, inside)


def _without_root(walk: Walk, text: str) -> str:
    """Text that names the project's own folder means the same wherever the folder lies."""
    return text.replace(walk.root, "<project>") if len(walk.root) > 1 else text


def _named(walk: Walk, value: Any) -> Any:
    """What is known by a name or by a definition."""
    if is_declared(value):
        return ["declared", walk.declare(value)]
    if isinstance(value, Step):
        return ["step", walk.function(value.fn)]
    if isinstance(value, FunctionType):
        return ["function", walk.function(value)]
    if isinstance(value, type):
        return ["class", walk.kind(value)]
    if isinstance(value, ModuleType):
        return ["module", walk.module(value.__name__, ())]
    return None


def _container(walk: Walk, value: Any, within: tuple[int, ...]) -> Any:
    kind = type(value)
    if kind in (list, tuple):
        return [kind.__name__, [describe(walk, item, within) for item in value]]
    if kind is dict:
        return ["dict", [[describe(walk, k, within), describe(walk, v, within)] for k, v in value.items()]]
    if kind is bytearray:
        return ["bytearray", bytes(value)]
    if kind in (set, frozenset):
        items = [describe(walk, item, within) for item in value]
        return [kind.__name__, sorted(items, key=canonical.digest)]
    if kind is partial:
        parts = (value.func, value.args, value.keywords)
        return ["partial", [describe(walk, part, within) for part in parts]]
    if isinstance(value, MethodType):
        return ["method", describe(walk, value.__self__, within), describe(walk, value.__func__, within)]
    if isinstance(value, PurePath):
        return ["path", _without_root(walk, str(value))]
    if (kind.__module__, kind.__qualname__) in _TOLD_BY_REPR:
        return ["told", f"{kind.__module__}.{kind.__qualname__}", repr(value)]
    return None


def _object(walk: Walk, value: Any, within: tuple[int, ...]) -> Any:
    kind = type(value)
    origin = kind.__module__.partition(".")[0]
    data = _numbers(walk, value, within) if origin in ("numpy", "pandas") else None
    if data is not None:
        return data
    about = walk.kind(kind)
    if hasattr(kind, "__members__"):
        return ["member", about, str(value.name)]
    held = _held(value)
    if isinstance(about, str) and about.startswith("=") and origin != "loopwright":
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(wrapped, FunctionType):
            return ["wrapped", about, describe(walk, wrapped, within)]
        if held and kind.__module__ in _COLLECTIONS:
            return ["collection", about, describe(walk, held, within)]
        walk.opaque += 1
        return ["object", about]
    state = [[name, describe(walk, item, within)] for name, item in _state(value)]
    return ["instance", about, state, describe(walk, held, within)] if held else ["instance", about, state]


def _held(value: Any) -> list[Any]:
    """What a collection, a pattern or an object of a class that extends a plain type holds."""
    kind = type(value)
    if isinstance(value, dict):
        return [dict(value), getattr(value, "default_factory", None)]
    if isinstance(value, set | frozenset):
        return [set(value)]
    if isinstance(value, bytes):
        return [bytes(value)]
    if isinstance(value, str | int | float):
        return [str.__str__(value) if isinstance(value, str) else repr(value + 0)]
    if isinstance(value, list | tuple) or (kind.__module__, kind.__name__) == ("collections", "deque"):
        return [list(value), getattr(value, "maxlen", None)]
    if (kind.__module__, kind.__name__) == ("re", "Pattern"):
        return [value.pattern, value.flags]
    return [dict(vars(value))] if (kind.__module__, kind.__name__) == ("types", "SimpleNamespace") else []


def _state(value: Any) -> list[tuple[str, Any]]:
    fields = {name: getattr(value, name) for name in getattr(type(value), "__struct_fields__", ())}
    fields.update(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                fields[name] = getattr(value, name)
    return sorted(fields.items())


def _numbers(walk: Walk, value: Any, within: tuple[int, ...]) -> Any:
    """Arrays and frames by their bytes; their library is loaded, or there would be none."""
    dtype = getattr(value, "dtype", None)
    if type(value).__module__ == "numpy" and hasattr(value, "tobytes") and dtype is not None:
        if dtype.hasobject:
            return ["array", list(value.shape), describe(walk, value.tolist(), within)]
        return ["array", list(value.shape), str(dtype.descr), canonical.digest_bytes(value.tobytes())]
    if type(value).__name__ not in ("DataFrame", "Series", "Index", "MultiIndex", "RangeIndex", "DatetimeIndex"):
        return None
    from pandas.util import hash_pandas_object

    try:
        rows = hash_pandas_object(value).to_numpy().tobytes()
    except TypeError:
        return None
    frame = type(value).__name__ == "DataFrame"
    names = [repr(name) for name in value.columns] if frame else [repr(value.name)]
    types = [str(kind) for kind in value.dtypes] if frame else [str(value.dtype)]
    return ["frame", type(value).__name__, names, types, canonical.digest_bytes(rows)]
