"""`lw up`, `lw down` and `lw restart`: the commands, and how the server is started as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loopwright.faces import children, client, output, processes, supervisor, takeover
from loopwright.faces.children import Plan, last_words
from loopwright.faces.supervisor import DRAIN_S, taken
from loopwright.kernel import settings as config
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import LoopwrightError, NotFound, Timeout
from loopwright.project import server
from loopwright.store import space as spaces

if TYPE_CHECKING:
    from loopwright.faces.rooms import House

DATA_PORT = 4601
READY_S = 60.0
RESTART_S = 240.0

PORT = click.IntRange(0, 65535)


def planned(root: Path, **given: int | None) -> Plan:
    """What to start: what was asked for, else loopwright.toml, else the defaults."""
    settings = config.read(root)

    def first(name: str, default: int) -> int:
        value = given.get(name)
        return default if value is None else value

    workers = settings.workers or max(1, (os.cpu_count() or 2) - 1)
    return Plan(
        root=root,
        port=first("port", settings.port),
        data_port=first("data_port", DATA_PORT),
        workers=max(1, first("workers", workers)),
        jobs=max(1, first("jobs", 1)),
        host=settings.host,
        scheme="http" if settings.tls_cert is None else "https",
    )


def start(plan: Plan, *, detached: bool = False) -> tuple[subprocess.Popen[bytes], server.Running]:
    """Start `lw up` as a process of its own and wait until it answers.

    Raises:
        LoopwrightError: it ended before it answered.
        Timeout: it did not answer in a minute.
    """
    log = server.run_folder(plan.root) / "up.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # a copied project may come without it
    with log.open("wb") as out:
        process = subprocess.Popen(
            plan.argv(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=detached,
            preexec_fn=None if detached else processes.tied(),
        )
    try:
        return process, _answering(plan.root, process, log)
    except BaseException:  # Ctrl-C too: what has not answered is not left behind
        process.terminate()
        process.wait()
        raise


def _answering(root: Path, process: subprocess.Popen[bytes], log: Path) -> server.Running:
    until = monotonic_s() + READY_S
    while monotonic_s() < until:
        if process.poll() is not None:
            raise LoopwrightError(f"`lw up` ended: {last_words(log)}", code="up.start", hint=f"see {log}")
        found = server.running(root)
        if found is not None and found.pid == process.pid and _healthy(root, found):
            return found
        time.sleep(0.05)
    raise Timeout(f"`lw up` did not answer in {READY_S:.0f} s", code="up.slow", hint=f"see {log}")


def _healthy(root: Path, found: server.Running) -> bool:
    with contextlib.closing(client.Client(found.control_url, timeout_s=5.0, pin=client.pin_of(root))) as probe:
        try:
            return bool(probe.json("GET", "/health/ready")["ready"])
        except LoopwrightError:
            return False


def stop(root: Path) -> server.Running | None:
    """Tell the `lw up` of a project to stop and wait until it has; None when none runs.

    Raises:
        Timeout: it did not stop.
    """
    found = server.running(root)
    if found is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    fd = processes.lock(server.run_folder(root) / server.LOCK, wait_s=4 * DRAIN_S)
    if fd is None:
        raise Timeout(f"`lw up` (process {found.pid}) did not stop", code="up.stop", hint=f"kill {found.pid}")
    os.close(fd)
    return found


def command(house: Callable[[], House]) -> click.Command:
    """`lw up`."""

    @click.command("up")
    @click.option("--port", type=PORT, help="Where control listens; the next free port when taken. [4600]")
    @click.option("--data-port", type=PORT, help="Where predictions are answered. [4601]")
    @click.option("--workers", type=click.IntRange(1, 64), help="Processes that answer. [cores - 1]")
    @click.option("--jobs", type=click.IntRange(1, 64), help="Jobs that run at a time. [1]")
    @click.option("--host", help="The address to listen on. [127.0.0.1]")
    @click.option("--public-host", multiple=True, help="A Host name to answer to besides loopback's.")
    @click.option("--tls-cert", help="PEM file of the certificate chain to show.")
    @click.option("--tls-key", help="PEM file of its key.")
    @click.option("--behind-proxy", is_flag=True, help="A proxy in front ends TLS; loopback is nobody's own then.")
    @click.option("--detach", is_flag=True, help="Go on in the background; `lw down` stops it.")
    @click.option("--resume", is_flag=True, hidden=True)
    @output.root
    @output.as_json
    def up(root: str | None, detach: bool, resume: bool, as_json: bool, **given: Any) -> None:
        """Serve, log and run the loop on this machine, until Ctrl-C or `lw down`."""
        if resume:
            _ended(house, Path(root or "."), supervisor.resume(Path(root or ".")))
            return
        folder = spaces.find_root(Path(root or "."))

        def say(found: server.Running) -> None:
            output.say(found, schema="lw.up/1", as_json=as_json, render=_told_where)
            sys.stdout.flush()

        _to_environment(given)
        plan = planned(folder, **given)
        _check_public(house, folder)
        if not detach:
            _ended(house, folder, supervisor.supervise(plan, say))
            return
        if server.running(folder) is not None:
            raise taken(folder)
        say(start(plan, detached=True)[1])

    return up


def _to_environment(given: dict[str, Any]) -> None:
    """Say where to listen in the environment, which every process of `lw up` reads, also after a restart in place."""
    hosts = given.pop("public_host")
    said = {
        "host": given.pop("host"),
        "public_hosts": ",".join(hosts) or None,
        **{name: _place(given.pop(name)) for name in ("tls_cert", "tls_key")},
        "behind_proxy": "true" if given.pop("behind_proxy") else None,
    }
    os.environ.update({config.ENVIRONMENT[name]: value for name, value in said.items() if value is not None})


def _place(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _check_public(house: Callable[[], House], root: Path) -> None:
    """Before a socket is opened: whether a server may listen where the settings say.

    Raises:
        Invalid: it may not.
    """
    settings = config.read(root)
    if client.is_loopback(settings.host) and settings.tls_cert is None:
        return
    from loopwright.faces import public

    with contextlib.closing(house().open(root)) as space:
        public.check_space(space)


def _ended(house: Callable[[], House], root: Path, told: int) -> None:
    """When all processes are gone: seal what the workers have left, so that no other host waits for it or misses it."""
    if config.read(root).database is not None:
        from loopwright.faces import hosts

        try:
            with contextlib.closing(house().open(root)) as space:
                hosts.depart(space)
        except LoopwrightError as error:
            children.say(f"what this host has logged is sealed by its next `lw up`: {error.message}")
    if told == signal.SIGINT:
        raise KeyboardInterrupt("`lw up` has stopped")


def _told_where(found: server.Running) -> str:
    return (
        f"control      {found.control_url}\npredictions  {found.data_url}\n"
        f"process {found.pid}; stop it with Ctrl-C or `lw down`"
    )


def down(house: Callable[[], House]) -> click.Command:
    """`lw down`."""

    @click.command("down")
    @output.root
    @output.as_json
    def lower(root: str | None, as_json: bool) -> None:
        """Stop the `lw up` of this project."""
        folder = spaces.find_root(Path(root or "."))
        found = stop(folder)
        document = {"stopped": found is not None, "pid": found.pid if found else None}
        text = f"stopped process {found.pid}" if found else "nothing runs here"
        output.say(document, schema="lw.down/1", as_json=as_json, render=lambda _: text)

    return lower


def restart(house: Callable[[], House]) -> click.Command:
    """`lw restart`."""

    @click.command("restart")
    @output.root
    @output.as_json
    def renew(root: str | None, as_json: bool) -> None:
        """Let the `lw up` of this project go on as the code that is installed now; no connection is refused."""
        found = again(spaces.find_root(Path(root or ".")))
        text = f"process {found.pid} goes on as loopwright {found.version}"
        output.say(found, schema="lw.restart/1", as_json=as_json, render=lambda _: text)

    return renew


def again(root: Path) -> server.Running:
    """Let a running `lw up` go on as the code that is installed now, and wait until all of it does.

    Raises:
        NotFound: none runs here.
        LoopwrightError: the installed code cannot take over; what ran goes on.
        Timeout: it took too long.
    """
    before = server.running(root)
    if before is None:
        raise NotFound("no `lw up` runs here", code="up.missing", hint="lw up")
    os.kill(before.pid, signal.SIGUSR2)
    until = monotonic_s() + RESTART_S
    while monotonic_s() < until:
        time.sleep(0.02)
        found = server.running(root)
        if found is None or found.pid != before.pid:
            raise LoopwrightError("`lw up` ended meanwhile", code="up.ended", hint="lw up")
        if found.generation > before.generation and found.restart == takeover.DONE:
            return found
        word, _, why = found.restart.partition(": ")
        if why and found != before:
            raise LoopwrightError(f"the restart was {word}: {why}", code=f"restart.{word}", hint="lw down, then lw up")
    raise Timeout(f"`lw up` did not restart in {RESTART_S:.0f} s", code="restart.slow", hint="lw status")


def ready(house: Callable[[], House]) -> click.Command:
    """The hidden command by which newly installed code says whether it can take over."""

    @click.command("_ready", hidden=True)
    @click.option("--root", required=True)
    def check(root: str) -> None:
        from importlib import import_module

        for name in ("faces.control", "faces.jobs", "faces.httpd", "faces.scheduler", "serving.worker"):
            import_module(f"loopwright.{name}")
        takeover.peek(Path(root))
        house().open(Path(root)).close()

    return check
