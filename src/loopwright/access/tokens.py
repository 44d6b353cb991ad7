"""Tokens for programs: a role on a scope for a time, never more than their maker has; only digests are kept."""

import secrets

from loopwright.access import queries, service
from loopwright.access.model import TOKEN_CREATED, TOKEN_REVOKED, Handed, Token
from loopwright.access.published import covers, digest
from loopwright.access.users import valid_role, valid_scope
from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Forbidden, Invalid, NotFound
from loopwright.kernel.ids import new_id
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

DAY_US = 24 * 3_600_000_000
LONGEST_DAYS = 366
PREFIX = "lw_"
_SHOWN = len(PREFIX) + 8


def listed(space: Space, actor: str) -> list[Token]:
    """The tokens that the actor made, newest first; all of them for the owner, an admin or an auditor."""
    with space.read() as tx:
        found = [token for _, token in queries.tokens(tx)]
    if service.authorize(space, actor, "users.read").passed:
        return found
    return [token for token in found if token.owner == actor]


def create(space: Space, actor: str, *, role: str, scope: str, days: int) -> Handed:
    """Make a token and return its text, which is shown this once.

    Raises:
        Forbidden: the maker does not hold the role on that scope, or is a token.
        Invalid: a role, scope or span that is not one.
    """
    valid_role(role)
    valid_scope(scope)
    if not 1 <= days <= LONGEST_DAYS:
        raise Invalid(f"days must be 1 to {LONGEST_DAYS}, not {days}", code="token.days", field="days")
    _require_held(space, actor, role, scope)
    text, token_id, now = PREFIX + secrets.token_hex(32), new_id("token").removeprefix("token_"), machine_us()
    expires_us = now + days * DAY_US

    def write(tx: Tx) -> None:
        tx.execute(
            "INSERT INTO tokens(id, sha256, shown, owner, role, scope, created_us, expires_us)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (token_id, digest(text), text[:_SHOWN], actor, role, scope, now, expires_us),
        )
        ledger.append(tx, actor, TOKEN_CREATED, f"token:{token_id}", {"role": role, "scope": scope})
        queries.changed(tx)

    service.change(space, write)
    return Handed(id=token_id, secret=text, expires_us=expires_us)


def _require_held(space: Space, actor: str, role: str, scope: str) -> None:
    if actor.startswith("local:"):
        return
    user = service.table(space).users.get(actor.removeprefix("user:")) if actor.startswith("user:") else None
    if user is None:
        raise Forbidden("only a person makes tokens", code="token.maker", hint="log in, then make one")
    if not any(grant.role == role and covers(grant.scope, scope) for grant in user.grants):
        raise Forbidden(
            f"{actor} is not {role} on {scope}, so no token of theirs is", code="token.role", field="role",
            hint="lw users grant",
        )  # fmt: skip


def revoke(space: Space, actor: str, token_id: str) -> Token:
    """Make a token open nothing any more; one's own, or any for the owner and an admin.

    Raises:
        NotFound: there is no such token that the actor may see.
    """
    every = service.authorize(space, actor, "users.disable").passed

    def write(tx: Tx) -> Token:
        row = tx.one("SELECT * FROM tokens WHERE id = ?", (token_id,))
        if row is None or not (every or row["owner"] == actor):
            raise NotFound(f"no token {token_id[:60]}", code="token.missing", field="token", hint="lw tokens list")
        if row["revoked_us"] is None:
            tx.execute("UPDATE tokens SET revoked_us = ? WHERE id = ?", (machine_us(), token_id))
            ledger.append(tx, actor, TOKEN_REVOKED, f"token:{token_id}", {})
            queries.changed(tx)
        row = tx.one("SELECT * FROM tokens WHERE id = ?", (token_id,))
        assert row is not None
        return queries.token_of(row)

    return service.change(space, write)
