"""Fixtures: made-up worlds, the same for all tests of a session where they are only looked at."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from world import World, make

MOVES, BACK = "2013-04-03T00:00:00Z", "2013-04-17T00:00:00Z"


@pytest.fixture
def world(tmp_path: Path, ground: str) -> Iterator[World]:
    """A world whose truth moves on 3 April and moves back on 17 April; its first version serves."""
    made = World(tmp_path / "project", make(MOVES, back_at=BACK))
    made.deploy()
    yield made
    made.close()
