"""A running control tells people what happens, once, and what happened while it was down."""

import json
from typing import Any

import pytest
import receivers
from waiting import until

from loopwright import house
from loopwright.kernel.event import EventKind
from loopwright.store import ledger
from loopwright.store.space import Space


def opened(space: Space) -> int:
    kind = EventKind("alarm.opened@1", "")
    data = {"endpoint": "tiny", "alarm": "quality", "reason": "skill fell"}
    return space.write(lambda tx: ledger.append(tx, "loop", kind, "endpoint:tiny", data))


def delivered(space: Space) -> list[int | None]:
    with space.read() as tx:
        return [event.cause for event in ledger.read(tx, kinds=["notification.delivered@1"])]


def looked(space: Space) -> bool:
    with space.read() as tx:
        return tx.value("SELECT seq FROM outbox_cursor") is not None


def test_an_alarm_reaches_its_channel_and_is_recorded(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with receivers.web() as web:
        project.tell(web, monkeypatch)
        project.start()
        space = house.open(project.folder)
        until(lambda: looked(space))
        web.answers = [(503, {}, b"busy")]
        assert project.json("notify", "ops", code=1)["code"] == "notify.later"
        assert "the channel took" in project.lw("notify", "ops")
        first = opened(space)
        until(lambda: delivered(space) == [first])
        project.stop()
        second = opened(space)
        project.start()
        until(lambda: delivered(space) == [first, second])
        space.close()
    told = [json.loads(body) for body in web.bodies if b"alarm.opened" in body]
    assert [message["id"] for message in told] == [f"ops/{first}", f"ops/{second}"]
    assert "topsecret" not in project.lw("events", "--json") + project.lw("status", "--json")
