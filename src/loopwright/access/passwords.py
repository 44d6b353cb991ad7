"""Passwords: scrypt with a salt of its own each, and what a password must be; there is no default one."""

import hashlib
import hmac
import os
import threading
import unicodedata

from loopwright.kernel.errors import Invalid, Unavailable

# OWASP Password Storage Cheat Sheet, scrypt: N = 2^15, r = 8, p = 3 (32 MiB).
_N, _R, _P = 1 << 15, 8, 3
_MEMORY_BYTES = 64 << 20
SHORTEST, LONGEST = 12, 1024
_AT_ONCE = 2  # each takes memory and a core: more at a time would serve whoever wants to tire the server
_TURN_S = 10.0
_turns = threading.BoundedSemaphore(_AT_ONCE)


def checked(password: str, name: str) -> str:
    """The password itself, when it is one that may be chosen; it is never repeated in an error.

    Raises:
        Invalid: it is too short, too long, or holds the user's name.
    """
    if not isinstance(password, str) or not SHORTEST <= len(password) <= LONGEST:
        raise Invalid(
            f"a password has {SHORTEST} to {LONGEST} characters", code="password.length", field="password",
            hint="take a sentence",
        )  # fmt: skip
    if name.lower() in password.lower() or len(set(password)) < 5:
        raise Invalid(
            "a password does not hold the user's name and has at least 5 different characters", code="password.weak",
            field="password", hint="take a sentence",
        )  # fmt: skip
    return password


def hashed(password: str) -> str:
    """What is kept of a password: `scrypt$N$r$p$salt$hash`."""
    salt = os.urandom(16)
    return f"scrypt${_N}${_R}${_P}${salt.hex()}${_scrypt(password, salt, _N, _R, _P).hex()}"


def matches(password: str, kept: str | None) -> bool:
    """Whether a password is the one that was kept; takes as long when nothing was."""
    kind, n, r, p, salt, wanted = (kept or f"none${_N}${_R}${_P}${'00' * 16}${'00' * 32}").split("$")
    found = _scrypt(password[:LONGEST], bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, bytes.fromhex(wanted)) and kind == "scrypt"


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    if not _turns.acquire(timeout=_TURN_S):
        raise Unavailable("too many logins at a time", code="login.busy", retry_after_s=5.0)
    try:
        text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
        return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY_BYTES, dklen=32)
    finally:
        _turns.release()
