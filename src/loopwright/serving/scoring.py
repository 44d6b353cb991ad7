"""An endpoint's versions as a worker serves them, and the scoring of rows by each of them.

Knows no request, no log and no thread: what fails is said row by row, and no version fails another.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import msgspec

from loopwright.kernel.errors import LoopwrightError
from loopwright.models.model import Field, Signature
from loopwright.models.runtime import Encoder, Predictor
from loopwright.serving.model import LogPromise
from loopwright.serving.record import Columns

# One row that takes longer is not scored on the event loop; nor are many rows that take so long together.
INLINE_ROW_US = 200.0
INLINE_ROWS_US = 5000.0
if TYPE_CHECKING:
    from loopwright.serving.lookups import Looker

_INFINITE = float("inf")
Packed = list[bytes] | list[bytes | str]
Packer = Callable[[Sequence[Any]], bytes]


class Served(msgspec.Struct, kw_only=True):
    """One version in the routes, loaded.

    Args:
        failure: why it could not be loaded, or is asked no longer.
        packer: which of the target's packers packs rows for it.
    """

    version: int
    weight: float
    live: bool
    predictor: Predictor | None
    signature: Signature
    failure: str = ""
    packer: int = 0

    @property
    def output(self) -> str:
        """The name of what comes out."""
        return self.signature.output


class Target(msgspec.Struct, kw_only=True):
    """An endpoint as the engine serves it.

    Args:
        versions: live ones first, the champion at the head.
        fields: the union of the versions' inputs; the champion's type and null rule hold where it has the column.
        required: the champion's columns.
        packers: one for each distinct set of columns and levels: versions that pack rows alike share it.
        slow: a row alone takes too long for the event loop.
        each_us: what every further row takes.
        cache: for the wire's own tables.
        lookup: makes rows of what a caller knows; None where none can be made, and `lookup_problem` says why.
    """

    name: str
    log: LogPromise
    versions: list[Served]
    fields: tuple[Field, ...]
    required: frozenset[str]
    columns: Columns
    packers: list[Packer]
    slow: bool = False
    each_us: float = 0.0
    cache: dict[Any, Any] = {}
    lookup: "Looker | None" = None
    lookup_problem: str = ""


class Judged(msgspec.Struct, gc=False):
    """What one version made of the rows."""

    served: Served
    scores: Sequence[float | None]
    errors: dict[int, str]
    latency_us: Sequence[int]


def target_of(name: str, log: LogPromise, versions: list[Served]) -> Target:
    """Build a target from its versions, live ones first and the champion at the head."""
    fields: dict[str, Field] = {}
    for served in versions:
        for field in served.signature.inputs:
            if field.name not in fields:
                # A column that only a challenger knows may be absent, so it may be null.
                known = field if served is versions[0] else Field(field.name, field.dtype, True)
                fields[field.name] = known
    order = {column: place for place, column in enumerate(fields)}
    packers: dict[Any, Packer] = {}
    for served in versions:
        encoder = Encoder(served.signature)
        packers.setdefault(encoder.key, _packer(encoder, [order[column] for column in encoder.names], len(order)))
        served.packer = list(packers).index(encoder.key)
        if odd := _at_odds(served.signature, fields):
            served.predictor, served.failure = None, odd
    costs = [served.predictor.cost for served in versions if served.predictor is not None]
    return Target(
        name=name,
        log=log,
        versions=versions,
        fields=tuple(fields.values()),
        required=frozenset(field.name for field in versions[0].signature.inputs) if versions else frozenset(),
        columns=Columns(tuple(fields), tuple(field.dtype for field in fields.values())),
        packers=list(packers.values()),
        slow=any(cost.row_us > INLINE_ROW_US for cost in costs),
        each_us=sum(cost.each_us for cost in costs),
    )


def _at_odds(signature: Signature, fields: dict[str, Field]) -> str:
    """Why a version cannot score the requests: a column is text there and a number to it, or the other way round."""
    for field in signature.inputs:
        asked = fields[field.name].dtype
        if (field.dtype == "string") != (asked == "string"):
            return f"not asked: {field.name} is {asked} in the requests, and this version takes {field.dtype}"
    return ""


def _packer(encoder: Encoder, where: list[int], width: int) -> Packer:
    if where == list(range(width)):
        return encoder.pack
    return lambda row: encoder.pack([row[place] for place in where])


def arm_of(endpoint: str, candidate: int, request_id: str) -> float:
    """Where a request falls in [0, 1): the same in every worker and every replay."""
    made = blake2b(f"{endpoint}\0{candidate}\0{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(made) / 2**64


def pick(target: Target, request_id: str) -> Served:
    """The live version whose turn it is: candidates by their share of the hash, the champion for the rest."""
    below = 0.0
    for served in target.versions[1:]:
        if served.live:
            below += served.weight
            if arm_of(target.name, served.version, request_id) < below:
                return served
    return target.versions[0]


def score_all(target: Target, rows: Sequence[Sequence[Any]]) -> list[Judged]:
    """What every version makes of the rows; versions that pack rows alike share the packing."""
    packed: list[Packed | None] = [None] * len(target.packers)
    out = []
    for served in target.versions:
        out.append(score_version(served, packed_for(target, served, rows, packed), len(rows)))
    return out


def packed_for(target: Target, served: Served, rows: Sequence[Sequence[Any]], packed: list[Packed | None]) -> Packed:
    """The rows as a version takes them, from what was `packed` for others; nothing for one that is not asked."""
    if served.predictor is None:
        return []
    found = packed[served.packer]
    if found is None:
        found = packed[served.packer] = pack(target.packers[served.packer], rows)
    return found


def pack(packer: Packer, rows: Sequence[Sequence[Any]]) -> Packed:
    """The packed rows; a row that cannot be packed is the reason why."""
    try:
        return list(map(packer, rows))
    except LoopwrightError:
        return [_pack_one(packer, row) for row in rows]


def _pack_one(packer: Packer, row: Sequence[Any]) -> bytes | str:
    try:
        return packer(row)
    except LoopwrightError as error:
        return error.message


def score_version(served: Served, packed: Packed, count: int) -> Judged:
    """Score packed rows in one call; when it fails, row by row, so that a bad row fails alone."""
    predictor = served.predictor
    if predictor is None:
        return Judged(served, [None] * count, dict.fromkeys(range(count), served.failure), [0] * count)
    start = perf_counter_ns()
    try:
        scores = predictor.score(packed)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a row that is no bytes, or whatever a model's library throws: the row is at fault
        return _score_singly(served, predictor, packed)
    each = (perf_counter_ns() - start) // (1000 * count)
    errors: dict[int, str] = {}
    found: Sequence[float | None] = scores
    for place, score in enumerate(scores):
        if not -_INFINITE < score < _INFINITE:
            errors[place] = "the score is not finite"
    if errors:
        found = [None if place in errors else score for place, score in enumerate(scores)]
    return Judged(served, found, errors, [each] * count)


def _score_singly(served: Served, predictor: Predictor, packed: Packed) -> Judged:
    scores: list[float | None] = []
    errors: dict[int, str] = {}
    latency = []
    for place, row in enumerate(packed):
        start = perf_counter_ns()
        score, reason = _score_one(predictor, row)
        scores.append(score)
        if score is None:
            errors[place] = reason
        latency.append((perf_counter_ns() - start) // 1000)
    return Judged(served, scores, errors, latency)


def _score_one(predictor: Predictor, row: bytes | str) -> tuple[float | None, str]:
    if isinstance(row, str):
        return None, row
    try:
        score = predictor.score([row])[0]
    except LoopwrightError as error:
        return None, error.message
    except Exception as error:  # noqa: BLE001 - whatever a model's library throws counts against the model alone
        return None, f"the model failed: {type(error).__name__}"
    return (score, "") if -_INFINITE < score < _INFINITE else (None, "the score is not finite")
