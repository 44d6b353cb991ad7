"""`lw replay`: sends recorded requests, labels and facts at their own times and moves the Space's clock in stops.

In each stop, hour by hour: the facts of the hour, then its requests, each on its own over HTTP, while the next hour's
facts go ahead; then the labels that are known by then; then the clock. What is due, the server says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loopwright.faces import client, output, processes, up
from loopwright.faces.client import Client
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Conflict, Invalid, Unavailable
from loopwright.kernel.ids import valid_name
from loopwright.kernel.times import DAY, HOUR, add_days, day_of, day_start, format_time, parse_time
from loopwright.project import server
from loopwright.serving import subjects
from loopwright.store import space as spaces

if TYPE_CHECKING:
    from loopwright.faces.recorded import Files, Label, Recording, Request
    from loopwright.faces.rooms import House
    from loopwright.store.space import Space

CONNECTIONS = 16
OVERLAP = 32  # how far a request may be sent out of its order within one stop
LABELS_A_BATCH = 5000
LAST_DAYS = 8  # how long after the last label the clock looks for a block close
SHOWN_ERRORS = 5
_POLL_S, _BACK_S, _ASIDE_S = 0.05, 120.0, 0.002
CLOCK, ADVANCE, EVENTS = "/api/v1/clock", "/api/v1/clock/advance", "/api/v1/events"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to replay, and how; `whole` refuses to go on when requests of the past were never logged."""

    endpoint: str
    days_per_second: float | None = None
    until: str | None = None
    seed: int = 0
    whole: bool = False


class Summary(msgspec.Struct, kw_only=True):
    """What a replay has done in this run of it.

    Args:
        repeated: requests that were sent twice because their connection was lost.
        too_early: requests of the file from before the Space's clock began.
        missed: requests from before the clock that no log holds; a replay cannot go back to send them.
        left_out: columns of the file that the endpoint does not ask for.
        share: of the time from the clock's start to the last label that is behind.
        doing: what goes on: requests and labels are sent, or the loop settles what is due.
        seed, overlap: of the order: within a stop a request may be sent up to `overlap` places late.
    """

    endpoint: str
    clock: str = ""
    resumed_at: str = ""
    complete: bool = False
    share: float = 0.0
    doing: str = ""
    sent: int = 0
    answered: int = 0
    failed: int = 0
    repeated: int = 0
    labels: int = 0
    facts: int = 0
    too_early: int = 0
    missed: int = 0
    left_out: list[str] = []
    stops: int = 0
    seconds: float = 0.0
    seed: int = 0
    overlap: int = OVERLAP
    last_prediction: str | None = None
    errors: list[str] = []


Watcher = Callable[[Summary], None]
Facts = dict[str, list[tuple[int, bytes]]]
Pause = tuple[int, Callable[[], None]]  # something that is done while the clock stands at a moment


def silent(summary: Summary) -> None:
    """A Watcher that tells nobody."""


class Replay:
    """One replay against a running `lw up`."""

    def __init__(self, order: Order, root: Path, where: server.Running, recording: Recording) -> None:
        from loopwright.faces.sender import Sender

        self.root = root
        self.watcher: Watcher = silent
        self.pauses: list[Pause] = []
        self.order, self.recording = order, recording
        self.summary = Summary(endpoint=order.endpoint, seed=order.seed, left_out=recording.left_out)
        self._control = Client(where.control_url, timeout_s=None)
        self._supervisor = where.pid
        self._sender = Sender(where.data_url, CONNECTIONS)
        self._head = self._sender.head("POST", f"/v2/models/{order.endpoint}/infer")
        self._began_s = 0.0
        self._from_us = self._told_us = 0

    async def run(self) -> Summary:
        """Go on from where the Space's clock stands until all is sent and the last labels are judged."""
        try:
            clock = await self._settled()
            start, now = parse_time(clock["start"]), parse_time(clock["now"])
            self.summary.resumed_at = self.summary.clock = clock["now"]
            end = self._end(start)
            self.summary.too_early = self.recording.span(-(2**62), start).requests
            self._look_back(start, min(now, end))
            span = self.recording.span(start, end)
            self._began_s, self._from_us, self._told_us = monotonic_s(), now, now
            last = max(span.last_us, span.last_known_us)
            clock = await self._pause(clock)
            while not (now > last and await self._judged(last)):
                following = clock["next"] and parse_time(clock["next"])
                stop = self._stop_after(now, following, last + 1)
                if stop is None:
                    break
                stop = min([stop, *(at_us for at_us, _ in self.pauses)])
                await self._stop(now, stop, (start, end))
                self._note("settles")
                clock = await self._pause(await self._advance(stop))
                now = parse_time(clock["now"])
                self.summary.clock, self.summary.stops = clock["now"], self.summary.stops + 1
                self.summary.share = round(min(1.0, (now - start) / (last - start)), 4)
                self._note("sends")
            self.summary.complete, self.summary.share = True, 1.0
        finally:
            self._sender.close()
            self._control.abort()
        return self.summary

    async def _pause(self, clock: dict[str, Any]) -> dict[str, Any]:
        """Do what is to be done at this moment, and leave out what was done before; returns the clock after it."""
        now = parse_time(clock["now"])
        due, self.pauses = [p for p in self.pauses if p[0] == now], [p for p in self.pauses if p[0] > now]
        for _, work in due:
            await asyncio.to_thread(work)
        return await self._settled() if due else clock

    def _look_back(self, start: int, now: int) -> None:
        """Count the requests of the past that were never logged, as after an earlier replay with an earlier `--until`.

        Raises:
            Conflict: there are some, and the order is for a whole replay.
        """
        if now <= start:
            return
        with contextlib.closing(spaces.open_at(self.root)) as space:
            absent = self.recording.missing(start, now, logged_ids(space, self.order.endpoint, now))
            with space.read() as tx:
                missed = len(absent) - len(subjects.erased_refs(tx, absent, subjects.key_path(space)))
        self.summary.missed = missed
        if missed and self.order.whole:
            raise Conflict(
                f"the clock stands at {format_time(now)}, and {missed:,} requests before it were never sent;"
                " a replay cannot go back",
                code="replay.missed",
                field="until",
                hint="begin anew in another folder",
            )

    def _end(self, start_us: int) -> int:
        if self.order.until is None:
            return self.recording.span(start_us, None).last_us + 1
        return day_start(add_days(self.order.until, 1))

    @staticmethod
    def _stop_after(now: int, following: int | None, last: int) -> int | None:
        """The next stop, or None when there is nothing more to wait for."""
        if now > last + LAST_DAYS * DAY or (following is None and now >= last):
            return None
        return last if following is None else following

    async def _stop(self, now: int, stop: int, span: tuple[int, int]) -> None:
        """Send what belongs to one stop: requests of [now, stop), then labels known in (now, stop]."""
        labels = self.recording.labels(now, stop, span)
        requests = self.recording.requests(max(now, span[0]), min(stop, span[1]))
        facts = self.recording.told(self._told_us, stop + 1)
        edges = [*range(now, stop, HOUR), stop] if facts else [now, stop]
        slices = [(end, _between(requests, since, end, 1)) for since, end in pairwise(edges)]
        # where nobody asks, nothing needs to be told before the next hour in which somebody does
        slices = [found for found in slices if found[1] or found[0] == stop]
        await self._tell(facts, slices[0][0])
        for (end, asked), following in zip_longest(slices, slices[1:]):
            ahead = asyncio.ensure_future(self._tell(facts, end if following is None else following[0]))
            try:
                await self._send(end, asked)
            finally:
                await ahead
        for first in range(0, len(labels), LABELS_A_BATCH):
            await self._label(labels[first : first + LABELS_A_BATCH])

    async def _send(self, end: int, requests: list[Request]) -> None:
        jitter = random.Random(f"{self.order.seed}:{end}")
        places = sorted(range(len(requests)), key=lambda place: place + jitter.random() * OVERLAP)
        await self._sender.run(
            ((requests[place], self._payload(requests[place])) for place in places),
            self._answered,
            self._pace if self.order.days_per_second else None,
        )

    async def _tell(self, facts: Facts, to_us: int) -> None:
        """Tell what becomes known up to and with a moment; done when all workers look it up."""
        since, self._told_us = self._told_us, max(self._told_us, to_us + 1)
        lines = {name: _between(rows, since, self._told_us, 0) for name, rows in facts.items()}
        filled = [(name, found) for name, found in lines.items() if found]
        for place, (name, found) in enumerate(filled, 1):
            path = f"/api/v1/data/{name}/rows?wait={str(place == len(filled)).lower()}"
            await self._aside(partial(self._read, "POST", path, b"\n".join(line for _, line in found)))
            self.summary.facts += len(found)

    def _read(self, verb: str, path: str, body: bytes) -> Any:
        return client.read(*self._control.request(verb, path, body, client.NDJSON))

    def _payload(self, request: Request) -> bytes:
        import orjson

        self.summary.sent += 1
        tensors = [
            {"name": item.name, "shape": [1], "datatype": item.datatype, "data": [value]}
            for item, value in zip(self.recording.inputs, request.values, strict=True)
        ]
        parameters = {"time": format_time(request.at_us)}
        if request.subject is not None:
            parameters["subject"] = request.subject
        body = {"id": request.id, "parameters": parameters, "inputs": tensors}
        return self._sender.payload(self._head, orjson.dumps(body))

    def _answered(self, request: Request, status: int, body: bytes) -> None:
        import orjson

        summary = self.summary
        try:
            found = orjson.loads(body) if body else {}
        except orjson.JSONDecodeError:
            found = {}
        if status == 200 and found.get("id") == request.id:
            summary.answered += 1
            summary.last_prediction = found.get("parameters", {}).get("prediction_id", summary.last_prediction)
            return
        summary.failed += 1
        if len(summary.errors) < SHOWN_ERRORS:
            why = found.get("message") or found.get("error") or "no answer"
            summary.errors = [*summary.errors, f"{request.id}: {status} {why}"]

    async def _pace(self, request: Request) -> None:
        due_s = (request.at_us - self._from_us) / DAY / (self.order.days_per_second or 1.0)
        early_s = self._began_s + due_s - monotonic_s()
        if early_s > _ASIDE_S:
            await asyncio.sleep(early_s)

    async def _label(self, labels: list[Label]) -> None:
        lines = (
            msgspec.json.encode({"id": label.id, "label": label.value, "known_at": format_time(label.known_us)})
            for label in labels
        )
        body = b"\n".join(lines) + b"\n"
        path = f"/api/v1/endpoints/{self.order.endpoint}/labels"
        await self._aside(partial(self._read, "POST", path, body))
        self.summary.labels += len(labels)

    async def _aside(self, call: Callable[[], Any]) -> Any:
        """Call control in a thread; while it is being started again, call once more."""
        until = monotonic_s() + _BACK_S
        while True:
            try:
                return await asyncio.to_thread(call)
            except Unavailable:
                if monotonic_s() > until or not processes.alive(self._supervisor):
                    raise
                await asyncio.sleep(_POLL_S)

    async def _settled(self) -> dict[str, Any]:
        """The clock, once nothing that is due is unfinished."""
        while True:
            clock: dict[str, Any] = await self._aside(lambda: self._control.json("GET", CLOCK))
            if clock["settled"]:
                return clock
            if clock.get("problem"):
                raise Unavailable(f"the loop does not settle: {clock['problem']}", code="clock.problem", hint="lw log")
            await asyncio.sleep(_POLL_S)

    async def _advance(self, to_us: int) -> dict[str, Any]:
        fields = {"to": format_time(to_us)}
        clock: dict[str, Any] = await self._aside(lambda: self._control.json("POST", ADVANCE, fields))
        if clock["settled"]:
            return clock
        return await self._settled()  # a control that is told to end answers before all is done

    async def _judged(self, last_us: int) -> bool:
        """Whether a block was closed after a moment."""
        query = {"subject": f"endpoint:{self.order.endpoint}", "limit": 0}
        found = await self._aside(lambda: self._control.json("GET", EVENTS, query=query))
        closes = (parse_time(event["at"]) for event in found if event["kind"].startswith("block.closed@"))
        return max(closes, default=0) > last_us

    def _note(self, doing: str) -> None:
        self.summary.doing = doing
        self.summary.repeated = self._sender.repeated
        self.summary.seconds = round(monotonic_s() - self._began_s, 3) if self._began_s else 0.0
        self.watcher(self.summary)


def _between(rows: list[Any], since: int, until: int, time: int) -> list[Any]:
    """Of rows in the order of their time, those of [since, until)."""
    key = itemgetter(time)
    return rows[bisect_left(rows, since, key=key) : bisect_left(rows, until, key=key)]


def logged_ids(space: Space, endpoint: str, until_us: int) -> list[str]:
    """The ids of the requests that were logged before a moment."""
    from loopwright.serving import predictions

    with predictions.connect() as con:
        predictions.view(con, space, endpoint, until_us=until_us)
        return [row[0] for row in con.execute("SELECT request_id FROM predictions").fetchall()]


def check_clock(where: server.Running) -> None:
    """Raises Invalid when the Space is not on a clock that a replay can drive."""
    with contextlib.closing(Client(where.control_url)) as control:
        mode = control.json("GET", CLOCK)["mode"]
    if mode != "replay":
        raise Invalid(
            "a replay needs a Space on a replay clock, and this one lives on the wall clock",
            code="replay.clock",
            field="clock",
            hint="in a new folder: lw init --clock replay --start 2013-04-01T04:00:00Z",
        )


def run(root: Path, order: Order, files: Files, watcher: Watcher = silent, pauses: Sequence[Pause] = ()) -> Summary:
    """Replay what some files hold, on the `lw up` that runs here or on one of its own.

    Raises:
        Invalid: a file, or the Space's clock, is not what it must be.
        NotFound: the endpoint is not served.
    """
    from loopwright.faces.recorded import Recording, asked_by

    valid_name(order.endpoint, "endpoint")
    if order.until is not None:
        day_start(order.until)
    own, where = None, server.running(root)
    if where is None:
        own, where = up.start(up.planned(root))
    try:
        check_clock(where)
        recording = Recording(files, asked_by(where, order.endpoint))
        replay = Replay(order, root, where, recording)
        replay.watcher, replay.pauses = watcher, list(pauses)
        try:
            return _loop(replay)
        except KeyboardInterrupt:
            at = replay.summary.clock or "its start"
            raise KeyboardInterrupt(f"the clock stands at {at}; the same command goes on from there") from None
    finally:
        if own is not None:
            own.send_signal(signal.SIGTERM)
            own.wait()


def _loop(replay: Replay) -> Summary:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(replay.run())


def command(house: Callable[[], House]) -> click.Command:
    """`lw replay`."""

    @click.command("replay")
    @click.argument("endpoint")
    @click.option("--requests", required=True, type=click.Path(), help="Parquet or CSV: id, time, then the inputs.")
    @click.option("--labels", required=True, type=click.Path(), help="Parquet or CSV: id, label, known_at.")
    @click.option(
        "--facts", multiple=True, metavar="NAME=FILE", help="Rows of a source as they become known; repeatable."
    )
    @click.option("--subject", metavar="COLUMN", help="The column of the requests that says whom they are about.")
    @click.option("--days-per-second", type=float, help="Go no faster than so many days a second.")
    @click.option("--until", help="Send requests up to the end of this day.")
    @click.option("--seed", type=int, default=0, help="Of the order in which requests overlap. [0]")
    @output.root
    @output.as_json
    def replay(endpoint: str, root: str | None, as_json: bool, **given: Any) -> None:
        """Send recorded requests, labels and facts at their own times; goes on from where the Space's clock stands."""
        from loopwright.faces.recorded import files_of

        house()  # says how a Space is opened
        folder = spaces.find_root(Path(root or "."))
        files = files_of(folder, *(given.pop(name) for name in ("requests", "labels", "facts", "subject")))
        order = checked(endpoint, **given)
        watcher = silent if as_json else _Teller()
        summary = run(folder, order, files, watcher)
        output.say(summary, schema="lw.replay/1", as_json=as_json, render=told)
        if summary.failed:
            raise click.exceptions.Exit(1)

    return replay


def checked(endpoint: str, *, days_per_second: float | None, until: str | None, seed: int) -> Order:
    """The order of a replay, its values checked.

    Raises:
        Invalid: the speed is not positive, or `until` is no day.
    """
    if days_per_second is not None and not days_per_second > 0:
        raise Invalid("--days-per-second must be above 0", code="replay.speed", field="days_per_second")
    day = None if until is None else day_of(parse_time(until, "until"))
    return Order(endpoint=valid_name(endpoint, "endpoint"), days_per_second=days_per_second, until=day, seed=seed)


class _Teller:
    """Tells one line a day."""

    def __init__(self) -> None:
        self.day = ""

    def __call__(self, summary: Summary) -> None:
        if summary.clock and summary.clock[:10] != self.day:
            self.day = summary.clock[:10]
            click.echo(f"{self.day}  sent {summary.sent:,}  answered {summary.answered:,}  failed {summary.failed:,}")


def told(summary: Summary) -> str:
    """A replay's summary as text."""
    state = "all sent and judged" if summary.complete else "the same command goes on from there"
    lines = [
        f"sent {summary.sent:,}  answered {summary.answered:,}  failed {summary.failed:,}  labels {summary.labels:,}",
        f"the clock stands at {summary.clock}: {state}; {summary.stops} stops in {summary.seconds:.0f} s",
        *(f"failed {text}" for text in summary.errors),
    ]
    if summary.too_early:
        lines.append(f"{summary.too_early:,} requests lie before the clock's start and were left out")
    if summary.missed:
        lines.append(f"{summary.missed:,} requests from before the clock were never logged; a replay cannot go back")
    if summary.left_out:
        lines.append(f"columns that {summary.endpoint} does not ask for: {', '.join(summary.left_out)}")
    if summary.last_prediction:
        lines.append(f"next: lw trace {summary.last_prediction}")
    return "\n".join(lines)
