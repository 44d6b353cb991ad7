"""The key of a step's run: its code, parameters, inputs and environment. Equal keys mean an equal result.

`until = "now"` becomes a moment before the key is made.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from loopwright.kernel import canonical
from loopwright.kernel.errors import Invalid, Unsupported
from loopwright.kernel.times import HOUR, format_time, parse_time
from loopwright.pipelines import environment
from loopwright.pipelines.fingerprint import Fingerprint, Tracer, finished
from loopwright.pipelines.step import ABSENT, Parameter, Step, chain, fit, takers
from loopwright.store.space import Space

UNTIL, NOW = "until", "now"
_TYPE = "loopwright-step-1"


class Plan:
    """The steps that lead to one step, and the value of every parameter of theirs that is given.

    Raises:
        Invalid: a parameter is unknown, mistyped, or missing.
    """

    def __init__(self, space: Space, target: Step[..., Any], params: Mapping[str, Any]) -> None:
        self.space = space
        self.target = target
        self.replaced = {name: value for name, value in params.items() if name in target.inputs}
        self.steps = chain(target, self.replaced)
        self.now_us = _now_us(space)
        self._given: dict[tuple[str, str], Any] = {}
        for name, value in params.items():
            for step, parameter in takers(self.steps, name):
                self._given[step.name, parameter.name] = value if name in self.replaced else fit(step, parameter, value)
        for step in self.steps:
            for name, parameter in step.parameters.items():
                self._check(step, name, parameter)
        self.until_us = self._until()

    def _check(self, step: Step[..., Any], name: str, parameter: Parameter) -> None:
        if (step.name, name) not in self._given and parameter.default is ABSENT:
            raise Invalid(
                f"step {step.signature} needs the parameter {name!r}",
                code="param.missing",
                field=name,
                hint=f"-p {name}=VALUE",
            )

    def _until(self) -> int:
        for step in (self.target, *self.steps):
            if UNTIL in step.parameters and isinstance(until := self.arguments(step)[UNTIL], str):
                return parse_time(until, UNTIL)
        return self.now_us

    def inputs(self, step: Step[..., Any]) -> dict[str, Step[..., Any]]:
        """The steps that feed a step here, by parameter."""
        if step is not self.target:
            return step.inputs
        kept = {name: s for name, s in step.inputs.items() if name not in self.replaced}
        return {**kept, **{name: s for name, s in self.replaced.items() if isinstance(s, Step)}}

    def arguments(self, step: Step[..., Any]) -> dict[str, Any]:
        """The values of a step's parameters, those that other steps feed left out."""
        fed = self.inputs(step)
        found = {}
        for name, parameter in step.parameters.items():
            if name not in fed:
                value = self._given.get((step.name, name), parameter.default)
                found[name] = self._moment(value) if name == UNTIL else value
        return found

    def _moment(self, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return format_time(self.now_us if value == NOW else parse_time(value, UNTIL))


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """What a step's result depends on, but for what feeds it: code, parameters, environment."""

    code: Fingerprint
    params: dict[str, Any]
    environment: dict[str, str]

    def key(self, inputs: Mapping[str, str]) -> str:
        """The key, given the digests of what feeds the step."""
        parts = [_TYPE, self.code.digest, self.code.declared, self.params, dict(inputs), self.environment]
        return canonical.digest(parts)


def traced(plan: Plan, step: Step[..., Any]) -> Traced:
    """What a step of a plan depends on as things stand.

    Raises:
        Unsupported: a parameter's value cannot be told apart from others.
    """
    arguments = plan.arguments(step)
    own = arguments.get(UNTIL)
    until_us = parse_time(own, UNTIL) if isinstance(own, str) else plan.until_us
    tracer = Tracer(step.fn, lambda declared: declared.fingerprint(plan.space, until_us))
    tracer.function(step.fn, root=True)
    params = {}
    for name, value in arguments.items():
        opaque = tracer.opaque
        params[name] = _content(tracer, value)
        if tracer.opaque > opaque:
            raise Unsupported(
                f"parameter {name!r} of step {step.name} has a value of type {type(value).__name__}",
                code="param.value",
                field=name,
                hint="give JSON values, numpy arrays, pandas frames, Paths, declarations, functions or steps",
            )
    code = finished(tracer)
    # tables are made by DuckDB, whatever the project imports itself
    modules = (*code.imports, "duckdb") if code.declared else code.imports
    return Traced(code=code, params=params, environment=environment.environment(modules))


def _content(tracer: Tracer, value: Any) -> Any:
    from pathlib import Path

    if isinstance(value, Path) and value.exists():
        return ["file", value.name, _bytes_of(value)]
    return tracer.value(value)


def _bytes_of(path: Any) -> Any:
    if path.is_file():
        return canonical.digest_file(path)
    files = (p for p in sorted(path.rglob("*")) if p.is_file())
    return [[p.relative_to(path).as_posix(), canonical.digest_file(p)] for p in files]


def _now_us(space: Space) -> int:
    """Now, for `until`: a replay's clock as it stands, the wall's last full hour, so that an hour has one key."""
    now = space.clock.now_us()
    return now if space.clock.mode == "replay" else now - now % HOUR
