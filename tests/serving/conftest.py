"""Fixtures: a Space with two registered versions, and a worker that serves the first of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from worker_harness import Running, change, prepare

from loopwright.serving.model import Route
from loopwright.store.space import Space


@pytest.fixture
def ready(space: Space) -> Space:
    """A Space whose endpoint `delay` has version 1 live and version 2 in shadow."""
    prepare(space)
    change(space, [Route(1, 1.0, "live"), Route(2)])
    return space


@pytest.fixture
def worker(ready: Space) -> Iterator[Running]:
    """A real worker process of that Space."""
    running = Running(ready)
    yield running
    running.stop()
