"""How deep and how many: JSON is measured by its bytes before a tree of it is built."""

import re

MAX_DEPTH = 64
MAX_ITEMS = 200_000
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_OPEN = bytes(set(range(256)) - set(b"[]{},"))


def fault(body: bytes, *, depth: int = MAX_DEPTH, items: int = MAX_ITEMS) -> str | None:
    """Why a JSON text is not parsed: nested too deep, or of too many parts; None when it may be."""
    marks = _STRINGS.sub(b"", body).translate(None, _NOT_OPEN)
    if marks.count(b",") + marks.count(b"[") + marks.count(b"{") > items:
        return f"more than {items} values"
    now = 0
    for mark in marks.translate(None, b","):
        if mark in b"[{":
            now += 1
            if now > depth:
                return f"more than {depth} levels"
        else:
            now -= 1
    return None
