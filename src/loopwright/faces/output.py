"""How a command prints its result: text, or with `--json` one document that names its schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from loopwright.faces import bind, text

_JSON = ("--json", "as_json")
_JSON_HELP = "Print one JSON document."
as_json = click.option(*_JSON, is_flag=True, help=_JSON_HELP)
root = click.option("--root", type=click.Path(exists=True, file_okay=False), help="The project's folder.")


def json_option() -> click.Option:
    """The `--json` that every command takes."""
    return click.Option(_JSON, is_flag=True, help=_JSON_HELP)


def say(value: Any, *, schema: str, as_json: bool, render: Callable[[Any], str] | None = None) -> None:
    """Print a result: one JSON document with its schema, or text."""
    if not as_json:
        click.echo(text.tame((render or text.render)(value)))
        return
    click.echo(bind.to_json(document(value, schema)))


def document(value: Any, schema: str) -> dict[str, Any]:
    """A result as the one document of `--json`.

    A list stands under `items`; a bare value, and one that has a field `schema` of its own, under `value`.
    """
    built = msgspec.to_builtins(value, enc_hook=bind.plain, str_keys=True)
    if isinstance(built, dict) and "schema" not in built:
        return {"schema": schema, **built}
    return {"schema": schema, "items" if isinstance(built, list) else "value": built}
