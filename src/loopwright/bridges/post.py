"""One HTTP POST to an address that is a secret: never in an error, never followed elsewhere."""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from loopwright.kernel.errors import Invalid, Unavailable

TIMEOUT_S = 10.0
_LATER = frozenset({408, 425, 429})
_WORD = re.compile(rb"[A-Za-z0-9_ .,:'-]{1,80}")


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


def variable(name: str | None) -> str:
    """What an environment variable holds.

    Raises:
        Invalid: it is not set.
    """
    value = os.environ.get(name or "", "").strip()
    if not value:
        raise Invalid(
            f"the environment variable {name} is not set", code="notify.secret", field=name, hint=f"{name}=... lw up"
        )
    return value


def address(name: str | None) -> str:
    """The address in an environment variable: https, or http on this machine.

    Raises:
        Invalid: it is not set, or no such address; it is not repeated.
    """
    url = variable(name)
    try:
        parts = urlsplit(url)
        here = parts.hostname in ("127.0.0.1", "::1", "localhost")
        good = bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and here))
        good = good and (parts.port is None or parts.port > 0) and "\n" not in url
    except ValueError:
        good = False
    if not good:
        raise Invalid(f"{name} must hold an https address", code="notify.url", field=name)
    return url


def post(name: str | None, body: bytes, headers: Mapping[str, str]) -> None:
    """Send JSON to the address in an environment variable.

    Raises:
        Unavailable: no answer, or one that says later.
        Invalid: it was refused for good.
    """
    url = address(name)
    ways: list[urllib.request.BaseHandler] = [_Stay()]
    if urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost"):
        ways.append(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
    try:
        with urllib.request.build_opener(*ways).open(asked, timeout=TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error) from None
    except (OSError, HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        raise Unavailable(f"no answer ({type(cause).__name__})", code="notify.unreachable") from None


def _refused(error: urllib.error.HTTPError) -> Invalid | Unavailable:
    try:
        said = error.read(200)
    except (OSError, HTTPException):
        said = b""
    word = f": {said.decode()}" if _WORD.fullmatch(said) else ""  # a short word such as invalid_blocks helps
    if error.code in _LATER or error.code >= 500:
        after = error.headers.get("Retry-After", "")
        wait_s = float(after) if after.isdigit() else 1.0
        return Unavailable(f"it answered {error.code}{word}", retry_after_s=wait_s, code="notify.later")
    return Invalid(f"it was refused with {error.code}{word}", code="notify.refused")
