"""What a worker does with the requests of one tick: score them by every version, pick the answers, log, answer.

Knows no wire: a protocol hands it Asks and reads their results.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal

import msgspec

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import LoopwrightError
from loopwright.kernel.times import DAY
from loopwright.models.model import Field, Signature
from loopwright.models.runtime import Encoder, Predictor
from loopwright.serving.model import LogPromise
from loopwright.serving.record import Columns, LogRow
from loopwright.serving.spool import Spool

REMEMBERED = 100_000
Outcome = Literal["answered", "repeated", "conflict", "failed", "refused", "unrouted"]
_pack = msgspec.msgpack.Encoder().encode
_INFINITE = float("inf")


class Served(msgspec.Struct, kw_only=True):
    """One version in the routes, loaded.

    Args:
        failure: why it could not be loaded.
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
        cache: for the wire's own tables.
    """

    name: str
    log: LogPromise
    versions: list[Served]
    fields: tuple[Field, ...]
    required: frozenset[str]
    columns: Columns
    packers: list[Callable[[Sequence[Any]], bytes]]
    cache: dict[Any, Any] = {}


class Answer(msgspec.Struct, gc=False):
    """What became of an Ask."""

    outcome: Outcome
    version: int | None = None
    output: str = ""
    scores: Sequence[float] = ()
    prediction_id: str = ""
    logged: bool = True
    body: bytes = b""


class Ask(msgspec.Struct):
    """One request: rows of values in the order of the target's fields.

    Args:
        at_us: the asker's time; None = now in the Space's world.
        pinned: the live version that was asked for by number.
        arm: the version whose turn it was.
    """

    target: Target
    rows: Sequence[Sequence[Any]]
    request_id: str = ""
    at_us: int | None = None
    subject: str | None = None
    pinned: int | None = None
    arm: int = 0
    answer: Answer | None = None
    inputs: bytes = b""


class _Memory(msgspec.Struct, gc=False):
    inputs: bytes
    at_us: int
    body: bytes


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
    packers: dict[Any, Callable[[Sequence[Any]], bytes]] = {}
    for served in versions:
        encoder = Encoder(served.signature)
        packers.setdefault(encoder.key, _packer(encoder, [order[column] for column in encoder.names], len(order)))
        served.packer = list(packers).index(encoder.key)
        if odd := _at_odds(served.signature, fields):
            served.predictor, served.failure = None, odd
    return Target(
        name=name,
        log=log,
        versions=versions,
        fields=tuple(fields.values()),
        required=frozenset(field.name for field in versions[0].signature.inputs) if versions else frozenset(),
        columns=Columns(tuple(fields), tuple(field.dtype for field in fields.values())),
        packers=list(packers.values()),
    )


def _at_odds(signature: Signature, fields: dict[str, Field]) -> str:
    """Why a version cannot score the requests: a column is text there and a number to it, or the other way round."""
    for field in signature.inputs:
        asked = fields[field.name].dtype
        if (field.dtype == "string") != (asked == "string"):
            return f"not asked: {field.name} is {asked} in the requests, and this version takes {field.dtype}"
    return ""


def _packer(encoder: Encoder, where: list[int], width: int) -> Callable[[Sequence[Any]], bytes]:
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


class Engine:
    """Answers Asks by the newest targets; one thread."""

    def __init__(self, home: Path, slot: int, later: Callable[[Callable[[], None]], None]) -> None:
        self._home = home
        self._slot = slot
        self._later = later
        self._spools: dict[str, Spool] = {}
        self._memory: OrderedDict[tuple[str, str], _Memory] = OrderedDict()
        self.targets: dict[str, Target] = {}
        self.clock_us: int | None = None
        self.subject_key = b""
        self.unlogged = 0

    def answer(self, asks: Sequence[Ask], render: Callable[[Ask, Answer], bytes]) -> None:
        """Give every Ask its answer; `render` makes the bytes that a repeat of the request gets again."""
        received_us = machine_us()
        by_target: dict[int, list[Ask]] = {}
        twins: list[tuple[Ask, Ask]] = []
        first: dict[tuple[str, str], Ask] = {}
        for ask in asks:
            if ask.at_us is None:
                ask.at_us = received_us if self.clock_us is None else self.clock_us
            if not ask.target.versions:
                ask.answer = Answer("unrouted")
                continue
            if ask.request_id:
                ask.inputs = blake2b(_pack(ask.rows), digest_size=16).digest()
                key = (ask.target.name, ask.request_id)
                if self._recall(key, ask):
                    continue
                if key in first:
                    twins.append((first[key], ask))
                    continue
                first[key] = ask
            by_target.setdefault(id(ask.target), []).append(ask)
        for group in by_target.values():
            self._serve(group, received_us, render)
        for leader, ask in twins:
            answer = leader.answer
            if leader.inputs != ask.inputs:
                answer = Answer("conflict")
            ask.answer = answer

    def _recall(self, key: tuple[str, str], ask: Ask) -> bool:
        known = self._memory.get(key)
        if known is None or ask.at_us is None or abs(ask.at_us - known.at_us) > DAY:
            return False
        ask.answer = Answer("conflict") if known.inputs != ask.inputs else Answer("repeated", body=known.body)
        return True

    def _serve(self, asks: list[Ask], received_us: int, render: Callable[[Ask, Answer], bytes]) -> None:
        target = asks[0].target
        spool = self._spools.get(target.name)
        if spool is None:
            spool = self._spools[target.name] = Spool(self._home, target.name, self._slot, self._later)
        rows = asks[0].rows if len(asks) == 1 else [row for ask in asks for row in ask.rows]
        judged = _score_all(target, rows)
        logged: list[LogRow] = []
        start = 0
        for ask in asks:
            prediction = spool.next_id(received_us)
            _decide(ask, judged, start, prediction)
            _note(ask, judged, start, received_us, logged)
            start += len(ask.rows)
        try:
            spool.append(target.columns, logged)
            written = True
        except OSError:
            written = False
        for ask in asks:
            self._settle(ask, written, render)

    def _settle(self, ask: Ask, written: bool, render: Callable[[Ask, Answer], bytes]) -> None:
        answer = ask.answer
        if answer is None or answer.outcome != "answered":
            return
        if not written:
            if ask.target.log == "required":
                ask.answer = Answer("refused")
                return
            answer.logged = False
            self.unlogged += len(ask.rows)
        answer.body = render(ask, answer)
        # An answer that the log did not take is not remembered: a repeat gets another chance to be logged.
        if ask.request_id and written and ask.at_us is not None:
            self._memory[(ask.target.name, ask.request_id)] = _Memory(ask.inputs, ask.at_us, answer.body)
            if len(self._memory) > REMEMBERED:
                self._memory.popitem(last=False)

    def tick(self) -> None:
        """Once a second: spools to the disk, old spools let go."""
        for spool in self._spools.values():
            spool.tick()

    @property
    def failed_syncs(self) -> int:
        """How often the disk refused to keep what the spools hold."""
        return sum(spool.failed_syncs for spool in self._spools.values())

    def close(self) -> None:
        """Let go of all spools."""
        for spool in self._spools.values():
            spool.rotate()


class _Judged(msgspec.Struct, gc=False):
    """What one version made of the rows of a tick."""

    served: Served
    scores: Sequence[float | None]
    errors: dict[int, str]
    latency_us: Sequence[int]


def _score_all(target: Target, rows: Sequence[Sequence[Any]]) -> list[_Judged]:
    count = len(rows)
    packed: list[list[bytes] | None] = [None] * len(target.packers)
    out = []
    for served in target.versions:
        if served.predictor is None:
            out.append(_Judged(served, [None] * count, dict.fromkeys(range(count), served.failure), [0] * count))
            continue
        data = packed[served.packer]
        if data is None:
            data = packed[served.packer] = list(map(target.packers[served.packer], rows))
        out.append(_score(served, served.predictor, data))
    return out


def _score(served: Served, predictor: Predictor, packed: list[bytes]) -> _Judged:
    """Score packed rows in one call; when it fails, row by row, so that a bad row fails alone."""
    count = len(packed)
    start = perf_counter_ns()
    try:
        scores = predictor.score(packed)
    except LoopwrightError:
        return _score_singly(served, predictor, packed)
    each = (perf_counter_ns() - start) // (1000 * count)
    errors: dict[int, str] = {}
    found: Sequence[float | None] = scores
    for place, score in enumerate(scores):
        if not -_INFINITE < score < _INFINITE:
            errors[place] = "the score is not finite"
    if errors:
        found = [None if place in errors else score for place, score in enumerate(scores)]
    return _Judged(served, found, errors, [each] * count)


def _score_singly(served: Served, predictor: Predictor, packed: list[bytes]) -> _Judged:
    scores: list[float | None] = []
    errors: dict[int, str] = {}
    latency = []
    for place, row in enumerate(packed):
        start = perf_counter_ns()
        try:
            scores.append(predictor.score([row])[0])
        except LoopwrightError as error:
            scores.append(None)
            errors[place] = error.message
        latency.append((perf_counter_ns() - start) // 1000)
    return _Judged(served, scores, errors, latency)


def _decide(ask: Ask, judged: list[_Judged], start: int, prediction: str) -> None:
    """Pick the answering version: the arm's, the champion's when the arm failed, none when both did."""
    target, champion = ask.target, ask.target.versions[0]
    arm = champion
    if ask.pinned is not None:
        arm = next(served for served in target.versions if served.version == ask.pinned)
    elif len(target.versions) > 1 and target.versions[1].live:
        arm = pick(target, ask.request_id or prediction)
    ask.arm = arm.version
    for choice in (arm,) if arm is champion else (arm, champion):
        made = next(part for part in judged if part.served is choice)
        scores = [made.scores[place] for place in range(start, start + len(ask.rows))]
        if None not in scores:
            ask.answer = Answer("answered", choice.version, choice.output, scores, prediction)  # type: ignore[arg-type]
            return
    ask.answer = Answer("failed", None, prediction_id=prediction)


def _note(ask: Ask, judged: list[_Judged], start: int, received_us: int, logged: list[LogRow]) -> None:
    """Write the log rows of an Ask; what had no answer is logged under its own id, so that a retry stands beside it."""
    answer = ask.answer
    if answer is None or ask.at_us is None:
        return
    many = len(ask.rows) > 1
    request_id = ask.request_id if ask.request_id and answer.version is not None else answer.prediction_id
    for offset, values in enumerate(ask.rows):
        place = start + offset
        suffix = f"/{offset}" if many else ""
        scores: dict[int, float] = {}
        errors: dict[int, str] = {}
        latency: dict[int, int] = {}
        for part in judged:
            version, score = part.served.version, part.scores[place]
            if score is None:
                errors[version] = part.errors[place]
            else:
                scores[version] = score
            if part.served.predictor is not None:
                latency[version] = part.latency_us[place]
        row_id, row_request = answer.prediction_id + suffix, request_id + suffix
        row = LogRow(row_id, ask.at_us, received_us, row_request, answer.version, ask.arm, ask.subject, values)
        row.scores, row.errors, row.latency_us = scores, errors, latency
        logged.append(row)
