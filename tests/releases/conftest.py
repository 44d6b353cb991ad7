"""The made-up world of the loop's tests, for gates and permits."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "loop"))

from world import World, make


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[World]:
    """A project whose first model is trained and not yet served."""
    import loopwright as lw

    made = World(tmp_path / "project", make("2013-04-03T00:00:00Z"))
    lw.run(made.module.train)
    yield made
    made.close()
