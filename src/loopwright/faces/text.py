"""Results as text that a person reads: `key: value` lines and plain columns, colour only on a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import msgspec

from loopwright.kernel.pages import Page
from loopwright.kernel.times import format_duration, format_time

# What moves a terminal's cursor, speaks to the terminal, or turns a line around; our own bold is let through.
_COMMANDS = re.compile("\x1b(?!\\[[01]m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WIDEST = 60
_SPANS = ("ttl_us", "latency_us", "span_us", "lag_us", "p95_us")


def coloured(stream: TextIO | None = None) -> bool:
    """Whether colour may be written: a terminal, and NO_COLOR not set."""
    stream = stream or sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def bold(text: str) -> str:
    """The text in bold where colour may be written."""
    return f"\x1b[1m{text}\x1b[0m" if coloured() else text


def tame(text: str) -> str:
    """The text with what is no text written out: names and values in it may come from anybody."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def render(value: Any) -> str:
    """Any result of an op as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, Page):
        more = [] if value.next is None else [f"there is more, behind {value.next}"]
        return "\n".join([render(value.items), *more])
    if isinstance(value, msgspec.Struct):
        value = fields(value)
    if isinstance(value, Mapping):
        return "\n".join(_lines(value, 0))
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        rows = [fields(row) if isinstance(row, msgspec.Struct) else row for row in value]
        if all(isinstance(row, Mapping) for row in rows):
            return columns(rows)
        return "\n".join(cell("", row) for row in rows)
    return cell("", value)


def fields(row: msgspec.Struct) -> dict[str, Any]:
    """A struct's fields by name."""
    return {name: getattr(row, name) for name in row.__struct_fields__}


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned columns under their names."""
    if not rows:
        return "(nothing)"
    names = list(rows[0])
    table = [[label(name) for name in names]] + [[cell(name, row.get(name)) for name in names] for row in rows]
    widths = [min(_WIDEST, max(len(line[i]) for line in table)) for i in range(len(names))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([bold(lines[0]), *lines[1:]])


def label(name: str) -> str:
    """A field's name as a heading: a moment loses its unit."""
    return name.removesuffix("_us") if name.endswith("_us") else name


def cell(name: str, value: Any) -> str:
    """One value as text; microseconds as a time or a span."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_us"):
        return format_duration(value) if name in _SPANS else format_time(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, msgspec.Struct):
        value = fields(value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={cell(str(key), item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(cell("", item) for item in value) or "-"
    return str(value)


def _lines(value: Mapping[str, Any], depth: int) -> list[str]:
    out: list[str] = []
    indent = "  " * depth
    for name, item in value.items():
        if isinstance(item, msgspec.Struct):
            item = fields(item)
        if isinstance(item, list | tuple) and item and isinstance(item[0], msgspec.Struct | Mapping):
            out.append(f"{indent}{label(name)}:")
            out += [f"{indent}  {line}" for line in render(item).split("\n")]
        elif isinstance(item, Mapping) and len(cell(name, item)) > _WIDEST:
            out.append(f"{indent}{label(name)}:")
            out += _lines(item, depth + 1)
        else:
            out.append(f"{indent}{label(name)}: {cell(name, item)}")
    return out
