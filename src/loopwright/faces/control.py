"""The control process: the API of all op rows, the clock, the event feed, and the scheduler behind them.

It also hands `/v2/` on to a worker, so that one base URL does everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loopwright.faces import bind, client, processes, takeover
from loopwright.faces.children import CANNOT_START
from loopwright.faces.jobs import OP_JOB
from loopwright.kernel import settings as config
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, LoopwrightError, Unavailable
from loopwright.kernel.ids import new_id
from loopwright.kernel.times import parse_time
from loopwright.project.server import CONTROL_LOCK, run_folder
from loopwright.store import space as spaces

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from loopwright.faces.door import Gate
    from loopwright.faces.http import Wire
    from loopwright.faces.public import Publisher
    from loopwright.faces.rooms import House
    from loopwright.kernel.op import Op
    from loopwright.store.space import Space

_PASSED_ON = ("content-type", "inference-header-content-length")  # of the wire of predictions
LONGEST_POLL_S = 60.0
_DRAIN_S = 3


class Control:
    """The parts that the hand-written routes share."""

    def __init__(self, house: House, space: Space, data_url: str) -> None:
        from loopwright.faces.scheduler import Scheduler

        self.house, self.space, self.data_url = house, space, data_url
        self.scheduler = Scheduler(space, self._changed)
        self.leaving = False
        self.gate: Gate | None = None
        self.publisher: Publisher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()

    def _changed(self) -> None:
        if self.publisher is not None:
            self.publisher.look()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def leave(self) -> None:
        """Let those who wait for news or for the clock have their answers now."""
        self.leaving = True
        self.scheduler.stop()
        self._tell()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Starlette: the scheduler lives as long as the application."""
        self._loop = asyncio.get_running_loop()
        if self.publisher is not None:
            self.publisher.publish()
        self.scheduler.start()
        yield
        self.scheduler.stop()

    def wires(self) -> list[Wire]:
        """Every route of control."""
        from loopwright.faces import login, openapi
        from loopwright.faces.http import Wire, op_wire

        ops = self.house.ops()
        routed = [op for op in ops.values() if op.http and op.name != "lineage.events"]
        out = [op_wire(op, self.space, self.submit) for op in routed]
        return [
            *out,
            *login.wires(self),
            *openapi.wires(self),
            Wire("GET", "/health", "control.read", self.health),
            Wire("GET", "/health/live", "health.live", self.live),
            Wire("GET", "/health/ready", "health.live", self.ready),
            Wire("GET", "/api/v1/clock", "control.read", self.clock),
            Wire("POST", "/api/v1/clock/advance", "clock.advance", self.advance),
            Wire("GET", "/api/v1/jobs/{action_id}", "jobs.read", self.job, None),
            Wire("GET", "/api/v1/events", ops["lineage.events"].action, self.events),
            Wire("GET", "/v2", "endpoints.read", self.forward),
            Wire("GET", "/v2/{rest:path}", "endpoints.read", self.forward, None),
            Wire("POST", "/v2/{rest:path}", "endpoints.predict", self.forward, None),
        ]

    def application(self, port: int) -> ASGIApp:
        """The ASGI application of this control, for a port of this machine."""
        from loopwright.faces import door, public

        public.check_space(self.space)
        self.gate, self.publisher = public.gate(self.space, self.space.home / "run", port)
        return door.application(self.space, self.wires(), self.gate, lifespan=self.lifespan)

    def submit(self, op: Op, actor: str, args: dict[str, Any]) -> dict[str, Any]:
        """Give an op of the shape `job` to the job server and say where its result will stand."""
        import msgspec

        from loopwright.pipelines import queue

        action_id = new_id("action")
        told = {"op": op.name, "actor": actor, "args": msgspec.to_builtins(args, enc_hook=bind.plain)}
        self.space.write(lambda tx: queue.enqueue(tx, action_id, OP_JOB, told))
        return {"action_id": action_id, "state": "queued", "at": f"/api/v1/jobs/{action_id}"}

    async def health(self, request: Request) -> Response:
        """How every part does; `ready` says that predictions are answered and that control follows."""
        from loopwright.faces.http import answer
        from loopwright.project import health

        found = await asyncio.to_thread(health.look, self.space)
        workers = sum(part.name.startswith("worker-") for part in found.parts)
        return answer({
            "ready": found.ready, "workers": workers, "problem": self.scheduler.problem,
            "state": found.state, "parts": found.parts,
        })  # fmt: skip

    async def live(self, request: Request) -> Response:
        """That control answers."""
        from loopwright.faces.http import answer

        return answer({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 while predictions are answered and control follows, 503 else."""
        from loopwright.faces.http import answer
        from loopwright.project import health

        found = await asyncio.to_thread(health.look, self.space)
        if not found.ready:
            raise Unavailable("not every part is there", code="up.not-ready", hint="lw status")
        return answer({"ready": True})

    async def clock(self, request: Request) -> Response:
        """The Space's time, the next moment, and whether all that was due is done."""
        from loopwright.faces.http import answer

        return answer(await asyncio.to_thread(self.scheduler.state))

    async def advance(self, request: Request) -> Response:
        """Move a replay's clock and answer when all that is due by then is done."""
        from loopwright.faces.http import answer, body_fields

        fields = body_fields(await request.body())
        unknown = sorted(set(fields) - {"to"})
        if unknown or not isinstance(fields.get("to"), str):
            field = unknown[0] if unknown else "to"
            raise Invalid('send {"to": "2013-04-02T04:00:00Z"}', code="request.fields", field=field)
        asked = self.scheduler.advance(parse_time(fields["to"], "to"))
        return answer(await asyncio.wrap_future(asked))

    async def job(self, request: Request) -> Response:
        """How far a job has come; whoever asked for it is told without leave to see all jobs."""
        from loopwright.access import service as access
        from loopwright.faces.http import answer
        from loopwright.kernel.errors import NotFound
        from loopwright.pipelines import queue

        action_id = request.path_params["action_id"]
        found = await asyncio.to_thread(queue.get, self.space, action_id)
        if found is None or found.kind != OP_JOB or found.args.get("actor") != request.state.actor:
            access.require(self.space, request.state.actor, "jobs.read")
        if found is None:
            raise NotFound(f"no job {action_id}", code="job.missing", field="action_id")
        return answer(found)

    async def events(self, request: Request) -> Response:
        """Events after a number; with `wait_s` the answer waits until there is one (a long poll)."""
        from loopwright.faces.http import answer

        op = self.house.ops()["lineage.events"]
        raw: dict[str, Any] = dict(request.query_params)
        wait_s = _seconds(raw.pop("wait_s", "0"))
        args = bind.bind(op, raw)
        until = monotonic_s() + min(wait_s, LONGEST_POLL_S)
        while True:
            news = self._news
            found = await asyncio.to_thread(op.fn, self.space, request.state.actor, **args)
            left = until - monotonic_s()
            if found or left <= 0 or self.leaving:
                return answer(found)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)

    async def forward(self, request: Request) -> Response:
        """Hand a call of the Open Inference Protocol on to a worker."""
        from starlette.responses import Response

        from loopwright.access import service as access
        from loopwright.serving.protocols.door import asked

        # As it came: the worker decodes it, and nothing is decoded twice, nor read in another way than there.
        path = request.scope["raw_path"].decode("latin-1")
        wanted = asked(request.method.encode(), path)
        if wanted is not None:
            subject = f"endpoint:{wanted[1]}" if wanted[1] else ""
            access.require(self.space, request.state.actor, wanted[0], subject)
        body = await request.body() if request.method == "POST" else None
        target = path + (f"?{request.url.query}" if request.url.query else "")
        kept = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers = {"content-type": client.JSON, **kept} if body is not None else kept
        if self.publisher is not None:
            headers["authorization"] = f"Bearer {self.publisher.token}"

        def call() -> tuple[client.Reply, bytes]:
            pin = client.pin_of(self.space.root)
            with contextlib.closing(client.Client(self.data_url, timeout_s=120.0, pin=pin)) as worker:
                reply = worker.send(request.method, target, body, headers)
                return reply, worker.take(reply)

        try:
            reply, answered = await asyncio.to_thread(call)
        except Unavailable:
            raise Unavailable("no worker answers", code="worker.silent", hint="lw status") from None
        told = {name: reply.headers[name] for name in (*_PASSED_ON, "allow", "retry-after") if name in reply.headers}
        return Response(answered, reply.status, told, media_type=None)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise Invalid("wait_s is a number of seconds", code="request.wrong-type", field="wait_s")
    return seconds


def serve(house: House, root: Path, fd: int, data_url: str) -> None:
    """Be the control process of a project on a listening socket.

    Raises:
        LoopwrightError: the Space cannot be opened.
    """
    import uvicorn

    from loopwright.faces import http, httpd, scheduler  # noqa: F401 - loaded before an earlier control is let go
    from loopwright.faces.listener import Listener
    from loopwright.serving import watermark

    listening = socket.socket(fileno=fd)
    (run_folder(root) / takeover.STANDBY).write_text(str(os.getpid()))
    lock = processes.lock(run_folder(root) / CONTROL_LOCK, wait_s=30.0)
    if lock is None:
        raise Unavailable("an earlier control process does not end", code="control.locked", hint="lw down")
    space = house.open(root)
    watermark.enter(space)
    spaces.bind(space)
    control = Control(house, space, data_url)
    settings = uvicorn.Config(
        control.application(listening.getsockname()[1]),
        loop="uvloop",
        http=Listener,
        ws="none",
        lifespan="on",
        ssl_certfile=config.file_of(root, space.settings.tls_cert),
        ssl_keyfile=config.file_of(root, space.settings.tls_key),
        access_log=False,
        proxy_headers=False,  # who the client is decides who may in: nobody else says it
        server_header=False,
        log_level="warning",
        timeout_graceful_shutdown=_DRAIN_S,
        backlog=processes.BACKLOG,
    )
    server = httpd.Server(settings, control.leave)
    server.run(sockets=[listening])
    space.close()


def command(house: Callable[[], House]) -> click.Command:
    """The hidden command behind which `lw up` runs control."""

    @click.command("_control", hidden=True)
    @click.option("--root", required=True)
    @click.option("--fd", type=int, required=True)
    @click.option("--data-url", required=True)
    def run(root: str, fd: int, data_url: str) -> None:
        try:
            serve(house(), Path(root), fd, data_url)
        except Unavailable:
            raise
        except LoopwrightError as error:
            click.echo(error.message, err=True)
            sys.exit(CANNOT_START)

    return run
