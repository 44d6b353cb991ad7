"""`@lw.step`: a typed function whose result is kept and found again; called directly it is the plain function.

A parameter whose default is another step is wired to it. Knows no Space.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.pipelines.sources import SOURCES

P = ParamSpec("P")
R = TypeVar("R")
_VARIADIC = 0x04 | 0x08  # CO_VARARGS, CO_VARKEYWORDS


class _Absent:
    """The default of a parameter that has none."""

    def __repr__(self) -> str:
        return "(none)"


ABSENT = _Absent()


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of a step: its name, its annotation and its default."""

    name: str
    kind: Any
    default: Any

    @property
    def wired(self) -> bool:
        """Whether the parameter takes the result of another step."""
        return isinstance(self.default, Step)


class Step(Generic[P, R]):
    """A step of a pipeline, made by `lw.step`."""

    def __init__(self, fn: Callable[P, R], name: str | None) -> None:
        self.fn = fn
        plain = _plain(fn)
        if plain is None or plain.__code__.co_flags & _VARIADIC:
            raise Invalid(
                f"a step is a function with named parameters, not {fn!r}",
                code="step.form",
                field="step",
                hint="give each parameter a name; *args and **kwargs have none",
            )
        self.name = valid_name(name or plain.__name__.strip("_").lower(), "step")
        self._plain = plain
        functools.update_wrapper(self, fn)
        SOURCES.remember(plain.__code__.co_filename, plain.__globals__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the plain function; a wired parameter that is not given is computed by calling its step."""
        given: dict[str, Any] = dict(kwargs)
        names = list(self.parameters)
        for name in names[len(args) :]:
            default = self.parameters[name].default
            if name not in given and isinstance(default, Step):
                given[name] = default()
        return cast(Callable[..., R], self.fn)(*args, **given)

    def __repr__(self) -> str:
        return f"<step {self.signature}>"

    @property
    def signature(self) -> str:
        """The step as a person would write it: name, parameters and defaults."""
        shown = []
        for parameter in self.parameters.values():
            text = parameter.name
            if isinstance(parameter.kind, type):
                text += f": {parameter.kind.__name__}"
            if parameter.default is not ABSENT:
                text += f"={parameter.default.name if parameter.wired else repr(parameter.default)}"
            shown.append(text)
        return f"{self.name}({', '.join(shown)})"

    @functools.cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters in their order."""
        code, fn = self._plain.__code__, self._plain
        count = code.co_argcount
        positional, named = code.co_varnames[:count], code.co_varnames[count : count + code.co_kwonlyargcount]
        defaults: dict[str, Any] = dict(zip(reversed(positional), reversed(fn.__defaults__ or ()), strict=False))
        defaults.update(fn.__kwdefaults__ or {})
        kinds = _kinds(fn)
        return {
            name: Parameter(name=name, kind=kinds.get(name, ABSENT), default=defaults.get(name, ABSENT))
            for name in (*positional, *named)
        }

    @property
    def positional(self) -> tuple[str, ...]:
        """The parameters that can be given by position."""
        code: CodeType = self._plain.__code__
        return code.co_varnames[: code.co_argcount]

    @property
    def inputs(self) -> "dict[str, Step[..., Any]]":
        """The steps that feed this one, by parameter."""
        return {p.name: p.default for p in self.parameters.values() if p.wired}


@overload
def step(fn: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(*, name: str | None = None) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(fn: Callable[P, R] | None = None, /, *, name: str | None = None) -> Any:
    """Make a function a step: run by `lw.run`, its result is kept and found again while nothing that it needs changes.

    Args:
        name: what runs of it are called; the function's own name when absent.

    Raises:
        Invalid: the function takes *args or **kwargs.
    """
    if fn is None:
        return functools.partial(_make, name=name)
    return _make(fn, name=name)


def _make(fn: Callable[P, R], *, name: str | None) -> Step[P, R]:
    return Step(fn, name)


def chain(step: Step[..., Any], replaced: Mapping[str, Any] | None = None) -> list[Step[..., Any]]:
    """The steps that lead to a step and the step itself, each once, in the order in which they run.

    Args:
        replaced: what is given for wired parameters of the step itself, instead of the steps that they are wired to.

    Raises:
        Invalid: two steps of the chain have one name.
    """
    found: list[Step[..., Any]] = []
    for name, upstream in step.inputs.items():
        given = (replaced or {}).get(name, upstream)
        if isinstance(given, Step):
            _walk(given, found)
    found.append(step)
    names = [s.name for s in found]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(
                f"two steps are called {name!r}", code="step.name", field="step", hint='@lw.step(name="another")'
            )
    return found


def _walk(step: Step[..., Any], found: list[Step[..., Any]]) -> None:
    if step in found:
        return
    for upstream in step.inputs.values():
        _walk(upstream, found)
    found.append(step)


def read_params(step: Step[..., Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name (`seed`, or `table.until`), their texts read by the annotations of the steps that take them.

    Raises:
        Invalid: a name is no parameter's, or its text is not of the parameter's type.
    """
    steps = chain(step)
    return {
        name: _read(takers(steps, name)[0][1], value) if isinstance(value, str) else value
        for name, value in params.items()
    }


def takers(steps: Sequence[Step[..., Any]], name: str) -> list[tuple[Step[..., Any], Parameter]]:
    """The steps of a chain that take a parameter, and the parameter: `seed`, or `table.seed` for one step's alone.

    Raises:
        Invalid: none takes it.
    """
    owner, _, own = name.rpartition(".")
    found = [
        (s, s.parameters[own])
        for s in reversed(steps)
        if own in s.parameters and owner in ("", s.name) and (s is steps[-1] or own not in s.inputs)
    ]
    if not found:
        known = sorted({p for s in steps for p in s.parameters if p not in s.inputs})
        near = _nearest(own, known)
        raise Invalid(
            f"no parameter {name!r} in {' -> '.join(s.signature for s in steps)}",
            code="param.unknown",
            field=name,
            hint=f"-p {near}=..." if near else None,
        )
    return found


def fit(step: Step[..., Any], parameter: Parameter, value: Any) -> Any:
    """A value for a parameter, of the annotated type (an int will do for a float).

    Raises:
        Invalid: it is of another type.
    """
    kind = _comparable(parameter)
    if kind is None:
        return value
    if kind is float and type(value) is int:
        return float(value)
    plain = kind in (int, float, str, bool)
    if plain and type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    if plain and type(value) is not kind:
        raise _mistyped(step, parameter, value)
    return value


def _read(parameter: Parameter, text: str) -> Any:
    kind = _comparable(parameter)
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in (int, float):
            return cast(Callable[[str], Any], kind)(text)
        if kind is None:
            return _loose(text)
        return _converted(text, kind)
    except (ValueError, KeyError, msgspec.MsgspecError):
        raise _mistyped(None, parameter, text) from None


def _loose(text: str) -> Any:
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError:
        return text


def _converted(text: str, kind: Any) -> Any:
    """JSON of the annotated type, or the text itself where that will do (`str | None`, a Literal)."""
    try:
        return msgspec.json.decode(text.encode(), type=kind)
    except msgspec.MsgspecError:
        return msgspec.convert(text, kind, strict=False)


def _comparable(parameter: Parameter) -> Any:
    """The type that a value must have: the annotation, else that of a plain default, else unknown (None)."""
    if parameter.kind is not ABSENT and parameter.kind is not Any:
        return parameter.kind
    kind = type(parameter.default)
    return kind if kind in (int, float, str, bool) else None


def _mistyped(step: Step[..., Any] | None, parameter: Parameter, value: Any) -> Invalid:
    kind = _comparable(parameter)
    wanted = kind.__name__ if isinstance(kind, type) else str(kind)
    where = f" of step {step.name}" if step is not None else ""
    return Invalid(
        f"parameter {parameter.name!r}{where} must be of type {wanted}, not {value!r}",
        code="param.type",
        field=parameter.name,
        hint=f"-p {parameter.name}=VALUE with a value of type {wanted}",
    )


def _nearest(name: str, known: Sequence[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, 1, 0.5)), next(iter(known), None))


def _plain(fn: Any) -> Any:
    """The function that a person wrote, under the decorators that name it."""
    for _ in range(20):
        inner = getattr(fn, "__wrapped__", None)
        if inner is None:
            break
        fn = inner
    return fn if hasattr(fn, "__code__") else None


def _kinds(fn: Any) -> Mapping[str, Any]:
    annotations = fn.__annotations__
    if not any(isinstance(kind, str) for kind in annotations.values()):
        return cast(Mapping[str, Any], annotations)
    kinds: dict[str, Any] = {}
    for name, kind in annotations.items():
        try:
            kinds[name] = eval(kind, fn.__globals__) if isinstance(kind, str) else kind
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue  # an annotation that only a type checker can read says nothing here
    return kinds
