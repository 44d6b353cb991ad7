"""What is declared of an endpoint, ready for use: recipe, gate, calendar, metric."""

from typing import Any, TypeVar

import msgspec

from loopwright.kernel.errors import Invalid
from loopwright.releases import measured
from loopwright.releases import recipe as rules
from loopwright.releases.calendar import Calendar
from loopwright.releases.declare import default_gate
from loopwright.releases.model import DEFAULT_METRIC, Better, Fast, GateSpec
from loopwright.releases.policy import Measured, WarmRecipe, fitted
from loopwright.serving import routes
from loopwright.serving.model import EndpointSpec
from loopwright.store.database import Tx

T = TypeVar("T")


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint with its settings."""

    spec: EndpointSpec
    recipe: WarmRecipe
    gate: GateSpec
    calendar: Calendar

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.spec.name

    @property
    def subject(self) -> str:
        """The endpoint's name among the subjects of events and permits."""
        return routes.subject_of(self.spec.name)

    @property
    def better(self) -> Better:
        """How versions are compared."""
        return rules.better_check(self.gate, DEFAULT_METRIC[self.spec.task])

    @property
    def metric(self) -> str:
        """The loss that days are compared by."""
        return self.better.metric

    @property
    def fast(self) -> Fast:
        """How latency is judged."""
        return rules.fast_check(self.gate)


def find(tx: Tx, endpoint: str) -> Desk:
    """The desk of an endpoint.

    Raises:
        NotFound: there is no such endpoint.
        Invalid: its gate or policy is stored in a form that this version does not read.
    """
    return of(routes.find(tx, endpoint), measured.find(tx, endpoint))


def of(spec: EndpointSpec, found: Measured) -> Desk:
    """The desk of a declaration, with the settings that nobody named as the endpoint's own data has them."""
    recipe = fitted(_read(spec.policy, WarmRecipe, "policy") if spec.policy else WarmRecipe(), found)
    gate = _read(spec.gate, GateSpec, "gate") if spec.gate else default_gate()
    return Desk(spec=spec, recipe=recipe, gate=gate, calendar=Calendar(spec.timezone, recipe.close_minutes))


def _read(stored: dict[str, Any], kind: type[T], field: str) -> T:
    try:
        return msgspec.convert(stored, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"the stored {field} is not readable: {error}", code=f"{field}.form", field=field) from None
