"""click commands made from op rows; the values are converted by `bind`, as those of HTTP are."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import msgspec

from loopwright.access import service as access
from loopwright.faces import bind, output
from loopwright.faces.index import COMMANDS
from loopwright.faces.rooms import House
from loopwright.kernel.errors import Invalid
from loopwright.kernel.op import Op
from loopwright.store import space as spaces
from loopwright.store.space import Space


def find(house: Callable[[], House], name: str) -> click.Command | None:
    """The command of that name; a group when op rows have a second word under it."""
    rooms = COMMANDS.get(name, ("", ""))[0].split()
    ops = [op for room in rooms for op in import_module(f"loopwright.{room}.ops").OPS] or house().ops().values()
    house()  # says how a Space is opened
    found = {op.cli: op for op in ops if op.cli and op.cli.split(" ")[0] == name}
    own = found.pop(name, None)
    if not found:
        return None if own is None else command(own, name)
    group = click.Group(name, help=group_help(found)) if own is None else _both(own, name)
    for words, op in found.items():
        group.add_command(command(op, words.split(" ", 1)[1]))
    return group


def _both(op: Op, name: str) -> click.Group:
    """A command that has others under it: alone it does its own work."""
    alone = command(op, name)

    def call(**given: Any) -> int:
        if click.get_current_context().invoked_subcommand is not None:
            return 0
        return int(alone.callback(**given)) if alone.callback else 0

    made = click.Group(name, help=alone.help, invoke_without_command=True, callback=call)
    made.params = alone.params
    made.result_callback()(lambda under, **given: under)
    return made


def group_help(ops: Mapping[str, Op]) -> str:
    """The help line of commands that share their first word: of several, what can be done to it."""
    if len(ops) == 1:
        return short(bind.help_text(next(iter(ops.values()))))
    noun = next(iter(ops)).split(" ")[0]
    return f"{', '.join(words.split(' ', 1)[1] for words in ops).capitalize()} {noun}."


def short(line: str) -> str:
    """A help line for a list: what follows a colon or semicolon is left to the command's own help."""
    head = re.split("[:;]", line, maxsplit=1)[0]
    return head if head.endswith(".") else head + "."


def index(house: House) -> dict[str, tuple[str, str]]:
    """Every top-level command that op rows name: its rooms and its help line; kept in `faces/index.py`."""
    found: dict[str, dict[str, Op]] = {}
    for op in house.ops().values():
        if op.cli:
            found.setdefault(op.cli.split(" ")[0], {})[op.cli] = op
    rooms = {name: " ".join(dict.fromkeys(op.name.split(".")[0] for op in ops.values())) for name, ops in found.items()}
    return {name: (rooms[name], _index_help(name, ops)) for name, ops in sorted(found.items())}


def _index_help(name: str, ops: Mapping[str, Op]) -> str:
    return short(bind.help_text(ops[name])) if name in ops else group_help(ops)


def command(op: Op, name: str | None = None) -> click.Command:
    """The click command of one op row."""
    made = click.Command(name or (op.cli or op.name).split(" ")[-1], help=bind.help_text(op), callback=_callback(op))
    for param in bind.params(op):
        made.params.append(_argument(param) if param.name in op.positional else _option(param))
    made.params.sort(key=lambda p: op.positional.index(p.name or "") if isinstance(p, click.Argument) else 99)
    made.params.append(output.json_option())
    return made


def _callback(op: Op) -> Callable[..., int]:
    def call(as_json: bool, **given: Any) -> int:
        values = {name: value for name, value in given.items() if value not in (None, ())}
        return run(op, values, as_json=as_json)

    return call


def elsewhere() -> str | None:
    """The address of the Space elsewhere that the command line or the environment names."""
    context = click.get_current_context(silent=True)
    given = None if context is None else context.find_root().params.get("url")
    return given or os.environ.get("LOOPWRIGHT_URL") or None


def run(op: Op, raw: dict[str, Any], *, as_json: bool) -> int:
    """Call an op here or elsewhere and print its result; returns the exit code."""
    url = elsewhere()
    if url is None:
        return _print(op, _here(op, spaces.current(), raw), as_json=as_json)
    from loopwright.faces import client, remote

    with contextlib.closing(client.Client(url, token=client.token_of_environment())) as connection:
        return _print(op, remote.Caller(connection).call(op, _words(op, raw)), as_json=as_json)


def _here(op: Op, space: Space, raw: dict[str, Any]) -> Any:
    actor = access.local_actor()
    access.require(space, actor, op.action)
    args = bind.bind(op, _words(op, raw))
    if not bind.takes_progress(op):
        return op.fn(space, actor, **args)
    from loopwright.faces import progress

    with progress.shown() as tell:
        return op.fn(space, actor, **args, **{bind.PROGRESS: tell})


def _print(op: Op, result: Any, *, as_json: bool) -> int:
    if op.shape == "stream":
        for piece in (result,) if isinstance(result, bytes) else result:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    else:
        output.say(result, schema=op.schema, as_json=as_json, render=op.render)
    return op.exit_code(result) if op.exit_code else 0


def _argument(param: bind.Param) -> click.Argument:
    many = bind.origin(param.type) in (list, tuple)
    return click.Argument([param.name], required=param.required, nargs=-1 if many else 1, type=_kind(param))


def _option(param: bind.Param) -> click.Option:
    flags = [param.option, param.name]
    origin, help_line = bind.origin(param.type), param.help or None
    if param.type is bool:
        return click.Option(flags, is_flag=True, default=None, required=param.required, help=help_line)
    if origin is dict:
        flags.insert(0, f"-{param.name[0]}")
    many = origin in (list, tuple, dict)
    metavar = "KEY=VALUE" if origin is dict else None
    shown = None if many or param.required or param.default is None else str(param.default)
    if shown is not None:
        help_line = f"{help_line or ''} [{shown}]".strip()
    return click.Option(
        flags, multiple=many, required=param.required, type=_kind(param), help=help_line, metavar=metavar
    )


def _kind(param: bind.Param) -> Any:
    if param.type is bytes or param.is_file_text:
        return click.Path(exists=True, dir_okay=False, allow_dash=True)
    if bind.bare(param.type) is Path:
        return click.Path()
    names = typing.get_args(bind.bare(param.type)) if bind.origin(param.type) is typing.Literal else ()
    return click.Choice([str(name) for name in names]) if names else click.STRING


def _words(op: Op, given: dict[str, Any]) -> dict[str, Any]:
    """Command-line words as values: files for bytes, KEY=VALUE for mappings."""
    out = dict(given)
    for param in bind.params(op):
        value = given.get(param.name)
        if value is None:
            continue
        if param.is_bytes:
            out[param.name] = _whole(param.name, str(value))  # `lw api` may have read a number in it
        elif param.is_file_text:
            out[param.name] = _whole(param.name, str(value)).decode("utf-8", "replace")
        elif bind.origin(param.type) is dict and isinstance(value, tuple):
            out[param.name] = dict(_split(value, param.name))  # its function knows the type of each
        elif isinstance(value, tuple):
            out[param.name] = list(value)
    return out


def _whole(field: str, place: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
    except OSError as error:
        raise Invalid(f"{place} cannot be read: {error.strerror}", code="usage", field=field) from None


def pairs(words: tuple[str, ...] | list[str], field: str) -> dict[str, Any]:
    """`KEY=VALUE` words as a mapping; a value is read as JSON where it is JSON.

    Raises:
        Invalid: a word has no `=`.
    """
    out: dict[str, Any] = {}
    for key, text in _split(words, field):
        try:
            out[key] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            out[key] = text
    return out


def _split(words: Iterable[str], field: str) -> Iterator[tuple[str, str]]:
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise Invalid(f"{field} takes KEY=VALUE, not {word!r}", code="usage", field=field)
        yield key, text
