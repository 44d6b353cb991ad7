"""Fixtures for all tests: a fresh Space on a replay clock, and one on the wall clock."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwright import house
from loopwright.kernel.settings import Settings
from loopwright.store.space import Space, bind

START = "2013-04-01T04:00:00Z"


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    """A Space that a replay drives, at 2013-04-01T04:00:00Z, bound to this process."""
    made = house.init(tmp_path / "project", Settings(clock="replay", start=START))
    bind(made)
    yield made
    bind(None)
    made.close()


@pytest.fixture
def wall_space(tmp_path: Path) -> Iterator[Space]:
    """A Space on the wall clock, bound to this process."""
    made = house.init(tmp_path / "wall project")
    bind(made)
    yield made
    bind(None)
    made.close()
