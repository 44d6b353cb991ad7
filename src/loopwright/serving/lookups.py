"""Look-ups of one endpoint in a worker: the base columns that a caller may send, and the rows made of them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from loopwright.data import online
from loopwright.kernel.errors import Invalid, LoopwrightError, Unavailable
from loopwright.models.model import Dtype, Field
from loopwright.serving.moments import moment
from loopwright.serving.record import Columns
from loopwright.serving.scoring import Target

_DTYPES: dict[str, Dtype] = {"int": "int64", "float": "float64", "bool": "bool", "text": "string", "time": "string"}
_ODD = (OSError, ValueError, msgspec.MsgspecError)


class Looker(msgspec.Struct, kw_only=True):
    """How an endpoint's features are looked up.

    Args:
        asks: the base columns as a target, so that they are read from the wire as features are.
        order: for each field of the endpoint's target, its place among the features, and whether null may stand there.
        columns: of the log's rows of look-ups: the fields, then the base columns.
    """

    lookup: online.Lookup
    asks: Target
    times: list[int]
    order: list[tuple[int, Field]]
    columns: Columns

    def is_meant(self, inputs: Any, target: Target) -> bool:
        """Whether a request's inputs are base columns rather than a full row of features."""
        if type(inputs) is not list or not inputs:
            return False
        names = {tensor.get("name") for tensor in inputs if type(tensor) is dict and type(tensor.get("name")) is str}
        mine = self.asks.required
        if names - mine:
            return False
        return not target.required <= names

    def base(self, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """Rows of base columns as they came, with their times as microseconds.

        Raises:
            Invalid: a time is none.
        """
        out = [list(row) for row in rows]
        for place in self.times:
            name = self.lookup.plan.base[place][0]
            for row in out:
                if row[place] is not None:
                    row[place] = moment(row[place], name)
        return out

    def refresh(self) -> None:
        """Take the newest snapshot.

        Raises:
            Unavailable: it cannot be read.
        """
        try:
            self.lookup.refresh()
        except _ODD as error:
            message = f"the snapshot cannot be read: {error}"
            raise Unavailable(message, code="lookup.snapshot", hint="lw status") from None

    def rows(self, base: Sequence[Sequence[Any]], at_us: int) -> list[list[Any]]:
        """The rows of features, in the order of the target's fields.

        Raises:
            Invalid: the moment lies too far back, or a feature is null that must not be.
        """
        return [self._row(self.lookup.row(row, at_us)) for row in base]

    def _row(self, features: list[Any]) -> list[Any]:
        out = []
        for place, field in self.order:
            value = features[place]
            if value is None:
                if not field.nullable:
                    message = f"the feature {field.name} is null, and the model has never been shown a null there"
                    raise Invalid(message, code="input.value", field=field.name)
            elif field.dtype == "int64" or field.dtype == "bool":
                value = int(value) if field.dtype == "int64" else bool(value)
            out.append(value)
        return out


def looker_of(plan: online.Plan, target: Target, before: Looker | None) -> Looker:
    """How a target's features are looked up; what was mapped `before` by the same plan is used on.

    Raises:
        Invalid: a version takes what is no feature, or the snapshot is not there.
    """
    outputs = {name: place for place, name in enumerate(plan.features.outputs)}
    odd = [field.name for field in target.fields if field.name not in outputs]
    if odd:
        raise Invalid(f"{odd[0]} is no feature of {plan.features.name}", code="lookup.column", field=odd[0])
    try:
        lookup = before.lookup if before is not None and before.lookup.plan == plan else online.Lookup(plan)
    except _ODD as error:
        raise Invalid(f"the snapshot cannot be read: {error}", code="lookup.snapshot") from None
    fields = tuple(Field(name, _DTYPES[kind], True) for name, kind in plan.base)
    asks = Target(
        name=target.name,
        log=target.log,
        versions=target.versions,
        fields=fields,
        required=frozenset(field.name for field in fields),
        columns=Columns((), ()),
        packers=[],
        cache={},
    )
    dtypes = tuple("int64" if kind == "time" else _DTYPES[kind] for _, kind in plan.base)
    names, kinds = target.columns.names, target.columns.dtypes
    return Looker(
        lookup=lookup,
        asks=asks,
        times=[place for place, (_, kind) in enumerate(plan.base) if kind == "time"],
        order=[(outputs[field.name], field) for field in target.fields],
        columns=Columns((*names, *(field.name for field in fields)), (*kinds, *dtypes), len(fields)),
    )


def attach(target: Target, plan: online.Plan | None, problem: str, before: Target | None) -> Target:
    """Give a target its look-ups, or the reason why it has none."""
    target.lookup_problem = problem
    if plan is not None and target.versions:
        old = None if before is None else before.lookup
        try:
            target.lookup = looker_of(plan, target, old)
        except LoopwrightError as error:
            target.lookup_problem = error.message
    return target
