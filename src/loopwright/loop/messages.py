"""What people are told: which events become messages, and how one reads. Knows no wire."""

from typing import Any, Literal, Protocol

import msgspec

from loopwright.kernel.event import Event, EventKind
from loopwright.kernel.settings import Channel
from loopwright.kernel.times import format_time
from loopwright.store import ledger

State = Literal["opened", "resolved", "told"]
About = Literal["pages", "approvals", "decisions"]

# The kinds that open an episode, and those that end one; the end names its opening as its cause.
OPENING: dict[str, About] = {
    "alarm.opened@1": "pages",
    "feed.broke@1": "pages",
    "approval.requested@1": "approvals",
}
CLOSING: dict[str, About] = {
    "alarm.closed@1": "pages",
    "feed.mended@1": "pages",
    "approval.given@1": "approvals",
    "approval.denied@1": "approvals",
}
TOLD: dict[str, About] = {
    "version.rolled-back@1": "pages",
    "rollout.aborted@1": "pages",
    "training.failed@1": "pages",
    "version.promoted@1": "decisions",
    "endpoint.deployed@1": "decisions",
}
KINDS: dict[str, About] = {**OPENING, **CLOSING, **TOLD}

DELIVERED = EventKind("notification.delivered@1", "{channel} was told of event {about} ({kind})")
FAILED = EventKind("notification.failed@1", "{channel} could not be told of event {about} ({kind}): {reason}")
EVENTS = [DELIVERED, FAILED]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message, before a channel gives it its form.

    Args:
        id: the same whenever it is sent again; `episode` is the same for what opens and ends one thing.
        facts: (name, value) pairs, at most ten.
        todo: the command to type next.
    """

    id: str
    episode: str
    state: State
    about: About
    kind: str
    endpoint: str
    title: str
    text: str
    at: str
    facts: list[tuple[str, str]]
    todo: str


class Sender(Protocol):
    """Sends messages in the form of one foreign system; the port of its bridge."""

    def __call__(self, channel: Channel, message: Message) -> None:
        """Send one message; returns when the other side has taken it.

        Raises:
            Unavailable: it may work later; `retry_after_s` says when.
            Invalid: it was refused for good, or the channel lacks something.
        """


def state_of(kind: str) -> State:
    """Whether a kind opens, ends or only tells."""
    return "opened" if kind in OPENING else "resolved" if kind in CLOSING else "told"


def message_of(event: Event, episode: int, channel: str) -> Message:
    """The message of an event."""
    data, endpoint = event.data, str(event.data.get("endpoint") or event.subject.partition(":")[2] or event.subject)
    sentence = ledger.sentence(event)
    resolved = "resolved: " if event.kind in CLOSING else ""
    return Message(
        id=f"{channel}/{event.seq}",
        episode=f"{episode}",
        state=state_of(event.kind),
        about=KINDS[event.kind],
        kind=event.kind,
        endpoint=endpoint,
        title=f"{resolved}{endpoint}: {_title(event)}",
        text=sentence,
        at=format_time(event.at_us),
        facts=_facts(data),
        todo=_todo(event.kind, endpoint, data),
    )


def _title(event: Event) -> str:
    """What it is about in a few words, such as `alarm quality`."""
    name = event.kind.partition("@")[0].partition(".")
    what = next((str(event.data[key]) for key in ("alarm", "feed", "column") if event.data.get(key)), "")
    return f"{name[0]} {what or name[2].replace('-', ' ')}"


def _facts(data: dict[str, Any]) -> list[tuple[str, str]]:
    flat = {**data, **(data["figures"] if isinstance(data.get("figures"), dict) else {})}
    out = []
    for key, value in flat.items():
        if key in ("endpoint", "reason", "evidence", "figures", "note", "digest") or value is None:
            continue
        if isinstance(value, str | int | float):
            out.append((key.replace("_", " "), f"{value:.6g}" if isinstance(value, float) else str(value)[:200]))
    return out[:10]


def _todo(kind: str, endpoint: str, data: dict[str, Any]) -> str:
    if kind == "approval.requested@1":
        return f"lw approve {data.get('request', endpoint)}"
    if kind.startswith("alarm."):
        return f"lw alarms {endpoint}"
    return f"lw log {endpoint}"
