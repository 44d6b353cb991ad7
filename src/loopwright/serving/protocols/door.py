"""Who may come in at a worker: known hosts, no page of another site, this server's own user or a token.

Asks no database: what tokens open stands in a file that control publishes.
"""

import base64
import binascii
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from loopwright.access import published
from loopwright.kernel.clock import machine_us
from loopwright.serving.protocols import peers
from loopwright.serving.protocols.peers import Peer

_HOST = re.compile(r"(localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_SITES = ("none", "same-origin")
_LONGEST_CREDENTIAL = 4096


class Refusal(NamedTuple):
    """Why a request is not let in: an HTTP status, a code, a sentence, what to do."""

    status: int
    code: str
    message: str
    hint: str | None = None


def refusal(
    host: str | None, origin: str | None, fetch_site: str | None, hosts: frozenset[str] = frozenset()
) -> str | None:
    """Why a request must not be answered, or None when it may be; from its Host, Origin and Sec-Fetch-Site.

    Args:
        hosts: names that are answered to besides loopback's, in lower case.
    """
    if host is not None and not _HOST.fullmatch(host) and not _named(host.lower(), hosts):
        return "this server answers to loopback names such as 127.0.0.1 and localhost only, and to public_hosts"
    if origin is not None and (
        host is None or origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
    ):
        return "a page of another origin may not use this server"
    if fetch_site is not None and fetch_site.lower() not in _SITES:
        return "a page of another site may not use this server"
    return None


def _named(host: str, hosts: frozenset[str]) -> bool:
    name, colon, port = host.rpartition(":")
    return host in hosts or (bool(colon) and port.isdigit() and len(port) <= 5 and name in hosts)


def bearer(authorization: bytes) -> str | None:
    """The token of an Authorization header: Bearer, or the password of Basic; None when it holds none."""
    kind, _, rest = authorization[:_LONGEST_CREDENTIAL].partition(b" ")
    rest = rest.strip()
    if kind.lower() == b"bearer":
        return rest.decode("latin-1") or None
    if kind.lower() == b"basic":
        try:
            pair = base64.b64decode(rest, validate=True)
        except (binascii.Error, ValueError):
            return None
        return pair.partition(b":")[2].decode("latin-1") or None
    return None


class Gatekeeper:
    """The door of a worker.

    Args:
        run_folder: where control publishes what tokens open; without that file only the server's own user comes in.
    """

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._mark: tuple[int, int, int] | None = None
        self._hosts: frozenset[str] = frozenset()
        self._behind_proxy = False
        self._local = ""
        self._tokens: dict[str, published.PublishedToken] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look whether the published file was replaced, and take what it says."""
        try:
            found = os.stat(self._folder / published.FILE)
        except OSError:
            return
        mark = (found.st_ino, found.st_mtime_ns, found.st_size)
        if mark == self._mark:
            return
        told = published.read(self._folder)
        if told is not None:
            self._mark = mark
            self._hosts = frozenset(host.lower() for host in told.hosts)
            self._behind_proxy, self._local = told.behind_proxy, told.local
            self._tokens = {token.sha256: token for token in told.tokens}

    def peer(self, transport: Any) -> Peer:
        """The client of a connection; asked once, when it is made."""
        return peers.of_transport(transport)

    def refuse(
        self, peer: Peer, headers: Mapping[bytes, bytes], endpoint: str | None, action: str = published.PREDICT
    ) -> Refusal | None:
        """Why a request is not let in, or None.

        Args:
            peer: the client of its connection.
            headers: by lower-case name; Host, Origin, Sec-Fetch-Site and Authorization count.
            endpoint: the endpoint that is asked, None when it is none.
            action: what is done to it.
        """
        host, origin, site = (_text(headers.get(name)) for name in (b"host", b"origin", b"sec-fetch-site"))
        reason = refusal(host, origin, site, self._hosts)
        if reason is not None:
            return Refusal(403, "door.refused", reason)
        shown = headers.get(b"authorization")
        if shown is not None:
            return self._by_token(peer, bearer(shown), endpoint, action)
        if peer.own and not self._behind_proxy and (host is None or _HOST.fullmatch(host)):
            return None
        return _unknown("this request shows no token, and does not come from this server's own user on this machine")

    def _by_token(self, peer: Peer, token: str | None, endpoint: str | None, action: str) -> Refusal | None:
        digest = "" if token is None else published.digest(token)
        if digest and digest == self._local and peer.loopback:
            return None
        found = self._tokens.get(digest)
        if found is None or (found.expires_us is not None and found.expires_us <= machine_us()):
            return _unknown("this token is not known, or has expired")
        subject = "" if endpoint is None else f"endpoint:{endpoint}"
        if any(published.covers(scope, subject) for scope in found.scopes.get(action, ())):
            return None
        what = subject or "the whole server"
        return Refusal(403, "access.refused", f"{found.actor} has no role that allows {action} on {what}")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _unknown(reason: str) -> Refusal:
    return Refusal(401, "access.unknown", reason, "send the header Authorization: Bearer TOKEN; lw tokens create")
