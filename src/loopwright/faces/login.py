"""How people come in through a browser: the page, its script, and the routes that open and close a session.

Secrets come in bodies, never in a URL: an invitation's token stands behind the `#`, which no browser sends.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loopwright.access import sessions
from loopwright.faces import http
from loopwright.faces.door import Gate, cookies, read_headers
from loopwright.faces.http import Handler, Wire
from loopwright.kernel.errors import Invalid

if TYPE_CHECKING:
    from starlette.requests import Request

    from loopwright.faces.control import Control

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'none';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_LONGEST = 1024
_AT_ONCE = 4
_MOST_BYTES = 32 << 10  # strangers may send these, and what they send is held in memory


def wires(control: Control) -> list[Wire]:
    """The routes of logging in and out."""
    desk = _Desk(control)
    return [
        Wire("GET", "/login", "login.show", _shown("login.html", "text/html", **{"content-security-policy": _POLICY})),
        Wire("GET", "/login.js", "login.show", _shown("login.js", "text/javascript")),
        Wire("GET", "/login.css", "login.show", _shown("login.css", "text/css")),
        Wire("POST", "/api/v1/session", "login.open", desk.log_in, limit_bytes=_MOST_BYTES),
        Wire("POST", "/api/v1/session/invitation", "login.accept", desk.accept, limit_bytes=_MOST_BYTES),
        Wire("DELETE", "/api/v1/session", "sessions.close", desk.log_out),
    ]


def _shown(name: str, kind: str, **headers: str) -> Handler:
    """A handler that answers with a file of this folder."""
    body = (Path(__file__).parent / name).read_bytes()

    async def show(request: Request) -> Response:
        return Response(body, media_type=kind, headers=headers)

    return show


class _Desk:
    """What the routes share."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._under_way = 0

    async def _one(self, opens: Callable[..., sessions.Opened], *args: Any) -> sessions.Opened:
        """One login; more than a few at a time are sent away, or those who guess would keep all threads busy."""
        if self._under_way >= _AT_ONCE:
            raise sessions.SlowDown("too many logins at a time", code="login.busy", retry_after_s=2.0)
        self._under_way += 1
        try:
            return await run_in_threadpool(opens, *args)
        finally:
            self._under_way -= 1

    async def log_in(self, request: Request) -> Response:
        """Open a session by name and password."""
        name, password = await _fields(request, "name", "password")
        opened = await self._one(sessions.log_in, self._control.space, name, password, self._address(request))
        return self._opened(opened)

    async def accept(self, request: Request) -> Response:
        """Open a session by an invitation, and keep the password that was chosen."""
        token, password = await _fields(request, "token", "password")
        opened = await self._one(sessions.accept, self._control.space, token, password, self._address(request))
        return self._opened(opened)

    async def log_out(self, request: Request) -> Response:
        """End the session that the request shows."""
        cookie = cookies(read_headers(request.scope["headers"])).get(self._gate().cookie)
        if cookie is not None:
            await run_in_threadpool(sessions.log_out, self._control.space, cookie)
        response = http.answer({"closed": cookie is not None})
        gate = self._gate()
        response.delete_cookie(gate.cookie, path="/", httponly=True, samesite="strict", secure=gate.secure)
        return response

    def _address(self, request: Request) -> str:
        return self._gate().address(request.scope, read_headers(request.scope["headers"]))

    def _gate(self) -> Gate:
        assert self._control.gate is not None
        return self._control.gate

    def _opened(self, opened: sessions.Opened) -> Response:
        response = http.answer({"actor": opened.actor})
        response.set_cookie(
            self._gate().cookie,
            opened.cookie,
            max_age=sessions.LONGEST_US // 1_000_000,
            path="/",
            secure=self._gate().secure,
            httponly=True,
            samesite="strict",
        )
        return response


async def _fields(request: Request, *names: str) -> list[str]:
    """Exactly these fields of a JSON body, each a text; none of them is repeated in an error."""
    found: dict[str, Any] = http.body_fields(await request.body())
    for name in found:
        if name not in names:
            raise Invalid(f"send {' and '.join(names)}", code="request.unknown-field", field=name[:60])
    for name in names:
        if not isinstance(found.get(name), str) or not 0 < len(found[name]) <= _LONGEST:
            raise Invalid(f"{name} is a text of at most {_LONGEST}", code="request.missing-field", field=name)
    return [found[name] for name in names]
