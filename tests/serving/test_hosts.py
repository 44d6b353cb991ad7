"""Two folders with one database and one store, as two hosts have them: who holds what up, and who does which job."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwright import house
from loopwright.kernel.errors import Conflict, Timeout
from loopwright.kernel.settings import Settings
from loopwright.pipelines import queue
from loopwright.serving import publish, record, seal, subjects, watermark
from loopwright.serving.record import Columns, LogRow
from loopwright.serving.spool import HOSTS, SLOTS, Spool
from loopwright.store import hosts
from loopwright.store.space import Space

pytestmark = pytest.mark.parametrize("ground", ["postgres"], indirect=True)


@pytest.fixture
def second(space: Space, tmp_path: Path) -> Iterator[Space]:
    """The same Space from another host's folder."""
    made = house.init(tmp_path / "second", Settings(clock="replay", start=space.settings.start))
    yield made
    made.close()


def awaited(space: Space, moment_us: int) -> list[str]:
    with space.read() as tx:
        return watermark.awaited(tx, moment_us)


def put(space: Space, at_us: int) -> Spool:
    """A row in an open spool of a host, as its worker puts it there."""
    spool = Spool(space.home, "delay", watermark.enter(space) * SLOTS, lambda work: work())
    prediction = spool.next_id(at_us)
    row = LogRow(prediction, at_us, at_us, prediction, 1, 1, None, [1.0], {1: 0.5}, {}, {1: 10})
    spool.append(Columns(("x",), ("float64",)), [row])
    return spool


def test_a_moment_waits_until_each_live_host_has_sealed_what_is_older(space: Space, second: Space) -> None:
    now = space.clock.now_us()
    watermark.report(space, 60, -1, None)
    assert awaited(space, now) == [], "one host alone reads its own spools"
    spool = put(second, now - 5)
    watermark.report(second, 60, -1, None)
    assert len(awaited(space, now)) == 1 and awaited(space, now - 5) == []
    assert len(awaited(space, now + 1)) == 2, "neither has told how it stands at that moment"
    spool.rotate()
    seal.seal(second)
    watermark.report(second, 60, -1, None)
    assert awaited(space, now) == []
    put(second, now - 5).rotate()
    watermark.report(second, 0, -1, None)
    assert awaited(space, now) == [], "who went silent is left out"
    with space.read() as tx:
        assert [(host.number, host.live) for host in watermark.hosts(tx)] == [(0, True), (1, False)]


def test_no_two_hosts_make_the_same_id(space: Space, second: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwright.serving.spool.machine_us", lambda: 1_000_000)
    names = {put(one, space.clock.now_us()).next_id(0) for one in (space, second)}
    assert len(names) == 2
    assert {record.opened_us(str(record.spool_of(name))) for name in names} == {1_000_000}


def test_there_are_as_many_hosts_as_numbers_and_one_long_gone_makes_room(space: Space) -> None:
    def enter(name: str) -> int:
        return space.write(lambda tx: watermark._enter(tx, name))

    assert [enter(f"host {place}") for place in range(HOSTS)] == list(range(HOSTS))
    assert enter("host 3") == 3
    with pytest.raises(Conflict) as caught:
        enter("one too many")
    assert caught.value.code == "hosts.full"
    space.write(lambda tx: tx.execute("UPDATE hosts SET until_us = 1 WHERE number = 5"))
    assert enter("one too many") == 5


def test_hosts_without_a_common_store_do_not_serve_together(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watermark.enter(space)
    watermark.report(space, 60, -1, None)
    monkeypatch.delenv("LOOPWRIGHT_BLOBS")
    monkeypatch.delenv("LOOPWRIGHT_BLOBS_ENDPOINT")
    alone = house.init(tmp_path / "alone", Settings(clock="replay", start=space.settings.start))
    with pytest.raises(Conflict) as caught:
        watermark.enter(alone)
    assert caught.value.code == "hosts.blobs"
    watermark.report(space, 0, -1, None)
    assert watermark.enter(alone) == 1
    alone.close()


def test_a_copied_folder_is_another_host(space: Space, tmp_path: Path) -> None:
    assert hosts.identity(space.home) == space.host == hosts.identity(space.home)
    shutil.copytree(space.home, tmp_path / "copy")
    other = hosts.identity(tmp_path / "copy")
    assert other != space.host and hosts.identity(tmp_path / "copy") == other


def test_a_command_waits_for_the_workers_of_all_live_hosts(space: Space, second: Space) -> None:
    watermark.report(second, 60, 3, 5)
    assert publish.wait_applied(space, 3, 1.0, clock_us=5) == 0
    with pytest.raises(Timeout, match="host"):
        publish.wait_applied(space, 4, 0.2)
    with pytest.raises(Timeout, match="host"):
        publish.wait_applied(space, 3, 0.2, clock_us=6)
    watermark.report(second, 0, 3, 5)
    assert publish.wait_applied(space, 4, 1.0) == 0, "a host that has gone is not waited for"


def test_a_host_does_its_own_jobs_and_those_of_any(space: Space, second: Space) -> None:
    space.write(lambda tx: queue.enqueue(tx, "theirs", "serving.seal", {}, host=second.host))
    assert queue.claim(space) is None
    mine = queue.claim(second)
    assert mine is not None and mine.action_id == "theirs"
    space.write(lambda tx: queue.enqueue(tx, "any", "serving.seal", {}))
    assert queue.claim(space) is not None
    assert queue.requeue_running(space, runner=second.host) == [mine.id], "the dead host's, not one's own"
    again = queue.claim(second)
    assert again is not None and again.attempt == 2
    with pytest.raises(Conflict):
        queue.finish(second, mine, {})


def test_jobs_of_hosts_that_are_no_more_are_anyones(space: Space, second: Space) -> None:
    for action in ("waits", "was running"):
        space.write(lambda tx, a=action: queue.enqueue(tx, a, "serving.seal", {}, host=second.host))
    cut = queue.claim(second)
    assert cut is not None and queue.claim(space) is None
    queue.forsake(space, [space.host, second.host])
    assert queue.claim(space) is None, "the other is there yet"
    queue.forsake(space, [space.host])
    taken = [queue.claim(space), queue.claim(space)]
    assert sorted(job.action_id for job in taken if job) == ["waits", "was running"]


def test_a_moved_project_brings_its_key(space: Space, second: Space) -> None:
    path = space.home / "keys" / "subject"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"k" * 32)
    assert subjects.key_path(space).read_bytes() == subjects.key_path(second).read_bytes() == b"k" * 32


def test_hosts_hash_a_person_to_the_same(space: Space, second: Space) -> None:
    one, two = (subjects.key_path(each) for each in (space, second))
    assert one != two and one.read_bytes() == two.read_bytes() and len(one.read_bytes()) == 32
