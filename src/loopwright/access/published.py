"""What workers, who open no database, are told of access: a file in the run folder, replaced by rename.

It holds digests of tokens and what each opens; never a token.
"""

import hashlib
from pathlib import Path

import msgspec

from loopwright.kernel.files import replace_file

FILE = "access.json"
PREDICT, READ = "endpoints.predict", "endpoints.read"


class PublishedToken(msgspec.Struct, frozen=True, kw_only=True):
    """One token that opens something of the data plane: its digest, whose it is, and the scopes of each action."""

    sha256: str
    actor: str
    expires_us: int | None
    scopes: dict[str, list[str]]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """Who may in at a worker's door.

    Args:
        generation: which state of access this is.
        hosts: Host names that are answered to besides loopback's.
        behind_proxy: whether callers come through a proxy, so that loopback says nothing of them.
        local: digest of the token in the run folder, which stands for the owner on this machine.
        tokens: every token that opens an endpoint.
    """

    generation: int
    hosts: list[str] = []
    behind_proxy: bool = False
    local: str = ""
    tokens: list[PublishedToken] = []


def digest(token: str) -> str:
    """What is kept of a token: SHA-256, for a token is random and long."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def covers(scope: str, subject: str) -> bool:
    """Whether a scope (`*`, `endpoint:delay`, `endpoint:del*`) holds a subject."""
    if scope.endswith("*"):
        return subject.startswith(scope[:-1]) and (bool(subject) or scope == "*")
    return scope == subject


def within(one: str, other: str) -> str | None:
    """The scope that holds what both of two hold: of two, one lies in the other, or nothing lies in both."""
    if other == "*" or (one != "*" and covers(other, one)):
        return one
    return other if one == "*" or covers(one, other) else None


def write(folder: Path, published: Published) -> None:
    """Replace the file."""
    replace_file(folder / FILE, msgspec.json.encode(published), durable=False)


def read(folder: Path) -> Published | None:
    """What is published, or None when nothing readable is."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Published)
    except (OSError, msgspec.DecodeError):
        return None
