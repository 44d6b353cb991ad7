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
from urllib.parse import unquote

from loopwright.access import published
from loopwright.kernel.clock import machine_us
from loopwright.serving.protocols import peers
from loopwright.serving.protocols.peers import Peer

_HOST = re.compile(r"(localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_SITES = ("none", "same-origin")
_LONGEST_CREDENTIAL = 4096
UNKNOWN = 401


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


class Guest(NamedTuple):
    """Who was let in: the server's own user, who may all, or the holder of a token."""

    token: published.PublishedToken | None = None


OWNER = Guest()


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
        self.state = 0  # one more with each change: who was let in before is looked at again
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
            self.state += 1

    def peer(self, transport: Any) -> Peer:
        """The client of a connection; asked once, when its first request comes."""
        return peers.of_transport(transport)

    def enter(self, peer: Peer, headers: Mapping[bytes, bytes]) -> Guest | Refusal:
        """Who asks, or why nobody is let in; holds for all requests of a connection with the same headers and state.

        Args:
            peer: the client of the connection.
            headers: by lower-case name; Host, Origin, Sec-Fetch-Site, Authorization and those of proxies count.
        """
        host, origin, site = (_text(headers.get(name)) for name in (b"host", b"origin", b"sec-fetch-site"))
        reason = refusal(host, origin, site, self._hosts)
        if reason is not None:
            return Refusal(403, "door.refused", reason)
        shown = headers.get(b"authorization")
        if shown is None:
            direct = not self._behind_proxy and peers.FORWARDED.isdisjoint(headers)
            if peer.own and direct and (host is None or _HOST.fullmatch(host)):
                return OWNER
            return _unknown("this request shows no token, and is not of this server's own user on this machine")
        token = bearer(shown)
        if token is not None:
            digest = published.digest(token)
            if digest not in self._tokens and digest != self._local:
                self.refresh()  # it may be newer than the last look
            if digest == self._local and peer.here:
                return OWNER
            if digest in self._tokens:
                return Guest(self._tokens[digest])
        return _unknown("this token is not known, or has expired")

    def turn_away(self, guest: Guest, action: str, endpoint: str | None) -> Refusal | None:
        """Why a guest may not do an action to an endpoint, or to none (None); None when it may."""
        found = guest.token
        if found is None:
            return None
        if found.expires_us is not None and found.expires_us <= machine_us():
            return _unknown("this token is not known, or has expired")
        subject = "" if endpoint is None else f"endpoint:{endpoint}"
        if any(published.covers(scope, subject) for scope in found.scopes.get(action, ())):
            return None
        what = subject or "the whole server"
        return Refusal(403, "access.refused", f"{found.actor} has no role that allows {action} on {what}")

    def refuse(
        self, peer: Peer, headers: Mapping[bytes, bytes], endpoint: str | None, action: str = published.PREDICT
    ) -> Refusal | None:
        """Why a request is not let in, or None: `enter` and `turn_away` in one."""
        guest = self.enter(peer, headers)
        return guest if isinstance(guest, Refusal) else self.turn_away(guest, action, endpoint)


class Visit:
    """One connection at the door; who it is is found out again only when its headers, or who may in, are others.

    Args:
        gate: whom to ask; without one whoever reaches the listener is trusted, and only other sites are kept out.
    """

    def __init__(self, gate: Gatekeeper | None) -> None:
        self._gate = gate
        self._shown: tuple[Any, ...] | None = None
        self._peer: Peer | None = None
        self._guest: Guest | Refusal = OWNER

    def refused(self, transport: Any, method: bytes, url: bytes, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Why a request is not let in, or None."""
        gate = self._gate
        shown = (
            headers.get(b"host"), headers.get(b"origin"), headers.get(b"sec-fetch-site"),
            headers.get(b"authorization"), headers.get(b"forwarded"), 0 if gate is None else gate.state,
        )  # fmt: skip
        if shown != self._shown:
            self._shown, self._guest = shown, self._enter(transport, headers)
        guest = self._guest
        if guest is OWNER:
            return None
        wanted = asked(method, url.decode("latin-1"))
        if isinstance(guest, Refusal):
            return guest if wanted is not None or guest.status != UNKNOWN else None
        return None if wanted is None or gate is None else gate.turn_away(guest, *wanted)

    def _enter(self, transport: Any, headers: Mapping[bytes, bytes]) -> Guest | Refusal:
        gate = self._gate
        if gate is None:
            host, origin, site = (_text(headers.get(name)) for name in (b"host", b"origin", b"sec-fetch-site"))
            reason = refusal(host, origin, site)
            return OWNER if reason is None else Refusal(403, "door.refused", reason)
        if self._peer is None:
            self._peer = gate.peer(transport)
        return gate.enter(self._peer, headers)


def asked(method: bytes, path: str) -> tuple[str, str | None] | None:
    """Action and endpoint that a request of the Open Inference Protocol asks for; None when it is for everybody.

    The path is decoded once, as the protocol behind does.
    """
    parts = [unquote(part) for part in path.partition("?")[0].removeprefix("/").removesuffix("/").split("/")]
    if parts in (["v2", "health", "live"], ["v2", "health", "ready"]) and method in (b"GET", b"HEAD"):
        return None
    endpoint = parts[2] if parts[:2] == ["v2", "models"] and len(parts) > 2 else None
    reads = method in (b"GET", b"HEAD") or parts[:2] == ["v2", "repository"]
    return (published.READ if reads else published.PREDICT), endpoint


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _unknown(reason: str) -> Refusal:
    return Refusal(UNKNOWN, "access.unknown", reason, "send the header Authorization: Bearer TOKEN; lw tokens create")
