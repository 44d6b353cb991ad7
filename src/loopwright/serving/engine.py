"""What a worker does with the requests of one tick: score them by every version, pick the answers, log, answer.

Knows no wire: a protocol hands it Asks and reads their results.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec

from loopwright.kernel.clock import machine_us, monotonic_s
from loopwright.kernel.errors import Invalid, LoopwrightError
from loopwright.kernel.times import DAY
from loopwright.serving.lane import HANG_S, TURN_ROWS, Lane, Turn
from loopwright.serving.record import Columns, LogRow
from loopwright.serving.scoring import INLINE_ROWS_US, Judged, pick, score_all
from loopwright.serving.scoring import Target as Target
from loopwright.serving.spool import SLOTS, Spool

REMEMBERED, REMEMBERED_BYTES = 100_000, 64 << 20  # of the newest answers, for repeats
LOG_CALM_S = 5.0  # so long after a row that the log did not take, with no row since, nothing is said of it any more
Outcome = Literal["answered", "repeated", "conflict", "failed", "refused", "unrouted", "invalid"]
Render = Callable[["Ask", "Answer"], bytes]
_pack = msgspec.msgpack.Encoder().encode


class Answer(msgspec.Struct, gc=False):
    """What became of an Ask."""

    outcome: Outcome
    version: int | None = None
    output: str = ""
    scores: Sequence[float] = ()
    prediction_id: str = ""
    logged: bool = True
    body: bytes = b""
    error: LoopwrightError | None = None


class Ask(msgspec.Struct):
    """One request: rows of values in the order of the target's fields.

    Args:
        rows: made of `base`, what the caller knows, when that was sent instead.
        at_us: the asker's time; None = now in the Space's world.
        pinned: the live version that was asked for by number.
        arm: the version whose turn it was.
        pending: a slow model has its rows; the answer comes later.
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
    pending: bool = False
    received_us: int = 0
    base: Sequence[Sequence[Any]] = ()


class _Memory(msgspec.Struct, gc=False):
    inputs: bytes
    columns: Columns
    at_us: int
    body: bytes


class Engine:
    """Answers Asks by the newest targets, on one thread; slow models score in lanes when there is a way to `tell`.

    `tell` hands work over to the engine's own thread; `settled` is called there when a lane has answered.
    """

    def __init__(
        self,
        home: Path,
        slot: int,
        later: Callable[[Callable[[], None]], None],
        tell: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._home = home
        self._slot = slot
        self._later = later
        self._tell = tell
        self._spools: dict[str, Spool] = {}
        self._memory: OrderedDict[tuple[str, str], _Memory] = OrderedDict()
        self._memory_bytes = 0
        self._lanes: dict[str, Lane] = {}
        self._under_way: dict[tuple[str, str], list[Ask]] = {}
        self._render: Render = lambda ask, answer: b""
        self.settled: Callable[[], None] = lambda: None
        self.targets: dict[str, Target] = {}
        self.clock_us: int | None = None
        self.subject_key = b""
        self.host = 0
        self.erasures = 0
        self.unlogged = 0
        self.log_problem = ""
        self._log_failed_s = 0.0

    def belong(self, host: int) -> None:
        """Be a worker of the host with this number; what comes is logged under it."""
        if host != self.host:
            self.host = host
            for spool in self._spools.values():
                spool.rotate()
            self._spools.clear()

    def forget(self, erasures: int) -> None:
        """Let go of the spools, and of the answers that are remembered, when another erasure has begun."""
        if erasures != self.erasures:
            self.erasures = erasures
            for spool in self._spools.values():
                spool.rotate()
            self._memory.clear()
            self._memory_bytes = 0

    def answer(self, asks: Sequence[Ask], render: Render) -> None:
        """Give every Ask its answer, or leave it pending; `render` makes the bytes that a repeat of it gets again."""
        received_us = machine_us()
        self._render = render
        by_target: dict[int, list[Ask]] = {}
        twins: list[tuple[Ask, Ask]] = []
        first: dict[tuple[str, str], Ask] = {}
        fresh: set[str] = set()  # the endpoints whose newest snapshot was taken in this tick
        for ask in asks:
            ask.received_us = received_us
            if ask.at_us is None:
                ask.at_us = received_us if self.clock_us is None else self.clock_us
            if not ask.target.versions:
                ask.answer = Answer("unrouted")
                continue
            if ask.request_id:
                ask.inputs = blake2b(_pack(ask.base or ask.rows), digest_size=16).digest()
                key = (ask.target.name, ask.request_id)
                if self._recall(key, ask):
                    continue
                if key in first:
                    twins.append((first[key], ask))
                    continue
                if ask.base and not self._look_up(ask, fresh):
                    continue
                first[key] = ask
            elif ask.base and not self._look_up(ask, fresh):
                continue
            by_target.setdefault(id(ask.target), []).append(ask)
        for group in by_target.values():
            self._serve(group)
        for leader, ask in twins:
            if leader.pending:
                self._join(self._under_way[(ask.target.name, ask.request_id)], ask)
            else:
                _answer_alike(leader, ask)

    def _look_up(self, ask: Ask, fresh: set[str]) -> bool:
        """Make the rows of what the caller knows; false, and the answer says why, when they cannot be made."""
        looker = ask.target.lookup
        try:
            if looker is None:
                raise Invalid(ask.target.lookup_problem, code="lookup.none", field="inputs")
            if ask.target.name not in fresh:
                looker.refresh()
                fresh.add(ask.target.name)
            ask.rows = looker.rows(ask.base, ask.at_us or 0)
        except LoopwrightError as error:
            ask.answer = Answer("invalid", error=error.with_traceback(None))
            return False
        return True

    def _recall(self, key: tuple[str, str], ask: Ask) -> bool:
        """Whether the request was asked before: then it has its answer, or gets that of the one under way."""
        if key in self._under_way:
            self._join(self._under_way[key], ask)
            return True
        known = self._memory.get(key)
        if known is None or ask.at_us is None or abs(ask.at_us - known.at_us) > DAY:
            return False
        same = known.inputs == ask.inputs or _were_others(known.columns, ask)
        ask.answer = Answer("repeated", body=known.body) if same else Answer("conflict")
        return True

    def _join(self, family: list[Ask], ask: Ask) -> None:
        ask.pending = True
        family.append(ask)

    def _serve(self, asks: list[Ask]) -> None:
        target = asks[0].target
        rows = asks[0].rows if len(asks) == 1 else [row for ask in asks for row in ask.rows]
        if self._tell is not None:
            lane = self._lanes.get(target.name)
            if target.slow or len(rows) * target.each_us > INLINE_ROWS_US or (lane is not None and lane.turn):
                self._wait(asks)
                return
        self._finish(asks, score_all(target, rows))

    def _finish(self, asks: Sequence[Ask], judged: list[Judged]) -> None:
        """Decide, log, answer."""
        target = asks[0].target
        spool = self._spools.get(target.name)
        if spool is None:
            slot = self.host * SLOTS + self._slot
            spool = self._spools[target.name] = Spool(self._home, target.name, slot, self._later)
        logged: list[LogRow] = []
        looker = target.lookup if any(ask.base for ask in asks) else None
        columns = target.columns if looker is None else looker.columns
        width, start = columns.asked, 0
        for ask in asks:
            prediction = spool.next_id(ask.received_us)
            _decide(ask, judged, start, prediction)
            _note(ask, judged, start, logged, width)
            start += len(ask.rows)
        try:
            spool.append(columns, logged)
            written, self.log_problem = True, ""
        except OSError as error:
            written, self.log_problem, self._log_failed_s = False, error.strerror or str(error), monotonic_s()
        for ask in asks:
            self._settle(ask, written)

    # lanes

    def _wait(self, asks: list[Ask]) -> None:
        """Put asks into their endpoint's lane."""
        name = asks[0].target.name
        lane = self._lanes.get(name)
        if lane is None and self._tell is not None:
            lane = self._lanes[name] = Lane(name, self._tell)
        assert lane is not None
        for ask in asks:
            ask.pending = True
            if ask.request_id:
                self._under_way[(name, ask.request_id)] = []
        lane.waiting.extend(asks)
        if lane.turn is None:
            self._next_turn(lane)

    def _next_turn(self, lane: Lane) -> None:
        """Take all that waits for one state of the routes, up to a limit."""
        asks: list[Ask] = []
        rows: list[Sequence[Any]] = []
        while lane.waiting:
            ask = lane.waiting[0]
            if asks and (ask.target is not asks[0].target or len(rows) + len(ask.rows) > TURN_ROWS):
                break
            asks.append(lane.waiting.popleft())
            rows.extend(ask.rows)
        if asks:
            lane.start(Turn(asks[0].target, asks, rows), lambda turn: self._turned(lane, turn))

    def _turned(self, lane: Lane, turn: Turn) -> None:
        """A lane has scored its rows."""
        if lane.turn is not turn:
            return
        lane.turn = None
        try:
            self._finish(turn.asks, turn.judged)
        finally:
            for ask in turn.asks:
                ask.pending = False
                for twin in self._under_way.pop((ask.target.name, ask.request_id), ()):
                    twin.pending = False
                    _answer_alike(ask, twin)
            self._next_turn(lane)
            self.settled()

    def _watch(self) -> None:
        """Give up on models that hang: they are asked no more, and the rows go to the other versions."""
        for lane in self._lanes.values():
            turn = lane.turn
            hung = turn.give_up() if turn is not None else None
            if turn is None or hung is None:
                continue
            hung.failure = f"the model gave no answer in {HANG_S:g} s"
            if hung.predictor is not None:
                hung.predictor.failure = hung.failure
            hung.predictor = None
            lane.abandon()
            again = Turn(turn.target, turn.asks, turn.rows)
            lane.start(again, lambda turn, lane=lane: self._turned(lane, turn))  # type: ignore[misc]

    def _settle(self, ask: Ask, written: bool) -> None:
        answer = ask.answer
        if answer is None or answer.outcome != "answered":
            return
        if not written:
            if ask.target.log == "required":
                ask.answer = Answer("refused")
                return
            answer.logged = False
            self.unlogged += len(ask.rows)
        answer.body = self._render(ask, answer)
        # An answer that the log did not take is not remembered: a repeat gets another chance to be logged.
        if ask.request_id and written and ask.at_us is not None:
            fresh = _Memory(ask.inputs, ask.target.columns, ask.at_us, answer.body)
            self._remember((ask.target.name, ask.request_id), fresh)

    def _remember(self, key: tuple[str, str], fresh: _Memory) -> None:
        memory = self._memory
        if (before := memory.pop(key, None)) is not None:
            self._memory_bytes -= len(before.body)
        memory[key] = fresh
        self._memory_bytes += len(fresh.body)
        while len(memory) > REMEMBERED or self._memory_bytes > REMEMBERED_BYTES:
            self._memory_bytes -= len(memory.popitem(last=False)[1].body)

    def tick(self) -> None:
        """Once a second: spools to the disk, old spools let go, hanging models given up."""
        self._watch()
        for spool in self._spools.values():
            spool.tick()
        if self.log_problem and monotonic_s() - self._log_failed_s > LOG_CALM_S:
            self.log_problem = ""

    @property
    def failed_syncs(self) -> int:
        """How often the disk refused to keep what the spools hold."""
        return sum(spool.failed_syncs for spool in self._spools.values())

    def close(self) -> None:
        """Let go of all lanes and spools."""
        for lane in self._lanes.values():
            lane.close()
        for spool in self._spools.values():
            spool.rotate()


def _answer_alike(leader: Ask, ask: Ask) -> None:
    """Give a request the answer of its twin, which came before it."""
    same = leader.inputs == ask.inputs or _were_others(leader.target.columns, ask)
    ask.answer = leader.answer if same else Answer("conflict")


def _were_others(columns: Columns, ask: Ask) -> bool:
    """Whether the routes asked for other columns when a request came first: nobody knows that its inputs differ."""
    return columns is not ask.target.columns and columns != ask.target.columns


def _decide(ask: Ask, judged: list[Judged], start: int, prediction: str) -> None:
    """Pick the answering version: the arm's, the champion's when the arm failed, none when both did."""
    target = ask.target
    arm = champion = target.versions[0]
    if ask.pinned is not None:
        arm = next(served for served in target.versions if served.version == ask.pinned)
    elif len(target.versions) > 1 and target.versions[1].live:
        arm = pick(target, ask.request_id or prediction)
    ask.arm = arm.version
    for choice in (arm,) if arm is champion else (arm, champion):
        made = judged[0] if choice is champion else next(part for part in judged if part.served is choice)
        scores = made.scores[start : start + len(ask.rows)]
        if None not in scores:
            ask.answer = Answer("answered", choice.version, choice.output, scores, prediction)  # type: ignore[arg-type]
            return
    ask.answer = Answer("failed", None, prediction_id=prediction)


def _note(ask: Ask, judged: list[Judged], start: int, logged: list[LogRow], width: int) -> None:
    """Write the log rows of an Ask; what had no answer is logged under its own id, so that a retry stands beside it.

    Beside a look-up the rows hold `width` base columns too, which are null where a full row was sent.
    """
    answer, rows = ask.answer, ask.rows
    if width:
        base = ask.base or [[None] * width] * len(rows)
        rows = [[*row, *more] for row, more in zip(rows, base, strict=True)]
    if answer is None or ask.at_us is None:
        return
    many = len(ask.rows) > 1
    if not many and len(judged) == 1 and answer.version is not None:
        [only], version, id = judged, answer.version, answer.prediction_id
        row = LogRow(id, ask.at_us, ask.received_us, ask.request_id or id, version, ask.arm, ask.subject, rows[0])
        row.scores, row.latency_us = {version: only.scores[start]}, {version: only.latency_us[start]}  # type: ignore[dict-item]
        logged.append(row)
        return
    request_id = ask.request_id if ask.request_id and answer.version is not None else answer.prediction_id
    for offset, values in enumerate(rows):
        place = start + offset
        suffix = f"/{offset}" if many else ""
        scored: dict[int, float] = {}
        errors: dict[int, str] = {}
        took: dict[int, int] = {}
        for part in judged:
            version, score = part.served.version, part.scores[place]
            if score is None:
                errors[version] = part.errors[place]
            else:
                scored[version] = score
            if part.served.predictor is not None:
                took[version] = part.latency_us[place]
        row_id, row_request = answer.prediction_id + suffix, request_id + suffix
        row = LogRow(row_id, ask.at_us, ask.received_us, row_request, answer.version, ask.arm, ask.subject, values)
        row.scores, row.errors, row.latency_us = scored, errors, took
        logged.append(row)
