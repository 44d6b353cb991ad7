"""Event kinds and events: append-only facts, and the sentence a person reads of each."""

from typing import Any

import msgspec


class EventKind(msgspec.Struct, frozen=True):
    """One kind of event that a room publishes.

    Args:
        name: `noun.past-participle@1`.
        sentence: template with `{subject}` and the fields of the data.
        decision: whether two equal replays must agree on it.
        stable: the fields of the data that `lw events --stable` shows.
    """

    name: str
    sentence: str
    decision: bool = False
    stable: tuple[str, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One fact: when it held, when it became known, who, what, of what, and which event led to it."""

    seq: int
    at_us: int
    known_at_us: int
    actor: str
    kind: str
    subject: str
    data: dict[str, Any]
    cause: int | None = None


class _Lenient(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def sentence(kind: EventKind | None, event: Event) -> str:
    """The event as a sentence; an unknown kind is named as it is."""
    if kind is None:
        return f"{event.kind} {event.subject}"
    return kind.sentence.format_map(_Lenient(event.data, subject=event.subject, actor=event.actor))
