"""lw.endpoint: what is served, by which model line, from which features, under which gate and policy."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.kernel.times import zone

if TYPE_CHECKING:
    from loopwright.data.declare import Data, Features
    from loopwright.pipelines.step import Step
    from loopwright.releases.model import GateSpec


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of an endpoint."""

    name: str
    model: Any
    features: Any
    labels: Any
    target: str
    gate: Any
    policy: Any
    timezone: str = "UTC"
    keep: tuple[int, ...] = ()
    task: Literal["binary", "regression"] = "binary"
    log: Literal["kept", "required"] = "kept"
    approve: Literal["", "approver", "operator", "steward"] = ""


APPROVERS = frozenset({"", "approver", "operator", "steward"})
ENDPOINTS: dict[str, Endpoint] = {}


def endpoint(
    name: str,
    *,
    model: "Step[..., Any]",
    features: "Features",
    labels: "Data",
    target: str,
    gate: "GateSpec | None" = None,
    **options: Any,
) -> Endpoint:
    """Declare an endpoint; it takes effect when the project is run.

    Args:
        name: of the endpoint and of the line of models that it serves.
        model: the step that makes the model.
        features: what a request carries.
        labels: the data that says what came true, with when it became known.
        target: the column of `labels` that the model predicts.
        gate: what must hold before a version is served; the default gate when absent.
        options: `policy`, when to retrain and promote (`lw.warm()` when absent); `timezone` (IANA, default UTC) of
            the daily blocks; `keep`, versions such as `delay@1` that stay in shadow for ever; `task`, `binary` or
            `regression`; `log="required"` to refuse answers that cannot be logged; `approve="approver"` to let a
            version answer only when somebody of that role who did not make it has approved it.

    Raises:
        Invalid: a name, option or column is not what it must be.
    """
    from loopwright.releases.declare import default_gate, warm

    unknown = set(options) - {"policy", "timezone", "keep", "task", "log", "approve"}
    if unknown:
        raise Invalid(f"lw.endpoint has no option {sorted(unknown)[0]!r}", code="endpoint.option", field=min(unknown))
    zone(options.get("timezone", "UTC"))
    if options.get("approve", "") not in APPROVERS:
        named = ", ".join(sorted(APPROVERS - {""}))
        raise Invalid(f"approve names one of the roles {named}", code="endpoint.approve", field="approve")
    _sliced(gate, features)
    made = Endpoint(
        name=valid_name(name),
        model=model,
        features=features,
        labels=labels,
        target=target,
        gate=gate if gate is not None else default_gate(),
        **{"policy": warm(), **options, "keep": _numbers(name, options.get("keep", ()))},
    )
    ENDPOINTS[name] = made
    return made


def _sliced(gate: "GateSpec | None", features: "Features") -> None:
    from loopwright.releases.model import Slices

    named = [name for check in (gate.checks if gate else ()) if isinstance(check, Slices) for name in check.by]
    for name in sorted(set(named) - set(features.outputs if named else ())):
        there = ", ".join(features.outputs)
        said = f"lw.slices: the features {features.name!r} have no column {name!r}; there are {there}"
        raise Invalid(said, code="gate.slices", field="by", hint="name one of them in lw.slices(by=[...]), then lw run")


def _numbers(name: str, keep: Sequence[str]) -> tuple[int, ...]:
    numbers = []
    for ref in keep:
        line, _, number = str(ref).partition("@")
        if line != name or not number.isdigit():
            raise Invalid(f"keep names versions such as {name}@1, not {ref!r}", code="endpoint.keep", field="keep")
        numbers.append(int(number))
    return tuple(numbers)
