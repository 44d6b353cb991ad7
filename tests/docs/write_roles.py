"""Writes docs/reference/roles.md: every route of both planes against every role, from the op rows and wires.

A test compares it with what is committed, and another asks every cell of a running server.
Run: python tests/docs/write_roles.py
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from loopwright import house
from loopwright.access.roles import ACTIONS, OPEN, ROLES

FILE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "roles.md"
# The data plane speaks the Open Inference Protocol by hand; serving/protocols/door.py says what its paths ask for.
DATA_PLANE = (
    ("GET", "/v2", "endpoints.read", ""),
    ("GET", "/v2/models/{endpoint}", "endpoints.read", "endpoint:{endpoint}"),
    ("GET", "/v2/models/{endpoint}/ready", "endpoints.read", "endpoint:{endpoint}"),
    ("POST", "/v2/models/{endpoint}/infer", "endpoints.predict", "endpoint:{endpoint}"),
    ("POST", "/v2/repository/index", "endpoints.read", ""),
    ("GET", "/v2/health/live", "health.live", ""),
    ("GET", "/v2/health/ready", "health.live", ""),
)
_HEAD = """# Roles and routes

Made from the op rows and wires by `tests/docs/write_roles.py`; a test asks a running server for every cell of it.
How people and programs get roles is told in [Who may](../guides/access.md). `yes` = the role may; `all` = everybody,
also who is not known. The owner of the project's folder may everything on the own machine. A grant on a scope such as
`endpoint:delay` opens only the rows whose subject it covers; a row without a subject takes a grant on `*`, but for
`/api/v1/me`, `/api/v1/tokens` and `/api/v1/session`, which concern only who asks.
"""


class Row(NamedTuple):
    """A route: plane, verb, path, action, what it is done to."""

    plane: str
    verb: str
    path: str
    action: str
    subject: str


@cache
def rows() -> list[Row]:
    """Every route of both planes."""
    from loopwright.faces.control import Control

    ops = {op.http: op for op in house.ops().values() if op.http}
    with tempfile.TemporaryDirectory() as folder:
        space = house.init(Path(folder) / "project")
        wires = Control(house, space, "http://127.0.0.1:1").wires()
        space.close()
    found = []
    for wire in wires:
        op = ops.get(f"{wire.verb} {wire.path}")
        subject = op.subject if op is not None else wire.subject or ""
        found.append(Row("control", wire.verb, wire.path, wire.action, subject))
    made = [Row("data", *row) for row in DATA_PLANE]
    return sorted(found, key=lambda row: (row.path, row.verb)) + made


def may(role: str, action: str) -> bool:
    """Whether the table lets a role do an action somewhere."""
    return action in OPEN or role in ACTIONS[action]


def page() -> str:
    """The page."""
    lines = [_HEAD, "## The roles\n", "| role | what it is for |", "| --- | --- |"]
    lines += [f"| {role} | {text} |" for role, text in ROLES.items()]
    for plane, title in (("control", "Control"), ("data", "Workers")):
        lines += ["", f"## {title}\n", "| route | action | subject | " + " | ".join(ROLES) + " |"]
        lines.append("| --- | --- | --- |" + " --- |" * len(ROLES))
        for row in rows():
            if row.plane == plane:
                marks = ["all" if row.action in OPEN else "yes" if may(role, row.action) else "" for role in ROLES]
                subject = f"`{row.subject}`" if row.subject else ""
                lines.append(f"| `{row.verb} {row.path}` | {row.action} | {subject} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
