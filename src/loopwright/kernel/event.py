"""Event kinds and events: append-only facts, and the sentence a person reads of each."""

import math
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


def to_json(data: dict[str, Any]) -> str:
    """The data of an event as its stored text: keys in order, and a number that is not finite as a text.

    JSON knows no such number; the texts are `NaN`, `Infinity` and `-Infinity`.
    """
    return msgspec.json.encode(_finite(msgspec.to_builtins(data)), order="deterministic").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class _Lenient(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def sentence(kind: EventKind | None, event: Event) -> str:
    """The event as a sentence; an unknown kind is named as it is."""
    if kind is None:
        return f"{event.kind} {event.subject}"
    return kind.sentence.format_map(_Lenient(event.data, subject=event.subject, actor=event.actor))
