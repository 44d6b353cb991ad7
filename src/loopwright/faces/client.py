"""A small HTTP client of a server of ours: this machine's `lw up`, or one elsewhere. Standard library only."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import socket
import stat
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from loopwright.faces import bind
from loopwright.kernel import errors
from loopwright.kernel import settings as config
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Invalid, NotFound, Unavailable
from loopwright.kernel.op import Op
from loopwright.project.server import running

if TYPE_CHECKING:
    import ssl

_STALE_S = 2.0
JSON, NDJSON, BYTES = "application/json", "application/x-ndjson", "application/octet-stream"
TOKEN, TOKEN_FILE = "LOOPWRIGHT_TOKEN", "LOOPWRIGHT_TOKEN_FILE"
# the kind of an error whose document does not say it
_KINDS = {401: "forbidden", 403: "forbidden", 404: "not-found", 409: "conflict", 410: "erased", 412: "gate-failed",
          501: "unsupported", 502: "unavailable", 503: "unavailable", 504: "timeout"}  # fmt: skip
_OK_BELOW, _INVALID_BELOW = 300, 500

Body = bytes | Iterable[bytes] | None


class Reply(NamedTuple):
    """An answer: its status, its headers by lower-case name, and the response to read from."""

    status: int
    headers: dict[str, str]
    response: http.client.HTTPResponse


def connect(root: Path) -> Client:
    """A client of the `lw up` that runs in this project.

    Raises:
        NotFound: none runs.
    """
    found = running(root)
    if found is None:
        raise NotFound(f"no `lw up` runs in {root}", code="up.missing", hint="lw up")
    return Client(found.control_url, pin=pin_of(root))


def pin_of(root: Path) -> str | None:
    """The certificate that this project's own server shows, for clients on this machine; None without TLS."""
    return config.file_of(root, config.read(root).tls_cert)


def token_of_environment() -> str | None:
    """The token that the environment holds or names a file of.

    Raises:
        Invalid: the file is not there, or others may read it.
    """
    place = os.environ.get(TOKEN_FILE)
    if os.environ.get(TOKEN) or not place:
        return os.environ.get(TOKEN) or None
    try:
        with open(place, encoding="ascii") as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise Invalid(f"{place} may be read by others", code="token.mode", field=TOKEN_FILE,
                              hint=f"chmod 600 {place}")  # fmt: skip
            return stream.read().strip() or None
    except (OSError, UnicodeDecodeError):
        raise Invalid(f"{place} holds no token that can be read", code="token.file", field=TOKEN_FILE) from None


class Client:
    """One keep-alive connection to a server; loopback ignores proxies, and https is verified.

    Args:
        pin: PEM file of the certificate that the server must show, whatever name it has.
    """

    def __init__(
        self, url: str, *, token: str | None = None, timeout_s: float | None = 30.0, pin: str | None = None
    ) -> None:
        self._pin = pin
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._parts = _parts(self.url)
        if token is not None and self._parts.scheme == "http" and not is_loopback(self._parts.hostname or ""):
            raise Invalid("a token is not sent over plain http to another machine", code="url.plain", field="url",
                          hint="use the https address")  # fmt: skip
        self._token = token
        self._connection: http.client.HTTPConnection | None = None
        self._used_s = 0.0

    def __repr__(self) -> str:
        return f"<client of {self.url}>"

    def send(self, verb: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request and return its answer, which must be read whole before the next one.

        Raises:
            Unavailable: nobody answers there; whether a command was taken is then not known.
        """
        told = dict(headers or {})
        if self._token is not None:
            told["authorization"] = f"Bearer {self._token}"
        if monotonic_s() - self._used_s > _STALE_S:
            self.close()  # the server may be closing it just now
        connection = self._connection = self._connection or self._open()
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(verb, path, body, told)  # who refuses a body may answer before it is all sent
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None
        self._used_s = monotonic_s()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response)

    def take(self, reply: Reply) -> bytes:
        """The whole body of an answer.

        Raises:
            Unavailable: it broke off.
        """
        try:
            return reply.response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None

    def _silent(self, error: Exception) -> Unavailable:
        self.close()
        hint = "lw up" if is_loopback(self._parts.hostname or "") else "check the address and the network"
        return Unavailable(f"{self.url} does not answer: {error}", code="up.silent", hint=hint)

    def request(self, verb: str, path: str, body: Body = None, kind: str = JSON) -> tuple[int, bytes]:
        """Send one request and return status and body.

        Raises:
            Unavailable: nobody answers there; whether a command was taken is then not known.
        """
        reply = self.send(verb, path, body, {"content-type": kind} if body is not None else None)
        return reply.status, self.take(reply)

    def _open(self) -> http.client.HTTPConnection:
        secure, host, port = self._parts.scheme == "https", self._parts.hostname or "127.0.0.1", self._parts.port
        context = _verifying(self._pin) if secure else None
        proxy = None if is_loopback(host) else _proxy(self._parts.scheme, host)
        if proxy is None:
            return _connection(context, host, port, self.timeout_s)
        made = _connection(context, proxy.hostname or "", proxy.port, self.timeout_s)
        made.set_tunnel(host, port or (443 if secure else 80))
        return made

    def json(self, verb: str, path: str, fields: Any = None, *, query: Mapping[str, Any] | None = None) -> Any:
        """Send fields as JSON and return the JSON answer.

        Raises:
            LoopwrightError: the server answered with an error, of its kind.
            Unavailable: nobody answers there.
        """
        target = path + ("?" + urllib.parse.urlencode(query, doseq=True) if query else "")
        status, body = self.request(verb, target, None if fields is None else bind.to_json(fields))
        return read(status, body)

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


def _parts(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong or parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise Invalid("an address is such as https://host:4600, without name, path or query", code="url.form",
                      field="url")  # fmt: skip
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; 127.0.0.1.example.org is one
        return host == "localhost"


def _verifying(pin: str | None) -> ssl.SSLContext:
    import ssl

    if pin is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # this very certificate is asked for, not one of a name
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(pin)
    return context


def _proxy(scheme: str, host: str) -> urllib.parse.SplitResult | None:
    import urllib.request

    found = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
    return urllib.parse.urlsplit(found if "//" in found else f"//{found}") if found else None


def _connection(
    context: ssl.SSLContext | None, host: str, port: int | None, timeout_s: float | None
) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def target(op: Op, args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path of an op with its fields filled in, and the arguments that are left."""
    left = dict(args)
    taken = {name: urllib.parse.quote(str(left.pop(name)), safe="") for name in bind.path_fields(op)}
    return bind.fill_path(op, taken), left


def query_of(args: Mapping[str, Any]) -> str:
    """Arguments as a query; those that are None are left out."""
    given = {name: _word(value) for name, value in args.items() if value is not None}
    return "?" + urllib.parse.urlencode(given, doseq=True) if given else ""


def _word(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def read(status: int, body: bytes) -> Any:
    """The JSON of an answer.

    Raises:
        LoopwrightError: the server answered with an error, of its kind.
    """
    if status < _OK_BELOW:
        return msgspec.json.decode(body) if body else None
    raise error_of(status, body)


def error_of(status: int, body: bytes) -> errors.LoopwrightError:
    """The error that an answer tells of."""
    try:
        document = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        document = {"message": body.decode("utf-8", "replace")[:500] or f"the server answered {status}"}
    fallback = _KINDS.get(status, "invalid" if 400 <= status < _INVALID_BELOW else "error")
    return errors.rebuilt(document, fallback)
