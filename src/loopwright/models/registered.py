"""lw.load: a registered model as a value that scores frames; knows names, and no endpoint."""

from loopwright.access.service import local_actor, require
from loopwright.artifacts import names
from loopwright.kernel.errors import Invalid
from loopwright.models import service
from loopwright.models.model import KIND
from loopwright.models.value import Model
from loopwright.store.space import current


def load(ref: str) -> Model:
    """The model that an address names, such as `delay@3`, `delay@prod` or `delay@prod~1`.

    Raises:
        NotFound: it names nothing.
        Invalid: it names something else than a model.
    """
    space = current()
    require(space, local_actor(), "names.read", ref)
    version = names.resolve(space, ref)
    if version.kind != KIND:
        raise Invalid(f"{version.ref} is a {version.kind}, not a model", code="model.kind", field="ref")
    return service.load(space, version.digest)
