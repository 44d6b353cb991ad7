"""Writes docs/schemas/lw-*.json: the documents of `--json` that stay as they are from the first release on.

They are made from the return types of the op rows; a test compares them with what is committed, so that a change of
the wire is a change of a file that somebody has to look at. Run: python tests/docs/write_schemas.py
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import msgspec

from loopwright import house
from loopwright.kernel.op import Op

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"
STABLE = ("trace", "show", "log", "events", "check", "status", "fsck", "audit")


def ops() -> dict[str, Op]:
    """The rows behind the stable commands, by command."""
    return {op.cli: op for op in house.ops().values() if op.cli in STABLE}


def file_of(command: str) -> Path:
    return FOLDER / f"lw-{command}-1.json"


def schema(op: Op) -> dict[str, Any]:
    """The JSON Schema of an op's document: its own name under `schema`, then its fields, or its list under `items`."""
    kinds = _alternatives(typing.get_type_hints(op.fn)["return"])
    bodies, parts = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    listed = [body["items"] for body in bodies if body.get("type") == "array"]
    properties: dict[str, Any] = {"schema": {"const": op.schema}}
    if listed:
        assert len(listed) == len(bodies), f"{op.name} returns a list or something else"
        properties["items"] = {"type": "array", "items": listed[0] if len(listed) == 1 else {"anyOf": listed}}
    document: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{op.schema}: what `lw {op.cli} --json` prints",
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }
    if not listed:
        document["allOf"] = list(bodies)
    return {**document, "$defs": _told_shortly(parts)}


def _told_shortly(part: Any) -> Any:
    """A schema with the first line of each description only."""
    if isinstance(part, list):
        return [_told_shortly(item) for item in part]
    if not isinstance(part, dict):
        return part
    first = {k: v.split("\n")[0] if k == "description" and isinstance(v, str) else v for k, v in part.items()}
    return {key: _told_shortly(value) for key, value in first.items()}


def _alternatives(kind: Any) -> list[Any]:
    parts = typing.get_args(kind)
    union = parts and all(typing.get_origin(part) is list for part in parts)
    return list(parts) if union else [kind]


def text(op: Op) -> str:
    return json.dumps(schema(op), indent=2) + "\n"


if __name__ == "__main__":
    for command, found in ops().items():
        file_of(command).write_text(text(found))
