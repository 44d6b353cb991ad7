"""A small client of a running `lw up`: where it answers, and one HTTP call. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import socket
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from loopwright.faces import bind
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import LoopwrightError, NotFound, Unavailable
from loopwright.kernel.op import Op
from loopwright.project.server import running

_STALE_S = 2.0
JSON, NDJSON = "application/json", "application/x-ndjson"


class Refused(LoopwrightError):
    """The server answered with an error; `status` is its HTTP status."""

    kind = "refused"
    status = 0


def connect(root: Path) -> Client:
    """A client of the `lw up` that runs in this project.

    Raises:
        NotFound: none runs.
    """
    found = running(root)
    if found is None:
        raise NotFound(f"no `lw up` runs in {root}", code="up.missing", hint="lw up")
    return Client(found.control_url)


class Client:
    """One keep-alive connection to a server at this machine; loopback ignores proxies."""

    def __init__(self, url: str, *, timeout_s: float | None = 30.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._used_s = 0.0

    def request(self, verb: str, path: str, body: bytes | None = None, kind: str = JSON) -> tuple[int, bytes]:
        """Send one request and return status and body.

        Raises:
            Unavailable: nobody answers there; whether a command was taken is then not known.
        """
        headers = {"content-type": kind} if body is not None else {}
        if monotonic_s() - self._used_s > _STALE_S:
            self.close()  # the server may be closing it just now
        connection = self._connection = self._connection or self._open()
        try:
            connection.request(verb, path, body, headers)
            response = connection.getresponse()
            answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(f"{self.url} does not answer: {error}", code="up.silent", hint="lw up") from None
        self._used_s = monotonic_s()
        return answer

    def _open(self) -> http.client.HTTPConnection:
        parts = urllib.parse.urlsplit(self.url)
        return http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=self.timeout_s)

    def json(self, verb: str, path: str, fields: Any = None, *, query: Mapping[str, Any] | None = None) -> Any:
        """Send fields as JSON and return the JSON answer.

        Raises:
            Refused: the server answered with an error.
            Unavailable: nobody answers there.
        """
        target = path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else "")
        status, body = self.request(verb, target, None if fields is None else bind.to_json(fields))
        return read(status, body)

    def call(self, op: Op, **args: Any) -> Any:
        """Call an op by its row and return the JSON answer.

        Raises:
            Refused: the server answered with an error.
        """
        taken = {name: urllib.parse.quote(str(args.pop(name)), safe="") for name in bind.path_fields(op)}
        path, verb, whole = bind.fill_path(op, taken), bind.verb(op), bind.body_param(op)
        if whole is not None:
            body = args.pop(whole.name)
            query = "?" + urllib.parse.urlencode(args, doseq=True) if args else ""
            return read(*self.request(verb, path + query, body, NDJSON))
        if verb in ("GET", "DELETE"):
            return self.json(verb, path, query={name: value for name, value in args.items() if value is not None})
        return self.json(verb, path, args)

    def abort(self) -> None:
        """Close the connection at once; a call that waits in another thread ends too."""
        sock = None if self._connection is None else self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def read(status: int, body: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        Refused: the server answered with an error.
    """
    if status < 400:
        return msgspec.json.decode(body) if body else None
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        document = {"message": body.decode("utf-8", "replace")[:500]}
    error = Refused(
        str(document.get("message")),
        code=str(document.get("code") or ""),
        field=document.get("field"),
        hint=document.get("hint"),
    )
    error.status = status
    raise error
