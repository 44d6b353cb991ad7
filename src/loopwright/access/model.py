"""What access keeps: permits, users, grants, tokens; the events it writes, and the error for somebody unknown."""

from typing import Any, Literal

import msgspec

from loopwright.kernel.errors import Forbidden
from loopwright.kernel.event import EventKind

UserState = Literal["invited", "enabled", "disabled"]


class Unauthenticated(Forbidden):
    """Nobody knows who asks: no credential was shown, or none that holds."""

    kind = "unauthenticated"


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """Leave for one move of one subject from one state to another, given by a passing verdict."""

    id: str
    subject: str
    from_state: str
    to_state: str
    evidence: list[str]
    verdict: dict[str, Any]
    expires_us: int


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """A role on a scope: `*`, one subject such as `endpoint:delay`, or all that begin alike, `endpoint:del*`."""

    role: str
    scope: str


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may come in, and by which grants; `id` is what events name."""

    id: str
    name: str
    state: UserState
    grants: list[Grant]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is listed: never its text, only its first characters."""

    id: str
    shown: str
    owner: str
    role: str
    scope: str
    created_us: int
    expires_us: int | None
    revoked_us: int | None


class Handed(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that is shown once: a token, or the token of an invitation; its repr is masked.

    Args:
        id: whose it is: the token's or the user's id.
        secret: the text itself, kept nowhere.
        where: the path of the page that takes it, after the server's URL.
        expires_us: until when it holds.
    """

    id: str
    secret: str
    where: str = ""
    expires_us: int | None = None

    def __repr__(self) -> str:
        return f"Handed(id={self.id!r}, secret=***)"


PERMIT_ISSUED = EventKind("permit.issued@1", "a permit was given for {subject}: {from_state} -> {to_state}")
INVITED = EventKind("user.invited@1", "{subject} was invited as {role} on {scope}")
ENABLED = EventKind("user.enabled@1", "{subject} chose a password and may log in")
DISABLED = EventKind("user.disabled@1", "{subject} may not come in any more")
REINSTATED = EventKind("user.reinstated@1", "{subject} may come in again")
GRANTED = EventKind("grant.given@1", "{subject} became {role} on {scope}")
REVOKED = EventKind("grant.revoked@1", "{subject} is no longer {role} on {scope}")
TOKEN_CREATED = EventKind("token.created@1", "{subject} was made: {role} on {scope}")
TOKEN_REVOKED = EventKind("token.revoked@1", "{subject} was revoked")
SESSION_OPENED = EventKind("session.opened@1", "{subject} logged in")
LOGIN_REFUSED = EventKind("login.refused@1", "{failures} logins of {subject} were refused")
EVENTS = [
    PERMIT_ISSUED, INVITED, ENABLED, DISABLED, REINSTATED, GRANTED, REVOKED, TOKEN_CREATED, TOKEN_REVOKED,
    SESSION_OPENED, LOGIN_REFUSED,
]  # fmt: skip
# Who has access, which not everybody may see who sees what happens.
OF_PEOPLE = frozenset(kind.name for kind in EVENTS if kind is not PERMIT_ISSUED)
