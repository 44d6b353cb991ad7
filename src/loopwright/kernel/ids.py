"""Ids and names: made here, and checked here when they come from outside."""

import os
import re

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Invalid

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_ID = re.compile(r"[a-z]{2,8}_[0-9a-z]{10,40}")


def base32(number: int, width: int) -> str:
    """A number as `width` characters that sort as the numbers do (Crockford's alphabet)."""
    out = []
    for _ in range(width):
        number, digit = divmod(number, 32)
        out.append(_ALPHABET[digit])
    return "".join(reversed(out))


def number_of(text: str) -> int:
    """The number that `base32` made a text of."""
    number = 0
    for letter in text:
        number = number * 32 + _ALPHABET.index(letter)
    return number


def new_id(kind: str) -> str:
    """A fresh id such as `run_...` that sorts by the machine time of its making."""
    return f"{kind}_{base32(machine_us(), 11)}{base32(int.from_bytes(os.urandom(10)), 16)}"


def valid_id(text: str, kind: str) -> str:
    """Return the id when it has the form of that kind.

    Raises:
        Invalid: it has not.
    """
    if not isinstance(text, str) or not _ID.fullmatch(text) or not text.startswith(kind + "_"):
        raise Invalid(f"{text!r} is not the id of a {kind}", code="id.form", field="id")
    return text


def valid_name(text: str, field: str = "name") -> str:
    """Return a name when it is one: lower-case letters, digits, `-`, `_`, `.`; at most 100.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(text, str) or not _NAME.fullmatch(text) or ".." in text:
        raise Invalid(
            f"{field} must be lower-case letters, digits, '-', '_' or '.', at most 100, not {str(text)[:120]!r}",
            code="name.form",
            field=field,
        )
    return text


def valid_path(text: str, field: str = "path") -> str:
    """Return a relative POSIX path when it stays inside its tree.

    Raises:
        Invalid: it is absolute, empty, or leaves the tree.
    """
    parts = text.split("/") if isinstance(text, str) else []
    bad = not parts or any(p in ("", ".", "..") for p in parts) or "\\" in text or "\0" in text or len(text) > 1000
    if bad or any(ord(c) < 32 for c in text):
        raise Invalid(f"{field} must be a relative path inside the tree, not {text!r}", code="path.form", field=field)
    return text
