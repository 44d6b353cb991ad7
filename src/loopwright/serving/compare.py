"""Whether what was looked up is what the sources and facts say of the asking time, cell by cell."""

import contextlib
from typing import Any

import msgspec

from loopwright.data import online, prepare, service
from loopwright.data.model import FeaturesSpec
from loopwright.serving import predictions, routes
from loopwright.serving.columns import quoted
from loopwright.store.space import Space

EXAMPLES = 10
_TYPES = {"int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN", "text": "VARCHAR", "time": "TIMESTAMP"}
Span = tuple[int | None, int | None]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that was served otherwise than it is made offline."""

    endpoint: str
    id: str
    at_us: int
    feature: str
    served: float | str | None
    offline: float | str | None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows and cells were compared, how many cells differ, and some of them."""

    features: str
    rows: int = 0
    cells: int = 0
    differ: int = 0
    examples: tuple[Cell, ...] = ()


def compare(space: Space, features: str, span: Span = (None, None), sample: int | None = None) -> Compared:
    """Make the features of logged look-ups anew, as of their asking times, and compare them with what was served.

    Args:
        span: the rows asked from the first moment on and before the second.
        sample: so many rows of each endpoint, drawn by their ids; all by default.

    Raises:
        NotFound: no such features were declared.
    """
    spec = service.features_of(space, features)
    found = Compared(features=features)
    for endpoint in routes.endpoints(space):
        if endpoint.features == features:
            found = _added(found, compare_one(space, spec, endpoint.name, span, sample))
    return found


def _added(one: Compared, other: Compared) -> Compared:
    return Compared(
        features=one.features,
        rows=one.rows + other.rows,
        cells=one.cells + other.cells,
        differ=one.differ + other.differ,
        examples=(*one.examples, *other.examples)[:EXAMPLES],
    )


def compare_one(space: Space, spec: FeaturesSpec, endpoint: str, span: Span, sample: int | None) -> Compared:
    """The same for one endpoint."""
    from loopwright.data import execute, opened, sources

    none = Compared(features=spec.name)
    with contextlib.closing(sources.connect(space.home / "tmp")) as con:
        present = predictions.view(con, space, endpoint, since_us=span[0], until_us=span[1], table="loopwright_served")
        made = _asked(space, spec, present)
        if not made:
            return none
        there = " OR ".join(f"{quoted(name)} IS NOT NULL" for name in present if name.startswith("ask_"))
        limit = "" if sample is None else f" ORDER BY md5(request_id), id LIMIT {int(sample)}"
        con.execute(
            f'CREATE TEMP TABLE "lw.asked" AS SELECT {", ".join(made)} FROM (SELECT * FROM loopwright_served'
            f" WHERE {there}{limit})"
        )
        at = quoted(spec.at)
        (rows, first_us, last_us), *_ = con.execute(
            f'SELECT count(*), epoch_us(min({at})), epoch_us(max({at})) FROM "lw.asked"'
        ).fetchall()
        if not rows:
            return none
        columns = {c.name: c for c in sources.schema(con, '"lw.asked"')}
        asked = opened.Asked(opened.Opened(spec.base, '"lw.asked"', columns), first_us)
        executor = execute.Executor(con, space, spec, last_us + 1, prepare.newest_version, asked)
        executor.build(execute.Span())
        names = [name for name in spec.outputs if f"in_{name}" in present]
        tests = {name: f"f.{quoted(name)} IS DISTINCT FROM s.{quoted('in_' + name)}" for name in names}
        joined = "features f JOIN loopwright_served s ON f.id = s.id"
        counts = ", ".join(f"count(*) FILTER ({test})" for test in tests.values()) or "0"
        (differ,) = con.execute(f"SELECT {counts} FROM {joined}").fetchall()
        cells = [
            Cell(endpoint=endpoint, id=found[0], at_us=found[1], feature=name, served=found[2], offline=found[3])
            for name, test in tests.items()
            for found in con.execute(
                f"SELECT s.request_id, s.at_us, s.{quoted('in_' + name)}, f.{quoted(name)} FROM {joined} WHERE {test}"
                f" ORDER BY s.at_us, s.request_id LIMIT {EXAMPLES}"
            ).fetchall()
        ]
    return Compared(
        features=spec.name,
        rows=rows,
        cells=rows * len(names),
        differ=sum(differ),
        examples=tuple(cells[:EXAMPLES]),
    )


def _asked(space: Space, spec: FeaturesSpec, present: list[str]) -> list[str]:
    """The select items that make a base of the log; none where no look-up was logged."""
    types = {c.name: online.kind_of(c.type) for c in service.schema(space, prepare.newest_version(space, spec.base))}
    names = [name for name in online.base_columns(spec) if name != spec.at]
    if not any(f"ask_{name}" in present for name in names):
        return []
    items = {spec.base.key[0]: "id", spec.at: "make_timestamp(at_us)"}
    if spec.base.known_column is not None:
        items.setdefault(spec.base.known_column, "make_timestamp(at_us)")
    for name in names:
        kind = types[name]
        found = quoted(f"ask_{name}") if f"ask_{name}" in present else "NULL"
        items[name] = f"make_timestamp({found})" if kind == "time" else f"CAST({found} AS {_TYPES[kind]})"
    return [f"{item} AS {quoted(name)}" for name, item in items.items()]


def text(done: Any) -> str:
    """What a person reads of a comparison."""
    from loopwright.kernel.times import format_time

    lines = [f"{done.rows:,} rows, {done.cells:,} cells, {done.differ:,} differ"]
    lines += [
        f"{cell.id} at {format_time(cell.at_us)}: {cell.feature} was {cell.served}, and is {cell.offline} offline"
        for cell in done.examples
    ]
    return "\n".join(lines)
