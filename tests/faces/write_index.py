"""Writes src/loopwright/faces/index.py from the op rows: run it when a command was added or its help changed."""

from pathlib import Path

from loopwright import house
from loopwright.faces import commands, index

HEAD = '''"""The commands that op rows name: room and help line, so that `lw --help` imports no room.

Written by tests/faces/write_index.py; a test compares it with the rows.
"""

COMMANDS: dict[str, tuple[str, str]] = {
'''


def text() -> str:
    """The module as it should be."""
    rows = commands.index(house)
    lines = [_row(name, room, line) for name, (room, line) in rows.items()]
    return HEAD + "".join(lines) + "}\n"


def _row(name: str, room: str, line: str) -> str:
    whole = f"    {_quoted(name)}: ({_quoted(room)}, {_quoted(line)}),\n"
    if len(whole) <= 121:
        return whole
    cut = line.rindex(" ", 0, 100) + 1
    parts = f"        {_quoted(line[:cut])}\n        {_quoted(line[cut:])},\n"
    return f"    {_quoted(name)}: (\n        {_quoted(room)},\n{parts}    ),\n"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    Path(index.__file__).write_text(text(), "utf-8")
