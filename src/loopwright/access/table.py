"""Who may what, in memory: built from the database whenever its generation has moved on."""

from loopwright.access import queries
from loopwright.access.model import Grant, Token, User
from loopwright.access.published import within
from loopwright.access.queries import Session
from loopwright.access.roles import ACTIONS, OWN
from loopwright.kernel.clock import machine_us
from loopwright.kernel.verdict import Verdict
from loopwright.store.database import Tx

CHECK = "authorize"


class Reach:
    """On what an actor may do one action, laid out so that a decision is one or two look-ups."""

    __slots__ = ("everywhere", "exact", "heads", "prefixes", "scopes")

    def __init__(self, action: str, whys: dict[str, str]) -> None:
        self.scopes = sorted(whys)
        self.everywhere: Verdict | None = None
        self.exact: dict[str, Verdict] = {}
        self.prefixes: list[tuple[str, Verdict]] = []
        for scope, why in whys.items():
            verdict = Verdict(outcome="pass", check=CHECK, reason=f"{action} is allowed by {why}")
            if scope == "*":
                self.everywhere = verdict
            elif scope.endswith("*"):
                self.prefixes.append((scope[:-1], verdict))
            else:
                self.exact[scope] = verdict
        self.heads = tuple(prefix for prefix, _ in self.prefixes)


Rights = dict[str, Reach]


class Table:
    """One state of access."""

    def __init__(self, tx: Tx) -> None:
        self.generation = queries.generation(tx)
        self.checked_s = 0.0
        self.users: dict[str, User] = {user.id: user for user in queries.users(tx)}
        self.tokens: dict[str, Token] = dict(queries.tokens(tx))
        self.sessions: dict[str, Session] = {found.sha256: found for found in queries.sessions(tx)}
        self.by_id: dict[str, Token] = {token.id: token for token in self.tokens.values()}
        self.rights: dict[str, Rights] = {}
        for user in self.users.values():
            if user.state == "enabled":
                self.rights[f"user:{user.id}"] = _by_grants(user.grants)
        for token in self.tokens.values():
            if token.revoked_us is None:
                self.rights[f"token:{token.id}"] = self._by_token(token)

    def _by_token(self, token: Token) -> Rights:
        """What a token may: what its role may on its scope, as far as its owner still may it."""
        why = f"the role {token.role} on {token.scope} of token {token.id}"
        local = token.owner.startswith("local:")
        owner = {} if local else self.rights.get(token.owner, {})
        out: Rights = _own(why) if local or owner else {}
        for action, roles in ACTIONS.items():
            if action in OWN or token.role not in roles or not (local or action in owner):
                continue
            held = ["*"] if local else owner[action].scopes
            scopes = {scope: why for one in held if (scope := within(token.scope, one)) is not None}
            if scopes:
                out[action] = Reach(action, scopes)
        return out

    def is_live(self, token: Token) -> bool:
        """Whether a token holds now."""
        return token.revoked_us is None and (token.expires_us is None or token.expires_us > machine_us())

    def decide(self, actor: str, action: str, subject: str) -> Verdict | None:
        """The verdict of the rule that allows it, or None."""
        rights = self.rights.get(actor)
        reach = None if rights is None else rights.get(action)
        if reach is None:
            return None
        found = reach.everywhere or reach.exact.get(subject)
        if found is None and subject.startswith(reach.heads):
            for prefix, verdict in reach.prefixes:
                if subject.startswith(prefix):
                    return verdict
        return found

    def somewhere(self, actor: str, action: str) -> bool:
        """Whether the actor may do the action to anything at all."""
        return action in self.rights.get(actor, {})


def _by_grants(grants: list[Grant]) -> Rights:
    out: Rights = _own("being who it concerns")
    for action, roles in ACTIONS.items():
        if action in OWN:
            continue
        scopes = {grant.scope: f"the role {grant.role} on {grant.scope}" for grant in grants if grant.role in roles}
        if scopes:
            out[action] = Reach(action, scopes)
    return out


def _own(why: str) -> Rights:
    return {action: Reach(action, {"*": why}) for action in OWN}
