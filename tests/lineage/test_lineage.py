"""events, show and log on a small Space."""

from typing import Any

import pytest

from loopwright import house
from loopwright.artifacts import names, service
from loopwright.kernel.errors import Invalid, NotFound
from loopwright.kernel.event import EventKind, sentence
from loopwright.lineage.events import events
from loopwright.lineage.model import Line, Stable
from loopwright.lineage.show import log, show
from loopwright.lineage.trace import trace
from loopwright.store import ledger
from loopwright.store.database import Tx
from loopwright.store.space import Space

ME = "local:me"


def _register(space: Space, name: str, text: bytes) -> None:
    artifact = service.put_blob(space, text, kind="data", meta={"rows": 1})
    space.write(lambda tx: names.register(tx, ME, name, artifact))


def _append(space: Space, kind: str, data: dict[str, Any]) -> int:
    def fn(tx: Tx) -> int:
        return ledger.append(tx, "loop", house.events()[kind], "endpoint:delay", data)

    return space.write(fn)


def test_decisions_in_stable_form_hold_nothing_that_differs_between_equal_replays(space: Space) -> None:
    _register(space, "flights", b"a")
    data = {"model": "delay", "version": 2, "replaced": 1, "verdict": "pass", "reason": "took 3 ms", "id": "x"}
    _append(space, "version.promoted@1", data)
    found = events(space, ME, kind="decision", stable=True)
    assert [type(item) for item in found] == [Stable]
    stable = found[0]
    assert isinstance(stable, Stable) and stable.at == "2013-04-01T04:00:00Z"
    assert stable.data == {"subject": "endpoint:delay", "version": 2, "replaced": 1, "verdict": "pass"}


def test_every_event_is_listed_page_by_page_with_its_sentence(space: Space) -> None:
    for number in range(1203):
        _append(space, "version.promoted@1", {"version": number})
    found = events(space, ME, limit=0)
    assert len(found) == 1203 and all(isinstance(item, Line) for item in found)
    assert len(events(space, ME, limit=7)) == 7
    assert len(events(space, ME)) == 1000 and len(events(space, ME, stable=True)) == 1203
    assert [item.seq for item in events(space, ME, after=1200, limit=0) if isinstance(item, Line)] == [1201, 1202, 1203]


def test_each_field_of_each_sentence_is_in_the_data_or_shown_as_missing() -> None:
    for kind in house.events().values():
        assert isinstance(kind, EventKind)
        assert kind.name.endswith("@1") and "." in kind.name
        sample = ledger.Event(seq=1, at_us=0, known_at_us=0, actor="a", kind=kind.name, subject="s", data={})
        assert sentence(kind, sample)


def test_show_and_log_take_any_address_and_refuse_what_is_none(space: Space) -> None:
    _register(space, "flights", b"a")
    _register(space, "flights", b"b")
    assert [item.ref for item in show(space, ME)] == ["flights@2"]
    assert show(space, ME, ref="flights@1")[0].facts["rows"] == 1
    assert show(space, ME, ref="flights~1")[0].ref == "flights@1"
    assert show(space, ME, ref="event:1")[0].facts["kind"] == "version.registered@1"
    assert [line.subject for line in log(space, ME, ref="flights")] == ["flights@2", "flights@1"]
    assert [line.subject for line in log(space, ME, ref="flights@1")] == ["flights@1"]
    assert len(log(space, ME, limit=1)) == 1
    for ref in ("nothing", "flights@9", "run_" + "0" * 26, "event:99"):
        with pytest.raises(NotFound):
            show(space, ME, ref=ref)
    for ref in ("event:x", "../etc", ""):
        with pytest.raises((Invalid, NotFound)):
            show(space, ME, ref=ref)
    with pytest.raises(NotFound):
        trace(space, ME, prediction="pred_none")


@pytest.mark.parametrize("limit", [0, -1, -(2**63), 2**63 - 1])
def test_a_log_has_a_length(space: Space, limit: int) -> None:
    with pytest.raises(Invalid) as caught:
        log(space, ME, limit=limit)
    assert caught.value.field == "limit"
    if limit < 0:
        with pytest.raises(Invalid):
            events(space, ME, limit=limit)
