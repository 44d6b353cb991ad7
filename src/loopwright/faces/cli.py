"""The command `lw`: commands from op rows with `cli=`, and the hand-written verbs.

The only place of exit codes. Light to start: a verb's module and the rooms' services load when they are used.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from loopwright.faces.index import COMMANDS
from loopwright.kernel import errors

if TYPE_CHECKING:
    from loopwright.faces.rooms import House

OK, FAILED, WRONG_USE, REFUSED, ALARM, NEEDS_APPROVAL, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
PROGRAM = "lw"

# verb -> where its click command is made, what it does
VERBS: dict[str, tuple[str, str]] = {
    "init": ("verbs:init", "Make this folder a loopwright project."),
    "demo": ("demo:command", "Copy a demo project out and let its loop run."),
    "up": ("up:command", "Serve, log and run the loop on this machine."),
    "restore": ("moving:restore", "Bring a backup back, or move a project to another database and store."),
    "down": ("up:down", "Stop what `lw up` started here."),
    "restart": ("up:restart", "Let `lw up` go on as the code that is installed now."),
    "replay": ("replay:command", "Send recorded requests and labels at their own times."),
    "watch": ("live:command", "Watch an endpoint: day, requests, quality, decisions."),
    "api": ("verbs:api", "Call any operation by its name: lw api OP key=value."),
    "config": ("verbs:config", "Say how the project is set, and by what."),
}
LOCAL = frozenset(VERBS) - {"api"}
HIDDEN: dict[str, str] = {"_control": "control:command", "_jobs": "jobs:command", "_ready": "up:ready"}
ALIASES = {"repro": "run", "apply": "deploy", "describe": "show", "ui": "up"}
# the order of one life cycle; commands not named here come last
ORDER = [
    *("init", "demo", "up", "down", "restart", "status"),
    *("add", "features", "run", "check", "deploy", "rollback", "approve", "approvals", "pause", "resume"),
    *("replay", "watch", "predictions", "show", "log", "events", "trace", "alarms", "feeds", "drift"),
    *("users", "tokens", "audit", "fsck", "gc", "backup", "restore", "config", "api"),
]


class Face(click.Group):
    """The root command; its children are made when they are asked for."""

    def __init__(self, house: Callable[[], House]) -> None:
        super().__init__(
            PROGRAM,
            context_settings={"help_option_names": ["-h", "--help"]},
            help="One tool that closes the machine-learning lifecycle as a loop.",
            params=[
                click.Option(["--version"], is_flag=True, help="Print the version."),
                click.Option(["--url"], help="Work on a Space elsewhere, by the address of its `lw up`."),
            ],
            invoke_without_command=True,
            callback=self._bare,
        )
        self.house = house

    @staticmethod
    def _bare(version: bool, url: str | None) -> None:
        context = click.get_current_context()
        if version:
            from loopwright import __version__

            click.echo(f"loopwright {__version__}")
            raise click.exceptions.Exit(OK)
        if url is not None and context.invoked_subcommand in LOCAL:
            raise Misuse(f"{context.invoked_subcommand} works on this machine only", field="url")
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the life cycle."""
        names = {*VERBS, *COMMANDS}
        return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, made now."""
        name = ALIASES.get(cmd_name, cmd_name)
        place = HIDDEN.get(name) or VERBS.get(name, ("", ""))[0]
        if place:
            module, function = place.split(":")
            command: click.Command = getattr(import_module(f"loopwright.faces.{module}"), function)(self.house)
            return command
        from loopwright.faces import commands

        return commands.find(self.house, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line a command, without making the commands."""
        helps = {name: text for name, (_, text) in [*COMMANDS.items(), *VERBS.items()]}
        with formatter.section("Commands"):
            formatter.write_dl([(name, helps[name]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and name the nearest one when there is none of that name."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, [*self.list_commands(ctx), *ALIASES], n=1)
            hint = f"{PROGRAM} {near[0]}" if near else f"{PROGRAM} --help"
            raise Misuse(f"there is no command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)


class Misuse(errors.Invalid):
    """A command line that says something the command does not take."""

    kind = "usage"


def main(house: Callable[[], House], argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = Face(house).main(words, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        told = str(error.__cause__ or error)  # click raises its Abort from the KeyboardInterrupt
        click.echo(f"interrupted: {told}" if told else "interrupted", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        return report(_misuse(error, words), as_json="--json" in words)
    except errors.LoopwrightError as error:
        return report(error, as_json="--json" in words)
    except OSError as error:
        if error.errno != errno.EPIPE:
            where = f": {error.filename}" if error.filename else ""
            failed = errors.LoopwrightError(f"{error.strerror or error}{where}", code="system")
            return report(failed, as_json="--json" in words)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _misuse(error: click.ClickException, words: Sequence[str]) -> Misuse:
    context = getattr(error, "ctx", None)
    known = words[0] if words and words[0] in (*VERBS, *COMMANDS) else ""
    path = context.command_path if context else f"{PROGRAM} {known}".rstrip()
    hint = f"{path} --help"
    field = getattr(getattr(error, "param", None), "name", None)
    return Misuse(error.format_message().rstrip("."), field=field, hint=hint)


def report(error: errors.LoopwrightError, *, as_json: bool) -> int:
    """Print an error and return the exit code that stands for it."""
    if as_json:
        from loopwright.faces import bind

        document: dict[str, Any] = {"schema": "lw.error/1", **error.to_dict()}
        click.echo(bind.to_json(document))
    else:
        from loopwright.faces.text import tame

        click.echo(f"error: {tame(error.message)}", err=True)
        if error.hint:
            click.echo(f"  try: {tame(error.hint)}", err=True)
    return exit_code(error)


def exit_code(error: errors.LoopwrightError) -> int:
    """The exit code that stands for an error."""
    if isinstance(error, errors.GateFailed):
        return NEEDS_APPROVAL if error.code.startswith("approval.") else REFUSED
    if isinstance(error, errors.Invalid | errors.Unsupported):
        return WRONG_USE
    return FAILED
