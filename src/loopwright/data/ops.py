"""Op rows of data: add a file, look at a version, write request rows."""

from pathlib import Path

from loopwright.artifacts import names
from loopwright.data import facts, service, text
from loopwright.data.model import Added, FeaturesSpec, Written
from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import valid_name
from loopwright.kernel.op import Op
from loopwright.store.space import Space


def add(space: Space, actor: str, *, path: str, as_: str | None = None) -> Added:
    """Make a version of a data file and say what is in it."""
    return service.add(space, actor, path, name=None if as_ is None else valid_name(as_, "as"))


def get(space: Space, actor: str, *, name: str, number: int | None = None) -> Added:
    """Get the schema, profile, contract and findings of a version of data."""
    ref = valid_name(name) if number is None else f"{valid_name(name)}@{number}"
    return service.describe(space, names.resolve(space, ref))


def get_features(space: Space, actor: str, *, name: str) -> FeaturesSpec:
    """Get the declaration of features."""
    return service.features_of(space, name)


def features_rows(space: Space, actor: str, *, name: str, since: str, until: str, out: str) -> Written:
    """Write the request rows of a period to a file, as an asker would have known them."""
    from loopwright.data import training

    if not out.strip() or "\0" in out:
        raise Invalid("out must be a file", code="data.out", field="out")
    return training.write_rows(space, service.features_of(space, name), since=since, until=until, out=Path(out))


def add_rows(space: Space, actor: str, *, name: str, body: bytes, wait: bool = False) -> facts.Taken:
    """Add rows to a source as they become known: NDJSON lines of its columns and known_at, all or none.

    Args:
        name: the source, as the project declares it.
        body: a line a row, such as {"shop": "north", "at": "2013-04-01T05:00:00Z", "stock": 44}.
        wait: answer only when all workers look the rows up.
    """
    taken = facts.add(space, actor, name, body)
    if wait:
        facts.show(space)
    return taken


OPS = [
    Op(
        fn=add,
        http="POST /api/v1/data",
        action="data.add",
        subject="name:{as_}",
        cli="add",
        positional=("path",),
        reads="path",
        repeatable=True,
        render=text.render,
    ),
    Op(
        fn=add_rows,
        http="POST /api/v1/data/{name}/rows",
        action="data.add",
        subject="name:{name}",
        repeatable=True,
    ),
    Op(fn=get, http="GET /api/v1/data/{name}", action="data.read", subject="name:{name}", render=text.render),
    Op(fn=get_features, http="GET /api/v1/features/{name}", action="features.read", subject="features:{name}"),
    Op(
        fn=features_rows,
        http="POST /api/v1/features/{name}/rows",
        action="features.rows",
        subject="features:{name}",
        cli="features rows",
        positional=("name",),
        writes="out",
        render=text.written,
    ),
]
