"""Users and their grants: invite, grant, revoke, disable, enable. A person's name stands in the table alone."""

import re
import secrets

from loopwright.access import queries, service
from loopwright.access.model import (
    DISABLED,
    GRANTED,
    INVITED,
    REINSTATED,
    REVOKED,
    Handed,
    User,
)
from loopwright.access.published import digest
from loopwright.access.roles import ROLES
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Conflict, Invalid, NotFound
from loopwright.kernel.ids import new_id
from loopwright.store import ledger
from loopwright.store.database import Row, Tx
from loopwright.store.space import Space

HOUR_US = 3_600_000_000
LONGEST_HOURS = 14 * 24
INVITATION = "lwi_"
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
_SCOPE = re.compile(r"\*|(?:endpoint|name|features|run):(?:[a-z0-9][a-z0-9._-]{0,99}\*?|\*)")


def valid_user(name: str) -> str:
    """Return a user's name when it is one; an e-mail address in lower case is.

    Raises:
        Invalid: it is not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            "a user's name is lower-case letters, digits, '.', '_', '-', '+' or '@', at most 100", code="user.name",
            field="name",
        )  # fmt: skip
    return name


def valid_role(role: str) -> str:
    """Return a role when there is one of that name.

    Raises:
        Invalid: there is not.
    """
    if role not in ROLES:
        raise Invalid(f"{role[:40]!r} is not a role; they are {', '.join(ROLES)}", code="role.missing", field="role")
    return role


def valid_scope(scope: str) -> str:
    """Return a scope when it has the form of one.

    Raises:
        Invalid: it has not.
    """
    if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
        raise Invalid(
            f"{str(scope)[:120]!r} is not a scope: *, endpoint:NAME, name:NAME, features:NAME, run:ID, or such with *"
            " at the end",
            code="scope.form",
            field="scope",
        )
    return scope


def listed(space: Space) -> list[User]:
    """Every user with grants, by name."""
    with space.read() as tx:
        return queries.users(tx)


def get(space: Space, name: str) -> User:
    """One user.

    Raises:
        NotFound: there is none of that name.
    """
    with space.read() as tx:
        return queries.user_of(tx, _row(tx, name))


def _row(tx: Tx, name: str) -> Row:
    row = queries.user_by_name(tx, valid_user(name))
    if row is None:
        raise NotFound(f"no user {name}", code="user.missing", field="name", hint="lw users list")
    return row


def invite(space: Space, actor: str, name: str, *, role: str | None, scope: str, hours: int) -> Handed:
    """Make a user when there is none, give the role, and return the token of an invitation that works once.

    Whoever is invited again chooses a new password with it; the old one holds until then.

    Raises:
        Conflict: the user was disabled.
        Invalid: a new user without a role, or a role, scope or span that is not one.
    """
    valid_user(name)
    if role is not None:
        valid_role(role)
    valid_scope(scope)
    if not 1 <= hours <= LONGEST_HOURS:
        raise Invalid(f"hours must be 1 to {LONGEST_HOURS}, not {hours}", code="invitation.hours", field="hours")
    token = INVITATION + secrets.token_hex(32)
    expires_us = machine_us() + hours * HOUR_US

    def write(tx: Tx) -> str:
        row = queries.user_by_name(tx, name)
        if row is None and role is None:
            raise Invalid("a new user needs a role", code="user.role", field="role", hint=f"--role {next(iter(ROLES))}")
        if row is not None and row["state"] == "disabled":
            raise Conflict(f"the user {name} is disabled", code="user.disabled", hint=f"lw users enable {name}")
        user_id = _made(tx, name) if row is None else str(row["id"])
        tx.execute("DELETE FROM invitations WHERE user_id = ? AND used_us IS NULL", (user_id,))
        tx.execute(
            "INSERT INTO invitations(sha256, user_id, expires_us) VALUES (?, ?, ?)",
            (digest(token), user_id, expires_us),
        )
        ledger.append(tx, actor, INVITED, f"user:{user_id}", {"role": role or "-", "scope": scope})
        if role is not None:
            _give(tx, actor, user_id, role, scope)
        queries.changed(tx)
        return user_id

    user_id = service.change(space, write)
    return Handed(id=user_id, secret=token, where=f"/login#{token}", expires_us=expires_us)


def _made(tx: Tx, name: str) -> str:
    user_id = new_id("user").removeprefix("user_")
    tx.execute(
        "INSERT INTO users(id, name, state, password, created_us) VALUES (?, ?, 'invited', NULL, ?)",
        (user_id, name, machine_us()),
    )
    return user_id


def _give(tx: Tx, actor: str, user_id: str, role: str, scope: str) -> None:
    done = tx.one(
        "INSERT INTO grants(principal, role, scope, given_us, given_by) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (principal, role, scope) DO NOTHING RETURNING principal",
        (f"user:{user_id}", role, scope, machine_us(), actor),
    )
    if done is not None:
        ledger.append(tx, actor, GRANTED, f"user:{user_id}", {"role": role, "scope": scope})


def grant(space: Space, actor: str, name: str, *, role: str, scope: str) -> User:
    """Give a user a role on a scope; nothing changes when it is held already.

    Raises:
        NotFound: there is no such user.
    """
    valid_role(role)
    valid_scope(scope)

    def write(tx: Tx) -> User:
        row = _row(tx, name)
        _give(tx, actor, row["id"], role, scope)
        queries.changed(tx)
        return queries.user_of(tx, row)

    return service.change(space, write)


def revoke(space: Space, actor: str, name: str, *, role: str, scope: str) -> User:
    """Take a role on a scope from a user; every token of the user loses it too.

    Raises:
        NotFound: the user does not hold it.
    """
    valid_role(role)

    def write(tx: Tx) -> User:
        row = _row(tx, name)
        gone = tx.one(
            "DELETE FROM grants WHERE principal = ? AND role = ? AND scope = ? RETURNING principal",
            (f"user:{row['id']}", role, scope),
        )
        if gone is None:
            raise NotFound(
                f"{name} is not {role} on {scope[:120]}", code="grant.missing", field="role", hint="lw users list"
            )
        ledger.append(tx, actor, REVOKED, f"user:{row['id']}", {"role": role, "scope": scope})
        queries.changed(tx)
        return queries.user_of(tx, row)

    return service.change(space, write)


def disable(space: Space, actor: str, name: str) -> User:
    """Let a user in no more: sessions end, invitations are void, tokens open nothing."""

    def write(tx: Tx) -> User:
        row = _row(tx, name)
        if row["state"] != "disabled":
            tx.execute("UPDATE users SET state = 'disabled' WHERE id = ?", (row["id"],))
            tx.execute("DELETE FROM sessions WHERE user_id = ?", (row["id"],))
            tx.execute("DELETE FROM invitations WHERE user_id = ?", (row["id"],))
            ledger.append(tx, actor, DISABLED, f"user:{row['id']}", {})
            queries.changed(tx)
        return queries.user_of(tx, _row(tx, name))

    return service.change(space, write)


def enable(space: Space, actor: str, name: str) -> User:
    """Let a disabled user in again, with the password and grants of before."""

    def write(tx: Tx) -> User:
        row = _row(tx, name)
        if row["state"] == "disabled":
            state = "invited" if row["password"] is None else "enabled"
            tx.execute("UPDATE users SET state = ? WHERE id = ?", (state, row["id"]))
            ledger.append(tx, actor, REINSTATED, f"user:{row['id']}", {})
            queries.changed(tx)
        return queries.user_of(tx, _row(tx, name))

    return service.change(space, write)


def admins(space: Space) -> int:
    """How many people can come in as admin of the whole Space, those who are invited counted."""
    users = listed(space)
    return sum(
        user.state != "disabled" and any(grant.role == "admin" and grant.scope == "*" for grant in user.grants)
        for user in users
    )
