"""What is due waits for the logs of all live hosts."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

from loopwright import house
from loopwright.loop import moments
from loopwright.loop import service as loop
from loopwright.serving import watermark
from loopwright.store import clock as clocks
from loopwright.store.space import Space, bind

pytestmark = pytest.mark.parametrize("ground", ["postgres"], indirect=True)


@pytest.fixture
def second(world: World, tmp_path: Path) -> Iterator[Space]:
    """The world's Space from another host's folder."""
    (tmp_path / "second").mkdir()
    shutil.copy(world.root / "loopwright.toml", tmp_path / "second")
    made = house.open(tmp_path / "second", create=True)
    bind(world.space)
    yield made
    made.close()


def test_a_block_closes_when_every_live_host_has_sealed_what_is_older(world: World, second: Space) -> None:
    space = world.space
    for each in (space, second):
        watermark.enter(each)
        watermark.report(each, 60, -1, None)
    with space.read() as tx:
        due = next(each.at_us for each in moments.all_due(tx) if each.work == "close")
    space.write(lambda tx: clocks.advance(tx, "replay", due))
    watermark.report(space, 60, -1, None)
    assert list(loop.settle(space, world.submit)) == []
    assert len(loop.awaited(space)) == 1, "the other has not said how it stands at that moment"
    watermark.report(second, 60, -1, None)
    assert loop.awaited(space) == []
    assert "close" in [done.work for done in loop.settle(space, world.submit)]
