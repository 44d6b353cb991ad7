"""Who may what, in memory: built from the database whenever its generation has moved on."""

from typing import NamedTuple

from loopwright.access import queries
from loopwright.access.model import Grant, Token, User
from loopwright.access.published import covers
from loopwright.access.queries import Session
from loopwright.access.roles import ACTIONS, ROLES
from loopwright.kernel.clock import machine_us
from loopwright.kernel.verdict import Verdict
from loopwright.store.database import Tx

CHECK = "authorize"


class Rule(NamedTuple):
    """Scopes that must all hold the subject, and the verdict when they do."""

    scopes: tuple[str, ...]
    verdict: Verdict


Rules = dict[str, tuple[Rule, ...]]


class Table:
    """One state of access."""

    def __init__(self, tx: Tx) -> None:
        self.generation = queries.generation(tx)
        self.checked_s = 0.0
        self.users: dict[str, User] = {user.id: user for user in queries.users(tx)}
        self.tokens: dict[str, Token] = dict(queries.tokens(tx))
        self.sessions: dict[str, Session] = {found.sha256: found for found in queries.sessions(tx)}
        self.by_id: dict[str, Token] = {token.id: token for token in self.tokens.values()}
        self.rights: dict[str, Rules] = {}
        for user in self.users.values():
            if user.state == "enabled":
                self.rights[f"user:{user.id}"] = _by_grants(user.grants)
        for token in self.tokens.values():
            if token.revoked_us is None:
                self.rights[f"token:{token.id}"] = self._by_token(token)

    def _by_token(self, token: Token) -> Rules:
        """What a token may: what its role may on its scope, as far as its owner still may it."""
        why = f"by the role {token.role} on {token.scope} of token {token.id}"
        owner = None if token.owner.startswith("local:") else self.rights.get(token.owner, {})
        out: Rules = {}
        for action, roles in ACTIONS.items():
            if token.role not in roles:
                continue
            if owner is None:
                out[action] = (Rule((token.scope,), _allowed(action, why)),)
            else:
                held = owner.get(action, ())
                out[action] = tuple(Rule((token.scope, *rule.scopes), _allowed(action, why)) for rule in held)
        return out

    def is_live(self, token: Token) -> bool:
        """Whether a token holds now."""
        return token.revoked_us is None and (token.expires_us is None or token.expires_us > machine_us())

    def decide(self, actor: str, action: str, subject: str) -> Verdict | None:
        """The verdict of the first rule that allows it, or None."""
        rules = self.rights.get(actor)
        if rules is None:
            return None
        for scopes, verdict in rules.get(action, ()):
            for scope in scopes:
                if scope != "*" and not covers(scope, subject):
                    break
            else:
                return verdict
        return None

    def somewhere(self, actor: str, action: str) -> bool:
        """Whether the actor may do the action to anything at all."""
        return bool(self.rights.get(actor, {}).get(action))


def _by_grants(grants: list[Grant]) -> Rules:
    out: Rules = {}
    for action, roles in ACTIONS.items():
        found = tuple(
            Rule((grant.scope,), _allowed(action, f"by the role {grant.role} on {grant.scope}"))
            for grant in grants
            if grant.role in roles and grant.role in ROLES
        )
        if found:
            out[action] = found
    return out


def _allowed(action: str, why: str) -> Verdict:
    return Verdict(outcome="pass", check=CHECK, reason=f"{action} is allowed {why}")
