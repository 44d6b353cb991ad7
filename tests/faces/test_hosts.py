"""Two controls with one database: one leads, the other waits and takes over; the first is fenced off then."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

from loopwright import house
from loopwright.faces import hosts
from loopwright.faces.hosts import Hosts
from loopwright.kernel.errors import Conflict
from loopwright.kernel.settings import Settings
from loopwright.serving import publish, watermark
from loopwright.store import leases
from loopwright.store.space import Space


@pytest.fixture
def second(space: Space, tmp_path: Path) -> Iterator[Space]:
    """The same Space from another host's folder."""
    made = house.init(tmp_path / "second", Settings(clock="replay", start=space.settings.start))
    yield made
    made.close()


def test_a_space_of_its_own_is_led_at_once_and_an_earlier_control_is_fenced_off(space: Space) -> None:
    before, after = Hosts(space), Hosts(space)
    before.start()
    assert before.leads
    earlier = before.fence()
    space.write(earlier)
    after.start()
    assert after.leads
    space.write(after.fence())
    with pytest.raises(Conflict):
        space.write(earlier)
    before.stop()
    after.stop()
    assert not after.leads


@pytest.mark.parametrize("ground", ["postgres"], indirect=True)
def test_the_next_leads_when_the_first_stops(space: Space, second: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "RENEW_S", 0.1)
    for each in (space, second):
        watermark.enter(each)
    first, other = Hosts(space), Hosts(second)
    first.start()
    other.start()
    assert first.leads and not other.leads
    with pytest.raises(Conflict):
        second.write(other.fence())
    first.stop()
    until(lambda: other.leads)
    second.write(other.fence())
    with pytest.raises(Conflict):
        space.write(first.fence())
    other.stop()
    with space.read() as tx:
        assert [host.live for host in watermark.hosts(tx)] == [False, False]


@pytest.mark.parametrize("ground", ["postgres"], indirect=True)
def test_the_next_leads_when_the_first_is_silent(space: Space, second: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "RENEW_S", 0.1)
    monkeypatch.setattr(hosts, "TTL_S", 0.5)
    first, other = Hosts(space), Hosts(second)
    first.start()
    first._stopping.set()  # it reports and renews no more, as if its process had been stopped
    first._thread.join()
    other.start()
    until(lambda: other.leads)
    assert first.leads, "it does not know yet"
    with pytest.raises(Conflict) as caught, space.guarded(first.fence()):
        space.write(lambda tx: tx.execute("DELETE FROM leases"))
    assert caught.value.code == "lease.lost"
    other.stop()
    first.stop()


@pytest.mark.parametrize("ground", ["postgres"], indirect=True)
def test_what_was_begun_under_a_lease_is_not_ended_under_the_next(space: Space, second: Space) -> None:
    for each in (space, second):
        watermark.enter(each)
    first = Hosts(space)
    first.start()
    fence = first.fence()
    space.write(fence)
    lease = first._lease
    assert lease is not None
    leases.release(space, lease)
    between = leases.take(second, hosts.LEASE, second.host, 60)
    assert between is not None
    leases.release(second, between)
    first._lease = leases.take(space, hosts.LEASE, space.host, 60, anew=True)
    space.write(first.fence())
    with pytest.raises(Conflict):
        space.write(fence)
    first.stop()


@pytest.mark.parametrize("ground", ["postgres"], indirect=True)
def test_a_host_whose_workers_answer_yet_is_waited_for(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    watermark.enter(space)
    monkeypatch.setattr(publish, "workers", lambda space: [object()])
    one = Hosts(space)
    one.start()
    one._stopping.set()
    one._thread.join()
    watermark.report(space, 60, -1, None)
    one.stop()
    with space.read() as tx:
        assert [host.live for host in watermark.hosts(tx)] == [True]
