"""Writes the file that tells workers what tokens open, and the token by which local tools show that they are local."""

import os
import secrets
from pathlib import Path

from loopwright.access import published, service
from loopwright.access.published import PREDICT, READ, Published, PublishedToken
from loopwright.access.table import Table
from loopwright.store.space import Space

LOCAL_TOKEN = "token"
_PREFIX = "lwl_"


def local_token(folder: Path) -> str:
    """The token in the run folder, readable by its owner alone; made when there is none.

    It stands for the owner on this machine, for local tools that cannot be known by their user's number.
    """
    path = folder / LOCAL_TOKEN
    try:
        found = path.read_text("ascii").strip()
        if found.startswith(_PREFIX) and path.stat().st_mode & 0o077 == 0:
            return found
        path.unlink()
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    made = _PREFIX + secrets.token_hex(32)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as stream:
        stream.write(made + "\n")
    return made


def publish(space: Space, folder: Path, *, hosts: list[str], behind_proxy: bool, local: str) -> int:
    """Write what workers must know of access, and return its generation."""
    table = service.refreshed(space)
    told = Published(
        generation=table.generation,
        hosts=hosts,
        behind_proxy=behind_proxy,
        local=published.digest(local),
        tokens=_tokens(table),
    )
    published.write(folder, told)
    return table.generation


def _tokens(table: Table) -> list[PublishedToken]:
    out = []
    for sha256, token in sorted(table.tokens.items()):
        if not table.is_live(token):
            continue
        rights = table.rights.get(f"token:{token.id}", {})
        scopes = {action: _of_endpoints(rights[action].scopes) for action in (PREDICT, READ) if action in rights}
        scopes = {action: found for action, found in scopes.items() if found}
        if scopes:
            expires_us = token.expires_us
            out.append(PublishedToken(sha256=sha256, actor=f"token:{token.id}", expires_us=expires_us, scopes=scopes))
    return out


def _of_endpoints(scopes: list[str]) -> list[str]:
    return [scope for scope in scopes if scope == "*" or scope.startswith("endpoint:")]
