"""In the middle of its life a project keeps what it needs in a cleaning, and on another ground it lives on alike."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grounds import shared_ground
from world import World, make

from loopwright import house
from loopwright.artifacts.fsck import fsck
from loopwright.artifacts.gc import gc
from loopwright.artifacts.reach import Reach
from loopwright.project.backup import backup
from loopwright.project.restore import Ground, Restore, pick
from loopwright.store import space as spaces
from loopwright.store.roots import all_roots

ME = "local:me"
# what holds digests of blobs that need not be kept for it: facts of the past, and a cache that is asked again
HISTORY = {"events", "data_stats"}


@pytest.fixture
def midlife(tmp_path: Path) -> Iterator[World]:
    """A world with a champion, a challenger and days of traffic behind it."""
    made = World(tmp_path / "project", make("2013-04-03T00:00:00Z", back_at="2013-04-17T00:00:00Z"))
    made.deploy()
    made.run("2013-04-07T00:00:00Z")
    yield made
    made.close()


def test_every_blob_that_a_table_names_has_a_root_and_no_cleaning_takes_it(midlife: World) -> None:
    space, reach = midlife.space, Reach(midlife.space)
    digest = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
    named: dict[str, str] = {}
    with space.read() as tx:
        reach.add(tx, all_roots(space, tx))
        for table in tx.tables():
            if table not in {*HISTORY, "artifacts", "condemned"}:
                for row in tx.query(f"SELECT * FROM {table}"):
                    for value in row:
                        named.update(dict.fromkeys(digest.findall(value), table) if isinstance(value, str) else {})
    blobs = set(space.blobs.all())
    assert len(blobs & set(named)) > 12
    assert {named[d] for d in blobs & set(named) if d not in reach.held} == set()
    before = len(blobs)
    report = gc(space, ME, grace="0s", alone=True)
    assert [item for item in report.removed if item.what == "blob"] == [] and report.blobs == before
    assert {"log", "project", "run", "version"} & set(report.kept) >= {"log", "run"}
    assert fsck(space, ME).ok
    midlife.run("2013-04-07T12:00:00Z")


def test_a_project_that_moved_lives_on_alike(
    midlife: World, tmp_path: Path, session_servers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = {"store": spaces.MIGRATIONS, **house.migrations()}
    with shared_ground(session_servers, monkeypatch) as ground:
        for source, into, where in ((midlife.root, "far", ground), (tmp_path / "far", "home", Ground())):
            space = house.open(source)
            report = backup(space, ME, folder=tmp_path / "kept" / into)
            space.close()
            assert report.ok
            Restore(pick(tmp_path / "kept" / into), tmp_path / into, where, rooms).run(house.open)
        decided = []
        for root in (midlife.root, tmp_path / "far", tmp_path / "home"):
            midlife.close()
            lives = World.reopen(root, midlife.asks)
            lives._write_project(0.6, "")  # the data files, which are no code and so in no backup
            lives.run("2013-04-08T12:00:00Z")
            assert fsck(lives.space, ME).ok
            decided.append(lives.decisions())
            lives.close()
    assert decided[0] == decided[1] == decided[2]
    assert "challenger.trained@1" in [line["kind"] for line in decided[0] if str(line["at"]) > "2013-04-07"]
