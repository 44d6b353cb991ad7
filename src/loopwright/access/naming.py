"""Names of actors for people to read: looked up when shown, for events hold numbers that name nobody."""

import pwd
import re
from collections.abc import Callable

from loopwright.access import service
from loopwright.store.space import Space

_ACTOR = re.compile(r"\b(user|local):([0-9a-z]+)\b")


def naming(space: Space) -> Callable[[str], str]:
    """A function that puts names in place of `user:<id>` and `local:<uid>` in a sentence."""
    users = service.table(space).users

    def named(found: re.Match[str]) -> str:
        kind, number = found.groups()
        if kind == "user":
            user = users.get(number)
            return found[0] if user is None else user.name
        try:
            return pwd.getpwuid(int(number)).pw_name
        except (KeyError, ValueError, OverflowError):
            return found[0]

    return lambda text: _ACTOR.sub(named, text)
