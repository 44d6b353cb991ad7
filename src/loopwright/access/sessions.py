"""Sessions of people: logging in, accepting an invitation, going out, and the back-off that guessing meets.

A session is a random number of which only the digest is kept; what is asked of it is machine time, not the world's.
"""

import hashlib
import secrets
from typing import NamedTuple

import msgspec

from loopwright.access import passwords, queries, service
from loopwright.access.model import ENABLED, LOGIN_REFUSED, SESSION_OPENED, Unauthenticated
from loopwright.access.published import digest
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Unavailable
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

_SECOND_US = 1_000_000
IDLE_US = 12 * 3600 * _SECOND_US
LONGEST_US = 7 * 24 * 3600 * _SECOND_US
_TOUCH_US = 300 * _SECOND_US
_FORGET_US = 3600 * _SECOND_US
# failures that cost nothing, then the longest wait: an account must not be locked by whoever knows its name
_FREE = {"account": (5, 60), "address": (20, 900)}
_TOLD = (5, 20, 100, 1000, 10_000)


class SlowDown(Unavailable):
    """Too many failures from there or for that account; `retry_after_s` says when to come again."""

    kind = "slow-down"


class Opened(NamedTuple):
    """A session that was just opened: the cookie's value, and the actor it makes."""

    cookie: str
    actor: str

    def __repr__(self) -> str:
        return f"Opened(cookie=***, actor={self.actor!r})"


def user_of(space: Space, cookie: str) -> str | None:
    """The actor of a session's cookie; None when it is not known, over, or its user may not come in."""
    table, now = service.table(space), machine_us()
    found = table.sessions.get(digest(cookie))
    if found is None or found.seen_us + IDLE_US < now or found.opened_us + LONGEST_US < now:
        return None
    user = table.users.get(found.user_id)
    if user is None or user.state != "enabled":
        return None
    if now - found.seen_us > _TOUCH_US:
        table.sessions[found.sha256] = msgspec.structs.replace(found, seen_us=now)
        space.write(lambda tx: tx.execute("UPDATE sessions SET seen_us = ? WHERE sha256 = ?", (now, found.sha256)))
    return f"user:{user.id}"


def log_in(space: Space, name: str, password: str, address: str) -> Opened:
    """Open a session by name and password; an unknown name is answered as, and takes as long as, a wrong password.

    Raises:
        SlowDown: too many failures.
        Unauthenticated: name and password do not belong together.
    """
    keys = {"account": _key("account", name), "address": _key("address", address)}
    _slow(space, list(keys.values()))
    with space.read() as tx:
        row = queries.user_by_name(tx, name)
    usable = row is not None and row["state"] == "enabled"
    right = passwords.matches(password, row["password"] if usable and row is not None else None)
    if not right or row is None:
        _failed(space, keys, "" if row is None else row["id"])
        raise Unauthenticated("name and password do not belong together", code="login.wrong", hint="lw users invite")
    return service.change(space, lambda tx: _open(tx, row["id"], keys["account"]))


def accept(space: Space, token: str, password: str, address: str) -> Opened:
    """Take an invitation's token once, keep the password that was chosen, and open a session.

    Raises:
        SlowDown: too many failures.
        Unauthenticated: the token is not known, was used, or has expired.
        Invalid: the password may not be chosen.
    """
    keys = {"address": _key("address", address)}
    _slow(space, list(keys.values()))
    sha256, now = digest(token), machine_us()
    unknown = Unauthenticated(
        "this invitation is not known, was used, or has expired", code="invitation.unknown", hint="lw users invite NAME"
    )
    with space.read() as tx:
        invited = _invited(tx, sha256, now)
        row = None if invited is None else queries.user_by_id(tx, invited)
    if row is None or row["state"] == "disabled":
        _failed(space, keys, "")
        raise unknown
    user_id, kept = str(row["id"]), passwords.hashed(passwords.checked(password, row["name"]))

    def write(tx: Tx) -> Opened:
        if _invited(tx, sha256, now) != user_id:
            raise unknown
        tx.execute("UPDATE invitations SET used_us = ? WHERE user_id = ? AND used_us IS NULL", (now, user_id))
        tx.execute("UPDATE users SET state = 'enabled', password = ? WHERE id = ?", (kept, user_id))
        tx.execute("DELETE FROM sessions WHERE user_id = ?", (user_id,))
        ledger.append(tx, f"user:{user_id}", ENABLED, f"user:{user_id}", {})
        return _open(tx, user_id, _key("account", row["name"]))

    return service.change(space, write)


def log_out(space: Space, cookie: str) -> None:
    """End the session of a cookie."""

    def write(tx: Tx) -> None:
        gone = tx.one("DELETE FROM sessions WHERE sha256 = ? RETURNING sha256", (digest(cookie),))
        if gone is not None:  # else every process would build its table anew for nothing, as often as somebody likes
            queries.changed(tx)

    service.change(space, write)


def _invited(tx: Tx, sha256: str, now_us: int) -> str | None:
    row = tx.one(
        "SELECT user_id FROM invitations WHERE sha256 = ? AND used_us IS NULL AND expires_us > ?", (sha256, now_us)
    )
    return None if row is None else str(row["user_id"])


def _open(tx: Tx, user_id: str, account: str) -> Opened:
    cookie, now = secrets.token_urlsafe(32), machine_us()
    tx.execute("DELETE FROM login_failures WHERE key = ? OR last_us < ?", (account, now - _FORGET_US))
    tx.execute("DELETE FROM sessions WHERE seen_us < ? OR opened_us < ?", (now - IDLE_US, now - LONGEST_US))
    tx.execute(
        "INSERT INTO sessions(sha256, user_id, opened_us, seen_us) VALUES (?, ?, ?, ?)",
        (digest(cookie), user_id, now, now),
    )
    queries.changed(tx)
    ledger.append(tx, f"user:{user_id}", SESSION_OPENED, f"user:{user_id}", {})
    return Opened(cookie, f"user:{user_id}")


def _key(kind: str, text: str) -> str:
    return f"{kind}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _slow(space: Space, keys: list[str]) -> None:
    now = machine_us()
    with space.read() as tx:
        rows = tx.query(f"SELECT until_us FROM login_failures WHERE key IN ({','.join('?' * len(keys))})", keys)
        until = max((int(row["until_us"]) for row in rows), default=0)
    if until > now:
        wait_s = (until - now) / _SECOND_US
        raise SlowDown(f"too many failures: try again in {wait_s:.0f} s", code="login.slow", retry_after_s=wait_s)


def _failed(space: Space, keys: dict[str, str], user_id: str) -> None:
    """Count a failure; a name that nobody has is counted as any other, or the waiting would tell it apart."""

    def write(tx: Tx) -> None:
        now = machine_us()
        tx.execute("DELETE FROM login_failures WHERE last_us < ?", (now - _FORGET_US,))
        for kind, key in keys.items():
            free, longest_s = _FREE[kind]
            count = int(tx.value("SELECT COALESCE(MAX(failures), 0) FROM login_failures WHERE key = ?", (key,))) + 1
            wait_s = 0 if count < free else min(longest_s, 2 ** min(count - free, 20))
            tx.execute(
                "INSERT INTO login_failures(key, failures, last_us, until_us) VALUES (?, ?, ?, ?) ON CONFLICT (key)"
                " DO UPDATE SET failures = excluded.failures, last_us = excluded.last_us, until_us = excluded.until_us",
                (key, count, now, now + wait_s * _SECOND_US),
            )
            if count in _TOLD:
                subject = f"user:{user_id}" if kind == "account" and user_id else kind
                ledger.append(tx, service.ANONYMOUS, LOGIN_REFUSED, subject, {"failures": count})

    service.change(space, write)
