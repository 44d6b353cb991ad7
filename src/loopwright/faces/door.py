"""The door of control: who may come in, from where, with what kind of request, before anything is read.

What passes has an actor: the route behind asks what that actor may.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopwright.access import published, roles, sessions
from loopwright.access import service as access
from loopwright.access.model import Unauthenticated
from loopwright.faces import http
from loopwright.faces.http import LIMIT_BYTES, BadType, Malformed, TooLarge, TooLong, Wire
from loopwright.kernel import errors
from loopwright.serving.protocols import peers
from loopwright.serving.protocols.door import bearer
from loopwright.store.space import Space

COOKIE = "lw_session"
MAX_HEADERS, MAX_HEAD_BYTES, MAX_URL_BYTES, MAX_FIELDS = 100, 64 << 10, 8 << 10, 100
_SAFE = ("GET", "HEAD", "OPTIONS")
# What decides who asks, from where and how much stands once, or two readers would see two requests.
_ONCE = frozenset(
    {"host", "origin", "content-length", "content-type", "content-encoding", "transfer-encoding", "authorization",
     "sec-fetch-site", "x-forwarded-for", "idempotency-key"}
)  # fmt: skip
# No page of another site can send these without asking first, and no answer allows it.
_TYPES = frozenset(
    {"application/json", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/octet-stream",
     "application/vnd.apache.parquet", "text/csv"}
)  # fmt: skip
_FORWARDED = frozenset(name.decode() for name in peers.FORWARDED)
_DOTS = re.compile(r"(?:^|[/\\])\.{1,2}(?:[/\\]|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BARE_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; sandbox"
_ANSWERS: dict[bytes, bytes] = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": _BARE_POLICY.encode(),
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}

Headers = Mapping[str, str]


class Gate:
    """Says who asks, from the connection, the token or the session.

    Args:
        hosts: the Host headers that are answered to.
        behind_proxy: callers come through a proxy, so that loopback says nothing of them.
        secure: whether callers see https.
        local_sha256: digest of the token in the run folder, which stands for the owner on this machine.
    """

    def __init__(
        self,
        space: Space,
        *,
        hosts: Collection[str],
        behind_proxy: bool = False,
        secure: bool = False,
        local_sha256: str = "",
    ) -> None:
        self.space = space
        self.hosts = frozenset(host.lower() for host in hosts)
        self.behind_proxy, self.secure, self.local_sha256 = behind_proxy, secure or behind_proxy, local_sha256

    @property
    def cookie(self) -> str:
        """The name of a session's cookie: over https one that only this very host can have set."""
        return f"__Host-{COOKIE}" if self.secure else COOKIE

    async def actor(self, scope: Scope, headers: Headers) -> str:
        """The actor of a request.

        Raises:
            Unauthenticated: it shows a token that does not hold.
        """
        peer = scope.get("state", {}).get(peers.KEY) or peers.of_addresses(scope.get("client"), scope.get("server"))
        shown = headers.get("authorization")
        if shown is not None:
            return await run_in_threadpool(self._by_token, peer, bearer(shown.encode("latin-1")))
        cookie = cookies(headers).get(self.cookie)
        if cookie is not None:
            found = await run_in_threadpool(sessions.user_of, self.space, cookie)
            if found is not None:
                if scope["method"] not in _SAFE and "origin" not in headers:
                    raise errors.Forbidden(
                        "a session's request that changes something names its Origin", code="door.origin",
                        field="Origin", hint="send a token instead of a cookie",
                    )  # fmt: skip
                return found
        direct = not self.behind_proxy and _FORWARDED.isdisjoint(headers)
        if peer.own and direct and is_loopback(headers.get("host", "")):
            return access.local_actor()
        return access.ANONYMOUS

    def _by_token(self, peer: peers.Peer, token: str | None) -> str:
        sha256 = published.digest(token) if token else ""
        if sha256 and sha256 == self.local_sha256 and peer.here:
            return access.local_actor()
        table = access.table(self.space)
        found = table.tokens.get(sha256)
        if found is None:  # it may have been made just now
            table = access.refreshed(self.space)
            found = table.tokens.get(sha256)
        if found is None or not table.is_live(found):
            raise Unauthenticated(
                "this token is not known, or has expired", code="access.unknown", hint="lw tokens create"
            )
        return f"token:{found.id}"

    def address(self, scope: Scope, headers: Headers) -> str:
        """Where a request comes from, to slow down guessing; behind a proxy what the proxy says, else the peer."""
        if self.behind_proxy and "x-forwarded-for" in headers:
            return _whose(headers["x-forwarded-for"].rpartition(",")[2].strip()[:100])
        client = scope.get("client")
        return _whose(str(client[0])) if client else ""


def _whose(address: str) -> str:
    """An address as one guesser has it: of IPv6 the network, in which anybody takes as many addresses as they like."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    mapped = ipaddress.IPv6Address(found).ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))


def cookies(headers: Headers) -> dict[str, str]:
    """The cookies of a request."""
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return {name: value for name, _, value in pairs if name}


class Door:
    """Turns away what may not come in, says who the rest is, and bounds what they send.

    Args:
        opened: (verb, path) of the routes that are for everybody.
        limits_bytes: by (verb, path), for routes whose bodies are files.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        opened: Collection[tuple[str, str]] = (),
        limits_bytes: Mapping[tuple[str, str], int] | None = None,
    ) -> None:
        self.app, self.gate = app, gate
        self.opened = frozenset(opened)
        self.limits_bytes = limits_bytes or {}

    def limit_bytes(self, scope: Scope) -> int:
        """How large the body of a request may be."""
        return self.limits_bytes.get((scope["method"], scope["path"]), LIMIT_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = {"read": 0, "started": False}
        limit_bytes = self.limit_bytes(scope)

        async def counted() -> Message:
            message = await receive()
            state["read"] += len(message.get("body", b""))
            if state["read"] > limit_bytes:
                raise _too_large(limit_bytes)
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["started"] = True
                message["headers"] = _safe_headers(message.get("headers", []))
            await send(message)

        try:
            headers = read_headers(scope["headers"])
            self.check(scope, headers)
            actor = await self.gate.actor(scope, headers)
            if actor == access.ANONYMOUS and not self._is_open(scope):
                raise Unauthenticated(
                    "show a token or log in", code="access.unknown", hint="lw tokens create, or open /login"
                )
        except errors.LoopwrightError as error:
            await _refuse(error, scope, receive, guarded)
            return
        scope.setdefault("state", {})["actor"] = actor
        try:
            await self.app(scope, counted, guarded)
        except TooLarge as over:
            if not state["started"]:
                await _refuse(over, scope, receive, guarded)

    def _is_open(self, scope: Scope) -> bool:
        verb = "GET" if scope["method"] == "HEAD" else scope["method"]
        return (verb, scope["path"]) in self.opened

    def check(self, scope: Scope, headers: Headers) -> None:
        """Go on only with a request that this server reads.

        Raises:
            Forbidden: it is for another host, or of a page of another site.
            Invalid: it is too large, or not of a form that is read here.
        """
        self._from_here(headers)
        url = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        if url > MAX_URL_BYTES:
            raise TooLong(f"path and query have at most {MAX_URL_BYTES} bytes", code="http.url", field="path")
        if scope.get("query_string", b"").count(b"&") >= MAX_FIELDS:
            raise TooLong(f"a query has at most {MAX_FIELDS} fields", code="http.query", field="query")
        path = scope["path"]
        if _DOTS.search(path) or _CONTROL.search(path):
            raise Malformed("a path has no '.' or '..' in it, and no control character", code="http.path", field="path")
        length = headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > self.limit_bytes(scope):
            raise _too_large(self.limit_bytes(scope))
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] not in _SAFE and kind and kind not in _TYPES:
            raise BadType(
                f"a body of the type {kind[:60]!r} is not read here", field="Content-Type",
                hint="send application/json or application/x-ndjson",
            )  # fmt: skip
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise BadType("a compressed body is not read here", code="http.encoding", field="Content-Encoding")

    def _from_here(self, headers: Headers) -> None:
        host, hosts = headers.get("host", "").lower(), self.gate.hosts
        if host not in hosts:
            raise errors.Forbidden(f"this server does not answer for the host {host[:200]!r}", code="door.host",
                                   field="Host", hint="call it as " + min(hosts))  # fmt: skip
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        schemes = ("https",) if self.gate.secure and not self.gate.behind_proxy else ("http", "https")
        if origin is not None and origin.lower() not in [f"{scheme}://{host}" for scheme in schemes]:
            raise errors.Forbidden(
                f"a page of {origin[:200]!r} may not call this server", code="door.origin", field="Origin"
            )
        if site not in (None, "none", "same-origin"):
            raise errors.Forbidden("another site may not call here", code="door.cross-site", field="Sec-Fetch-Site")


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by lower-case name.

    Raises:
        Malformed: one that must stand once stands twice, or there are too many.
    """
    out: dict[str, str] = {}
    seen_bytes = count = 0
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        count += 1
        seen_bytes += len(name) + len(value)
        if key in out and key in _ONCE:
            raise Malformed(f"the header {key} stands twice", code="http.header", field=key)
        out[key] = f"{out[key]}; {text}" if key == "cookie" and key in out else text
    if count > MAX_HEADERS or seen_bytes > MAX_HEAD_BYTES:
        raise Malformed(f"a request has at most {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes", code="http.headers")
    return out


def _safe_headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with those that keep a browser from making more of it than it is."""
    out = list(raw)
    have = {name.lower() for name, _ in out}
    out += [(name, value) for name, value in _ANSWERS.items() if name not in have]
    kind = next((value for name, value in out if name.lower() == b"content-type"), b"")
    shown = kind.startswith((b"application/json", b"text/html", b"text/css", b"text/javascript", b"text/event-stream"))
    if not shown and b"content-disposition" not in have:
        out.append((b"content-disposition", b"attachment"))
    return out


def _too_large(limit_bytes: int) -> TooLarge:
    size = f"{limit_bytes >> 20} MiB" if limit_bytes >= 1 << 20 else f"{limit_bytes >> 10} KiB"
    return TooLarge(f"the body is over {size}", field="body", hint="send it in smaller parts")


async def _refuse(error: errors.LoopwrightError, scope: Scope, receive: Receive, send: Send) -> None:
    response = http.refusal(error)
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def loopback_hosts(port: int) -> frozenset[str]:
    """The Host headers that name this machine itself at a port."""
    return frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"})


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine itself."""
    return host.rpartition(":")[0].lower() in ("127.0.0.1", "localhost", "[::1]")


def application(space: Space, wires: Iterable[Wire], gate: Gate, *, lifespan: Any = None) -> ASGIApp:
    """The whole face: the door, then one route a wire, paths without fields first.

    Raises:
        LoopwrightError: a wire names no action that is known.
    """
    ordered = sorted(wires, key=lambda wire: (wire.path.count("{"), wire.path.count(":path")))
    app = Starlette(
        routes=[http.guard(wire, space) for wire in ordered],
        exception_handlers={HTTPException: http.unrouted},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect names scheme and host, which behind a proxy are not the caller's
    opened = [(wire.verb, wire.path) for wire in ordered if wire.action in roles.OPEN]
    limits = {(wire.verb, wire.path): wire.limit_bytes for wire in ordered if wire.limit_bytes != LIMIT_BYTES}
    return Door(app, gate, opened, limits)
