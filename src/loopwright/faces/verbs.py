"""Hand-written commands: `lw init` and `lw api`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from loopwright.faces import bind, commands, output
from loopwright.kernel import settings
from loopwright.kernel.errors import NotFound
from loopwright.kernel.settings import Settings
from loopwright.store import space as spaces

if TYPE_CHECKING:
    from loopwright.faces.rooms import House

_READ_BYTES = 1 << 20


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that has become a project."""

    root: str
    clock: str
    entry: str | None
    git: bool


def init(house: Callable[[], House]) -> click.Command:
    """`lw init`."""

    @click.command("init")
    @click.argument("folder", type=click.Path(file_okay=False), default=".")
    @click.option("--clock", type=click.Choice(["wall", "replay"]), help="What drives the Space's time. [wall]")
    @click.option("--start", help="Where a replay clock starts, such as 2013-04-01T04:00:00Z.")
    @click.option("--entry", help="The project file that declares data, steps and endpoints.")
    @output.as_json
    def make(folder: str, clock: str | None, start: str | None, entry: str | None, as_json: bool) -> None:
        """Make a folder a loopwright project."""
        root = Path(folder).resolve()
        given = {"clock": clock, "start": start, "entry": entry}
        asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        wanted = None
        if not (root / settings.FILE).exists():
            root.mkdir(parents=True, exist_ok=True)
            wanted = msgspec.convert({"entry": detected(root), **asked}, Settings)
        elif asked:
            wanted = msgspec.structs.replace(settings.read_file(root), **asked)
        space = house().init(root, wanted)
        (space.home / ".gitignore").write_text("*\n", "utf-8")
        git = any((above / ".git").exists() for above in (root, *root.parents))
        made = Made(root=str(root), clock=space.settings.clock, entry=space.settings.entry, git=git)
        output.say(made, schema="lw.init/1", as_json=as_json, render=_told)

    return make


def detected(root: Path) -> str | None:
    """The one Python file of a folder that uses loopwright, if there is exactly one."""
    found = []
    for path in sorted(root.glob("*.py")):
        if path.stat().st_size <= _READ_BYTES and "import loopwright" in path.read_text("utf-8", "replace"):
            found.append(path.name)
    return found[0] if len(found) == 1 else None


def _told(made: Made) -> str:
    lines = [f"{made.root} is a loopwright project on the {made.clock} clock"]
    lines.append(f"project file: {made.entry}" if made.entry else 'no project file yet: set entry = "FILE.py" in it')
    if not made.git:
        lines.append("no git here: runs are kept without a commit")
    lines.append("next: lw run" if made.entry else "next: lw add PATH")
    return "\n".join(lines)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its value, and what set it."""

    name: str
    value: Any
    origin: str


def config(house: Callable[[], House]) -> click.Command:
    """`lw config`."""

    @click.command("config")
    @click.option("--show-origin", is_flag=True, help="Say what set each: a variable, loopwright.toml or the default.")
    @output.as_json
    def show(show_origin: bool, as_json: bool) -> None:
        """Say how the project is set; the environment stands above loopwright.toml."""
        found = settings_of(spaces.find_root(Path.cwd()))
        rows = found if show_origin else [{"name": row.name, "value": row.value} for row in found]
        output.say(rows, schema="lw.config/1", as_json=as_json)

    return show


def settings_of(root: Path) -> list[Setting]:
    """Every setting of a project and where it comes from."""
    plain, in_file = msgspec.structs.asdict(Settings()), msgspec.structs.asdict(settings.read_file(root))
    out = []
    for name, value in msgspec.structs.asdict(settings.read(root)).items():
        variable = settings.ENVIRONMENT.get(name, "")
        origin = variable if os.environ.get(variable) else settings.FILE if in_file[name] != plain[name] else "default"
        if name != "notify":
            out.append(Setting(name=name, value=value, origin=origin))
            continue
        for channel, said in value.items():
            told = {key: held for key, held in msgspec.structs.asdict(said).items() if held not in (None, ())}
            out += [Setting(name=f"notify.{channel}.{key}", value=held, origin=origin) for key, held in told.items()]
    return out


def api(house: Callable[[], House]) -> click.Command:
    """`lw api`."""

    @click.command("api")
    @click.argument("operation", required=False)
    @click.argument("fields", nargs=-1, metavar="KEY=VALUE...")
    @click.option("--openapi", "described", is_flag=True, help="Print the OpenAPI document of all operations.")
    @output.as_json
    def call(operation: str | None, fields: tuple[str, ...], described: bool, as_json: bool) -> int:
        """Call any operation by its name; without one, list them."""
        ops = house().ops()
        if described:
            from loopwright.faces import openapi

            click.echo(bind.to_json(openapi.document(ops)))
            return 0
        if operation is None:
            rows = [{"operation": op.name, "http": op.http, "does": bind.help_text(op)} for op in ops.values()]
            output.say(rows, schema="lw.api/1", as_json=as_json)
            return 0
        op = ops.get(operation)
        if op is None:
            raise NotFound(f"there is no operation {operation!r}", code="op.missing", field="operation", hint="lw api")
        return commands.run(op, commands.pairs(fields, "fields"), as_json=as_json)

    return call
