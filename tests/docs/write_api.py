"""Writes docs/reference/api.md: every operation with its route, the action it needs, and its command.

A test compares it with what is committed. Run: python tests/docs/write_api.py
"""

from __future__ import annotations

from pathlib import Path

from loopwright import house
from loopwright.faces import bind
from loopwright.kernel.op import Op

FILE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "api.md"
_HEAD = """# Operations

Made from the op rows by `tests/docs/write_api.py`; a test compares it, and another asks each operation through each of
its doors. How they are called from elsewhere is told in [A project on another machine](../guides/elsewhere.md), who may
in [Roles and routes](roles.md). An operation without a command is called by `lw api NAME key=value`; one without a
route takes paths of the machine of the project, and works there only.
"""


def text() -> str:
    """The page as it should be."""
    rooms: dict[str, list[Op]] = {}
    for op in house.ops().values():
        rooms.setdefault(op.name.split(".")[0], []).append(op)
    parts = [_HEAD]
    for room, ops in rooms.items():
        parts.append(
            f"\n## {room}\n\n| operation | does | route | action | command |\n| --- | --- | --- | --- | --- |\n"
        )
        parts += [_row(op) for op in ops]
    return "".join(parts)


def _row(op: Op) -> str:
    takes = ", ".join(param.name + ("" if param.required else "?") for param in bind.params(op))
    command = f"`lw {op.cli}`" if op.cli else "-"
    route = f"`{op.http}`" if op.http else "-"
    return f"| `{op.name}`({takes}) | {bind.help_text(op)} | {route} | `{op.action}` | {command} |\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
