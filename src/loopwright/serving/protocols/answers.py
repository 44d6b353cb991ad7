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


def head(reply: Reply, keep_alive: bool, http10: bool) -> bytes:
    """The head of a reply."""
    kind = "application/octet-stream" if reply.json_bytes else "application/json"
    lines = [f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}", f"Content-Type: {kind}"]
    lines.append(f"X-Content-Type-Options: nosniff\r\nContent-Length: {len(reply.body)}")
    if reply.json_bytes:
        lines.append(f"Inference-Header-Content-Length: {reply.json_bytes}")
    if reply.allow:
        lines.append(f"Allow: {reply.allow}")
    if reply.status == 503:
        lines.append("Retry-After: 1")
    if not keep_alive:
        lines.append("Connection: close")
    elif http10:
        lines.append("Connection: keep-alive")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
