"""authorize(): the one place that says whether an actor may act."""

import getpass
import os

from loopwright.kernel.errors import Forbidden
from loopwright.kernel.verdict import Verdict
from loopwright.store.space import Space

# Parts of the system act under their own names, so that the ledger tells a person's act from theirs.
SYSTEM_ACTORS = ("loop", "jobs", "replay")


def local_actor() -> str:
    """The person at this machine: `local:<user>`, the owner of the Space."""
    try:
        return f"local:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"local:{os.getuid()}"


def authorize(space: Space, actor: str, action: str, subject: str = "") -> Verdict:
    """Say whether the actor may do the action, and by which rule."""
    if not action or "." not in action:
        return Verdict(outcome="fail", check="authorize", reason=f"{action!r} is no action")
    if actor in SYSTEM_ACTORS:
        return Verdict(outcome="pass", check="authorize", reason=f"{actor} is a part of this Space")
    if actor.startswith("local:") and os.stat(space.home).st_uid == os.getuid():
        return Verdict(outcome="pass", check="authorize", reason="the local owner may do everything")
    return Verdict(outcome="fail", check="authorize", reason=f"{actor} has no role that allows {action}")


def require(space: Space, actor: str, action: str, subject: str = "") -> None:
    """Go on only when the actor may do the action.

    Raises:
        Forbidden: the actor may not; the reason names the rule.
    """
    verdict = authorize(space, actor, action, subject)
    if not verdict.passed:
        raise Forbidden(verdict.reason, code="access.refused", field=action)
