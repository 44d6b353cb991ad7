"""The ledger as people and other programs read it."""

from collections.abc import Callable
from typing import Any, Literal

from loopwright.access import service as access
from loopwright.access.model import OF_PEOPLE
from loopwright.access.naming import naming
from loopwright.kernel.errors import Invalid
from loopwright.kernel.event import Event
from loopwright.kernel.times import format_time
from loopwright.lineage.model import Line, Stable
from loopwright.store import ledger
from loopwright.store.space import Space

PAGE = 1000


def events(
    space: Space,
    actor: str,
    *,
    after: int = 0,
    kind: Literal["all", "decision"] = "all",
    subject: str | None = None,
    limit: int | None = None,
    stable: bool = False,
) -> list[Line] | list[Stable]:
    """List events after a sequence number, oldest first.

    Args:
        after: the sequence number to start behind.
        kind: `decision` for those that two equal replays must agree on.
        subject: only those of one subject, such as `endpoint:delay`.
        limit: at most so many; 0 = all. By default a thousand, and all with `stable`.
        stable: data time, kind, versions, verdicts, counts and scores only; no ids, digests or wall times.

    Raises:
        Invalid: `limit` is out of range.
    """
    if limit is None:
        limit = 0 if stable else PAGE
    if limit < 0:
        raise Invalid(f"limit must be 0 (all) or more, not {limit}", code="page.limit", field="limit")
    found: list[Event] = []
    hidden = unseen(space, actor)
    kinds = ledger.decision_kinds() if kind == "decision" else None
    with space.read() as tx:
        while True:
            page = ledger.read(tx, after=after, kinds=kinds, subject=subject, limit=min(limit or PAGE, PAGE))
            found += [event for event in page if event.kind not in hidden]
            if not page or (limit and len(found) >= limit) or (len(page) < PAGE and not limit):
                break
            after = page[-1].seq
    return [_stable(event) for event in found] if stable else lines(space, found)


def unseen(space: Space, actor: str) -> frozenset[str]:
    """The kinds of events that an actor does not see: those of who has access, without leave to read users."""
    return frozenset() if access.authorize(space, actor, "users.read").passed else OF_PEOPLE


def lines(space: Space, found: list[Event]) -> list[Line]:
    """Events with their sentences, in which people have names."""
    named = naming(space)
    return [_line(event, named) for event in found]


def _line(event: Event, named: Callable[[str], str]) -> Line:
    return Line(
        seq=event.seq,
        at=format_time(event.at_us),
        kind=event.kind,
        subject=event.subject,
        actor=event.actor,
        sentence=named(ledger.sentence(event)),
        data=event.data,
        cause=event.cause,
    )


def _stable(event: Event) -> Stable:
    kind = ledger.kind_of(event)
    fields = kind.stable if kind is not None else ()
    data = {field: _rounded(event.data[field]) for field in fields if field in event.data}
    return Stable(at=format_time(event.at_us), kind=event.kind, data={"subject": event.subject, **data})


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in sorted(value.items())}
    return value
