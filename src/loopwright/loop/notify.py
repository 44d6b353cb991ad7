"""Notifications: an outbox fed from the ledger, one message an episode and its end, retried until taken.

At least once: a message that was taken when its record could not be written is sent again under the same id.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from loopwright.kernel.clock import machine_us
from loopwright.kernel.errors import Invalid, LoopwrightError, NotFound, Unavailable
from loopwright.kernel.event import Event
from loopwright.kernel.settings import Channel
from loopwright.kernel.times import SECOND, format_time
from loopwright.loop import messages
from loopwright.loop.messages import CLOSING, KINDS, OPENING, Message, Sender
from loopwright.store import ledger
from loopwright.store.database import Tx, as_struct
from loopwright.store.space import Space

ACTOR = "loop"
BATCH = 200
DELAYS_S = (5, 30, 120, 600, 1800, 3600)
GIVE_UP_S = 24 * 3600
_LAG = 1000  # so far the cursor may stay behind when nothing concerns anybody
CURSOR = "notify"


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """A message in the outbox: `waiting`, `delivered`, or `failed` when it was refused or given up.

    Args:
        episode: the event that opened what it is about; `about` the event that it tells of.
        due_us, made_us, done_us: machine time.
    """

    id: str
    channel: str
    kind: str
    episode: int
    about: int
    state: str
    attempts: int
    due_us: int
    made_us: int
    done_us: int | None
    error: str


_senders: Callable[[str], Sender] | None = None


def set_senders(senders: Callable[[str], Sender]) -> None:
    """Plug in how the sender of a kind of channel is found."""
    global _senders
    _senders = senders


def turn(space: Space, channels: Mapping[str, Channel], now_us: int | None = None) -> int:
    """Take up what has happened, and send what is due; returns how many messages were taken by the other side."""
    if not channels:
        return 0
    now = machine_us() if now_us is None else now_us
    collect(space, channels, now)
    with space.read() as tx:
        due = _due(tx, now)
    return sum(_deliver(space, channels.get(note.channel), note, now) for note in due)


def collect(space: Space, channels: Mapping[str, Channel], now_us: int) -> None:
    """Put what concerns a channel into the outbox; what happened before the first look is history."""
    with space.read() as tx:
        cursor, last = _cursor(tx), ledger.last_seq(tx)
        found = [] if cursor is None else ledger.read(tx, after=cursor, kinds=list(KINDS), limit=BATCH)
    if cursor is not None and not found and last - cursor < _LAG:
        return

    def act(tx: Tx) -> None:
        if _cursor(tx) != cursor:
            return
        for event in found:
            for note in _notes(tx, channels, event, now_us):
                tx.execute(
                    "INSERT INTO outbox(id, channel, kind, episode, about, state, attempts, due_us, made_us, error)"
                    " VALUES (?, ?, ?, ?, ?, 'waiting', 0, ?, ?, '') ON CONFLICT DO NOTHING",
                    (note[0], note[1], event.kind, note[2], event.seq, now_us, now_us),
                )
        upto = found[-1].seq if len(found) == BATCH else last
        tx.execute(
            "INSERT INTO outbox_cursor(name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq",
            (CURSOR, upto),
        )

    space.write(act)


def _cursor(tx: Tx) -> int | None:
    found = tx.value("SELECT seq FROM outbox_cursor WHERE name = ?", (CURSOR,))
    return None if found is None else int(found)


def _notes(tx: Tx, channels: Mapping[str, Channel], event: Event, now_us: int) -> Iterator[tuple[str, str, int]]:
    """(id, channel, episode) of the messages that an event makes."""
    episode = _episode(tx, event)
    endpoint = str(event.data.get("endpoint") or "")
    for name, channel in channels.items():
        if KINDS[event.kind] not in channel.about or (channel.endpoints and endpoint not in channel.endpoints):
            continue
        told = tx.query("SELECT kind FROM outbox WHERE channel = ? AND episode = ?", (name, episode))
        states = {messages.state_of(row["kind"]) for row in told}
        if event.kind in CLOSING and ("opened" not in states or "resolved" in states):
            continue
        if event.kind in OPENING and states:
            continue
        yield f"{name}/{event.seq}", name, episode


def _episode(tx: Tx, event: Event) -> int:
    """The first opening behind an event: a broken feed opens its alarm, and both are one thing to people."""
    seen = event
    while seen.cause is not None and (seen.kind in CLOSING or seen.kind in OPENING):
        before = ledger.get(tx, seen.cause)
        if before is None or before.kind not in OPENING:
            break
        seen = before
    return seen.seq


def _due(tx: Tx, now_us: int) -> list[Notification]:
    """What is to be sent now, oldest first; an end waits for the message of its opening."""
    rows = tx.query(
        "SELECT * FROM outbox WHERE state = 'waiting' AND due_us <= ? ORDER BY about, id LIMIT ?", (now_us, BATCH)
    )
    waiting = tx.query("SELECT channel, episode, kind FROM outbox WHERE state = 'waiting'")
    opening = {(row["channel"], row["episode"]) for row in waiting if row["kind"] in OPENING}
    found = [as_struct(Notification, row) for row in rows]
    return [note for note in found if note.kind not in CLOSING or (note.channel, note.episode) not in opening]


def _deliver(space: Space, channel: Channel | None, note: Notification, now_us: int) -> bool:
    with space.read() as tx:
        event = ledger.get(tx, note.about)
    try:
        if channel is None or event is None:
            raise Invalid(f"there is no channel {note.channel} any more", code="notify.channel")
        send(channel, messages.message_of(event, note.episode, note.channel))
    except LoopwrightError as error:
        refused = error
        space.write(lambda tx: _failed(tx, note, refused, now_us))
        return False
    space.write(lambda tx: _done(tx, note, "delivered", "", now_us))
    return True


def send(channel: Channel, message: Message) -> None:
    """Send one message by the channel's wire.

    Raises:
        Unavailable: it may work later.
        Invalid: it was refused for good, or the channel lacks something.
    """
    assert _senders is not None
    _senders(channel.kind)(channel, message)


def _failed(tx: Tx, note: Notification, error: LoopwrightError, now_us: int) -> None:
    late = now_us - note.made_us > GIVE_UP_S * SECOND
    if not isinstance(error, Unavailable) or late:
        _done(tx, note, "failed", error.message, now_us)
        return
    wait_s = max(DELAYS_S[min(note.attempts, len(DELAYS_S) - 1)], min(error.retry_after_s, DELAYS_S[-1]))
    tx.execute(
        "UPDATE outbox SET attempts = attempts + 1, due_us = ?, error = ? WHERE id = ? AND state = 'waiting'",
        (now_us + int(wait_s * SECOND), error.message, note.id),
    )


def _done(tx: Tx, note: Notification, state: str, reason: str, now_us: int) -> None:
    changed = tx.execute(
        "UPDATE outbox SET state = ?, attempts = attempts + 1, done_us = ?, error = ?"
        " WHERE id = ? AND state = 'waiting'",
        (state, now_us, reason, note.id),
    )
    if not changed:
        return
    data = {"channel": note.channel, "about": note.about, "kind": note.kind, "attempts": note.attempts + 1}
    kind = messages.DELIVERED if state == "delivered" else messages.FAILED
    data |= {} if state == "delivered" else {"reason": reason}
    ledger.append(tx, ACTOR, kind, f"channel:{note.channel}", data, cause=note.about)


def listed(tx: Tx) -> list[Notification]:
    """The outbox, oldest first."""
    return [as_struct(Notification, row) for row in tx.query("SELECT * FROM outbox ORDER BY made_us, about, id")]


def try_out(space: Space, name: str) -> Message:
    """Send a message that says that it is a test; nothing is put into the outbox.

    Raises:
        NotFound: there is no such channel.
        Invalid, Unavailable: it was not taken.
    """
    channel = space.settings.notify.get(name)
    if channel is None:
        have = ", ".join(sorted(space.settings.notify)) or "none"
        raise NotFound(
            f"no channel {name[:40]!r}; there are: {have}", code="notify.missing", field="channel",
            hint=f"add [notify.{name[:40]}] to loopwright.toml",
        )  # fmt: skip
    at_us = space.clock.now_us()
    message = Message(
        id=f"{name}/test/{at_us}", episode="test", state="told", about="pages", kind="notification.tested@1",
        endpoint="", title="loopwright: a test", text="This channel gets the messages of loopwright.",
        at=format_time(at_us), facts=[("channel", name)], todo="lw status",
    )  # fmt: skip
    send(channel, message)
    return message
