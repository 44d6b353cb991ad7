"""Op rows of access: users, grants, tokens, and who one is."""

import msgspec

from loopwright.access import service, tokens, users
from loopwright.access.model import Grant, Handed, Token, User
from loopwright.kernel.op import Op
from loopwright.kernel.times import format_time
from loopwright.store.space import Space


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the actor as events name it, the user's name, what it may."""

    actor: str
    name: str | None
    grants: list[Grant]


def me(space: Space, actor: str) -> Me:
    """Say who one is here, and by which grants one may what."""
    table = service.table(space)
    if actor.startswith("token:"):
        token = table.by_id[actor.removeprefix("token:")]
        return Me(actor=actor, name=None, grants=[Grant(role=token.role, scope=token.scope)])
    user = table.users.get(actor.removeprefix("user:"))
    if user is None:
        return Me(actor=actor, name=None, grants=[])
    return Me(actor=actor, name=user.name, grants=user.grants)


def list_users(space: Space, actor: str) -> list[User]:
    """List the users with their grants."""
    return users.listed(space)


def invite(
    space: Space, actor: str, *, name: str, role: str | None = None, scope: str = "*", hours: int = 24
) -> Handed:
    """Invite a person by a link that works once; it is shown this once.

    Args:
        name: the user's name, such as an e-mail address.
        role: viewer, developer, approver, operator, steward, auditor or admin; needed for a new user.
        scope: where: *, endpoint:NAME, name:NAME, features:NAME, or such with * at the end.
        hours: how long the link holds.
    """
    return users.invite(space, actor, name, role=role, scope=scope, hours=hours)


def grant(space: Space, actor: str, *, name: str, role: str, scope: str = "*") -> User:
    """Give a user a role on a scope."""
    return users.grant(space, actor, name, role=role, scope=scope)


def revoke(space: Space, actor: str, *, name: str, role: str, scope: str = "*") -> User:
    """Take a role on a scope from a user."""
    return users.revoke(space, actor, name, role=role, scope=scope)


def disable(space: Space, actor: str, *, name: str) -> User:
    """Let a user in no more; sessions end and tokens open nothing."""
    return users.disable(space, actor, name)


def enable(space: Space, actor: str, *, name: str) -> User:
    """Let a disabled user in again."""
    return users.enable(space, actor, name)


def list_tokens(space: Space, actor: str) -> list[Token]:
    """List one's own tokens, or everybody's for the owner, an admin or an auditor."""
    return tokens.listed(space, actor)


def create_token(space: Space, actor: str, *, role: str, scope: str = "*", days: int = 90) -> Handed:
    """Make a token for a program; its text is shown this once.

    Args:
        role: what it may, never more than its maker; developer asks predictions and sends labels.
        scope: where: *, endpoint:NAME, name:NAME, features:NAME, or such with * at the end.
        days: how long it holds.
    """
    return tokens.create(space, actor, role=role, scope=scope, days=days)


def revoke_token(space: Space, actor: str, *, token: str) -> Token:
    """Make a token open nothing any more.

    Args:
        token: the token's id, as `lw tokens list` shows it.
    """
    return tokens.revoke(space, actor, token)


def _invited(handed: Handed) -> str:
    until = "" if handed.expires_us is None else f", until {format_time(handed.expires_us)}"
    return f"open once{until}, at this server's address:\n  {handed.where}"


def _created(handed: Handed) -> str:
    until = "" if handed.expires_us is None else f" until {format_time(handed.expires_us)}"
    return (
        f"{handed.secret}\nshown this once; it holds{until}. In a program: LOOPWRIGHT_TOKEN, or Authorization: Bearer"
    )


OPS = [
    Op(fn=me, http="GET /api/v1/me", action="me.read"),
    Op(fn=list_users, http="GET /api/v1/users", action="users.read", cli="users list"),
    Op(
        fn=invite,
        http="POST /api/v1/users",
        action="users.invite",
        secret=True,
        cli="users invite",
        positional=("name",),
        render=_invited,
    ),
    Op(
        fn=grant,
        http="POST /api/v1/users/{name}/grants",
        action="users.grant",
        cli="users grant",
        positional=("name", "role"),
    ),
    Op(
        fn=revoke,
        http="DELETE /api/v1/users/{name}/grants/{role}",
        action="users.grant",
        cli="users revoke",
        positional=("name", "role"),
    ),
    Op(
        fn=disable,
        http="POST /api/v1/users/{name}/disable",
        action="users.disable",
        cli="users disable",
        positional=("name",),
    ),
    Op(
        fn=enable,
        http="POST /api/v1/users/{name}/enable",
        action="users.disable",
        cli="users enable",
        positional=("name",),
    ),
    Op(fn=list_tokens, http="GET /api/v1/tokens", action="tokens.read", cli="tokens list"),
    Op(
        fn=create_token,
        http="POST /api/v1/tokens",
        action="tokens.create",
        secret=True,
        cli="tokens create",
        render=_created,
    ),
    Op(
        fn=revoke_token,
        http="DELETE /api/v1/tokens/{token}",
        action="tokens.revoke",
        cli="tokens revoke",
        positional=("token",),
    ),
]
