"""Op rows of models: what a version says of itself."""

import msgspec

from loopwright.artifacts import names
from loopwright.kernel.errors import NotFound
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op
from loopwright.models import service
from loopwright.models.model import KIND, Card, ColumnContract
from loopwright.store.space import Space


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model: its card and what its training sample looked like."""

    ref: str
    digest: str
    card: Card
    contract: list[ColumnContract]


def get_model(space: Space, actor: str, *, name: str, number: int) -> ModelVersion:
    """Get the signature, task and training contract of a version of a model."""
    version = names.get(space, valid_name(name), number)
    if version.kind != KIND:
        raise NotFound(f"{version.ref} is a {version.kind}, not a model", code="model.kind", field="name")
    return ModelVersion(
        ref=version.ref,
        digest=version.digest,
        card=service.card(space, version.digest),
        contract=service.contract(space, version.digest),
    )


OPS = [Op(fn=get_model, http="GET /api/v1/models/{name}/versions/{number}", action="names.read", subject="name:{name}")]
