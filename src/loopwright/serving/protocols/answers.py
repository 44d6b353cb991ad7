"""What a wire answers to HTTP, how replies look as bytes of HTTP/1.1, and replies that refuse a request."""

from collections.abc import Mapping
from typing import Protocol

import orjson

from loopwright.serving.engine import Ask
from loopwright.serving.protocols.oip import Call, Index, Reply

_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 413: "Content Too Large", 414: "URI Too Long",
    415: "Unsupported Media Type", 417: "Expectation Failed", 422: "Unprocessable Content",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip
OK_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\nContent-Length: %d\r\n\r\n"
)


class Wire(Protocol):
    """A protocol on top of HTTP."""

    def open(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> Call | Index | Reply:
        """What a method, path and headers ask for."""

    def decode(self, call: Call | Index, body: bytes) -> Ask | Reply:
        """Read the body of a call."""

    def reply(self, ask: Ask) -> Reply:
        """The reply to an answered Ask."""


def refuse(status: int, code: str, message: str, hint: str | None = None) -> Reply:
    """A reply that says why a request is not taken."""
    body = {"error": message, "code": code, "message": message, "field": None, "hint": hint}
    return Reply(status, orjson.dumps(body))


def target(version: str, url: bytes, headers: Mapping[bytes, bytes], doubled: bool) -> bytes | Reply:
    """The path of a request, or why its head is refused, which another reader might cut out or send on differently."""
    coding, host = headers.get(b"transfer-encoding"), headers.get(b"host")
    if version not in ("1.1", "1.0"):
        return refuse(505, "http.version", "this server speaks HTTP/1.1")
    if coding is not None and (version == "1.0" or coding.strip().lower() != b"chunked"):
        return refuse(501, "http.transfer", "the only transfer coding that is read is chunked")
    if doubled or (host is None and version == "1.1"):
        return refuse(400, "http.host", "a request names one host, and each header once")
    if url.startswith(b"/"):
        return url
    # The absolute form, which every server must take (RFC 9112, 3.2.2); its host is the one that counts.
    scheme, _, rest = url.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if scheme.lower() not in (b"http", b"https") or host is None or authority.lower() != host.lower():
        return refuse(400, "http.target", "the target of a request is a path, or names the same host")
    return slash + path


def head(reply: Reply, keep_alive: bool, http10: bool) -> bytes:
    """The head of a reply."""
    kind = "application/octet-stream" if reply.json_bytes else "application/json"
    lines = [f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}", f"Content-Type: {kind}"]
    lines.append(f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(reply.body)}")
    if reply.json_bytes:
        lines.append(f"Inference-Header-Content-Length: {reply.json_bytes}")
    if reply.allow:
        lines.append(f"Allow: {reply.allow}")
    if reply.status == 401:
        lines.append("WWW-Authenticate: Bearer")
    if reply.status == 503:
        lines.append("Retry-After: 1")
    if not keep_alive:
        lines.append("Connection: close")
    elif http10:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
