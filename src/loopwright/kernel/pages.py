"""Pages: a list that grows is read piece by piece, each by the token that the one before gave."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from loopwright.kernel.errors import Invalid

T = TypeVar("T")
MOST = 1000


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A piece of a list; `next` is what `after` must be to read on, None at the end."""

    items: list[T]
    next: str | None = None


def page(
    found: Sequence[T], *, after: str | None = None, limit: int = MOST, key: Callable[[T], Any] | None = None
) -> Page[T]:
    """The piece of a list behind a token.

    Args:
        key: what tells an item from all others; without one, for lists that only grow at their end, its place.

    Raises:
        Invalid: `limit` is out of range, or `after` is no token of this list.
    """
    check_limit(limit)
    start = 0
    if after is not None and key is None:
        start = int(after) if after.isdecimal() and len(after) < 19 else -1
        if not 0 <= start <= len(found):
            raise _no_token(after)
    elif after is not None and key is not None:
        start = next((place for place, item in enumerate(found, 1) if str(key(item)) == after), 0)
        if not start:
            raise _no_token(after)
    items = list(found[start : start + limit])
    more = start + len(items) < len(found)
    token = str(start + len(items)) if key is None else str(key(items[-1])) if items else None
    return Page(items=items, next=token if more else None)


def check_limit(limit: int) -> None:
    """Go on only with a length that a page can have.

    Raises:
        Invalid: it has not.
    """
    if not 1 <= limit <= MOST:
        raise Invalid(f"limit must be 1 to {MOST}, not {limit}", code="page.limit", field="limit")


def _no_token(after: str) -> Invalid:
    return Invalid(f"{after[:100]!r} is no `next` of this list", code="page.after", field="after")
