"""Subjects of predictions: stored only as a hash under a key that never leaves the Space."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright.kernel.errors import Invalid
from loopwright.kernel.ids import new_id
from loopwright.store.blobs import fsync_folder, replace_file

if TYPE_CHECKING:
    from loopwright.store.database import Tx
    from loopwright.store.space import Space

MAX_CHARACTERS = 256


def key_path(space: "Space") -> Path:
    """The file with the Space's key; made when it is not there. Hosts that share a Space share the key."""
    path = space.home / "keys" / "subject"
    if not path.exists():
        secret = space.write(_agreed) if space.shared else os.urandom(32)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_name(new_id("key"))
        replace_file(fresh, secret)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # unlike a rename, a link never takes the place of a key that another process made
        fresh.unlink()
        fsync_folder(path.parent)
    return path


def _agreed(tx: "Tx") -> bytes:
    """The key that the first host made."""
    tx.execute(
        "INSERT INTO subject_keys(name, secret) VALUES ('subject', ?) ON CONFLICT (name) DO NOTHING", (os.urandom(32),)
    )
    return bytes(tx.value("SELECT secret FROM subject_keys WHERE name = 'subject'"))


def check(text: object) -> str:
    """A subject as it comes in, `kind=value`.

    Raises:
        Invalid: it has not that form.
    """
    if isinstance(text, str) and len(text) <= MAX_CHARACTERS:
        kind, equals, value = text.partition("=")
        if kind.strip() and equals and value.strip():
            return text
    raise Invalid(
        f"parameters.subject must be kind=value, at most {MAX_CHARACTERS} characters",
        code="subject.form",
        field="parameters.subject",
    )


def keyed_hash(key: bytes, subject: str) -> str:
    """BLAKE3 of a subject under the Space's key, 128 bits in hexadecimal."""
    from blake3 import blake3

    return str(blake3(subject.encode(), key=key).hexdigest(length=16))
