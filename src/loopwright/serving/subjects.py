"""Subjects of predictions: stored only as a hash under a key that never leaves the Space."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.kernel.errors import Invalid
from loopwright.kernel.files import make_file
from loopwright.store import erasure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loopwright.store.database import Tx
    from loopwright.store.space import Space

MAX_CHARACTERS = 256


def key_path(space: "Space") -> Path:
    """The file with the Space's key; made when it is not there. Hosts that share a Space share the key."""
    path = space.home / "keys" / "subject"
    there = path.exists()
    if space.shared and not _is_agreed(space):
        mine = path.read_bytes() if there else os.urandom(32)  # a project that was moved brings its own
        space.write(lambda tx: _offer(tx, mine))
    if not there:
        secret = _agreed(space) if space.shared else os.urandom(32)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        make_file(path, secret)
    return path


def _is_agreed(space: "Space") -> bool:
    with space.read() as tx:
        return tx.one("SELECT 1 FROM subject_keys WHERE name = 'subject'") is not None


def _offer(tx: "Tx", secret: bytes) -> None:
    """The first host's key is that of all."""
    sql = "INSERT INTO subject_keys(name, secret) VALUES ('subject', ?) ON CONFLICT (name) DO NOTHING"
    tx.execute(sql, (secret,))


def _agreed(space: "Space") -> bytes:
    with space.read() as tx:
        return bytes(tx.value("SELECT secret FROM subject_keys WHERE name = 'subject'"))


def check(text: object, field: str = "parameters.subject") -> str:
    """A subject as it comes in, `kind=value`.

    Raises:
        Invalid: it has not that form.
    """
    if isinstance(text, str) and len(text) <= MAX_CHARACTERS:
        kind, equals, value = text.partition("=")
        if kind.strip() and equals and value.strip():
            return text
    raise Invalid(
        f"{field} must be kind=value, at most {MAX_CHARACTERS} characters",
        code="subject.form",
        field=field,
    )


def hasher(space: "Space") -> "Callable[[str], str]":
    """The keyed hash of this Space."""
    key = key_path(space).read_bytes()
    return lambda text: keyed_hash(key, text)


def erased_refs(tx: "Tx", refs: "Iterable[str]", key: Path) -> set[str]:
    """Those of some ids that were erased."""
    if not erasure.has_refs(tx):
        return set()
    secret = key.read_bytes()
    return {ref for ref in refs if erasure.is_erased_ref(tx, ref_hash(secret, ref))}


def ref_hash(key: bytes, ref: str) -> str:
    """By what an erased id of a request or prediction is known."""
    return keyed_hash(key, f"ref {ref}")


def keyed_hash(key: bytes, subject: str) -> str:
    """BLAKE3 of a subject under the Space's key, 128 bits in hexadecimal."""
    from blake3 import blake3

    return str(blake3(subject.encode(), key=key).hexdigest(length=16))
