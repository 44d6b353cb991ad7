"""Registering packages as versions of a Name, and reading them back."""

from pathlib import Path
from typing import Any

import msgspec

from loopwright.artifacts import names
from loopwright.artifacts import service as artifacts
from loopwright.artifacts.codecs import Codec, Encoded, Stored
from loopwright.artifacts.model import Artifact, Version
from loopwright.kernel.errors import Corrupt, Invalid
from loopwright.kernel.ids import valid_name
from loopwright.models import runtime
from loopwright.models.model import (
    CARD_FILE,
    CONTRACT_FILE,
    KIND,
    SAMPLE_FILE,
    Card,
    ColumnContract,
    Sample,
    decode_card,
    read_card,
)
from loopwright.models.value import Model
from loopwright.store.database import Tx
from loopwright.store.erasure import latest
from loopwright.store.space import Space


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """Where the parts of a package that a worker needs lie on this machine; `native` is the file that scores."""

    card: Path
    native: Path
    native_digest: str


def store(space: Space, model: Model) -> Artifact:
    """Store a package as an artifact of kind `model`; durable on return."""
    return artifacts.put_tree(space, model.files, kind=KIND, meta=_meta(model))


def _meta(model: Model) -> dict[str, Any]:
    card = read_card(model.files)
    return {
        "name": valid_name(model.name),
        "flavour": card.flavour,
        "task": card.task,
        "features": card.features,
        "trained_until_us": card.trained_until_us,
    }


def _read(stored: Stored) -> Model:
    return Model(name=str(stored.meta["name"]), files={path: stored.read(path) for path in sorted(stored.files)})


CODEC = Codec(
    name=KIND,
    accepts=lambda value: type(value) is Model,
    encode=lambda model, _: Encoded(files=model.files, meta=_meta(model)),
    decode=_read,
    kind=KIND,
)


def register(
    tx: Tx, actor: str, name: str, package: Artifact, *, run: str | None = None, always: bool = False
) -> Version:
    """Append a stored package to a name; equal bytes make no new version unless `always`.

    Raises:
        Invalid: the artifact is no model.
    """
    if package.kind != KIND:
        raise Invalid(f"an artifact of kind {package.kind} is no model", code="model.kind", field="package")
    return names.register(tx, actor, name, package, run=run, always=always)


def register_output(tx: Tx, actor: str, package: Artifact, run: str) -> Version:
    """Append a package that a run has put out to the name that it was packed under; equal bytes make no new version."""
    return register(tx, actor, str(package.meta["name"]), package, run=run)


def load(space: Space, digest: str) -> Model:
    """A stored package as a value.

    Raises:
        NotFound: there is none.
        Corrupt: its bytes are not what was stored.
    """
    package = artifacts.get(space, digest, KIND)
    with space.read() as tx:  # of a sample that held erased rows there is a smaller one
        held = {path: latest(tx, file) for path, file in artifacts.files(space, digest).items()}
    return Model(name=str(package.meta["name"]), files={path: space.blobs.read(file) for path, file in held.items()})


def card(space: Space, digest: str) -> Card:
    """The card of a stored package."""
    return decode_card(artifacts.read(space, digest, CARD_FILE))


def contract(space: Space, digest: str) -> list[ColumnContract]:
    """What the training sample of a stored package looked like, a column each."""
    return msgspec.json.decode(artifacts.read(space, digest, CONTRACT_FILE), type=list[ColumnContract])


def sample(space: Space, digest: str) -> Sample:
    """Sample rows of a stored package with the scores they must get; those of an erased subject are not among them."""
    with space.read() as tx:
        file = latest(tx, artifacts.files(space, digest)[SAMPLE_FILE])
    return msgspec.json.decode(artifacts.read(space, file), type=Sample)


def files(space: Space, digest: str) -> Files:
    """The local files of a stored package that a worker loads.

    Raises:
        Corrupt: the package lacks one.
    """
    listing = artifacts.files(space, digest)
    if CARD_FILE not in listing:
        raise Corrupt(f"package {digest} lacks {CARD_FILE}", code="model.files", hint="lw fsck")
    scores = card(space, digest).file
    if scores not in listing:
        raise Corrupt(f"package {digest} lacks {scores}", code="model.files", hint="lw fsck")
    native = listing[scores]
    return Files(card=space.blobs.path(listing[CARD_FILE]), native=space.blobs.path(native), native_digest=native)


def verify(space: Space, digest: str) -> bool:
    """Whether a stored package still gives its sample rows the scores that the framework gave them.

    A model's own library gives them bit for bit; a conversion within the tolerance that its card says.
    """
    where, rows = files(space, digest), sample(space, digest)
    loaded = runtime.load_file(card(space, digest), where.native, where.native_digest)
    scores, parity = loaded.predict_values(rows.rows), loaded.card.runtime.parity
    if loaded.card.runtime.engine == "native" or parity is None:
        return scores == rows.expected
    return all(abs(a - b) <= parity.tolerance for a, b in zip(scores, rows.expected, strict=True))
