"""The outbox: one message an episode and its end, retried until taken, never lost, never a flood."""

from typing import Any

import pytest

from loopwright.kernel.errors import Invalid, NotFound, Unavailable
from loopwright.kernel.event import EventKind
from loopwright.kernel.settings import Channel
from loopwright.kernel.times import SECOND
from loopwright.loop import notify
from loopwright.loop.messages import Message
from loopwright.store import ledger
from loopwright.store.space import Space

OPS = Channel(kind="webhook", url_env="HOOK")
EVERYTHING = {"ops": OPS}
NOW = 1_700_000_000 * SECOND


class Wire:
    """Takes messages, or fails as told."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.fails: list[Exception] = []

    def __call__(self, channel: Channel, message: Message) -> None:
        if self.fails:
            raise self.fails.pop(0)
        self.taken.append(message)

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.taken]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(notify, "_senders", lambda kind: made)
    return made


def tell(space: Space, kind: str, *, cause: int | None = None, endpoint: str = "delay", **data: Any) -> int:
    said = {"endpoint": endpoint, "alarm": "quality", "reason": "skill 0.05", **data}
    return space.write(
        lambda tx: ledger.append(tx, "loop", EventKind(kind, ""), f"endpoint:{endpoint}", said, cause=cause)
    )


def begin(space: Space, channels: dict[str, Channel] = EVERYTHING) -> None:
    notify.turn(space, channels, NOW)


def events(space: Space) -> list[str]:
    with space.read() as tx:
        found = ledger.read(tx, kinds=["notification.delivered@1", "notification.failed@1"])
    return [f"{event.kind} {event.cause}" for event in found]


def test_what_was_before_is_history_and_an_episode_is_told_once_and_ended_once(space: Space, wire: Wire) -> None:
    tell(space, "alarm.opened@1")
    begin(space)
    broke = tell(space, "feed.broke@1", feed="weather.temp")
    alarm = tell(space, "alarm.opened@1", cause=broke, alarm="feed:weather.temp")
    assert notify.turn(space, EVERYTHING, NOW) == 1 and wire.kinds == ["feed.broke@1"]
    mended = tell(space, "feed.mended@1", cause=broke)
    tell(space, "alarm.closed@1", cause=alarm)
    tell(space, "alarm.closed@1")
    for later in range(3):
        notify.turn(space, EVERYTHING, NOW + later)
    assert wire.kinds == ["feed.broke@1", "feed.mended@1"]
    assert wire.taken[0].episode == wire.taken[1].episode == str(broke)
    assert wire.taken[1].title.startswith("resolved: delay: feed")
    assert events(space) == [f"notification.delivered@1 {broke}", f"notification.delivered@1 {mended}"]


def test_a_wire_that_fails_is_tried_again_later_and_later_and_the_end_waits(space: Space, wire: Wire) -> None:
    begin(space)
    opened = tell(space, "alarm.opened@1")
    wire.fails = [Unavailable("no answer"), Unavailable("it answered 429", retry_after_s=100)]
    assert notify.turn(space, EVERYTHING, NOW) == 0
    tell(space, "alarm.closed@1", cause=opened)
    assert notify.turn(space, EVERYTHING, NOW + 4 * SECOND) == 0 and len(wire.fails) == 1
    assert notify.turn(space, EVERYTHING, NOW + 5 * SECOND) == 0 and not wire.fails
    assert notify.turn(space, EVERYTHING, NOW + 100 * SECOND) == 0
    assert notify.turn(space, EVERYTHING, NOW + 105 * SECOND) == 1
    assert notify.turn(space, EVERYTHING, NOW + 106 * SECOND) == 1
    assert wire.kinds == ["alarm.opened@1", "alarm.closed@1"]
    with space.read() as tx:
        assert [note.attempts for note in notify.listed(tx)] == [3, 1]


def test_what_is_refused_or_never_taken_is_given_up_and_said(space: Space, wire: Wire) -> None:
    begin(space)
    tell(space, "alarm.opened@1")
    wire.fails = [Invalid("it was refused with 404")]
    notify.turn(space, EVERYTHING, NOW)
    tell(space, "training.failed@1")
    wire.fails = [Unavailable("no answer")] * 100
    now = NOW
    while wire.fails and now < NOW + 3 * 24 * 3600 * SECOND:
        notify.turn(space, EVERYTHING, now)
        now += 600 * SECOND
    with space.read() as tx:
        assert [(note.state, note.error) for note in notify.listed(tx)] == [
            ("failed", "it was refused with 404"), ("failed", "no answer"),
        ]  # fmt: skip
    assert [line.split()[0] for line in events(space)] == ["notification.failed@1"] * 2


def test_channels_get_what_they_asked_for(space: Space, wire: Wire) -> None:
    channels = {
        "board": Channel(kind="slack", url_env="B", about=("decisions",)),
        "other": Channel(kind="slack", url_env="O", endpoints=("risk",)),
        "ops": OPS,
    }
    begin(space, channels)
    tell(space, "version.promoted@1", version=2)
    tell(space, "version.rolled-back@1", endpoint="risk")
    tell(space, "block.closed@1")
    notify.turn(space, channels, NOW)
    assert sorted(message.id.partition("/")[0] + " " + message.kind for message in wire.taken) == [
        "board version.promoted@1", "ops version.rolled-back@1", "other version.rolled-back@1",
    ]  # fmt: skip


def test_a_message_whose_record_was_lost_is_sent_again_under_the_same_id(
    space: Space, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(space)
    tell(space, "alarm.opened@1")
    with monkeypatch.context() as broken:
        broken.setattr(notify, "_done", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            notify.turn(space, EVERYTHING, NOW)
    notify.turn(space, EVERYTHING, NOW)
    assert len(wire.taken) == 2 and wire.taken[0] == wire.taken[1]


def test_without_channels_nothing_is_kept_and_many_events_are_taken_up_in_turns(space: Space, wire: Wire) -> None:
    tell(space, "alarm.opened@1")
    assert notify.turn(space, {}, NOW) == 0
    with space.read() as tx:
        assert notify.listed(tx) == [] and tx.value("SELECT COUNT(*) FROM outbox_cursor") == 0
    begin(space)
    for _ in range(notify.BATCH + 5):
        tell(space, "alarm.opened@1")
    taken = sum(notify.turn(space, EVERYTHING, NOW) for _ in range(3))
    assert taken == notify.BATCH + 5 == len({message.id for message in wire.taken})


def test_a_channel_that_is_gone_or_never_was(space: Space, wire: Wire) -> None:
    begin(space)
    tell(space, "alarm.opened@1")
    notify.collect(space, EVERYTHING, NOW)
    notify.turn(space, {"new": OPS}, NOW)
    with space.read() as tx:
        assert [(note.channel, note.state) for note in notify.listed(tx)] == [("ops", "failed")]
    with pytest.raises(NotFound, match="there are: none"):
        notify.try_out(space, "ops")
