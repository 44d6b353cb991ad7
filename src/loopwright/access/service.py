"""authorize(): the one place that says whether an actor may act, and by which rule.

Actors: `local:<uid>` (the owner at this machine), `user:<id>`, `token:<id>`, `anonymous`, and the Space's own parts.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from loopwright.access import queries
from loopwright.access.model import Unauthenticated
from loopwright.access.roles import ACTIONS, OPEN
from loopwright.access.table import CHECK, Table
from loopwright.kernel.clock import monotonic_s
from loopwright.kernel.errors import Forbidden
from loopwright.kernel.verdict import Verdict
from loopwright.store.database import Tx
from loopwright.store.space import Space

T = TypeVar("T")

# Parts of the system act under their own names, so that the ledger tells a person's act from theirs.
SYSTEM_ACTORS = ("loop", "jobs", "replay")
ANONYMOUS = "anonymous"
# How long another process's change may stay unseen; a change made here is seen at once.
STALE_S = 0.1
_BACK = re.compile("[@~]")
_SYSTEM = {
    name: Verdict(outcome="pass", check=CHECK, reason=f"{name} is a part of this Space") for name in SYSTEM_ACTORS
}
_OWNER = Verdict(outcome="pass", check=CHECK, reason="the local owner may do everything")
_EVERYBODY = Verdict(outcome="pass", check=CHECK, reason="everybody may do this")
# `takes the role ...` by action, put together once: it stands in every refusal.
_TAKES = {action: f"; it takes the role {', '.join(sorted(names))}" for action, names in ACTIONS.items()}
_tables: WeakKeyDictionary[Space, Table] = WeakKeyDictionary()
_owners: WeakKeyDictionary[Space, int] = WeakKeyDictionary()
_near: tuple[ref[Space] | None, Table | None] = (None, None)  # of the Space that was asked last: one look-up less


def local_actor() -> str:
    """The person at this machine, by number and not by name: `local:<uid>`, the owner of the Space."""
    return f"local:{os.getuid()}"


def authorize(space: Space, actor: str, action: str, subject: str = "") -> Verdict:
    """Say whether the actor may do the action to the subject, and by which rule.

    Args:
        subject: such as `endpoint:delay`; empty for the whole Space, which only a grant on `*` covers.
    """
    if actor[:6] == "local:":
        if "." in action and _owns(space):
            return _OWNER
    elif actor in _SYSTEM:
        if "." in action:
            return _SYSTEM[actor]
    else:
        found = table(space).decide(actor, action, subject)
        if found is not None:
            return found
        if action in OPEN:
            return _EVERYBODY
    takes = _TAKES.get(action)
    if takes is None:
        takes = "" if "." in action else f": {action!r} is no action"
    what = subject or "the whole Space"
    return Verdict(outcome="fail", check=CHECK, reason=f"{actor} has no role that allows {action} on {what}{takes}")


def _owns(space: Space) -> bool:
    owner = _owners.get(space)
    if owner is None:
        owner = _owners[space] = os.stat(space.home).st_uid
    return owner == os.getuid()


def table(space: Space) -> Table:
    """The state of access as of at most STALE_S ago."""
    known, found = _near
    if found is not None and known is not None and known() is space and monotonic_s() - found.checked_s < STALE_S:
        return found
    found = _tables.get(space)
    if found is not None and monotonic_s() - found.checked_s < STALE_S:
        return found
    return refreshed(space)


def refreshed(space: Space) -> Table:
    """The state of access as of now.

    Raises:
        Unavailable: the database does not answer.
    """
    global _near
    now_s, found = monotonic_s(), _tables.get(space)
    with space.read() as tx:
        if found is None or queries.generation(tx) != found.generation:
            found = Table(tx)
    found.checked_s = now_s
    _tables[space] = found
    _near = (ref(space), found)
    return found


def change(space: Space, write: Callable[[Tx], T]) -> T:
    """Run a write that changes who may what; the next decision of this process sees it."""
    done = space.write(write)
    found = _tables.get(space)
    if found is not None:
        found.checked_s = 0.0
    return done


def require(space: Space, actor: str, action: str, subject: str = "") -> None:
    """Go on only when the actor may do the action.

    Raises:
        Forbidden: the actor may not; the reason names the rule.
        Unauthenticated: nobody knows who asks.
    """
    verdict = authorize(space, actor, action, subject)
    if not verdict.passed:
        raise _refused(space, actor, action, verdict.reason)


def require_somewhere(space: Space, actor: str, action: str) -> None:
    """Go on only when the actor may do the action to something; asked before a request's body is read.

    Raises:
        Forbidden: the actor may do it to nothing.
        Unauthenticated: nobody knows who asks.
    """
    if actor.startswith("local:") or actor in _SYSTEM or not table(space).somewhere(actor, action):
        require(space, actor, action)


def _refused(space: Space, actor: str, action: str, reason: str) -> Forbidden:
    if actor.startswith("token:"):
        found = table(space).by_id.get(actor[6:])
        if found is None or not table(space).is_live(found):  # it held at the door, and was revoked since
            return Unauthenticated(
                "this token is not known, or has expired", code="access.unknown", hint="lw tokens create"
            )
    if actor == ANONYMOUS:
        return Unauthenticated(
            f"{action} is not for everybody: show a token or log in", code="access.unknown", hint="lw tokens create"
        )
    return Forbidden(reason, code="access.refused", field=action)


def subject_of(template: str, args: Mapping[str, Any]) -> str:
    """The subject that a template such as `endpoint:{endpoint}` names for these arguments.

    Of an address such as `delay@3` or `delay~1` the name alone counts; an argument that is not given makes it the
    whole Space.
    """
    if not template:
        return ""
    kind, _, field = template.partition(":")
    value = args.get(field.strip("{}"))
    return "" if value is None or value == "" else f"{kind}:{_BACK.split(str(value), maxsplit=1)[0]}"
