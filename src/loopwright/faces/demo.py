"""`lw demo NAME`: copies a demo project out of the package and does what a person would: run, deploy, replay, watch.

Everything after the copy is a command that anybody can type. What a demo is about stands in its own folder, and so do
the acts of a scenario: what somebody does while the clock stands at a moment.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

import loopwright
from loopwright.faces import output, replay
from loopwright.kernel import settings as config
from loopwright.kernel.errors import Conflict, Invalid, LoopwrightError, NotFound, Unsupported
from loopwright.kernel.ids import valid_name
from loopwright.kernel.times import parse_time
from loopwright.serving import routes
from loopwright.store import ledger

if TYPE_CHECKING:
    from loopwright.faces.recorded import Files
    from loopwright.faces.rooms import House
    from loopwright.store.space import Space

FOLDER = Path(loopwright.__file__).parent / "demos"
SHEET = "demo.toml"
MADE = ".made"
_MOST_EVENTS = 100_000
_IDENTITY = ("-c", "user.name=loopwright demo", "-c", "user.email=demo@localhost")
_QUIET = ("-c", "commit.gpgsign=false", "-c", f"core.hooksPath={os.devnull}")


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of an act, typed in the project's folder or one inside it; `once`: the event it leaves, so that it is
    not typed again when the act is taken up again."""

    run: str
    exit: int = 0
    once: str | None = None
    folder: str = "."


class Act(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody does at a moment, and what it shows."""

    at: str
    title: str
    commands: list[Command]


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which files are replayed, and which acts are played."""

    labels: str
    facts: dict[str, str]
    acts: str | None = None


class Sheet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a demo says of itself in demo.toml; the first scenario is played when none is asked for."""

    title: str
    note: str
    endpoint: str
    requests: str
    subject: str
    until: str
    make: str
    data: str
    needs: list[str]
    extra: str
    scenarios: dict[str, Scenario]


class Outcome(msgspec.Struct, kw_only=True):
    """What a demo came to: counts, quality, what the loop decided, what to try next."""

    folder: str
    clock: str
    complete: bool
    sent: int
    answered: int
    failed: int
    logged: int
    joined: int
    loss_served: float | None
    loss_frozen: float | None
    promotions: list[str]
    alarms: list[str]
    seconds: float
    errors: list[str]
    next: list[str]


class Demo:
    """One demo in one folder; every part can be done again, and does only what is not done yet."""

    def __init__(self, sheet: Sheet, source: Path, folder: Path, tell: Callable[[str], None]) -> None:
        self.sheet, self.source, self.folder, self._tell = sheet, source, folder, tell
        self.entry = tomllib.loads((source / config.FILE).read_text("utf-8"))["entry"]

    def check_needs(self) -> None:
        """Raises Unsupported with the exact command when a package is not installed."""
        missing = [name for name in self.sheet.needs if importlib.util.find_spec(name) is None]
        if missing:
            raise Unsupported(
                f"this demo needs {', '.join(missing)}, which the extra [{self.sheet.extra}] brings",
                extra=self.sheet.extra,
                code="demo.needs",
                hint=f"{shlex.quote(sys.executable)} -m pip install {pip_words(self.sheet.extra)}",
            )

    def copy(self) -> None:
        """Put the project's files into the folder, and into git when there is git.

        Raises:
            Conflict: the folder holds something else.
        """
        there = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        if there and self.entry not in there and config.FILE not in there:
            raise Conflict(
                f"{self.folder} is not empty and is not this demo", code="demo.folder", field="folder",
                hint=f"lw demo {self.source.name} OTHER-FOLDER",
            )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        ours = {SHEET, *(scenario.acts for scenario in self.sheet.scenarios.values())}
        for path in sorted(self.source.rglob("*")):
            target = self.folder / path.relative_to(self.source)
            if path.is_file() and path.name not in ours and path.suffix != ".pyc" and not target.exists():
                target.parent.mkdir(exist_ok=True)
                fresh = target.with_name(f"{path.name}.new")
                shutil.copyfile(path, fresh)
                fresh.replace(target)
        ignored = self.folder / ".gitignore"
        if not ignored.exists():
            ignored.write_text(f".loopwright/\n.remote\ncopy/\n{self.sheet.data}/\n__pycache__/\n*.new\n", "utf-8")
        self._commit()

    def _commit(self) -> None:
        if shutil.which("git") is None:
            self._tell("no git here: runs are kept without a commit")
            return
        if self._git("rev-parse", "--verify", "-q", "HEAD") and (self.folder / ".git").exists():
            return
        shutil.rmtree(self.folder / ".git", ignore_errors=True)
        own = () if self._git("config", "user.email") else _IDENTITY
        done = self._git("init", "-q") and self._git("add", "-A")
        if not done or not self._git(*own, *_QUIET, "commit", "-q", "-m", "The project as it was copied out"):
            self._tell("git did not take the project: runs are kept without a commit")

    def _git(self, *words: str) -> bool:
        done = subprocess.run(["git", "-C", str(self.folder), *words], capture_output=True, check=False)
        return done.returncode == 0

    def make_files(self) -> None:
        """Run the script that makes the project's files."""
        made = self.folder / self.sheet.data / MADE
        if not made.exists():
            self._do([sys.executable, self.sheet.make], f"python {self.sheet.make}")
            made.touch()

    def deploy(self, house: House) -> Space:
        """Run the project and deploy what it made, unless it is served already."""
        self.lw("init")
        space = house.open(self.folder)
        if not _served(space, self.sheet.endpoint):
            self.lw("run")
            self.lw("deploy", self.sheet.endpoint)
        return space

    def acts(self, scenario: Scenario) -> list[Act]:
        """The acts of a scenario, in the order of their times."""
        if scenario.acts is None:
            return []
        told = tomllib.loads((self.source / scenario.acts).read_text("utf-8"))
        return sorted(msgspec.convert(told["acts"], list[Act]), key=lambda act: act.at)

    def files(self, scenario: Scenario) -> Files:
        """What a scenario replays."""
        from loopwright.faces.recorded import files_of

        sheet = self.sheet
        facts = [f"{name}={self.folder / path}" for name, path in scenario.facts.items()]
        return files_of(
            self.folder, str(self.folder / sheet.requests), str(self.folder / scenario.labels), facts, sheet.subject
        )

    def play(self, space: Space, act: Act, tell: Callable[[str], None]) -> None:
        """Type the commands of an act; one whose event is there already is not typed again.

        Raises:
            LoopwrightError: a command ended otherwise than it should.
        """
        tell(f"{act.at[:16].replace('T', ' ')}  {act.title}")
        where = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        for command in act.commands:
            if command.once is not None and _left(space, command.once, act.at):
                continue
            argv, folder = ["sh", "-c", command.run], self.folder / command.folder
            self._do(argv, command.run, tell=tell, code=command.exit, folder=folder, env={**os.environ, "PATH": where})

    def lw(self, *words: str) -> None:
        """Type a command in the project's folder."""
        self._do([sys.executable, "-m", "loopwright", *words], "lw " + shlex.join(words))

    def _do(
        self,
        argv: list[str],
        shown: str,
        *,
        tell: Callable[[str], None] | None = None,
        code: int = 0,
        folder: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        tell = tell or self._tell
        tell(f"$ {shown}")
        done = subprocess.run(
            argv, cwd=folder or self.folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        said = done.stdout.decode("utf-8", "replace").rstrip()
        if said:
            tell("\n".join(f"  {line}" for line in said.split("\n")))
        if done.returncode != code:
            last = said.split("\n")[-1] if said else "nothing was said"
            raise LoopwrightError(f"`{shown}` ended with {done.returncode}: {last}", code="demo.step")


def _left(space: Space, kind: str, since: str) -> bool:
    """Whether a person has left an event of a kind since a moment; what the loop did by itself does not count."""
    with space.read() as tx:
        found = ledger.read(tx, kinds=[kind], limit=_MOST_EVENTS)
    return any(event.at_us >= parse_time(since) and event.actor != "loop" for event in found)


def _served(space: Space, endpoint: str) -> bool:
    try:
        return bool(routes.current(space, endpoint))
    except NotFound:
        return False


def pip_words(extra: str) -> str:
    """The requirements of an extra of this package, as words for pip."""
    wanted = []
    for line in metadata.requires("loopwright") or []:
        requirement, _, marker = line.partition(";")
        if marker.replace('"', "'").strip() == f"extra == '{extra}'":
            wanted.append(shlex.quote(requirement.strip()))
    return " ".join(wanted)


def read_sheet(name: str) -> tuple[Sheet, Path]:
    """What a demo says of itself, and where its files are.

    Raises:
        NotFound: there is no demo of that name.
    """
    folder = FOLDER / valid_name(name)
    path = folder / SHEET
    if not path.is_file():
        have = ", ".join(sorted(p.parent.name for p in FOLDER.glob(f"*/{SHEET}")))
        raise NotFound(f"there is no demo {name!r}", code="demo.missing", field="name", hint=f"lw demo {have}")
    return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Sheet), folder


def read_scenario(sheet: Sheet, name: str | None) -> Scenario:
    """A scenario by its name, or the first.

    Raises:
        Invalid: there is none of that name.
    """
    found = sheet.scenarios.get(name or next(iter(sheet.scenarios)))
    if found is None:
        names = ", ".join(sheet.scenarios)
        raise Invalid(f"there is no scenario {name!r}; there are {names}", code="demo.scenario", field="scenario")
    return found


def play(house: House, demo: Demo, order: replay.Order, scenario: Scenario, *, quiet: bool) -> Outcome:
    """Copy, make, run, deploy, replay and act; goes on from wherever an earlier call came to."""
    from loopwright.faces import live

    demo.check_needs()
    demo.copy()
    demo.make_files()
    space = demo.deploy(house)
    feed = live.Feed(house, space, order.endpoint)
    with live.view(feed, to_stderr=quiet) as shown:

        def watch(summary: replay.Summary) -> None:
            done = f"{summary.share:.0%}, {summary.seconds:.0f} s"
            shown.show(f"{done}   {summary.doing}   sent {summary.sent:,}  failed {summary.failed:,}")

        shown.show()
        pauses = [(parse_time(act.at), partial(demo.play, space, act, shown.say)) for act in demo.acts(scenario)]
        summary = replay.run(demo.folder, order, demo.files(scenario), watch, pauses)
        shown.show()
    return outcome(demo, feed, summary)


def outcome(demo: Demo, feed: Any, summary: replay.Summary) -> Outcome:
    """What a demo came to."""
    totals = feed.totals()
    logged, joined, last = counted(feed.space, demo.sheet.endpoint)
    events = feed.decisions()
    endpoint = demo.sheet.endpoint
    words = [f"trace {last}"] if last else []
    words += [f"show {endpoint}", f"log {endpoint}", "events --kind decision", f"watch {endpoint} --once", "status"]
    return Outcome(
        folder=str(demo.folder),
        clock=summary.clock,
        complete=summary.complete,
        sent=summary.sent,
        answered=summary.answered,
        failed=summary.failed,
        logged=logged,
        joined=joined,
        loss_served=totals.served,
        loss_frozen=totals.frozen,
        promotions=promotions(events),
        alarms=[told(event) for event in events if event.kind.startswith("alarm.opened@")],
        seconds=summary.seconds,
        errors=summary.errors,
        next=[f"cd {shlex.quote(str(demo.folder))}", *(f"{program()} {line}" for line in words)],
    )


def program() -> str:
    """`lw` as it can be typed here: by its name where the shell finds this installation, else by its path."""
    own = Path(sys.executable).parent / "lw"
    found = shutil.which("lw")
    return "lw" if found is not None and Path(found).resolve() == own.resolve() else shlex.quote(str(own))


def counted(space: Space, endpoint: str) -> tuple[int, int, str | None]:
    """How many requests were logged, how many of them have their label, and the id of the last prediction."""
    from loopwright.serving import predictions

    with predictions.connect() as con:
        predictions.joined(con, space, endpoint, space.clock.now_us() + 1)
        logged, joined, last = con.execute("SELECT count(*), count(label), max_by(id, at_us) FROM judged").fetchone()
    return int(logged), int(joined), last


def promotions(events: list[Any]) -> list[str]:
    """Each promotion, with the reason for which the gate had let the version through."""
    passed: dict[Any, str] = {}
    out = []
    for event in events:
        if event.kind.startswith("gate.passed@"):
            passed[event.data.get("candidate")] = str(event.data.get("reason"))
        elif event.kind.startswith("version.promoted@"):
            version = event.data.get("version")
            why = passed.get(version, "it was deployed by hand")
            out.append(f"{event.at[:10]}  version {version} for {event.data.get('replaced')}: {why}")
    return out


def told(event: Any) -> str:
    """An event as one line."""
    return f"{event.at[:10]}  {event.sentence}"


def summary_text(found: Outcome) -> str:
    """What a demo came to, as text."""
    from loopwright.faces.live import gain_text

    lines = [
        "",
        f"sent {found.sent:,}  answered {found.answered:,}  failed {found.failed:,}  in {found.seconds:.0f} s",
        f"logged {found.logged:,}  joined with their label {found.joined:,}",
    ]
    if found.loss_served is not None and found.loss_frozen is not None:
        gain = gain_text(found.loss_served, found.loss_frozen)
        both = f"{found.loss_served:.4f} as served, {found.loss_frozen:.4f} had the first model stayed ({gain})"
        lines.append(f"mean loss of the requests whose label came in time: {both}")
    lines.append(f"{len(found.promotions)} promotions")
    lines += [f"  {line}" for line in found.promotions]
    lines.append(f"{len(found.alarms)} alarms")
    lines += [f"  {line}" for line in found.alarms]
    lines += [f"failed {line}" for line in found.errors]
    return "\n".join([*lines, "", "what to try next:", *(f"  {line}" for line in found.next)])


def command(house: Callable[[], House]) -> click.Command:
    """`lw demo`."""

    @click.command("demo")
    @click.argument("name")
    @click.argument("folder", required=False, type=click.Path(file_okay=False))
    @click.option("--scenario", help="What happens on the way; an unknown name lists them.")
    @click.option("--until", help="The last day that is replayed.")
    @click.option("--days-per-second", type=float, help="Go no faster than so many days a second.")
    @click.option("--seed", type=int, default=0, help="Of the order in which requests overlap. [0]")
    @output.as_json
    def demo(
        name: str, folder: str | None, as_json: bool, scenario: str | None, until: str | None, **given: Any
    ) -> None:
        """Copy a demo project out and let its loop run; the same command goes on where it was stopped."""
        sheet, source = read_sheet(name)
        played = read_scenario(sheet, scenario)
        order = msgspec.structs.replace(replay.checked(sheet.endpoint, until=until or sheet.until, **given), whole=True)
        made = Demo(sheet, source, Path(folder or f"{name}-demo").resolve(), lambda line: click.echo(line, err=as_json))
        click.echo(f"{sheet.title}\n{sheet.note}", err=as_json)
        found = play(house(), made, order, played, quiet=as_json)
        output.say(found, schema="lw.demo/1", as_json=as_json, render=summary_text)
        if found.failed or not found.complete:
            raise click.exceptions.Exit(1)

    return demo
